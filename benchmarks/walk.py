"""The walk of one file through `predict`: which modules it enters, and how often it is decoded.

    python benchmarks/walk.py --model RUN IMAGE [--out FILE]
    PYTHONPATH=OTHER/src python benchmarks/walk.py --model RUN IMAGE --main blemish.cli  # without rooms

The command runs in this process on one copy of the image and on two, one image in a call of the network. A
module whose functions are called more often for two is a module that a file enters; what parses options or
loads the model is called as often for both, and does not count.
"""

from __future__ import annotations

import argparse
import importlib
import json
import shutil
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

DECODERS = {"images.decode.decode", "decoding.decode"}
"""The function that decodes, in this tree and in the one without rooms."""


def calls_of(command: Callable[[], object]) -> Counter[str]:
    """Count the calls of the package's functions in all threads, by `module.function`."""
    package = Path(next(iter(importlib.import_module("blemish").__path__)))
    calls: Counter[str] = Counter()
    names: dict[str, str | None] = {}

    def module_of(file: str) -> str | None:
        path = Path(file)
        if not path.is_relative_to(package):
            return None
        return ".".join(path.relative_to(package).with_suffix("").parts)

    def count(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_name != "<module>":
            file = frame.f_code.co_filename
            if file not in names:
                names[file] = module_of(file)
            if names[file] is not None:
                calls[f"{names[file]}.{frame.f_code.co_name}"] += 1

    threading.setprofile(count)
    sys.setprofile(count)
    try:
        command()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return calls


def walk(model: str, image: Path, main: Callable[[list[str]], object]) -> dict[str, Any]:
    """Return what a further file costs: modules entered, by name, calls of functions, and decodes."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        copies = [folder / f"{i}{image.suffix}" for i in range(2)]
        for copy in copies:
            shutil.copy(image, copy)

        def predict(n: int) -> Counter[str]:
            files = [str(copy) for copy in copies[:n]]
            out = str(folder / f"out{n}")
            return calls_of(
                lambda: main(["predict", "--model", model, "--batch-size", "1", "--out", out, *files])
            )

        predict(1)  # what is imported and remembered once
        shutil.rmtree(folder / "out1")
        one, two = predict(1), predict(2)
    further = two - one
    modules = sorted({name.rsplit(".", 1)[0] for name in further})
    return {
        "modules": len(modules),
        "rooms": sorted({name.split(".")[0] for name in modules}),
        "decodes": sum(further[name] for name in DECODERS),
        "calls": further.total(),
        "names": modules,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("image", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--main", default="blemish.cli.main", help="the module with the commands' main")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found = walk(options.model, options.image, importlib.import_module(options.main).main)
    text = json.dumps(found, indent=1) + "\n"
    print(text)
    if options.out:
        options.out.write_text(text)


if __name__ == "__main__":
    main()
