"""The models of a part's views, and the file `parts.json` that says how good parts scored in all of them."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from blemish.core.errors import BlemishError, DataError, ModelError, UsageError, one_line
from blemish.core.files import write_whole
from blemish.data.hashing import file_digest
from blemish.inference.calibration import named_rate
from blemish.inference.model_file import MODEL_NAME, find_model
from blemish.inference.parts import ApartRule, PartCalibration, TogetherRule

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from blemish.inference.calibration import Calibration
    from blemish.inference.detector import Detector
    from blemish.inference.parts import PartRule

PARTS_NAME = "parts.json"
"""The calibration of parts, in the run folder of the model of all views, or of those without their own."""
FORMAT_VERSION = 1


class OtherModelsError(ModelError):
    """A calibration of parts is of other models than those that are to decide."""


@dataclass(frozen=True, kw_only=True)
class ViewModels:
    """Which model scores which view: `usual` all that `own` does not name. Paths are those of the models."""

    usual: Path
    own: Mapping[str, Path] = field(default_factory=dict)

    @classmethod
    def of(cls, usual: Path, given: Sequence[str]) -> ViewModels:
        """Take models as VIEW=MODEL. Raises UsageError for another form, and for a view named twice."""
        own: dict[str, Path] = {}
        for text in given:
            view, equals, path = text.partition("=")
            if not (view and equals and path) or view in own:
                raise UsageError(f"--view-model {text}: must be VIEW=MODEL, once for each view; correct it")
            own[view] = type(usual)(path)
        return cls(usual=usual, own=own)

    def path(self, view: str | None) -> Path:
        """Return the model of a view."""
        return self.usual if view is None else self.own.get(view, self.usual)

    def load(self, load: Callable[[Path], Detector]) -> dict[Path, Detector]:
        """Load each model once; returns them by their paths. Raises BlemishError."""
        return {path: load(path) for path in dict.fromkeys((self.usual, *self.own.values()))}

    def digest(self, view: str | None) -> str:
        """Return the SHA-256 of the model file of a view. Raises ModelError where there is none."""
        return file_digest(find_model(self.path(view)))

    @property
    def calibration_file(self) -> Path:
        """Where the calibration of parts lies: in the run folder, or beside another model, with its name."""
        if self.usual.is_dir() or self.usual.name == MODEL_NAME:
            return (self.usual if self.usual.is_dir() else self.usual.parent) / PARTS_NAME
        return self.usual.with_suffix(f".{PARTS_NAME}")


@dataclass(frozen=True, kw_only=True)
class Views:
    """The models of a part's views, loaded, and the rule that decides of parts."""

    models: ViewModels
    detectors: Mapping[Path, Detector]
    rule: PartRule

    def detector(self, view: str | None) -> Detector:
        """Return what scores a view."""
        return self.detectors[self.models.path(view)]

    def describe(self) -> str:
        """Say in one line what is promised of parts, and by what."""
        rule = self.rule
        if rule.rate is None:
            return "no false-alarm rate is promised of parts: the models were not calibrated"
        review = "" if rule.review_rate is None else f", review rate {100 * rule.review_rate:.3g} %"
        if isinstance(rule, TogetherRule):
            by = f"promised by {rule.carried_by} calibration parts"
        else:
            by = f"promised by the smallest p-value times the views (Bonferroni), of {rule.carried_by} "
            by += "calibration images; `blemish parts` calibrates the views together"
        return f"parts: false-alarm rate {100 * rule.rate:.3g} %{review}, {by}"


def make_views(
    models: ViewModels,
    detectors: Mapping[Path, Detector],
    *,
    calibration: Path | None = None,
    views: Sequence[str] = (),
    part_views: Sequence[tuple[str, str | None]] = (),
    digests: Mapping[Path, str] | None = None,
    version: Path | None = None,
) -> Views:
    """Choose the rule: by parts calibrated together, or where there are none by models calibrated apart.

    Args:
        models: the models' paths.
        detectors: the loaded models; the rates that the usual one was given count for parts.
        calibration: a `parts.json`; None: the one beside the usual model, if there is one.
        views: of models calibrated apart the names of a part's views, or their number.
        part_views: the part and the view of all images, if known beforehand; then without `views`.
        digests: those of what was loaded, by the models' paths: a file may have changed since, or another
            version be in use. None: those of the files.
        version: the file of the usual model that is in use, where that is a version of it; if a calibration
            of parts lies beside that file, it counts in place of `calibration` and `views`.

    Raises OtherModelsError for a calibration of other models, ModelError for a damaged one, UsageError for a
    rate that cannot be promised.
    """
    for path, detector in detectors.items():
        if detector.model_file.products:
            raise products_error(path, cure="give --product, or train a model of one product")
    usual = detectors[models.usual]
    rates = {"rate": usual.false_alarm_rate, "review_rate": usual.review_rate}
    made = None if version is None else ViewModels(usual=version).calibration_file
    if made is not None and made.exists():
        calibration, views = made, ()
    file = calibration or models.calibration_file
    if calibration is not None or file.exists():
        known = read_part_calibration(file, models, digests)
        if views:
            raise UsageError(f"--views {' '.join(views)}: {file} says which views there are; leave it out")
        return Views(models=models, detectors=detectors, rule=TogetherRule(known, **rates))

    def calibration_of(view: str | None) -> Calibration | None:
        return detectors[models.path(view)].model_file.calibration

    count, names = _counted(views, models) if views else _counted_in(part_views)
    rule = ApartRule(calibration_of, count=count, names=names, **rates)
    return Views(models=models, detectors=detectors, rule=rule)


def products_error(path: Path, *, cure: str = "train a model of one product") -> UsageError:
    """Return the refusal of a model of several products."""
    return UsageError(f"{path}: is a model of several products, which decides of no parts with views; {cure}")


def _counted(views: Sequence[str], models: ViewModels) -> tuple[int | None, tuple[str, ...]]:
    """Read --views: a number, or names. Raises UsageError for names that leave out a view with a model."""
    if len(views) == 1 and views[0].isdecimal():
        if int(views[0]) < 1:
            raise UsageError(f"--views {views[0]}: a part has 1 view or more")
        return int(views[0]), ()
    for view in models.own:
        if views and view not in views:
            raise UsageError(f"--views {' '.join(views)}: --view-model names {view} too; correct it")
    if len(set(views)) < len(views):
        raise UsageError(f"--views {' '.join(views)}: names a view twice; name each once")
    return None, tuple(views)


def _counted_in(part_views: Sequence[tuple[str, str | None]]) -> tuple[int | None, tuple[str, ...]]:
    """Return the largest number of images that a part has, or the names of all views."""
    names = {view for _, view in part_views if view is not None}
    counts = Counter(part for part, _ in part_views)
    return max(counts.values(), default=None), tuple(sorted(names))


def write_part_calibration(
    file: Path, calibration: PartCalibration, digests: Mapping[str, str], *, parts: Sequence[str], data: str
) -> None:
    """Write what `part_calibration_text` returns. Raises OSError."""
    write_whole(file, part_calibration_text(calibration, digests, parts=parts, data=data), durable=True)


def digests_of_one(calibration: PartCalibration, model: bytes) -> dict[str, str]:
    """Return by view the digest of the one model that scores all, of which `model` is the file's content."""
    return dict.fromkeys(calibration.views or ("",), hashlib.sha256(model).hexdigest())


def part_calibration_text(
    calibration: PartCalibration, digests: Mapping[str, str], *, parts: Sequence[str], data: str
) -> str:
    """Return a calibration of `parts` of the data set `data`, by models with these digests, by view.

    Where views are not told apart the one model's view is the empty text.
    """
    content = {
        "format_version": FORMAT_VERSION,
        "data": data,
        "views": calibration.views,
        "models": dict(digests),
        "parts": list(parts),
        "scores": calibration.scores.tolist(),
    }
    return json.dumps(content, indent=1) + "\n"


def read_part_calibration(
    file: Path, models: ViewModels, loaded: Mapping[Path, str] | None = None
) -> PartCalibration:
    """Read what `write_part_calibration` wrote; `loaded` is the `digests` of `make_views`.

    Raises ModelError for damage, and OtherModelsError, which is one, for other models.
    """
    calibration, digests = _read(file)
    for view in models.own:
        if view not in calibration.views:
            known = ", ".join(calibration.views) or "no names of views"
            raise UsageError(f"--view-model {view}=...: {file} has {known}; correct it")
    for view, digest in digests.items():
        path = models.path(view or None)
        if (models.digest(view or None) if loaded is None else loaded[path]) != digest:
            of = f" of the view {view}" if view else ""
            raise OtherModelsError(
                f"{file}: calibrates parts by another model{of} than {path}; calibrate them anew by "
                "`blemish parts`, or remove the file"
            )
    return calibration


def calibrating_models(file: Path) -> set[str]:
    """Return the digests of the models that a `parts.json` is of. Raises ModelError for damage."""
    return {*_read(file)[1].values()}


def _read(file: Path) -> tuple[PartCalibration, dict[str, str]]:
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if content["format_version"] > FORMAT_VERSION:
            raise ModelError(f"{file}: is newer than this blemish reads; upgrade blemish")
        views = tuple(map(str, content["views"]))
        calibration = PartCalibration(scores=np.array(content["scores"], dtype=np.float64), views=views)
        digests = {str(view): str(digest) for view, digest in content["models"].items()}
        if digests.keys() != set(views or ("",)):
            raise DataError("models: must be of its views, each of one")
    except OSError as error:
        raise ModelError(f"{file}: cannot be read ({error.strerror}); make it by `blemish parts`") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(file, error) from error
    except ModelError:
        raise
    except BlemishError as error:
        raise _damaged(file, error) from error
    return calibration, digests


def describe_part_calibration(file: Path) -> str:
    """Say in one line what a `parts.json` that was just written promises. Raises ModelError."""
    calibration, _ = _read(file)
    views = f" of {calibration.scores.shape[1]} views" + (
        f" ({', '.join(calibration.views)})" if calibration.views else ""
    )
    lowest = named_rate(calibration.n, 1)
    promised = f"false-alarm rates of parts promised from {lowest:g}"
    return f"calibrated on {calibration.n} good parts{views}: {promised}"


def _damaged(file: Path, error: Exception) -> ModelError:
    return ModelError(f"{file}: is no calibration of parts ({one_line(error)}); make it by `blemish parts`")
