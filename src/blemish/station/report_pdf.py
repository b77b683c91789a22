"""The shift report as PDF, A4, by fpdf2.

Its letters are those of DejaVu Sans, which comes with matplotlib: Latin, Greek, Cyrillic and more. Letters
that it lacks, such as Chinese ones, are taken from the fonts of the machine; a report with a letter that no
font has is refused, because a part's number that has lost a letter is another part's.
"""

from __future__ import annotations

import logging
import textwrap
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from blemish.core.errors import UsageError
from blemish.station.shift_report import Bar

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from fpdf import FPDF

    from blemish.station.shift_report import Section, ShiftReport

FULL = 20
"""Blocks of a bar that stands for the whole."""
GREY = 170
"""Of the lines of tables: 0 is black, 255 white."""
_WIDEST, _NARROWEST = 40, 8
"""Letters by whose number the widths of columns are shared out."""
LONGEST_CELL = 300
"""Letters of a cell; what is longer goes on in the next row, as a row has to fit on a page."""


def report_pdf(report: ShiftReport, *, now: datetime) -> bytes:
    """Write a report. Raises UsageError for a letter in no font, and without `blemish[pdf]`."""
    try:
        from fpdf.enums import XPos, YPos
    except ImportError as error:
        raise UsageError("a report as PDF needs fpdf2; pip install 'blemish[pdf]'") from error
    logging.getLogger("fontTools.subset").setLevel(logging.WARNING)
    pdf = _empty_document(report, now)
    pdf.add_page()
    for text, style, size in ((report.title, "B", 17), (report.time, "", 10)):
        pdf.set_font(style=style, size=size)
        pdf.multi_cell(0, size / 2, text, new_x=XPos.LMARGIN, new_y=YPos.NEXT)
    for section in report.sections:
        _write(pdf, section)
    pdf.ln(5)
    if pdf.will_page_break(15):  # who made it and who has seen it stand together
        pdf.add_page()
    pdf.multi_cell(0, 5, report.made, new_x=XPos.LMARGIN, new_y=YPos.NEXT)
    pdf.ln(5)
    pdf.cell(80, 5, "Seen by:", border="B")
    return bytes(pdf.output())


def _empty_document(report: ShiftReport, now: datetime) -> FPDF:
    """Make a document without pages, with the fonts for all that the report says."""
    from fpdf import FPDF

    class Pages(FPDF):
        """Pages with a number at the bottom."""

        def footer(self) -> None:
            self.set_y(-12)
            self.set_font(size=8)
            self.cell(0, 5, f"{self.page_no()} / {self.str_alias_nb_pages}", align="R")

    pdf = Pages(format="A4")
    pdf.set_creation_date(now)
    pdf.set_title(report.title)
    pdf.set_lang("en")
    pdf.set_margin(15)
    pdf.c_margin = 1
    pdf.set_line_width(0.2)
    text = _text_of_all(report)
    total = "{nb}"
    while total in text:  # what a person wrote stays as it is
        total = "{" + total
    pdf.alias_nb_pages(total)
    _choose_fonts(pdf, set(text) | set("Seen by: 0123456789/"))
    return pdf


def _write(pdf: FPDF, section: Section) -> None:
    from fpdf.enums import TableBordersLayout, XPos, YPos

    pdf.ln(5)
    if pdf.will_page_break(25):  # no title at the end of a page, without what it is the title of
        pdf.add_page()
    pdf.set_font(style="B", size=12)
    pdf.multi_cell(0, 7, section.title, new_x=XPos.LMARGIN, new_y=YPos.NEXT)
    pdf.set_font(size=8.5)
    if section.rows:
        rows = [part for row in section.rows for part in _parts_of([_text_of(cell) for cell in row])]
        cells = [section.head, *rows]
        widths = [min(_WIDEST, max(_NARROWEST, *map(len, column))) for column in zip(*cells, strict=True)]
        pdf.set_draw_color(GREY)
        layout = TableBordersLayout.HORIZONTAL_LINES
        with pdf.table(cells, col_widths=widths, borders_layout=layout, text_align="L", padding=(0.8, 1)):
            pass  # it is drawn where the block ends
    if section.note:
        pdf.ln(2)
        pdf.multi_cell(0, 4.5, section.note, align="L", new_x=XPos.LMARGIN, new_y=YPos.NEXT)


def _parts_of(row: Iterable[str]) -> Iterable[tuple[str, ...]]:
    """Cut a row into rows that each fit on a page."""
    cut = [textwrap.wrap(" ".join(cell.split()), LONGEST_CELL) or [""] for cell in row]
    return zip_longest(*cut, fillvalue="")


def _text_of(cell: str | Bar) -> str:
    return "█" * max(1, round(FULL * cell.part / cell.whole)) if isinstance(cell, Bar) else cell


def _text_of_all(report: ShiftReport) -> str:
    texts = [report.title, report.time, report.made]
    for section in report.sections:
        texts += [section.title, section.note, *section.head]
        texts += [_text_of(cell) for row in section.rows for cell in row]
    return " ".join(texts)


def _choose_fonts(pdf: FPDF, letters: set[str]) -> None:
    """Give a document fonts that have all letters. Raises UsageError for a letter that none has."""
    from matplotlib import get_data_path

    usual = Path(get_data_path()) / "fonts" / "ttf"
    pdf.add_font("usual", "", usual / "DejaVuSans.ttf")
    pdf.add_font("usual", "B", usual / "DejaVuSans-Bold.ttf")
    pdf.set_font("usual")
    missing = {each for each in letters if each.isprintable()} - _letters_in(usual / "DejaVuSans.ttf")
    further = []
    for file in _fonts_here() if missing else ():
        found = missing & _letters_in(file)
        if found:
            missing -= found
            further.append(f"further{len(further)}")
            for style in ("", "B"):
                pdf.add_font(further[-1], style, file)
        if not missing:
            break
    if missing:
        shown = ", ".join(f"{each} (U+{ord(each):04X})" for each in sorted(missing)[:3])
        raise UsageError(
            f"report: {shown} is in no font of this machine; install one that has it, such as Noto Sans CJK, "
            "or print the report from the page"
        )
    pdf.set_fallback_fonts(further)


def _fonts_here() -> Iterable[Path]:
    from matplotlib.font_manager import findSystemFonts

    return map(Path, sorted(findSystemFonts()))


def _letters_in(file: Path) -> set[str]:
    """Return the letters that a font has; none for a file that is no font."""
    from fontTools.ttLib import TTFont, TTLibError

    try:
        with TTFont(file, fontNumber=0, lazy=True) as font:
            return {chr(code) for code in font.getBestCmap() or ()}
    except (TTLibError, OSError, ValueError, AssertionError):
        return set()
