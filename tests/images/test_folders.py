"""Which files of a folder are images: nothing that shows a part is lost, nothing else is taken for one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from encoded import noise, pillow, refused, tiff

from blemish.core.errors import DataError
from blemish.images import draw
from blemish.images.decode import read
from blemish.images.folders import OWN_FOLDERS, SERVICE_FOLDERS, LeftOut, list_images

PNG = pillow(noise(20, 24, 3), "PNG")
JPEG = pillow(noise(20, 24, 3), "JPEG")
BMP = pillow(noise(20, 24, 3), "BMP")
WEBP = pillow(noise(20, 24, 3), "WEBP")
PGM = pillow(noise(20, 24), "PPM")


def put(path: Path, data: bytes = PNG) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def listed(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in list_images(folder)]


# --- by content ---


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.jfif", JPEG),
        ("a.JFIF", JPEG),
        ("a.JPE", JPEG),
        ("a.dib", BMP),
        ("a", PNG),
        ("part.0001", PNG),
        ("a.dat", WEBP),
        ("a.bin", tiff(noise(20, 24))),
        ("a.img", BMP),
        ("a.txt", JPEG),
        ("a.GIF", PNG),
    ],
)
def test_what_begins_as_an_image_is_one_whatever_its_name(tmp_path: Path, name: str, data: bytes):
    put(tmp_path / name, data)
    left_out = LeftOut()
    (found,) = list_images(tmp_path, left_out)
    assert (found.name, read(found).shape, bool(left_out)) == (name, (20, 24, read(found).shape[2]), False)


def test_what_is_left_out_is_counted_by_suffix(tmp_path: Path):
    for i in range(8):
        put(tmp_path / f"{i}.pgm", PGM)
    put(tmp_path / "a.png")
    put(tmp_path / "sub" / "a.PGM", PGM)
    put(tmp_path / "a.gif", b"GIF89a\x10\0\x10\0\xf7\0\0")
    put(tmp_path / "notes.txt", b"BM is how this text begins, and it is no bitmap")
    put(tmp_path / "raw", bytes(range(200)))
    put(tmp_path / "a.nef", tiff(noise(20, 24)))  # a raw photo, of which a TIFF reader sees the preview
    put(tmp_path / "b.png.part")
    left_out = LeftOut()
    assert [path.name for path in list_images(tmp_path, left_out)] == ["a.png"]
    assert str(left_out) == "9 .pgm, 1 without a suffix, 1 .gif, 1 .nef, 1 .part, 1 .txt"
    assert left_out.parts == 13


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.txt", b"some text"),
        ("labels.csv", b"a,b\n"),
        ("a.json", b"{}"),
        ("README", "Größe in µm".encode()),
        ("cut", ("é" * 32).encode()[:63]),
        ("a.xml", b"\xef\xbb\xbf<?xml"),
        ("model.onnx", bytes(range(99))),
        ("done", b""),
    ],
)
def test_what_lies_beside_images_shows_no_part(tmp_path: Path, name: str, data: bytes):
    put(tmp_path / name, data)
    left_out = LeftOut()
    assert list_images(tmp_path, left_out) == []
    assert (bool(left_out), left_out.parts) == (True, 0)


# --- what machines make for themselves ---


@pytest.mark.parametrize(
    "name",
    [
        *sorted(SERVICE_FOLDERS),
        "@eaDir",
        "#Recycle",
        "$RECYCLE.BIN",
        "System Volume Information",
        "FOUND.000",
        ".Trash-1000",
        ".thumbnails",
        ".@__thumb",
        ".AppleDouble",
    ],
)
def test_service_folders_are_left_out_at_every_level(tmp_path: Path, name: str):
    put(tmp_path / "a.png")
    put(tmp_path / name / "a.png" / "SYNOPHOTO_THUMB_M.jpg", JPEG)
    put(tmp_path / "sub" / name / "b.png")
    left_out = LeftOut()
    assert [p.name for p in list_images(tmp_path, left_out)] == ["a.png"]
    assert not left_out


@pytest.mark.parametrize(
    "name",
    [
        "._a.png",
        "Thumbs.db",
        "desktop.ini",
        "ehthumbs.db",
        "SYNOFILE_THUMB_M.png",
        "a.png@SynoResource",
        "Icon\r",
    ],
)
def test_service_files_are_left_out(tmp_path: Path, name: str):
    put(tmp_path / name)
    left_out = LeftOut()
    assert list_images(tmp_path, left_out) == []
    assert not left_out


def test_folders_of_harmless_names_are_searched(tmp_path: Path):
    names = ["2026-11-01/a.png", "@line1/a.png", "cam1/a.png", "found/a.png", "recycle/a.png", "tmp/a.png"]
    for name in names:
        put(tmp_path / name)
    assert listed(tmp_path) == sorted(names)


# --- what blemish wrote ---


@pytest.mark.parametrize("marker", OWN_FOLDERS)
def test_pictures_beside_the_file_that_names_them_are_left_out(tmp_path: Path, marker: str):
    put(tmp_path / "a.png")
    put(tmp_path / "results" / marker, b"")
    for folder in OWN_FOLDERS[marker]:
        put(tmp_path / "results" / folder / "sub" / "a.png")
    put(tmp_path / "results" / "b.png")
    put(tmp_path / "maps" / "a.png")  # a user's own folder of this name
    assert listed(tmp_path) == ["a.png", "maps/a.png", "results/b.png"]


def test_pictures_of_parts_of_an_audit_and_of_a_comparison_are_left_out(tmp_path: Path):
    written = {
        "predictions/parts.jsonl": "predictions/parts/17.png",
        "audit/audit.json": "audit/thumbnails/a.jpg",
        "comparison/comparison.json": "comparison/pictures/image/thumbnails/a.jpg",
    }
    for marker, picture in written.items():
        put(tmp_path / picture)
        assert listed(tmp_path) == [picture]
        put(tmp_path / marker, b"{}")
        assert listed(tmp_path) == []


def test_a_picture_that_blemish_drew_is_known_wherever_it_lies(tmp_path: Path):
    image, heat = noise(40, 50, 3), noise(40, 50, dtype="float32")
    shown = draw.Heat(map_hw=heat, low=0, high=1, contour_level=0.5)
    draw.write_overlay(tmp_path / "photo.png", image, shown)
    draw.write_thumbnail(tmp_path / "photo.jpg", image)
    for name in ("photo.png", "photo.jpg"):
        refused(f"{name}: is a picture that blemish drew, not a photo of a part", read, tmp_path / name)
    (tmp_path / "map.png").write_bytes(draw.encode_picture(image, side=20))
    refused("blemish drew", read, tmp_path / "map.png")


# --- links, and folders that cannot be entered ---


def test_linked_folders_are_followed_once(tmp_path: Path):
    root, far = tmp_path / "good", tmp_path / "far"
    put(root / "a.png")
    put(far / "line1" / "1.png")
    put(far / "line2" / "2.png")
    put(root / ".store" / "3.png")
    (root / "line1").symlink_to(far / "line1")
    (root / "line2").symlink_to("../far/line2", target_is_directory=True)
    (root / "again").symlink_to(far / "line1")
    (root / "kept").symlink_to(root / ".store")
    assert listed(root) == ["a.png", "again/1.png", "kept/3.png", "line2/2.png"]
    (tmp_path / "entry").symlink_to(root)
    assert len(list_images(tmp_path / "entry")) == 4


@pytest.mark.parametrize("target", [".", "..", "sub", "../..", "sub/deep", "loop"])
def test_links_in_a_circle_end(tmp_path: Path, target: str):
    root = tmp_path / "set" / "good"
    put(root / "a.png")
    put(root / "sub" / "deep" / "b.png")
    put(tmp_path / "set" / "bad" / "c.png")
    if target == "loop":
        (tmp_path / "far").mkdir()
        put(tmp_path / "far" / "d.png")
        (tmp_path / "far" / "loop").symlink_to(tmp_path / "far")
        (root / "loop").symlink_to(tmp_path / "far")
        assert listed(root) == ["a.png", "loop/d.png", "sub/deep/b.png"]
    else:
        (root / "link").symlink_to(target)
        (root / "sub" / "link").symlink_to(root)
        assert listed(root) == ["a.png", "sub/deep/b.png"]


def test_a_link_that_leads_nowhere_is_an_error(tmp_path: Path):
    put(tmp_path / "a.png")
    (tmp_path / "line1").symlink_to("/nowhere/line1")
    refused("line1: is a link that leads nowhere; mount", list_images, tmp_path, error=DataError)


@pytest.mark.parametrize("place", [".", "sub", "sub/deep"])
def test_a_folder_that_cannot_be_entered_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
):
    put(tmp_path / "sub" / "deep" / "a.png")
    scandir = os.scandir

    def closed(folder: str):
        if Path(folder) == tmp_path / place:
            raise PermissionError(13, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", closed)
    text = refused("cannot be entered \\(Permission denied\\)", list_images, tmp_path, error=DataError)
    assert text.startswith(f"{tmp_path / place}: ")


def test_pipes_are_not_waited_for(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    put(tmp_path / "a.png")
    assert listed(tmp_path) == ["a.png"]


def test_the_order_is_that_of_paths(tmp_path: Path):
    for name in ("b.png", "a/z.png", "a-b/c.png", "a.png", "B/c.png", "a/b/c.png", "é.png"):
        put(tmp_path / name)
    found = list_images(tmp_path)
    assert found == sorted(found)
    shutil.rmtree(tmp_path / "a")
    assert np.array_equal(
        list_images(tmp_path), [p for p in found if "a" not in p.relative_to(tmp_path).parts]
    )
