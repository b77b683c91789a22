"""Places of planted defects that are given instead of drawn, and draws that are fixed."""

import torch

from blemish.data.shapes import Places


def places(*each):
    """Of (centre, half size, angle) each."""
    centre, half, angle = zip(*each, strict=True)
    return Places(
        centre=torch.tensor(centre, dtype=torch.float32),
        half=torch.tensor(half, dtype=torch.float32),
        angle=torch.tensor(angle, dtype=torch.float32),
    )


MIDDLE = ((20.0, 24.0), (8.0, 10.0), 0.4)


def fixed(*values):
    """In the place of `uniform`: these values in turn, whatever the range."""
    left = list(values)
    return lambda low, high, *shape: torch.full(shape, float(left.pop(0)))
