"""``voxelnode db copy``: the index in another database, also of the other system: every row, then a comparison of all.

A copy that was interrupted goes on where it was. If the process dies between the two notes, both databases are closed
until the copy goes on.
"""

import datetime as dt
from contextlib import ExitStack
from itertools import zip_longest
from pathlib import Path

from sqlalchemy import Connection, Table, delete, func, select
from sqlalchemy.exc import SQLAlchemyError

from node.control.root import locked_root
from node.errors import UsageError
from node.files.durable import sync_folder
from node.index.reading import reading
from node.index.rows.about_keys import COPYING, MOVED
from node.index.rows.backend import IndexUnusable, Place, backend_at, backend_of
from node.index.rows.copying import OF_ONE_DATABASE, chunks, copy_rows, opened_engine
from node.index.rows.extension_tables import every_table
from node.index.rows.models.work import AboutRow
from node.index.rows.place import exists, place_of, require_newest, require_there, upgrade
from node.index.rows.repositories import about, set_about
from node.settings.model import Settings


def copy_index(settings: Settings, url: str | None) -> dict[str, int]:
    """Copy the index of a root to another database; return the number of rows of each table.

    `url`: Of PostgreSQL; None: ``index.sqlite`` in the root. One that was moved from there makes room: it is renamed.

    Raises RootInUse: a node or an import holds the lock of the root.
    Raises IndexUnusable.
    Raises UsageError: hosts have files that are not in the object store: in a file, the index has no hosts that could
        move them.
    """
    root = settings.storage.root.absolute()
    source, target = place_of(root, settings.index.url), place_of(root, url)
    with locked_root(root):
        if url is None and settings.index.url is not None:
            _require_all_moved(root, settings.index.url)
        if isinstance(target, Path) and _was_moved(target):
            backend = backend_at(target)
            backend.make_room(target, backend.aside_name(target, dt.datetime.now(dt.UTC)))
            sync_folder(root)
        return _copied(source, target)


def _require_all_moved(root: Path, url: str) -> None:
    with reading(root, url) as index:
        hosts = index.hosts.spooling()
    if hosts:
        raise UsageError(
            f"{', '.join(hosts)}: has files that are not in the object store; first run `voxelnode archive copy --to "
            "store` there, or `voxelnode db hosts forget`"
        )


def _copied(source: Place, target: Place) -> dict[str, int]:
    """Copy an index and compare the copy row by row; return the number of rows of each table.

    No other process may write to either: the caller has the lock of the root. Repeat it after an interruption.

    Raises IndexUnusable if there is no index at `source`, or of another schema; `target` has an index; a row cannot be
    copied, or differs.
    """
    if str(source) == str(target):
        raise IndexUnusable(f"{target} is where the index is already")
    require_there(source)
    require_newest(source)
    with ExitStack() as opened:
        origin = opened.enter_context(opened_engine(opened, source).connect())  # has the lock of PostgreSQL
        _require_newest_copy(origin, source, target)
        _require_no_index(source, target)
        upgrade(target)
        copy = opened.enter_context(opened_engine(opened, target).connect())
        with copy.begin():
            set_about(copy, COPYING, str(source))
        reader = opened.enter_context(opened_engine(opened, source, read_only=True).connect())
        for table in every_table().values():
            try:
                copy_rows(reader, copy, table)
            except (SQLAlchemyError, ValueError) as error:
                reason = type(getattr(error, "orig", None) or error).__name__
                raise IndexUnusable(f"{target}: a row of {table.name} cannot be copied ({reason})") from error
        with copy.begin():
            backend_of(copy).number_after(copy, backend_of(reader).last_numbers(reader))
        copied = opened.enter_context(opened_engine(opened, target, read_only=True).connect())
        counts = {table.name: _compare(reader, copied, table, target) for table in every_table().values()}
        with origin.begin():
            set_about(origin, MOVED, str(target))
        with copy.begin():
            copy.execute(delete(AboutRow).where(AboutRow.key.in_(OF_ONE_DATABASE)))
    return counts


def _was_moved(place: Place) -> bool:
    """Return whether there is an index that is the source of a copy, and no copy itself."""
    if not exists(place):
        return False
    with ExitStack() as opened, opened_engine(opened, place, read_only=True).connect() as connection:
        return about(connection, MOVED) is not None and about(connection, COPYING) is None


def _require_newest_copy(origin: Connection, source: Place, target: Place) -> None:
    """Require that the source was not moved, but to this target by a copy that did not end."""
    with origin.begin():
        moved = about(origin, MOVED)
    if moved not in (None, str(target)):
        raise IndexUnusable(f"{source} was moved to {moved}, which is newer: copy that one")


def _require_no_index(source: Place, target: Place) -> None:
    """Require that the target has no index, one that no node has opened, or an unfinished copy of this source."""
    if not exists(target):
        return
    with ExitStack() as opened, opened_engine(opened, target, read_only=True).connect() as connection:
        is_new = connection.scalar(select(func.count()).select_from(AboutRow)) == 0
        if not is_new and about(connection, COPYING) != str(source):
            raise IndexUnusable(f"{target} has an index already: name an empty database, or remove that index")


def _compare(reader: Connection, copied: Connection, table: Table, target: Place) -> int:
    """Require that all rows of a table are the same in both; return how many there are."""
    count = 0
    for rows, others in zip_longest(chunks(reader, table, None), chunks(copied, table, None)):
        if rows != others:
            raise IndexUnusable(f"{target}: a row of {table.name} differs from the source; empty it, and copy again")
        count += len(rows)
    return count
