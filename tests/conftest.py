"""Data that several test files share: the real sets, if they are there, and a tiny generated category."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from hypothesis import HealthCheck, settings
from PIL import Image

TINY_SIDE = 64
CHROMIUM = Path("/usr/bin/chromium")
OF_PLAYWRIGHT = "AimEnabled,AvoidUnnecessaryBeforeUnloadCheckSync,DestroyProfileOnBrowserClose,HttpsUpgrades"
OF_PLAYWRIGHT += ",HttpsFirstBalancedModeAutoEnable,LensOverlay,MediaRouter,NetworkTimeServiceQuerying"
OF_PLAYWRIGHT += ",OptimizationHints,PaintHolding,PreconnectToSearch,ThirdPartyStoragePartitioning"
SPARE = "SpareRendererForSitePerProcess"
ADDRESS_BAR = "WebUIOmniboxPopup,WebUIOmniboxAimPopup,WebUIOmniboxFullPopup"
CHROMIUM_OPTIONS = ("--no-sandbox", f"--disable-features={OF_PLAYWRIGHT},{ADDRESS_BAR},{SPARE}")
"""Without what drops down from an address bar that nobody sees: each window loads more for it than a view of
the station is. And without a spare process for a page that may come. What Playwright switches off is said
again, as the last list of a command line counts."""
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")  # how long an example takes says how busy the machine is


NEEDS = {"browser": "browser", "cluster": "ray", "two_nodes": "ray", "metal_onnx": "slow"}
"""Fixtures, and the marker of the tests that ask for them."""
SECONDS = {"waits": 300, "ray": 25, "server": 25, "torchrun": 15, "slow": 8, "browser": 4, "heavy": 1}
"""About what a test with a marker takes, for an even share of the work; any other takes 0.2 s."""
EXPORTS = "operators_read_once"
"""Files whose tests ask for this export, and begin early: who has read the operators also exports for all."""


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Generator[None]:
    """Mark tests by what they need; side by side, begin with the files whose chosen tests take longest."""
    for item in items:
        for fixture in NEEDS.keys() & set(getattr(item, "fixturenames", ())):
            item.add_marker(NEEDS[fixture])
    yield
    if "PYTEST_XDIST_WORKER" in os.environ:
        seconds = Counter[Path]()
        for item in items:
            seconds[item.path] += max([s for m, s in SECONDS.items() if item.get_closest_marker(m)] or [0.2])
        for path in {item.path for item in items if EXPORTS in getattr(item, "fixturenames", ())}:
            seconds[path] += 30
        items.sort(key=lambda item: -seconds[item.path])


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Search for no garbage while all is imported, which makes a million objects and hardly any garbage."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_collection_finish() -> None:
    """Leave what is loaded by now out of searches for garbage, and search a tenth as often.

    With all that is loaded a search takes a third of a second; what is made later costs a twentieth of all.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(7_000, 10, 10)


@pytest.fixture(scope="session", autouse=True)
def ctrl_c() -> None:
    """Ctrl-C works also where the tests were started in the background, whose children ignore it."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def real_data() -> Path:
    """Return the folder of the real data sets: BLEMISH_DATA, or ../shared/data beside the repository.

    Raises FileNotFoundError where there is none.
    """
    beside = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
    root = Path(os.environ.get("BLEMISH_DATA") or beside)
    if not root.is_dir():
        raise FileNotFoundError(f"no real data sets at {root}; set BLEMISH_DATA")
    return root


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of the real data sets; who needs them is skipped where there are none."""
    try:
        return real_data()
    except FileNotFoundError as error:
        pytest.skip(str(error))


def tiny_image(seed: int) -> np.ndarray:
    """A 64 x 64 RGB picture that a small model can learn: a bright disc on a gradient, with noise."""
    rng = np.random.Generator(np.random.PCG64(seed))
    y, x = np.mgrid[:TINY_SIDE, :TINY_SIDE]
    dx, dy = rng.uniform(-1, 1, 2)
    disc = np.clip(22 - np.hypot(x - 31.5 - dx, y - 31.5 - dy), 0, 1)
    grey = 60 + 0.3 * x + 90 * disc + 10 * disc * np.sin(x / 2)
    rgb = grey[..., None] * np.array([1.0, 0.95, 0.85]) + rng.normal(0, 2, (TINY_SIDE, TINY_SIDE, 3))
    return np.round(np.clip(rgb, 0, 255)).astype(np.uint8)


def tiny_defect(kind: str, i: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture with a black `hole` (8 x 8) or a white `line` (3 x 20), and its mask, 0 or 255."""
    image = tiny_image(1000 + i)
    top, left = 20 + 6 * i, 24 + 3 * i
    height, width, value = (8, 8, 0) if kind == "hole" else (3, 20, 255)
    mask = np.zeros((TINY_SIDE, TINY_SIDE), dtype=np.uint8)
    mask[top : top + height, left : left + width] = 255
    image[mask > 0] = value
    return image, mask


def save(path: Path, array: np.ndarray) -> Path:
    """Write a PNG, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


MadeOnce = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> MadeOnce:
    """Gives a folder, made by the worker that asks first and shared by all of this run. Read only."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def folder(name: str, make: Callable[[Path], object]) -> Path:
        place, whole = shared / name, shared / f"{name}.whole"
        with FileLock(shared / f"{name}.lock"):
            if not whole.exists():
                shutil.rmtree(place, ignore_errors=True)  # what an attempt that failed has left
                place.mkdir()
                make(place)
                whole.touch()
        return place

    return folder


@pytest.fixture(scope="session")
def tiny_category(made_once: MadeOnce) -> Path:
    """A category in MVTec layout, 64 x 64 RGB: 12 + 4 good, 3 `hole`, 3 `line`, masks. Read only."""

    def make(folder: Path) -> None:
        root = folder / "tiny"
        for i in range(12):
            save(root / "train" / "good" / f"{i:03d}.png", tiny_image(i))
        for i in range(4):
            save(root / "test" / "good" / f"{i:03d}.png", tiny_image(100 + i))
        for kind in ("hole", "line"):
            for i in range(3):
                image, mask = tiny_defect(kind, i)
                save(root / "test" / kind / f"{i:03d}.png", image)
                save(root / "ground_truth" / kind / f"{i:03d}_mask.png", mask)

    return made_once("data", make) / "tiny"


@pytest.fixture(scope="session")
def tiny_model(tiny_category: Path, made_once: MadeOnce) -> Path:
    """A run folder: MeTAL, 32 x 32, 5 steps on `tiny_category`, 5 calibration images. Read only."""

    def make(folder: Path) -> None:
        from blemish.methods.metal_config import MetalConfig
        from blemish.training import fit

        config = MetalConfig(
            image_size=32, patch_size=8, embedding=8, hidden=16, heads=2, steps=5, calibration_fraction=0.4
        )
        fit.fit(tiny_category, config=config, out=folder / "tiny", device="cpu", precision="fp32")

    return made_once("model", make) / "tiny"


@pytest.fixture(scope="session")
def operators_read_once() -> None:
    """For tests that export: a process reads the operators once."""
    from exports import read_operators_once

    read_operators_once()


@pytest.fixture(scope="session")
def exported_models(tiny_category: Path, made_once: MadeOnce) -> Path:
    """A folder of two models of PCA and their exports: the first export of a process takes seconds."""

    def make(folder: Path) -> None:
        from exports import read_operators_once

        from blemish.export.onnx import export
        from blemish.methods.baselines.pca import PcaConfig
        from blemish.training import fit

        read_operators_once()
        for i in range(60):
            save(folder / "good" / f"{i:03d}.png", tiny_image(i))
        for run, data, held_out, out in (
            ("tiny", tiny_category, 0.4, folder / "tiny.onnx"),
            ("run", folder / "good", 0.35, folder / "pca" / "model.onnx"),
        ):
            config = PcaConfig(image_size=32, components=3, calibration_fraction=held_out)
            fit.fit(data, method="pca", config=config, out=folder / run, device="cpu")
            export(folder / run, out)

    return made_once("exported", make)


@pytest.fixture(scope="session")
def tiny_pca(exported_models: Path) -> Path:
    """A run folder: PCA, 32 x 32, on `tiny_category`, 5 calibration images. Read only."""
    return exported_models / "tiny"


@pytest.fixture(scope="session")
def tiny_onnx(exported_models: Path) -> Path:
    """`tiny_pca`, exported."""
    return exported_models / "tiny.onnx"


@pytest.fixture(scope="session")
def metal_onnx(tiny_model: Path, made_once: MadeOnce) -> Path:
    """`tiny_model`, exported: a graph of 200 nodes, which takes seconds, so its tests are slow ones."""

    def make(folder: Path) -> None:
        from exports import read_operators_once

        from blemish.export.onnx import export

        read_operators_once()
        export(tiny_model, folder / "tiny.onnx")

    return made_once("metal", make) / "tiny.onnx"


@pytest.fixture(scope="session")
def pca_onnx(exported_models: Path) -> Path:
    """PCA on 39 good pictures, calibrated on 21: enough to know a hole from a good part. Exported."""
    return exported_models / "pca" / "model.onnx"


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL server, which all tests of a process share: each makes databases of its own."""
    from databases import postgres_server

    with postgres_server() as server:
        yield server


@pytest.fixture
def single_thread() -> Iterator[None]:
    """Equal sums, bit for bit, need an equal number of threads, and tiny networks are fastest with one."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def tf32_allowed() -> Iterator[None]:
    """Allow TF32 in all that torch computes on a GPU; what was allowed before is so again afterwards."""
    from torch.backends import cuda, cudnn

    before = cudnn.allow_tf32, cuda.matmul.allow_tf32
    cudnn.allow_tf32 = cuda.matmul.allow_tf32 = True
    yield
    cudnn.allow_tf32, cuda.matmul.allow_tf32 = before


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the report out, which takes most of the time and says what evaluation.json says."""
    monkeypatch.setattr("blemish.evaluation.evaluate.write_report", lambda *_args, **_options: None)


@pytest.fixture
def quick_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draws for an interval and planted defects: 20 of each, as they take most of an evaluation's time."""
    monkeypatch.setattr("blemish.evaluation.evaluate.RESAMPLES", 20)
    monkeypatch.setattr("blemish.evaluation.sensitivity.IMAGES_OF_EVALUATE", 20)


@pytest.fixture
def forked_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the package starts as `python -m …` is forked from a process that has imported what it needs."""
    from warm import forked

    monkeypatch.setattr(subprocess, "Popen", forked)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 316 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=316k", "tmpfs", str(disk)]
    try:
        refused = subprocess.run(command, capture_output=True, text=True).stderr
    except FileNotFoundError as error:
        refused = str(error)
    if refused or not disk.is_mount():
        pytest.skip(f"a small disk cannot be mounted here: {refused.strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.fixture(scope="session", autouse=True)
def patient() -> Iterator[None]:
    """Threads and commands that have seconds to end have a minute here, as the machine may be busy."""
    from blemish.cli import streams
    from blemish.watch import camera, notify

    with pytest.MonkeyPatch.context() as patch:
        for module in (streams, camera, notify):
            patch.setattr(module, "CLOSE_TIMEOUT_S", 60.0)
        patch.setattr(notify, "TIMEOUT_S", 60.0)
        yield


@pytest.fixture
def quick_hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hooks that try again at once, and reach the loopback without a proxy."""
    from blemish.watch import notify

    monkeypatch.setattr(notify, "FIRST_RETRY_S", 0.01)
    monkeypatch.setattr(notify, "LONGEST_RETRY_S", 0.04)
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, driven by Playwright."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.exists():
        pytest.skip(f"{CHROMIUM} is not installed")
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=str(CHROMIUM), args=CHROMIUM_OPTIONS)
        yield running
        running.close()


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """What was forced to disk, and renamed, in order: a temporary file as it was called then."""
    done: list[Path] = []
    fsync, replace = os.fsync, Path.replace

    def log_fsync(opened: int) -> None:
        done.append(Path(f"/proc/self/fd/{opened}").readlink())
        fsync(opened)

    def log_replace(self: Path, target: Path) -> Path:
        done.append(target)
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", log_fsync)
    monkeypatch.setattr(Path, "replace", log_replace)
    return done
