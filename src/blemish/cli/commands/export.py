"""`blemish export`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from blemish.cli.arguments import ExportArguments
from blemish.cli.console import parse
from blemish.core.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path


def export(arguments: list[str]) -> int:
    """Run `blemish export`."""
    args: ExportArguments = parse("export", ExportArguments, arguments)
    from blemish.export.onnx import export as run_export

    if args.int8 != (args.data is not None):
        raise UsageError("--int8 needs --data, the data of the training, and --data is for --int8: give both")
    if args.data is not None:
        return _export_int8(args.model, args.data, args.out)
    difference = run_export(args.model, args.out)
    size = args.out.stat().st_size / 2**20
    print(f"{args.out}: {size:.1f} MiB, equal to the model within {difference:.1g} of its output's range")
    return 0


def _export_int8(model: Path, data: Path, out: Path) -> int:
    from blemish.export.int8 import quantise

    found = quantise(model, data, out)
    print(f"{out}: {out.stat().st_size / 2**20:.1f} MiB, {found.layers} layers in 8 bits")
    for name, areas in (("image AUROC", found.image_auroc), ("pixel AUROC", found.pixel_auroc)):
        if areas is not None:
            print(f"{name} of {found.images} test images: {areas[1]:.4f}, in 32 bits {areas[0]:.4f}")
    median, largest = 100 * found.median_difference, 100 * found.largest_difference
    print(f"scores of good images differ by {median:.2g} % in the median, by {largest:.2g} % at most")
    return 0
