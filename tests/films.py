"""Films whose frames tell their number: frame k is uniform, of the grey level 3 k (80 frames at most)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

cv2 = pytest.importorskip("cv2", reason="opencv-python-headless is not installed")
SIDE = 32


def level(number: int) -> np.ndarray:
    return np.full((SIDE, SIDE, 3), 3 * number, np.uint8)


def number_of(image: np.ndarray) -> int:
    """The number that a frame of MJPG shows; compression moves a level by less than 1.5."""
    assert np.ptp(image) <= 2
    return round(float(image.mean()) / 3)


def write(path: Path, images: Iterable[np.ndarray], *, code: str = "MJPG", rate: float = 25) -> Path:
    """Write RGB images (SIDE, SIDE, 3) as a film."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*code), rate, (SIDE, SIDE))
    assert writer.isOpened()
    for image in images:
        writer.write(np.ascontiguousarray(image[..., ::-1]))
    writer.release()
    return path


def film(path: Path, count: int, *, code: str = "MJPG", rate: float = 25) -> Path:
    return write(path, map(level, range(count)), code=code, rate=rate)


def cut(path: Path, share: float) -> Path:
    """Cut off what comes after this share of a file."""
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    return path


def arrays(path: Path) -> list[np.ndarray]:
    """All frames of a film in RGB, by OpenCV alone."""
    found, reader = [], cv2.VideoCapture(str(path))
    while True:
        whole, image = reader.read()
        if not whole:
            return found
        found.append(np.ascontiguousarray(image[..., ::-1]))
