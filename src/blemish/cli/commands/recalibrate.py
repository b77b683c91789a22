"""`blemish recalibrate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from blemish.cli.console import describe_calibrations
from blemish.cli.options import (
    CountingOptions,
    DeviceOptions,
    LayoutOption,
    PartNameOptions,
    ProductOption,
    ProductsOption,
)
from blemish.cli.parser import parse


@dataclass(frozen=True, kw_only=True)
class RecalibrateOptions(
    DeviceOptions, LayoutOption, CountingOptions, ProductsOption, ProductOption, PartNameOptions
):
    """Make new thresholds from good images, without training; also when other sizes or places are to count.

    Images that the model has learnt are left out. Sizes and regions that are not given stay as they are. With
    --part-pattern, or a manifest with parts, decisions of parts with several views are calibrated too.
    """

    model: Path
    """Run folder, model file or exported model; it stays as it is."""
    data: Path
    """Good images: a folder, a manifest, or a category in MVTec layout, whose test images are not taken."""
    out: Path
    """Where to write: a new folder; for an exported model a file that ends in .onnx."""
    roi: Path | None = None
    """A mask whose white counts, or polygons in JSON: where the image counts. The network sees all of it, as
    in its training."""


def recalibrate(arguments: list[str]) -> int:
    """Run `blemish recalibrate`."""
    options = parse("recalibrate", RecalibrateOptions, arguments)
    from blemish.images.roi import read_roi
    from blemish.inference.part_models import ViewModels, describe_part_calibration
    from blemish.training.recalibrate import recalibrate as run

    model_file, left_out = run(
        options.model,
        options.data_sets(options.data),
        options.out,
        sizes=options.sizes(),
        roi=None if options.roi is None else read_roi(options.roi),
        layout=options.layout,
        device=options.device,
        product=options.product,
        names=options.names(),
    )
    parts, before = (ViewModels(usual=path).calibration_file for path in (options.out, options.model))
    if left_out:
        of_part = ", or another image of their part" if parts.exists() else ""
        print(f"{left_out} images left out: the model has learnt them{of_part}")
    print(f"counts: {model_file.counting.describe()}")
    print("\n".join(describe_calibrations(model_file)))
    if parts.exists():
        print(f"parts: {describe_part_calibration(parts)}")
    elif before.exists():
        print(
            f"not calibrated: parts with several views, which {before} decides of; give --part-pattern, or "
            "calibrate them by `blemish parts`"
        )
    print(f"model: {options.out}")
    return 0
