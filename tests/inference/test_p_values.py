"""Combined p-values: by hand, the promise by simulation with models that depend on each other, refusals."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import blemish
from blemish.core.errors import UsageError
from blemish.inference.calibration import calibrate
from blemish.inference.p_values import bonferroni, combine_p_values, twice_the_mean

ROOT = Path(__file__).resolve().parents[2]
PARTS = 100_000


def test_by_hand():
    # mean of 0.02, 0.04, 0.3 is 0.12, twice of it 0.24; three times the smallest 0.06
    p = np.array([[0.02, 0.04, 0.3], [0.9, 0.8, 1.0]])
    np.testing.assert_allclose(twice_the_mean(p), [0.24, 1])
    np.testing.assert_allclose(bonferroni(p), [0.06, 1])
    assert combine_p_values(list(p[0]), "mean") == pytest.approx(0.24)
    assert combine_p_values(list(p[0]), "smallest") == pytest.approx(0.06)


@pytest.mark.parametrize("how", ["mean", "smallest"])
def test_one_model_keeps_its_p_value(how):
    assert combine_p_values([0.07], how) == 0.07


def normals(correlation, models, n, g):
    """Scores of so many models (n, models), each pair of this correlation."""
    covariance = np.full((models, models), correlation)
    np.fill_diagonal(covariance, 1)
    return g.multivariate_normal(np.zeros(models), covariance, n)


@pytest.mark.parametrize("correlation", [-0.45, 0.0, 0.5, 0.95, 1.0])
@pytest.mark.parametrize("combined", [twice_the_mean, bonferroni])
def test_the_promise_holds_however_models_depend(combined, correlation):
    g = np.random.default_rng(0)
    scores = normals(correlation, 3, PARTS, g)
    p = 1 - scores.argsort(axis=0).argsort(axis=0) / PARTS  # uniform, one for each part
    for rate in (0.01, 0.05, 0.2):
        assert (combined(p) <= rate).mean() <= rate + 3 * np.sqrt(rate / PARTS)


def test_the_smallest_alone_breaks_the_promise_and_so_does_the_mean_alone():
    g, rate = np.random.default_rng(0), 0.1
    apart = normals(0.0, 3, PARTS, g).argsort(axis=0).argsort(axis=0) / PARTS
    assert (apart.min(axis=1) <= rate).mean() == pytest.approx(1 - 0.9**3, abs=0.01)
    assert (bonferroni(apart) <= rate).mean() == pytest.approx(1 - (1 - rate / 3) ** 3, abs=0.01)
    # where one is u, below 0.2, the other is 0.2 - u; elsewhere both are equal: each of them is uniform
    u = np.sort(g.random(PARTS))
    pair = np.stack([u, np.where(u < 0.2, 0.2 - u, u)], axis=1)
    assert np.quantile(pair[:, 1], [0.1, 0.5, 0.9]) == pytest.approx([0.1, 0.5, 0.9], abs=0.01)
    assert (pair.mean(axis=1) <= rate + 1e-9).mean() == pytest.approx(2 * rate, abs=0.01)
    assert (twice_the_mean(pair) <= rate).mean() <= rate
    # twice is needed: at 0.2 this very pair uses all of what is allowed
    assert (twice_the_mean(pair) <= 0.2 + 1e-9).mean() == pytest.approx(0.2, abs=0.01)


@pytest.mark.parametrize("how", ["mean", "smallest"])
def test_the_promise_holds_for_conformal_p_values(how):
    """Two models that see the same parts, each calibrated on 39 of them, 60 times anew."""
    g, rejected, seen = np.random.default_rng(1), 0, 0
    for _ in range(60):
        held_out, new = normals(0.7, 2, 39, g), normals(0.7, 2, 200, g)
        models = [calibrate(held_out[:, k], held_out[:, k]) for k in range(2)]
        for part in new:
            p = [model.p_value(score) for model, score in zip(models, part, strict=True)]
            rejected += combine_p_values(p, how) <= 0.1
            seen += 1
    assert 0.01 < rejected / seen <= 0.115


@pytest.mark.parametrize(
    ("p", "how", "said"),
    [
        ([], "mean", "no p-values to combine: give that of each model"),
        ([0.1, None], "mean", "p-value 1 is None: that model has no calibration"),
        ([0.1, 1.5], "smallest", "p-value 1 is 1.5: it must lie between 0 and 1"),
        ([float("nan")], "smallest", "p-value 0 is nan: it must lie between 0 and 1"),
        ([0.1], "median", "how 'median': choose mean or smallest"),
    ],
)
def test_what_is_refused(p, how, said):
    with pytest.raises(UsageError, match=re.escape(said)):
        combine_p_values(p, how)


def test_the_example_of_the_page(tiny_model, tiny_category, tmp_path, monkeypatch, capsys):
    page = (ROOT / "docs" / "how-to" / "several-models.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "runs").mkdir()
    for name in ("metal", "filters"):
        (tmp_path / "runs" / name).symlink_to(tiny_model)
    (tmp_path / "part.png").symlink_to(tiny_category / "test" / "hole" / "000.png")
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "several-models.md", "exec"), {})
    one = blemish.load("runs/metal").predict("part.png").p_value
    assert one is not None
    assert capsys.readouterr().out.split()[0] == f"{min(1.0, 2 * one):.3f}"
