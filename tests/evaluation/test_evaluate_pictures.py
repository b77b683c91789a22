from __future__ import annotations

import re
from pathlib import Path

import pytest
from conftest import save, tiny_image
from fakes import count_decodes, fake_detector, with_options

from blemish.data.dataset import open_dataset
from blemish.evaluation.evaluate import evaluate
from blemish.evaluation.pictures import overlay_name, thumbnail_name
from blemish.images import decode as decoding
from blemish.images.draw import write_thumbnail
from blemish.inference.predict_folder import write_overlay

pytestmark = pytest.mark.usefixtures("quick_evaluation")


def dark_and_bright(folder: Path) -> tuple[Path, Path]:
    """A good image and a defective one, as different as can be."""
    good, bad = tiny_image(0) // 4, tiny_image(1)
    return save(folder / "test" / "good" / "0.png", good), save(folder / "test" / "hole" / "0.png", bad)


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_each_image_gets_an_overlay_and_a_thumbnail_of_its_own(tmp_path: Path):
    paths = dark_and_bright(tmp_path / "data")
    out = tmp_path / "out"
    evaluate(fake_detector(), open_dataset(tmp_path / "data", need_train=False), out)
    assert files_below(out / "overlays") == {"test/good/0.png.png", "test/hole/0.png.png"}
    assert files_below(out / "thumbnails") == {"test/good/0.png.jpg", "test/hole/0.png.jpg"}
    html = (out / "report.html").read_text()
    for path, label in zip(paths, ("good", "hole"), strict=True):
        overlay, small = f"overlays/test/{label}/0.png.png", f"thumbnails/test/{label}/0.png.jpg"
        write_thumbnail(tmp_path / "expected.jpg", decoding.read(path))
        assert (out / small).read_bytes() == (tmp_path / "expected.jpg").read_bytes()
        assert f'<a href="{overlay}"><img src="{small}"' in html  # the full size is a click away
        assert f'<a href="{overlay}"><img src="{overlay}"' in html


def test_pictures_of_images_outside_of_the_data_set_have_paths_of_their_own():
    names = ["data/a.png", "/data/a.png", "../data/a.png", "up/data/a.png"]
    for name_of in (overlay_name, thumbnail_name):
        found = [name_of(name) for name in names]
        assert len(set(found)) == len(names)
        assert not [path for path in found if path.startswith("/") or ".." in path.split("/")]
    assert overlay_name(names[0]) == "overlays/data/a.png.png"


@pytest.mark.parametrize("tile_size", [None, 32])
def test_an_image_is_decoded_once_and_its_pictures_are_those_of_the_file(
    tile_size: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_report: None
):
    paths = dark_and_bright(tmp_path / "data")
    for path in paths:  # longer than their pictures
        save(path, decoding.read(path).repeat(20, 0))
    detector, decoded = fake_detector(), count_decodes(monkeypatch)
    detector = with_options(detector, tile_size=tile_size)
    evaluate(detector, open_dataset(tmp_path / "data", need_train=False), tmp_path / "out")
    assert decoded == {str(path): 1 for path in paths}
    for path in paths:
        name = path.relative_to(tmp_path / "data").as_posix()
        write_overlay(detector, decoding.read(path), detector.predict(path), tmp_path / "expected.png")
        assert (tmp_path / "out" / overlay_name(name)).read_bytes() == (
            tmp_path / "expected.png"
        ).read_bytes()


@pytest.mark.parametrize("up", ["..", "../.."])
def test_pictures_stay_in_the_folder_of_the_evaluation(up: str, tmp_path: Path):
    folder, out = tmp_path / "a" / "b" / "lists", tmp_path / "results" / "run"
    folder.mkdir(parents=True)
    _, bad = dark_and_bright((folder / up).resolve())
    rows = ["path,split,label", f"{up}/test/good/0.png,test,good", f"{bad},test,hole"]  # relative, absolute
    (folder / "list.csv").write_text("\n".join(rows) + "\n")
    before = files_below(tmp_path)
    evaluate(fake_detector(), open_dataset(folder / "list.csv", need_train=False), out)
    assert all(name.startswith("results/run/") for name in files_below(tmp_path) - before)
    inside = {f"{up.replace('..', 'up')}/test/good/0.png", str(bad).lstrip("/")}
    html = (out / "report.html").read_text()
    for folder, ending in (("overlays", ".png"), ("thumbnails", ".jpg")):
        written = files_below(out / folder)
        assert {re.sub(rf"~[0-9a-f]{{8}}\{ending}$", "", name) for name in written} == inside
        assert all(f'src="{folder}/{name}"' in html for name in written)
