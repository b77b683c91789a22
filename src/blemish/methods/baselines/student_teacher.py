"""Student-teacher: students learn what a teacher says of good patches; of others they err, and differ.

Source: P. Bergmann, M. Fauser, D. Sattlegger, C. Steger, "Uninformed Students: Student-Teacher Anomaly
Detection with Discriminative Latent Embeddings" (CVPR 2020), arXiv:1911.02357. It is "Student-teacher" of
MeTAL's Tables 4 and 6.

Symbols (source: here)
    P          pre-trained network, of which one patch's features are the mean over places: `backbone`
    T̂, D       teacher, and the decoder that makes P's features of its description: `teachers`, `decoders`
    p, d       side of a patch in pixels, numbers of its description: `patch_sizes`, `description`
    L_k, L_c   losses of the teacher: `distillation_loss`, `compactness`
    μ, σ       mean and spread of each of T's numbers over good images
    S_i, M     students and how many: `students`
    e, v       their error and how far they differ: `errors`, `differences`

Shapes: B images, C channels, H×W pixels; h×w places, `place_stride` pixels apart; n patches.

Two phases: the teachers; then the students, from what the teachers say of crops.

Differs from the source: the teacher learns on patches of the good training images, of one image at a step,
there of ImageNet; each is enlarged to `VIEW` pixels for P. Its learning rate is that of the students, there
twice that. L_k is the mean over P's numbers, which are standardised, and L_c the mean of |c_ij| (there sums,
of c_ij itself), so that both weigh alike at any size. The source's metric loss, for those without a
pre-trained network, is left out. Neither learns with decay of weights. e and v are standardised over the
training images, there over held-out good ones. The model keeps P and D, which only the training needs.
`default` is ours: EfficientNet-Lite0, patches of 33 pixels, narrower networks that score every fourth pixel,
crops, e and v standardised at each place, and a smoothed map.

Teachers and students of `paper` have 24.0 million numbers; MeTAL's Table 6 says 26 M. What `default` reaches
on MVTec AD's bottle, where 0.94 was published, and what it lacks: docs/how-to/pretrained.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blemish.core.errors import UsageError
from blemish.methods.base import Batches, Phase, TrainedMethod, Turn
from blemish.methods.baselines.student_teacher_equations import (
    compactness,
    differences,
    distillation_loss,
    errors,
    student_loss,
)
from blemish.methods.baselines.student_teacher_network import PLANS, PatchNetwork, cut
from blemish.methods.components.backbones.method import BackboneConfig, BackboneMethod
from blemish.methods.components.backbones.network import grid_of
from blemish.methods.components.collapse import refuse_constant
from blemish.methods.components.functional import enlarge, smoothing_matrix
from blemish.methods.components.statistics import mean_and_variance, position_statistics, spread_of
from blemish.methods.config import TrainedConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

VIEW = 64
"""Side in pixels that a patch is zoomed to before P looks at it."""
REGULAR = 6
"""Patches along each side of an image that P's mean and spread are taken of."""


@dataclass(frozen=True, kw_only=True)
class StudentTeacherConfig(BackboneConfig, TrainedConfig):
    """The options of Student-teacher."""

    strides: tuple[int, ...] = (8, 16)
    """A patch's features are means over those of the network's last layer at each of these strides."""
    steps: int = 500
    """Optimiser steps of teachers and students together when `epochs` is None."""
    batch_size: int = 8
    """Images in an optimiser step."""
    teacher_share: float = 0.4
    """Share of the steps that are the teachers', in (0, 1)."""
    patch_sizes: tuple[int, ...] = (33,)
    """p: sides of patches in pixels, some of 17, 33 and 65; each has a teacher and students of its own."""
    place_stride: Literal[1, 2, 4, 8] = 4
    """Pixels from one scored place to the next."""
    patches: int = 8
    """Patches of an image in a step of the teachers, for each size."""
    crop_size: int | None = 96
    """Side in pixels of the crops that students learn on; None: whole images."""
    students: int = 3
    """M: students for each size."""
    width: int = 24
    """Channels of the networks' first layer; twice as many further on."""
    description: int = 48
    """d: numbers of a description."""
    place_statistics: bool = True
    """Standardise e and v by their mean and spread at each place, or else by those of all places together."""
    smoothing: float = 4.0
    """σ of the map's Gaussian filter in pixels of the resized image; 0: none."""

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing together. Raises UsageError."""
        super().__post_init__()
        self.check_counts("patches", "students", "width", "description", "crop_size")
        sizes = self.patch_sizes
        if not sizes or set(sizes) - set(PLANS) or list(sizes) != sorted(set(sizes)):
            raise UsageError(
                f"--patch-sizes {' '.join(map(str, sizes))}: must be some of 17, 33 and 65, ascending"
            )
        for option, side in (("image-size", min(self.size)), ("crop-size", self.crop_size)):
            if side is not None and side < sizes[-1]:
                raise UsageError(
                    f"--{option} {side}: must be the largest of --patch-sizes or more, {sizes[-1]}"
                )
        if not 0 < self.teacher_share < 1:
            raise UsageError(f"--teacher-share {self.teacher_share}: must lie between 0 and 1")
        self.check_weights("smoothing")


class StudentTeacher(BackboneMethod[StudentTeacherConfig], TrainedMethod[StudentTeacherConfig]):
    """Student-teacher. `forward` maps images to maps of their own size."""

    config_type = StudentTeacherConfig
    presets: ClassVar[dict[str, StudentTeacherConfig]] = {
        "default": StudentTeacherConfig(),
        "paper": StudentTeacherConfig(
            backbone="resnet18",
            strides=(32,),
            steps=70_000,
            batch_size=1,
            learning_rate=1e-4,
            schedule="constant",
            teacher_share=5 / 7,
            place_statistics=False,
            patch_sizes=(17, 33, 65),
            place_stride=1,
            patches=64,
            crop_size=None,
            width=128,
            description=128,
            smoothing=0.0,
            image_score="max",
            calibration_fraction=0.0,
        ),
    }

    feature_mean: Tensor
    feature_spread: Tensor
    teacher_mean: Tensor
    teacher_spread: Tensor
    level: Tensor
    scale: Tensor
    smooth_rows: Tensor
    smooth_cols: Tensor

    def __init__(self, config: StudentTeacherConfig, channels: int) -> None:
        super().__init__(config, channels)
        n, d, f = len(config.patch_sizes), config.description, sum(self.backbone.channels)

        def network(patch: int) -> PatchNetwork:
            return PatchNetwork(patch, config.width, d, config.place_stride)

        self.teachers = nn.ModuleList(network(p) for p in config.patch_sizes)
        self.decoders = nn.ModuleList(nn.Linear(d, f) for _ in config.patch_sizes)
        self.students = nn.ModuleList(
            nn.ModuleList(network(p) for _ in range(config.students)) for p in config.patch_sizes
        )
        for name, shape in (("feature", (n, f)), ("teacher", (n, d))):
            self.register_buffer(f"{name}_mean", torch.zeros(shape))
            self.register_buffer(f"{name}_spread", torch.ones(shape))
        places = grid_of(config.size, config.place_stride) if config.place_statistics else ()
        self.register_buffer("level", torch.zeros(n, 2, *places))
        self.register_buffer("scale", torch.ones(n, 2, *places))
        for name, side in zip(("smooth_rows", "smooth_cols"), config.size, strict=True):
            self.register_buffer(name, smoothing_matrix(side, config.smoothing), persistent=False)

    def phases(self) -> tuple[Phase, ...]:
        """The teachers with their decoders; then the students."""
        share = self.config.teacher_share
        teacher = Turn("teacher", [*self.teachers.parameters(), *self.decoders.parameters()])
        students = Turn("students", self.students.parameters())
        return Phase("teacher", (teacher,), share=share), Phase("students", (students,), share=1 - share)

    def loss_of_turn(self, x: Tensor, turn: str) -> Tensor:
        """Images (B, C, H, W) in [0, 1] -> the loss of the teachers or of the students, a number."""
        return self.teachers_loss(x) if turn == "teacher" else self.loss(x)

    def teachers_loss(self, x: Tensor) -> Tensor:
        """L_k + L_c of patches at random places of images (B, C, H, W) in [0, 1], the mean over sizes."""
        losses = []
        for i, p in enumerate(self.config.patch_sizes):
            n = self.config.patches * len(x)
            corners = [(torch.rand(n) * (side - p + 1)).long() for side in x.shape[2:]]
            patches = cut(x, torch.arange(n) % len(x), torch.stack(corners, dim=1), (p, p))
            said = self.teachers[i](self.backbone.normalised(patches))[:, :, 0, 0].float()
            features = (self._pooled(patches) - self.feature_mean[i]) / self.feature_spread[i]
            losses.append(distillation_loss(self.decoders[i](said), features) + compactness(said))
        return torch.stack(losses).mean()

    def loss(self, x: Tensor) -> Tensor:
        """The students' loss of a crop of each image (B, C, H, W) in [0, 1], the mean over sizes."""
        h, w = (min(side, self.config.crop_size or side) for side in x.shape[2:])
        corners = [
            (torch.rand(len(x)) * (n - m + 1)).long() for n, m in zip(x.shape[2:], (h, w), strict=True)
        ]
        crops = self.backbone.normalised(cut(x, torch.arange(len(x)), torch.stack(corners, dim=1), (h, w)))
        losses = [student_loss(*self._said(i, lambda net: net(crops))) for i in range(len(self.teachers))]
        return torch.stack(losses).mean()

    def _pooled(self, patches: Tensor) -> Tensor:
        """P of patches (n, C, p, p), zoomed: (n, f)."""
        seen = F.interpolate(patches, size=(VIEW, VIEW), mode="bilinear", align_corners=False)
        return torch.cat([layer.mean(dim=(2, 3)) for layer in self.backbone(seen)], dim=1).float()

    def _said(self, i: int, see: Callable[[nn.Module], Tensor]) -> tuple[Tensor, Tensor]:
        """What the students of a size say, (M, B, d, h, w), and the teacher, standardised, (B, d, h, w)."""
        mean, spread = self.teacher_mean[i][:, None, None], self.teacher_spread[i][:, None, None]
        target = (see(self.teachers[i]).float() - mean) / spread
        students = self.students[i]
        assert isinstance(students, nn.ModuleList)
        return torch.stack([see(student).float() for student in students]), target

    def _scores(self, x: Tensor) -> Iterator[Tensor]:
        """Yield e and v of each size, neither standardised: (B, 2, h, w)."""
        seen = self.backbone.normalised(x)
        for i in range(len(self.teachers)):
            said, target = self._said(i, lambda net: net.whole(seen))  # type: ignore[operator]  a PatchNetwork
            yield torch.stack([errors(said, target), differences(said)], dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] -> anomaly maps (B, H, W), larger is more anomalous."""
        found = [
            ((scores - level) / scale).sum(dim=1)  # of e and of v
            for scores, level, scale in zip(
                self._scores(x), self._over(self.level), self._over(self.scale), strict=True
            )
        ]
        return enlarge(torch.stack(found).mean(dim=0), self.smooth_rows, self.smooth_cols)

    def _over(self, statistics: Tensor) -> Tensor:
        """(n, 2) or (n, 2, h, w) -> what fits e and v of each place, (n, 2, 1 or h, 1 or w)."""
        return statistics if self.config.place_statistics else statistics[:, :, None, None]

    @torch.no_grad()
    def prepare(self, batches: Batches) -> None:
        """Before training: mean and spread of P's features of patches that lie regularly."""
        for i, p in enumerate(self.config.patch_sizes):
            mean, variance = mean_and_variance(self._pooled(patches) for patches in self._regular(batches, p))
            self.feature_mean[i] = mean
            self.feature_spread[i] = spread_of(variance)

    def _regular(self, batches: Batches, p: int) -> Iterator[Tensor]:
        corners = torch.cartesian_prod(*(torch.linspace(0, n - p, REGULAR).long() for n in self.config.size))
        for one in self.as_scored(batches):
            yield cut(one, torch.zeros(len(corners), dtype=torch.long), corners, (p, p))

    @torch.no_grad()
    def begin_phase(self, phase: str, batches: Batches) -> None:
        """Before the students: mean and spread of what each teacher says of good images."""
        for i, teacher in enumerate(self.teachers):
            assert isinstance(teacher, PatchNetwork)
            said = (teacher.whole(self.backbone.normalised(x)) for x in self.as_scored(batches))
            mean, variance = mean_and_variance(z.transpose(0, 1).flatten(1).T for z in said)
            self.teacher_mean[i] = mean
            self.teacher_spread[i] = spread_of(variance)

    @torch.no_grad()
    def finish(self, batches: Batches) -> None:
        """After training: level and scale of e and v. Raises TrainingError where a teacher is constant."""
        x = next(iter(batches()))[:4]
        seen = self.backbone.normalised(torch.cat([x, 1 - x]))
        for teacher in self.teachers:
            apart = teacher(seen).std(dim=0).max()
            refuse_constant("student-teacher", apart, "the network says the same of all images")
        parts = [list(self._scores(x)) for x in self.as_scored(batches)]
        for i, scores in enumerate(zip(*parts, strict=True)):
            if self.config.place_statistics:
                mean, spread = position_statistics(scores, positions=2)
            else:
                mean, variance = mean_and_variance(s.transpose(0, 1).flatten(1).T for s in scores)
                spread = variance.sqrt().clamp(min=1e-6)
            self.level[i] = mean
            self.scale[i] = spread
