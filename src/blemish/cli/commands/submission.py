"""`blemish submission`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from blemish.cli.console import print_left_out, progress_bar
from blemish.cli.options import ModelOptions, ProductOption
from blemish.cli.parser import parse


@dataclass(frozen=True, kw_only=True)
class SubmissionOptions(ModelOptions, ProductOption):
    """Write maps of MVTec AD 2's private test images as its evaluation server takes them.

    Continuous and binary maps; a category at a time, all of them into one folder.
    """

    data: Path
    """A category of MVTec AD 2, with test_private or test_private_mixed."""
    out: Path = Path("submission")
    """Where to write anomaly_images/ and anomaly_images_thresholded/."""


def submission(arguments: list[str]) -> int:
    """Run `blemish submission`."""
    options = parse("submission", SubmissionOptions, arguments)
    from blemish.evaluation.submission import private_images, write_submission
    from blemish.images.folders import LeftOut

    left_out = LeftOut()
    total = len(private_images(options.data, left_out))
    detector = options.load().for_product(options.product)
    print_left_out(left_out)
    with progress_bar() as progress:
        task = progress.add_task("scoring", total=total)
        written = write_submission(detector, options.data, options.out, lambda: progress.advance(task))
    print(f"{written} images, marked at a false-alarm rate of {detector.rate:.3g}: {options.out}")
    return 0
