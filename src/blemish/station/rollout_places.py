"""Where models are rolled out from: a folder on a shared disk, or a bucket by its https address."""

from __future__ import annotations

import re
import threading
import time
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from blemish.core.errors import DataError, UsageError
from blemish.station.security import is_loopback
from blemish.watch.notify import NoRedirect

if TYPE_CHECKING:
    from http.client import HTTPResponse

TIMEOUT_S, LONGEST_S = 10.0, 300.0
"""Seconds without a byte of a bucket, and of a whole file of it, at most."""
MOST_BYTES, MOST_BYTES_NAMES = 2**31, 2**20
"""Bytes of a model file of a bucket at most, and of the file that names the versions."""
ENDINGS = (".onnx", ".safetensors")


class Place(Protocol):
    """Where the files of a rollout lie."""

    def path_of(self, name: str) -> str:
        """Return a file's path or address, as it is told."""
        ...

    def read(self, name: str) -> bytes:
        """Read a file. Raises DataError or OSError."""
        ...

    def read_version(self, digest: str) -> tuple[str, bytes]:
        """Read the model file of a digest, with its name. Raises DataError where there is none."""
        ...


class Folder:
    """A folder that all stations see."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path_of(self, name: str) -> str:
        """Return a file's path."""
        return str(self.folder / name)

    def read(self, name: str) -> bytes:
        """Read a file. Raises OSError."""
        return (self.folder / name).read_bytes()

    def read_version(self, digest: str) -> tuple[str, bytes]:
        """Read the model file of a digest, with its name. Raises DataError where there is none."""
        found = sorted(self.folder.glob(f"{digest}.*"))
        if not found:
            raise DataError(f"{self.folder}: has no file {digest}.onnx; copy it there")
        return found[0].name, found[0].read_bytes()


class Bucket:
    """A bucket, or a folder of a web server, whose files are read by GET without a log-in."""

    def __init__(self, address: str, closing: threading.Event | None = None) -> None:
        """Take its address; a file that comes when `closing` is set is given up.

        Raises UsageError for an address without https, or with a password in it.
        """
        if address.startswith("s3:"):
            raise UsageError(
                f"--rollout {address}: blemish has no log-in for S3; give the bucket's https address, as "
                "https://HOST/BUCKET, or that of a gateway, and let the stations' network read it"
            )
        if "@" in address.split("/", 3)[2]:
            raise UsageError(
                "--rollout: a password in an address is seen by all users of the machine; leave it out, "
                "and let the bucket be read without one"
            )
        if not _is_safe(address):
            raise UsageError(f"--rollout {address}: must be a folder, or a bucket as https://HOST/PATH")
        self.address, self._closing = address.rstrip("/"), closing or threading.Event()
        self._opener = urllib.request.build_opener(NoRedirect)  # which might lead to one without https

    def path_of(self, name: str) -> str:
        """Return a file's address."""
        return f"{self.address}/{name}"

    def read(self, name: str) -> bytes:
        """Read a file. Raises DataError where the bucket does not give it."""
        content = self._get(name, MOST_BYTES_NAMES)
        if content is None:
            raise DataError(f"{self.path_of(name)}: is not there; copy it there, and let it be read")
        return content

    def read_version(self, digest: str) -> tuple[str, bytes]:
        """Read the model file of a digest, with its name. Raises DataError where there is none."""
        for ending in ENDINGS:
            content = self._get(digest + ending, MOST_BYTES)
            if content is not None:
                return digest + ending, content
        raise DataError(f"{self.address}: has no file {digest}.onnx; copy it there, and let it be read")

    def _get(self, name: str, most: int) -> bytes | None:
        """Get a file of so many bytes at most, None: it is not there. Raises DataError."""
        address = self.path_of(name)
        request = urllib.request.Request(address, headers={"User-Agent": "blemish"})
        try:
            with self._opener.open(request, timeout=TIMEOUT_S) as answer:
                return self._whole(answer, address, most)
        except urllib.error.HTTPError as error:
            with error:
                if error.code in (403, 404):  # S3 says 403 of what is not there, to who may not list
                    return None
                raise DataError(f"{address}: the bucket answered {error.code}") from error
        except (OSError, HTTPException, ValueError) as error:  # ValueError: of an answer that is no HTTP
            line = " ".join(str(getattr(error, "reason", error)).split()) or type(error).__name__
            raise DataError(f"{address}: the bucket does not answer ({line})") from error

    def _whole(self, answer: HTTPResponse, address: str, most: int) -> bytes:
        """Read an answer to its end. Raises DataError for one that is too large, too slow or not whole."""
        pieces, size, until = [], 0, time.monotonic() + LONGEST_S
        while piece := answer.read1(2**20):
            pieces.append(piece)
            size += len(piece)
            if size > most:
                raise DataError(f"{address}: is larger than {most} bytes; is it the right file?")
            if self._closing.is_set() or time.monotonic() > until:
                raise DataError(f"{address}: did not come in time; it is tried again")
        expected = answer.headers.get("Content-Length")
        if expected is not None and str(size) != expected:
            raise DataError(f"{address}: came in part alone; it is tried again")
        return b"".join(pieces)


def _is_safe(address: str) -> bool:
    """Whether an address is of https, or of this machine, and has nothing but a host, a port and a path."""
    try:
        place = urlsplit(address)
        safe = place.scheme == "https" or (place.scheme == "http" and is_loopback(place.hostname or ""))
        whole = bool(place.hostname) and place.port != 0 and not place.query and not place.fragment
    except ValueError:  # brackets that do not match, a port that is no number
        return False
    return safe and whole and re.fullmatch("[!-~]+", address) is not None


def place_of(given: str | Path, closing: threading.Event | None = None) -> Place:
    """Return the place of a path or an address. Raises UsageError for an address that is not safe."""
    return Bucket(str(given), closing) if "://" in str(given) else Folder(Path(given))
