"""Runs side by side: is one better than the other, and on which images do they disagree?

All runs have scored the same images, so the tests are paired: DeLong's for the image AUROC, a bootstrap over
images for measures of the maps.
"""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from blemish.core.errors import DataError, UsageError
from blemish.core.files import write_whole
from blemish.core.ownership import owned
from blemish.core.spreadsheet import text_of
from blemish.core.types import GOOD
from blemish.evaluation.evaluate import PIXELS_NAME
from blemish.evaluation.localisation import LIMIT
from blemish.evaluation.pictures import overlay_name, thumbnail_name
from blemish.evaluation.products import PRODUCTS_FOLDER, PRODUCTS_NAME
from blemish.metrics.confidence import Comparison, delong
from blemish.metrics.resampler import PixelResampler, paired_bootstrap
from blemish.report.html import MEASURES, require_packages, write_page

if TYPE_CHECKING:
    from collections.abc import Sequence

SHOWN = 60
"""Images on the page at most, those that the runs rank most differently. Our choice: one sitting."""
KEYS = ("method", "preset", "dataset", "test_fingerprint")
PIXEL_MEASURES = {"pixel_auroc": "auroc", "pixel_auroc_fpr30": "limited", "aupro_fpr30": "pro"}
"""Measures of the maps that can be compared, by their names among the `PixelMeasures`."""
TESTS = ("DeLong's test, two-sided", "bootstrap over images, 1,000 resamples, two-sided")
"""Of images' scores, and of maps; both paired."""
ALPHA = 0.05
"""A p-value up to this is called a difference. Our choice, the usual one."""


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """A run's evaluation: its name, its folder, evaluation.json, and score and label by image."""

    name: str
    folder: Path
    evaluation: dict[str, Any]
    scores: dict[str, float]
    labels: dict[str, str]

    def ranks(self) -> dict[str, float]:
        """Return the share of the other images that score lower, in [0, 1], ties halved."""
        values = np.sort(list(self.scores.values()))
        left, right = (
            np.searchsorted(values, list(self.scores.values()), side) for side in ("left", "right")
        )
        middle = (left + right - 1) / 2 / max(1, len(values) - 1)
        return dict(zip(self.scores, middle.tolist(), strict=True))


@dataclass(frozen=True, kw_only=True)
class Shown:
    """An image of the page: what each run said, and its rank among that run's images."""

    name: str
    label: str
    thumbnail: str
    overlays: list[str]
    scores: list[float]
    ranks: list[float]


def compare(runs: Sequence[Path], out: Path, *, measure: str = "image_auroc") -> dict[str, Any]:
    """Compare the evaluations of two or more runs; writes comparison.json and comparison.html into `out`.

    A run is a run folder that was evaluated, or an evaluation's folder. `measure` is what is tested,
    image_auroc or one of the `PIXEL_MEASURES`. Returns comparison.json's content. Raises UsageError for fewer
    than two runs and without the packages of `blemish[report]`; DataError for one that was not evaluated, not
    on the same images, or without masks where maps are to be compared.
    """
    require_packages("jinja2")
    if len(runs) < 2:
        raise UsageError(f"{len(runs)} run: a comparison needs two at least; name the others too")
    evaluated = [read_evaluation(run) for run in runs]
    for other in evaluated[1:]:
        _check_same(evaluated[0], other)
    evaluated = _with_short_names(evaluated)
    tests = pairwise(evaluated, measure)
    comparison = {
        "runs": [{"run": e.name, "evaluation": str(e.folder), **e.evaluation} for e in evaluated],
        "measure": measure,
        "test": TESTS[measure in PIXEL_MEASURES],
        "pairs": [
            {
                "runs": [a.name, b.name],
                **_numbers(test),
                "verdict": describe_difference(a.name, b.name, test, measure),
            }
            for a, b, test in tests
        ],
    }
    with owned(out):
        _write_comparison(comparison, evaluated, out)
    return comparison


def _write_comparison(comparison: dict[str, Any], evaluated: list[Evaluated], out: Path) -> None:
    shown = [_shown(name, evaluated, out) for name in _most_different(evaluated)]
    write_whole(out / "comparison.json", json.dumps(comparison, indent=2) + "\n")
    content = {
        "title": f"{evaluated[0].evaluation['dataset']}: {len(evaluated)} runs compared",
        "sentence": " ".join(pair["verdict"] for pair in comparison["pairs"]),
        "comparison": comparison,
        "measures": MEASURES,
        "images": shown,
        "total": len(evaluated[0].scores),
    }
    write_page(out / "comparison.html", "comparison", content)


def read_evaluation(run: Path) -> Evaluated:
    """Read what `blemish evaluate` wrote. Raises DataError where there is nothing, or of an older blemish."""
    folder = run / "evaluation" if (run / "evaluation").is_dir() else run
    try:
        evaluation = json.loads((folder / "evaluation.json").read_text())
        with (folder / "scores.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            rows = list(csv.DictReader(file))
        return Evaluated(
            name=str(run),
            folder=folder,
            evaluation={key: evaluation[key] for key in (*KEYS, *MEASURES)},
            scores={text_of(row["path"]): float(row["score"]) for row in rows},
            labels={text_of(row["path"]): text_of(row["label"]) for row in rows},
        )
    except FileNotFoundError as error:
        if (folder / PRODUCTS_NAME).is_file():
            one = folder / PRODUCTS_FOLDER / "NAME"
            raise DataError(
                f"{run}: was evaluated on several products; compare one of them: {one}"
            ) from error
        raise DataError(
            f"{run}: was not evaluated; run `blemish evaluate --model {run} --data ...`"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder}: not an evaluation of this blemish ({error}); evaluate again") from error


def _with_short_names(evaluated: Sequence[Evaluated]) -> list[Evaluated]:
    """Name the runs by what differs: their paths below the deepest folder that they share."""
    parts = [Path(e.name).resolve().parts for e in evaluated]
    shared = next((i for i, names in enumerate(zip(*parts, strict=False)) if len(set(names)) > 1), 0)
    short = ["/".join(p[shared:]) for p in parts]
    if len(set(short)) < len(short) or not all(short):  # the same run twice, or one inside another
        return list(evaluated)
    return [replace(e, name=name) for e, name in zip(evaluated, short, strict=True)]


def _check_same(one: Evaluated, other: Evaluated) -> None:
    """Refuse evaluations of different images: a paired test of them means nothing."""
    for a, b in ((one, other), (other, one)):
        sets = f"{b.evaluation['dataset']} and {a.evaluation['dataset']}"
        for name, label in a.labels.items():
            if b.labels.get(name) != label:
                raise DataError(
                    f"{b.name}: did not score {name} ({label}), which {a.name} did; evaluated on {sets}: "
                    "compare runs on the same test images"
                )
    if one.evaluation["test_fingerprint"] != other.evaluation["test_fingerprint"]:
        raise DataError(
            f"{other.name}: evaluated on other test images ({other.evaluation['dataset']}) than {one.name} "
            f"({one.evaluation['dataset']}), though they bear the same names: compare runs on the same ones"
        )


def pairwise(
    evaluated: Sequence[Evaluated], measure: str = "image_auroc"
) -> list[tuple[Evaluated, Evaluated, Comparison]]:
    """Test each pair of runs for a difference: DeLong's test for image AUROC, else a paired bootstrap."""
    if measure in PIXEL_MEASURES:
        for other in evaluated[1:]:
            if list(other.scores) != list(evaluated[0].scores):
                raise DataError(f"{other.name}: its images are in another order; evaluate again")
        pixels = {e.name: _pixels(e) for e in evaluated}
        of = cast("Literal['auroc', 'limited', 'pro']", PIXEL_MEASURES[measure])
        return [
            (a, b, paired_bootstrap(pixels[a.name], pixels[b.name], of, LIMIT))
            for a, b in combinations(evaluated, 2)
        ]
    names = list(evaluated[0].scores)
    defective = np.array([evaluated[0].labels[name] != GOOD for name in names])
    values = {e.name: np.array([e.scores[name] for name in names]) for e in evaluated}
    return [(a, b, delong(values[a.name], values[b.name], defective)) for a, b in combinations(evaluated, 2)]


def _pixels(one: Evaluated) -> PixelResampler:
    if one.evaluation["pixel_auroc"] is None:
        raise DataError(
            f"{one.name}: was evaluated without masks (or makes no maps), so its maps were not measured; "
            "compare by image_auroc, or add ground truth and evaluate again"
        )
    try:
        return PixelResampler.load(one.folder / PIXELS_NAME)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{one.folder / PIXELS_NAME}: cannot be read ({error}); evaluate again") from error


def _numbers(test: Comparison) -> dict[str, float | None]:
    """Return a test's numbers without z, which may be infinite: JSON has no word for it."""
    return {name: value for name, value in asdict(test).items() if name != "z"}


def describe_difference(a: str, b: str, test: Comparison, measure: str = "image_auroc") -> str:
    """Say the outcome of a test in a sentence."""
    if test.p is None:
        return (
            f"{a} and {b} differ by {abs(test.difference):.3f} of {MEASURES[measure]}; on these images the "
            "test has no variance to judge that by, so there is no p-value."
        )
    numbers = f"by {abs(test.difference):.3f} of {MEASURES[measure]} (p = {test.p:.2g})"
    if test.p > ALPHA:
        return f"{a} and {b} cannot be told apart: they differ {numbers}."
    better, worse = (a, b) if test.difference > 0 else (b, a)
    return f"{better} is better than {worse} {numbers}."


def _most_different(evaluated: Sequence[Evaluated]) -> list[str]:
    """Choose the images whose ranks differ most between the runs, the largest difference first."""
    ranks = [e.ranks() for e in evaluated]

    def spread(name: str) -> float:
        return max(r[name] for r in ranks) - min(r[name] for r in ranks)

    return sorted(evaluated[0].scores, key=lambda name: (-spread(name), name))[:SHOWN]


def _shown(name: str, evaluated: Sequence[Evaluated], out: Path) -> Shown:
    """Copy an image's thumbnail and overlays beside the page, so that it can be moved."""
    thumbnail = f"pictures/image/{thumbnail_name(name)}"
    overlays = [f"pictures/{i}/{overlay_name(name)}" for i in range(len(evaluated))]
    _copy(evaluated[0].folder / thumbnail_name(name), out / thumbnail)
    for e, overlay in zip(evaluated, overlays, strict=True):
        _copy(e.folder / overlay_name(name), out / overlay)
    return Shown(
        name=name,
        label=evaluated[0].labels[name],
        thumbnail=thumbnail,
        overlays=overlays,
        scores=[e.scores[name] for e in evaluated],
        ranks=[e.ranks()[name] for e in evaluated],
    )


def _copy(source: Path, target: Path) -> None:
    if not source.exists():
        raise DataError(f"{source}: is missing; evaluate again")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
