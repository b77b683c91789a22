"""Choosing a method without defects: who sees best what is planted into good images?

    (1)  goodness = (1 - w) g_planted + w g_known, and more for several methods, see `SECOND`
         g = (image AUROC + pixel AUROC) / 2 of planted or of known defects, w = k / (k + `TRUSTED`)

Each candidate learns from good images, and scores other good images and copies of them with planted defects.
The kinds planted here are those of the second family (`data.planting.FAMILIES`); a candidate that itself
learns from planted defects learns from the first family alone, so it is judged by kinds that it never met.
Known defects, k real ones that the user has, are shown beside the planted ones; there may be none.
"""

from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional as F

from blemish.core.errors import TrainingError
from blemish.data import planting, shapes
from blemish.data.part import background_of, cells_of_part, draw_centres, seen_of, views
from blemish.methods.components.statistics import white_point
from blemish.methods.scorer import Scorer
from blemish.metrics.roc import Roc

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from blemish.methods.auto import Auto, Member

PLANTED_KINDS = planting.FAMILIES[1]
MOST_GOOD = 30
"""Good images that candidates are compared on, at most."""
PLANTED = 30
"""How often each kind is planted, at least: more than once into each image, where there are few."""
CHANGED = 6.0
"""A pixel counts as planted when it changed by more grey levels than this."""
NOTHING_SEEN = (
    "no planted defect can be seen in these images, so nothing shows which method is best; give a larger "
    "--image-size, or name a --method"
)
LEAST_PIXELS = 20
"""A planted defect of fewer changed pixels is left out."""
MARGIN = 0.002
"""What costs more has to be better by this, in Eq. (1), or the cheaper one is kept."""
SECOND = 0.005
"""With a second method planted defects may be seen worse by this: methods fail at different things, so two
are safer with defects that nobody planted. With a third they must be seen better: it takes time in which the
others would learn."""
OF_EACH_PLACE, OF_ALL_PLACES = "filters", "filters:shared"
"""Two candidates that differ in this alone: what is usual at a place, or anywhere in the image."""
CHANCE = 0.5
"""A candidate that sees planted defects no better than this, in Eq. (1), is tried with no other one."""
TRUSTED = 5
"""So many known defects count as much as all planted ones together. Our choice: one alone may be odd."""
LOUDEST = 100
"""The image score of a comparison is the mean of one in so many pixels: the largest ones."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Good images that no candidate learnt, and copies with planted defects.

    `good` (n, C, H, W) and `planted` (m, C, H, W) in [0, 1]; `masks` (m, h, w) bool, what was changed, at
    half of the height and width; `kinds` names the kind of each planted one, `origin` the number of its good
    image. The last `known` of `planted` are real defects, without kind and origin; their masks are empty
    where nobody has marked them.
    """

    good: Tensor
    planted: Tensor
    masks: np.ndarray
    kinds: list[str]
    origin: list[int]
    known: int = 0


@dataclass(frozen=True, kw_only=True)
class Row:
    """What a candidate, or several together, showed: areas on planted defects, or why there are none."""

    members: tuple[str, ...]
    image_auroc: float | None = None
    pixel_auroc: float | None = None
    pixel_ap: float | None = None
    seconds: float | None = None
    error: str | None = None
    known_image_auroc: float | None = None
    known_pixel_auroc: float | None = None


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The members that are kept, and all candidates' rows, singles first."""

    members: tuple[str, ...]
    rows: list[Row] = field(default_factory=list)
    aligned: bool = False
    """Whether parts were turned to lie alike first."""

    def describe(self) -> dict[str, Any]:
        """Return it as JSON has it. Seconds are not part of it, so that equal runs give equal files."""
        rows = [
            {k: v for k, v in asdict(row).items() if k != "seconds" and v is not None} for row in self.rows
        ]
        found = {"members": list(self.members), "kinds": list(PLANTED_KINDS), "candidates": rows}
        return found | ({"aligned": True} if self.aligned else {})


def plant_trial(good: Tensor, train: Tensor, seed: int, *, covered: bool = False) -> Trial:
    """Plant each kind into each good image: once, or more often where there are few images.

    Args:
        good: (n, C, H, W) in [0, 1], which no candidate learns.
        train: (t, C, H, W), whose pieces are planted.
        seed: fixes places, sizes and pieces.
        covered: whether parts of the images are covered: nothing is planted there.

    Raises TrainingError where none of the defects changes the images, as in tiny ones.
    """
    white = white_point(train).mean().clamp(min=1e-3)  # grey levels are told of it, as `planted` does
    seen, seen_train = (seen_of(good), seen_of(train)) if covered else (None, None)
    good, train = good / white, train / white
    std, mean = torch.std_mean(train, dim=0, correction=0)
    colour, apart = background_of(mean, std, None if seen_train is None else seen_train.any(dim=0)[0])
    part, part_train = (cells_of_part(x, colour, apart, s) for x, s in ((good, seen), (train, seen_train)))
    found, masks, kinds, origin = [], [], [], []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for kind in [kind for kind in PLANTED_KINDS for _ in range(-(-PLANTED // len(good)))]:
            planted = _plant(kind, good, part, train, part_train, colour)
            planted = planted if seen is None else torch.where(seen, planted, good)
            changed = planting.changed(good, planted) > CHANGED
            for i in (changed.flatten(1).sum(dim=1) >= LEAST_PIXELS).nonzero()[:, 0].tolist():
                found.append(planted[i])
                masks.append(F.max_pool2d(changed[i][None].float(), 2)[0] > 0)
                kinds.append(kind)
                origin.append(i)
    if not found:
        raise TrainingError(NOTHING_SEEN)
    return Trial(
        good=good * white,
        planted=torch.stack(found) * white,
        masks=torch.stack(masks).numpy(),
        kinds=kinds,
        origin=origin,
    )


def _plant(
    kind: str, good: Tensor, part: Tensor, train: Tensor, part_train: Tensor, colour: Tensor
) -> Tensor:
    """Plant one defect on the part of each good image (n, C, H, W), with pieces of training images.

    `part` and `part_train` are the cells of `cells_of_part`, `colour` the background's.
    """
    n, (H, W) = len(good), good.shape[2:]
    numbers = torch.randint(len(train), (n,))
    turn, zoom = shapes.uniform(-3.14, 3.14, n), shapes.uniform(0.7, 1.3, n)
    centres = draw_centres(part_train[numbers], (1, 1), (H, W))
    other = planting.sample(train[numbers], views(centres, (H, W), (H, W), turn, zoom), (H, W))
    places = shapes.draw_places(n, H, W, min(H, W))
    places = replace(places, centre=draw_centres(part, (1, 1), (H, W)))
    return planting.plant(good, other, kinds=[kind] * n, side=min(H, W), background=colour, places=places)


@torch.inference_mode()
def maps_of(network: Auto, images: Tensor, device: torch.device, member: Member | None = None) -> np.ndarray:
    """Return maps at half size, float32 (n, h, w), of images (n, C, H, W).

    Those of one `member` are of images whose parts were turned, where the network turns them.
    """
    network.to(device).eval()
    scorer = (Scorer(network) if member is None else member).to(device).eval()
    parts = images.split((network if member is None else member.network).scoring_batch or 16)
    maps = torch.cat([scorer(part.to(device)).cpu() for part in parts])
    return F.avg_pool2d(maps[:, None], 2)[:, 0].numpy()


def scale_of(good_maps: np.ndarray) -> tuple[float, float]:
    """Return the values that become 0 and 1: medians of good images' medians and maxima, (n, h, w)."""
    flat = good_maps.reshape(len(good_maps), -1)
    low, high = float(np.median(np.median(flat, axis=1))), float(np.median(flat.max(axis=1)))
    return low, high if high > low else low + 1.0


def on_one_scale(maps: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Bring a candidate's maps of good and planted images to 0 and 1 at good ones' medians and maxima."""
    low, high = scale_of(maps[0])
    return (maps[0] - low) / (high - low), (maps[1] - low) / (high - low)


def compare(
    members: tuple[str, ...],
    good: np.ndarray,
    planted: np.ndarray,
    trial: Trial,
    seconds: float | None = None,
) -> Row:
    """Measure maps of the trial's good and planted images, (n, h, w) and (m, h, w)."""
    made = len(planted) - trial.known
    images, pixels = _rocs(good, planted[:made], trial.masks[:made])
    known_images, known_pixels = _rocs(good, planted[made:], trial.masks[made:])
    return Row(
        members=members,
        image_auroc=images and images.auroc(),
        pixel_auroc=pixels and pixels.auroc(),
        pixel_ap=pixels and pixels.average_precision(),
        known_image_auroc=known_images and known_images.auroc(),
        known_pixel_auroc=known_pixels and known_pixels.auroc(),
        seconds=seconds,
    )


def _rocs(good: np.ndarray, defective: np.ndarray, mask: np.ndarray) -> tuple[Roc | None, Roc | None]:
    """Return the curves of images and of pixels, None without defective images or without marked pixels."""
    if not len(defective):
        return None, None
    images = Roc.of(image_scores(good), image_scores(defective))
    if not mask.any():
        return images, None
    return images, Roc.of(np.concatenate([good.ravel(), defective[~mask]]), defective[mask])


def choose(singles: Sequence[Row], maps: dict[str, tuple[np.ndarray, np.ndarray]], trial: Trial) -> Choice:
    """Choose the candidate, or those together, that tell planted images and pixels best, Eq. (1).

    Args:
        singles: rows of single candidates, the cheapest first.
        maps: of the candidates that did not fail, by name.
        trial: what they scored.
    """
    rows = list(singles)
    names = [row.members[0] for row in singles if row.error is None and _goodness(row, 0) > CHANCE]
    scaled = {name: on_one_scale(maps[name]) for name in names}
    for members in groups_of(names):
        good, planted = (np.mean([scaled[name][i] for name in members], axis=0) for i in (0, 1))
        rows.append(compare(members, good, planted, trial))
    return Choice(members=best_of(rows, trial.known).members, rows=rows)


def groups_of(names: Sequence[str]) -> list[tuple[str, ...]]:
    """Return which candidates are tried together: all pairs, and three wherever their methods differ."""
    threes = itertools.combinations(names, 3)
    return [*itertools.combinations(names, 2), *(three for three in threes if len(methods_of(three)) == 3)]


def methods_of(members: Sequence[str]) -> set[str]:
    """Return the methods of members that may be presets of one."""
    return {member.partition(":")[0] for member in members}


def best_of(rows: Sequence[Row], known: int) -> Row:
    """Return the row that is kept, the cheapest first, of a trial with so many known defects."""
    best = None
    for row in rows:
        if row.error is None and (best is None or _goodness(row, known) > _goodness(best, known) + MARGIN):
            best = row
    if best is None:
        raise ValueError("no candidate to choose from")
    return best


def parts_lie_anywhere(rows: Sequence[Row]) -> bool:
    """Tell from rows of candidates whether the place in the image says nothing about these parts.

    So it is where a density of all places together sees planted defects better than one of each place.
    """
    found = {row.members[0]: _goodness(row, 0) for row in rows if row.error is None}
    return {OF_ALL_PLACES, OF_EACH_PLACE} <= found.keys() and found[OF_ALL_PLACES] > found[OF_EACH_PLACE]


def _goodness(row: Row, known: int) -> float:
    """The rule of the choice, Eq. (1): pixels alone would forget defects that are small."""
    goodness = ((row.image_auroc or 0.0) + (row.pixel_auroc or 0.0)) / 2
    if row.known_image_auroc is not None:
        of_pixels = row.known_image_auroc if row.known_pixel_auroc is None else row.known_pixel_auroc
        weight = known / (known + TRUSTED)
        goodness = (1 - weight) * goodness + weight * (row.known_image_auroc + of_pixels) / 2
    return goodness + (0.0, SECOND + MARGIN, SECOND + 2 * MARGIN)[len(methods_of(row.members)) - 1]


def image_scores(maps: np.ndarray, one_in: int = LOUDEST) -> np.ndarray:
    """Return the mean of the largest values of each map, one in so many: (n, h, w) -> (n,)."""
    flat = maps.reshape(len(maps), -1)
    count = max(1, flat.shape[1] // one_in)
    return np.partition(flat, flat.shape[1] - count, axis=1)[:, -count:].mean(axis=1)
