"""Images as they come in a request: the file itself, or a form with the file and what is said of it."""

from __future__ import annotations

from dataclasses import replace

from fastapi import Request
from starlette.datastructures import UploadFile

from blemish.core.errors import UsageError
from blemish.record.labels import Labels
from blemish.station.engine_jobs import Upload
from blemish.station.schemas import Part

UPLOADS = {
    "requestBody": {
        "required": True,
        "description": "The image file as it is, or as the field `image` of a form.",
        "content": {
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {
                        "image": {"type": "string", "format": "binary"},
                        "part": {"type": "string", "minLength": 1, "maxLength": 200},
                        "view": {"type": "string", "minLength": 1, "maxLength": 200},
                        "model": {"type": "string", "maxLength": 200},
                        **{name: {"type": "string"} for name in ("product", "line", "shift")},
                    },
                }
            },
        },
    }
}

NOTHING_SAID = Labels()


async def labels(product: Part | None = None, line: Part | None = None, shift: Part | None = None) -> Labels:
    """Take what a sender says of where a part belongs."""
    return Labels(product=product, line=line, shift=shift)


async def read_upload(request: Request, asked: Upload) -> tuple[Upload, str | None]:
    """Read a form with the field `image`, or the file itself as the body; the model that a form names.

    `asked` is what the query says of it.
    """
    kind = media_type(request.headers.get("content-type", ""))
    if kind != "multipart/form-data":
        if kind.startswith("multipart/"):
            raise UsageError(f"content type {kind}: send multipart/form-data, or the image file itself")
        data = await request.body()
        if not data:
            raise UsageError("the body is empty; send an image file")
        return replace(asked, data=data), None
    try:
        return await _read_form(request, asked)
    except UnicodeError as error:
        raise UsageError("the form's charset does not fit its texts; send UTF-8") from error


async def _read_form(request: Request, asked: Upload) -> tuple[Upload, str | None]:
    async with request.form(max_files=1, max_fields=8) as form:
        file = form.get("image")
        if not isinstance(file, UploadFile):
            raise UsageError("the form has no file named `image`; send one")
        given = {field: _text(form.get(field, getattr(asked, field)), field) for field in ("part", "view")}
        model = _text(form.get("model") or None, "model")
        labels = Labels(**{name: _text(form.get(name), name) for name in ("product", "line", "shift")})
        source = "page" if request.headers.get("x-blemish-page") else "api"
        name = asked.name or _name(file.filename)
        return replace(asked, data=await file.read(), source=source, name=name, labels=labels, **given), model


def _text(given: UploadFile | str | None, field: str) -> str | None:
    """Return a text of a form. Raises UsageError for a file and for characters that are not printable."""
    if given is not None and not (isinstance(given, str) and 0 < len(given) <= 200 and given.isprintable()):
        raise UsageError(f"`{field}`: give 1 to 200 printable characters")
    return given


def media_type(content_type: str) -> str:
    """Return the type of a Content-Type without its parameters, in lower case (RFC 9110, 8.3.1)."""
    return content_type.partition(";")[0].strip().lower()


def _name(filename: str | None) -> str | None:
    """Take a sender's file name as a mere text; it is never opened."""
    if not filename:
        return None
    return "".join(c if c.isprintable() else "?" for c in filename)[-200:]
