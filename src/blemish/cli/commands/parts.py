"""`blemish parts`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from blemish.cli.options import DeviceOptions, LayoutOption, ViewModelOptions
from blemish.cli.parser import parse


@dataclass(frozen=True, kw_only=True)
class CalibratePartsOptions(DeviceOptions, LayoutOption, ViewModelOptions):
    """Calibrate decisions of parts that have several views: score good parts in all their views.

    `blemish train` does it by itself where it knows the parts. This is for models that were trained apart,
    for exported models, and for new good parts. Parts of which a model has learnt an image are left out.
    """

    model: Path
    """Run folder, model file or exported model, of all views or of those without one of their own."""
    data: Path
    """Good parts: a folder, a manifest with a column part, or a category, whose test images are not taken."""
    out: Path | None = None
    """The file to write; default parts.json in the run folder of --model, where it is found by itself, or
    MODEL.parts.json beside an exported one."""


def parts(arguments: list[str]) -> int:
    """Run `blemish parts`."""
    options = parse("parts", CalibratePartsOptions, arguments)
    from blemish.data.dataset import open_dataset
    from blemish.inference.load import load
    from blemish.inference.part_models import ViewModels, describe_part_calibration
    from blemish.training.part_calibration import calibrate_views

    models = ViewModels.of(options.model, options.view_model)
    dataset = open_dataset(options.data, layout=options.layout, names=options.names())
    detectors = models.load(lambda path: load(path, device=options.device))
    out = options.out or models.calibration_file
    good = [*dataset.train, *dataset.calibration]
    _, left_out = calibrate_views(models, detectors, good, out, data=dataset.name)
    if left_out:
        print(f"{left_out} parts left out: a model has learnt one of their images, or a view is missing")
    print(describe_part_calibration(out))
    print(f"parts: {out}")
    return 0
