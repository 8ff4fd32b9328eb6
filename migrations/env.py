"""What Alembic runs for every command: on the connection it is given, or on the log that ``-x db=`` names.

    .venv/bin/alembic -x db=log.db revision --autogenerate -m "what changes"

No ``fileConfig``: it would switch off the server's loggers.
"""

from alembic import context
from sqlalchemy import Connection

from optimus_server.store.session import log_url, writer
from optimus_server.store.tables import Base


def run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        # SQLite changes a table by copying it.
        render_as_batch=True,
        transaction_per_migration=True,
        # Alembic thinks SQLite cannot; the log's connections begin transactions themselves, so it can.
        transactional_ddl=True,
    )
    with context.begin_transaction():
        context.run_migrations()


if (given := context.config.attributes.get("connection")) is not None:
    run(given)
else:
    engine = writer(log_url(context.get_x_argument(as_dictionary=True)["db"]), foreign_keys=False)
    with engine.connect() as connection:
        run(connection)
    engine.dispose()
