"""Run by alembic: bring the database of a connection that `database` hands over to the newest version."""

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    version_table=context.config.attributes["version_table"],
)
context.run_migrations()
