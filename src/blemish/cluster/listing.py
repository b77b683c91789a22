"""Listing what is to be scored: image files, folders and globs, URLs, and Parquet files that hold images.

The listing has the order in which `blemish predict` takes the same inputs. It is made as a stream, a folder
at a time, and written to Parquet files of one partition each, so that no process ever holds all of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from blemish.cluster.storage import (
    NOT_FOUND_ERRORS,
    OutputFolder,
    StoreError,
    file_system,
    is_url,
    open_parquet,
    with_retries,
)
from blemish.core.errors import DataError, UsageError
from blemish.images import decode, folders, video
from blemish.images.folders import LeftOut
from blemish.images.limits import refusal
from blemish.images.sources import Stored
from blemish.inference.inputs import make_no_image_error, match_pattern

if TYPE_CHECKING:
    import pyarrow as pa

PARQUET_SUFFIX = ".parquet"
"""The end of the names of Parquet files, whose columns `path` and `image` name an image and hold its file."""
PARQUET_BATCH_ROWS = 16
"""Images that are read from a Parquet file at a time."""


@dataclass(frozen=True, kw_only=True)
class Input:
    """One image to score."""

    path: str
    """What it is called in rows: the path as named, the URL, or what a Parquet file calls it."""
    place: str
    """Where it lies: the absolute path or the URL of its file, or of the Parquet file that holds it."""
    row: int | None
    """Its row in that Parquet file; None: the file is the image."""


# --- listing ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Root:
    """A file or a folder that the inputs name, or that a glob of theirs matches."""

    name: str
    """Its path or URL, as named."""
    is_folder: bool
    """Whether images are searched below it."""

    @property
    def place(self) -> str:
        """The absolute path, or the URL."""
        return self.name if is_url(self.name) else os.path.abspath(self.name)  # noqa: PTH100

    @property
    def folder(self) -> str | None:
        """The folder that each node has to see: itself, or the one it lies in; a URL's need not be one."""
        if self.is_folder:
            return self.place
        return None if is_url(self.name) else os.path.dirname(self.place)  # noqa: PTH120


def roots_of(pattern: str) -> list[Root]:
    """Return what an input names: a file, a folder, or what it matches as a glob, in order.

    Raises UsageError for what matches nothing or is empty, for a film and for a manifest.
    """
    if is_url(pattern):
        roots = with_retries(partial(_remote_roots, pattern), pattern)
    else:
        roots = [Root(name=str(p), is_folder=p.is_dir()) for p in match_pattern(pattern)]
    if not roots:
        raise make_no_image_error(pattern)
    for root in roots:
        if not root.is_folder and video.is_film(Path(root.name)):
            raise UsageError(f"{root.name}: films are not scored on a cluster; leave --cluster out")
        if not root.is_folder and pattern.lower().endswith(".csv"):
            cure = "give its images or their folder, or leave --cluster out"
            raise UsageError(f"{root.name}: manifests are not read on a cluster; {cure}")
    return roots


def _remote_roots(url: str) -> list[Root]:
    system, key = file_system(url)
    try:
        keys = [(key, system.info(key)["type"])]
    except FileNotFoundError:
        found = system.glob(key, detail=True) if any(c in key for c in "*?[") else {}
        keys = [(name, about["type"]) for name, about in sorted(found.items())]
    return [Root(name=system.unstrip_protocol(name), is_folder=kind == "directory") for name, kind in keys]


def find_inputs(patterns: Iterable[str]) -> dict[str, list[Root]]:
    """Find out what each input names. Raises UsageError for one that matches nothing."""
    return {pattern: roots_of(pattern) for pattern in patterns}


def list_inputs(inputs: dict[str, list[Root]], left_out: LeftOut | None = None) -> Iterator[Input]:
    """List the images of all inputs, each once; what was listed is remembered only where inputs overlap.

    Files of folders that are no image are added to `left_out`. Raises UsageError for an input without
    images, DataError for a Parquet file that is not of images and for a folder that cannot be searched.
    """
    others = LeftOut() if left_out is None else left_out
    places = sorted(root.place.split("/") for roots in inputs.values() for root in roots)
    overlap = any(b[: len(a)] == a for a, b in pairwise(places))
    seen: set[tuple[str, int | None]] = set()
    for pattern, roots in inputs.items():
        empty = True
        for one in chain.from_iterable(_below(root, others) for root in roots):
            empty = False
            key = (one.place, one.row)
            if overlap and key in seen:
                continue
            if overlap:
                seen.add(key)
            yield one
        if empty:
            raise make_no_image_error(pattern, others)


def _below(root: Root, left_out: LeftOut) -> Iterator[Input]:
    if root.is_folder:
        found = _walk_store(root.name, left_out) if is_url(root.name) else _walk_folder(root.name, left_out)
        return map(_file, found)
    return _in_parquet(root.place) if root.name.lower().endswith(PARQUET_SUFFIX) else iter([_file(root.name)])


def _file(path: str) -> Input:
    return Input(path=path, place=Root(name=path, is_folder=False).place, row=None)


def _walk_folder(folder: str, left_out: LeftOut) -> Iterator[str]:
    return (str(Path(path)) for path in folders.walk_images(folder, left_out))


def _walk_store(folder: str, left_out: LeftOut) -> Iterator[str]:
    """Yield the images below a URL in the order of their paths' parts, by their names, without hidden ones.

    What other files hold is not asked of the store: each would be a request.
    """
    for name, is_folder in sorted(_remote_entries(folder)):
        path = f"{folder.rstrip('/')}/{name}"
        if name.startswith(".") or (is_folder and folders.is_service_folder(name)):
            continue
        if is_folder:
            yield from _walk_store(path, left_out)
        elif folders.is_named_image(name):
            yield path
        else:
            left_out.add(path, b"\0")


def _remote_entries(folder: str) -> list[tuple[str, bool]]:
    system, key = file_system(folder)
    found = with_retries(partial(system.ls, key, detail=True), folder)
    names = [(about["name"].rstrip("/"), about["type"] == "directory") for about in found]
    return [(name.rsplit("/", 1)[-1], kind) for name, kind in names if name != key.rstrip("/")]


def _in_parquet(place: str) -> Iterator[Input]:
    import pyarrow as pa

    file = open_parquet(place)
    kinds = {field.name: field.type for field in file.schema_arrow}
    image = kinds.get("image", pa.null())
    if "path" not in kinds or not (pa.types.is_binary(image) or pa.types.is_large_binary(image)):
        has = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
        raise DataError(f"{place}: has the columns {has}; it takes path and image, a file's bytes"[:300])
    row = 0
    for batch in file.iter_batches(1024, columns=["path"]):
        for path in batch["path"].to_pylist():
            yield Input(path=str(path), place=place, row=row)
            row += 1


# --- the written listing ----------------------------------------------------------------------------------


def _schema() -> pa.Schema:
    import pyarrow as pa

    # bytes, as the names of files need not be text
    return pa.schema([("path", pa.binary()), ("place", pa.binary()), ("row", pa.int64())])


def _listing_name(number: int) -> str:
    # no part to whoever reads the folder as one table, nor to a glob of *.parquet
    return f"_inputs/{number:06d}.listing"


def write_listing(inputs: Iterable[Input], place: OutputFolder, size: int, first: int = 0) -> Iterator[int]:
    """Write the listing, `size` inputs a file from number `first` on; yields how many inputs each got."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    waiting, number = iter(inputs), first
    while some := list(islice(waiting, size)):
        rows = [{"path": os.fsencode(i.path), "place": os.fsencode(i.place), "row": i.row} for i in some]
        table = pa.Table.from_pylist(rows, _schema())
        with place.temporary_for(_listing_name(number)) as part:
            pq.write_table(table, part, compression="zstd")
        number += 1
        yield len(some)


def read_listing(place: OutputFolder, number: int) -> list[Input]:
    """Read one file of the listing."""
    table = open_parquet(place.path_of(_listing_name(number))).read().to_pydict()
    rows = zip(table["path"], table["place"], table["row"], strict=True)
    return [Input(path=os.fsdecode(p), place=os.fsdecode(at), row=row) for p, at, row in rows]


# --- reading ----------------------------------------------------------------------------------------------


def check_folders_exist(folders: Iterable[str]) -> None:
    """Raise StoreError for a folder that is not there: it is not mounted, and its files are not missing."""
    for folder in folders:
        if is_url(folder):
            system, key = file_system(folder)
            there = with_retries(partial(system.exists, key), folder)
        else:
            there = Path(folder).is_dir()
        if not there:
            raise StoreError(f"{folder}: is not there on {os.uname().nodename}; mount it on each node")


def as_images(inputs: Iterable[Input]) -> Iterator[Stored]:
    """Turn inputs into images. Files are read when they are decoded, a Parquet file's rows in order.

    A fetch raises ImageError for a file that is missing or no image, StoreError when its store fails.
    """
    rows: Iterator[bytes | None] = iter(())
    before: tuple[str, int | None] | None = None
    for one in inputs:
        if one.row is None:
            fetch = partial(read_file, one)
        else:
            if before != (one.place, one.row - 1):
                rows = _images_from(one.place, one.row)
            fetch = partial(_image_in, one, next(rows, None))
        before = (one.place, one.row)
        yield Stored(path=one.path, fetch=fetch)


def read_file(one: Input) -> bytes:
    """Read a file's bytes, trying again while its store fails.

    Raises ImageError, one line, for a file that is missing, and StoreError when the store keeps failing.
    """
    if not is_url(one.place):
        return with_retries(partial(decode.read_bytes, one.place, name=one.path), one.place)
    system, key = file_system(one.place)
    try:
        return with_retries(partial(system.cat_file, key), one.place)
    except NOT_FOUND_ERRORS as error:
        raise refusal(one.path, "is not a file; check the path") from error


def _image_in(one: Input, content: bytes | None) -> bytes:
    if not isinstance(content, bytes):
        raise refusal(one.path, f"row {one.row} of {one.place} holds no bytes; write the image's file there")
    return content


def _images_from(place: str, first: int) -> Iterator[bytes | None]:
    """Yield the column `image` from a row on, from its group of rows on."""
    file = open_parquet(place)
    group = 0
    while first >= (rows := file.metadata.row_group(group).num_rows):
        first, group = first - rows, group + 1
    groups = list(range(group, file.num_row_groups))
    for batch in file.iter_batches(PARQUET_BATCH_ROWS, row_groups=groups, columns=["image"]):
        for value in batch["image"].slice(first):
            yield value.as_py()
        first = max(0, first - len(batch))
