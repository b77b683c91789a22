"""A benchmark that anyone can rerun: methods × categories × seeds.

A cell is one method on one category with one seed: the commands `blemish train` and `blemish evaluate`, in a
process of their own. Its folder is named by a digest of all that its figures depend on: options, seed, the
data's content, the code, the libraries. So a finished cell is never done again, an interrupted one goes on
from its checkpoint, and figures of other code or data are never mixed in: they lie in other folders.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blemish.core.errors import DataError, UsageError
from blemish.core.files import write_whole
from blemish.core.seeds import check_seed
from blemish.data import layouts, mvtec
from blemish.data.dataset import check_evaluable, dataset_fingerprint, open_dataset
from blemish.evaluation import anomalib
from blemish.evaluation.jobs import Processes, Progress, run_jobs
from blemish.evaluation.software import code_of, software
from blemish.methods import registry

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

CELL_NAME = "cell.json"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One method on one category with one seed.

    `data` is the category's folder, in a `layout`; `folder` is where the run lies, `identity` what its
    figures depend on.
    """

    method: str
    preset: str
    category: str
    seed: int
    data: Path
    folder: Path
    identity: dict[str, Any]
    layout: str = "auto"

    @property
    def name(self) -> str:
        """Say which cell it is, in words."""
        return f"{label_of(self.method, self.preset)} on {self.category}, seed {self.seed}"

    @property
    def cost_key(self) -> tuple[str, str]:
        """Name what takes as long: the method, and the category."""
        return label_of(self.method, self.preset), self.category

    @property
    def software(self) -> dict[str, Any]:
        """Return what a machine must have to do it."""
        return {name: self.identity[name] for name in ("code", "libraries")}

    def absolute(self) -> Cell:
        """Return the cell with absolute paths."""
        return replace(self, data=self.data.absolute(), folder=self.folder.absolute())

    def commands(self) -> list[list[str]]:
        """Return the command lines that make it, after `python -m`."""
        return commands(self)

    def complete(self, folder: Path, seconds: float) -> None:
        """Write cell.json of what the commands left in `folder`: it says that the cell is finished."""
        about = json.loads((folder / "run.json").read_text())
        result = {
            "category": self.category,
            **self.identity,
            "commands": [" ".join(["python -m", *command]) for command in self.commands()],
            "machine": about["machine"],
            "versions": about["versions"],
            "training": about["result"],
            "seconds": seconds,
            "evaluation": json.loads((folder / "evaluation" / "evaluation.json").read_text()),
        }
        write_whole(folder / CELL_NAME, json.dumps(result, indent=2) + "\n")

    def result(self) -> dict[str, Any] | None:
        """Return what the finished cell says, or None."""
        file = self.folder / CELL_NAME
        return json.loads(file.read_text()) if file.exists() else None

    def summary_line(self) -> str:
        """Say how it went: the areas, and the minutes."""
        result = self.result() or {}
        areas = {name: result["evaluation"][f"{name}_auroc"] for name in ("image", "pixel")}
        known = [f"{name} AUROC {value:.3f}" for name, value in areas.items() if value is not None]
        return f"{', '.join(known)}, {result['seconds'] / 60:.1f} min"


# --- planning ---------------------------------------------------------------------------------------------


def label_of(method: str, preset: str) -> str:
    """Name a method as `--methods` takes it: with the preset where it is not the default."""
    return method if preset == "default" else f"{method}:{preset}"


def categories_in(root: Path, wanted: Sequence[str] = (), layout: str = "auto") -> dict[str, Path]:
    """Find categories in a layout by name: `root` itself, or folders one or two levels below it.

    With `wanted`, only those, each by its whole name or its last part. `layout` is as in `open_dataset`.
    Raises DataError when there are none, or when one that is wanted is not there or not the only one of that
    name, UsageError for an unknown layout.
    """
    layouts.check_name(layout)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; give one that holds categories in MVTec layout")
    found = {folder.relative_to(root).as_posix(): folder for folder in _categories_below(root, layout)}
    if _is_category(root, layout):
        found = {root.resolve().name: root}
    if not found:
        holds = (
            layouts.LAYOUTS[layout].holds if layout in layouts.LAYOUTS else "the folders train/good and test"
        )
        raise DataError(f"{root}: holds no category; one has {holds}")
    chosen = {}
    for name in wanted or found:
        hits = [name] if name in found else [full for full in found if full.rsplit("/", 1)[-1] == name]
        if len(hits) != 1:
            why = "is there more than once; give its whole name" if hits else "is not there"
            raise DataError(f"{root}: category {name} {why}; there are {', '.join(found)}")
        chosen[hits[0]] = found[hits[0]]
    return chosen


def _is_category(root: Path, layout: str) -> bool:
    if layout in ("auto", "mvtec") and (root / "train").is_dir():
        return True
    return layout != "mvtec" and layouts.is_category(root, layout)


def _categories_below(root: Path, layout: str) -> list[Path]:
    of_mvtec = mvtec.find_categories(root) if layout in ("auto", "mvtec") else []
    return sorted({*of_mvtec, *(layouts.find_categories(root, layout) if layout != "mvtec" else [])})


def plan(
    methods: Sequence[str],
    categories: dict[str, Path],
    seeds: Sequence[int],
    out: Path,
    *,
    layout: str = "auto",
) -> list[Cell]:
    """List the cells, seeds outermost: a benchmark cut short then has whole tables of fewer seeds.

    `methods` are names, `name:preset`, several of them joined by a plus, or `anomalib:Model` where anomalib
    is installed. Raises UsageError for one that does not exist and for a seed that `train` does not take,
    DataError for a category that has nothing to train or to evaluate on.
    """
    for option, given in (("methods", methods), ("seeds", seeds)):
        if not given:
            raise UsageError(f"--{option}: name at least one")
    for seed in seeds:
        check_seed(seed, "--seeds")
    chosen = []
    for given in dict.fromkeys(methods):
        method, _, preset = (given, "", "") if registry.members_of(given) else given.partition(":")
        if method == anomalib.METHOD and preset:
            config = {"anomalib": anomalib.anomalib_version()}
        else:
            config = asdict(registry.preset_named(method, preset or "default"))
        named = {"method": method, "preset": preset or "default", "config": config}
        chosen.append(named | software(code_of(method)))
    fingerprints = {}
    for name, folder in categories.items():
        dataset = open_dataset(folder, layout=layout)
        check_evaluable(dataset)
        fingerprints[name] = dataset_fingerprint(dataset)
    return [
        replace(_cell(one | {"seed": seed, "data": fingerprints[name]}, name, folder, out), layout=layout)
        for seed in dict.fromkeys(seeds)
        for name, folder in categories.items()
        for one in chosen
    ]


def _cell(identity: dict[str, Any], category: str, data: Path, out: Path) -> Cell:
    method, preset, seed = identity["method"], identity["preset"], identity["seed"]
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    place = out / "cells" / label_of(method, preset).replace(":", "+") / category.replace("/", "+")
    return Cell(
        method=method,
        preset=preset,
        category=category,
        seed=seed,
        data=data,
        folder=place / f"{seed}-{digest[:10]}",
        identity=identity,
    )


def commands(cell: Cell) -> list[list[str]]:
    """Return the command lines that make a cell, after `python -m`."""
    method = ["--method", cell.method, "--preset", cell.preset, "--seed", str(cell.seed)]
    data, run = ["--data", str(cell.data)], str(cell.folder)
    if cell.method == anomalib.METHOD:
        words = [cell.preset, str(cell.data), str(cell.seed), run]
        return [["blemish.evaluation.anomalib", *words, *([] if cell.layout == "auto" else [cell.layout])]]
    if cell.layout != "auto":
        data += ["--layout", cell.layout]
    train = ["blemish.cli", "train", *data, *method, "--out", run, "--resume"]
    return [train, ["blemish.cli", "evaluate", *data, "--model", run, "--no-sensitivity"]]


# --- running ----------------------------------------------------------------------------------------------


def run(cells: Sequence[Cell], *, jobs: int, on_change: Callable[[Progress], None]) -> Progress:
    """Run the cells that are not finished, `jobs` at a time, each on its share of the machine's cores.

    `on_change` is called before the first, and after each. A cell that fails is noted and the others go on;
    the next run tries it again. KeyboardInterrupt stops the running cells, which keep their checkpoints.
    """
    if jobs < 1:
        raise UsageError(f"--jobs {jobs}: must be 1 or larger")
    return run_jobs(cells, Processes(jobs), on_change)
