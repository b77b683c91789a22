"""HTML pages: one file each, readable without network, script or installation.

Templates are in `templates/`; all of them extend `base.html.j2`, which has the style sheet.
"""

from __future__ import annotations

import functools
import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from blemish.core.errors import UsageError
from blemish.core.files import write_whole

if TYPE_CHECKING:
    import jinja2

DASH = "–"
MEASURES = {
    "image_auroc": "image AUROC",
    "pixel_auroc": "pixel AUROC",
    "pixel_auroc_fpr30": "pixel AUROC up to FPR 0.3, area / 0.3",
    "pixel_auroc_fpr30_mcclish": "pixel AUROC up to FPR 0.3, McClish",
    "aupro_fpr30": "AUPRO up to FPR 0.3",
}
"""The measures that reports compare: keys of evaluation.json, and the names shown."""


def require_packages(*packages: str) -> None:
    """Check that packages of `blemish[report]` are installed. Raises UsageError if one is missing."""
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise UsageError(f"report: {error.name} is missing; pip install 'blemish[report]'") from error


def write_page(path: Path, template: str, content: dict[str, Any], **filters: Any) -> Path:
    """Fill the template `templates/<template>.html.j2` and write it to `path`, whole or not at all.

    `content` has at least `title` and `sentence`. `filters` are functions that the template may call.
    Raises UsageError without the packages of `blemish[report]`.
    """
    require_packages("jinja2")
    page = _environment(*sorted(filters.items())).get_template(f"{template}.html.j2")
    text = page.render(content | {"dash": DASH})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text)
    return path


@functools.cache
def _environment(*filters: tuple[str, Any]) -> jinja2.Environment:
    """Make what reads templates: once, as a template takes longer to read than to fill."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    common = {
        "area": format_area,
        "number": format_number,
        "percent": format_percent,
        "url": url,
        "seconds": format_seconds,
    }
    environment.filters |= common | dict(filters)
    return environment


def format_area(value: float) -> str:
    """Write an area in [0, 1] with three decimals; a value below 1 is never shown as 1."""
    return "> 0.999" if 0.9995 <= value < 1 else f"{value:.3f}"


def format_percent(value: float) -> str:
    """Write a share in [0, 1] as a percentage with one decimal; only 0 and 1 are shown as 0 % and 100 %."""
    if 0.9995 <= value < 1:
        return "> 99.9 %"
    if 0 < value < 0.0005:
        return "< 0.1 %"
    return f"{100 * value:.0f} %" if value in (0, 1) else f"{100 * value:.1f} %"


def format_number(value: float, digits: int = 4) -> str:
    """Write a number with `digits` significant digits and a typographic minus sign."""
    return f"{value:.{digits}g}".replace("-", "−").replace("inf", "∞")


def format_seconds(seconds: float) -> str:
    """Write a time in milliseconds, seconds, minutes or hours, by its size."""
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    if seconds < 100:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 6000 else f"{seconds / 3600:.3g} h"


def format_duration(seconds: float) -> str:
    """Write an estimated time in whole minutes, at least 1, or in hours and minutes."""
    minutes = max(1, round(seconds / 60))
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


def url(path: str) -> str:
    """Quote a path for a link: the bytes of a name that is not UTF-8 included."""
    return quote(path, errors="surrogateescape")
