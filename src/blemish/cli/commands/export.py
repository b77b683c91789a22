"""`blemish export`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from blemish.cli.options import LayoutOption, PartNameOptions, ProductsOption
from blemish.cli.parser import parse
from blemish.core.errors import UsageError
from blemish.core.files import fit_name
from blemish.core.ownership import owned


@dataclass(frozen=True, kw_only=True)
class ExportOptions(LayoutOption, ProductsOption, PartNameOptions):
    """Write a trained model as one ONNX file, which predict and evaluate run without torch."""

    model: Path
    """Run folder or model file."""
    out: Path
    """Where to write; a name that ends in .onnx."""
    int8: bool = False
    """Compute trained layers in 8 bits; prints what that costs. Needs --data."""
    data: Path | None = None
    """For --int8: what the model was trained on, a category, folder or manifest."""


def export(arguments: list[str]) -> int:
    """Run `blemish export`."""
    options = parse("export", ExportOptions, arguments)
    if options.int8 != (options.data is not None):
        raise UsageError("--int8 needs --data, the data of the training, and --data is for --int8: give both")
    if options.layout != "auto" and options.data is None:
        raise UsageError(f"--layout {options.layout}: is for --data; leave it out")
    if options.products and options.data is None:
        raise UsageError(f"--products {' '.join(options.products)}: is for --data; leave it out")
    names = options.names()
    if names is not None and options.data is None:
        raise UsageError(f"--part-pattern {names.part}: is for --data; leave it out")
    lock = fit_name(f".{options.out.name}", ".lock")
    with owned(options.out.parent, lock=lock, named=f"--out {options.out}"):
        return _export(options)


def _export(options: ExportOptions) -> int:
    from blemish.export.onnx import export as run_export

    if options.data is not None:
        return _export_int8(options, options.data_sets(options.data))
    difference = run_export(options.model, options.out)
    size = options.out.stat().st_size / 2**20
    print(f"{options.out}: {size:.1f} MiB, equal to the model within {difference:.1g} of its output's range")
    return 0


def _export_int8(options: ExportOptions, data: Path | dict[str, Path]) -> int:
    from blemish.export.int8 import quantise

    out = options.out
    found = quantise(options.model, data, out, layout=options.layout, names=options.names())
    print(f"{out}: {out.stat().st_size / 2**20:.1f} MiB, {found.layers} layers in 8 bits")
    for name, areas in (("image AUROC", found.image_auroc), ("pixel AUROC", found.pixel_auroc)):
        if areas is not None:
            print(f"{name} of {found.images} test images: {areas[1]:.4f}, in 32 bits {areas[0]:.4f}")
    median, largest = 100 * found.median_difference, 100 * found.largest_difference
    print(f"scores of good images differ by {median:.2g} % in the median, by {largest:.2g} % at most")
    return 0
