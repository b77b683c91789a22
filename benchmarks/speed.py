"""MeTAL's training step and scoring beside their floor: multiply-adds over the machine's matrix rate.

    python benchmarks/speed.py [--preset paper-object] [--out benchmarks/results/speed.json]

All figures come from one run and are meant as ratios; on a shared machine absolute times mean little.
The floor counts the matrix products of forward and backward (torch's flop counter) at the best rate that a
square matrix product reaches here, measured between the steps.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from pathlib import Path

import torch
from timing import matrix_rate, seconds
from torch.utils.flop_counter import FlopCounterMode

from blemish.methods.components.functional import ssim_map, valid_blur_matrix
from blemish.methods.metal import Metal
from blemish.training.device import keep_freed_memory, make_accelerator


def training_step(preset: str, *, keep_memory: bool, repeats: int) -> dict[str, float]:
    """Time a step (batch 64) of the loop's own parts, and count its floor."""
    if keep_memory:
        keep_freed_memory()
    accelerator = make_accelerator("cpu", "auto")
    bf16 = accelerator.mixed_precision == "bf16"
    torch.manual_seed(0)
    network = Metal(Metal.presets[preset], channels=3)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4, fused=True)
    x = torch.rand(64, 3, *network.config.size)

    def step() -> None:
        optimizer.zero_grad()
        with accelerator.autocast():
            loss = network.loss(x)
        loss.backward()
        optimizer.step()

    step()
    with FlopCounterMode(display=False) as counter:
        step()
    rate = matrix_rate(torch.bfloat16 if bf16 else torch.float32)
    taken = seconds(step, repeats)
    rate = max(rate, matrix_rate(torch.bfloat16 if bf16 else torch.float32))
    floor = counter.get_total_flops() / rate
    return {
        "precision": "bf16" if bf16 else "fp32",
        "gigaflop": counter.get_total_flops() / 1e9,
        "matrix_gigaflop_per_s": rate / 1e9,
        "step_s": taken,
        "floor_s": floor,
        "ratio": taken / floor,
    }


def scoring(preset: str, repeats: int) -> list[dict[str, float]]:
    """Images per second of `forward` at batch 1 and 64, beside the floor."""
    network = Metal(Metal.presets[preset], channels=3).eval()
    rows = []
    for batch in (1, 64):
        x = torch.rand(batch, 3, *network.config.size)
        with FlopCounterMode(display=False) as counter:
            network(x)
        with torch.inference_mode():
            taken = seconds(lambda: network(x), repeats)  # noqa: B023
        floor = counter.get_total_flops() / matrix_rate(torch.float32)
        rows.append(
            {
                "batch": batch,
                "images_per_s": batch / taken,
                "floor_images_per_s": batch / floor,
                "ratio": taken / floor,
            }
        )
    return rows


def ssim_ways(repeats: int) -> dict[str, float]:
    """SSIM forward and backward, 64 RGB images of 128×128: banded matrices, depthwise convolutions."""
    x, matrix = torch.rand(64, 3, 128, 128), valid_blur_matrix(128)
    window = (matrix[0, :11, None] * matrix[0, None, :11]).expand(3, 1, 11, 11).contiguous()

    def by_matrices() -> None:
        y = x.clone().requires_grad_()
        ssim_map(x, y, matrix, matrix).mean().backward()

    def by_convolution() -> None:
        y = x.clone().requires_grad_()

        def smooth(z: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.conv2d(z, window, groups=3)

        a, b = smooth(x), smooth(y)
        va, vb, c = smooth(x * x) - a * a, smooth(y * y) - b * b, smooth(x * y) - a * b
        value = (2 * a * b + 1e-4) * (2 * c + 9e-4) / ((a * a + b * b + 1e-4) * (va + vb + 9e-4))
        value.mean().backward()

    matrices, convolution = seconds(by_matrices, repeats), seconds(by_convolution, repeats)
    return {
        "matrices_s": matrices,
        "convolution_s": convolution,
        "convolution_over_matrices": convolution / matrices,
    }


def in_fresh_process(preset: str, keep_memory: bool, repeats: int) -> dict[str, float]:
    """Time a training step in a process of its own: the allocator's settings cannot be taken back."""
    arguments = ["--step", preset, str(int(keep_memory)), str(repeats)]
    done = subprocess.run([sys.executable, __file__, *arguments], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def main() -> None:
    """Measure, print and write."""
    if sys.argv[1:2] == ["--step"]:
        print(
            json.dumps(training_step(sys.argv[2], keep_memory=sys.argv[3] == "1", repeats=int(sys.argv[4])))
        )
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="paper-object")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/speed.json"))
    options = parser.parse_args()
    result = {
        "preset": options.preset,
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "threads": torch.get_num_threads(),
        },
        "training_step": in_fresh_process(options.preset, True, options.repeats),
        "training_step_without_keeping_memory": in_fresh_process(options.preset, False, options.repeats),
        "training_step_default_preset": in_fresh_process("default", True, options.repeats),
        "scoring": scoring(options.preset, options.repeats),
        "scoring_default_preset": scoring("default", options.repeats),
        "ssim": ssim_ways(options.repeats),
    }
    text = json.dumps(result, indent=2)
    print(text)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
