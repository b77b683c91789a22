"""CPC-AD's training and scoring beside the machine's matrix rate, and beside the naive pipeline.

    python benchmarks/speed_cpc_ad.py [--device cpu] [--presets paper default]

All figures come from one run and are meant as ratios; on a shared machine absolute times mean little. The
naive pipeline cuts an image into its overlapping patches and scores each by itself, as the paper describes
it; it is the same code on each patch, so that nothing but the repeated encoding differs.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from timing import matrix_rate, seconds
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from blemish.methods.components.encoders import DenseEncoder, ResNetEncoder
from blemish.methods.cpc_ad import CpcAd
from blemish.training.device import keep_freed_memory, make_accelerator

if TYPE_CHECKING:
    from collections.abc import Callable

RESULTS = Path("benchmarks/results")


def gigaflop(call: Callable[[], object]) -> float:
    """Count the matrix products and convolutions of a call (2 per multiply-add)."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops() / 1e9


def scoring(preset: str, device: str, repeats: int) -> dict[str, float]:
    """Score one image: all of it, its encoder alone, and patch by patch as the naive pipeline does."""
    network = CpcAd(CpcAd.presets[preset], channels=1).to(device).eval()
    config = network.config
    P = config.patch_size
    plain = replace(config, image_size=P, place_statistics=False, place_density=False)
    by_patch = CpcAd(plain, channels=1).to(device).eval()
    kept = {k: v for k, v in network.state_dict().items() if not k.startswith("place_")}
    by_patch.load_state_dict(kept)
    x = torch.rand(1, 1, *config.size, device=device)

    def naive() -> torch.Tensor:
        patches = x.unfold(2, P, P // 2).unfold(3, P, P // 2).reshape(-1, 1, P, P)
        return by_patch(patches)

    dtype = torch.float32
    with torch.inference_mode():
        rate = matrix_rate(dtype, device)
        whole = seconds(lambda: network(x), repeats, device)
        encoding = seconds(lambda: network.encode(x), repeats, device)
        patchwise = seconds(naive, repeats, device)
        rate = max(rate, matrix_rate(dtype, device))
        work, encoder_work = gigaflop(lambda: network(x)), gigaflop(lambda: network.encode(x))
        naive_work = gigaflop(naive)
    return {
        "seconds_per_image": whole,
        "encoder_s": encoding,
        "naive_s": patchwise,
        "naive_over_ours": patchwise / whole,
        "gigaflop": work,
        "naive_gigaflop": naive_work,
        "matrix_gigaflop_per_s": rate / 1e9,
        "encoder_share_of_matrix_rate": encoder_work * 1e9 / encoding / rate,
    }


def training_step(preset: str, device: str, batch: int, repeats: int) -> dict[str, float | str]:
    """Time one optimiser step; peak memory is the process's, so each batch size has a process of its own."""
    keep_freed_memory()
    accelerator = make_accelerator(device, "auto")
    network = CpcAd(CpcAd.presets[preset], channels=1)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4, fused=True)
    network.to(accelerator.device).train()
    x = torch.rand(batch, 1, *network.config.loading_size, device=accelerator.device)

    def step() -> None:
        optimizer.zero_grad()
        with accelerator.autocast():
            loss = network.loss(x)
        loss.backward()
        optimizer.step()

    step()
    work = gigaflop(step)
    bf16 = accelerator.mixed_precision == "bf16"
    taken = seconds(step, repeats, device)
    rate = matrix_rate(torch.bfloat16 if bf16 else torch.float32, device)
    on_gpu = accelerator.device.type == "cuda"
    peak = (
        torch.cuda.max_memory_allocated()
        if on_gpu
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )
    return {
        "precision": "bf16" if bf16 else "fp32",
        "batch": batch,
        "images_per_s": batch / taken,
        "gigaflop_per_image": work / batch,
        "share_of_matrix_rate": work * 1e9 / taken / rate,
        "peak_mib": peak / 2**20,
    }


def layouts(device: str, repeats: int) -> dict[str, dict[str, float]]:
    """Encode forward and backward with weights in both memory layouts; and the grey stem by im2col too."""
    result: dict[str, dict[str, float]] = {}
    sizes = {
        "resnet18": ((1, 1, 256, 256), ResNetEncoder(1, 64, 64)),
        "dense": ((16, 1, 192, 192), DenseEncoder(1, 16, 16)),
    }
    for name, (shape, encoder) in sizes.items():
        x, encoder = torch.rand(shape, device=device), encoder.to(device)
        for layout in (torch.contiguous_format, torch.channels_last):
            encoder.to(memory_format=layout)
            taken = seconds(lambda: encoder(x).sum().backward(), repeats, device)  # noqa: B023
            result.setdefault(name, {})[str(layout).removeprefix("torch.")] = taken
    crops = torch.rand(529, 1, 64, 64, device=device)
    weight = torch.randn(64, 1, 7, 7, device=device, requires_grad=True)
    last = weight.detach().to(memory_format=torch.channels_last).requires_grad_()
    ways = {
        "contiguous_format": lambda: F.conv2d(crops, weight, stride=2, padding=3),
        "channels_last": lambda: F.conv2d(
            crops.to(memory_format=torch.channels_last), last, stride=2, padding=3
        ),
        "im2col": lambda: weight.view(64, 49) @ F.unfold(crops, 7, padding=3, stride=2),
    }
    result["stem of resnet18"] = {
        name: seconds(lambda: way().sum().backward(), repeats, device)  # noqa: B023
        for name, way in ways.items()
    }
    return result


def in_fresh_process(preset: str, device: str, batch: int, repeats: int) -> dict[str, float]:
    """Time a training step in a process of its own."""
    arguments = ["--step", preset, device, str(batch), str(repeats)]
    done = subprocess.run([sys.executable, __file__, *arguments], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def main() -> None:
    """Measure, print and write."""
    if sys.argv[1:2] == ["--step"]:
        preset, device, batch, repeats = sys.argv[2:]
        print(json.dumps(training_step(preset, device, int(batch), int(repeats))))
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--presets", nargs="+", choices=CpcAd.presets, default=["paper", "default"])
    parser.add_argument("--batches", nargs="+", type=int, default=[4, 16], help="training batches, `default`")
    parser.add_argument("--paper-batches", nargs="+", type=int, default=[1], help="training batches, `paper`")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    result = {
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "device": options.device,
            "threads": torch.get_num_threads(),
        },
        "layout_s": layouts(options.device, options.repeats),
        "scoring": {p: scoring(p, options.device, options.repeats) for p in options.presets},
        "training": {
            p: [
                in_fresh_process(p, options.device, batch, options.repeats)
                for batch in (options.paper_batches if p == "paper" else options.batches)
            ]
            for p in options.presets
        },
    }
    text = json.dumps(result, indent=2)
    print(text)
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"speed_cpc_ad_{options.device}.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
