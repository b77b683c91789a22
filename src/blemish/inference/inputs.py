"""What a user gives to be scored, files, folders and globs, to the files of it and their places."""

from __future__ import annotations

import glob
import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from blemish.core.errors import UsageError
from blemish.core.spelling import Spellings
from blemish.data import manifest
from blemish.images import folders, video
from blemish.images.folders import LeftOut

if TYPE_CHECKING:
    from collections.abc import Sequence

    from blemish.core.types import Sample
    from blemish.inference.detector import Detector


def find_inputs(patterns: Sequence[str], left_out: LeftOut | None = None) -> list[tuple[Path, Path]]:
    """Expand images, films, folders and globs into (file, its place below the output folder), in order.

    Each file comes once. Folders are searched for images only: a film is named itself, or matched by a glob.
    Places keep the inputs' sub-folders below the deepest folder that all inputs share, so that equal names
    never collide. Files of folders that are no image are added to `left_out`. Raises UsageError for a pattern
    that matches nothing, DataError for a folder that cannot be searched.
    """
    if not patterns:
        raise UsageError("PATH: none given; give images, films, folders or globs")
    others = LeftOut() if left_out is None else left_out
    files: dict[str, Path] = {}  # by absolute path, as one file may be spelled in several ways
    roots: list[Path] = []
    for pattern in patterns:
        hits = match_pattern(pattern)
        found = [f for p in hits for f in (folders.list_images(p, others) if p.is_dir() else [p])]
        if not found:
            raise make_no_image_error(pattern, others)
        for file in found:
            files.setdefault(_absolute(file), file)
        roots += [p if p.is_dir() else p.parent for p in hits]
    root = os.path.commonpath([_absolute(r) for r in roots])
    places = [Path(absolute).relative_to(root) for absolute in files]
    # Names without suffix that are not unique, as of part.png and part.jpg, keep theirs; nor may a name
    # that lost it, as of part.png.tiff, be one that kept it.
    twins = Counter([p.with_suffix("") for p in places] + [p for p in places if p.suffix])
    parents = {parent for p in places for parent in p.parents}  # as the place of a film will be
    return [
        (f, p if twins[stem := p.with_suffix("")] > 1 or (video.is_film(f) and stem in parents) else stem)
        for f, p in zip(files.values(), places, strict=True)
    ]


def open_manifests(patterns: Sequence[str]) -> tuple[list[str], list[Sample]]:
    """Replace manifests (*.csv) among the inputs by the images of their rows; also return these samples.

    Raises DataError, as `manifest.read` does.
    """
    found: list[str] = []
    samples: list[Sample] = []
    for pattern in patterns:
        if not (pattern.lower().endswith(".csv") and Path(pattern).is_file()):
            found.append(pattern)
            continue
        rows = manifest.read(Path(pattern))
        found += [str(sample.path) for sample in rows]
        samples += rows
    return found, samples


def named(
    detector: Detector, samples: Sequence[Sample], product: str | None, paths: Sequence[Path]
) -> Detector:
    """Return the detector that knows the product of each input: a manifest's, or one that all of them show.

    Raises UsageError for inputs without a product, where the model has several, for an unknown one, and for
    an image of which two things are said.
    """
    _check_said_once(samples, paths)
    detector = detector.for_samples(samples)
    if product is not None:
        if any(sample.product is not None for sample in samples):
            raise UsageError(f"--product {product}: the manifest has a column product; leave one of them out")
        return detector.for_product(product)
    for path in paths:
        if detector.model_file.products and str(path) not in detector.named:
            try:
                detector.for_product(None)
            except UsageError as error:
                cure = "by --product, or by a manifest's column product"
                raise UsageError(f"{path}: {error}, {cure}") from error
    return detector


def _check_said_once(samples: Sequence[Sample], paths: Sequence[Path]) -> None:
    """Refuse an image whose manifests differ, or whose row is lost as it comes by another path too."""
    known: dict[Path, tuple[object, ...]] = {}
    for sample in samples:
        said = sample.roi, sample.product, sample.part, sample.view
        if known.setdefault(sample.path, said) != said:
            raise UsageError(f"{sample.path}: two manifests say different things of it; give it by one")
    scored = {*paths}
    for path in known:
        if path not in scored:
            raise UsageError(f"{path}: is given by its manifest and by another path; give it once")


def match_pattern(pattern: str) -> list[Path]:
    """Return the file or folder of this name, in any Unicode form, or what it matches as a glob, in order.

    Raises UsageError for an empty name, which would be the current folder.
    """
    if not pattern:
        raise UsageError(
            "PATH: one is empty, as from a variable that is not set; give images, films, folders or globs"
        )
    path = Path(pattern)
    if os.path.exists(path):  # noqa: PTH110  also of names that no file can have
        return [path]
    found = sorted(Path(p) for p in glob.glob(pattern, recursive=True))  # noqa: PTH207
    same = None if found else Spellings().same(path)
    return found if same is None else [same]


def make_no_image_error(pattern: str, left_out: LeftOut | None = None) -> UsageError:
    """Make the error for an input without any image."""
    what = "holds no image" if Path(pattern).is_dir() else "no such file or folder, and no match as a glob"
    what += f" but {left_out}" if left_out else ""
    return UsageError(f"{pattern}: {what}; give images, films, folders or globs")


def _absolute(path: Path) -> str:
    """Spell a path from the root without `..`; links stay links, so that their names and places count."""
    return os.path.abspath(path)  # noqa: PTH100
