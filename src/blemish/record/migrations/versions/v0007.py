"""Views of parts: rows that belong to the row of a part, which alone is decided, counted and judged."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Add columns, and let no view wait for a verdict."""
    op.add_column("inspections", sa.Column("view", sa.Text))
    identifier = sa.String(26).with_variant(sa.String(26, collation="C"), "postgresql")
    op.add_column("inspections", sa.Column("part_id", identifier))
    op.add_column("inspections", sa.Column("missing", sa.Text))
    views = sa.text("part_id IS NOT NULL")
    op.create_index(
        "ix_inspections_views", "inspections", ["part_id"], sqlite_where=views, postgresql_where=views
    )
    op.drop_index("ix_inspections_to_judge", "inspections")
    waits = sa.text(
        "verdict IS NULL AND part_id IS NULL "
        "AND (decision = 'rejected' OR decision = 'review' OR sample IS NOT NULL)"
    )
    op.create_index(
        "ix_inspections_to_judge", "inspections", ["id"], sqlite_where=waits, postgresql_where=waits
    )
