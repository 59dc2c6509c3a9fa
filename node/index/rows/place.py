"""The database of an index, wherever it is: its schema, migrations and checks.

A version works on one schema, `REVISION`, and each extension on one of its own tables. A start migrates older ones,
while no other process has the index open, in one transaction: if the process dies, the index has the schema that it
had. A newer one is refused.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from sqlalchemy import Connection, Engine, Index, Integer, MetaData, String, except_, func, inspect, select, text
from sqlalchemy.exc import DatabaseError
from sqlalchemy.types import TypeEngine

from node.dicom.lean_import import absent
from node.index.rows.about_keys import REVISION
from node.index.rows.backend import (
    FILE_NAME,
    REMEDY,
    Backend,
    BeingMigrated,
    Failure,
    IndexUnusable,
    Place,
    ServerPlace,
    backend_at,
    backend_of,
    place_of,
    reason_of,
)
from node.index.rows.extension_tables import IndexTables, every_table, extension_tables, owner_of
from node.index.rows.grams import NAME, every
from node.index.rows.models.levels import Base, StudyRow
from node.index.rows.views import drop_views, make_views

if TYPE_CHECKING:
    from alembic.script import ScriptDirectory


class Schema(NamedTuple):
    """What a database has: the revision of the tables of the core, and what to do about it if it is not the newest.

    `core` is None if there are none. `trouble` is None if the core and each installed extension have their newest
    tables; `is_final`: an upgrade does not help; `is_newer`: a later version made it.
    """

    core: str | None
    trouble: str | None
    is_final: bool = False
    is_newer: bool = False


def schema_of(connection: Connection) -> Schema:
    """Return what a database has."""
    schema = schema_by(_revisions_at(connection).values())
    if schema.trouble is None and not inspect(connection).has_table("v_studies"):
        return Schema(schema.core, "the views are missing: `voxelnode db upgrade` makes them")
    return schema


def usable(connection: Connection, place: Place) -> Schema:
    """Return what a database has. Raises IndexUnusable if no upgrade makes it one of this version."""
    schema = schema_of(connection)
    if schema.is_final:
        raise IndexUnusable(f"{place}: {schema.trouble}")
    return schema


def has_schema(connection: Connection) -> bool:
    """Return whether there are tables of the core."""
    return "" in _revisions_at(connection)


def _revisions_at(connection: Connection) -> Mapping[str, str]:
    if not inspect(connection).has_table("alembic_version"):
        return {}
    return _by_owner(connection.scalars(text("SELECT version_num FROM alembic_version")))


def _by_owner(revisions: Iterable[str]) -> Mapping[str, str]:
    """Return the revisions that a database names, by the extensions whose they are; that of the core by none."""
    return {owner_of(revision): revision for revision in revisions}


def _owners() -> Mapping[str, IndexTables]:
    """Return the tables of the core, and of each installed extension by its name."""
    return {"": IndexTables(Base.metadata, folder() / "versions", REVISION), **extension_tables()}


def migrations() -> list[str]:
    """Return the revisions that this version and the extensions know."""
    return [script.revision for script in script_directory().walk_revisions()]


def migrate(connection: Connection) -> None:
    """Bring a database from revisions of `migrations` to the newest ones, in the transaction of a connection.

    Rows of extensions that are not installed stay.
    """
    script, known = script_directory(), frozenset(migrations())

    def steps(last: str, there: Iterable[str], _: object) -> Any:
        return script._upgrade_revs(last, cast(str, tuple(known.intersection(there))))

    drop_views(connection)
    for own in _owners().values():  # the core first: the others refer to its tables
        run_migrations(connection, script, partial(steps, own.revision))
    make_views(connection)


def downgrade(place: Place, revision: str) -> tuple[str, str]:
    """Bring an index back to an older schema of the core, or of an extension; no other process may have it open.

    What only newer columns and tables have is lost. The version that reads it makes its views.

    Returns the revision before and after. Raises IndexUnusable if no migration leads there, or none leads back.
    """
    require_there(place)
    script, owner = script_directory(), owner_of(revision)
    with alone(place) as connection:
        usable(connection, place)
        before = _revisions_at(connection).get(owner, "")
        older = [one.revision for one in script.iterate_revisions(before, "base")] if before in migrations() else []
        if revision not in older:
            raise IndexUnusable(f"{place}: schema is {before or 'empty'}, and {revision} is none that came before it")
        if before != revision:
            drop_views(connection)
            steps = partial(script._downgrade_revs, revision)
            run_migrations(connection, script, lambda there, _: steps(cast(str, tuple(there))))
        return before, revision


def run_migrations(
    connection: Connection, script: ScriptDirectory, steps: Callable[[Iterable[str], object], Any]
) -> None:
    """Run steps of Alembic in the transaction of a connection; `steps` chooses them by the revisions that are there."""
    from alembic.config import Config
    from alembic.runtime.environment import EnvironmentContext

    config = Config()
    config.attributes["connection"] = connection
    with EnvironmentContext(config, script, fn=steps):
        script.run_env()
    gc.collect(1)  # a step makes tables and operations that refer to each other: 2 MB, which would stay


def schema_by(revisions: Iterable[str]) -> Schema:
    """Return what a database has by the revisions that it names."""
    there = _by_owner(revisions)
    core, older = there.get(""), None
    if core is not None and core.isdecimal():
        trouble = (
            "a version before 0.2 made the index, and no upgrade leads from there: stop the node, and run `voxelnode "
            "db rebuild`, which makes a new index from this one and from the files"
        )
        return Schema(core, trouble, is_final=True)
    for owner, own in _owners().items():
        if (revision := there.get(owner)) == own.revision:
            continue
        if revision is not None and revision not in migrations():
            what = f"the extension {owner}" if owner else "this version of voxelnode"
            trouble = f"schema is {revision}, which {what} does not know: install the newer one"
            return Schema(core, trouble, is_final=True, is_newer=True)
        of_what = f" of the extension {owner}" if owner else ""
        newest = f"newest is {own.revision}; `voxelnode db upgrade` upgrades it"
        older = older or f"schema{of_what} is {revision or 'empty'}, {newest}"
    return Schema(core, older)


def not_installed(connection: Connection) -> list[str]:
    """Return the extensions that are not installed and whose tables an index has, by name."""
    return sorted(_revisions_at(connection).keys() - _owners().keys())


def left_by_others(place: Place) -> tuple[list[str], list[str]]:
    """Return the extensions that are not installed and have tables in an index, and the tables that nobody knows.

    None of either if it cannot be read.
    """
    try:
        with _opened(open_engine(place, read_only=True)) as engine, engine.connect() as connection:
            tables = set(inspect(connection).get_table_names()) - {"alembic_version", *every_table()}
            return not_installed(connection), sorted(table for table in tables if not table.startswith(NAME))
    except DatabaseError:
        return [], []


def folder() -> Path:
    """Return the folder of the migrations: a wheel has it inside the package, a checkout beside it."""
    installed = Path(__file__).parents[1] / "migrations"
    return installed if installed.is_dir() else Path(__file__).parents[3] / "migrations"


def script_directory() -> ScriptDirectory:
    """Return the migrations of the core and of the installed extensions."""
    with absent("pygments"):  # with which Mako, of Alembic, would colour tracebacks
        from alembic.script import ScriptDirectory  # here and above: only a migration and a refusal need Alembic

    logging.getLogger("alembic").setLevel(logging.WARNING)
    return ScriptDirectory(folder(), version_locations=[str(own.migrations) for own in _owners().values()])


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
    """Return an engine on a database; see `node.index.rows.backend.Backend.open_engine`."""
    return backend_at(place).open_engine(place, read_only=read_only, alone=alone)


def upgrade(place: Place) -> tuple[str | None, str]:
    """Create the database, or bring it to the schema of this version; no other host may be running if it has another.

    Returns the revision before and after. Raises IndexUnusable if it was written by a newer version, or by one before
    0.2; other hosts of another schema are running; or it is not a usable database. While another process migrates it,
    such as a host that starts at the same time, waits for up to `MIGRATION_SECONDS`.
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
        # A database of a server may be open elsewhere: it is locked only if it has to be migrated.
        if not isinstance(place, Path) and exists(place) and _schema_at(place).trouble is None:
            return REVISION, REVISION
    except (DatabaseError, backend.Error) as error:
        raise unusable(place, error) from error
    with alone(place) as connection:
        before = usable(connection, place)
        if before.trouble is None:
            return REVISION, REVISION
        migrate(connection)
        if (trouble := schema_of(connection).trouble) is not None:  # the migrations of an extension end elsewhere
            raise IndexUnusable(f"{place}: {trouble}")
        return before.core, REVISION


@contextmanager
def alone(place: Place) -> Iterator[Connection]:
    """Yield a connection to a database that no other process has open, in one transaction.

    Raises IndexUnusable.
    """
    backend = backend_at(place)
    try:
        with _opened(open_engine(place, alone=True)) as engine, engine.connect() as connection, connection.begin():
            yield connection
    except (DatabaseError, backend.Error) as error:
        raise unusable(place, error) from error


@contextmanager
def by_alembic(place: Place) -> Iterator[Connection]:
    """Yield a connection for Alembic's own command, in one transaction; the views are made if the schema is newest."""
    backend_at(place).prepare(place)
    with alone(place) as connection:
        drop_views(connection)
        yield connection
        if schema_by(_revisions_at(connection).values()).trouble is None:
            make_views(connection)


def given_place(url: str) -> Place:
    """Return the place that a URL or a path of a file names, without a configuration."""
    if url.startswith("postgresql"):
        return ServerPlace(url, Path.cwd())
    return Path(url.removeprefix("sqlite:///")).absolute()


def unusable(place: Place, error: Exception) -> IndexUnusable:
    """Return what to tell of a database that cannot be opened: it is locked, or is none."""
    if Failure.LOCKED in backend_at(place).failure(error):
        return IndexUnusable(f"{place}: {backend_at(place).lockers(place)}, then start again")
    is_damaged = Failure.DISK in backend_at(place).failure(error)
    cause = getattr(error, "orig", error)
    return IndexUnusable(f"{place} is not a usable database ({cause}){f': {REMEDY}' * is_damaged}")


def _schema_at(place: Place) -> Schema:
    with _opened(open_engine(place, read_only=True)) as engine, engine.connect() as connection:
        return schema_of(connection)


@contextmanager
def _opened(engine: Engine) -> Iterator[Engine]:
    try:
        yield engine
    finally:
        engine.dispose()


def require_newest(place: Place) -> None:
    """Return if an index has the newest schema."""
    if (trouble := _schema_at(place).trouble) is not None:
        raise IndexUnusable(f"{place}: {trouble}")


def require_known(place: Place) -> None:
    """Return if an index has a schema that this version knows: views and columns of others may mean something else."""
    try:
        if (schema := _schema_at(place)).is_final:
            raise IndexUnusable(f"{place}: {schema.trouble}")
    except (DatabaseError, backend_at(place).Error) as error:
        raise unusable(place, error) from error


def newer_schema(place: Place) -> str | None:
    """Return the message about an index that a newer version wrote; None for others, and for a damaged index."""
    with suppress(DatabaseError, backend_at(place).Error):
        schema = _schema_at(place)
        return f"{place}: {schema.trouble}" if schema.is_newer else None
    return None


def unreadable(place: Place, error: Exception) -> IndexUnusable:
    """Return what to tell of an index that a reader failed at: it has another schema, or is damaged."""
    with suppress(DatabaseError):
        try:
            require_newest(place)
        except IndexUnusable as other:
            return other
    is_damaged = Failure.DISK in backend_at(place).failure(error)
    return IndexUnusable(f"{place} cannot be read: {reason_of(error)}{f': {REMEDY}' * is_damaged}")


def require_sound(place: Place) -> None:
    """Return if a database is whole after a crash, as far as a few seconds allow.

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


def check(place: Place) -> list[str]:
    """Return the problems of a database as sentences; empty if there are none."""
    if (message := backend_at(place).missing(place)) is not None:
        return [message]
    problems: list[str] = []
    try:
        with _opened(open_engine(place, read_only=True)) as engine:
            with engine.connect() as connection:
                problems += [f"{one}: {REMEDY}" for one in backend_of(connection).problems(connection)]
                schema = schema_of(connection)
            problems += [schema.trouble] if schema.trouble is not None else []
            if schema.trouble is None:
                problems += search_differences(engine)
                problems += [f"schema differs from the models: {one}" for one in schema_differences(engine)]
    except DatabaseError as error:
        problems.append(f"not a usable database: {error.orig}: {REMEDY}")
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
        options = comparison(connection)
        context = MigrationContext.configure(connection, opts=options)
        return list(map(str, compare_metadata(context, options["target_metadata"])))


def comparison(connection: Connection) -> dict[str, Any]:
    """Return how Alembic compares an index with the models, here and by its own ``check``.

    The tables of grams are made by the backends; whose those of extensions are that are not installed, nobody knows.
    """
    others = bool(not_installed(connection))
    models = MetaData(naming_convention=Base.metadata.naming_convention)  # by which migrations name constraints, too
    for table in every_table().values():
        table.to_metadata(models)
    return {
        "target_metadata": models,
        "compare_type": _is_other_type,
        "include_name": lambda name, kind, _: (
            kind != "table" or not ((name or "").startswith(NAME) or (others and name not in every_table()))
        ),
        "include_object": lambda one, _, kind, __, other: (
            kind != "index" or other is None or _index_columns(one) != _index_columns(other)
        ),
    }


def _is_other_type(_: object, __: object, ___: object, there: TypeEngine[Any], known: TypeEngine[Any]) -> bool | None:
    """Return False for integers and for texts, which have no bounds in an index; None: as Alembic says."""
    is_same = any(isinstance(there, kind) and isinstance(known, kind) for kind in (Integer, String))
    return False if is_same else None


def _index_columns(index: Index) -> tuple[str, ...]:
    """Return name and columns of an index. In PostgreSQL they say where NULL goes, and are no columns for Alembic."""
    expressions: list[Any] = list(index.expressions)
    return str(index.name), *(str(getattr(one, "element", one).key) for one in expressions)
