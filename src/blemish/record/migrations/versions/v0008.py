"""The newest rows of a product, a line or a station are found by an index, for rows that say one."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Add indexes."""
    for column in ("product", "line", "station"):
        said = sa.text(f"{column} IS NOT NULL")
        op.create_index(
            f"ix_inspections_{column}_id",
            "inspections",
            [column, "id"],
            sqlite_where=said,
            postgresql_where=said,
        )
