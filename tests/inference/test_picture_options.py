"""The pictures of `predict` in other formats, and none at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import save
from encoded import refused
from fakes import count_decodes, fake_detector, grey
from PIL import Image

from blemish.cli.commands.predict import predict
from blemish.core.errors import UsageError
from blemish.images.decode import read
from blemish.inference.inputs import find_inputs
from blemish.inference.predict_folder import predict_to_folder

LEVELS = (51, 102, 153, 204)


def parts(folder: Path) -> list[tuple[Path, Path]]:
    rows, columns = np.mgrid[:48, :64]
    save(folder / "a.png", np.stack([rows * 3, columns * 2, rows + columns], -1).astype(np.uint8))
    grey(folder / "sub" / "b.png", 60)
    (folder / "c.png").write_bytes(b"\x89PNG\r\n\x1a\n, and no more")
    return find_inputs([str(folder)])


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("kind", "ending", "off"), [("jpeg", ".jpg", 12), ("webp", ".webp", 40)])
def test_overlays_in_other_formats_show_the_same_and_are_known_as_drawn(
    kind: Any, ending: str, off: int, tmp_path: Path
):
    inputs, detector = parts(tmp_path / "in"), fake_detector(grey_levels=LEVELS)
    predict_to_folder(detector, inputs, tmp_path / "png")
    predict_to_folder(detector, inputs, tmp_path / kind, overlays=kind)
    for usual, other in zip(rows_of(tmp_path / "png"), rows_of(tmp_path / kind), strict=True):
        named = usual["overlay"] and usual["overlay"].removesuffix(".png") + ending
        assert other == usual | {"overlay": named}
        if named is None:
            continue
        exact, drawn = (
            Image.open(tmp_path / out / row) for out, row in (("png", usual["overlay"]), (kind, named))
        )
        assert drawn.format == kind.upper()
        difference = np.abs(np.asarray(exact.convert("RGB"), int) - np.asarray(drawn.convert("RGB"), int))
        assert difference.mean() < off / 4 and np.quantile(difference, 0.95) < off
        refused("is a picture that blemish drew", read, tmp_path / kind / named)
        map_file = usual["map"]
        assert (tmp_path / kind / map_file).read_bytes() == (tmp_path / "png" / map_file).read_bytes()


def test_without_pictures_rows_are_the_same_and_images_are_decoded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    inputs, detector = parts(tmp_path / "in"), fake_detector(grey_levels=LEVELS, batch_size=2)
    counts = predict_to_folder(detector, inputs, tmp_path / "with")
    decoded = count_decodes(monkeypatch)
    assert predict_to_folder(detector, inputs, tmp_path / "without", overlays=None) == counts
    assert decoded == {str(path): 1 for path, _ in inputs}
    for usual, other in zip(rows_of(tmp_path / "with"), rows_of(tmp_path / "without"), strict=True):
        assert other == usual | {"map": None, "overlay": None}
    names = ["predictions.csv", "predictions.jsonl", "summary.json"]
    assert sorted(path.name for path in (tmp_path / "without").iterdir() if path.suffix) == names
    assert not (tmp_path / "without" / "maps").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            "--no-pictures --overlay-format jpeg",
            "--overlay-format jpeg: --no-pictures writes none; leave one out",
        ),
        ("--cluster local --overlay-format webp", "--overlay-format webp: is for pictures, which a cluster"),
    ],
)
def test_options_that_contradict_each_other_are_refused(words: str, said: str, tmp_path: Path):
    with pytest.raises(UsageError, match=said):
        predict([str(tmp_path), "--model", str(tmp_path / "m.onnx"), *words.split()])
