"""Alembic's entry point: `node.index.rows.place` provides the connection, or ``alembic -x url=URL`` in a checkout."""

from alembic import context
from alembic.util import CommandError

from node.index.rows.place import by_alembic, comparison, given_place


def _run(connection) -> None:
    context.configure(connection=connection, render_as_batch=True, **comparison(connection))
    context.run_migrations()


if "connection" in context.config.attributes:
    _run(context.config.attributes["connection"])
elif url := context.get_x_argument(as_dictionary=True).get("url"):
    with by_alembic(given_place(url)) as its_connection:
        _run(its_connection)
else:
    raise CommandError("which index? alembic -x url=/path/to/index.sqlite, or -x url=postgresql://...")
