"""Where and how a training computes: device, precision, memory."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import torch

from blemish.core.errors import UsageError
from blemish.inference.torch_backend import torch_device, use_full_fp32

if TYPE_CHECKING:
    from accelerate import Accelerator

PRECISIONS = ("auto", "bf16", "fp32")


def make_accelerator(device: str, precision: str) -> Accelerator:
    """Choose the device and precision: `auto` is CUDA if there is one, and bf16 where it is native.

    On a CPU bf16 pays only with instructions for it (AMX or AVX512-BF16); elsewhere it is emulated, and
    measured three times slower than fp32. Started by torchrun or `accelerate launch`, it joins the other
    processes of the training, and waits until all are there. On a GPU, fp32 is fp32 in convolutions too,
    and so is what bf16 leaves to it: no TF32. Raises UsageError for another device or precision, and for CUDA
    where there is none.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    if precision not in PRECISIONS:
        raise UsageError(f"--precision {precision}: must be one of {', '.join(PRECISIONS)}")
    on_cpu = torch_device(device).type == "cpu"
    if precision == "auto":
        native = _cpu_has_bf16() if on_cpu else torch.cuda.is_bf16_supported()
        precision = "bf16" if native else "fp32"
    use_full_fp32()
    # accelerate keeps one device and precision per process, and would hold a second training to the first's.
    AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(cpu=on_cpu, mixed_precision="bf16" if precision == "bf16" else "no")


def _cpu_has_bf16() -> bool:
    from torch import cpu

    probes = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(cpu, probe, bool)() for probe in probes)


def keep_freed_memory() -> None:
    """Ask glibc to keep freed memory instead of handing it back to the kernel at every step.

    A step frees and takes the same big tensors again; returning them costs a page fault for every 4 KiB.
    Measured in `benchmarks/speed.py`. Other C libraries are left alone.
    """
    M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
