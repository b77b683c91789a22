"""The contract of a method: what training, inference and export may ask of it.

A method is one file, or a few whose names begin alike: its paper, a symbol table, its config, its equations
as pure functions, and one class that derives from `Method` or `TrainedMethod`. `registry` knows it by name.

Shapes: B images, C channels, H×W pixels of the resized image, h×w values of a map.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from blemish.data.part import seen_of
from blemish.methods.components.alignment import Alignment
from blemish.methods.config import DetectorConfig

if TYPE_CHECKING:
    from blemish.methods.components.distributed import Share

ConfigT = TypeVar("ConfigT", bound=DetectorConfig)
Batches = Callable[[], Iterable[Tensor]]
"""Call it for the training images anew: batches (B, C, H, W) in [0, 1]."""


class Start(NamedTuple):
    """What a training starts from: the options as the model keeps them, and what comes from elsewhere.

    `tensors` are parameters and buffers by name; `provenance` says whose they are, for the model file.
    """

    config: DetectorConfig
    tensors: dict[str, Tensor]
    provenance: dict[str, Any]


class Turn(NamedTuple):
    """Whose turn it is: one loss, `loss_of_turn(x, name)`, and the parameters that follow its gradient.

    The loop holds all other turns' parameters still while it computes this loss.
    """

    name: str
    parameters: Iterable[nn.Parameter]
    every: int = 1
    """Taken at every so many steps of its phase."""
    rate: float = 1.0
    """Its learning rate as a multiple of the scheduled one."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Adam's decay of both of its means."""


class Phase(NamedTuple):
    """A part of a training: the turns of each of its steps, one after the other on the same batch.

    Its first turn is taken at every step; log.csv and validation show that one's loss.
    """

    name: str
    turns: tuple[Turn, ...]
    share: float = 1.0
    """Of the training's steps, in proportion to the other phases'; each phase gets one step at least."""


class Method(nn.Module, Generic[ConfigT]):
    """A method as a network: parameters and buffers are what a model file keeps."""

    config_type: ClassVar[type[DetectorConfig]]
    not_exported: str | None = None
    """Why a model cannot be exported as ONNX, after "it cannot be exported:"; None: it can be. Of all models
    of a method, or set by one whose options say so."""
    presets: ClassVar[dict[str, Any]]
    """Named sets of options, each of `config_type`; there is always a `default`."""
    covered: bool = False
    """Set before it learns: whether parts of the training images are covered, as they do not count. One that
    plants defects plants none there."""

    def __init__(self, config: ConfigT, channels: int) -> None:
        """Make the network for images of `channels` channels, its weights drawn from torch's generator."""
        super().__init__()
        self.config, self.channels = config, channels
        self.alignment = Alignment(channels, config.size) if config.aligned else None

    @classmethod
    def start(cls, config: DetectorConfig) -> Start:
        """Find what the options name outside of the training images, such as weights; here nothing.

        Called before any image is read. Raises UsageError for what is not there.
        """
        return Start(config, {}, {})

    @property
    def scoring_batch(self) -> int | None:
        """Images that are scored at a time at most, which bounds memory; None: any number."""
        return None

    def as_scored(self, batches: Batches) -> Iterator[Tensor]:
        """Yield the training images in the portions of scoring: (B, C, H, W), B at most `scoring_batch`.

        What is taken of them so needs the memory of scoring, and is of the same values to the last bit.
        """
        for x in batches():
            yield from x.split(self.scoring_batch or len(x))

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Images (B, C, H, W) in [0, 1] -> anomaly maps (B, h, w), unbounded, larger is more anomalous.

        A method with image scores of its own returns (maps, scores (B,)); else they are read off the maps.
        One that only scores images returns maps of 0; it has no figures of pixels then. Parts lie as they
        did in training: where it has an `alignment`, `scorer` turns them before, and the maps back.
        """

    @abstractmethod
    def fit(self, batches: Batches) -> None:
        """Learn from the good training images without a loop, as often as they are asked for."""


class TrainedMethod(Method[ConfigT]):
    """A method that follows a gradient: the training loop calls `prepare`, `loss` at each step, `finish`.

    Several optimisers and phases: a method that overrides `phases` names parts of the training that follow
    each other (a teacher, then students), and in each one the turns of a step (a critic, then a generator).
    The loop then calls `prepare`; per step and turn `loss_of_turn`; `begin_phase` before each later phase;
    `finish`. Each turn has its own state of Adam, each phase its own schedule of the learning rate. Best
    epoch and early stopping are of the last phase. A checkpoint keeps all of it, so that a training that is
    killed in any phase goes on to the same bytes. Several processes are refused.

    A method whose training can collapse (a constant output) says so in `finish` by a TrainingError.
    """

    whole_batches: ClassVar[bool] = False
    """Whether batch normalisation needs all images of a batch, so that processes cannot share one."""

    @abstractmethod
    def loss(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] -> the mean loss over them, a number."""

    def loss_of_share(self, x: Tensor, share: Share) -> Tensor:
        """Return the loss of one process's part of a batch; who needs the other parts too overrides it."""
        return self.loss(x)

    def prepare(self, batches: Batches) -> None:
        """Take statistics of the training images before the first step."""

    def phases(self) -> tuple[Phase, ...]:
        """Name the phases of the training and their turns; a parameter belongs to one turn. Here one of all.

        Every turn of every phase has a name of its own. Parameters of no turn stay as they are.
        """
        return (Phase("training", (Turn("loss", self.parameters()),)),)

    def loss_of_turn(self, x: Tensor, turn: str) -> Tensor:
        """Images (B, C, H, W) in [0, 1] -> the mean loss of the turn of this name, a number."""
        return self.loss(x)

    def seen_in(self, batches: Batches) -> Tensor | None:
        """Return which places are not covered in all of the training images, bool (H, W); None: all."""
        if not self.covered:
            return None
        return torch.stack([seen_of(x).any(dim=0)[0] for x in batches()]).any(dim=0)

    def begin_phase(self, phase: str, batches: Batches) -> None:
        """Take statistics with the weights of the phases before, or copy them; not called for the first."""

    def finish(self, batches: Batches) -> None:
        """Take statistics of the training images with the final weights."""

    def fit(self, batches: Batches) -> None:
        """Refuse: the training loop trains it."""
        raise TypeError(f"{type(self).__name__} is trained by the loop")
