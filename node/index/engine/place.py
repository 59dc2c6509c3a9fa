"""The database of an index, wherever it is: its schema, migrations and checks.

A version works on one schema, `REVISION`. A start migrates an older one, while no other process has the index open, in
one transaction: if the process dies, the index has the schema that it had. A newer one is refused.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine, Index, Integer, String, except_, func, inspect, select, text
from sqlalchemy.exc import DatabaseError
from sqlalchemy.types import TypeEngine

from node.index.engine.about_keys import REVISION
from node.index.engine.backend import (
    FILE_NAME,
    REMEDY,
    Backend,
    BeingMigrated,
    Failure,
    IndexUnusable,
    Place,
    backend_at,
    backend_of,
    place_of,
    reason_of,
)
from node.index.engine.grams import NAME, every
from node.index.engine.views import drop_views, make_views
from node.index.models import Base, StudyRow

if TYPE_CHECKING:
    from alembic.config import Config

UNRELEASED = "unreleased"
"""What `revision_of` returns for an index of another checkout: until the first release, all have one number."""


def revision_of(connection: Connection) -> str | None:
    """Return the revision of a database; None if it is empty."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    revision = str(connection.scalar(text("SELECT version_num FROM alembic_version")))
    return UNRELEASED if revision == REVISION and not _has_columns_of_models(connection) else revision


def _has_columns_of_models(connection: Connection) -> bool:
    there = inspect(connection).get_multi_columns()
    return (None, NAME) in there and all(
        {column["name"] for column in there.get((None, name), ())} == set(table.columns.keys())
        for name, table in Base.metadata.tables.items()
    )


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
            "the index was made by another version from before the first release, and cannot be upgraded: `voxelnode "
            "db rebuild` makes a new one from it and from the files"
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


__all__ = ["FILE_NAME", "REMEDY", "IndexUnusable", "Place", "place_of"]  # for those that know no backend


MIGRATION_SECONDS = 300.0
"""Longest wait for a migration by another process."""


def exists(place: Place) -> bool:
    """Return whether there is an index, of whichever schema.

    Raises IndexUnusable if the server of the database does not answer, or refuses.
    """
    return backend_at(place).missing(place) is None


def require_there(place: Place) -> None:
    """Raise IndexUnusable if there is no index, or the server of the database does not answer, or refuses."""
    if (message := backend_at(place).missing(place)) is not None:
        raise IndexUnusable(message)


def open_engine(place: Place, *, read_only: bool = False, alone: bool = False) -> Engine:
    """Return an engine on a database; see `node.index.engine.backend.Backend.open_engine`."""
    return backend_at(place).open_engine(place, read_only=read_only, alone=alone)


def upgrade(place: Place) -> tuple[str | None, str]:
    """Create the database, or bring it to the schema of this version; no other host may be running if it has another.

    Returns the revision before and after. Raises IndexUnusable if it was written by a newer version, or by another one
    from before the first release; other hosts of another schema are running; or it is not a usable database. While
    another process migrates it, such as a host that starts at the same time, waits for up to `MIGRATION_SECONDS`.
    """
    backend = backend_at(place)
    backend.prepare(place)
    late = monotonic() + MIGRATION_SECONDS
    while True:
        try:
            return _upgraded(place, backend)
        except BeingMigrated:  # after a wait for its lock
            if monotonic() > late:
                raise


def _upgraded(place: Place, backend: Backend) -> tuple[str | None, str]:
    try:
        if not isinstance(place, Path) and exists(place) and _revision_at(place) == REVISION:  # others may have it open
            return REVISION, REVISION
        with _opened(open_engine(place, alone=True)) as engine, engine.connect() as connection, connection.begin():
            before = revision_of(connection)
            if before == REVISION:
                return REVISION, REVISION
            if before not in (None, *migrations()):
                raise IndexUnusable(f"{place}: {other_schema(before)}")
            migrate(connection)
            return before, REVISION
    except (DatabaseError, backend.Error) as error:
        if Failure.LOCKED in backend.failure(error):
            raise IndexUnusable(f"{place}: {backend.lockers(place)}, then start again") from error
        cause = getattr(error, "orig", error)
        raise IndexUnusable(f"{place} is not a usable database ({cause}): {REMEDY}") from error


def _revision_at(place: Place) -> str | None:
    with _opened(open_engine(place, read_only=True)) as engine, engine.connect() as connection:
        return revision_of(connection)


@contextmanager
def _opened(engine: Engine) -> Iterator[Engine]:
    try:
        yield engine
    finally:
        engine.dispose()


def require_newest(place: Place) -> None:
    """Return if an index has the newest schema."""
    if (revision := _revision_at(place)) != REVISION:
        raise IndexUnusable(f"{place}: {other_schema(revision)}")


def unreadable(place: Place, error: Exception) -> IndexUnusable:
    """Return what to tell of an index that a reader failed at: it has another schema, or is damaged."""
    with suppress(DatabaseError):
        try:
            require_newest(place)
        except IndexUnusable as other:
            return other
    return IndexUnusable(f"{place} cannot be read: {reason_of(error)}")


def require_sound(place: Place) -> None:
    """Return if a database is whole after a crash, as far as can be told in seconds.

    Raises IndexUnusable if it is damaged.
    """
    try:
        with _opened(open_engine(place, read_only=True)) as engine, engine.connect() as connection:
            damage = backend_of(connection).problems(connection, after_crash=True)
    except DatabaseError as error:
        if Failure.DISK not in backend_at(place).failure(error):
            raise IndexUnusable(f"{place} cannot be read: {reason_of(error)}") from error
        damage = [str(error.orig)]
    if damage:
        raise IndexUnusable(f"{place} is damaged ({damage[0].removeprefix('integrity: ')}): {REMEDY}")


def backup(place: Place, target: Path) -> int:
    """Copy a database to a file, also while a node writes to it; return the bytes of the copy.

    Raises IndexUnusable if there is no database, or it cannot be read.
    """
    require_there(place)
    return backend_at(place).backup(place, target)


def mistakes_of(place: Place) -> list[str]:
    """Return what is wrong with a configured place as sentences, as far as can be told without a connection."""
    return backend_at(place).mistakes(place)


def check(place: Place) -> list[str]:
    """Return the problems of a database as sentences; empty if there are none."""
    if (message := backend_at(place).missing(place)) is not None:
        return [message]
    problems: list[str] = []
    try:
        with _opened(open_engine(place, read_only=True)) as engine:
            with engine.connect() as connection:
                problems += backend_of(connection).problems(connection)
                revision = revision_of(connection)
            if revision != REVISION:
                problems.append(other_schema(revision))
            if revision in (REVISION, UNRELEASED):
                problems += search_differences(engine)
                problems += [f"schema differs from the models: {one}" for one in schema_differences(engine)]
    except DatabaseError as error:
        problems.append(f"not a usable database: {error.orig}")
    return problems


def search_differences(engine: Engine) -> list[str]:
    """Return whether words find studies that are not there, or cannot find some."""
    found, there = every(), select(StudyRow.id)
    kinds = {"are not found by words": except_(there, found), "are deleted, and words find them": except_(found, there)}
    problems = []
    with engine.connect() as connection:
        for what, some in kinds.items():
            if count := connection.scalar(select(func.count()).select_from(some.subquery())):
                problems.append(f"search: {count} studies {what}: {REMEDY}")
    return problems


def schema_differences(engine: Engine) -> list[str]:
    """Return the differences between the tables of a database and the models."""
    from alembic.autogenerate import compare_metadata  # here: only a migration and a check need Alembic
    from alembic.migration import MigrationContext

    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": _is_other_type, "include_name": _is_compared}
        )
        compared = compare_metadata(context, Base.metadata)
    differences = [one for each in compared for one in (each if isinstance(each, list) else [each])]  # of one column
    indexes = Counter(_index_columns(index) for kind, index, *_ in differences if kind in ("add_index", "remove_index"))
    return [str(one) for one in differences if one[0][-6:] != "_index" or indexes[_index_columns(one[1])] < 2]


def _is_compared(name: str | None, kind: str, _: object) -> bool:
    """Return whether the models have a table: those of grams are made by the backends."""
    return kind != "table" or not (name or "").startswith(NAME)


def _is_other_type(_: object, __: object, ___: object, there: TypeEngine[Any], known: TypeEngine[Any]) -> bool | None:
    """Return False for integers and for texts, which have no bounds in an index; None: as Alembic says."""
    is_same = any(isinstance(there, kind) and isinstance(known, kind) for kind in (Integer, String))
    return False if is_same else None


def _index_columns(index: Index) -> tuple[str, ...]:
    """Return name and columns of an index. In PostgreSQL they say where NULL goes, and are no columns for Alembic."""
    expressions: list[Any] = list(index.expressions)
    return str(index.name), *(str(getattr(one, "element", one).key) for one in expressions)
