"""What runs an exported graph: ONNX Runtime's own code for CPUs, or one of its other execution providers.

ONNX Runtime falls back to its CPU code without a word where a provider is not there or does not start. Here
that is refused. Computing in fewer bits is switched off, as a threshold is calibrated in 32.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from blemish.core.errors import UsageError

if TYPE_CHECKING:
    import onnxruntime

CPU = "cpu"


@dataclass(frozen=True, kw_only=True)
class Provider:
    """An execution provider: its `name` in ONNX Runtime, the package that brings it, and its options.

    `after` runs the nodes that it does not take, before the CPU does.
    """

    name: str
    package: str
    options: dict[str, str] = field(default_factory=dict)
    after: str | None = None


PROVIDERS = {
    CPU: Provider(name="CPUExecutionProvider", package="onnxruntime"),
    "openvino": Provider(
        name="OpenVINOExecutionProvider", package="onnxruntime-openvino", options={"device_type": "CPU"}
    ),
    "cuda": Provider(name="CUDAExecutionProvider", package="onnxruntime-gpu", options={"use_tf32": "0"}),
    "tensorrt": Provider(
        name="TensorrtExecutionProvider",
        package="onnxruntime-gpu",
        options={"trt_fp16_enable": "0", "trt_int8_enable": "0"},
        after="cuda",
    ),
}


def refuse_without(provider: str) -> None:
    """Raise UsageError for a provider that does not exist, or that this ONNX Runtime does not have."""
    import onnxruntime

    known = PROVIDERS.get(provider)
    if known is None:
        raise UsageError(f"--provider {provider}: no such provider; choose one of {', '.join(PROVIDERS)}")
    if known.name not in onnxruntime.get_available_providers():
        raise UsageError(
            f"--provider {provider}: this onnxruntime has no {known.name}; pip uninstall onnxruntime, then "
            f"pip install {known.package}, or leave --provider out"
        )


def open_session(
    source: str | bytes, threads: int | None, provider: str = CPU
) -> onnxruntime.InferenceSession:
    """Open a graph, a file's path or its bytes, to be run by a provider; `threads` as in `load_exported`.

    Raises UsageError where the provider is not there or does not start, and what ONNX Runtime raises for a
    graph that it cannot run.
    """
    import onnxruntime

    refuse_without(provider)
    session = onnxruntime.InferenceSession(source, _options(threads), providers=_chain(provider))
    name = PROVIDERS[provider].name
    if name not in session.get_providers():
        raise UsageError(
            f"--provider {provider}: {name} does not start on this machine; look for its driver and its "
            "libraries, or leave --provider out"
        )
    return session


def _chain(provider: str) -> list[Any]:
    """Return a provider and those after it as ONNX Runtime takes them; the CPU's is always the last."""
    known = PROVIDERS[provider]
    rest = _chain(known.after) if known.after else [] if provider == CPU else [PROVIDERS[CPU].name]
    return [(known.name, known.options) if known.options else known.name, *rest]


def _options(threads: int | None) -> onnxruntime.SessionOptions:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Its threads would wait in a busy loop between two calls, on the cores that decode images meanwhile.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if threads is not None:
        options.intra_op_num_threads = threads
    return options
