"""The methods, by the name they have on the command line. Importing this imports torch.

A package that brings a method of its own names it in its `pyproject.toml`; installing it is enough:

    [project.entry-points."blemish.methods"]
    my-method = "my_package.my_module:MyMethod"
"""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import entry_points
from typing import Any

from blemish.core.errors import UsageError, one_line
from blemish.methods.auto import Auto, AutoConfig
from blemish.methods.base import Method
from blemish.methods.baselines.ae_l2 import AeL2
from blemish.methods.baselines.ae_ssim import AeSsim
from blemish.methods.baselines.anogan import AnoGan
from blemish.methods.baselines.cutpaste import CutPaste
from blemish.methods.baselines.distaug import DistAug
from blemish.methods.baselines.f_anogan import FAnoGan
from blemish.methods.baselines.fcdd import Fcdd
from blemish.methods.baselines.feature_dictionary import FeatureDictionary
from blemish.methods.baselines.gt import Gt
from blemish.methods.baselines.kde import Kde
from blemish.methods.baselines.lsa import Lsa
from blemish.methods.baselines.mkd import Mkd
from blemish.methods.baselines.nsa import Nsa
from blemish.methods.baselines.ocgan import OcGan
from blemish.methods.baselines.padim import Padim
from blemish.methods.baselines.patchcore import PatchCore
from blemish.methods.baselines.pca import Pca
from blemish.methods.baselines.student_teacher import StudentTeacher
from blemish.methods.baselines.texture_inspection import TextureInspection
from blemish.methods.baselines.variation import Variation
from blemish.methods.baselines.vt_adl import VtAdl
from blemish.methods.config import DetectorConfig
from blemish.methods.cpc_ad import CpcAd
from blemish.methods.density.filters import Filters
from blemish.methods.metal import Metal
from blemish.methods.planted import Planted

ENTRY_POINTS = "blemish.methods"

_BUILT_IN: dict[str, type[Method[Any]]] = {
    "auto": Auto,
    "metal": Metal,
    "cpc-ad": CpcAd,
    "planted": Planted,
    "filters": Filters,
    "pca": Pca,
    "kde": Kde,
    "variation": Variation,
    "texture-inspection": TextureInspection,
    "ae-l2": AeL2,
    "ae-ssim": AeSsim,
    "cutpaste": CutPaste,
    "nsa": Nsa,
    "f-anogan": FAnoGan,
    "anogan": AnoGan,
    "ocgan": OcGan,
    "gt": Gt,
    "distaug": DistAug,
    "lsa": Lsa,
    "vt-adl": VtAdl,
    "padim": Padim,
    "patchcore": PatchCore,
    "feature-dictionary": FeatureDictionary,
    "fcdd": Fcdd,
    "mkd": Mkd,
    "student-teacher": StudentTeacher,
}


def load_installed() -> tuple[dict[str, type[Method[Any]]], dict[str, str]]:
    """Load the methods of other packages; returns them, and of those that cannot be used why, by name."""
    found: dict[str, type[Method[Any]]] = {}
    broken: dict[str, str] = {}
    for entry in entry_points(group=ENTRY_POINTS):
        try:
            kind = entry.load()
        except Exception as error:  # somebody else's code may raise anything
            broken[entry.name] = f"{entry.value} cannot be loaded ({one_line(error)})"
            continue
        if not (isinstance(kind, type) and issubclass(kind, Method)):
            broken[entry.name] = f"{entry.value} is no subclass of Method"
        elif {"+", ":"} & set(entry.name):
            broken[entry.name] = "its name holds a plus or a colon"
        else:
            found[entry.name] = kind
    return found, broken


_installed, BROKEN = load_installed()
METHODS: dict[str, type[Method[Any]]] = _installed | _BUILT_IN
"""All methods by name, those of other packages first."""


def members_of(method: str) -> tuple[str, ...]:
    """Return what METHOD+METHOD combines, each METHOD or METHOD:PRESET; () for a name without a plus.

    Raises UsageError that names the member that cannot be had.
    """
    if method in METHODS or "+" not in method:
        return ()
    members = tuple(method.split("+"))
    for member in members:
        name, _, preset = member.partition(":")
        if name not in METHODS or METHODS[name] is Auto:
            others = ", ".join(other for other, kind in METHODS.items() if kind is not Auto)
            raise UsageError(f"--method {method}: no such member {name!r}; choose from {others}")
        if (preset or "default") not in METHODS[name].presets:
            presets = ", ".join(METHODS[name].presets)
            raise UsageError(f"--method {method}: {name} has no preset {preset}; choose one of {presets}")
    if twice := next((member for member in members if members.count(member) > 1), None):
        raise UsageError(f"--method {method}: names {twice} twice; leave one out")
    return members


def combination(method: str, config: DetectorConfig) -> tuple[str, DetectorConfig]:
    """Turn METHOD+METHOD into `auto` with these members; another method stays as it is.

    Raises UsageError where the options name other members.
    """
    members = members_of(method)
    if not members:
        return method, config
    assert isinstance(config, AutoConfig)
    if config.members not in (None, members):
        raise UsageError(
            f"--members {' '.join(config.members or ())}: --method {method} names others; leave one out"
        )
    return "auto", replace(config, members=members)


def method_named(method: str) -> type[Method[Any]]:
    """Return the method's class, that of `auto` for METHOD+METHOD. Raises UsageError when there is none."""
    if members_of(method):
        return Auto
    if method not in METHODS and method in BROKEN:
        raise UsageError(f"--method {method}: {BROKEN[method]}; mend or remove its package")
    if method not in METHODS:
        raise UsageError(f"--method {method}: no such method; choose one of {', '.join(METHODS)}")
    return METHODS[method]


def method_of(config: DetectorConfig) -> str:
    """Return the name of the method that has these options. Raises UsageError when none has."""
    for name, kind in METHODS.items():
        if kind.config_type is type(config):
            return name
    raise UsageError(f"config {type(config).__name__}: no method has these options; name one")


def preset_named(method: str, preset: str) -> DetectorConfig:
    """Return a preset's options. Raises UsageError when the method has none of that name."""
    presets = method_named(method).presets
    if members_of(method):
        if preset not in presets:
            raise UsageError(
                f"--preset {preset}: --method {method} has its presets at its members, METHOD:PRESET"
            )
        return combination(method, presets[preset])[1]
    if preset not in presets:
        others = any(preset in kind.presets for kind in METHODS.values())
        cure = "name a method that has it with --method" if others else f"choose one of {', '.join(presets)}"
        raise UsageError(f"--preset {preset}: {method} has no such preset; {cure}")
    return presets[preset]
