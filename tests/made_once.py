"""What each node makes for itself and is always the same, tests make once in a process.

An empty index takes a tenth of a second, because it goes through all migrations. That they make one out of nothing is
what tests/integration/test_index_schema.py is for, and the nodes of tests/acceptance/test_cli_serve.py start like that.

With ``TESTS_INDEX=postgresql``, the indexes of tests are databases of a PostgreSQL server, one for each root.
"""

import atexit
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from node.archive.root import MARKER, mark_anew
from node.children.decoder import Decoder
from node.conversion.pool import Converters
from node.hookspecs import ObjectKind
from node.index import database as database
from node.index.rows import place as engine
from node.index.rows.about_keys import REVISION
from node.index.rows.backend import Place, ServerPlace
from node.index.rows.extension_tables import every_table
from node.index.rows.place import FILE_NAME, exists, upgrade
from node.index.rows.sqlite import backup
from node.writers.options import WriteOptions
from tests.compiled_once import compile_once
from tests.postgresql import Server, programs, shared

IN_POSTGRESQL = os.environ.get("TESTS_INDEX") == "postgresql"


def empty_folder(folder: Path) -> None:
    """Lose all that a folder of a root has, but not that it is one of the root: else no start takes it for one."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != MARKER:
            path.unlink()


def share_indexes() -> None:
    """Have new indexes of this process, and of those that it forks, begin as a copy of one that was migrated."""
    database.upgrade = _copy_or_upgrade  # type: ignore[attr-defined]
    engine.schema_differences = _compared_once(engine.schema_differences)
    compile_once()
    if IN_POSTGRESQL:
        _put_into_postgresql()


def _compared_once(differences: Callable[[Engine], list[str]]) -> Callable[[Engine], list[str]]:
    """Compare each schema with the models once: it takes Alembic a tenth of a second, and most files have the same."""
    known: dict[object, list[str]] = {}

    def compared(opened: Engine) -> list[str]:
        if opened.dialect.name != "sqlite":
            return differences(opened)
        with opened.connect() as connection:
            statements = connection.exec_driver_sql("SELECT name, sql FROM sqlite_master ORDER BY name, sql")
            schema = tuple(map(tuple, statements)), tuple(every_table().values())
        if schema not in known:
            known[schema] = differences(opened)
        return known[schema]

    return compared


@cache
def decoder() -> Decoder:
    """That of all nodes in this process: a child takes most of a second of a processor until it has loaded its codecs.

    What tests have decoded is in files of their own, and refusals are remembered for each file.
    """
    shared = Decoder()
    atexit.register(shared.close)
    return shared


class LastingConverters(Converters):
    """Converters whose children stay for the next worker: each series is converted in a process of its own anyway."""

    def close(self) -> None:
        """Leave the children: `converters` ends them with this process."""


@cache
def converters(objects: tuple[ObjectKind, ...], options: WriteOptions) -> LastingConverters:
    """Those of all workers of this process that convert alike: a child takes half a second until it can convert."""
    shared = LastingConverters(objects=objects, options=options)
    atexit.register(Converters.close, shared)
    return shared


@cache
def migrated() -> tuple[bytes, str]:
    """A database of the newest schema, and its revision."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / FILE_NAME
        _, revision = upgrade(path)
        return path.read_bytes(), revision  # the write-ahead log went into it when the last connection was closed


def _copy_or_upgrade(place: Place) -> tuple[str | None, str]:
    if place.exists() if isinstance(place, Path) else exists(place):  # a file may have a journal that is rolled back
        return upgrade(place)
    if not isinstance(place, Path):
        return _copy_in_postgresql(place) if IN_POSTGRESQL else upgrade(place)
    content, revision = migrated()
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    place.write_bytes(content)
    return None, revision


def _put_into_postgresql() -> None:
    from node.control import care, opened
    from node.control import root as control_root
    from node.extensions.postgresql import engine as postgresql
    from node.index import reading
    from node.index.rows import backend
    from node.lifecycle import fsck

    in_configuration = engine.place_of

    def place_of(root: Path, url: str | None) -> Place:
        return in_configuration(root, url or shared().url(_name(root)))

    for module in (backend, care, control_root, database, engine, fsck, opened, reading):
        module.place_of = place_of  # type: ignore[attr-defined]
    postgresql.require_durable = lambda connection: None
    if (folder := programs()) is not None:
        os.environ["PATH"] = f"{folder}:{os.environ['PATH']}"  # has pg_dump


def _name(root: Path) -> str:
    return f"root_{hashlib.sha256(bytes(root.absolute())).hexdigest()[:32]}"


def _copy_in_postgresql(place: ServerPlace) -> tuple[str | None, str]:
    server, template = migrated_in_postgresql()
    name = _name(place.root)
    if _has_database(server, name):  # whose index was lost or set aside
        return upgrade(place)
    (server.folder / name).write_text(str(place.root))
    server.create(name, template)
    return None, REVISION


@cache
def migrated_in_postgresql() -> tuple[Server, str]:
    """The server of this process, and a database there with the newest schema."""
    server, template = shared(), f"migrated_{REVISION}"
    if not _has_database(server, template):
        server.create(template)
        upgrade(ServerPlace(server.url(template), Path("/nowhere")))
    return server, template


def _has_database(server: Server, name: str) -> bool:
    return bool(server.run(f"SELECT 1 FROM pg_database WHERE datname = '{name}'"))


def copy_root(source: Path, target: Path, *without: str) -> None:
    """Copy a closed root with its index, except for files and folders with some names."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(*without))
    mark_anew(target)
    if IN_POSTGRESQL:
        server, name = shared(), _name(target)
        (server.folder / name).write_text(str(target))
        server.create(name, _name(source))
        server.run(f"UPDATE about SET value = '{target}' WHERE key = 'root'", name)


def lose_index(root: Path) -> None:
    """Remove the index of a closed root."""
    if IN_POSTGRESQL:
        _empty(root)
    for path in root.glob("index.sqlite*"):
        path.unlink()


def _empty(root: Path) -> None:
    shared().run("DROP SCHEMA public CASCADE; CREATE SCHEMA public", _name(root))


def dump(url: str, copy: Path) -> None:
    """Copy an index in PostgreSQL to a file, as docs/cluster.md says."""
    url = url.replace("+psycopg", "")
    subprocess.run(["pg_dump", "--format=custom", f"--file={copy}", url], check=True)


def save_index(root: Path, copy: Path) -> None:
    """Copy the index of a root to a file, as docs/backup.md and docs/cluster.md say."""
    if IN_POSTGRESQL:
        dump(shared().url(_name(root)), copy)
    else:
        backup(root / FILE_NAME, copy)


def put_index_back(root: Path, copy: Path) -> None:
    """Give a closed root the index of a file by `save_index`, as docs/upgrade.md and docs/cluster.md say."""
    if IN_POSTGRESQL:
        url = emptied_in_postgresql(root)
        subprocess.run(["pg_restore", copy, "--no-owner", "--exit-on-error", f"--dbname={url}"], check=True)
        return
    for path in root.glob(f"{FILE_NAME}-*"):
        path.unlink()
    shutil.copy(copy, root / FILE_NAME)


def emptied_in_postgresql(root: Path) -> str:
    """Give a closed root a database without tables; return its URL for programs of PostgreSQL."""
    server, name = shared(), _name(root)
    if not _has_database(server, name):
        (server.folder / name).write_text(str(root))
        server.create(name)
    _empty(root)
    return server.url(name).replace("+psycopg", "")


def write_in_postgresql(root: Path, statement: str, values: Mapping[str, Any]) -> None:
    """Run a statement on the index of a root, beside its node."""
    with _connected(root) as connection:
        connection.execute(statement.encode(), values)


def give_locks_up_in_postgresql(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    from node.extensions.postgresql import servers

    monkeypatch.setitem(servers._SESSION, "lock_timeout", f"{seconds:g}s")


@contextmanager
def locked_in_postgresql(root: Path) -> Iterator[None]:
    """Let nobody else write to any table of the index of a root."""
    from psycopg.errors import DeadlockDetected

    tables = ", ".join(f'"{table}"' for table in every_table())
    with _connected(root) as connection:
        while True:
            try:
                connection.execute(f"LOCK TABLE {tables} IN EXCLUSIVE MODE".encode())
                break
            except DeadlockDetected:  # one after the other is locked, and the node has written to one meanwhile
                connection.rollback()
        yield
        connection.rollback()


def is_read_in_postgresql(root: Path) -> bool:
    """Whether a transaction of a reader is open that is at nothing."""
    query = "SELECT 1 FROM pg_stat_activity WHERE state LIKE 'idle in transaction%' AND datname = current_database()"
    return bool(shared().run(query, _name(root)))


def _connected(root: Path) -> Any:
    import psycopg

    return psycopg.connect(host=str(shared().folder), user="voxelnode", dbname=_name(root))


def drop_indexes(folder: Path) -> None:
    """Drop the databases of the roots below a folder."""
    for note in shared().folder.glob("root_*"):
        with suppress(FileNotFoundError):  # of another process
            if Path(note.read_text()).is_relative_to(folder):
                shared().run(f'DROP DATABASE IF EXISTS "{note.name}" WITH (FORCE)')
                note.unlink()
