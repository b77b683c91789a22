"""Whether "good" images can be trusted: each is scored by a model that never saw it, and its looks measured.

A defect among the training images hides itself, as the model learns it. So the images are cut into folds,
and each fold is scored by a model of the others. Near-copies stay in one fold: a twin would hide a defect.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from blemish.core.errors import DataError, UsageError
from blemish.core.files import write_whole
from blemish.core.ownership import owned
from blemish.core.seeds import check_seed
from blemish.evaluation.looks import Copy, Looks, find_copies, group_copies, likeness, look_at, modified_z
from blemish.evaluation.pictures import name_of_sample, overlay_name, predict_and_draw, thumbnail_name
from blemish.inference.calibration import calibrate
from blemish.inference.detector import default_rate
from blemish.methods.registry import method_named
from blemish.report.html import require_packages
from blemish.training.fit import fit

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from blemish.core.types import Sample
    from blemish.data.dataset import Dataset

SUSPECT = 3.5
"""A modified z-score beyond this makes a suspect; the cutoff of Iglewicz and Hoaglin 1993."""
LEAST_EXPOSURE, LEAST_SHARPNESS = 0.001, 0.01
"""Differences that nobody sees, in the units of `Looks`: what varies less is taken to vary so much (ours)."""
ALIKE, OTHER = 0.8, 0.5
"""Where the median likeness is `ALIKE` or more, below `OTHER` of it may be another product: ours, as good
magnetic tiles, whose median is 0.6, were called so at 0.5, and no good bottle or pill was."""
FEWEST = 10
"""The fewest images to audit: with fewer, there is no telling what is usual (our choice)."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What was found of one image.

    `score` is that of a model that did not learn the image, unbounded. `score_z`, `exposure_z` and
    `sharpness_z` say how far the image is from the median of all, as modified z-scores; `suspicion` is the
    largest of `score_z` and the sizes of the others. `exposure` is the mean grey, as a share of the largest
    value that the images have, 255 for 8 bits. `likeness` is that of `looks.likeness`. `reasons` name
    what lies beyond `SUSPECT`, and what may be another product; none for an image that is not suspected.
    `overlay` and `thumbnail` are paths relative to the page.
    """

    path: str
    split: str
    fold: int
    score: float
    score_z: float
    exposure: float
    exposure_z: float
    sharpness: float
    sharpness_z: float
    likeness: float
    suspicion: float
    reasons: list[str]
    overlay: str
    thumbnail: str


@dataclass(frozen=True, kw_only=True)
class Audit:
    """All findings, the most suspicious first, the near-copies, and what would change without the suspects.

    The thresholds are those of the scores at `false_alarm_rate`: of all images, and without the suspects; the
    latter is None where so few are left that the rate cannot be promised.
    """

    method: str
    folds: int
    seed: int
    false_alarm_rate: float
    findings: list[Finding]
    copies: list[Copy]
    threshold: float
    threshold_without_suspects: float | None

    @property
    def suspects(self) -> list[Finding]:
        """The findings that have a reason."""
        return [finding for finding in self.findings if finding.reasons]


def audit(
    dataset: Dataset,
    out: Path,
    *,
    method: str = "filters",
    folds: int = 5,
    seed: int = 0,
    device: str = "auto",
    false_alarm_rate: float | None = None,
    on_image: Callable[[], None] = lambda: None,
) -> Audit:
    """Audit the training and calibration images, and write audit.json, audit.html and pictures below `out`.

    `on_image` is called for each image that was scored. Raises DataError with fewer than `FEWEST` images,
    UsageError for fewer than 2 folds, a seed below 0, a rate that so many images cannot promise, without the
    packages of `blemish[report]`, or when another process writes `out`, and as `fit`.
    """
    from blemish.report.audit import PACKAGES, write_audit

    require_packages(*PACKAGES)
    samples = [*dataset.train, *dataset.calibration]
    if len(samples) < FEWEST:
        raise DataError(f"{dataset.root}: {len(samples)} good images; an audit needs {FEWEST} or more")
    check_folds(folds)
    check_seed(seed, "--seed")
    method_named(method)
    rate = default_rate(1 / (len(samples) + 1)) if false_alarm_rate is None else false_alarm_rate
    calibrate(*np.zeros((2, len(samples)))).threshold(rate)  # which refuses a rate that they cannot promise
    with owned(out):
        looks = [look_at(sample.path) for sample in samples]
        names = [name_of_sample(sample, dataset) for sample in samples]
        copies = find_copies(looks, names, [sample.split for sample in samples])
        fold = assign_folds(group_copies(names, copies), folds, seed)
        scores = _cross_fit(dataset, samples, fold, out, method, seed, device, on_image)
        findings = _findings(samples, names, looks, fold, scores)
        threshold, without_suspects = _thresholds(findings, rate)
        found = Audit(
            method=method,
            folds=int(fold.max()) + 1,
            seed=seed,
            false_alarm_rate=rate,
            findings=sorted(findings, key=lambda f: (-f.suspicion, f.path)),
            copies=copies,
            threshold=threshold,
            threshold_without_suspects=without_suspects,
        )
        write_whole(out / "audit.json", json.dumps(content_of(found), indent=2) + "\n")
        write_audit(out, content_of(found), title=f"{dataset.name}: audit of the good images")
    return found


def content_of(found: Audit) -> dict[str, Any]:
    """Return what audit.json has."""
    content = asdict(found)
    return {"images": len(found.findings), "suspects": len(found.suspects)} | content


def check_folds(folds: int) -> None:
    """Refuse fewer than 2 folds. Raises UsageError."""
    if folds < 2:
        raise UsageError(f"--folds {folds}: must be 2 or larger, so that others can judge each image")


def assign_folds(groups: list[list[int]], folds: int, seed: int) -> np.ndarray:
    """Give each of n images a fold, int (n,): groups stay whole, the folds are as even as they allow.

    Drawn by numpy's PCG64. Raises UsageError for fewer than 2 folds, DataError for fewer groups than folds.
    """
    check_folds(folds)
    if len(groups) < folds:
        raise DataError(f"{len(groups)} different images for {folds} folds; give more images, or fewer folds")
    rng = np.random.Generator(np.random.PCG64(seed))
    fold = np.empty(sum(map(len, groups)), dtype=np.int64)
    sizes = np.zeros(folds, dtype=np.int64)
    for i in sorted(rng.permutation(len(groups)).tolist(), key=lambda i: -len(groups[i])):
        smallest = int(np.argmin(sizes))
        fold[groups[i]] = smallest
        sizes[smallest] += len(groups[i])
    return fold


def _cross_fit(
    dataset: Dataset,
    samples: list[Sample],
    fold: np.ndarray,
    out: Path,
    method: str,
    seed: int,
    device: str,
    on_image: Callable[[], None],
) -> np.ndarray:
    """Score each image by a model of the other folds, (n,), and draw its map over it."""
    scores = np.empty(len(samples))
    for k in range(int(fold.max()) + 1):
        others = [replace(samples[i], split="train") for i in np.flatnonzero(fold != k)]
        held_out = [replace(samples[i], split="test") for i in np.flatnonzero(fold == k)]
        part = replace(dataset, train=others, calibration=[], test=held_out, has_masks=False)
        detector = fit(part, method=method, seed=seed, device=device)
        for i, (_, prediction, _) in zip(
            np.flatnonzero(fold == k),
            predict_and_draw(detector.for_samples(held_out), part, out),
            strict=True,
        ):
            scores[i] = prediction.score
            on_image()
    return scores


def _thresholds(findings: list[Finding], rate: float) -> tuple[float, float | None]:
    """Return the threshold of all scores, and that without the suspects: None where too few are left."""
    scores = np.array([f.score for f in findings])
    kept = np.array([f.score for f in findings if not f.reasons])
    without = calibrate(kept, kept).threshold(rate) if rate >= 1 / (len(kept) + 1) else None
    return calibrate(scores, scores).threshold(rate), without


def _findings(
    samples: list[Sample], names: list[str], looks: list[Looks], fold: np.ndarray, scores: np.ndarray
) -> list[Finding]:
    """Say of each image how far it is from the others."""
    # 12 bits in a file of 16 would use a sixteenth of the scale: it ends at the largest value of all images
    peak = max(*(x.peak for x in looks), 1e-12)
    exposure, sharpness = np.array([x.exposure for x in looks]) / peak, np.array([x.sharpness for x in looks])
    z = {
        "score": modified_z(scores, 1e-6 * float(np.abs(scores).max() + 1e-6)),
        "exposure": modified_z(exposure, LEAST_EXPOSURE),
        "sharpness": modified_z(sharpness, LEAST_SHARPNESS),
    }
    alike = likeness(looks)

    def finding(i: int) -> Finding:
        own = {name: float(values[i]) for name, values in z.items()}
        other = ["perhaps another product"] if _is_other(float(alike[i]), alike) else []
        return Finding(
            path=names[i],
            split=samples[i].split,
            fold=int(fold[i]),
            score=float(scores[i]),
            score_z=own["score"],
            exposure=float(exposure[i]),
            exposure_z=own["exposure"],
            sharpness=float(sharpness[i]),
            sharpness_z=own["sharpness"],
            likeness=float(alike[i]),
            suspicion=max(own["score"], abs(own["exposure"]), abs(own["sharpness"])),
            reasons=_reasons(own) + other,
            overlay=overlay_name(names[i]),
            thumbnail=thumbnail_name(names[i]),
        )

    return [finding(i) for i in range(len(samples))]


def _is_other(own: float, alike: np.ndarray) -> bool:
    """Whether an image shows something else than the others, where these are alike enough to tell."""
    usual = float(np.median(alike))
    return usual >= ALIKE and own < OTHER * usual


def _reasons(z: dict[str, float]) -> list[str]:
    """Say in plain words what is beyond `SUSPECT`."""
    said = {
        "unlike the others": z["score"] > SUSPECT,
        "brighter than the others": z["exposure"] > SUSPECT,
        "darker than the others": z["exposure"] < -SUSPECT,
        "sharper than the others": z["sharpness"] > SUSPECT,
        "less sharp than the others": z["sharpness"] < -SUSPECT,
    }
    return [reason for reason, is_so in said.items() if is_so]
