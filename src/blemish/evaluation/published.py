"""The papers' own results, as printed, to stand beside ours.

The numbers lie in `published_tables/`: one CSV file a table, a row a category, a column a method, each cell
as the paper prints it, `-` where it prints none. What is said about them lies here.

Categories have the names of their folders. `mean`, `texture_mean` and `object_mean` are the papers' means
over MVTec AD; `tests/evaluation/test_published.py` recomputes them and lists those that do not follow from
their cells.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Literal

Measure = Literal[
    "image_auroc", "pixel_auroc", "pixel_auroc_fpr30", "pixel_auroc_fpr30_mcclish", "parameters"
]
"""What is measured: a key of `evaluation.json`, or the number of parameters."""

CONVENTIONS: dict[Measure, str] = {
    "image_auroc": "area under the ROC of image scores; chance is 0.5",
    "pixel_auroc": "area under the ROC of pixels, FPR 0 to 1; chance is 0.5",
    "pixel_auroc_fpr30": "area under the ROC of pixels up to FPR 0.3, divided by 0.3; chance is 0.15. "
    "Our reading: the columns quoted from Bergmann et al. 2021 go down to 0.135",
    "pixel_auroc_fpr30_mcclish": "area under the ROC of pixels up to FPR 0.3, McClish's; chance is 0.5. "
    "Our reading: nothing that the paper computed itself lies below 0.495",
    "parameters": "numbers that the network learns",
}
"""How each measure is computed, and what chance gets. Where a paper leaves it open, our reading and why."""

UNITS = {"fraction": Decimal(1), "percent": Decimal("0.01"), "millions": Decimal(10**6)}
"""What turns a printed number into a value."""

CPC_AD = "de Haan and Löwe 2021, arXiv:2107.07820"
METAL = "De Nardin, Mishra, Foresti and Piciarelli 2022, doi:10.1142/S0129065722500307"

OWN = "computed by the paper itself"
UNSAID = "the paper does not say from where"
BERGMANN = "quoted from Bergmann et al., Int. J. Comput. Vis. 129(4), 2021"
DEFARD = "quoted from Defard et al. 2020, arXiv:2011.08785"
KAUFFMANN = "quoted from Kauffmann et al. 2020, arXiv:2006.10609"
LI = "quoted from Li et al. 2021, arXiv:2104.04015"
LISZNERSKI = "quoted from Liznerski et al. 2021"
SALEHI = "quoted from Salehi et al., CVPR 2021"
SOHN = "quoted from Sohn et al. 2021"


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Columns of a table of which the same can be said."""

    methods: tuple[str, ...]
    """Their headings in the CSV file."""
    measure: Measure
    origin: str
    """Whether the paper computed the numbers, or whom it quotes."""
    pretrained: bool = False
    """Whether the methods use features learnt from other images, such as ImageNet's."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of a paper."""

    paper: Literal["CPC-AD", "MeTAL"]
    number: int
    title: str
    source: str
    """The paper's authors, year and arXiv id or DOI."""
    unit: Literal["fraction", "percent", "millions"]
    """Of the printed numbers."""
    columns: tuple[Columns, ...]
    comment: str
    """What a reader must know: headings that we changed, cells that contradict each other."""

    @property
    def file(self) -> Path:
        """The CSV file of its numbers."""
        name = f"{self.paper.lower().replace('-', '_')}_table{self.number}.csv"
        return Path(__file__).with_name("published_tables") / name


@dataclass(frozen=True, kw_only=True)
class Published:
    """One printed number, and what is needed to compare with it."""

    value: float
    """An area in [0, 1], as in `evaluation.json`; or a number of parameters."""
    spread: float | None
    """The number after ±, in the unit of `value`; None: not printed."""
    printed: str
    """The cell, to its last digit."""
    method: str
    category: str
    measure: Measure
    convention: str
    """How the measure is computed (`CONVENTIONS`)."""
    pretrained: bool
    """Whether the method uses features learnt from other images."""
    source: str
    """Paper, table and origin of the column, in one line."""
    table: Table


TABLES = (
    Table(
        paper="CPC-AD",
        number=1,
        title="Detection on MVTec AD by category",
        source=CPC_AD,
        unit="fraction",
        columns=(
            Columns(methods=("KDE", "Auto"), measure="image_auroc", origin=KAUFFMANN),
            Columns(methods=("CutPaste",), measure="image_auroc", origin=LI),
            Columns(methods=("CPC-AD",), measure="image_auroc", origin=OWN),
        ),
        comment="Auto is an autoencoder. CPC-AD's image score is the mean of the top 5 % of its losses.",
    ),
    Table(
        paper="CPC-AD",
        number=2,
        title="Segmentation on MVTec AD by category",
        source=CPC_AD,
        unit="fraction",
        columns=(
            Columns(
                methods=("AE-SSIM", "AE-L2"),
                measure="pixel_auroc",
                origin=f"{LISZNERSKI} and Bergmann et al., CVPR 2020",
            ),
            Columns(
                methods=("AnoGAN",), measure="pixel_auroc", origin=f"{LISZNERSKI} and Schlegl et al. 2017"
            ),
            Columns(methods=("DistAug",), measure="pixel_auroc", origin=SOHN),
            Columns(methods=("CutPaste",), measure="pixel_auroc", origin=LI),
            Columns(methods=("FCDD",), measure="pixel_auroc", origin=LISZNERSKI, pretrained=True),
            Columns(methods=("PaDiM",), measure="pixel_auroc", origin=DEFARD, pretrained=True),
            Columns(methods=("CPC-AD",), measure="pixel_auroc", origin=OWN),
        ),
        comment="FCDD* and PaDiM* are printed with a star, for pre-training. DistAug (with KDE) has only "
        "means.",
    ),
    Table(
        paper="MeTAL",
        number=3,
        title="Shapes of patches (ablation) on MVTec AD by category",
        source=METAL,
        unit="fraction",
        columns=(
            Columns(
                methods=(
                    "MeTAL squares (no mask)",
                    "MeTAL squares",
                    "MeTAL squares + rows",
                    "MeTAL squares + cols",
                    "MeTAL rows + cols",
                    "MeTAL squares + rows + cols",
                ),
                measure="pixel_auroc_fpr30_mcclish",
                origin=OWN,
            ),
        ),
        comment="Squares + rows is Ours of Table 4, but for two cells: hazelnut, 0.953 here and 0.959 there, "
        "and transistor, 0.841 and 0.860. The mean, 0.844 in both, follows from the cells here.",
    ),
    Table(
        paper="MeTAL",
        number=4,
        title="MeTAL and other methods on MVTec AD by category",
        source=METAL,
        unit="fraction",
        columns=(
            Columns(
                methods=("f-AnoGAN", "l2-AE", "SSIM-AE", "Texture inspection", "Variation model"),
                measure="pixel_auroc_fpr30",
                origin=BERGMANN,
            ),
            Columns(
                methods=("Feature dictionary", "Student-teacher"),
                measure="pixel_auroc_fpr30",
                origin=BERGMANN,
                pretrained=True,
            ),
            Columns(methods=("VT-ADL", "MeTAL"), measure="pixel_auroc_fpr30_mcclish", origin=OWN),
        ),
        comment="MeTAL is printed as Ours; its hazelnut and transistor differ from Table 3's 0.953 and "
        "0.841, and its cells give a mean of 0.846. VT-ADL's mean is its zipper's; its cells give 0.711.",
    ),
    Table(
        paper="MeTAL",
        number=5,
        title="Detection on Head CT",
        source=METAL,
        unit="percent",
        columns=(
            Columns(methods=("OCGAN", "LSA", "GT"), measure="image_auroc", origin=SALEHI),
            Columns(methods=("MKD",), measure="image_auroc", origin=SALEHI, pretrained=True),
            Columns(methods=("MeTAL squares", "MeTAL squares + rows"), measure="image_auroc", origin=OWN),
        ),
        comment="Printed with methods as rows. The paper defines neither MeTAL's image score nor the number "
        "after ±; MKD's, 0.006, is far below the others and may be a fraction instead of percent.",
    ),
    Table(
        paper="MeTAL",
        number=6,
        title="Size of the networks",
        source=METAL,
        unit="millions",
        columns=(
            Columns(methods=("f-AnoGAN", "VT-ADL"), measure="parameters", origin=UNSAID),
            Columns(
                methods=("Feature dictionary", "Student-teacher", "MKD"),
                measure="parameters",
                origin=UNSAID,
                pretrained=True,
            ),
            Columns(methods=("MeTAL (products)", "MeTAL (textures)"), measure="parameters", origin=OWN),
        ),
        comment="Printed with methods as rows, MeTAL as Ours. Our copy of the paper has names and numbers in "
        "two lists, paired here by their order, and lacks the autoencoders that its text speaks of.",
    ),
)


def _number(text: str, unit: str) -> float:
    """Turn a printed number, such as `0.8`, `51.20` or `24.6M`, into a value."""
    return float(Decimal(text.removesuffix("M")) * UNITS[unit])  # decimal, so that 49.5 % is 0.495 exactly


def _cells(table: Table) -> list[tuple[str, str, str]]:
    """Read category, method and cell of a table, row by row, without the missing ones."""
    with table.file.open(encoding="utf-8", newline="") as file:
        rows = [(row.pop("category"), row) for row in csv.DictReader(file)]
    return [(category, method, cell) for category, row in rows for method, cell in row.items() if cell != "-"]


def _published(table: Table, category: str, method: str, cell: str) -> Published:
    """Join a cell with what is said about its column."""
    columns = next(columns for columns in table.columns if method in columns.methods)
    value, _, spread = cell.partition(" ± ")
    return Published(
        value=_number(value, table.unit),
        spread=_number(spread, table.unit) if spread else None,
        printed=cell,
        method=method,
        category=category,
        measure=columns.measure,
        convention=CONVENTIONS[columns.measure],
        pretrained=columns.pretrained,
        source=f"{table.source}, Table {table.number}; {columns.origin}",
        table=table,
    )


@cache
def load() -> tuple[Published, ...]:
    """Return every printed number, table by table and row by row."""
    return tuple(_published(table, *cell) for table in TABLES for cell in _cells(table))


def for_category(category: str, measure: str) -> list[Published]:
    """Return what the papers print of a category, in their order; nothing where they print nothing.

    `category` is the name of its folder (`metal_nut`, `head_ct`), `mean`, `texture_mean`, `object_mean`, or
    `all` for what depends on none. `measure` is a key of `evaluation.json`, or `parameters`.
    """
    return [result for result in load() if (result.category, result.measure) == (category, measure)]
