"""Learn from 16-bit TIFF files with eight channels, as a multispectral camera writes them.

    python examples/multichannel_tiff.py

The camera uses 12 of the 16 bits. That is declared once, in the training, and the model remembers it. Nothing
is reduced to 8 bits or to three channels. The files are made by the program itself, in a temporary folder.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import tifffile

import blemish
from blemish.methods.baselines.pca import PcaConfig
from blemish.training.fit import ImageOptions

CHANNELS, SIDE, FULL_SCALE = 8, 96, 4095


def plate(seed: int, *, stained: bool = False) -> np.ndarray:
    """Draw a plate: uint16 (96, 96, 8), 0 to 4095. A stain darkens channel 5 alone, by a tenth."""
    rng = np.random.Generator(np.random.PCG64(seed))
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    spectrum = np.linspace(0.3, 0.7, CHANNELS)
    image = spectrum * (1 + 0.1 * np.sin(6 * x + 4 * y))[..., None]
    image = image + rng.normal(0, 0.01, (SIDE, SIDE, CHANNELS))
    if stained:
        row, column = rng.uniform(0.3, 0.7, 2)
        image[..., 5] *= 1 - 0.1 * (np.hypot(y - row, x - column) < 0.12)
    return np.round(image.clip(0, 1) * FULL_SCALE).astype(np.uint16)


def write(folder: Path, seeds: range, *, stained: bool = False) -> list[Path]:
    """Write a TIFF file for each seed, the channels interleaved, and return their paths."""
    folder.mkdir(parents=True)
    paths = [folder / f"{seed:03d}.tiff" for seed in seeds]
    for seed, path in zip(seeds, paths, strict=True):
        tifffile.imwrite(path, plate(seed, stained=stained), photometric="minisblack", planarconfig="contig")
    return paths


def rejected(detector: blemish.Detector, paths: list[Path]) -> int:
    """Print a line for each file, and return how many are rejected."""
    answers = [detector.predict(path) for path in paths]
    for answer in answers:
        decision = "rejected" if answer.anomalous else "accepted"
        print(f"  {Path(answer.path or '').name}  score {answer.score:.5f}  {decision}")
    return sum(bool(answer.anomalous) for answer in answers)


def main() -> None:
    """Write files, train with the bit depth declared, predict, and show what is refused."""
    with TemporaryDirectory() as folder:
        root = Path(folder)
        write(root / "good", range(60))
        good = write(root / "new", range(100, 105))
        stained = write(root / "stained", range(200, 205), stained=True)

        print(f"1. Learning from 60 files of uint16, {CHANNELS} channels, 12 bits used")
        config = PcaConfig(image_size=96, components=10, image_score="max", calibration_fraction=0.35)
        detector = blemish.fit(
            root / "good",
            method="pca",
            config=config,
            image_options=ImageOptions(bit_depth=12),
            device="cpu",
        )
        print(f"   The model takes {detector.model_file.image_format.describe()}")

        print("2. New good plates")
        false_alarms = rejected(detector, good)
        print("3. Plates with a stain that only channel 5 sees")
        found = rejected(detector, stained)
        print(f"Rejected: {false_alarms} of 5 good plates, {found} of 5 stained plates")

        print("4. An image of another kind is refused, never converted silently")
        try:
            detector.predict(np.zeros((SIDE, SIDE, 3), dtype=np.uint8))
        except blemish.ImageError as error:
            print(f"   {error}")


if __name__ == "__main__":
    main()
