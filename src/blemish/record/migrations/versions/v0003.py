"""Where parts belong, the sampling plan, reasons of defects, and which verdict counts."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

NOTE_WHICH_COUNTS = """
UPDATE inspections SET counts = (
    SELECT max(v.number) FROM verdicts AS v
    WHERE v.inspection = inspections.id AND v.withdrawn IS NULL AND v.verdict = inspections.verdict
) WHERE verdict IS NOT NULL
"""


def upgrade() -> None:
    """Add columns and tables."""
    for name in ("product", "line", "shift", "station"):
        op.add_column("inspections", sa.Column(name, sa.Text))
    op.add_column("inspections", sa.Column("sample", sa.Double))
    op.add_column("inspections", sa.Column("counts", sa.Integer))
    op.add_column("verdicts", sa.Column("reason", sa.Text))
    op.execute(NOTE_WHICH_COUNTS)
    waits = sa.text("verdict IS NULL AND (decision = 'rejected' OR sample IS NOT NULL)")
    op.create_index(
        "ix_inspections_to_judge", "inspections", ["id"], sqlite_where=waits, postgresql_where=waits
    )
    op.create_table(
        "sampling",
        sa.Column("share", sa.Double, primary_key=True),
        sa.Column("seed", sa.BigInteger, nullable=False),
    )
    op.create_table("reasons", sa.Column("name", sa.Text, primary_key=True), sa.Column("place", sa.Integer))
