"""What goes through an engine: an upload, the model that scores it, and the row that comes of it."""

from __future__ import annotations

import threading
import time
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from blemish.core.errors import ImageError
from blemish.core.types import Prediction
from blemish.record.labels import Labels
from blemish.record.store import Inspection

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future
    from datetime import datetime

    from blemish.inference.detector import Detector, Prepared


ONE_LARGE = threading.Lock()
"""Held while an image of more than LARGE_PIXELS is decoded, which takes gigabytes, by whoever does it."""


@dataclass(frozen=True, kw_only=True)
class Upload:
    """An image file's bytes, and what its sender says of it."""

    data: bytes
    source: str
    name: str | None = None
    part: str | None = None
    view: str | None = None
    """Which view of the part it shows."""
    part_id: str | None = None
    """The identifier that the row of the part will have; None: the image is a part by itself."""
    key: str | None = None
    """Sent again with it, the image is recorded once."""
    labels: Labels = field(default_factory=Labels)


@dataclass(frozen=True, kw_only=True)
class Model:
    """A detector, and the digest of the file that it came from."""

    digest: str
    detector: Detector


class Recorder(Protocol):
    """What rows are given to: the store, or who puts more to them."""

    def record(self, inspections: Sequence[Inspection]) -> None:
        """Put rows on disk, all or none."""
        ...


@dataclass(eq=False)
class Job:
    """An upload on its way to its answer."""

    id: str
    time: datetime  # of its arrival, of which the identifier was made
    upload: Upload
    answer: Future[Inspection]
    began: float  # seconds of the monotonic clock
    model: Model  # one for the whole job, though it be replaced meanwhile
    size: tuple[int, int] | None = None  # height and width of the image
    prepared: Prepared | None = None

    @property
    def name(self) -> str:
        """What the sender calls the image."""
        return self.upload.name or "image"


def inspection_of(
    job: Job, result: Prediction | ImageError, image_hash: str | None, map_hash: str | None
) -> Inspection:
    """Make the row of a job, with the digests of its image and map; None: they are not kept."""
    height, width = job.size or (None, None)
    found: dict[str, Any] = result.shared_fields() if isinstance(result, Prediction) else {"score": None}
    found["path"] = job.upload.name
    labels, product = job.upload.labels, job.model.detector.model_file.product
    if product is not None:
        labels = replace(labels, product=product.name)
    return Inspection(
        **found,
        id=job.id,
        time=job.time,
        source=job.upload.source,
        part=job.upload.part,
        view=job.upload.view,
        part_id=job.upload.part_id,
        key=job.upload.key,
        **asdict(labels),
        model=job.model.digest,
        image=image_hash,
        map=map_hash,
        height=height,
        width=width,
        error=str(result) if isinstance(result, ImageError) else None,
        seconds=time.monotonic() - job.began,
    )
