"""The options of a user who gives none: the numbers of docs/papers, which the benchmark was run with."""

from __future__ import annotations

from dataclasses import asdict
from typing import get_type_hints

import pytest
from pydantic import TypeAdapter

from blemish.methods.baselines.ae_l2 import AeL2
from blemish.methods.baselines.autoencoder import AutoencoderConfig
from blemish.methods.baselines.cutpaste import CutPasteConfig
from blemish.methods.baselines.kde import KdeConfig
from blemish.methods.baselines.padim import PadimConfig
from blemish.methods.baselines.patchcore import PatchCoreConfig
from blemish.methods.baselines.pca import PcaConfig
from blemish.methods.baselines.texture_inspection import TextureInspectionConfig
from blemish.methods.baselines.variation import VariationConfig
from blemish.methods.cpc_ad import CpcAd
from blemish.methods.cpc_ad_config import CpcAdConfig
from blemish.methods.metal import Metal
from blemish.methods.metal_config import MetalConfig
from blemish.methods.registry import METHODS

METAL = {
    "size": (128, 128), "patch_size": 16, "stripes": "rows", "masking": "strict", "embedding": 128,
    "hidden": 512, "heads": 4, "blocks": 1, "feed_forward_squares": 1, "feed_forward_stripes": 2,
    "reduction": "mean",
    "exposure": True, "center": True, "bounded_context": True, "error": "joint", "gradients": False,
    "smoothing": (2.0, 4.0, 8.0),
    "place_statistics": True, "image_score": "top1", "steps": 400, "batch_size": 64, "learning_rate": 1e-3,
    "schedule": "cosine", "validation_fraction": 0.0, "calibration_fraction": 0.1,
}  # fmt: skip
CPC_AD = {
    "size": (192, 192), "image_score": "top1", "steps": 800, "batch_size": 16, "grey": False,
    "exposure": True, "crop": 0.8, "flip": True, "patch_size": 64, "sub_patch_size": 16, "window": "patch",
    "encoder": "dense", "width": 16, "shared_encoder": True, "skip": 1, "steps_ahead": 5, "negatives": 16,
    "negatives_of": "batch", "bank": 256, "bank_seed": 0, "score": "infonce", "place_statistics": True,
    "place_density": True,
    "combine": "mean", "interpolation": "linear", "calibration_fraction": 0.1,
}  # fmt: skip
BASELINES = [
    (AutoencoderConfig, {"steps": 1000, "batch_size": 4, "latent": 100, "halvings": 4, "weight_decay": 1e-5}),
    (CutPasteConfig, {"steps": 1500, "learning_rate": 3e-3, "patch_size": 32, "stride": 4, "trunk": "dense",
                      "width": 16, "density": "place", "score": "distance", "border": "level"}),
    (KdeConfig, {"size": (64, 64), "image_score": "mean", "quantile": 0.5}),
    (PadimConfig, {"size": (256, 256), "image_score": "top1", "backbone": "efficientnet-lite0",
                   "strides": (4, 8, 16), "grid_stride": 8, "neighbourhood": 3, "smoothing": 4.0,
                   "dimensions": 100, "dimension_seed": 0, "epsilon": 0.01, "standardise": True,
                   "shrink": True, "score": "log", "calibration_fraction": 0.1}),
    (PatchCoreConfig, {"size": (256, 256), "image_score": "top1", "backbone": "efficientnet-lite0",
                       "strides": (4, 8, 16), "grid_stride": 8, "neighbourhood": 3, "smoothing": 4.0,
                       "bank": 4000, "candidates": 50_000, "projection": 64, "standardise": True,
                       "reweighting": 0, "calibration_fraction": 0.1}),
    (PcaConfig, {"image_score": "mean", "components": 60, "grey": True, "smoothing": 2.0}),
    (TextureInspectionConfig, {"levels": 4, "patch_size": 7, "components": 10, "patches": 10000,
                               "iterations": 30}),
    (VariationConfig, {"image_score": "max", "floor": 5 / 255}),
]  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_values_of_presets_are_of_their_options_types(method: str):
    for config in METHODS[method].presets.values():
        types = get_type_hints(type(config))
        for name, value in asdict(config).items():
            TypeAdapter(types[name]).validate_python(value, strict=True)


def check(config, expected):
    assert {name: getattr(config, name) for name in expected} == expected


def test_metal_is_what_its_page_says():
    check(MetalConfig(), METAL)
    check(Metal.presets["default"], METAL)


def test_cpc_ad_is_what_its_page_says():
    check(CpcAdConfig(), CPC_AD)
    check(CpcAd.presets["default"], CPC_AD)
    # half of the training, and the score without the density, in grey: the page's `compact`
    compact = {"steps": 400, "grey": True, "place_density": False, "image_score": "top5"}
    check(CpcAd.presets["compact"], {**CPC_AD, **compact})


@pytest.mark.parametrize(("kind", "expected"), BASELINES, ids=lambda x: getattr(x, "__name__", ""))
def test_baselines_are_what_the_benchmark_ran(kind, expected):
    check(kind(), expected)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (
            AeL2.presets["paper"],
            {"learning_rate": 2e-4, "schedule": "constant", "steps": 15_625, "batch_size": 128},
        ),
        (Metal.presets["paper-object"], {"hidden": 1024, "image_score": "max", "smoothing": (4.0,)}),
        (CpcAd.presets["paper"], {"bank": 16, "width": 64, "interpolation": "nearest", "epochs": 150}),
    ],
    ids=["autoencoders", "metal", "cpc-ad"],
)
def test_papers_presets_train_on_all_good_images(config, expected):
    check(config, expected)
    assert config.calibration_fraction == 0.0
    assert config.validation_fraction == (0.1 if "hidden" in expected else 0.0)  # MeTAL's early stopping


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_a_default(method):
    kind = METHODS[method]
    assert isinstance(kind.presets["default"], kind.config_type)
    for preset in kind.presets.values():
        assert isinstance(preset, kind.config_type)
