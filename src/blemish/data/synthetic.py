"""The demonstration's data set: a turned steel disc with bolt holes, good and blemished, with exact masks.

Everything is drawn, nothing is downloaded. The good part is in `synthetic_disc`; here are its blemishes and
the folder.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np

from blemish.core.errors import DataError, UsageError
from blemish.core.types import GOOD
from blemish.data.synthetic_disc import BOLT, RIM, RING, Flaw, Part, View, make_part, shape_coverage

MARKER = "blemish-demo.json"
MAX_DIFFICULTY = 0.6
"""Difficulty of the faintest defect of a set. Our choice: beyond it, a person does not see them either."""

DEFECTS = ("scratch", "spot", "missing")
MIN_SIZE = 64

_VISIBLE = 2.5 / 255  # a blemish changes a pixel by at least this, or it is not in the mask


def generate(
    out: Path, *, seed: int = 0, n_train: int = 120, n_good: int = 30, n_defect: int = 15, size: int = 256
) -> Path:
    """Write the demonstration's data set in MVTec layout, RGB PNG of `size` x `size` pixels; return `out`.

    `n_train` and `n_good` good images for training and test; `n_defect` of each of `DEFECTS`, from faint
    to plain. A mask marks the shape drawn and every pixel it changes visibly; outside the mask a defective
    image equals the image of the same part without the defect. Equal arguments and library versions
    give equal files.

    The folder appears whole or not at all. One that holds this very set is reused as it is; any other
    folder with something in it is refused with `DataError`, bad numbers with `UsageError`.
    """
    out = Path(out)
    spec = {"seed": seed, "n_train": n_train, "n_good": n_good, "n_defect": n_defect, "size": size}
    lowest = {"seed": 0, "n_train": 2, "n_good": 1, "n_defect": 1, "size": MIN_SIZE}
    for name, value in spec.items():
        if value < lowest[name]:
            raise UsageError(f"{name} {value}: must be {lowest[name]} or larger")
    if _exists_already(out, spec):
        return out
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
        whole = Path(scratch) / "set"
        _write(whole, spec)
        if out.exists():
            out.rmdir()  # empty: checked above
        whole.replace(out)
    return out


def _exists_already(out: Path, spec: dict[str, int]) -> bool:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    try:
        found = json.loads((out / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise DataError(
            f"{out}: exists and was not made by the demo; name a new or an empty folder"
        ) from None
    if found != spec:
        raise DataError(f"{out}: holds the demo set {found}, not {spec}; name another folder or delete it")
    return True


def _write(out: Path, spec: dict[str, int]) -> None:
    seed, size = spec["seed"], spec["size"]
    parts = [("train", GOOD, spec["n_train"]), ("test", GOOD, spec["n_good"])]
    parts += [("test", label, spec["n_defect"]) for label in DEFECTS]
    for part, (split, label, count) in enumerate(parts):
        for i in range(count):
            difficulty = MAX_DIFFICULTY * (1 - (i + 0.5) / count)
            image, mask = render((seed, part, i), size, label, difficulty)
            _save(out / split / label / f"{i:03d}.png", image)
            if label != GOOD:
                _save(out / "ground_truth" / label / f"{i:03d}_mask.png", mask.astype(np.uint8) * 255)
    (out / MARKER).write_text(json.dumps(spec) + "\n", encoding="utf-8")


def _save(path: Path, image: np.ndarray) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, compress_level=3)


def render(
    key: tuple[int, ...], size: int, label: str, difficulty: float = 0.5
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one image: uint8 (size, size, 3), and its mask, bool (size, size).

    `key` (non-negative integers) decides the part and its picture, whatever the `label`: `GOOD` or one of
    `DEFECTS`. `difficulty` in [0, 1] goes from plain to faint. Raises `UsageError` for another label.
    """
    if label != GOOD and label not in DEFECTS:
        raise UsageError(f"label {label!r}: must be {GOOD} or one of {', '.join(DEFECTS)}")
    part_seed, defect_seed = np.random.SeedSequence(key).spawn(2)
    rng = np.random.Generator(np.random.PCG64(part_seed))
    part = make_part(rng, size)
    noise = 0.008 * rng.standard_normal((size, size, 3), dtype=np.float32)
    image = _grey_levels(part.clean + noise)
    mask = np.zeros((size, size), dtype=bool)
    if label != GOOD:
        rng = np.random.Generator(np.random.PCG64(defect_seed))
        draw = {"scratch": _scratch, "spot": _spot, "missing": _missing}[label]
        flawed, shape = draw(rng, part, 1 - difficulty)
        mask = shape | (np.abs(flawed - part.clean).max(axis=2) >= _VISIBLE)
        image = np.where(mask[..., None], _grey_levels(flawed + noise), image)
    return image, mask


def _grey_levels(picture: np.ndarray) -> np.ndarray:
    return np.round(picture.clip(0, 1) * 255).astype(np.uint8)


def _choose_place(rng: np.random.Generator) -> np.ndarray:
    """Choose a point on the steel, between two bolt holes and clear of the rim."""
    theta = (rng.integers(6) + 0.5) * np.pi / 3 + rng.uniform(-0.3, 0.3)
    return rng.uniform(40, 92) * np.array([np.cos(theta), np.sin(theta)])


def _blob(rng: np.random.Generator, view: View, centre: np.ndarray, radius: float) -> np.ndarray:
    """Distance to the border of an irregular round shape (negative inside; not exact far from it)."""
    du, dv = view.u - float(centre[0]), view.v - float(centre[1])
    around = np.arctan2(dv, du)
    wobble = np.ones_like(around)
    for k in range(2, 7):
        wobble += 0.28 / k * rng.normal() * np.cos(k * around + rng.uniform(0, 2 * np.pi))
    return np.hypot(du, dv) - radius * np.clip(wobble, 0.4, 1.6)


def _scratch(rng: np.random.Generator, part: Part, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """Draw a thin bent line (a quadratic Bezier curve), thin at both ends, a bright burr on one side."""
    view, steel, middle = part.view, part.steel, _choose_place(rng)
    heading = rng.uniform(0, 2 * np.pi)
    along = np.array([np.cos(heading), np.sin(heading)]) * rng.uniform(25, 70)
    bend = np.array([-along[1], along[0]]) * rng.uniform(-0.35, 0.35)
    width = rng.uniform(0.7, 1.0) + 0.8 * strength
    distance = np.full(view.r.shape, np.inf, dtype=np.float32)
    for t in np.linspace(0, 1, 60):
        arc = 4 * t * (1 - t)
        x, y = middle + (t - 0.5) * along + (arc - 0.5) * bend
        distance = np.minimum(
            distance, np.sqrt((view.u - float(x)) ** 2 + (view.v - float(y)) ** 2) - width * arc**0.4
        )
    line = shape_coverage(distance, view.px, 1.2) * steel
    burr = np.roll(line, (-1, -1), (0, 1)) * steel * (1 - line)
    change = (0.10 + 0.45 * strength) * (0.7 * burr - line)
    return part.clean * (1 + change[..., None]), line >= 0.5


def _spot(rng: np.random.Generator, part: Part, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """Stain the steel with rust, oil or heat tint, darker towards its rim."""
    tints = ((0.70, 0.42, 0.22), (0.42, 0.40, 0.34), (0.58, 0.62, 0.95))
    tint = np.array(tints[rng.integers(len(tints))])
    distance = _blob(rng, part.view, _choose_place(rng), rng.uniform(5, 10) + 4 * strength)
    shape = shape_coverage(distance, part.view.px, 3) * part.steel
    rim = 0.75 + 0.25 * np.exp(-((distance + 2) ** 2) / 8)
    amount = (0.12 + 0.68 * strength) * shape * rim
    return part.clean * (1 - amount[..., None] * (1 - tint)), shape >= 0.5


def _missing(rng: np.random.Generator, part: Part, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """Take something away: an edge chipped off, a hole not drilled, or a piece of the ring worn away."""
    view, kind, at = part.view, rng.integers(3), rng.uniform(0, 2 * np.pi)
    if kind == 0:
        centre = RIM * np.array([np.cos(at), np.sin(at)])
        chip = _blob(rng, view, centre, 5 + 10 * strength)
        return part.draw(Flaw(chip=chip)), (chip <= 0) & (view.r <= RIM)
    if kind == 1:
        hole = int(rng.integers(6))
        return part.draw(Flaw(hole=hole)), (view.bolt == hole) & (view.bolt_r <= BOLT)
    half = np.deg2rad(8 + 20 * strength)
    away = np.abs((view.theta - at + np.pi) % (2 * np.pi) - np.pi)
    worn = np.clip((half - away) / 0.06 + 0.5, 0, 1)
    return part.draw(Flaw(worn=worn)), (away <= half) & (np.abs(view.r - RING) <= 1.6)
