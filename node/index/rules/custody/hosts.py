"""What hosts share: which files the object store has, which host alone has one, the hosts, and their audit logs.

The files are those of instances and of revisions. This is what the node writes of the store without it; its extension
moves and removes objects (`node.extensions.object_store.places`). An index that has one host has no rows of hosts.

The record of an audit log is the file of each host (`node.audit.audit_log`). Its lines have a chain of digests, so a
copy of them shows whether the file was cut off, replaced or rewritten since, and each host can look.
"""

import datetime as dt
import json
from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, func, select, text, tuple_, update

from node.index.rows.converted import SeriesKey
from node.index.rows.files import FILES, REVISION_FILES, named_keys, revision_file, revision_files
from node.index.rows.models.history import ConversionRow, RevisionFileRow
from node.index.rows.models.levels import SPOOL, STORE, ImageRow, SeriesRow, StudyRow, is_only_at_host
from node.index.rows.models.work import AuditLineRow, HostRemovalRow, HostRow, ObjectRemovalRow
from node.index.rows.records import InstanceFile, RevisionFile
from node.index.rows.repositories import IndexRepository, on_reader, on_writer, reads
from node.index.rows.sql import insert
from node.index.rules.series.verdicts import judge

SPOOLED = text(f"images.place = '{SPOOL}'")
"""In words: with a parameter, SQLite does not use the index of these rows."""

SPOOLED_FILES = text(f"revision_files.place = '{SPOOL}'")


class ObjectRepository(IndexRepository):
    """The places of files, and the objects that nothing needs any more."""

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

    revision_file = reads(revision_file)

    @on_reader
    def only_at(self, connection: Connection, host: str) -> list[InstanceFile | RevisionFile]:
        """Return the files that a host alone has, instances first."""
        images = FILES.where(SPOOLED, *is_only_at_host(), ImageRow.spool_host == host)
        files = REVISION_FILES.where(SPOOLED_FILES, RevisionFileRow.spool_host == host)
        return instances_first(connection, images, files)

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


def instance_files(connection: Connection, query: Select[*tuple[Any, ...]]) -> list[InstanceFile]:
    """Return the rows of a query for the columns of `FILES`."""
    return [InstanceFile(*row) for row in connection.execute(query)]


def instances_first(
    connection: Connection, images: Select[*tuple[Any, ...]], files: Select[*tuple[Any, ...]], limit: int | None = None
) -> list[InstanceFile | RevisionFile]:
    """Return the rows of queries for the columns of `FILES` and `REVISION_FILES`, each in the order of their keys."""
    instances = instance_files(connection, images.order_by(ImageRow.key).limit(limit))
    left = None if limit is None else limit - len(instances)
    return [*instances, *revision_files(connection, files.order_by(RevisionFileRow.key).limit(left))]


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


class AuditLineRepository(IndexRepository):
    """The copied lines of this host."""

    @on_reader
    def last(self, connection: Connection) -> bytes:
        """Return the line that was copied last, with its line end; empty if there is none."""
        query = select(AuditLineRow.line).where(AuditLineRow.host == self._sharing.host)
        line = connection.execute(query.order_by(AuditLineRow.number.desc()).limit(1)).scalar()
        return b"" if line is None else f"{line}\n".encode()

    @on_writer
    def add(self, connection: Connection, lines: Sequence[bytes], now: dt.datetime) -> None:
        """Add lines behind the last one."""
        query = select(func.max(AuditLineRow.number)).where(AuditLineRow.host == self._sharing.host)
        first = (connection.execute(query).scalar() or 0) + 1
        texts = [line.decode(errors="backslashreplace").removesuffix("\n") for line in lines]
        rows = [
            {"host": self._sharing.host, "number": number, "at": _moment(line) or now, "line": line}
            for number, line in enumerate(texts, start=first)
        ]
        connection.execute(insert(AuditLineRow), rows)


def _moment(line: str) -> dt.datetime | None:
    try:
        moment = dt.datetime.fromisoformat(json.loads(line)["at"])
    except (ValueError, KeyError, TypeError):  # torn by a power cut
        return None
    return moment if moment.tzinfo is not None else None
