"""Slow versions of metrics and networks, a loop each; they share nothing with the library's code."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Protocol

import numpy as np
from scipy.integrate import quad

Tensors = dict[str, np.ndarray]


class MetalOptions(Protocol):
    """The options of MeTAL that decide what is computed."""

    patch_size: int
    stripes: str
    masking: str
    heads: int
    blocks: int
    center: bool
    bounded_context: bool


def auroc(negatives: list[float], positives: list[float]) -> float:
    """All pairs: a positive above a negative counts 1, a tie 1/2."""
    won = 0.0
    for p in positives:
        for q in negatives:
            won += 1.0 if p > q else 0.5 if p == q else 0.0
    return won / (len(positives) * len(negatives))


def roc_points(
    negatives: list[float], positives: list[float], weights: list[float] | None = None
) -> list[tuple[float, float]]:
    """(fpr, tpr) for every threshold from above the largest score to the smallest."""
    weights = weights or [1.0] * len(positives)
    points = [(0.0, 0.0)]
    for threshold in sorted({*negatives, *positives}, reverse=True):
        false = sum(q >= threshold for q in negatives)
        found = sum(w for p, w in zip(positives, weights, strict=True) if p >= threshold)
        points.append((false / len(negatives), found / sum(weights)))
    return points


def area_up_to(points: list[tuple[float, float]], limit: float) -> float:
    """Trapezoid by trapezoid; the one that crosses the limit is cut there."""
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise(points):
        if x0 >= limit:
            break
        if x1 > limit:
            y1 = y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
            x1 = limit
        area += (x1 - x0) * (y0 + y1) / 2
    return area


def regions_of(mask: np.ndarray) -> list[set[tuple[int, int]]]:
    """The 8-connected regions of a mask, by flood filling."""
    left = {(int(r), int(c)) for r, c in np.argwhere(mask)}
    found = []
    while left:
        region, frontier = set(), [left.pop()]
        while frontier:
            r, c = frontier.pop()
            region.add((r, c))
            for near in [(r + dr, c + dc) for dr in (-1, 0, 1) for dc in (-1, 0, 1)]:
                if near in left:
                    left.remove(near)
                    frontier.append(near)
        found.append(region)
    return found


def pro_points(maps: list[np.ndarray], masks: list[np.ndarray]) -> list[tuple[float, float]]:
    """(fpr, mean overlap) for every threshold: loops over thresholds, images and regions."""
    good = sum(int((~mask).sum()) for mask in masks)
    points = [(0.0, 0.0)]
    for threshold in sorted({float(v) for m in maps for v in m.ravel()}, reverse=True):
        false = 0
        overlaps = []
        for values, mask in zip(maps, masks, strict=True):
            false += int(((values >= threshold) & ~mask).sum())
            for region in regions_of(mask):
                overlaps.append(sum(values[pixel] >= threshold for pixel in region) / len(region))
        points.append((false / good, sum(overlaps) / len(overlaps)))
    return points


def spro_points(
    maps: list[np.ndarray], regions: list[list[tuple[np.ndarray, float]]]
) -> list[tuple[float, float]]:
    """(fpr, mean saturated overlap) for every threshold; regions of an image with their saturations."""
    sound = [
        [pixel for pixel in np.ndindex(m.shape) if not any(mask[pixel] for mask, _ in of_image)]
        for m, of_image in zip(maps, regions, strict=True)
    ]
    points = [(0.0, 0.0)]
    for threshold in sorted({float(v) for m in maps for v in m.ravel()}, reverse=True):
        false, overlaps = 0, []
        for values, of_image, good in zip(maps, regions, sound, strict=True):
            false += sum(bool(values[pixel] >= threshold) for pixel in good)
            for mask, saturation in of_image:
                found = sum(bool(mask[p] and values[p] >= threshold) for p in np.ndindex(mask.shape))
                overlaps.append(min(found / min(saturation, int(mask.sum())), 1.0))
        points.append((false / sum(map(len, sound)), sum(overlaps) / len(overlaps)))
    return points


def mean_over_log(points: list[tuple[float, float]], low: float, high: float) -> float:
    """The mean height over ln(fpr): each piece between two points by numerical integration."""
    total = 0.0
    for (x0, y0), (x1, y1) in pairwise(points):
        start, end = max(x0, low), min(x1, high)
        if start < end:
            slope = (y1 - y0) / (x1 - x0)
            total += quad(lambda x, x0=x0, y0=y0, s=slope: (y0 + s * (x - x0)) / x, start, end)[0]
    return total / (math.log(high) - math.log(low))


def segmentation_f1(maps: list[np.ndarray], masks: list[np.ndarray], threshold: float) -> float:
    """Pixel by pixel: true and false positives and negatives, then their F1."""
    found = false = missed = 0
    for values, mask in zip(maps, masks, strict=True):
        for pixel in np.ndindex(mask.shape):
            above, defective = float(values[pixel]) > threshold, bool(mask[pixel])
            found += above and defective
            false += above and not defective
            missed += defective and not above
    return 2 * found / (2 * found + false + missed)


def masked_attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, masking: str) -> np.ndarray:
    """Attention token by token: (B, heads, n, d_k) each; MeTAL's Eq. (1) with its mask."""
    out = np.zeros_like(v)
    batch, heads, n, d_k = q.shape
    for b in range(batch):
        for h in range(heads):
            for i in range(n):
                scores = [float(q[b, h, i] @ k[b, h, j]) / np.sqrt(d_k) for j in range(n)]
                if masking == "paper":
                    scores[i] = 0.0
                used = [j for j in range(n) if masking != "strict" or j != i]
                total = sum(np.exp(scores[j]) for j in used)
                for j in used:
                    out[b, h, i] += np.exp(scores[j]) / total * v[b, h, j]
    return out


# --- MeTAL: a network's tensors by their names in the model file, one image, one token or one place at a time


def linear(tensors: Tensors, name: str, x: np.ndarray) -> np.ndarray:
    return tensors[f"{name}.weight"] @ x + tensors[f"{name}.bias"]


def gelu(x: np.ndarray) -> np.ndarray:
    """x Φ(x), Φ the standard normal distribution (Hendrycks and Gimpel 2016), not its tanh approximation."""
    return np.array([v * (1 + math.erf(v / math.sqrt(2))) / 2 for v in x])


def mlp(tensors: Tensors, name: str, x: np.ndarray) -> np.ndarray:
    """Two layers with a GELU between them (MeTAL, Sec. 3.2)."""
    return linear(tensors, f"{name}.2", gelu(linear(tensors, f"{name}.0", x)))


def layer_norm(tensors: Tensors, name: str, x: np.ndarray) -> np.ndarray:
    """Each token by its own mean and population variance (Ba et al. 2016)."""
    spread = math.sqrt(sum((v - x.mean()) ** 2 for v in x) / len(x) + 1e-5)
    return (x - x.mean()) / spread * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]


def transformer_block(
    tensors: Tensors, name: str, x: np.ndarray, source: np.ndarray, heads: int, masking: str
) -> np.ndarray:
    """A pre-norm block, tokens (n, d): x + attention(norm(x), norm(source)); x + feed-forward(norm(x))."""

    def heads_of(part: str, tokens: np.ndarray) -> np.ndarray:  # (1, heads, n, d / heads)
        made = [
            linear(tensors, f"{name}.{part}", layer_norm(tensors, f"{name}.norm_attention", t))
            for t in tokens
        ]
        return np.stack(np.split(np.array(made), heads, axis=1))[None]

    context = masked_attention(
        heads_of("query", x), heads_of("key", source), heads_of("value", source), masking
    )
    out = []
    for i, token in enumerate(x):
        joined = np.concatenate([context[0, head, i] for head in range(heads)])
        token = token + linear(tensors, f"{name}.out", joined)
        normed = layer_norm(tensors, f"{name}.norm_feed_forward", token)
        out.append(token + mlp(tensors, f"{name}.feed_forward", normed))
    return np.array(out)


def token_encoder(
    tensors: Tensors, name: str, tokens: np.ndarray, blocks: int, heads: int, masking: str
) -> np.ndarray:
    """Contexts (n, d) of tokens (n, pixels): embedding MLP, learned positions, blocks, a final norm.

    strict: what is updated starts from the positions; keys and values are the embedded tokens at any depth.
    """
    position = tensors[f"{name}.position"][0]
    embedded = np.array([mlp(tensors, f"{name}.embed", t) for t in tokens]) + position
    x = position if masking == "strict" else embedded
    for i in range(blocks):
        source = embedded if masking == "strict" else x
        x = transformer_block(tensors, f"{name}.blocks.{i}", x, source, heads, masking)
    return np.array([layer_norm(tensors, f"{name}.norm", t) for t in x])


def metal_reconstruction(tensors: Tensors, config: MetalOptions, image: np.ndarray) -> np.ndarray:
    """Each square of (C, H, W) from its context and its segments of its stripes' contexts (Fig. 3 to 5).

    Options of the default: what the network sees is held to the training images' range and has the mean image
    subtracted, which is added back to what it makes.
    """
    K, (_, H, W) = config.patch_size, image.shape
    seen = image
    if config.bounded_context:
        seen = np.clip(seen, tensors["darkest"], tensors["brightest"])
    if config.center:
        seen = seen - tensors["mean_image"]
    places = [(i, j) for i in range(H // K) for j in range(W // K)]
    cuts = {
        "squares": [seen[:, K * i : K * i + K, K * j : K * j + K] for i, j in places],
        "rows": [seen[:, K * i : K * i + K, :] for i in range(H // K)],
        "cols": [seen[:, :, K * j : K * j + K] for j in range(W // K)],
    }
    shapes = {"none": ["squares"], "both": ["squares", "rows", "cols"], "only": ["rows", "cols"]}
    contexts = {
        shape: token_encoder(
            tensors,
            f"encoders.{shape}",
            np.array([cut.ravel() for cut in cuts[shape]]),
            config.blocks,
            config.heads,
            config.masking,
        )
        for shape in shapes.get(config.stripes, ["squares", config.stripes])
    }
    made = np.zeros_like(image)
    for n, (i, j) in enumerate(places):
        parts = []
        if "squares" in contexts:
            parts.append(contexts["squares"][n])
        if "rows" in contexts:
            parts.append(np.split(contexts["rows"][i], W // K)[j])
        if "cols" in contexts:
            parts.append(np.split(contexts["cols"][j], H // K)[i])
        square = mlp(tensors, "decoder", np.concatenate(parts))
        made[:, K * i : K * i + K, K * j : K * j + K] = square.reshape(-1, K, K)
    return made + tensors["mean_image"] if config.center else made


# --- CPC-AD's encoders, on one sub-patch (C, S, S)


def relu(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, 0.0)


def convolution(tensors: Tensors, name: str, x: np.ndarray, stride: int = 1, padding: int = 0) -> np.ndarray:
    """Place by place; the border is filled with zeros."""
    weight = tensors[f"{name}.weight"]
    side = weight.shape[-1]
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
    height, width = ((n - side) // stride + 1 for n in x.shape[1:])
    out = np.zeros((len(weight), height, width))
    for f, i, j in np.ndindex(*out.shape):
        window = x[:, stride * i : stride * i + side, stride * j : stride * j + side]
        out[f, i, j] = (weight[f] * window).sum()
    return out + tensors[f"{name}.bias"][:, None, None] if f"{name}.bias" in tensors else out


def dense_encoding(tensors: Tensors, sub_patch: np.ndarray) -> np.ndarray:
    """4x4/2, then for each further halving a ReLU, 3x3/2 and a residual block of 1x1; a ReLU ends it. (d,)"""
    x = convolution(tensors, "layers.0", sub_patch, 2)
    layer = 1  # of layers: ReLU, convolution, block, and again
    while f"layers.{layer + 1}.weight" in tensors:
        x = convolution(tensors, f"layers.{layer + 1}", relu(x), 2)
        inner = convolution(tensors, f"layers.{layer + 2}.first", relu(x))
        x = x + convolution(tensors, f"layers.{layer + 2}.second", relu(inner))
        layer += 3
    assert x.shape[1:] == (1, 1)
    return relu(x[:, 0, 0])


def resnet_block(tensors: Tensors, name: str, x: np.ndarray, stride: int) -> np.ndarray:
    """ResNet v2 without norms: the shortcut is x itself, or a 1x1 convolution of relu(x) (He et al. 2016)."""
    active = relu(x)
    kept = x
    if f"{name}.shortcut.weight" in tensors:
        kept = convolution(tensors, f"{name}.shortcut", active, stride)
    inner = convolution(tensors, f"{name}.first", active, stride, padding=1)
    return kept + convolution(tensors, f"{name}.second", relu(inner), padding=1)


def resnet_encoding(tensors: Tensors, sub_patch: np.ndarray) -> np.ndarray:
    """ResNet-18 v2 up to its third stage and the mean over places (CPC-AD, Sec. 5). (d,)"""
    x = convolution(tensors, "stem", sub_patch, 2, padding=3)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    pooled = np.zeros((len(x), (x.shape[1] + 1) // 2, (x.shape[2] + 1) // 2))
    for f, i, j in np.ndindex(*pooled.shape):
        pooled[f, i, j] = padded[f, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max()
    x = pooled
    for i in range(6):  # two blocks in each stage; the second and the third begin with half the places
        x = resnet_block(tensors, f"stages.{i}", x, stride=2 if i in (2, 4) else 1)
    return relu(x).mean(axis=(1, 2))
