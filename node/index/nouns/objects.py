"""Which files the object store has, and which objects are to be removed, as far as the node without it writes that.

The files are those of instances and of revisions. The extension of the object store moves and removes them: see
`node.extensions.object_store.places`.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, select, text, tuple_, update

from node.index.engine.rows import columns_of
from node.index.engine.sql import insert
from node.index.engine.writer import IndexRepository, on_reader, on_writer
from node.index.models.history import ConversionRow, RevisionFileRow
from node.index.models.levels import SPOOL, STORE, ImageRow, SeriesRow, StudyRow, is_only_at_host
from node.index.models.work import HostRemovalRow, HostRow, ObjectRemovalRow
from node.index.nouns.converted import SeriesKey
from node.index.nouns.instance_files import FILES, named_keys
from node.index.nouns.records import InstanceFile, RevisionFile
from node.index.nouns.verdicts import judge

REVISION_FILES = select(*columns_of(RevisionFile, RevisionFileRow, holder=RevisionFileRow.spool_host))


SPOOLED = text(f"images.place = '{SPOOL}'")
"""In words: with a parameter, SQLite does not use the index of these rows."""

SPOOLED_FILES = text(f"revision_files.place = '{SPOOL}'")


class ObjectRepository(IndexRepository):
    """The places of files, and the objects that nothing needs any more."""

    @on_reader
    def of_keys(self, connection: Connection, keys: Collection[str]) -> list[InstanceFile]:
        """Return the instances with these keys, as far as there are any."""
        return instance_files(connection, FILES.where(ImageRow.key.in_(keys)))

    @on_writer
    def record_stored(
        self, connection: Connection, keys: Sequence[str], now: dt.datetime, digests: Sequence[str] | None = None
    ) -> set[str]:
        """Note that the store has the objects of files, and return their keys.

        The objects of files that were deleted or replaced meanwhile are to be removed.

        `digests`: of what the store has; a sidecar may have been written again meanwhile.
        """
        marked = select(ImageRow.series_id).where(ImageRow.key.in_(keys), ImageRow.file_missing).distinct()
        whole = connection.scalars(marked.order_by(ImageRow.series_id)).all()
        stored = update(ImageRow).where(ImageRow.key.in_(keys)).values(place=STORE, spool_host=None, file_missing=False)
        files = update(RevisionFileRow).where(RevisionFileRow.key.in_(keys)).values(place=STORE, spool_host=None)
        if digests is not None:
            pairs = list(zip(keys, digests, strict=True))
            files = files.where(tuple_(RevisionFileRow.key, RevisionFileRow.sha256).in_(pairs))
        noted = {
            *connection.scalars(stored.returning(ImageRow.key)),
            *connection.scalars(files.returning(RevisionFileRow.key)),
        }
        owe_objects(connection, [key for key in keys if key not in noted], now)
        for series_id in whole:
            judge(connection, series_id, now)
        return noted

    @on_writer
    def record_spooled(self, connection: Connection, keys: Sequence[str]) -> None:
        """Note that files are to be moved to the store again: it lacks their objects, or has other bytes."""
        spooled = {"place": SPOOL, "spool_host": self._sharing.holder}
        connection.execute(update(ImageRow).where(ImageRow.key.in_(keys)).values(spooled))
        connection.execute(update(RevisionFileRow).where(RevisionFileRow.key.in_(keys)).values(spooled))

    @on_reader
    def stored_among(self, connection: Connection, keys: Collection[str]) -> set[str]:
        """Return those of `keys` (at most a folder's worth) that the store has."""
        images = select(ImageRow.key).where(ImageRow.key.in_(keys), ImageRow.place == STORE)
        files = select(RevisionFileRow.key).where(RevisionFileRow.key.in_(keys), RevisionFileRow.place == STORE)
        return {*connection.scalars(images), *connection.scalars(files)}

    @on_reader
    def revision_file(self, connection: Connection, key: str) -> RevisionFile | None:
        """Return the row of places of a file of a revision, or None."""
        return next(iter(revision_files(connection, REVISION_FILES.where(RevisionFileRow.key == key))), None)

    @on_reader
    def only_at(self, connection: Connection, host: str) -> list[InstanceFile | RevisionFile]:
        """Return the files that a host alone has, instances first."""
        images = FILES.where(SPOOLED, *is_only_at_host(), ImageRow.spool_host == host)
        files = REVISION_FILES.where(SPOOLED_FILES, RevisionFileRow.spool_host == host)
        return [
            *instance_files(connection, images.order_by(ImageRow.key)),
            *revision_files(connection, files.order_by(RevisionFileRow.key)),
        ]

    @on_reader
    def current_only_at(self, connection: Connection, host: str) -> list[SeriesKey]:
        """Return the series of whose current volumes a host alone has a file."""
        return current_of_files(connection, SPOOLED_FILES & (RevisionFileRow.spool_host == host))

    @on_writer
    def give_up(self, connection: Connection, host: str) -> None:
        """Note that the files of revisions are lost that a host alone had."""
        lost = SPOOLED_FILES, RevisionFileRow.spool_host == host
        connection.execute(update(RevisionFileRow).where(*lost).values(spool_host=None))

    @on_reader
    def ordered_removals(self, connection: Connection) -> list[str]:
        """Return the keys of all objects that are to be removed, now or later."""
        return list(connection.scalars(select(ObjectRemovalRow.key)))

    @on_writer
    def remove(self, connection: Connection, keys: Sequence[str], now: dt.datetime) -> None:
        """Order the removal of objects that no row names."""
        named = named_objects(connection, keys)
        owe_objects(connection, [key for key in keys if key not in named], now)


def current_of_files(connection: Connection, files: ColumnElement[bool]) -> list[SeriesKey]:
    """Return the series to whose current revisions files belong."""
    series = (
        select(StudyRow.study_instance_uid, SeriesRow.series_instance_uid)
        .select_from(RevisionFileRow)
        .join(ConversionRow, ConversionRow.id == RevisionFileRow.conversion_id)
        .join(SeriesRow, SeriesRow.id == ConversionRow.series_id)
        .join(StudyRow, StudyRow.id == SeriesRow.study_id)
        .where(files, ConversionRow.superseded.is_(False))
        .distinct()
    )
    return [(row.study_instance_uid, row.series_instance_uid) for row in connection.execute(series)]


def only_host_of(connection: Connection, key: str) -> str | None:
    """Return which host alone has a file, of several that share an object store."""
    of_image = select(ImageRow.spool_host).where(ImageRow.key == key, *is_only_at_host())
    of_revision = select(RevisionFileRow.spool_host).where(RevisionFileRow.key == key)
    host: str | None = connection.scalar(of_image) or connection.scalar(of_revision)
    return host


def instance_files(connection: Connection, query: Select[*tuple[Any, ...]]) -> list[InstanceFile]:
    """Return the rows of a query for the columns of `FILES`."""
    return [InstanceFile(*row) for row in connection.execute(query)]


def revision_files(connection: Connection, query: Select[*tuple[Any, ...]]) -> list[RevisionFile]:
    """Return the rows of a query for `REVISION_FILES`."""
    return [RevisionFile(*row) for row in connection.execute(query)]


def named_objects(connection: Connection, keys: Sequence[str]) -> set[str]:
    """Return those of `keys` whose objects rows name: of images, conflicts or files of revisions."""
    files = connection.scalars(select(RevisionFileRow.key).where(RevisionFileRow.key.in_(keys)))
    return {*named_keys(connection, keys), *files}


def owe_objects(connection: Connection, keys: Sequence[str], now: dt.datetime) -> None:
    """Order the removal of objects, and of the files that hosts have of them."""
    if keys:
        rows = [{"key": key, "ordered_at": now} for key in keys]
        connection.execute(insert(ObjectRemovalRow).values(rows).on_conflict_do_nothing())
        hosts = connection.scalars(select(HostRow.name)).all()
        local = [{"host": host, "path": key, "ordered_at": now} for host in hosts for key in keys]
        if local:
            connection.execute(insert(HostRemovalRow).on_conflict_do_nothing(), local)
