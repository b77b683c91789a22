"""Make the picture of "Parts that lie at any angle": parts as they lie, as they are turned, and their maps.

    python docs/make_alignment_picture.py [--out docs/pictures]

It shows generated keys, and what a small model of good ones says; it takes a minute.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image

from blemish.cli.main import main as blemish
from blemish.inference.load import load
from blemish.methods.auto import Auto

SIDE, GOOD, SHOWN = 128, 40, 4
MODEL = (
    "--method",
    "auto",
    "--members",
    "filters",
    "--image-size",
    str(SIDE),
    "--calibration-fraction",
    "0.5",
)


def key(draws: np.random.Generator, angle: float, *, worn: bool = False) -> np.ndarray:
    """Draw a key on a plain table at an angle in radians, (SIDE, SIDE, 3) uint8; a worn one lacks a tooth."""
    rows, cols = (np.mgrid[:SIDE, :SIDE] - SIDE / 2 - draws.uniform(-6, 6, 2)[:, None, None]) / SIDE * 160
    x, y = cols * np.cos(angle) + rows * np.sin(angle), rows * np.cos(angle) - cols * np.sin(angle)

    def inside(distance: np.ndarray) -> np.ndarray:
        return np.clip(0.5 - distance, 0, 1)

    metal = inside(np.hypot(x + 32, y) - 24) * (1 - inside(np.hypot(x + 40, y) - 7))
    metal = np.maximum(metal, inside(np.maximum(np.abs(x - 20) - 44, np.abs(y) - 6)))
    teeth = ((26, 9), (38, 13), (50, 8), (60, 11))
    for number, (at, high) in enumerate(teeth):
        if not (worn and number == 1):
            metal = np.maximum(
                metal, inside(np.maximum(np.abs(x - at) - 4, np.abs(y - 5 - high / 2) - high / 2))
            )
    table, brass = np.array([225, 228, 230]), np.array([176, 141, 70])
    shade = 1 + 0.1 * np.tanh(y / 8)
    picture = table + metal[..., None] * (brass * shade[..., None] - table)
    return np.clip(picture + draws.normal(0, 1, picture.shape), 0, 255).astype(np.uint8)


def turned(run: Path, pictures: list[np.ndarray]) -> list[np.ndarray]:
    """Return pictures (H, W, 3) as the model turns them before it looks at them."""
    network = load(run, device="cpu").backend.network  # type: ignore[attr-defined]
    assert isinstance(network, Auto)
    assert network.alignment is not None
    x = torch.from_numpy(np.stack(pictures).transpose(0, 3, 1, 2).astype(np.float32) / 255)
    with torch.inference_mode():
        found = network.alignment.align(x, network.alignment.pose_of(x))
    return list((found.clamp(0, 1) * 255).byte().permute(0, 2, 3, 1).numpy())


def main() -> None:
    """Train on good keys, and show three good ones and a worn one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/pictures"), help="where to write")
    args = parser.parse_args()
    draws = np.random.default_rng(4)
    with TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("good", "new"):
            (folder / part).mkdir()
        for number in range(GOOD):
            good = key(draws, draws.uniform(0, 2 * np.pi))
            Image.fromarray(good).save(folder / "good" / f"{number:02}.png")
        new = [
            key(draws, angle, worn=number == SHOWN - 1) for number, angle in enumerate((0.6, 2.4, 5.2, 3.7))
        ]
        for number, picture in enumerate(new):
            Image.fromarray(picture).save(folder / "new" / f"{number}.png")
        run, answers = folder / "run", folder / "answers"
        blemish(["train", "--data", str(folder / "good"), "--out", str(run), *MODEL])
        blemish(["predict", str(folder / "new"), "--model", str(run), "--out", str(answers)])
        overlays = [
            np.asarray(Image.open(file).convert("RGB")) for file in sorted(answers.rglob("overlays/**/*.png"))
        ]
        rows = [np.concatenate(row, axis=1) for row in (new, turned(run, new), overlays)]
        Image.fromarray(np.concatenate(rows)).quantize(24).save(args.out / "aligned.png", optimize=True)


if __name__ == "__main__":
    main()
