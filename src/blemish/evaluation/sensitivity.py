"""The sensitivity card: which planted defects a model finds, by kind, size and contrast.

Good images that took no part in training, choosing or calibration get one planted defect each, and are scored
like any other image. The share that is rejected at the promised false-alarm rate is what the card shows, with
its interval. All of it is about planted defects: real ones may be easier or harder.
"""

from __future__ import annotations

import json
from collections import deque
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from blemish.core.errors import ImageError
from blemish.core.files import write_whole
from blemish.core.ownership import owned
from blemish.evaluation.sensitivity_plan import KINDS, MAX_GOOD_IMAGES, defects_of
from blemish.images import decode
from blemish.images.preprocess import convert
from blemish.images.preview import fit_size
from blemish.images.resize import resize
from blemish.images.sources import Frame
from blemish.metrics.confidence import wilson_interval
from blemish.report.html import require_packages
from blemish.report.sensitivity import PACKAGES, write_card

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from blemish.evaluation.sensitivity_defects import Planted, Scene
    from blemish.evaluation.sensitivity_plan import Defect, Plan
    from blemish.inference.detector import Detector

IMAGES, IMAGES_OF_EVALUATE = 200, 60
"""Planted images that are scored at most: by `blemish sensitivity`, and by `blemish evaluate`."""
LONGEST = 1024
"""Images with a longer side are reduced to it before a defect is planted, unless the model cuts tiles
or small regions do not count: sizes are in pixels of the original."""
LEARNT_FROM = 24
"""Good images that say how bright the part is, and where it lies."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """What became of the planted defects of one kind, size and contrast.

    `n` were planted, `found` of them rejected: the `share`, with its 95 % interval from `low` to `high`. Of
    `located` a region of the map overlaps the planted pixels, of which the median defect has `area_px`.
    Pixels are those of the original images.
    """

    kind: str
    contrast: float | None
    size: float
    size_px: int
    area_px: int
    n: int
    found: int
    located: int
    share: float
    low: float
    high: float


def measure_into(
    detector: Detector, plan: Plan, out: Path, *, on_image: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Score good images as they are and planted ones, and write sensitivity.json and sensitivity.html.

    Returns sensitivity.json's content. `on_image` is called `plan.total` times. Raises as `measure`,
    UsageError when another process writes `out` and without the packages of `blemish[report]`, and OSError
    when it cannot be written.
    """
    require_packages(*PACKAGES)
    with owned(out):
        rejected, good = 0, plan.paths[:MAX_GOOD_IMAGES]
        for prediction in detector.predict_many(good):
            if isinstance(prediction, ImageError):
                raise prediction
            rejected += prediction.anomalous is True
            on_image()
        card = measure(detector, plan.paths, images=plan.images, seed=plan.seed, on_image=on_image)
        card |= {"good_scored": len(good), "good_rejected": rejected}
        write_whole(out / "sensitivity.json", json.dumps(card, indent=2) + "\n")
        write_card(out, card, title=f"{plan.name}: {detector.model_file.method}")
    return card


def measure(
    detector: Detector,
    paths: Sequence[Path],
    *,
    images: int = IMAGES,
    seed: int = 0,
    on_image: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Plant defects into good images, score them, and count what is found.

    Args:
        detector: with a threshold.
        paths: good images that took no part in anything, one at least.
        images: planted images to score, at most.
        seed: 0 or larger; fixes places, shapes and which image gets which defect.
        on_image: called for each planted image.

    Returns:
        what sensitivity.json has. The same options give the same bits.

    Raises UsageError for too few images, ImageError for an image that cannot be used.
    """
    defects = defects_of(images)
    jobs = _jobs(len(defects), images // len(defects), len(paths), seed)
    planter = _Planter(detector, paths, defects, seed)
    waiting: deque[tuple[int, Planted, float]] = deque()
    results: list[list[tuple[bool, bool, float]]] = [[] for _ in defects]
    level = detector.pixel_threshold
    assert level is not None
    for prediction in detector.predict_many(planter.plant(jobs, waiting, on_image)):
        number, planted, scale = waiting.popleft()
        if isinstance(prediction, ImageError):
            raise prediction
        over = prediction.anomaly_map[planted.window] > level
        located = bool((over & planted.changed).any())
        results[number].append((prediction.anomalous is True, located, planted.changed.sum() * scale**2))
        on_image()
    side = float(np.median(planter.sides))
    points = [_point(defect, found, side) for defect, found in zip(defects, results, strict=True) if found]
    return {
        "defects": "planted by a program, not real",
        "method": detector.model_file.method,
        "preset": detector.model_file.preset,
        "threshold": detector.threshold,
        "false_alarm_rate": detector.rate,
        "seed": seed,
        "good_images": len({image for _, image in jobs}),
        "planted_images": sum(map(len, results)),
        "side_px": round(side),
        "reduced_to_px": LONGEST if planter.reduced else None,
        "points": [asdict(point) for point in points],
    }


def _jobs(defects: int, each: int, images: int, seed: int) -> list[tuple[int, int]]:
    """Draw `each` images for each defect: pairs (number of the defect, of the image), image by image.

    Drawn for each defect anew: in turn, one size would always get the same images.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    pairs = [(number, int(image)) for number in range(defects) for image in rng.permutation(images)[:each]]
    return sorted(pairs, key=lambda pair: (pair[1], pair[0]))


def _point(defect: Defect, found: list[tuple[bool, bool, float]], side: float) -> Point:
    n, rejected = len(found), sum(one[0] for one in found)
    low, high = wilson_interval(rejected, n)
    return Point(
        kind=defect.kind,
        contrast=defect.contrast,
        size=defect.size,
        size_px=max(3, round(defect.size * side)),
        area_px=round(float(np.median([area for _, _, area in found]))),
        n=n,
        found=rejected,
        located=sum(one[1] for one in found),
        share=rejected / n,
        low=low,
        high=high,
    )


class _Planter:
    """Decodes good images, one after the other, and plants what each of them gets."""

    def __init__(
        self, detector: Detector, paths: Sequence[Path], defects: Sequence[Defect], seed: int
    ) -> None:
        from blemish.evaluation.sensitivity_defects import surface_of  # needs torch

        self.detector, self.paths, self.defects, self.seed = detector, paths, defects, seed
        self.sides: list[int] = []
        self.reduced = False
        seen = (self._decode(path) for path in paths[:LEARNT_FROM])  # one at a time: they may be large
        self.surface = surface_of(seen, *detector.model_file.image_format.value_range)

    def plant(
        self,
        jobs: Sequence[tuple[int, int]],
        waiting: deque[tuple[int, Planted, float]],
        on_left_out: Callable[[], None],
    ) -> Iterator[Frame]:
        """Yield planted images, and append to `waiting` what each one is; without effect, none."""
        from blemish.evaluation.sensitivity_defects import plant_defect

        of_image: dict[int, list[int]] = {}
        for number, place in jobs:
            of_image.setdefault(place, []).append(number)
        places = list(of_image)
        other = self._scene(places[-1])[0]
        self.sides.clear()
        for place in places:
            scene, scale = self._scene(place)
            for number in of_image[place]:
                defect = self.defects[number]
                planted = plant_defect(scene, other, defect, self.surface, self._seed_of(defect, place))
                if planted is None:
                    on_left_out()
                    continue
                waiting.append((number, planted, scale))
                yield Frame(path=str(self.paths[place]), image=planted.image)  # whose region it has
            other = scene

    def _scene(self, place: int) -> tuple[Scene, float]:
        """Tell where an image shows the part, inside of what counts of it; also its scale, as `_read`."""
        from blemish.evaluation.sensitivity_defects import scene_of

        image, scale = self._read(place)
        path = str(self.paths[place])
        inside = self.detector.counting_of(path).inside(image.shape[:2], name=path)
        return scene_of(image, self.surface, inside), scale

    def _decode(self, path: Path) -> np.ndarray:
        """Decode an image (H, W, C), in the model's format; ImageError where it cannot be taken to it."""
        image, known = decode.read(path), self.detector.model_file.image_format
        if (image.dtype.name, image.shape[2]) == (known.dtype, known.channels):
            return image
        allow = self.detector.allow | self.detector.model_file.allow
        planes = convert(image, known, allow=allow, name=str(path))
        (low, high), dtype = known.value_range, np.dtype(known.dtype)
        values = planes.transpose(1, 2, 0) * (high - low) + low
        return (np.rint(values) if dtype.kind in "ui" else values).astype(dtype)

    def _read(self, place: int) -> tuple[np.ndarray, float]:
        """Decode an image, reduced where it is large; also original pixels to a pixel, 1 or larger."""
        image = self._decode(self.paths[place])
        height, width, _ = image.shape
        self.sides.append(min(height, width))
        model_file = self.detector.model_file
        as_it_is = model_file.tiling is not None or model_file.counting.has_sizes
        if max(height, width) <= LONGEST or as_it_is:
            return image, 1.0
        self.reduced = True
        small = resize(image.transpose(2, 0, 1), fit_size(LONGEST, (height, width))).transpose(1, 2, 0)
        if image.dtype.kind in "ui":
            small = np.rint(small)
        return small.astype(image.dtype), max(height, width) / LONGEST

    def _seed_of(self, defect: Defect, place: int) -> int:
        """Return a seed that no other defect of this card has."""
        contrast = 0 if defect.contrast is None else round(1000 * defect.contrast)
        key = [self.seed, list(KINDS).index(defect.kind), round(1000 * defect.size), contrast, place]
        return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)
