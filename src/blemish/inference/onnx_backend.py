"""Exported models without torch: numpy and onnxruntime, and the same inference path as everywhere else.

An exported file is an ONNX graph, images (B, C, h, w) -> scores, with the model's description and calibration
in its metadata (`blemish.export.onnx` writes it). Everything around the graph is `detector`.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from blemish.core.errors import ConflictError, ModelError, UsageError
from blemish.inference.backend import Output
from blemish.inference.detector import Detector
from blemish.inference.model_file import calibration_tensors, describe, model_file_bytes, model_file_of
from blemish.inference.parity import differences, too_large
from blemish.inference.providers import CPU, open_session

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx
    import onnxruntime

    from blemish.inference.model_file import ModelFile

SUFFIX = ".onnx"
DESCRIPTION, CALIBRATION, PORTION = "blemish", "blemish.calibration", "blemish.scoring_batch"
"""Keys of the metadata: the description as in a model file, the calibration's scores, images per call."""
INPUT, OUTPUT = "input_images", "output_scores"
IMAGE_SCORES = "image_scores"
"""The second output of a method with image scores of its own."""


class OnnxBackend:
    """Runs an exported graph by ONNX Runtime. A pickle of it holds the whole file, for another process."""

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        portion: int | None,
        *,
        content: Callable[[], bytes],
        threads: int | None = None,
        provider: str = CPU,
    ) -> None:
        """Take an open session; it is given `portion` images at a time at most, None: any number.

        `content` returns the bytes that the session was opened from, with so many `threads`, by a `provider`.
        """
        self.session, self.portion, self.content = session, portion, content
        self.threads, self.provider = threads, provider

    def __reduce__(self) -> tuple[Callable[..., OnnxBackend], tuple[bytes, int | None, int | None, str]]:
        """Return what makes an equal one. Raises ModelError when the file has changed since it was opened."""
        return _reopen, (self.content(), self.portion, self.threads, self.provider)

    def run(self, images: np.ndarray) -> Output:
        """Score images, float32 (B, C, h, w)."""
        step = self.portion or len(images)
        parts = [self.session.run(None, {INPUT: images[i : i + step]}) for i in range(0, len(images), step)]
        return Output(*(np.concatenate(list(map(np.asarray, kind))) for kind in zip(*parts, strict=True)))


def load_exported(
    path: str | Path,
    *,
    allow: frozenset[str] = frozenset(),
    false_alarm_rate: float | None = None,
    review_rate: float | None = None,
    batch_size: int = 16,
    threads: int | None = None,
    provider: str = CPU,
) -> Detector:
    """Load an exported model.

    `allow`, the rates and `batch_size` are those of `Detector`; `threads` run the graph, None: as many as
    there are cores. `provider` is one of `PROVIDERS`; any other than cpu must answer as that does. Raises
    ModelError, one line, for a file that is not an exported blemish model or that the provider computes
    otherwise, UsageError for a rate that cannot be promised and a provider that cannot be had.
    """
    file = Path(path)
    content = _Unchanged(file)
    session = _session(file, threads, provider)
    metadata = session.get_modelmeta().custom_metadata_map
    if DESCRIPTION not in metadata:
        raise ModelError(f"{file}: an ONNX file, but no blemish model; write one with `blemish export`")
    try:
        arrays = json.loads(metadata.get(CALIBRATION, "{}"))
        calibration = {name: np.array(values, np.float64) for name, values in arrays.items()}
        portion = int(metadata.get(PORTION, 0)) or None
    except (ValueError, AttributeError, TypeError) as error:
        raise ModelError(f"{file}: its calibration is damaged ({error}); export it again") from error
    model_file = model_file_of(file, metadata[DESCRIPTION], calibration)
    shape = (model_file.image_format.channels, *model_file.size)
    _check_shape(file, session, shape)
    backend = OnnxBackend(session, portion, content=content, threads=threads, provider=provider)
    if provider != CPU:
        _check_parity(file, backend, shape)
    return Detector(
        model_file=model_file,
        backend=backend,
        allow=allow,
        false_alarm_rate=false_alarm_rate,
        review_rate=review_rate,
        batch_size=batch_size,
    )


def attach(graph: onnx.ModelProto, model_file: ModelFile, *, portion: int | None) -> None:
    """Put into a graph's metadata what inference needs: a model file without its tensors, images per call."""
    described = {
        DESCRIPTION: describe(model_file),
        CALIBRATION: json.dumps({k: v.tolist() for k, v in calibration_tensors(model_file).items()}),
        **({} if portion is None else {PORTION: str(portion)}),
    }
    del graph.metadata_props[:]
    for key, value in described.items():
        entry = graph.metadata_props.add()
        entry.key, entry.value = key, value


def portion_of(graph: onnx.ModelProto) -> int | None:
    """Return how many images a graph is given at a time at most, None: any number."""
    return next((int(entry.value) for entry in graph.metadata_props if entry.key == PORTION), None)


def version_bytes(source: Path, model_file: ModelFile) -> bytes:
    """Return the content of a model file of the kind of `source`, whose network it has.

    Raises ConflictError where an exported model needs the package onnx and it is missing.
    """
    if source.suffix.lower() != SUFFIX:
        return model_file_bytes(model_file)
    try:
        import onnx
    except ImportError as error:
        raise ConflictError("a new version of an exported model needs onnx; pip install onnx") from error
    graph = onnx.load(str(source))
    attach(graph, model_file, portion=portion_of(graph))
    return graph.SerializeToString()


class _Unchanged:
    """The bytes of a file, as long as it is the one that was there at first."""

    def __init__(self, file: Path) -> None:
        self.file, self.signature = file, _signature(file)

    def __call__(self) -> bytes:
        try:
            content = self.file.read_bytes()
        except OSError as error:
            raise ModelError(
                f"{self.file}: cannot be read any more ({error.strerror}); load the model again"
            ) from error
        if _signature(self.file) != self.signature:
            raise ModelError(f"{self.file}: has changed since it was loaded; load the model again")
        return content


def _signature(file: Path) -> tuple[int, int, int] | None:
    try:
        about = file.stat()
    except OSError:
        return None
    return about.st_ino, about.st_size, about.st_mtime_ns


def _reopen(content: bytes, portion: int | None, threads: int | None, provider: str) -> OnnxBackend:
    """Make a backend of what a pickle holds."""
    session = open_session(content, threads, provider)
    return OnnxBackend(session, portion, content=partial(bytes, content), threads=threads, provider=provider)


def _session(file: Path, threads: int | None, provider: str) -> onnxruntime.InferenceSession:
    try:
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise UsageError(f"{file}: onnxruntime is missing; pip install 'blemish[onnx]'") from error
    if not file.is_file():
        raise ModelError(f"{file}: there is no model here; name a file that `blemish export` wrote")
    try:
        session = open_session(str(file), threads, provider)
    except UsageError:
        raise
    except Exception as error:  # onnxruntime's errors have no common base
        line = " ".join(str(error).split()).rsplit(") ", 1)[-1][-200:]  # the cause comes last
        raise ModelError(
            f"{file}: onnxruntime cannot run it ({line}); export it again, or upgrade onnxruntime"
        ) from error
    names = [i.name for i in session.get_inputs()], [o.name for o in session.get_outputs()]
    if names not in (([INPUT], [OUTPUT]), ([INPUT], [OUTPUT, IMAGE_SCORES])):
        raise ModelError(f"{file}: an ONNX file, but no blemish model; write one with `blemish export`")
    return session


def _check_parity(file: Path, backend: OnnxBackend, shape: tuple[int, int, int]) -> None:
    """Refuse a provider by which a graph for images (C, h, w) answers otherwise than by the CPU's code."""
    exact = OnnxBackend(
        _session(file, backend.threads, CPU),
        backend.portion,
        content=backend.content,
        threads=backend.threads,
    )
    if (wrong := too_large(differences(exact, backend, shape))) is not None:
        raise ModelError(
            f"{file}: by --provider {backend.provider} its output differs from the CPU's by {wrong}; "
            "leave --provider out"
        )


def _check_shape(file: Path, session: onnxruntime.InferenceSession, shape: tuple[int, ...]) -> None:
    """Refuse a graph that takes other images (C, h, w) than its metadata describes."""
    taken = tuple(session.get_inputs()[0].shape[1:])
    if taken != shape:
        raise ModelError(
            f"{file}: its graph takes images {taken}, its description says {shape}; export it again"
        )
