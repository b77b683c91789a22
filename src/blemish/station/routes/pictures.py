"""The routes of pictures: the image as it came, its map, and both in one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from fastapi import APIRouter, Query, Response

from blemish.core.errors import NotFoundError
from blemish.station import render
from blemish.station.routes.access import Viewer
from blemish.station.routes.dependencies import REFUSALS, StationDep, find_inspection
from blemish.station.schemas import Id

if TYPE_CHECKING:
    from collections.abc import Callable

    from blemish.record.store import Inspection
    from blemish.station.station import Station

router = APIRouter(prefix="/v1", responses=REFUSALS)


@router.get("/inspections/{id}/image", response_class=Response, responses={200: render.OPENAPI_IMAGE})
def image(
    caller: Viewer,
    station: StationDep,
    id: Id,
    side: Annotated[int | None, Query(ge=16, le=8192, description="as a PNG, at most this large")] = None,
) -> Response:
    """Return the image as it was sent, or a picture of it that every browser shows."""
    inspection = find_inspection(station, id)
    if side is None:
        data = _read_file(station, inspection.image, "image")
        return Response(data, media_type="application/octet-stream", headers=_download(inspection))

    def make() -> bytes:
        data = _read_file(station, inspection.image, "image")
        with render.room_for(inspection):
            return render.shown(data, side)

    name = f"{side}.png" if side in render.KEPT_SIDES else None
    return _picture(station, inspection, name, make)


@router.get("/inspections/{id}/map", response_class=Response, responses={200: render.OPENAPI_MAP})
def anomaly_map(
    caller: Viewer,
    station: StationDep,
    id: Id,
    full: Annotated[bool, Query(description="a float32 TIFF of the image's size")] = False,
) -> Response:
    """Return the anomaly map: float32 rows, little-endian, their number in `X-Map-Height`; or a TIFF."""
    inspection = _shown_of(station, find_inspection(station, id))
    data = _read_file(station, inspection.map, "map")
    counting = station.map_style(inspection.model).counting
    if full:
        with render.room_for(inspection):
            return Response(render.full_map(data, inspection, counting), media_type="image/tiff")
    rows, height, width = render.raw_map(data, counting)
    size = {"X-Map-Height": str(height), "X-Map-Width": str(width)}
    return Response(rows, media_type="application/octet-stream", headers=size | render.FOR_EVER)


@router.get("/inspections/{id}/overlay", response_class=Response, responses={200: render.OPENAPI_IMAGE})
def overlay(caller: Viewer, station: StationDep, id: Id) -> Response:
    """Return the image with its map over it, as `predict` draws it, 1024 px at most."""
    inspection = _shown_of(station, find_inspection(station, id))
    style = station.map_style(inspection.model)

    def make() -> bytes:
        image_data = _read_file(station, inspection.image, "image")
        map_data = _read_file(station, inspection.map, "map")
        with render.room_for(inspection):
            return render.overlay(image_data, map_data, style)

    return _picture(station, inspection, render.overlay_name(inspection, style), make)


def _shown_of(station: Station, inspection: Inspection) -> Inspection:
    """Return the row whose picture is shown: of a part that of its worst view, whose model draws it."""
    if inspection.missing is None:
        return inspection
    views = station.store.views_of([inspection.id])[inspection.id]
    return next((v for v in views if (v.image, v.map) == (inspection.image, inspection.map)), inspection)


def _read_file(station: Station, digest: str | None, kind: Literal["image", "map"]) -> bytes:
    try:
        if digest is not None:
            return station.archive.read(digest, kind)
    except FileNotFoundError:
        pass
    raise NotFoundError(f"the {kind} of this inspection is not kept")


def _picture(
    station: Station, inspection: Inspection, name: str | None, make: Callable[[], bytes]
) -> Response:
    """Answer a picture of an image: the kept one of that name, or a new one; None: it is not kept."""
    if name is None or inspection.image is None:
        data = make()
    else:
        data = station.archive.picture(inspection.image, name, make)
    return Response(data, media_type="image/png", headers=render.FOR_EVER)


def _download(inspection: Inspection) -> dict[str, str]:
    return {"Content-Disposition": f'attachment; filename="{inspection.id}"'}
