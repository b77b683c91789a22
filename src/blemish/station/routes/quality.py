"""The routes of quality: the sampling plan, reasons of defects, figures of a time, and the shift report."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter
from fastapi.responses import HTMLResponse, Response
from pydantic import BaseModel, Field

from blemish.record.sampling import SamplingPlan
from blemish.station.report_html import report_html
from blemish.station.report_pdf import report_pdf
from blemish.station.routes.access import Engineer, Viewer
from blemish.station.routes.dependencies import REFUSALS, StationDep
from blemish.station.routes.inspections import Filters
from blemish.station.schemas import QualityAnswer, Reason, SamplingPlanAnswer
from blemish.station.shift_report import shift_report

router = APIRouter(prefix="/v1", responses=REFUSALS)


class Reasons(BaseModel):
    """The kinds of defects that are offered, in their order."""

    reasons: Annotated[list[Reason], Field(max_length=100)]


@router.get("/quality", response_model=QualityAnswer)
def quality(caller: Viewer, station: StationDep, chosen: Filters) -> QualityAnswer:
    """Sum up decisions and verdicts, with the share of accepted parts that are defects, by the sample."""
    found = asdict(station.store.quality(chosen))
    found["reasons"] = [{"reason": reason, "n": n} for reason, n in found["reasons"]]
    return QualityAnswer.model_validate(found)


@router.get("/report.html", response_class=Response, responses={200: {"content": {"text/html": {}}}})
def report(caller: Viewer, station: StationDep, chosen: Filters) -> Response:
    """Write a report of a time, to be printed: figures, the Pareto of reasons, and confirmed defects."""
    said = shift_report(station.store, chosen, now=datetime.now(UTC), by=caller.name)
    return HTMLResponse(report_html(said))


@router.get("/report.pdf", response_class=Response, responses={200: {"content": {"application/pdf": {}}}})
def report_as_pdf(caller: Viewer, station: StationDep, chosen: Filters) -> Response:
    """Write the same report as PDF."""
    now = datetime.now(UTC)
    content = report_pdf(shift_report(station.store, chosen, now=now, by=caller.name), now=now)
    name = f'attachment; filename="shift-report-{chosen.since or now:%Y-%m-%d-%H%M}.pdf"'
    return Response(content, media_type="application/pdf", headers={"Content-Disposition": name})


@router.get("/sampling", response_model=SamplingPlanAnswer)
def sampling(caller: Viewer, station: StationDep) -> SamplingPlanAnswer:
    """Return the plan by which accepted parts are drawn for a person."""
    return SamplingPlanAnswer(**asdict(station.store.sampling()))


@router.put("/sampling", response_model=SamplingPlanAnswer)
def set_sampling(caller: Engineer, station: StationDep, wanted: SamplingPlanAnswer) -> SamplingPlanAnswer:
    """Draw by another plan from the next part on, whoever records it into this record."""
    act = station.act(caller.name, "sampling", detail=wanted.model_dump())
    station.store.set_sampling(SamplingPlan(wanted.share, wanted.seed), act=act)
    return wanted


@router.get("/reasons", response_model=Reasons)
def reasons(caller: Viewer, station: StationDep) -> Reasons:
    """List the kinds of defects that are offered with a verdict."""
    return Reasons(reasons=station.store.reasons())


@router.put("/reasons", response_model=Reasons)
def set_reasons(caller: Engineer, station: StationDep, wanted: Reasons) -> Reasons:
    """Offer these kinds of defects; verdicts keep the reasons that they have."""
    act = station.act(caller.name, "reasons", detail=wanted.model_dump())
    station.store.set_reasons(wanted.reasons, act=act)
    return Reasons(reasons=station.store.reasons())
