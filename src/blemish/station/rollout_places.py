"""Where models are rolled out from: a folder on a shared disk, or a bucket by its https address."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from blemish.core.errors import DataError, UsageError
from blemish.station.security import is_loopback
from blemish.watch.notify import NoRedirect

TIMEOUT_S = 10.0
"""Seconds without a byte of a bucket."""
MOST_BYTES = 2**31
"""Bytes of a file of a bucket at most."""
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

    def __init__(self, address: str) -> None:
        """Take its address. Raises UsageError for one without https, or with a password in it."""
        place = urlsplit(address)
        safe = place.scheme == "https" or (place.scheme == "http" and is_loopback(place.hostname or ""))
        if not (safe and place.hostname) or place.query or place.fragment:
            raise UsageError(f"--rollout {address}: must be a folder, or a bucket as https://HOST/PATH")
        if place.username or place.password:
            raise UsageError(
                "--rollout: a password in an address is seen by all users of the machine; leave it out, "
                "and let the bucket be read without one"
            )
        self.address = address.rstrip("/")
        self._opener = urllib.request.build_opener(NoRedirect)  # which might lead to one without https

    def path_of(self, name: str) -> str:
        """Return a file's address."""
        return f"{self.address}/{name}"

    def read(self, name: str) -> bytes:
        """Read a file. Raises DataError where the bucket does not give it."""
        content = self._get(name)
        if content is None:
            raise DataError(f"{self.path_of(name)}: is not there; copy it there, and let it be read")
        return content

    def read_version(self, digest: str) -> tuple[str, bytes]:
        """Read the model file of a digest, with its name. Raises DataError where there is none."""
        for ending in ENDINGS:
            content = self._get(digest + ending)
            if content is not None:
                return digest + ending, content
        raise DataError(f"{self.address}: has no file {digest}.onnx; copy it there, and let it be read")

    def _get(self, name: str) -> bytes | None:
        """Get a file, None: it is not there. Raises DataError."""
        address = self.path_of(name)
        request = urllib.request.Request(address, headers={"User-Agent": "blemish"})
        try:
            with self._opener.open(request, timeout=TIMEOUT_S) as answer:
                content = answer.read(MOST_BYTES + 1)
                expected = answer.headers.get("Content-Length")
        except urllib.error.HTTPError as error:
            with error:
                if error.code in (403, 404):  # S3 says 403 of what is not there, to who may not list
                    return None
                raise DataError(f"{address}: the bucket answered {error.code}") from error
        except OSError as error:
            reason = getattr(error, "reason", error)
            raise DataError(f"{address}: the bucket does not answer ({reason})") from error
        if len(content) > MOST_BYTES or (expected is not None and str(len(content)) != expected):
            raise DataError(f"{address}: came in part alone, or is larger than {MOST_BYTES} bytes")
        return content


def place_of(given: str | Path) -> Place:
    """Return the place of a path or an address. Raises UsageError for an address that is not safe."""
    return Bucket(str(given)) if "://" in str(given) else Folder(Path(given))
