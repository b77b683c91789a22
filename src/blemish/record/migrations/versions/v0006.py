"""The second threshold, and parts that it sends to a person."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add a column, and let those parts wait for a verdict."""
    op.add_column("inspections", sa.Column("review_threshold", sa.Double))
    op.drop_index("ix_inspections_to_judge", "inspections")
    waits = sa.text(
        "verdict IS NULL AND (decision = 'rejected' OR decision = 'review' OR sample IS NOT NULL)"
    )
    op.create_index(
        "ix_inspections_to_judge", "inspections", ["id"], sqlite_where=waits, postgresql_where=waits
    )
