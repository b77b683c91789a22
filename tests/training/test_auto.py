"""Choosing by planted defects: what is compared, which is kept, and what becomes of a stopped run."""

from __future__ import annotations

import functools
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from commands import run
from conftest import save, tiny_image

from blemish.core.errors import Interrupted, TrainingError, UsageError
from blemish.core.types import Sample
from blemish.data import planting
from blemish.images.regions import Regions
from blemish.inference.detector import Detector
from blemish.inference.load import load
from blemish.inference.model_file import load_model_file
from blemish.methods.auto import AutoConfig
from blemish.methods.baselines.pca import Pca
from blemish.methods.components.statistics import white_point
from blemish.methods.registry import METHODS
from blemish.training import auto, candidates, choice, costs, members
from blemish.training.fit import fit
from blemish.training.members import Run
from blemish.training.run_folder import CANDIDATES_FOLDER, read_log
from blemish.training.watcher import Silent

pytestmark = pytest.mark.usefixtures("single_thread")

QUICK = AutoConfig(image_size=64, minutes=0.5, calibration_fraction=0.25, validation_fraction=0.25)


def chosen(data: Path, out: Path | None = None, **options):
    config = options.pop("config", QUICK)
    return fit(data, config=config, out=out, device="cpu", precision="fp32", **options)


# --- what a trial is --------------------------------------------------------------------------------------


def pictures() -> torch.Tensor:
    stacked = np.stack([tiny_image(i) for i in range(12)]).transpose(0, 3, 1, 2)
    return torch.from_numpy(stacked.astype(np.float32) / 255)


def planted_trial(n: int = 4, seed: int = 0) -> choice.Trial:
    return choice.plant_trial(pictures()[:n], pictures()[n:], seed)


trial = functools.cache(planted_trial)
"""The same one, made once, for tests that only look at it."""


def test_a_trial_plants_kinds_that_no_candidate_learns_from():
    found = trial()
    assert set(found.kinds) <= set(planting.FAMILIES[1])
    assert not set(found.kinds) & set(planting.FAMILIES[0])
    assert len(set(found.kinds)) >= 4
    assert len(found.planted) == len(found.masks) == len(found.kinds) == len(found.origin)


@pytest.mark.heavy
def test_few_images_get_each_kind_more_often():
    of_two, of_twelve = trial(n=2), trial(n=6)
    assert set(of_two.origin) == {0, 1}
    assert max(of_two.kinds.count(kind) for kind in choice.PLANTED_KINDS) > choice.PLANTED / 2
    assert max(of_twelve.kinds.count(kind) for kind in choice.PLANTED_KINDS) <= choice.PLANTED


def test_a_trials_masks_are_where_pixels_changed():
    found, white = trial(), float(white_point(pictures()[4:]).mean())
    for planted, mask, origin in zip(found.planted, found.masks, found.origin, strict=True):
        levels = 255 / white * (planted - found.good[origin]).abs().mean(dim=0).numpy()
        assert levels[np.kron(mask, np.ones((2, 2), bool))].max() > choice.CHANGED
        away = ~np.kron(mask, np.ones((2, 2), bool))
        assert levels[away].max(initial=0) <= 9 * choice.CHANGED  # one pixel of nine may change alone
        assert mask.sum() * 4 >= choice.LEAST_PIXELS / 3


@pytest.mark.heavy
def test_the_seed_fixes_a_trial_and_leaves_other_draws_alone():
    torch.manual_seed(5)
    first = planted_trial(seed=1)
    after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.rand(1) == after
    assert torch.equal(first.planted, planted_trial(seed=1).planted)
    other = planted_trial(seed=2).planted
    assert len(other) != len(first.planted) or not torch.equal(first.planted, other)


def test_images_in_which_no_planted_defect_can_be_seen_are_refused():
    with pytest.raises(TrainingError, match="no planted defect can be seen in these images"):
        choice.plant_trial(torch.full((2, 3, 4, 4), 0.5), torch.full((4, 3, 4, 4), 0.5), 0)


def test_damaged_maps_of_a_stopped_run_are_made_again(tmp_path: Path):
    file = tmp_path / "pca.npz"
    assert candidates._kept_maps(file, "mine") is None
    maps = np.zeros((1, 2, 2), np.float32)
    np.savez(file, good=maps, planted=maps, identity="mine")
    whole = file.read_bytes()
    found = candidates._kept_maps(file, "mine")
    assert found is not None
    np.testing.assert_array_equal(found[0], maps)
    assert candidates._kept_maps(file, "another's") is None
    for damaged in (b"", whole[: len(whole) // 2], b"no archive"):
        file.write_bytes(damaged)
        assert candidates._kept_maps(file, "mine") is None


class Numbered:
    """Images that show their own number."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def batch(self, indices: np.ndarray) -> np.ndarray:
        noise = np.random.default_rng(0).uniform(0, 0.1, (1, 1, 64, 64))
        return (noise + indices[:, None, None, None] / self.n).astype(np.float32)


def test_a_trials_images_are_from_all_that_were_held_out():
    images = SimpleNamespace(train=Numbered(50), validation=Numbered(90), regions=Regions())
    found = auto.plant_trial_of(images, seed=0)  # type: ignore[arg-type]
    shown = found.good.amin(dim=(1, 2, 3))
    assert len(shown) == choice.MOST_GOOD
    assert shown.max() > 0.95
    assert shown.diff().max() < 0.06


# --- the rule ---------------------------------------------------------------------------------------------


def test_a_scale_is_good_images_medians_of_median_and_maximum():
    maps = np.array([[[0, 1], [2, 9]], [[1, 1], [1, 5]], [[4, 4], [4, 7]]], np.float32)
    assert choice.scale_of(maps) == (1.5, 7.0)
    assert choice.scale_of(np.full((2, 2, 2), 3.0)) == (3.0, 4.0)


def maps(strength: float, found: choice.Trial, noise: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Maps of noise, on which planted pixels stand out by `strength`."""
    rng = np.random.default_rng(noise)
    shape = found.masks.shape[1:]
    good, planted = (rng.normal(size=(n, *shape)) for n in (len(found.good), len(found.masks)))
    return good, planted + strength * found.masks


def decide(strengths: dict[str, float], found: choice.Trial, same_noise: bool = True) -> choice.Choice:
    drawn = {name: maps(s, found, 0 if same_noise else i) for i, (name, s) in enumerate(strengths.items())}
    rows = [choice.compare((name,), *drawn[name], found) for name in drawn]
    return choice.choose(rows, drawn, found)


def test_areas_are_those_of_planted_pixels_and_images():
    found = trial()
    row = choice.compare(("a",), *maps(100.0, found), found)
    assert row.pixel_auroc == pytest.approx(1.0)
    assert row.pixel_ap == pytest.approx(1.0)
    assert row.image_auroc == pytest.approx(1.0)
    blind = choice.compare(("a",), *maps(0.0, found), found)
    assert blind.pixel_auroc == pytest.approx(0.5, abs=0.03)


def test_the_best_is_kept_and_of_equals_the_cheaper():
    found = trial()
    assert decide({"a": 0.5, "b": 3.0, "c": 1.0}, found).members == ("b",)
    assert decide({"a": 2.0, "a:b": 2.0}, found).members == ("a",)
    assert decide({"a": 2.0, "a:b": 2.0 + 1e-4}, found).members == ("a",)


def test_images_count_as_much_as_pixels():
    row = {"pixel_ap": 0.5, "seconds": 1.0}
    rows = [
        choice.Row(members=("large defects",), image_auroc=0.70, pixel_auroc=0.95, **row),
        choice.Row(members=("all defects",), image_auroc=0.80, pixel_auroc=0.90, **row),
        choice.Row(members=("dearer",), image_auroc=0.803, pixel_auroc=0.90, **row),
    ]
    found = trial()
    kept = choice.choose(rows, {row.members[0]: maps(0.0, found) for row in rows}, found)
    assert kept.members == ("all defects",)


@pytest.mark.parametrize(("worse", "kept"), [(0.004, ("a", "b")), (0.006, ("a",))])
def test_two_methods_together_may_be_a_little_worse_than_one_alone(
    worse: float, kept: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
):
    found, row = trial(), {"pixel_ap": 0.5}
    singles = [
        choice.Row(members=(n,), image_auroc=a, pixel_auroc=a, **row) for n, a in (("a", 0.9), ("b", 0.7))
    ]
    pair = choice.Row(members=("a", "b"), image_auroc=0.9 - worse, pixel_auroc=0.9 - worse, **row)
    monkeypatch.setattr(choice, "compare", lambda *_: pair)
    drawn = {name: maps(0.0, found) for name in "ab"}
    assert choice.choose(singles, drawn, found).members == kept


def test_two_whose_errors_differ_are_kept_together():
    found = trial()
    assert decide({"a": 1.0, "b": 1.0}, found, same_noise=False).members == ("a", "b")


def test_one_that_sees_nothing_is_tried_with_no_other_one():
    found = trial()
    shape = found.masks.shape[1:]
    nothing = tuple(np.zeros((n, *shape)) for n in (len(found.good), len(found.masks)))
    drawn = {"a": maps(1.0, found), "b": nothing}
    rows = [choice.compare((name,), *drawn[name], found) for name in drawn]
    chosen = choice.choose(rows, drawn, found)
    assert (chosen.members, len(chosen.rows)) == (("a",), 2)


def test_three_methods_whose_errors_differ_are_kept_together():
    found = trial()
    assert decide(dict.fromkeys("abc", 1.0), found, same_noise=False).members == ("a", "b", "c")
    of_one_method = decide(dict.fromkeys(("a", "a:1", "a:2"), 1.0), found, same_noise=False)
    assert len(of_one_method.members) == 2


@pytest.mark.parametrize(("better", "kept"), [(1e-4, "abc"), (-1e-4, "ab")])
def test_a_third_method_must_be_better(better: float, kept: str):
    rows = [
        choice.Row(members=tuple(names), image_auroc=area, pixel_auroc=area)
        for names, area in (("a", 0.8), ("b", 0.8), ("c", 0.8), ("ab", 0.796), ("abc", 0.796 + better))
    ]
    assert choice.best_of(rows, known=0).members == tuple(kept)


def test_all_pairs_are_tried_and_three_of_different_methods():
    assert choice.groups_of(["a", "a:1", "b", "c"]) == [
        *(("a", "a:1"), ("a", "b"), ("a", "c"), ("a:1", "b"), ("a:1", "c"), ("b", "c")),
        *(("a", "b", "c"), ("a:1", "b", "c")),
    ]


def test_who_failed_is_told_and_not_chosen():
    found = trial()
    good = choice.compare(("b",), *maps(1.0, found), found)
    failed = choice.Row(members=("a",), error="no")
    result = choice.choose([failed, good], {"b": maps(1.0, found)}, found)
    assert result.members == ("b",)
    assert result.describe()["candidates"][0] == {"members": ("a",), "error": "no"}


def of(members: str, area: float | None, error: str | None = None) -> choice.Row:
    return choice.Row(members=(members,), image_auroc=area, pixel_auroc=area, error=error)


@pytest.mark.parametrize(
    ("rows", "variant"),
    [
        ([of("filters", 0.8), of("filters:shared", 0.81)], "planted:anywhere"),
        ([of("filters", 0.8), of("filters:shared", 0.79)], "planted"),
        ([of("filters", 0.8), of("filters:shared", 0.8)], "planted"),
        ([of("filters", 0.8), of("filters:shared", None, "no memory")], "planted"),
        ([of("filters", 0.8)], "planted"),
        ([of("filters:shared", 0.8)], "planted"),
    ],
)
def test_the_network_is_not_told_places_that_say_nothing(rows: list[choice.Row], variant: str):
    assert candidates.variant_of("planted", rows) == variant
    assert candidates.variant_of("metal", rows) == "metal"
    assert METHODS["planted"].presets["anywhere"].positions is False


# --- learning ---------------------------------------------------------------------------------------------


def test_metal_is_a_candidate_of_ten_minutes_and_makes_half_of_its_steps(monkeypatch: pytest.MonkeyPatch):
    assert "metal" in costs.candidates(10, 200)[0]
    learnt = []
    monkeypatch.setattr(candidates, "learn_member", lambda member, own, *_: learnt.append((member, own)))
    images = SimpleNamespace(train=Numbered(10), image_format=SimpleNamespace(channels=1), alignment=None)
    task = SimpleNamespace(seed=0, folder=None)
    run = Run(config=QUICK, images=images, task=task, trial=trial(), watcher=None, tensors={})  # type: ignore[arg-type]
    candidates.learn_candidate("metal", run, steps=7)
    candidates.learn_candidate("planted", run, steps=7)
    (metal, its_options), (planted, its) = learnt
    assert its_options.steps == metal.network.config.steps == METHODS["metal"].presets["default"].steps // 2
    assert (its.steps, its.kinds, planted.network.config.kinds) == (7, "first", "first")


# --- the shape --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "expected"),
    [((100, 100), 256), ((100, 140), 256), ((50, 200), (128, 512)), ((400, 100), (512, 128))],
)
def test_long_images_keep_their_shape(size: tuple[int, int], expected, tmp_path: Path):
    for i in range(3):
        save(tmp_path / f"{i}.png", np.zeros((*size, 3), np.uint8))
    split = SimpleNamespace(train=[Sample(path=p, split="train") for p in sorted(tmp_path.iterdir())])
    assert auto.shaped(AutoConfig(), split).image_size == expected
    assert auto.shaped(AutoConfig(image_size=96), split).image_size == 96
    assert auto.shaped(AutoConfig(tile_size=32), split).image_size == 256


# --- a whole run ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def few_features() -> Iterator[None]:
    """Mixtures of `filters` are fitted to fewer features, which is most of a candidate's time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("blemish.methods.density.filters.MIXTURE_FEATURES", 1000)
        yield


@pytest.fixture(scope="module")
def finished(tiny_category: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Detector]:
    """A whole run: its folder, and the detector that it gave."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("finished") / "run"
    return folder, chosen(tiny_category, folder)


@pytest.mark.heavy
def test_it_chooses_learns_and_says_why(tiny_category: Path, finished: tuple[Path, Detector]):
    folder, detector = finished
    table = json.loads((folder / "choice.json").read_text())
    singles = [row["members"] for row in table["candidates"] if len(row["members"]) == 1]
    assert singles == [[name] for name in costs.candidates(0.5, 6)[0]]
    members = tuple(table["members"])
    assert members == tuple(detector.model_file.config["members"])
    best = max(row["pixel_auroc"] for row in table["candidates"])
    kept = next(row["pixel_auroc"] for row in table["candidates"] if tuple(row["members"]) == members)
    assert kept >= best - 0.01
    assert detector.model_file.provenance["choice"]["given"] is None
    assert detector.model_file.provenance["images"] == {"train": 6, "validation": 3, "calibration": 3}
    assert not (folder / CANDIDATES_FOLDER).exists()
    hole = tiny_category / "test" / "hole" / "000.png"
    good = tiny_category / "test" / "good" / "000.png"
    assert detector.predict(hole).score > detector.predict(good).score
    again = load(folder, device="cpu")
    assert again.predict(hole).score == detector.predict(hole).score


@pytest.mark.heavy
def test_equal_runs_give_equal_files_and_a_stopped_one_goes_on(
    tiny_category: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = replace(QUICK, members=("pca", "planted"), minutes=0.01)
    monkeypatch.setattr(costs, "LEAST_STEPS", 2)
    chosen(tiny_category, tmp_path / "whole", config=config)
    real, calls = members.learn_member, []

    def stop_at_the_second(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise Interrupted("stopped")
        return real(*arguments)

    monkeypatch.setattr(members, "learn_member", stop_at_the_second)
    with pytest.raises(Interrupted):
        chosen(tiny_category, tmp_path / "stopped", config=config)
    chosen(tiny_category, tmp_path / "stopped", config=config, resume=True)
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "stopped")]
    assert files[0] == files[1]


class StopsPlanted(Silent):
    """Stops the candidate `planted` after a step."""

    def training(self, trainer):
        if trainer.folder.name == "planted":
            trainer.ask_to_stop()


@pytest.mark.heavy
def test_a_stopped_choice_names_the_run_and_goes_on_with_the_same_options_alone(
    tiny_category: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(costs, "LEAST_STEPS", 2)
    monkeypatch.setattr(costs, "candidates", lambda *_, **__: (["pca", "planted"], 4))
    monkeypatch.setattr(candidates, "candidates", costs.candidates)
    run = tmp_path / "run"
    with pytest.raises(Interrupted, match=f"go on with --resume --out {re.escape(str(run))}$"):
        chosen(tiny_category, run, watcher=StopsPlanted())
    with pytest.raises(UsageError, match="holds an unfinished run; add --resume"):
        chosen(tiny_category, run)
    with pytest.raises(TrainingError, match=r"minutes was 0\.5 and is now 0\.6"):
        chosen(tiny_category, run, config=replace(QUICK, minutes=0.6), resume=True)
    table = chosen(tiny_category, run, resume=True).model_file.provenance["choice"]
    assert not any("error" in row for row in table["candidates"])


@pytest.mark.heavy
def test_a_candidate_whose_map_is_not_finite_costs_its_row(
    tiny_category: Path, monkeypatch: pytest.MonkeyPatch
):
    real = candidates.maps_of_candidate

    def not_finite(name, *arguments):
        good, planted = real(name, *arguments)
        return good, planted * np.nan if name == "pca" else planted

    monkeypatch.setattr(candidates, "candidates", lambda *_, **__: (["pca", "filters"], 4))
    monkeypatch.setattr(candidates, "maps_of_candidate", not_finite)
    table = chosen(tiny_category).model_file.provenance["choice"]
    assert table["members"] == ["filters"]
    assert "NaN" in table["candidates"][0]["error"]


@pytest.mark.heavy
def test_the_log_has_the_epochs_of_each_member_also_of_a_stopped_run(
    tiny_category: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    names = ("planted", "pca", "planted:anywhere")
    config = replace(QUICK, members=names, minutes=0.01)
    monkeypatch.setattr(costs, "LEAST_STEPS", 3)
    real, learnt = members.learn_member, []

    def stop_before_the_last(*arguments):
        learnt.append(arguments)
        if len(learnt) == 4:  # pca learns twice
            raise Interrupted("stopped")
        return real(*arguments)

    monkeypatch.setattr(members, "learn_member", stop_before_the_last)
    with pytest.raises(Interrupted):
        chosen(tiny_category, tmp_path / "run", config=config)
    before = read_log(tmp_path / "run" / CANDIDATES_FOLDER / "member 0")
    chosen(tiny_category, tmp_path / "run", config=config, resume=True)
    log = read_log(tmp_path / "run")
    assert list(log[0]) == ["member", "epoch", "train_loss", "seconds"]
    assert [(row["member"], row["epoch"]) for row in log] == [
        (name, str(epoch)) for name in ("planted", "planted:anywhere") for epoch in (1, 2, 3)
    ]
    assert [row["train_loss"] for row in before] == [row["train_loss"] for row in log[:3]]
    assert log[0]["train_loss"] != log[3]["train_loss"]


@pytest.mark.heavy
def test_candidates_of_a_stopped_run_do_not_learn_again(
    tiny_category: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def stop(*_):
        raise Interrupted("stopped")

    real = auto.learn_members
    monkeypatch.setattr(auto, "learn_members", stop)
    with pytest.raises(Interrupted):
        chosen(tiny_category, tmp_path / "run")
    first = (tmp_path / "run" / "choice.json").read_bytes()
    monkeypatch.setattr(auto, "learn_members", real)
    fits = []
    learn = Pca.fit
    monkeypatch.setattr(Pca, "fit", lambda *a: (fits.append(a), learn(*a)))
    detector = chosen(tiny_category, tmp_path / "run", resume=True)
    assert len(fits) == 2 * detector.model_file.config["members"].count("pca")
    assert (tmp_path / "run" / "choice.json").read_bytes() == first


@pytest.mark.heavy
def test_one_candidate_that_fails_costs_its_row(
    tiny_category: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def fail(*_):
        raise RuntimeError("not for\nthese images")

    monkeypatch.setattr(METHODS["filters"], "fit", fail)
    members = chosen(tiny_category, tmp_path / "run").model_file.config["members"]
    assert members
    assert "filters" not in choice.methods_of(members)
    rows = json.loads((tmp_path / "run" / "choice.json").read_text())["candidates"]
    failed = [row for row in rows if "error" in row]
    assert failed
    assert all(row["error"] == "not for these images" for row in failed)
    monkeypatch.setattr(Pca, "fit", fail)
    with pytest.raises(TrainingError, match="no method can learn these images: pca: not for these images"):
        chosen(tiny_category, tmp_path / "other")


@pytest.mark.heavy
def test_a_finished_run_is_known_by_what_was_asked_for(
    tiny_category: Path, finished: tuple[Path, Detector], tmp_path: Path
):
    shutil.copytree(finished[0], tmp_path / "run")
    chosen(tiny_category, tmp_path / "run", resume=True)
    with pytest.raises(UsageError, match="members"):
        chosen(tiny_category, tmp_path / "run", resume=True, config=replace(QUICK, members=("pca",)))


def test_members_may_be_named(tiny_category: Path, tmp_path: Path):
    detector = chosen(tiny_category, tmp_path / "run", config=replace(QUICK, members=("variation", "pca")))
    assert tuple(load_model_file(tmp_path / "run").config["members"]) == ("variation", "pca")
    assert not (tmp_path / "run" / "choice.json").exists()
    assert (detector.backend.network.high > detector.backend.network.low).all()


@pytest.mark.heavy
def test_a_plus_names_members(tiny_category: Path, tmp_path: Path):
    """One model: that of `auto` with these members, bit for bit, by whichever words it was asked for."""
    plus = fit(
        tiny_category,
        method="variation+pca",
        config=QUICK,
        out=tmp_path / "plus",
        device="cpu",
        precision="fp32",
    )
    assert plus.model_file.method == "auto"
    members = replace(QUICK, members=("variation", "pca"))
    chosen(tiny_category, tmp_path / "members", config=members)
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("plus", "members")]
    assert files[0] == files[1]
    again = chosen(tiny_category, tmp_path / "plus", config=members, resume=True)
    assert tuple(again.model_file.config["members"]) == ("variation", "pca")


@pytest.mark.heavy
def test_a_plus_on_the_command_line(tiny_category: Path, tmp_path: Path):
    where = ("--data", tiny_category, "--out", tmp_path / "out", "--device", "cpu")
    options = ("--image-size", "64", "--validation-fraction", "0.3")
    assert run("train", "--method", "pca+filters:shared", *where, *options) == 0
    model_file = load_model_file(tmp_path / "out")
    assert model_file.method == "auto"
    assert tuple(model_file.config["members"]) == ("pca", "filters:shared")
    assert model_file.calibration is not None


def test_scales_come_from_images_that_the_members_did_not_learn(
    tiny_category: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    learnt: list[list[float]] = []
    real = Pca.fit

    def note(self, batches):
        learnt.append([round(float(x), 6) for b in batches() for x in b.mean(dim=(1, 2, 3))])
        real(self, batches)

    monkeypatch.setattr(Pca, "fit", note)
    chosen(tiny_category, tmp_path / "run", config=replace(QUICK, members=("pca", "variation")))
    before, after = learnt
    assert (len(before), len(after)) == (6, 9)  # the trial's three join when the scale is known
    assert after[:6] == before


@pytest.mark.heavy
def test_a_part_of_few_images_can_be_learnt(tmp_path: Path):
    for i in range(4):
        save(tmp_path / "good" / f"{i}.png", tiny_image(i))
    detector = chosen(tmp_path / "good")
    assert detector.model_file.provenance["images"] == {"train": 2, "validation": 1, "calibration": 1}
    shutil.rmtree(tmp_path / "good")
