"""Make the picture of "Judge a part by several views": the views of one part side by side, one of them odd.

    python docs/make_views_picture.py [--out docs/pictures]

It shows generated parts from two sides, and what a small model of both says; it takes half a minute.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image, ImageDraw

from blemish.cli.main import main as blemish
from blemish.data.synthetic import generate

SIZE, SHOWN = 128, 12
NAMES = ("--part-pattern", r"(\w+)_", "--view-pattern", r"_(\w+)[.]")
MODEL = (
    "--method",
    "pca",
    "--image-size",
    str(SIZE),
    "--image-score",
    "max",
    "--calibration-fraction",
    "0.4",
)


def main() -> None:
    """Train on parts with a front and a back, and show one whose back has a blemish."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/pictures"), help="where to write")
    args = parser.parse_args()
    with TemporaryDirectory() as name:
        folder = Path(name)
        made = generate(folder / "made", n_train=110, n_good=10, n_defect=10, size=SIZE)
        for i, path in enumerate(sorted((made / "train" / "good").glob("*.png"))):
            if i < 110 - SHOWN:
                write_part(folder / "good", f"part{i:03}", path, path)
            else:
                write_part(folder / "new", f"part{i:03}", path, path)
        fronts = sorted((made / "test" / "good").glob("*.png"))
        backs = [p for p in sorted((made / "test").glob("*/*.png")) if p.parent.name != "good"]
        for i, (front, back) in enumerate(zip(fronts, backs, strict=False)):
            write_part(folder / "new", f"bad{i}", front, back)
        run, answers = folder / "run", folder / "answers"
        blemish(["train", "--data", str(folder / "good"), "--out", str(run), *MODEL, *NAMES])
        blemish(["predict", str(folder / "new"), "--model", str(run), "--out", str(answers), *NAMES])
        with Image.open(answers / "parts" / "bad0.png") as picture:
            picture.quantize(64).save(args.out / "views.png", optimize=True)


def write_part(folder: Path, part: str, front: Path, back: Path) -> None:
    """Write the two views: the back is seen mirrored and through a darker lens."""
    folder.mkdir(exist_ok=True)
    shutil.copyfile(front, folder / f"{part}_front.png")
    with Image.open(back) as picture:
        pixels = np.asarray(picture.convert("RGB"))[:, ::-1]
    dark = Image.fromarray((pixels * 0.6).astype(np.uint8))
    ImageDraw.Draw(dark).rectangle((0, 0, SIZE - 1, SIZE - 1), outline=(20, 20, 20))
    dark.save(folder / f"{part}_back.png")


if __name__ == "__main__":
    main()
