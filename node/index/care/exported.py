"""The index of an export: a copy that describes images and volumes, without accounts, messages and orders.

It has no write-ahead log, so that an account without the right to write can read it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from node.durable import sync_file
from node.errors import VoxelnodeError
from node.index.care.copying import copy_tables
from node.index.engine.place import IndexUnusable, Place, backup
from node.index.models import Base

KEPT_TABLES = frozenset(
    {
        "patients", "studies", "series", "series_references", "images", "conversions", "volumes", "volume_sources",
        "exclusions", "failures", "events",
    }
)  # fmt: skip
"""The others are emptied: they have secrets of accounts, or are about peers, orders and people at work."""

MARK = "exported"
"""Key of ``about`` by which an export is known; its value is the root."""


class ExportedFile(NamedTuple):
    """A file of a current volume; `path` is relative to the root."""

    path: str
    bytes: int
    sha256: str


def copy_for_readers(place: Place, target: Path) -> None:
    """Write a copy of an index with `KEPT_TABLES` and the current conversions to `target`, also while a node runs.

    Raises
    ------
    IndexUnusable
        There is no index, or it cannot be read.
    """
    if isinstance(place, Path):  # pages are copied faster than rows
        backup(place, target)
        root = place.parent
    else:
        copy_tables(place, target, KEPT_TABLES)
        root = place.root
    try:
        with closing(sqlite3.connect(target, isolation_level=None)) as copy:
            _reduce(copy, root)
    except sqlite3.Error as error:
        raise IndexUnusable(f"{place}: {error}; `voxelnode db check` tells what is wrong") from error


def _reduce(copy: sqlite3.Connection, root: Path) -> None:
    copy.execute("PRAGMA journal_mode = DELETE")
    copy.execute("PRAGMA secure_delete = ON")
    copy.execute("BEGIN")
    for table in Base.metadata.sorted_tables[::-1]:
        if table.name not in KEPT_TABLES:
            copy.execute(f"DELETE FROM {table.name}")
    _delete_conversions(copy, "SELECT id FROM conversions WHERE superseded OR files_removed_at IS NOT NULL")
    copy.execute("INSERT INTO about VALUES (?, ?)", [MARK, str(root)])
    copy.execute("COMMIT")


def files_of(path: Path) -> dict[str, list[ExportedFile]]:
    """Return the files of all conversions of an exported index, by their folders."""
    folders: dict[str, list[ExportedFile]] = {}
    with closing(sqlite3.connect(path)) as copy:
        for row in copy.execute("SELECT path, bytes, sha256 FROM volumes ORDER BY path"):
            folders.setdefault(row[0].rpartition("/")[0], []).append(ExportedFile(*row))
    return folders


def finish(path: Path, absent: Iterable[str]) -> None:
    """Delete the conversions whose folders are `absent`, and the free pages; sync the file."""
    with closing(sqlite3.connect(path, isolation_level=None)) as copy:
        copy.execute("CREATE TEMP TABLE absent (folder TEXT PRIMARY KEY)")
        copy.executemany("INSERT INTO absent VALUES (? || '/')", [(folder,) for folder in absent])
        of_folder = "SELECT conversion_id FROM volumes, absent WHERE substr(path, 1, length(folder)) = folder"
        _delete_conversions(copy, of_folder)
        copy.execute("VACUUM")
    sync_file(path)


def require_export(path: Path, root: Path) -> None:
    """Return if an index is that of an export of `root`.

    Raises
    ------
    VoxelnodeError
        It is that of a root, of an export of another root, or none.
    """
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            found = connection.execute("SELECT value FROM about WHERE key = ?", [MARK]).fetchone()
    except sqlite3.Error:
        found = None
    if found is None:
        raise VoxelnodeError(f"{path} is not the index of an export: name a folder that does not exist, or an export")
    if found[0] != str(root):
        raise VoxelnodeError(f"{path.parent} is an export of {found[0]}: name another folder, or remove it")


def _delete_conversions(copy: sqlite3.Connection, ids: str) -> None:
    """Delete the conversions that a query names, with what belongs to them."""
    copy.execute(f"CREATE TEMP TABLE gone AS {ids}")
    for table in ("volumes", "volume_sources", "exclusions"):
        copy.execute(f"DELETE FROM {table} WHERE conversion_id IN gone")
    copy.execute("DELETE FROM conversions WHERE id IN gone")
    copy.execute("DROP TABLE gone")
