"""A share of the training images that is not learnt: which ones, what the model says, what stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import refused, run
from conftest import save, tiny_defect, tiny_image

from blemish.core.errors import UsageError
from blemish.data.dataset import open_dataset
from blemish.data.split import split_good
from blemish.methods.baselines.pca import PcaConfig
from blemish.methods.config import DetectorConfig
from blemish.training import suspects
from blemish.training.fit import fit
from blemish.training.images import ImageOptions, load_images
from blemish.training.suspects import check_share, scores_of_others, without_suspects

pytestmark = pytest.mark.usefixtures("single_thread")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Suspects by `pca`, which learns in no time."""
    monkeypatch.setattr(suspects, "METHOD", "pca")
    monkeypatch.setattr(suspects, "SIDE", 64)


CONFIG = PcaConfig(image_size=64, components=3, calibration_fraction=0.25)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty-eight good pictures, and two with a hole."""
    folder = tmp_path_factory.mktemp("mixed")
    for i in range(28):
        save(folder / f"{i:02d}.png", tiny_image(i))
    for i in range(2):
        save(folder / f"hole{i}.png", tiny_defect("hole", i)[0])
    return folder


@pytest.fixture(scope="module")
def loaded(mixed: Path) -> Any:
    split = split_good(open_dataset(mixed), validation_fraction=0, calibration_fraction=0.1, seed=1)
    return split, load_images(split, CONFIG, ImageOptions(), lambda _: lambda: None, 1)


def test_defects_among_them_are_dropped_first_and_the_same_ones_each_time(loaded: Any):
    split, images = loaded
    holes = {s.path.name for s in split.train if s.path.name.startswith("hole")}
    learnt, told = without_suspects(images, split, 0.1, seed=0)
    dropped = set(told["dropped"]["digests"].values())
    assert holes <= dropped
    assert (told["dropped"]["share"], told["dropped"]["images"], len(dropped)) == (0.1, 3, 3)
    assert len(learnt.train) == len(learnt.scored) == len(split.train) - 3
    kept = [i for i, s in enumerate(split.train) if s.path.name not in dropped]
    np.testing.assert_array_equal(
        learnt.train.batch(np.arange(len(kept))), images.train.batch(np.array(kept))
    )
    assert learnt.held_out is images.held_out
    assert without_suspects(images, split, 0.1, seed=0)[1] == told
    assert without_suspects(images, split, 0.0, seed=0) == (images, {})


def test_equal_files_do_not_vouch_for_each_other(loaded: Any):
    split, images = loaded
    hole = next(i for i, s in enumerate(split.train) if s.path.name.startswith("hole"))

    class Twice:
        """The images, and the one with a hole three times more."""

        def __len__(self) -> int:
            return len(images.train) + 3

        def batch(self, indices: np.ndarray) -> np.ndarray:
            return images.train.batch(np.where(indices < len(images.train), indices, hole))

    digests = [split.digests[s.path] for s in split.train]
    scores = scores_of_others(Twice(), digests + 3 * [digests[hole]], 3, seed=0)
    np.testing.assert_allclose(scores[-3:], scores[hole], rtol=1e-3)
    assert (scores >= scores[hole] * 0.999).sum() <= 6  # the four of them, and the other hole


def test_the_model_says_so_and_calibration_stays(
    mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    words = (
        "train",
        "--data",
        mixed,
        "--method",
        "pca",
        "--image-size",
        64,
        "--components",
        3,
        "--device",
        "cpu",
    )
    assert run(*words, "--out", tmp_path / "run", "--drop-suspects", 0.1) == 0
    assert "not learnt, as suspects: " in capsys.readouterr().out
    plain = fit(mixed, method="pca", config=CONFIG, device="cpu")
    robust = fit(mixed, method="pca", config=CONFIG, drop_suspects=0.1, device="cpu")
    told = robust.model_file.provenance
    assert told["dropped"]["images"] == 2
    assert "dropped" not in plain.model_file.provenance
    assert told["fingerprint"] == plain.model_file.provenance["fingerprint"]  # of the data, as it was given
    assert robust.model_file.calibration is not None
    assert plain.model_file.calibration is not None
    assert robust.model_file.calibration.n == plain.model_file.calibration.n
    assert robust.predict(tiny_image(50)).score != plain.predict(tiny_image(50)).score
    assert run(*words, "--out", tmp_path / "run", "--drop-suspects", 0.1, "--resume") == 0
    for other in ((), ("--drop-suspects", 0.2)):
        assert "whose suspects dropped was 0.1" in refused(
            capsys, *words, "--out", tmp_path / "run", "--resume", *other
        )


def test_what_cannot_be_dropped_is_refused(loaded: Any, tiny_category: Path):
    for share in (-0.1, 0.6, float("nan")):
        with pytest.raises(UsageError, match=r"must be at least 0 and at most 0\.5"):
            check_share(share, DetectorConfig())
    with pytest.raises(UsageError, match="in tiles are not dropped"):
        check_share(0.1, DetectorConfig(tile_size=32))
    with pytest.raises(UsageError, match="9 different training images, and 10 are needed"):
        fit(tiny_category, method="pca", config=CONFIG, drop_suspects=0.1, device="cpu")
