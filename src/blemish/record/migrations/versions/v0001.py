"""Inspections, verdicts, models and alarms. What is in use is never changed here: add a version."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables."""
    _create_models()
    _create_inspections()
    _index_inspections()
    _create_verdicts()
    _create_alarms()


def _identifier() -> sa.String:
    """Identifiers sort by their bytes, whatever the language of a PostgreSQL database."""
    return sa.String(26).with_variant(sa.String(26, collation="C"), "postgresql")


def _create_models() -> None:
    op.create_table(
        "models",
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("method", sa.Text, nullable=False),
        sa.Column("preset", sa.Text, nullable=False),
        sa.Column("dataset", sa.Text, nullable=False),
        sa.Column("first_used", sa.BigInteger, nullable=False),
        sa.Column("description", sa.Text, nullable=False),
    )


def _create_inspections() -> None:
    op.create_table(
        "inspections",
        sa.Column("id", _identifier(), primary_key=True),
        sa.Column("time", sa.BigInteger, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("part", sa.Text),
        sa.Column("path", sa.Text),
        sa.Column("model", sa.String(64), nullable=False),
        sa.Column("image", sa.String(64)),
        sa.Column("map", sa.String(64)),
        sa.Column("width", sa.Integer),
        sa.Column("height", sa.Integer),
        sa.Column("score", sa.Double),
        sa.Column("p_value", sa.Double),
        sa.Column("threshold", sa.Double),
        sa.Column("decision", sa.Text, nullable=False),
        sa.Column("regions", sa.Text, nullable=False),
        sa.Column("error", sa.Text),
        sa.Column("seconds", sa.Double, nullable=False),
        sa.Column("verdict", sa.Text),
        sa.Column("files_removed", sa.BigInteger),
    )


def _index_inspections() -> None:
    for column in ("model", "decision", "part", "verdict"):
        op.create_index(f"ix_inspections_{column}_id", "inspections", [column, "id"])
    for column in ("image", "map"):
        op.create_index(f"ix_inspections_{column}", "inspections", [column])
    kept = sa.text("files_removed IS NULL AND (image IS NOT NULL OR map IS NOT NULL)")
    op.create_index("ix_inspections_files", "inspections", ["id"], sqlite_where=kept, postgresql_where=kept)


def _create_verdicts() -> None:
    op.create_table(
        "verdicts",
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("id", _identifier(), nullable=False, unique=True),
        sa.Column("inspection", _identifier(), sa.ForeignKey("inspections.id"), nullable=False, index=True),
        sa.Column("time", sa.BigInteger, nullable=False),
        sa.Column("verdict", sa.Text, nullable=False),
        sa.Column("note", sa.Text, nullable=False),
        sa.Column("by", sa.Text, nullable=False),
    )


def _create_alarms() -> None:
    op.create_table(
        "alarms",
        sa.Column("id", _identifier(), primary_key=True),
        sa.Column("model", sa.String(64), nullable=False, index=True),
        sa.Column("time", sa.BigInteger, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("value", sa.Double, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
    )
