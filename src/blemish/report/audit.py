"""The page of an audit: good images ranked by suspicion, each with its map, and the near-copies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from blemish.report.html import format_number, format_percent, require_packages, write_page

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

PACKAGES = ("jinja2",)
"""What the page needs of `blemish[report]`."""
SHOWN = 60
"""So many images are shown at least, or all suspects if they are more. Our choice: one sitting."""
COPIES_SHOWN = 100
"""So many pairs of near-copies are listed at most."""


def write_audit(out: Path, audit: Mapping[str, Any], *, title: str) -> Path:
    """Write `out/audit.html` of what audit.json has, and return its path.

    Raises UsageError without the packages of `blemish[report]`.
    """
    require_packages(*PACKAGES)
    content = {
        "title": title,
        "sentence": sentence_of(audit),
        "change": change_of(audit),
        "audit": audit,
        "shown": audit["findings"][: max(SHOWN, audit["suspects"])],
        "copies": audit["copies"][:COPIES_SHOWN],
    }
    return write_page(out / "audit.html", "audit", content)


def sentence_of(audit: Mapping[str, Any]) -> str:
    """Say what was found, in plain words."""
    suspects, copies = audit["suspects"], len(audit["copies"])
    named = "1 is suspect" if suspects == 1 else f"{suspects or 'none'} are suspect"
    pairs = "1 pair is" if copies == 1 else f"{copies or 'no'} pairs are"
    across = sum(pair["across"] for pair in audit["copies"])
    between = f", {across} of them between training and calibration" if across else ""
    return f"Of {audit['images']} good images, {named}; {pairs} nearly the same{between}."


def change_of(audit: Mapping[str, Any]) -> str:
    """Say what would change if the suspects were left out."""
    if not audit["suspects"]:
        return "There is nothing to leave out."
    rate = format_percent(audit["false_alarm_rate"])
    without = audit["threshold_without_suspects"]
    if without is None:
        return f"Without the suspects too few images are left to promise a false-alarm rate of {rate}."
    return (
        f"At a false-alarm rate of {rate} a part is rejected above {format_number(audit['threshold'])}, "
        f"calibrated on all these scores, and above {format_number(without)} without the suspects."
    )
