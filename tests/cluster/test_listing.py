"""What there is to score, and stores that fail: without a cluster."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes import grey

from blemish.cluster import listing, predict, storage
from blemish.cluster.storage import OutputFolder, StoreError, with_retries
from blemish.core.errors import DataError, ImageError, UsageError
from blemish.images.folders import LeftOut
from blemish.inference.inputs import find_inputs

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
pytest.importorskip("fsspec", reason="fsspec is not installed")


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "FIRST_WAIT_S", 0)


def listed(*patterns: Path | str) -> list[listing.Input]:
    return list(listing.list_inputs(listing.find_inputs(map(str, patterns))))


def paths(*patterns: Path | str) -> list[str]:
    return [one.path for one in listed(*patterns)]


def parquet_of(path: Path, images: dict[str, bytes | None], rows: int = 3) -> Path:
    pq.write_table(
        pa.table({"path": list(images), "image": pa.array(images.values(), pa.binary())}),
        path,
        row_group_size=rows,
    )
    return path


# --- the listing ---


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Names whose order by parts is not that of their text; hidden ones, links, and what is no image."""
    names = (
        "a.png",
        "a/2.png",
        "a/10.png",
        "a-b/1.PNG",
        "a/x/1.tif",
        "a b/1.jpg",
        "Z.png",
        "é/1.png",
        "b.txt",
    )
    for name in (*names, ".hidden/1.png", "a/.hidden.png"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(b"")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "1.png").write_bytes(b"")
    (tmp_path / "in" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "link.png").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "in"


@pytest.mark.parametrize(
    "patterns",
    [
        ("in",),
        ("./in/",),
        (".",),
        ("in/a", "in/a.png", "in/b.txt"),
        ("in/a/x", "in", "in/a"),
        ("in/*.png",),
        ("in/**/*.png", "in/a*"),
        ("in/link",),
        ("../{here}/in/a", "in/a/2.png"),
    ],
)
def test_the_listing_is_that_of_predict_in_its_order(tree: Path, patterns: tuple[str, ...]):
    named = [pattern.format(here=tree.parent.name) for pattern in patterns]
    assert paths(*named) == [str(path) for path, _ in find_inputs(named)]
    assert paths(*named)


def test_what_matches_nothing_and_films_are_refused(tree: Path, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="empty: holds no image"):
        listed(tmp_path / "empty")
    with pytest.raises(UsageError, match=r"gone/\*\.png: no such file or folder, and no match as a glob"):
        listed("gone/*.png")
    (tmp_path / "film.mp4").write_bytes(b"")
    with pytest.raises(
        UsageError, match=r"film\.mp4: films are not scored on a cluster; leave --cluster out"
    ):
        listed(tmp_path / "film.mp4")
    for url in ("memory://x", "file:///x", "nothing://x"):
        with pytest.raises(UsageError, match=url):
            listed(url)


def test_an_empty_path_and_manifests_are_refused(tree: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tree)
    with pytest.raises(UsageError, match=r"^PATH: one is empty, as from a variable that is not set"):
        listed("")
    (tree / "parts.CSV").write_text("path\na.png\n")
    for given in ("parts.CSV", "*.CSV"):
        with pytest.raises(
            UsageError,
            match=r"^parts\.CSV: manifests are not read on a cluster; give its images or their folder",
        ):
            listed(given)
    (tree / "folder.csv").mkdir()
    (tree / "folder.csv" / "a.png").write_bytes(b"")
    assert paths("folder.csv") == ["folder.csv/a.png"]


def test_a_frozen_listing_is_the_listing_cut_whatever_the_names(tmp_path: Path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in (b"caf\xe9.png", b"a\nb.png", *(b"%d.png" % i for i in range(5))):
        Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_bytes(b"")
    images = parquet_of(tmp_path / "x.parquet", {"1": b"", "2": b""})
    place = OutputFolder(location=str(tmp_path / "out"))
    inputs = listed(folder, images)
    assert list(listing.write_listing(iter(inputs), place, 4)) == [4, 4, 1]
    assert [one for number in range(3) for one in listing.read_listing(place, number)] == inputs


def test_a_parquet_file_that_holds_no_images_is_refused(tmp_path: Path):
    pq.write_table(pa.table({"path": ["a"], "image": ["text"]}), tmp_path / "text.parquet")
    with pytest.raises(DataError, match=r"image \(string\); it takes path and image, a file's bytes"):
        listed(tmp_path / "text.parquet")
    (tmp_path / "cut.parquet").write_bytes(b"PAR1, and no more")
    with pytest.raises(DataError, match=r"cut\.parquet: is not a whole Parquet file"):
        listed(tmp_path / "cut.parquet")


# --- reading ---


@pytest.mark.parametrize("first", range(11))
def test_rows_of_a_parquet_file_are_read_from_anywhere(tmp_path: Path, first: int):
    images = {f"{i}": b"%d" % i for i in range(11)} | {"null": None}
    inputs = listed(
        parquet_of(tmp_path / "x.parquet", images), parquet_of(tmp_path / "y.parquet", {"z": b"z"})
    )
    taken = inputs[first:10] + inputs[12:] + inputs[3:5]
    got = [one.fetch() for one in listing.as_images(taken)]
    assert got == [*(b"%d" % i for i in range(first, 10)), b"z", b"3", b"4"]
    (null,) = listing.as_images(inputs[11:12])
    with pytest.raises(ImageError, match=r"null: row 11 of .*x\.parquet holds no bytes"):
        null.fetch()


def test_a_file_that_went_away_is_an_error_of_its_own_and_a_folder_is_one_of_the_run(tmp_path: Path):
    path = grey(tmp_path / "in" / "a.png", 1)
    (one,) = listed(path)
    content = path.read_bytes()
    assert listing.read_file(one) == content
    path.unlink()
    with pytest.raises(ImageError, match=r"a\.png: is not a file; check the path"):
        listing.read_file(one)
    listing.check_folders_exist([str(path.parent)])
    path.parent.rmdir()
    with pytest.raises(StoreError, match=r"in: is not there on .*; mount it on each node"):
        listing.check_folders_exist([str(path.parent)])


# --- stores ---


def failing(*errors: Exception) -> tuple[Callable[[], str], list[Exception]]:
    """An action that fails so often, and what is left of its errors."""
    left = list(errors)

    def action() -> str:
        if left:
            raise left.pop(0)
        return "done"

    return action, left


def test_a_store_that_fails_is_asked_six_times():
    action, _ = failing(*[TimeoutError("late")] * 5)
    assert with_retries(action, "s3://b/x") == "done"
    action, left = failing(*[ConnectionResetError("reset\nby peer")] * 8)
    with pytest.raises(
        StoreError, match=r"^s3://b/x: its store keeps failing \(ConnectionResetError: reset by peer\);"
    ):
        with_retries(action, "s3://b/x")
    assert len(left) == 2
    action, left = failing(*[PermissionError("no keys")] * 2)
    with pytest.raises(StoreError, match="no keys"):
        with_retries(action, "s3://b/x")
    assert len(left) == 1


def test_waits_between_tries_grow_and_are_spread(monkeypatch: pytest.MonkeyPatch):
    import tenacity.nap

    monkeypatch.setattr(storage, "FIRST_WAIT_S", 0.5)
    waits: list[float] = []
    monkeypatch.setattr(tenacity.nap.time, "sleep", waits.append)
    for _ in range(20):
        with pytest.raises(StoreError):
            with_retries(failing(*[TimeoutError("late")] * 6)[0], "s3://b/x")
    for k, longest in enumerate((0.5, 1, 2, 4, 8)):
        same = waits[k::5]
        assert len(same) == 20
        assert longest / 2 <= min(same) < max(same) <= longest


def test_ctrl_c_while_a_store_is_asked_is_not_a_failure_of_it():
    def interrupt() -> None:
        tries.append(1)
        raise KeyboardInterrupt

    tries: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        with_retries(interrupt, "s3://b/x")
    assert len(tries) == 1


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT])
def test_a_network_disk_that_fails_is_a_store_that_fails(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (one,) = listed(grey(tmp_path / "a.png", 1))
    tries = []

    def fail(_: Path, mode: str) -> None:
        tries.append(mode)
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "open", fail)
    with pytest.raises(StoreError, match="its store keeps failing"):
        listing.read_file(one)
    assert len(tries) == 6


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (FileNotFoundError("x"), "s3://b/x"),
        (FileNotFoundError("x"), "/x"),
        (PermissionError(errno.EACCES, "denied"), "/x"),
        (ImageError("x: is no image"), "s3://b/x"),
        (ImageError("x: is no image"), "/x"),
    ],
)
def test_an_answer_is_no_failure_and_asked_for_once(error: Exception, name: str):
    action, left = failing(error, error)
    with pytest.raises(type(error)):
        with_retries(action, name)
    assert len(left) == 1


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path):
    place = OutputFolder(location=str(tmp_path / "out"))
    with pytest.raises(ZeroDivisionError), place.temporary_for("deep/x") as part:
        part.write_text("half")
        _ = 1 / 0
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]
    place.write("deep/x", b"whole")
    assert (place.read("deep/x"), place.read("y")) == (b"whole", None)
    assert os.listdir(tmp_path / "out" / "deep") == ["x"]  # noqa: PTH208


def test_what_a_folder_holds_beside_images_is_counted(tree: Path, tmp_path: Path):
    (tree / "a.pgm").write_bytes(b"P5 1 1 255\n\xff")
    (tree / "@eaDir").mkdir()
    (tree / "@eaDir" / "b.png").touch()
    (tree / "c").write_bytes(b"\x89PNG\r\n\x1a\n")
    left_out = LeftOut()
    found = [one.path for one in listing.list_inputs(listing.find_inputs(["in"]), left_out)]
    assert "in/c" in found
    assert not any("@eaDir" in path for path in found)
    assert (left_out.by_suffix[".pgm"], left_out.parts) == (1, 1)
    place = OutputFolder(location=str(tmp_path / "out"))
    (tmp_path / "m.onnx").touch()
    scoring = predict.Scoring(model=tmp_path / "m.onnx", inputs=("in",), out="out")
    assert predict._start_run(scoring, place, lambda _: None)["left_out"] == {
        "by_suffix": {".pgm": 1, ".txt": 1},
        "parts": 1,
    }
