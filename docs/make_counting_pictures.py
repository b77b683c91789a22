"""Make the pictures of "Say what counts", two rates, a size, a region of interest; and of the audit.

    python docs/make_counting_pictures.py [--out docs/pictures] [--only audit]

All show generated parts and what a small model says of them; it takes a minute.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib as mpl
import numpy as np
from PIL import Image, ImageDraw

from blemish.core.types import GOOD
from blemish.data.dataset import open_dataset
from blemish.data.synthetic import generate
from blemish.evaluation.audit import audit
from blemish.images.draw import heat_over
from blemish.images.roi import roi_of
from blemish.inference.counting import Counting
from blemish.inference.detector import Detector
from blemish.methods.baselines.pca import PcaConfig
from blemish.training.fit import fit
from blemish.training.recalibrate import recalibrate

mpl.use("Agg")
SIZE, SHOWN, GAP = 128, 320, 12
REJECT, REVIEW = 0.05, 0.2
MIN_AREA = 60
CONTAMINATED, SUSPECTS = 3, 4
CONFIG = PcaConfig(image_size=SIZE, components=20, smoothing=1.0, image_score="max", calibration_fraction=0.5)


def main() -> None:
    """Make the four pictures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/pictures"), help="where to write")
    parser.add_argument("--only", choices=["audit"], help="make one of them alone")
    args = parser.parse_args()
    with TemporaryDirectory() as folder:
        suspects(Path(folder), args.out / "audit.png")
        if args.only:
            return
        data = generate(Path(folder) / "data", n_train=160, n_good=40, n_defect=12, size=SIZE)
        run = Path(folder) / "run"
        plain = fit(data, config=CONFIG, out=run, device="cpu")
        two_rates(plain, data, args.out / "review.png")
        recalibrate(run, data, Path(folder) / "sized", sizes={"min_area": MIN_AREA}, device="cpu")
        sized = fit_again(plain, Path(folder) / "sized")
        dusty = dust(read(data / "test" / GOOD / "000.png"))
        side_by_side([drawn(plain, dusty), drawn(sized, dusty)], args.out / "sizes.png")
        y, x = (np.mgrid[:SIZE, :SIZE] + 0.5) / SIZE * 2 - 1
        disc = Counting(roi=roi_of(np.hypot(x, y) < 0.86))
        inner = fit(data, config=CONFIG, device="cpu", counting=disc)
        scrap = with_scrap(read(data / "test" / GOOD / "001.png"))
        side_by_side([drawn(plain, scrap), drawn(inner, scrap)], args.out / "roi.png")


def fit_again(detector: Detector, folder: Path) -> Detector:
    """Return the detector with the model file of another folder."""
    from blemish.inference.model_file import load_model_file

    return replace(detector, model_file=load_model_file(folder))


def read(path: Path) -> np.ndarray:
    """Read a generated picture, uint8 (H, W, 3)."""
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB")).copy()


def dust(image: np.ndarray) -> np.ndarray:
    """Put a speck of 3 x 3 pixels onto a part, and a blot of 8 x 8."""
    image[30:33, 60:63] = 250
    image[84:92, 36:44] = 40
    return image


def with_scrap(image: np.ndarray) -> np.ndarray:
    """Put a scrap of paper beside a part, and a blot onto it."""
    image[3:19, 3:15] = 245
    image[84:92, 36:44] = 40
    return image


def drawn(detector: Detector, image: np.ndarray) -> Image.Image:
    """Draw what a detector says of an image."""
    answer, counting, level = detector.predict(image), detector.model_file.counting, detector.pixel_threshold
    assert level is not None
    low, high = detector.model_file.display_range
    pixels = heat_over(
        np.asarray(Image.fromarray(image).resize((SHOWN, SHOWN), Image.Resampling.NEAREST)),
        answer.anomaly_map,
        low=low,
        high=high,
        contour_level=level,
        outlined=enlarged(counting.outlined(answer.anomaly_map, level)),
        inside=counting.inside((SHOWN, SHOWN)),
    )
    picture, factor = Image.fromarray(pixels), SHOWN / SIZE
    for r in answer.regions:  # those that count have a frame
        frame = [factor * r.x0 - 5, factor * r.y0 - 5, factor * r.x1 + 4, factor * r.y1 + 4]
        ImageDraw.Draw(picture).rectangle(frame, outline="white", width=2)
    return picture


def enlarged(mask: np.ndarray) -> np.ndarray:
    """Enlarge a mask to the size that is shown."""
    picture = Image.fromarray(mask).resize((SHOWN, SHOWN), Image.Resampling.NEAREST)
    return np.asarray(picture)


def side_by_side(pictures: list[Image.Image], path: Path) -> None:
    """Write pictures beside one another."""
    (width, height), n = pictures[0].size, len(pictures)
    whole = Image.new("RGB", (n * (width + GAP) - GAP, height), "white")
    for number, picture in enumerate(pictures):
        whole.paste(picture, (number * (width + GAP), 0))
    whole.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


def suspects(folder: Path, path: Path) -> None:
    """Draw the most suspicious of 40 "good" parts, three of which are not, with the maps of an audit."""
    data = generate(folder / "audited", n_train=37, n_good=1, n_defect=3, size=SIZE)
    defective = [sample.path for sample in open_dataset(data).test if sample.is_defect]
    for number, file in enumerate(defective[2::3][:CONTAMINATED]):  # the plainest of each kind
        shutil.copy(file, data / "train" / GOOD / f"{number}-as-good.png")
    found = audit(open_dataset(data), folder / "audit", device="cpu")
    sheet = []
    for finding in found.findings[:SUSPECTS]:
        with Image.open(folder / "audit" / finding.overlay) as overlay:
            picture = overlay.convert("RGB").resize((SHOWN // 2, SHOWN // 2), Image.Resampling.LANCZOS)
        card = Image.new("RGB", (SHOWN // 2, SHOWN // 2 + 34), "white")
        card.paste(picture, (0, 0))
        said = [Path(finding.path).name, f"suspicion {finding.suspicion:.1f}"]
        for line, text in enumerate(said):
            ImageDraw.Draw(card).text((2, SHOWN // 2 + 3 + 15 * line), text, fill="black")
        sheet.append(card)
    side_by_side(sheet, path)


def two_rates(detector: Detector, data: Path, path: Path) -> None:
    """Draw scores of good and of defective parts, and the two thresholds between three heaps."""
    from matplotlib import pyplot as plt

    detector = replace(detector, false_alarm_rate=REJECT, review_rate=REVIEW)
    samples = open_dataset(data).test
    answers = [detector.predict(sample.path) for sample in samples]
    review, limit = detector.review_threshold, detector.threshold
    assert review is not None
    assert limit is not None
    figure, axes = plt.subplots(figsize=(7.2, 2.4))
    scores = np.array([answer.score for answer in answers])
    low, high = scores.min() * 0.8, scores.max() * 1.2
    heaps = [("accepted", low, review, "#dcf3ea"), ("review", review, limit, "#efe6fa")]
    for name, start, end, colour in [*heaps, ("rejected", limit, high, "#ffe6d9")]:
        axes.axvspan(start, end, color=colour, lw=0)
        axes.text(np.sqrt(start * end), 1.72, name, ha="center", fontsize=10)
    rng = np.random.default_rng(0)
    for height, name, defect in ((1, "good parts", False), (0, "defects", True)):
        chosen = scores[[sample.is_defect == defect for sample in samples]]
        axes.scatter(chosen, height + rng.uniform(-0.25, 0.25, len(chosen)), s=14, color="#333")
        axes.text(low, height + 0.33, f" {name}", fontsize=9)
    axes.set(xscale="log", xlim=(low, high), ylim=(-0.5, 2), yticks=[], xticks=[])
    names = (f"review rate {REVIEW:.0%} ", "right"), (f" false-alarm rate {REJECT:.0%}", "left")
    for start, (text, side) in zip((review, limit), names, strict=True):
        axes.axvline(start, color="#333", lw=1)
        axes.text(start, -0.68, text, ha=side, fontsize=9)
    axes.text(high, -0.68, "score", ha="right", fontsize=9)
    axes.minorticks_off()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
