"""Auto: the method that sees planted defects best, or several together (ours).

No single method is best for every part. So several learn from the same good images, are shown defects planted
into good images that none of them learnt, and the best is kept: `blemish.training.auto` chooses. What is kept
is this network: one member, or several whose maps are put on one scale and averaged.

    (1)  map = mean_i (m_i - low_i) / (high_i - low_i)

    m_i             map of member i, at the size of the image
    low_i, high_i   medians, over good images that it did not learn, of the map's median and of its maximum

Parts that lie at any angle are turned to one angle first, and the map back (`scorer`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from blemish.core.errors import UsageError
from blemish.methods.base import Batches, Method, Start
from blemish.methods.components.full_size import FullSize, resizing_matrix
from blemish.methods.config import DetectorConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ON_BACKBONE = ("padim",)
"""Candidates that stand on a pre-trained network."""
SIZE = 256
"""Members whose preset has this size take that of `auto`, whose sides follow those of the images."""


@dataclass(frozen=True, kw_only=True)
class AutoConfig(DetectorConfig):
    """The options of the choice."""

    image_size: tuple[int, int] | int = SIZE
    """Images are resized to this, or to as many pixels of another shape where all images are long."""
    minutes: float = 10.0
    """What choosing and learning may take, by the work that two processor cores do in that time."""
    backbone: str | None = None
    """A pre-trained network, efficientnet-lite0 or a file, on which methods become candidates; None: all
    learn from scratch."""
    validation_fraction: float = 0.15
    """Share of the good images on which candidates are compared, with planted defects."""
    aligned: bool | None = None
    """Turn and move parts so that they lie alike; None: only if good images become much more alike by it."""
    members: tuple[str, ...] | None = None
    """What to combine, each METHOD or METHOD:PRESET; None: what sees planted defects best is chosen."""

    def __post_init__(self) -> None:
        """Refuse a time that is none. Raises UsageError."""
        super().__post_init__()
        if not 0 < self.minutes < float("inf"):
            raise UsageError(f"--minutes {self.minutes}: must be a finite number above 0")
        if not 0 < self.validation_fraction < 1:
            raise UsageError(f"--validation-fraction {self.validation_fraction}: must lie between 0 and 1")

    @property
    def validation_share(self) -> float:
        """Share of the good images on which candidates are compared."""
        return self.validation_fraction


def member_config(member: str, preset_named: Callable[[str, str], DetectorConfig], like: AutoConfig) -> Any:
    """Return a member's options: METHOD or METHOD:PRESET, with what all members have in common.

    Raises UsageError when there is none of that name.
    """
    method, _, preset = member.partition(":")
    config = preset_named(method, preset or "default")
    size = like.image_size if config.size == (SIZE, SIZE) else config.image_size
    backbone = {"backbone": like.backbone} if like.backbone and hasattr(config, "backbone") else {}
    return replace(
        config,
        **backbone,
        image_size=size,
        aligned=False,
        calibration_fraction=like.calibration_fraction,
        tile_size=like.tile_size,
        tile_overlap=like.tile_overlap,
    )


class Member(nn.Module):
    """A method's network between the sizes of `auto`: (B, C, H, W) -> maps (B, H, W)."""

    def __init__(self, network: Method[Any], size: tuple[int, int]) -> None:
        super().__init__()
        self.network = network
        self.size = size
        (H, W), (h, w) = size, network.config.size
        self.resizes = (h, w) != (H, W)
        self.register_buffer("rows_in", resizing_matrix(H, h), persistent=False)
        self.register_buffer("cols_in", resizing_matrix(W, w), persistent=False)
        self.full_size = FullSize(network, size)

    rows_in: Tensor
    cols_in: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] -> the network's map at their size, (B, H, W)."""
        if self.resizes:
            x = self.rows_in @ (x @ self.cols_in.T)
        found = self.network(x)
        maps = found[0] if isinstance(found, tuple) else found  # without an image score of its own
        return self.full_size(maps)


class Auto(Method[AutoConfig]):
    """Members side by side. `forward` maps images to the mean of their maps on one scale, Eq. (1)."""

    config_type = AutoConfig
    presets: ClassVar[dict[str, AutoConfig]] = {"default": AutoConfig()}

    low: Tensor
    high: Tensor

    def __init__(self, config: AutoConfig, channels: int) -> None:
        super().__init__(config, channels)
        from blemish.methods.registry import method_named, preset_named  # which knows this module

        members = []
        for name in config.members or ():
            kind = method_named(name.partition(":")[0])
            members.append(Member(kind(member_config(name, preset_named, config), channels), config.size))
        self.members = nn.ModuleList(members)
        self.register_buffer("low", torch.zeros(len(members)))
        self.register_buffer("high", torch.ones(len(members)))

    @classmethod
    def start(cls, config: DetectorConfig) -> Start:
        """Read the weights of the backbone, for each member that may stand on it: `MEMBER/tensor`.

        Raises UsageError for members that stand on different networks, as a model has one.
        """
        from blemish.methods.registry import method_named, preset_named

        assert isinstance(config, AutoConfig)
        provenance: dict[str, Any] = {}
        tensors: dict[str, Tensor] = {}
        backbones: dict[str, str] = {}
        for name in dict.fromkeys((*(config.members or ()), *(ON_BACKBONE if config.backbone else ()))):
            kind = method_named(name.partition(":")[0])
            begun = kind.start(member_config(name, preset_named, config))
            tensors |= {f"{name}/{key}": values for key, values in begun.tensors.items()}
            provenance |= begun.provenance
            if begun.tensors:
                backbones[name] = begun.config.backbone  # type: ignore[attr-defined]
        if len(set(backbones.values())) > 1:
            each = ", ".join(f"{name} on {backbone.split()[0]}" for name, backbone in backbones.items())
            raise UsageError(
                f"--members: stand on different networks ({each}); give one to all by --backbone"
            )
        return Start(
            replace(config, backbone=next(iter(backbones.values()), config.backbone)), tensors, provenance
        )

    def begin(self, tensors: Mapping[str, Tensor]) -> None:
        """Give the members what `start` read for them."""
        for name, member in zip(self.config.members or (), self.each, strict=True):
            state = member.network.state_dict()
            for key, values in tensors.items():
                if key.startswith(f"{name}/"):
                    state[key.removeprefix(f"{name}/")].copy_(values)

    @property
    def each(self) -> list[Member]:
        """The members, in the order of their names."""
        return [member for member in self.members if isinstance(member, Member)]

    @property
    def scoring_batch(self) -> int | None:
        """Images to score at a time: as many as the most careful member takes."""
        bounds = [member.network.scoring_batch for member in self.each]
        return min((bound for bound in bounds if bound is not None), default=None)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] -> maps (B, H, W), Eq. (1); about 1 at a good image's highest."""
        maps = torch.stack([each(x) for each in self.each], dim=1)
        scale = 1 / (self.high - self.low)
        return ((maps - self.low[:, None, None]) * scale[:, None, None]).mean(dim=1)

    def fit(self, batches: Batches) -> None:
        """Refuse: `blemish.training.auto` has its members learn."""
        raise TypeError("the members of auto learn one by one")
