"""The order of recording, keys of senders, withdrawn verdicts, acknowledged alarms, and how far times lag."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

NUMBER_ROWS = """
UPDATE inspections SET number = numbered.place
FROM (SELECT id AS of_id, row_number() OVER (ORDER BY id) AS place FROM inspections) AS numbered
WHERE numbered.of_id = inspections.id
"""


def upgrade() -> None:
    """Add columns and a table."""
    op.add_column("inspections", sa.Column("number", sa.BigInteger))
    op.add_column("inspections", sa.Column("key", sa.Text))
    op.execute(NUMBER_ROWS)  # those of before: in the order of their identifiers, as they were read then
    op.create_index("ix_inspections_number", "inspections", ["number"], unique=True)
    op.create_index("ix_inspections_model_number", "inspections", ["model", "number"])
    op.create_index("ix_inspections_key", "inspections", ["key"], unique=True)
    op.add_column("verdicts", sa.Column("key", sa.Text))
    op.add_column("verdicts", sa.Column("withdrawn", sa.BigInteger))
    op.add_column("verdicts", sa.Column("withdrawn_by", sa.Text))
    op.create_index("ix_verdicts_key", "verdicts", ["key"], unique=True)
    op.add_column("alarms", sa.Column("peak", sa.Double))
    op.add_column("alarms", sa.Column("peak_time", sa.BigInteger))
    op.add_column("alarms", sa.Column("acknowledged", sa.BigInteger))
    op.add_column("alarms", sa.Column("acknowledged_by", sa.Text))
    op.add_column("alarms", sa.Column("note", sa.Text))
    op.create_table("lag", sa.Column("milliseconds", sa.BigInteger, primary_key=True, autoincrement=False))
