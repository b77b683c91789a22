"""Training from the station: images are gathered, then one job at a time learns from them, across restarts.

    folder/trainings/<id>/job.json    what is wanted, and what became of it
                          images/     what was uploaded, by the SHA-256 of its bytes
                          run/        the run folder of `blemish train`
                          progress    what the job has said last

A job is a process of its own, so that it can neither slow the service's threads nor take it down. It is told
to stop when the station ends, saves its checkpoint, and goes on from it at the next start.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import threading
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from blemish.core.errors import ConflictError, DataError, NotFoundError, UsageError, one_line
from blemish.core.files import make_folder, write_whole
from blemish.images.decode import decode
from blemish.images.folders import list_images
from blemish.images.limits import limit_pixels
from blemish.record.identifiers import new_id

if TYPE_CHECKING:
    from collections.abc import Callable

State = Literal["collecting", "waiting", "running", "done", "failed", "cancelled"]
LEAST_IMAGES = 10
"""Good images below which no training is begun: less than that is no sample of anything."""
RETRY_S = 30.0
"""Seconds until the jobs are looked at again, after what the disk or the system has refused."""
_SUFFIXES = {b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"BM": ".bmp", b"RIFF": ".webp"}


@dataclass(frozen=True, kw_only=True)
class Training:
    """A job: what is wanted, and what became of it. Times are UTC."""

    id: str
    name: str
    method: str
    preset: str
    created: str
    state: State = "collecting"
    source: str | None = None
    """A folder of the station's training data, by name; None: what was uploaded."""
    error: str | None = None
    model: str | None = None
    """The digest of the model that it made."""


class Trainings:
    """The jobs of a station, and the thread that does them one after another."""

    def __init__(
        self,
        folder: Path,
        *,
        data: Path | None,
        max_pixels: int,
        on_model: Callable[[Path, str], str],
        device: str = "auto",
        make_id: Callable[[datetime], str] = new_id,
    ) -> None:
        """Go on with what is unfinished.

        `data` holds the folders that may be named, `on_model` takes a finished run and its name into use and
        returns the model's digest.
        """
        self.folder, self.data, self.max_pixels = folder, data, max_pixels
        self.on_model, self.device, self.make_id = on_model, device, make_id
        self._lock, self._news, self._ending = threading.Lock(), threading.Event(), threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._learnt = ""  # the job whose model is taken into use, or was last
        self._thread = threading.Thread(target=self._run, name="trainings", daemon=True)
        self._thread.start()
        self._news.set()

    # --- what can be asked for ---

    def sources(self) -> list[str]:
        """Return the names of the folders that hold images and may be named."""
        if self.data is None:
            return []
        return [child.name for child in sorted(self.data.iterdir()) if child.is_dir() and list_images(child)]

    def create(self, *, name: str, method: str, preset: str, source: str | None) -> Training:
        """Begin a job. Raises UsageError for a folder that is not among `sources`."""
        if source is not None and source not in self.sources():
            raise UsageError(f"source {source!r}: is none of the station's folders of training images")
        now = datetime.now(UTC)
        made = Training(
            id=self.make_id(now),
            name=name,
            method=method,
            preset=preset,
            created=now.isoformat(timespec="seconds"),
            source=source,
        )
        make_folder(self._place(made.id) / "images")
        self._write(made)
        return made

    def add_image(self, id: str, data: bytes) -> int:
        """Add a good image to a job that is collecting; returns how many it has. Raises ImageError."""
        job = self._in_state(id, "collecting")
        if job.source is not None:
            raise ConflictError(f"training {id}: takes its images from {job.source!r}, not from uploads")
        with limit_pixels(self.max_pixels):
            decode(data)
        suffix = next((s for magic, s in _SUFFIXES.items() if data.startswith(magic)), ".tif")
        images = self._place(id) / "images"
        write_whole(images / f"{hashlib.sha256(data).hexdigest()}{suffix}", data, durable=True)
        return len(list_images(images))

    def start(self, id: str) -> Training:
        """Queue a job. Raises DataError when it has too few images."""
        with self._lock:
            job = self._in_state(id, "collecting")
            if job.source is None and (n := len(list_images(self._place(id) / "images"))) < LEAST_IMAGES:
                raise DataError(f"training {id}: has {n} images; give {LEAST_IMAGES} good ones or more")
            job = self._write(replace(job, state="waiting"))
        self._news.set()
        return job

    def cancel(self, id: str) -> Training:
        """Stop a job for good; what is finished cannot be cancelled."""
        with self._lock:
            job = self._in_state(id, "collecting", "waiting", "running")
            if id == self._learnt:
                raise ConflictError(f"training {id}: has ended; its model is taken into use now")
            job = self._write(replace(job, state="cancelled"))
            if self._process is not None and self._current == id:
                self._process.terminate()
        return job

    def get(self, id: str) -> Training:
        """Return a job. Raises NotFoundError when there is none."""
        job = self._read(id)
        if job is None:
            raise NotFoundError(f"training {id}: there is none")
        return job

    def all(self) -> list[Training]:
        """Return the jobs, oldest first."""
        places = sorted(self.folder.glob("[!.]*"))
        return [job for place in places if (job := self._read(place.name)) is not None]

    def progress(self, id: str) -> dict[str, Any]:
        """Return what a running job has said last: `share` done in [0, 1], `what`, `seconds_left`."""
        try:
            return json.loads((self._place(id) / "progress").read_text())
        except FileNotFoundError:
            return {}

    def images(self, id: str) -> int:
        """Return how many images were uploaded for a job."""
        return len(list_images(self._place(id) / "images"))

    def remove_unused(self, keep: Callable[[list[str]], set[str]], *, before: float) -> list[str]:
        """Remove jobs that last changed before a time (seconds since 1970), with their images.

        Kept are those that wait or run, and those whose model `keep` names. Returns the identifiers.
        """
        with self._lock:
            old = [job for job in self.all() if job.state not in ("waiting", "running")]
            old = [job for job in old if self._changed(job.id) < before]
            kept = keep([job.model for job in old if job.model is not None])
            unused = [job.id for job in old if job.model not in kept]
            for id in unused:
                gone = self.folder / f".{id}"
                self._place(id).rename(gone)  # from here on there is no such job
                shutil.rmtree(gone)
        return unused

    def _changed(self, id: str) -> float:
        place = self._place(id)
        return max(each.stat().st_mtime for each in (place / "job.json", place / "images"))

    def close(self) -> None:
        """Stop the job in hand, whose checkpoint is saved, and the thread."""
        self._ending.set()
        self._news.set()
        with self._lock:
            if self._process is not None:
                self._process.terminate()
        self._thread.join()

    # --- the thread ---

    def _run(self) -> None:
        last = ""
        while not self._ending.is_set():
            try:
                job = next((j for j in self.all() if j.state in ("running", "waiting")), None)
                if job is None:
                    self._news.wait()
                    self._news.clear()
                else:
                    self._do(job)
            except Exception as error:  # such as a full disk; a dead thread would do no training any more
                said = f"trainings: {one_line(error, 500)}; tried again every {RETRY_S:.0f} s"
                if said != last:
                    print(f"blemish serve: {said}", file=sys.stderr, flush=True)
                last = said
                self._ending.wait(RETRY_S)

    def _do(self, job: Training) -> None:
        with self._lock:
            if self._ending.is_set() or self._read(job.id) != job:
                return
            self._write(replace(job, state="running"))
            process = self._process = self._begin(job)
            self._current = job.id
        code = process.wait()
        with self._lock:
            self._process = None
            job = self._read(job.id) or job
            if job.state == "cancelled" or (self._ending.is_set() and code != 0):
                return
            if code != 0:
                said = (self._place(job.id) / "output.txt").read_text(errors="replace").splitlines()
                error = said[-1][:500] if said else f"exit code {code}"
                self._write(replace(job, state="failed", error=error))
                return
            self._learnt = job.id
        self._finish(job)

    def _begin(self, job: Training) -> subprocess.Popen[bytes]:
        place = self._place(job.id)
        worker = [sys.executable, "-m", "blemish.station.training_worker"]
        with (place / "output.txt").open("ab") as output:
            return subprocess.Popen(
                [*worker, str(place), str(self._images(job)), self.device], stdout=output, stderr=output
            )

    def _finish(self, job: Training) -> None:
        try:
            digest = self.on_model(self._place(job.id) / "run", job.name)
        except Exception as error:  # a model that cannot be taken into use is a failed job
            self._write(replace(job, state="failed", error=one_line(error, 500)))
        else:
            self._write(replace(job, state="done", model=digest))

    def _images(self, job: Training) -> Path:
        if job.source is None:
            return self._place(job.id) / "images"
        assert self.data is not None
        return self.data / job.source

    def _in_state(self, id: str, *states: State) -> Training:
        """Return a job in one of these states. Raises ConflictError for one in another, NotFoundError."""
        job = self.get(id)
        if job.state not in states:
            raise ConflictError(
                f"training {id}: is {job.state}; this is possible only while it is {' or '.join(states)}"
            )
        return job

    def _read(self, id: str) -> Training | None:
        try:
            return Training(**json.loads((self._place(id) / "job.json").read_text()))
        except FileNotFoundError:
            return None

    def _place(self, id: str) -> Path:
        if not (len(id) == 26 and id.isalnum()):  # never a path
            raise UsageError(f"training {id!r}: is no identifier")
        return self.folder / id

    def _write(self, job: Training) -> Training:
        write_whole(self._place(job.id) / "job.json", json.dumps(asdict(job), indent=2) + "\n", durable=True)
        return job
