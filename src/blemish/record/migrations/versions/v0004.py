"""The log of who did what, which the database itself lets nobody change."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

SAID = "the audit log is only added to"
SQLITE = """
CREATE TRIGGER audit_log_no_{what} BEFORE {what} ON audit_log
BEGIN SELECT RAISE(ABORT, '{said}'); END
"""
POSTGRESQL = (
    """
CREATE FUNCTION refuse_change_of_audit_log() RETURNS trigger LANGUAGE plpgsql AS
'BEGIN RAISE EXCEPTION ''{said}''; END'
""",
    """
CREATE TRIGGER audit_log_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log
FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_of_audit_log()
""",
)


def upgrade() -> None:
    """Add a table."""
    op.create_table(
        "audit_log",
        sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("time", sa.BigInteger, nullable=False),
        sa.Column("station", sa.Text, nullable=False),
        sa.Column("who", sa.Text, nullable=False),
        sa.Column("what", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
    )
    if op.get_bind().dialect.name == "postgresql":
        for statement in POSTGRESQL:
            op.execute(statement.format(said=SAID))
    else:
        for what in ("UPDATE", "DELETE"):
            op.execute(SQLITE.format(what=what, said=SAID))
