"""The schema of an index: its migrations, and the versions that can work on it.

A migration declares ``expands = True`` if versions that know only the schema before it can go on working on the index:
it adds nullable columns or columns with a default, tables, indexes that are not unique, and columns of views. Without
the declaration, it does not expand the schema, and all hosts must know it.

The index records the oldest schema that a version has to know: that of the last migration that does not expand it. A
version that knows this one works on the index, whatever was added since.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, inspect, text

from node.index.engine.about import about, set_about
from node.index.engine.backend import IndexUnusable, Place
from node.index.models import REVISION, AboutRow

if TYPE_CHECKING:
    from alembic.config import Config

OLDEST_SCHEMA = "oldest_schema"
"""In the table ``about``: the oldest schema that a version has to know; if missing, it must be that of the index."""


@dataclass(frozen=True, slots=True)
class Schema:
    """The revision of a database, None if it is empty, and the oldest one that a version has to know, if recorded."""

    revision: str | None
    oldest: str | None = None

    @property
    def is_usable(self) -> bool:
        """Whether this version can work on it."""
        if self.revision is None or self.revision <= REVISION:
            return self.revision == REVISION
        return self.oldest is not None and self.oldest <= REVISION


@dataclass(frozen=True, slots=True)
class Migration:
    """A migration to a revision, and whether versions that know only the schema before can work on the one after."""

    revision: str
    expands: bool


def schema(connection: Connection) -> Schema:
    """Return the schema of a database."""
    if not inspect(connection).has_table("alembic_version"):
        return Schema(None)
    revision = connection.scalar(text("SELECT version_num FROM alembic_version"))
    has_facts = inspect(connection).has_table(AboutRow.__tablename__)
    return Schema(revision, about(connection, OLDEST_SCHEMA) if has_facts else None)


def migrations() -> list[Migration]:
    """Return all migrations that this version has, the oldest first."""
    from alembic.script import ScriptDirectory  # here and below: only a migration and a check need Alembic

    scripts = ScriptDirectory.from_config(_config()).walk_revisions()
    return [Migration(one.revision, getattr(one.module, "expands", False)) for one in scripts][::-1]


def pending_migrations(place: Place, before: str | None) -> list[Migration]:
    """Return the migrations from a revision to the newest one, the oldest first.

    Raises
    ------
    IndexUnusable
        This version does not know the revision.
    """
    known = migrations()
    revisions = [None, *(migration.revision for migration in known)]
    if before not in revisions:
        raise IndexUnusable(f"{place}: {other_schema(before)}")
    return known[revisions.index(before) :]


def migrate(connection: Connection, revision: str | None = None) -> None:
    """Migrate a database to a revision, by default the newest one, in the transaction of a connection."""
    from alembic import command

    revision = revision or REVISION
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, revision)
    required = [one.revision for one in migrations() if one.revision <= revision and not one.expands]
    set_about(connection, OLDEST_SCHEMA, required[-1])


def other_schema(revision: str | None) -> str:
    """Return what to do about a database on whose schema this version cannot work."""
    if revision is None or revision in {one.revision for one in migrations()}:
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
