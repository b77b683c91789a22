"""Which files of a folder are images: by content where the name does not say it, and nothing lost in silence.

Decisions (our choice):

- A file named as an image (`SUFFIXES`, in any case) is one, so that reading it says what is wrong with it.
  Any other file is one if it begins as one. What is left out is counted by suffix (`LeftOut`).
- Hidden files and folders are left out, and what machines make for themselves: thumbnails, recycle bins.
- The pictures that blemish wrote, as maps and overlays, are left out: those beside the file that names them.
- Links to folders are followed. One that leads to where the search has been, or will come, is not.
- A folder that cannot be entered is an error, and so is a link that leads nowhere.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from blemish.core.errors import DataError
from blemish.images.decode import is_image_head

_NAMED = ".png .jpg .jpeg .jpe .jif .jfif .jfi .pjpeg .pjp .tif .tiff .btf .tf8 .bmp .dib .webp"
_RAW = ".3fr .arw .cr2 .dng .iiq .kdc .nef .orf .pef .raw .rw2 .sr2 .srw"
_UNFINISHED = ".crdownload .download .filepart .inprogress .opdownload .part .partial .tmp .uploading"
_BESIDE = """
.7z .bat .cfg .csv .db .dll .doc .docx .exe .gz .htm .html .ini .ipynb .json .jsonl .lnk .log .md .md5 .odt
.onnx .parquet .pdf .pkl .ppt .pptx .pt .pth .py .rar .rst .rtf .safetensors .sh .sha256 .sqlite .svg .tar
.toml .tsv .txt .url .xls .xlsx .xml .xmp .yaml .yml .zip
"""
_SERVICE = """
@eadir @recycle @recently-snapshot @sharebin @tmp @transcode #recycle #snapshot ~snapshot $recycle.bin
recycler recycled trashbox files_trashbin files_versions lost+found __macosx config.msi
thevolumesettingsfolder
"""
SUFFIXES = frozenset(_NAMED.split())
"""The names of image files, in lower case; compared without regard to case."""
RAW_SUFFIXES = frozenset(_RAW.split())
"""Raw photos: they begin as a TIFF whose first image is a small preview, so they are not read."""
UNFINISHED_SUFFIXES = frozenset(_UNFINISHED.split())
"""Files that another program has not written to their end."""
COMPANION_SUFFIXES = frozenset(_BESIDE.split())
"""Files that lie beside images and show no part."""
SERVICE_FOLDERS = frozenset(
    (*_SERVICE.split(), "system volume information", "network trash folder", "temporary items")
)
"""Folders that storage and desktop systems make for themselves, in lower case: Synology, QNAP, NetApp,
Buffalo, Nextcloud, Windows, macOS, Linux. Those that begin with a dot are hidden."""
_SERVICE_FILES = re.compile(
    r"(thumbs|ehthumbs|ehthumbs_vista)\.db|desktop\.ini|icon\r|zbthumbnail\.info"
    r"|syno(photo|file|video|index)_.*|.*@syno(resource|eastream)",
    re.IGNORECASE,
)
_RESCUED = re.compile(r"found\.\d{3}", re.IGNORECASE)  # what Windows made of lost clusters

OWN_FOLDERS = {
    "predictions.jsonl": ("maps", "overlays"),
    "predictions.csv": ("maps", "overlays"),
    "inspections.jsonl": ("maps", "overlays", "archive"),
    "summary.json": (),
    "parts.jsonl": ("parts",),
    "evaluation.json": ("overlays", "thumbnails"),
    "audit.json": ("overlays", "thumbnails"),
    "comparison.json": ("pictures",),
    "station.db": ("archive",),
}
"""Where the pictures lie that blemish wrote: folders beside the file that names them."""


@dataclass
class LeftOut:
    """Files that are no image of a known format, by suffix; `parts` of them may show parts all the same."""

    by_suffix: Counter[str] = field(default_factory=Counter)
    parts: int = 0

    def add(self, path: str, head: bytes) -> None:
        """Count a file; `head` are its first bytes. Text and well-known companions show no part."""
        suffix = os.path.splitext(path)[1].lower()  # noqa: PTH122
        self.by_suffix[suffix] += 1
        if suffix not in COMPANION_SUFFIXES and (not _is_text(head) or re.match(rb"P[1-6]\s", head)):
            self.parts += 1

    def __str__(self) -> str:
        """Name them, those first that are the most: "8 .pgm, 1 without a suffix"."""
        counts = sorted(self.by_suffix.items(), key=lambda pair: (-pair[1], pair[0]))
        return ", ".join(f"{count} {suffix or 'without a suffix'}" for suffix, count in counts)

    def __bool__(self) -> bool:
        """Whether anything was left out."""
        return bool(self.by_suffix)


def list_images(folder: str | os.PathLike[str], left_out: LeftOut | None = None) -> list[Path]:
    """List the images of a folder and its sub-folders, sorted, by the rules at the top of this module.

    A broken link that is named as an image is listed, so that reading it says so. What is left out is added
    to `left_out`. Raises DataError where there is no such folder, for a folder that cannot be entered and for
    a link that leads nowhere.
    """
    if not Path(folder).is_dir():
        raise DataError(f"{folder}: is not a folder; check the path")
    return [Path(path) for path in walk_images(folder, left_out)]


def walk_images(folder: str | os.PathLike[str], left_out: LeftOut | None = None) -> Iterator[str]:
    """Yield what `list_images` lists, in its order, as plain text."""
    for path in walk_files(folder):
        if is_named_image(path):
            yield path
            continue
        head = first_bytes(path)
        if head is not None and is_image_by_content(path, head):
            yield path
        elif head is not None and left_out is not None:
            left_out.add(path, head)


def is_named_image(path: str) -> bool:
    """Whether a file is named as an image."""
    return os.path.splitext(path)[1].lower() in SUFFIXES  # noqa: PTH122


def is_image_by_content(path: str, head: bytes) -> bool:
    """Whether a file that is not named as an image begins as one, and is neither raw nor unfinished."""
    suffix = os.path.splitext(path)[1].lower()  # noqa: PTH122
    return suffix not in RAW_SUFFIXES | UNFINISHED_SUFFIXES and is_image_head(head)


def first_bytes(path: str) -> bytes | None:
    """Return the first bytes of a file, none where it cannot be read; None: it is gone, or no file at all.

    Raises DataError for a link that leads nowhere: its images are missed, not absent.
    """
    try:
        if not os.path.isfile(path):  # noqa: PTH113
            if os.path.islink(path) and not os.path.exists(path):  # noqa: PTH114, PTH110
                raise DataError(f"{path}: is a link that leads nowhere; mount what it leads to, or remove it")
            return None  # a pipe or a socket
        with open(path, "rb") as file:  # noqa: PTH123
            return file.read(64)
    except OSError:
        return b""


def walk_files(
    folder: str | os.PathLike[str],
    *,
    skip: Callable[[str], bool] = lambda _: False,
    on_error: Callable[[OSError, str], None] | None = None,
) -> Iterator[str]:
    """Yield the files below a folder in the order of their paths' parts, without what is left out unseen.

    Folders that `skip` holds of are left out. `on_error` is told of each folder that cannot be entered;
    without it this raises DataError.
    """
    yield from _walk(os.fspath(folder), _Links(folder), skip, on_error or _refuse_folder)


def _walk(
    folder: str, links: _Links, skip: Callable[[str], bool], on_error: Callable[[OSError, str], None]
) -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:
            found = sorted((e.name, e) for e in entries)
    except OSError as error:
        on_error(error, folder)
        return
    own = {name for marker in OWN_FOLDERS.keys() & {n for n, _ in found} for name in OWN_FOLDERS[marker]}
    for name, entry in found:
        path = os.path.join(folder, name)  # noqa: PTH118
        if name.startswith("."):
            continue
        if not _is_folder(entry):
            if name not in OWN_FOLDERS and not _SERVICE_FILES.fullmatch(name):
                yield path
        elif not (is_service_folder(name) or name in own or skip(path)) and (
            not entry.is_symlink() or links.follow(path)
        ):
            yield from _walk(path, links, skip, on_error)


def is_service_folder(name: str) -> bool:
    """Whether a folder is one that a storage or desktop system makes for itself."""
    return name.casefold() in SERVICE_FOLDERS or bool(_RESCUED.fullmatch(name))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle, or into what may not be entered
        return False


def _refuse_folder(error: OSError, folder: str) -> None:
    raise DataError(f"{folder}: cannot be entered ({error.strerror}); check its rights") from error


class _Links:
    """Which links to folders to follow: not those to what is searched anyway, nor twice to the same place."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = os.path.realpath(root)
        self.followed: list[str] = []

    def follow(self, path: str) -> bool:
        """Whether to follow a link."""
        target = os.path.realpath(path)
        below = os.path.relpath(target, self.root) if _contains(self.root, target) else ""
        found_anyway = below and not any(_is_left_out(part) for part in Path(below).parts)
        if found_anyway or _contains(target, self.root) or any(_contains(p, target) for p in self.followed):
            return False
        self.followed.append(target)
        return True


def _is_left_out(folder: str) -> bool:
    return folder.startswith(".") or is_service_folder(folder)


def _contains(folder: str, path: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def _is_text(head: bytes) -> bool:
    """Whether bytes are text in UTF-8, of which the last character may be cut off."""
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:
            return False
        text = head[: error.start].decode("utf-8")
    return all(c.isprintable() or c.isspace() or c == "\ufeff" for c in text)
