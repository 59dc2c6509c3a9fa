"""The database of an index, wherever it is: migrations and checks."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine, Index, inspect, text
from sqlalchemy.exc import DatabaseError

from node.index.backend import REMEDY, IndexUnusable, Place, ServerPlace, backend_at, backend_of
from node.index.models import REVISION, Base
from node.index.sqlite import FILE_NAME

if TYPE_CHECKING:
    from alembic.config import Config

__all__ = ["FILE_NAME", "REMEDY", "IndexUnusable", "Place"]  # for those that know no backend


def place_of(root: Path, url: str | None, host: str = "") -> Place:
    """Return where the index of a root is, by ``[index] url``; `host` is the one that writes to it."""
    return root.absolute() / FILE_NAME if url is None else ServerPlace(url, root.absolute(), host)


def exists(place: Place) -> bool:
    """Return whether there is an index, of whichever schema.

    Raises
    ------
    IndexUnusable
        The server of the database does not answer, or refuses.
    """
    return backend_at(place).exists(place)


def missing_index(place: Place) -> str:
    """Return a message that there is no index, with the remedy."""
    return backend_at(place).missing_index(place)


def open_engine(place: Place, *, read_only: bool = False, alone: bool = False) -> Engine:
    """Return an engine on a database: for the writer of a host, for any number of readers, or for a process alone."""
    return backend_at(place).open_engine(place, read_only=read_only, alone=alone)


def upgrade(place: Place) -> tuple[str | None, str]:
    """Create the database, or bring it to the newest schema.

    Returns
    -------
    (str or None, str)
        Revision before and after.

    Raises
    ------
    IndexUnusable
        It was written by a newer version, or is no usable database.
    """
    backend_at(place).prepare(place)
    if backend_at(place).HAS_HOSTS and exists(
        place
    ):  # other hosts may have it open, and only a migration needs it alone
        engine = open_engine(place, read_only=True)
        try:
            if _revision(engine) == REVISION:
                return REVISION, REVISION
        finally:
            engine.dispose()
    engine = open_engine(place, alone=True)
    try:
        before = _revision(engine)
        if before != REVISION:
            _migrate(engine, place, before)
        return before, REVISION
    except DatabaseError as error:
        raise IndexUnusable(f"{place} is no usable database ({error.orig}): {REMEDY}") from error
    finally:
        engine.dispose()


def _migrate(engine: Engine, place: Place, before: str | None) -> None:
    from alembic import command  # here and below: only a migration and a check need Alembic

    config = _alembic()
    if before is not None and before not in _known_revisions(config):
        raise IndexUnusable(f"{place}: {_other_schema(before)}")
    with engine.connect() as connection, connection.begin():
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def require_newest(place: Place) -> None:
    """Return if an index has the newest schema.

    Raises
    ------
    IndexUnusable
    """
    engine = open_engine(place, read_only=True)
    try:
        revision = _revision(engine)
    finally:
        engine.dispose()
    if revision != REVISION:
        raise IndexUnusable(f"{place}: {_other_schema(revision)}")


def require_sound(place: Place) -> None:
    """Return if a database is whole after a crash, as far as can be told in seconds.

    Raises
    ------
    IndexUnusable
        It is damaged.
    """
    backend_at(place).require_sound(place)


def backup(place: Place, target: Path) -> int:
    """Copy a database to a file, also while a node writes to it; return the bytes of the copy.

    Raises
    ------
    IndexUnusable
        There is no database, or it cannot be read.
    """
    if not exists(place):
        raise IndexUnusable(missing_index(place))
    return backend_at(place).backup(place, target)


def check(place: Place) -> list[str]:
    """Return the problems of a database as sentences; empty if there are none."""
    if not exists(place):
        return [missing_index(place)]
    engine = open_engine(place, read_only=True)
    problems: list[str] = []
    try:
        with engine.connect() as connection:
            problems += backend_of(connection).problems(connection)
        if (revision := _revision(engine)) != REVISION:
            problems.append(_other_schema(revision))
        elif differences := schema_differences(engine):
            problems += [f"schema differs from the models: {difference}" for difference in differences]
    except DatabaseError as error:
        problems.append(f"not a usable database: {error.orig}")
    finally:
        engine.dispose()
    return problems


def _other_schema(revision: str | None) -> str:
    """Return what to do about a database whose schema is not that of this program."""
    if revision is None or revision in _known_revisions(_alembic()):
        return f"schema is {revision or 'empty'}, newest is {REVISION}; `voxelnode db upgrade` upgrades it"
    return f"schema is {revision}, which this version of voxelnode does not know: install the newer one"


def schema_differences(engine: Engine) -> list[str]:
    """Return the differences between the tables of a database and the models."""
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": backend_of(connection).is_other_type})
        differences = compare_metadata(context, Base.metadata)
    indexes = Counter(_index_columns(index) for kind, index, *_ in differences if kind in ("add_index", "remove_index"))
    return [str(one) for one in differences if one[0][-6:] != "_index" or indexes[_index_columns(one[1])] < 2]


def _index_columns(index: Index) -> tuple[str, ...]:
    """Return name and columns of an index. In PostgreSQL they say where NULL goes, and are no columns for Alembic."""
    expressions: list[Any] = list(index.expressions)
    return str(index.name), *(str(getattr(one, "element", one).key) for one in expressions)


def _revision(engine: Engine) -> str | None:
    with engine.connect() as connection:
        if not inspect(connection).has_table("alembic_version"):
            return None
        revision: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
        return revision


def _known_revisions(config: Config) -> set[str]:
    from alembic.script import ScriptDirectory

    return {revision.revision for revision in ScriptDirectory.from_config(config).walk_revisions()}


def _alembic() -> Config:
    from alembic.config import Config

    # A wheel has the migrations inside the package, a checkout beside it.
    installed = Path(__file__).parent / "migrations"
    config = Config()
    config.set_main_option(
        "script_location", str(installed if installed.is_dir() else Path(__file__).parents[2] / "migrations")
    )
    logging.getLogger("alembic").setLevel(logging.WARNING)
    return config
