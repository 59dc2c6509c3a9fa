"""The schema of an index: the tables that its migrations make, and the views over them.

A version works on one schema, `REVISION`. A start migrates an older one, while no other process has the index open, in
one transaction: if the process dies, the index has the schema that it had. A newer one is refused.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, inspect, text

from node.index.engine.about import OLDEST_SCHEMA, about
from node.index.engine.views import drop_views, make_views
from node.index.models import REVISION

if TYPE_CHECKING:
    from alembic.config import Config

UNRELEASED = "unreleased"
"""What `revision_of` returns for an index from before the first release, whose revisions had the same numbers."""


def revision_of(connection: Connection) -> str | None:
    """Return the revision of a database; None if it is empty."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    if about(connection, OLDEST_SCHEMA) is not None:
        return UNRELEASED
    return str(connection.scalar(text("SELECT version_num FROM alembic_version")))


def migrations() -> list[str]:
    """Return the revisions that this version knows, the oldest first."""
    from alembic.script import ScriptDirectory  # here and below: only a migration and a refusal need Alembic

    return [script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()][::-1]


def migrate(connection: Connection) -> None:
    """Bring a database from a revision of `migrations` to the newest one, in the transaction of a connection."""
    from alembic import command

    config = _config()
    config.attributes["connection"] = connection
    drop_views(connection)
    command.upgrade(config, REVISION)
    make_views(connection)


def other_schema(revision: str | None) -> str:
    """Return what to do about a database that has not the schema of this version."""
    if revision == UNRELEASED:
        return (
            "the index was made before the first release, and cannot be upgraded: `voxelnode db rebuild` makes a new "
            "one from it and from the files"
        )
    if revision is None or revision in migrations():
        return f"schema is {revision or 'empty'}, newest is {REVISION}; `voxelnode db upgrade` upgrades it"
    return f"schema is {revision}, which this version of voxelnode does not know: install the newer one"


def folder() -> Path:
    """Return the folder of the migrations: a wheel has it inside the package, a checkout beside it."""
    installed = Path(__file__).parents[1] / "migrations"
    return installed if installed.is_dir() else Path(__file__).parents[3] / "migrations"


def _config() -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(folder()))
    logging.getLogger("alembic").setLevel(logging.WARNING)
    return config
