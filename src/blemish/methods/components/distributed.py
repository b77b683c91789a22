"""A batch over several processes: which images are whose, and what each must see of all.

What is random is drawn for the whole batch by every process, from the same seed, and each keeps its own part:
so a training draws the same numbers however many processes it has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Share:
    """The images of a batch that one of several processes takes: `first` up to, not including, `last`."""

    total: int
    """Images of the whole batch."""
    first: int
    last: int
    weight: float
    """What its mean loss counts for: the mean over all processes of weight · loss is the batch's loss."""

    @property
    def own(self) -> slice:
        """Its place in the batch."""
        return slice(self.first, self.last)


def share_of(total: int, *, process: int, processes: int) -> Share | None:
    """Divide a batch of `total` images evenly. None: all of it, as a batch of fewer images than processes."""
    if processes == 1 or total < processes:
        return None
    first, last = (total * i // processes for i in (process, process + 1))
    return Share(total=total, first=first, last=last, weight=processes * (last - first) / total)


def own_part(drawn: Tensor, share: Share | None) -> Tensor:
    """Keep the own part of what was drawn for each image of the batch, (total, ...)."""
    return drawn if share is None else drawn[share.own]


def gather_parts(part: Tensor, share: Share | None, *, dim: int) -> Tensor:
    """Put the parts of all processes together along `dim`; gradients flow back to those whose parts they are.

    A sum over processes of parts with zeros around them, as parts may differ in length.
    """
    if share is None:
        return part
    shape = list(part.shape)
    ends = []
    for length in (share.first, share.total - share.last):
        shape[dim] = length
        ends.append(part.new_zeros(shape))
    return _Sum.apply(torch.cat([ends[0], part, ends[1]], dim=dim))


class _Sum(torch.autograd.Function):
    """The sum over processes, whose gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: object, part: Tensor) -> Tensor:
        whole = part.contiguous()
        torch.distributed.all_reduce(whole)
        return whole

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:  # type: ignore[override]
        whole = gradient.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(whole)
        return whole
