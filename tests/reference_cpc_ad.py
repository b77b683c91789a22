"""CPC-AD as its paper reads: cut every patch, encode every sub-patch by itself, loop over every pair.

A corner is the top left pixel of a square. Of the network this takes its parameters and its encoders, each
called on one crop alone; nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch

Corner = tuple[int, int]
Pair = tuple[str, int, Corner, Corner]
DIRECTIONS = ("above", "below", "left", "right")


def corners(top: int, left: int, height: int, width: int, side: int) -> list[Corner]:
    """The squares of a box that overlap by half, row by row."""
    down, right = range(0, height - side + 1, side // 2), range(0, width - side + 1, side // 2)
    return [(top + y, left + x) for y in down for x in right]


def patches(size: tuple[int, int], patch: int | None, side: int) -> list[list[Corner]]:
    """The sub-patches of each patch; of the whole image for None."""
    if patch is None:
        return [corners(0, 0, *size, side)]
    return [corners(y, x, patch, patch, side) for y, x in corners(0, 0, *size, patch)]


def pairs(inside: list[Corner], side: int, skip: int, steps: int) -> Iterator[Pair]:
    """(direction, k, context, target) of a patch; k counts the predicted sub-patches from 1."""
    for y, x in inside:
        for k in range(1, steps + 1):
            away = (skip + k) * (side // 2)
            around = {"above": (y - away, x), "below": (y + away, x), "left": (y, x - away)}
            for direction, context in (around | {"right": (y, x + away)}).items():
                if context in inside:
                    yield direction, k, context, (y, x)


def all_pairs(config) -> list[Pair]:
    """The pairs of every patch of an image: one that lies in several patches is there several times."""
    side, patch = config.sub_patch_size, config.patch_size if config.window == "patch" else None
    return [
        pair
        for inside in patches(config.size, patch, side)
        for pair in pairs(inside, side, config.skip, config.steps_ahead)
    ]


def encoding(network, image: np.ndarray, corner: Corner) -> list[np.ndarray]:
    """The encoding of one sub-patch of (C, H, W), one for each direction."""
    (y, x), side = corner, network.config.sub_patch_size
    crop = image[:, y : y + side, x : x + side]
    if network.config.grey and len(crop) == 3:
        crop = (0.299 * crop[0] + 0.587 * crop[1] + 0.114 * crop[2])[None]
    crop = (crop - network.pixel_mean.item()) / network.pixel_spread.item()
    z = []
    for encoder in network.encoders:
        with torch.no_grad():
            alone = encoder(torch.from_numpy(np.ascontiguousarray(crop, np.float32))[None])
        assert alone.shape[:3] == (1, 1, 1)
        z.append(alone[0, 0, 0].double().numpy())
    return z * 4 if network.config.shared_encoder else z


def info_nce(positive: float, negatives: list[float]) -> float:
    return -np.log(np.exp(positive) / (np.exp(positive) + sum(np.exp(n) for n in negatives)))


def margin(positive: float, negatives: list[float]) -> float:
    return max(negatives) - positive


def losses(
    network,
    image: np.ndarray,
    negatives: Callable[[int, Corner], list[np.ndarray]],
    rule: Callable[[float, list[float]], float],
) -> list[tuple[Pair, float]]:
    """Every pair of every patch with its loss. `negatives` gives encodings by direction and target."""
    config = network.config
    side, patch = config.sub_patch_size, config.patch_size if config.window == "patch" else None
    W = network.W.detach().double().numpy().reshape(4, config.steps_ahead, *network.W.shape[-2:])
    found = []
    for inside in patches(config.size, patch, side):
        z = {corner: encoding(network, image, corner) for corner in inside}
        for pair in pairs(inside, side, config.skip, config.steps_ahead):
            direction, k, context, target = pair
            i = DIRECTIONS.index(direction)
            predicted = W[i][k - 1] @ z[context][i]
            others = [float(z_j @ predicted) for z_j in negatives(i, target)]
            found.append((pair, rule(float(z[target][i] @ predicted), others)))
    return found


def bank_of(network) -> Callable[[int, Corner], list[np.ndarray]]:
    """The negatives of testing: the same for every target."""
    bank = network.bank.double().numpy()
    return lambda i, _: list(bank[0 if network.config.shared_encoder else i])


def sub_patch_scores(found: list[tuple[Pair, float]], combine: str) -> dict[Corner, float]:
    """Mean or sum of the losses of all pairs that end in a sub-patch."""
    by_target: dict[Corner, list[float]] = {}
    for (_, _, _, target), loss in found:
        by_target.setdefault(target, []).append(loss)
    return {t: sum(v) / (len(v) if combine == "mean" else 1) for t, v in by_target.items()}


def top5(scores: dict[Corner, float]) -> float:
    largest = sorted(scores.values(), reverse=True)[: max(1, int(0.05 * len(scores)))]
    return sum(largest) / len(largest)


def pixel_map(scores: dict[Corner, float], side: int, size: tuple[int, int]) -> np.ndarray:
    """Each pixel's mean over the sub-patches that contain it."""
    total, covered = np.zeros(size), np.zeros(size)
    for (y, x), score in scores.items():
        for row in range(y, y + side):
            for col in range(x, x + side):
                total[row, col] += score
                covered[row, col] += 1
    return total / covered
