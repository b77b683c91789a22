"""The conversion of the record's rows to what the service answers."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from blemish.inference.parts import TogetherRule
from blemish.inference.promise import Promise
from blemish.record.rows import standing
from blemish.station.model_schemas import DriftAnswer, ModelAnswer, PartRuleAnswer, PartsModelAnswer
from blemish.station.schemas import InspectionAnswer, PartAnswer, VerdictAnswer, ViewAnswer, WithdrawnAnswer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from blemish.record.rows import Inspection, ModelRecord, Verdict
    from blemish.station.parts import PartLine
    from blemish.station.schemas import AnyInspection
    from blemish.station.station import Station


def model_answer_of(record: ModelRecord, station: Station) -> ModelAnswer:
    """Make the answer of a model that is, or was, in use."""
    line, answer = station.parts.of(record.digest), _model_answer_of(record, station)
    if line is None:
        return answer
    return PartsModelAnswer(**dict(answer), parts=_part_rule_of(line))


def _part_rule_of(line: PartLine) -> PartRuleAnswer:
    rule = line.views.rule
    return PartRuleAnswer(
        views=list(rule.names),
        count=rule.count or 1,
        rule="together" if isinstance(rule, TogetherRule) else "apart",
        carried_by=rule.carried_by,
        false_alarm_rate=rule.rate,
        review_rate=rule.review_rate,
        wait_seconds=line.settings.wait_s,
        one_model=not line.views.models.own,
    )


def _model_answer_of(record: ModelRecord, station: Station) -> ModelAnswer:
    engine = station.engines.get(record.digest)
    detector = engine and engine.model.detector
    calibration = detector and detector.model_file.calibration
    counting = detector and detector.model_file.counting
    first = record.description.get("first_use", {})  # what an earlier version said when it was in use
    return ModelAnswer(
        digest=record.digest,
        name=record.name,
        method=record.method,
        preset=record.preset,
        dataset=record.dataset,
        first_used=record.first_used,
        active=detector is not None,
        origin=station.versions.origin(record.digest),
        takes=detector.model_file.image_format.describe() if detector else "",
        calibration_images=calibration.n if calibration else first.get("calibration_images", 0),
        calibration_parts=first.get("calibration_parts"),
        lowest_false_alarm_rate=calibration.lowest_rate if calibration else None,
        false_alarm_rate=detector.rate if detector else first.get("false_alarm_rate"),
        review_rate=detector.review_rate if detector else first.get("review_rate"),
        usual_rate=Promise.usual_rate,
        usual_rate_needs=Promise.usual_rate_needs,
        threshold=detector.threshold if detector else first.get("threshold"),
        review_threshold=detector.review_threshold if detector else first.get("review_threshold"),
        counts=counting.describe() if counting and counting.as_fields() else None,
        display_range=detector.model_file.display_range if detector else record.description["display_range"],
        drift=_drift_of(record.digest, station),
    )


def _drift_of(digest: str, station: Station) -> DriftAnswer | None:
    drift = station.following.drifts.get(digest)
    if drift is None:
        return None
    since = station.following.since(digest)
    return DriftAnswer(
        evidence=drift.evidence,
        alarm=drift.alarm,
        since=since,
        peak=drift.peak,
        peak_time=station.following.peak_times.get(digest),
    )


def answers_of(station: Station, inspections: Sequence[Inspection]) -> list[AnyInspection]:
    """Make the answers of rows, with the verdicts on them and the views of parts."""
    store = station.store
    verdicts = store.verdicts([each.id for each in inspections])
    views = store.views_of([each.id for each in inspections if each.missing is not None])
    return [
        view_answer_of(station, each)
        if each.part_id is not None
        else answer_of(each, verdicts.get(each.id, ()), views.get(each.id, ()))
        for each in inspections
    ]


def view_answer_of(station: Station, view: Inspection) -> ViewAnswer:
    """Make the answer of a view, which says what was decided of its part."""
    waits_for = station.parts.waits_for(view)  # first: what waits for nothing more is on record
    part = station.store.get(view.part_id or "")
    return _view_of(view, part, waits_for if part is None else [])


def _view_of(view: Inspection, part: Inspection | None, waits_for: list[str]) -> ViewAnswer:
    said = {
        "decision": "unjudged" if part is None else part.decision,
        "anomalous": None if part is None else part.anomalous,
    }
    known = {"view": view.view, "part_id": view.part_id, "waits_for": waits_for}
    return ViewAnswer(**_fields_of(view) | said | known)


def answer_of(
    inspection: Inspection, verdicts: Sequence[Verdict] = (), views: Sequence[Inspection] = ()
) -> InspectionAnswer:
    """Make the answer of a row; of a part that was decided from its views, with them."""
    fields = _fields_of(inspection, verdicts)
    if inspection.missing is None:
        return InspectionAnswer(**fields)
    of_part = [_view_of(view, inspection, []) for view in views]
    return PartAnswer(**fields, missing=list(inspection.missing), views=of_part)


def _fields_of(inspection: Inspection, verdicts: Sequence[Verdict] = ()) -> dict[str, Any]:
    here = f"/v1/inspections/{inspection.id}"
    has_files = inspection.image is not None and inspection.files_removed is None
    fields: dict[str, Any] = {
        name: getattr(inspection, name)
        for name in InspectionAnswer.model_fields
        if hasattr(inspection, name) and name not in ("image", "map")
    }
    fields["regions"] = [asdict(region) for region in inspection.regions]
    return fields | {
        "image_sha256": inspection.image,
        "image": f"{here}/image" if has_files else None,
        "map": f"{here}/map" if has_files else None,
        "overlay": f"{here}/overlay" if has_files else None,
        "verdicts": [VerdictAnswer(**_said(each)) for each in standing(verdicts)],
        "withdrawn": [
            WithdrawnAnswer(**_said(each), withdrawn=each.withdrawn, withdrawn_by=each.withdrawn_by or "")
            for each in verdicts
            if each.withdrawn is not None
        ],
    }


def _said(verdict: Verdict) -> dict[str, Any]:
    return {name: getattr(verdict, name) for name in VerdictAnswer.model_fields}
