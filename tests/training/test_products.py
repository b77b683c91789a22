"""One model of several products: each is calibrated and standardised by itself, and chosen by its name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import save, tiny_image

from blemish.core.errors import DataError, ModelError, UsageError
from blemish.core.types import Prediction
from blemish.inference import load
from blemish.inference.calibration import calibrate
from blemish.inference.detector import Detector
from blemish.inference.model_file import ModelFile, describe, load_model_file, model_file_of
from blemish.methods.baselines.pca import PcaConfig
from blemish.training.fit import fit
from blemish.training.recalibrate import recalibrate

CONFIG = PcaConfig(image_size=32, components=3, calibration_fraction=0.4, image_score="max")
NEW = 12


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two products of which one is much noisier than the other, with images that nobody has learnt."""
    root, found = tmp_path_factory.mktemp("data"), {}
    for name, noise, first in (("smooth", 1.0, 0), ("rough", 25.0, 500)):
        for i in range(20 + NEW):
            shown = tiny_image(first + i) + np.random.default_rng(first + i).normal(0, noise, (64, 64, 1))
            where = name if i < 20 else f"{name} new"
            save(root / where / f"{name}{i:03d}.png", np.clip(shown, 0, 255).astype(np.uint8))
        found[name] = root / name
    return found


@pytest.fixture(scope="module")
def trained(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "run"
    fit(folders, config=CONFIG, out=out, device="cpu")
    return out


def detector(trained: Path, product: str | None = None, **rates: float) -> Detector:
    return load.load(trained, device="cpu", product=product, false_alarm_rate=rates.get("rate"))


def held_out(model_file: ModelFile, folder: Path) -> list[Path]:
    learnt = {*model_file.provenance["training_digests"].values()}
    return [path for path in sorted(folder.iterdir()) if path.name not in learnt]


def predictions(found: Detector, paths: list[Path]) -> list[Prediction]:
    return [p for p in found.predict_many(paths) if isinstance(p, Prediction)]


def counts(model_file: ModelFile) -> list[int]:
    return [each.calibration.n if each.calibration else 0 for each in model_file.products]


def test_the_file_has_a_calibration_for_each_product_and_none_for_all(trained: Path):
    found = load_model_file(trained)
    assert found.calibration is None
    assert [each.product.name for each in found.products] == ["rough", "smooth"]
    assert counts(found) == [8, 8]
    assert found.provenance["products"]["rough"]["train"] == 12
    assert '"format_version": 3' in describe(found)
    rough, smooth = (each.product for each in found.products)
    assert rough.centre > smooth.centre + 3 * smooth.scale  # one threshold would alarm at one product alone


@pytest.mark.parametrize("name", ["smooth", "rough"])
def test_a_part_is_ranked_among_its_own_product(trained: Path, folders: dict[str, Path], name: str):
    own = detector(trained, name)
    calibration = own.model_file.calibration
    assert calibration is not None
    found = predictions(own, held_out(own.model_file, folders[name]))
    scores = [p.score for p in found]
    # the held-out images score what the file says: less their median, by their median deviation
    np.testing.assert_allclose(sorted(scores), calibration.scores, rtol=1e-4, atol=1e-4)
    assert np.median(scores) == pytest.approx(0, abs=1e-4)
    assert np.median(np.abs(scores)) == pytest.approx(1, abs=1e-4)
    assert {p.product for p in found} == {name}
    assert [p.p_value for p in found] == [calibration.p_value(score) for score in scores]


def test_standardising_changes_no_decision(trained: Path, folders: dict[str, Path]):
    own = detector(trained, "rough", rate=0.2)
    plain = Detector(model_file=replace(own.model_file, product=None, calibration=None), backend=own.backend)
    paths = held_out(own.model_file, folders["rough"])
    raw = [p.score for p in predictions(plain, paths)]
    threshold = calibrate(raw, raw).threshold(0.2)
    decided = [p.anomalous for p in predictions(own, paths)]
    assert decided == [score > threshold for score in raw]
    assert sum(map(bool, decided)) == 0  # k = 1 of 8: above the largest


def test_a_product_has_to_be_one_that_is_known(trained: Path, folders: dict[str, Path]):
    image = next(folders["rough"].iterdir())
    with pytest.raises(
        UsageError, match="no product is given: this model has rough, smooth; give one of them"
    ):
        detector(trained).predict(image)
    with pytest.raises(UsageError, match="no product is given"):
        detector(trained).predict_many([image])
    with pytest.raises(UsageError, match="product 'cup' is unknown: this model has rough, smooth"):
        detector(trained, "cup")
    with pytest.raises(UsageError, match="product 'rough': this model is of smooth"):
        detector(trained, "smooth").for_product("rough")
    with pytest.raises(UsageError, match=r"product rough: false-alarm rate 0.05: 8 calibration images can"):
        detector(trained, "rough", rate=0.05)
    assert detector(trained, "rough").rate == pytest.approx(1 / 9)


def test_one_product_can_be_calibrated_anew(trained: Path, folders: dict[str, Path], tmp_path: Path):
    new = {name: folder.with_name(f"{name} new") for name, folder in folders.items()}
    found, _ = recalibrate(trained, new["rough"], tmp_path / "one", device="cpu", product="rough")
    assert counts(found) == [NEW, 8]
    before, written = load_model_file(trained).products, load_model_file(tmp_path / "one").products
    assert [each.product for each in written] == [found.products[0].product, before[1].product]
    sized, _ = recalibrate(trained, new, tmp_path / "sized", sizes={"min_area": 9}, device="cpu")
    assert counts(sized) == [NEW, NEW]


def test_what_calibrates_no_known_product_is_refused(trained: Path, folders: dict[str, Path], tmp_path: Path):
    new = {name: folder.with_name(f"{name} new") for name, folder in folders.items()}
    rough, out = new["rough"], tmp_path / "no"
    with pytest.raises(UsageError, match="no product is given: this model has rough, smooth"):
        recalibrate(trained, rough, out, device="cpu")
    with pytest.raises(UsageError, match="product 'cup' is unknown"):
        recalibrate(trained, rough, out, device="cpu", product="cup")
    with pytest.raises(UsageError, match="images have products of their own"):
        recalibrate(trained, new, out, device="cpu", product="rough")
    with pytest.raises(UsageError, match="give images of smooth too"):
        recalibrate(trained, rough, out, device="cpu", product="rough", sizes={"min_area": 9})
    learnt = {*load_model_file(trained).provenance["training_digests"].values()}
    for path in folders["rough"].iterdir():
        if path.name in learnt:
            save(tmp_path / "learnt" / path.name, np.zeros((1, 1), np.uint8)).write_bytes(path.read_bytes())
    with pytest.raises(DataError, match="product rough: the model has learnt all of its"):
        recalibrate(trained, new | {"rough": tmp_path / "learnt"}, out, device="cpu")
    (tmp_path / "both").mkdir()
    for image in sorted(new["smooth"].iterdir())[:2]:
        (tmp_path / "both" / f"copy of {image.name}").write_bytes(image.read_bytes())
    with pytest.raises(DataError, match=r"smooth020.png: same content as .* which is of product smooth"):
        recalibrate(trained, new | {"rough": tmp_path / "both"}, out, device="cpu")
    assert not out.exists()


def test_a_finished_run_of_other_products_is_another_run(trained: Path, folders: dict[str, Path]):
    again = fit(folders, config=CONFIG, out=trained, device="cpu", resume=True)
    assert counts(again.model_file) == [8, 8]
    renamed = {"coarse": folders["rough"], "smooth": folders["smooth"]}
    with pytest.raises(UsageError, match="already holds a finished run whose products"):
        fit(renamed, config=CONFIG, out=trained, device="cpu", resume=True)


def test_a_damaged_standard_is_told(trained: Path):
    text = describe(load_model_file(trained))
    with pytest.raises(ModelError, match="its description is damaged"):
        model_file_of(trained, text.replace('"name": "rough"', '"name": "rough", "colour": 1'), {})
    with pytest.raises(ModelError, match="product 'rough' has the standard"):
        model_file_of(trained, text.replace('"scale": ', '"scale": -'), {})
