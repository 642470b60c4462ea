"""What Alembic runs; `ipfvision.store.database` hands it a connection with a transaction of its own."""

from alembic import context

context.configure(connection=context.config.attributes["connection"])
context.run_migrations()
