"""The models of a station: their engines, names and versions, and what takes the place of what.

The record says which versions there were, the folder of versions has their files. An engine goes on while
another version takes the place of its model: what it has taken before is scored by the version of before.
"""

from __future__ import annotations

import hashlib
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blemish.core.errors import ConflictError, ModelError, NotFoundError, UsageError
from blemish.inference.counting import Counting
from blemish.inference.model_file import find_model
from blemish.inference.onnx_backend import version_bytes
from blemish.record.rows import model_record
from blemish.record.store import Act
from blemish.station.engine import Engine
from blemish.station.engine_jobs import Model
from blemish.station.part_lines import calibration_parts, good_scores
from blemish.station.readiness import KINDS
from blemish.station.recalibration import recalibrated
from blemish.station.render import MapStyle

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from blemish.images.roi import Roi
    from blemish.inference.detector import Detector
    from blemish.inference.part_models import ViewModels, Views
    from blemish.record.archive import Archive
    from blemish.record.labels import Labelling
    from blemish.record.store import Inspection, Store
    from blemish.record.versions import Versions
    from blemish.station.following import Following
    from blemish.station.part_lines import PartLines
    from blemish.station.parts import PartLine
    from blemish.station.readiness import Troubles


class ModelsInUse:
    """The part of a station that is about models; `Station` has the rest, which it uses."""

    store: Store
    archive: Archive
    following: Following
    parts: PartLines
    labelling: Labelling
    troubles: Troubles
    make_id: Callable[[datetime], str]

    def __init__(
        self, versions: Versions, *, load: Callable[[Path], Detector], limits: dict[str, int]
    ) -> None:
        """Take the files of versions, what loads one, and what the engines may hold; no model is used yet."""
        self.versions, self._load, self._limits = versions, load, limits
        self.engines: dict[str, Engine] = {}
        self._names: dict[str, str] = {}
        self._models_lock = threading.Lock()

    def _start_model(self, path: Path, name: str) -> None:
        """Start the engine of a model; of several products each one's, as if it were a model by itself."""
        digest = self.versions.start(path)
        detector = self._load(self.versions.file(digest))
        if not detector.model_file.products:
            self._start(digest, name, detector)
        for each in detector.model_file.products:
            product, file = each.product.name, find_model(path)
            content = version_bytes(file, detector.model_file.of_product(product))
            digest = self.versions.start_product(content, suffix=file.suffix)
            self._start(digest, f"{name}:{product}")

    def _start_line(self, models: ViewModels, name: str) -> None:
        """Start the engines of a model that decides of parts, and of the views that have their own."""
        paths = {models.usual: name} | {path: f"{name}:{view}" for view, path in models.own.items()}
        digests = {path: self.versions.start(path) for path in paths}
        detectors = models.load(lambda path: self._load(self.versions.file(digests[path])))
        try:
            line = self.parts.open(models, detectors, digests, self.versions.made_file(digests[models.usual]))
        except ModelError as error:
            for path, digest in digests.items():
                if self.versions.origin(digest) != digest:  # to calibrate the file anew would not help
                    raise ModelError(
                        f"{error}; this station uses version {digest[:8]} of {path}, which is not in that "
                        "file: start it without the calibration of parts, use the first version again, and "
                        "then start it with the calibration"
                    ) from error
            raise
        for path, digest in digests.items():
            if digest not in self.engines:
                self._start(digest, paths[path], detectors[path], line)
            line.engines[path] = self.engines[digest]

    def _start(
        self, digest: str, name: str, detector: Detector | None = None, line: PartLine | None = None
    ) -> None:
        views = line.views if line is not None and digest == line.model else None
        model = self._open(digest, name, detector or self._load(self.versions.file(digest)), views)
        if line is None or views is not None:
            self._watch_drift(model, views)
        engine = Engine(
            model,
            line or self.store,
            self.archive,
            on_recorded=self._recorded,
            on_failed=self.troubles.note,
            make_id=self.make_id,
            **self._limits,
        )
        self.engines = self.engines | {digest: engine}

    def _adopt(self, run: Path, name: str) -> str:
        """Take a model that was trained here into use."""
        with self._models_lock:
            detector = self._load(find_model(run))  # one that cannot be used is refused before it is kept
            digest = self.versions.adopt(find_model(run), name)
            self._start(digest, name, detector)
        return digest

    def _open(self, digest: str, name: str, loaded: Detector, views: Views | None) -> Model:
        """Record that a version of a model is used; `views` decides of its parts, if it has some."""
        detector = loaded.of(None)
        self._names[digest] = name
        calibration = detector.model_file.calibration
        record = model_record(digest, name, detector.model_file)
        first_use = {
            "calibration_images": calibration.n if calibration else 0,
            "calibration_parts": calibration_parts(views),
            "false_alarm_rate": detector.rate,
            "threshold": detector.threshold,
            "review_rate": detector.review_rate,
            "review_threshold": detector.review_threshold,
        }
        self.store.add_model(replace(record, description=record.description | {"first_use": first_use}))
        return Model(digest=digest, detector=detector)

    def _watch_drift(self, model: Model, views: Views | None) -> None:
        """Begin to watch the scores of a model for drift; `views` is as in `_open`."""
        scores = good_scores(model, views)
        if scores is not None:
            self.following.watch(model.digest, scores, of_views=views is not None)

    def use(self, digest: str) -> None:
        """Let the engine of a model go on with another version of it. Raises BlemishError if it cannot."""
        with self._models_lock:
            self._use(digest)

    def recalibrate(self, digest: str, *, parts: int, region: Roi | None = None) -> str:
        """Make a new version of a model, calibrated on the newest good parts, use it, return its digest.

        With a `region` it counts inside of that alone, and the parts are scored anew. Raises BlemishError as
        `recalibrated` and `version_bytes` do, ConflictError where another version came meanwhile.
        """
        model, line = self._model_in_use(digest), self.parts.of(digest)
        self.parts.refuse_change(digest, self._names[digest])
        made = recalibrated(
            model,
            self.store,
            self.archive,
            parts=parts,
            station=self.labelling.usual.station,
            region=region,
            rule=line and line.views.rule,
        )
        source = self.versions.file(digest)
        content = version_bytes(source, made.model_file)
        of_parts = made.part_calibration(content)
        with self._models_lock:  # from its file to its use: what another one makes meanwhile waits
            self._model_in_use(digest)  # which another version may have replaced since
            new = self.versions.add(content, suffix=source.suffix, of=digest, parts=of_parts)
            self._use(new)
        return new

    def names(self) -> set[str]:
        """Return the names of the models in use."""
        return {self._names[digest] for digest in self.engines}

    def take_version(self, name: str, content: bytes, *, suffix: str) -> bool:
        """Let the engine of the model `name` go on with the model file `content`; False: it does already.

        Of a model of several products the engine takes its own one. The audit log tells of it as a use by a
        rollout. Raises BlemishError for a file that cannot be used, such as one of another product; then the
        engine goes on as it was.
        """
        with self._models_lock:
            engine = self.engine(name)
            old, digest = engine.model.digest, hashlib.sha256(content).hexdigest()
            if digest != old and digest in self.engines:
                raise ConflictError(f"model {digest}: is in use here as {self._names[digest]}; give another")
            if digest != old:  # before anything of it is kept: a place is looked into again and again
                self.parts.refuse_rollout(old, name)
            new = self.versions.add(content, suffix=suffix, of=old)
            loaded = self._load(self.versions.file(new))
            own = loaded.model_file.of_product(engine.product)
            if own is not loaded.model_file:
                content, loaded = version_bytes(self.versions.file(new), own), None
                new = self.versions.add(content, suffix=suffix, of=old)
            self._use(new, loaded)
        if new != old:
            self.store.note(self.act(None, "use", new, {"by": "rollout", "before": old}))
        return new != old

    def _use(self, digest: str, loaded: Detector | None = None) -> None:
        """Let an engine go on with another version; `_models_lock` is held."""
        siblings = self.versions.siblings(digest)
        old = next((each for each in self.engines if each in siblings), None)
        if old is None:
            self._refuse_unknown(digest)
            raise ConflictError(f"model {digest}: is no version of a model that is in use here")
        if digest == old:
            return
        self.parts.refuse_change(old, self._names[old])
        self.following.note_peaks()
        loaded, line = loaded or self._load(self.versions.file(digest)), self.parts.of(old)
        views = line and self.parts.views_of(line, digest, loaded, self.versions.made_file(digest))
        model = self._open(digest, self._names[old], loaded, views)
        self._watch_drift(model, views)
        self.versions.use(digest)
        if line is not None and views is not None:
            line.go_on(views, digest)
        self.engines[old].model = model
        self.engines = {digest if d == old else d: engine for d, engine in self.engines.items()}

    def _model_in_use(self, digest: str) -> Model:
        for engine in self.engines.values():
            model = engine.model  # taken once: another version may take its place
            if model.digest == digest:
                return model
        self._refuse_unknown(digest)
        raise ConflictError(f"model {digest}: is not in use here; name the version that is")

    def _refuse_unknown(self, digest: str) -> None:
        if not any(record.digest == digest for record in self.store.models()):
            raise NotFoundError(f"model {digest}: is unknown, and not in use here")

    def engine(self, model: str | None = None, product: str | None = None) -> Engine:
        """Return the engine of a model, by its digest or name; None: the first one's.

        `product` says which one, of a model of several. Raises NotFoundError for a model that is not in use
        here, UsageError for a product that the model does not have, and for none where it has several.
        """
        wanted = model or self._family(next(iter(self.engines)))
        for digest, engine in self.engines.items():
            if wanted in (digest, self._names[digest]):
                own = engine.product
                if own is not None and product not in (None, own):
                    raise UsageError(f"product {product!r}: model {self._names[digest]} is of {own}")
                return engine
        family = {e.product: e for digest, e in self.engines.items() if self._family(digest) == wanted}
        if product in family:
            return family[product]
        if family:
            what = "no product is given" if product is None else f"product {product!r} is unknown"
            have = ", ".join(sorted(map(str, family)))
            raise UsageError(f"{what}: model {wanted} has {have}; send one of them as the field product")
        known = ", ".join(self._names[digest] for digest in self.engines)
        raise NotFoundError(f"model {model}: is not in use here; choose one of {known}")

    def _family(self, digest: str) -> str:
        """Return the name of the model that an engine is of, without the product."""
        product = self.engines[digest].product
        return self._names[digest] if product is None else self._names[digest].removesuffix(f":{product}")

    def has_open(self, id: str) -> bool:
        """Whether an upload of that identifier waits for its answer, or a part for its views."""
        return any(engine.has_open(id) for engine in self.engines.values()) or self.parts.has_open(id)

    def taker(self, engine: Engine) -> Engine | PartLine:
        """Return who takes the images of a model: the line of its parts, where it has some."""
        return next((line for line in self.parts.lines if engine in line.engines.values()), engine)

    def name_of(self, digest: str) -> str:
        """Return a model's name; its digest when this station does not use it."""
        return self._names.get(digest, digest)

    def map_style(self, digest: str) -> MapStyle:
        """Return how a model's maps are drawn, as its description was recorded at its first use."""
        engine = self.engines.get(digest)
        if engine is not None:
            detector = engine.model.detector
            model_file = detector.model_file
            return MapStyle(model_file.display_range, detector.pixel_threshold, model_file.counting)
        record = next((r for r in self.store.models() if r.digest == digest), None)
        description: dict[str, Any] = record.description if record else {"display_range": (0.0, 1.0)}
        low, high = description["display_range"]
        return MapStyle((low, high), None, Counting.of_fields(description.get("counting", {})))

    def act(self, who: str | None, what: str, subject: str = "", detail: dict[str, Any] | None = None) -> Act:
        """Return an act of somebody, None: nobody knows who, as the audit log takes it."""
        name = self.labelling.usual.station or ""
        return Act(who=who or "", what=what, subject=subject, detail=detail or {}, station=name)

    def _recorded(self, _: Sequence[Inspection]) -> None:
        for kind in KINDS:
            self.troubles.end(kind)
        self.following.follow()
