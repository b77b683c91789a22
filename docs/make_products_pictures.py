"""Make the pictures of "One model for several products" and of known defects that help to choose.

    python docs/make_products_pictures.py [--out docs/pictures] [--only products|known_defects]

All show generated parts and what small models say of them; it takes two minutes.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from make_counting_pictures import CONFIG, SIZE, read
from PIL import Image

from blemish.data.dataset import open_dataset
from blemish.data.products import open_products, put_together
from blemish.data.synthetic import generate
from blemish.inference.calibration import calibrate
from blemish.methods.auto import AutoConfig
from blemish.report.choice import rows_of
from blemish.training.fit import fit

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.patches import Rectangle

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from blemish.inference.detector import Detector

RATE = 0.1
KNOWN, SHOWN_ROWS = 6, 6
GOOD, DEFECT, PLANTED = "#333", "#d1495b", "#2a78d6"


def main() -> None:
    """Make the two pictures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/pictures"), help="where to write")
    parser.add_argument("--only", choices=["products", "known_defects"], help="make one of them alone")
    args = parser.parse_args()
    with TemporaryDirectory() as folder:
        if args.only != "known_defects":
            two_products(Path(folder), args.out / "products.png")
        if args.only != "products":
            known_defects(Path(folder), args.out / "known_defects.png")


# --- one model for several products -----------------------------------------------------------------------


def two_products(folder: Path, path: Path) -> None:
    """Draw the scores of two products by one model, with one threshold of both and with one of each."""
    folders = {name: generate(folder / name, n_train=100, n_good=60, n_defect=6, size=SIZE) for name in NAMES}
    for file in folders["rough"].rglob("*.png"):
        if "ground_truth" not in file.parts:
            roughen(file)
    products = open_products(folders)
    detector = fit(put_together(products), config=CONFIG, device="cpu").at_rate(RATE)
    own = {name: detector.for_product(name) for name in NAMES}
    together = np.concatenate([calibration_scores(each) for each in own.values()])
    limit = calibrate(together, together).threshold(RATE)
    figure, all_axes = plt.subplots(2, 1, figsize=(7.2, 2.9), sharex=True, layout="constrained")
    for axes, name in zip(all_axes, NAMES, strict=True):
        scores, bad = scores_of(own[name], folder / name)
        draw_product(axes, name, scores, bad, (limit, in_own_unit(own[name], own[name].threshold)))
    all_axes[0].set(xscale="log")
    all_axes[1].set_xlabel("score, in the unit of the method", fontsize=9)
    save(figure, path)


NAMES = ("smooth", "rough")


def roughen(file: Path) -> None:
    """Cover a part with grain: such a product has higher scores."""
    grain = np.random.default_rng(int(file.stem)).normal(0, 30, (SIZE, SIZE, 1))
    Image.fromarray(np.clip(read(file) + grain, 0, 255).astype(np.uint8)).save(file)


def in_own_unit(detector: Detector, score: float | np.ndarray | None) -> np.ndarray:
    """Return scores of a product in the unit of the method, which all products share."""
    product = detector.model_file.product
    assert product is not None
    assert score is not None
    return product.centre + product.scale * np.asarray(score)


def calibration_scores(detector: Detector) -> np.ndarray:
    """Return what the held-out good images of a product scored, in the unit of the method."""
    calibration = detector.model_file.calibration
    assert calibration is not None
    return in_own_unit(detector, calibration.scores)


def scores_of(detector: Detector, data: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores of a product's test images, in the unit of the method, and which are defective."""
    samples = open_dataset(data).test
    scores = np.array([detector.predict(sample.path).score for sample in samples])
    return in_own_unit(detector, scores), np.array([sample.is_defect for sample in samples])


def draw_product(
    axes: Axes, name: str, scores: np.ndarray, bad: np.ndarray, limits: tuple[float, np.ndarray]
) -> None:
    """Draw one product's parts as dots, the threshold of all products dashed, and its own one solid."""
    rng = np.random.default_rng(0)
    for chosen, height, colour in ((~bad, 1, GOOD), (bad, 0, DEFECT)):
        axes.scatter(scores[chosen], height + rng.uniform(-0.3, 0.3, chosen.sum()), s=12, color=colour)
    for limit, style in zip(limits, ("--", "-"), strict=True):
        axes.axvline(float(limit), color="#333", lw=1.2, ls=style)
    shared, own = (float(np.mean(scores[~bad] > limit)) for limit in limits)
    said = f"{name}: {shared:.0%} of good parts rejected by one threshold (dashed), {own:.0%} by its own"
    axes.set_title(said, fontsize=9, loc="left")
    axes.set(ylim=(-0.6, 1.6), yticks=[0, 1], yticklabels=["defects", "good"])
    axes.tick_params(labelsize=8)


# --- the few defects that one has -------------------------------------------------------------------------


def known_defects(folder: Path, path: Path) -> None:
    """Draw known defects, and what the candidates see of them and of planted ones."""
    data = generate(folder / "parts", n_train=60, n_good=2, n_defect=4, size=SIZE)
    known = folder / "known"
    known.mkdir()
    defective = [sample for sample in open_dataset(data).test if sample.is_defect]
    chosen = [defective[round(i * (len(defective) - 1) / (KNOWN - 1))] for i in range(KNOWN)]
    for number, sample in enumerate(chosen):
        assert sample.mask is not None
        shutil.copy(sample.path, known / f"{number}.png")
        shutil.copy(sample.mask, known / f"{number}_mask.png")
    config = AutoConfig(minutes=1.0, image_size=SIZE)
    detector = fit(data, config=config, known_defects=known, device="cpu")
    figure = plt.figure(figsize=(9.6, 2.8))
    grid = figure.add_gridspec(2, 10, wspace=0.08, hspace=0.05)
    for number in range(KNOWN):
        axes = figure.add_subplot(grid[number // 3, 2 * (number % 3) : 2 * (number % 3) + 2])
        axes.imshow(read(known / f"{number}.png"))
        rows, columns = np.nonzero(read(known / f"{number}_mask.png").any(axis=2))
        corner = columns.min() - 4, rows.min() - 4
        size = float(np.ptp(columns)) + 8, float(np.ptp(rows)) + 8
        axes.add_patch(Rectangle(corner, *size, fill=False, edgecolor="#ffdd00"))
        axes.set_axis_off()
    draw_candidates(figure.add_subplot(grid[:, 8:]), detector)
    save(figure, path)


def draw_candidates(axes: Axes, detector: Detector) -> None:
    """Draw what each candidate sees, the mean of image and pixel AUROC, the one that was kept marked."""
    rows = [row for row in rows_of(detector.model_file.provenance["choice"]) if row.error is None]
    for height, row in enumerate(reversed(rows[:SHOWN_ROWS])):
        planted = np.mean([row.image_auroc or 0, row.pixel_auroc or 0])
        known = np.mean([row.known_image_auroc or 0, row.known_pixel_auroc or 0])
        axes.plot([planted, known], [height, height], color="#ccc", lw=1, zorder=0)
        axes.scatter(planted, height, color=PLANTED, s=24, label=None if height else "planted defects")
        axes.scatter(known, height, color=DEFECT, s=24, label=None if height else "known defects")
    names = [f"{row.name}{' (kept)' if row.chosen else ''}" for row in reversed(rows[:SHOWN_ROWS])]
    axes.set(yticks=range(len(names)), yticklabels=names)
    axes.set_xlabel("mean of image and pixel AUROC", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.legend(fontsize=7, loc="lower right", bbox_to_anchor=(1.03, 1), ncols=2)


def save(figure: Figure, path: Path) -> None:
    """Write a figure."""
    figure.savefig(path, dpi=110, bbox_inches="tight")
    plt.close(figure)
    with Image.open(path) as picture:
        small = picture.convert("RGB").quantize(128, dither=Image.Dither.NONE)
    small.save(path, optimize=True)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
