"""The routes of the page, its scripts, and the description of the service."""

from __future__ import annotations

from importlib import resources

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles

from blemish.station.routes.access import Public, Viewer

WEB = resources.files("blemish.station") / "web"
FILES = StaticFiles(directory=str(WEB))

router = APIRouter(include_in_schema=False)


@router.get("/")
def page(caller: Public) -> FileResponse:
    """Return the page, which asks for a token if one is required."""
    return FileResponse(str(WEB / "index.html"), headers={"Cache-Control": "no-cache"})


@router.api_route("/static/{path:path}", methods=["GET", "HEAD"])
async def static(caller: Public, request: Request, path: str) -> Response:
    """Return a script, a style sheet or a picture of the page."""
    return await FILES.get_response(path, request.scope)


@router.get("/docs")
def documentation(caller: Viewer) -> FileResponse:
    """Return the page that shows the description."""
    return FileResponse(str(WEB / "docs.html"))


@router.get("/openapi.json")
def description(caller: Viewer, request: Request) -> JSONResponse:
    """Return the description of the service."""
    root_path = request.scope.get("root_path", "")
    return JSONResponse(request.app.openapi() | ({"servers": [{"url": root_path}]} if root_path else {}))
