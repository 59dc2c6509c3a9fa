"""What hosts share: which files the object store has, which host alone has one, the hosts, and their audit logs.

The files are those of instances and of revisions. This is what the node writes of the store without it; its extension
moves and removes objects (`node.extensions.object_store.places`). An index that has one host has no rows of hosts.

The record of an audit log is the file of each host (`node.audit.audit_log`). Its lines have a chain of digests, so a
copy of them shows whether the file was cut off, replaced or rewritten since, and each host can look.
"""

import datetime as dt
import json
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, func, select, text, tuple_, update

from node.index.engine.backend import backend_of
from node.index.engine.rows import IndexRepository, ReadRepository, Row, on_reader, on_writer, reads
from node.index.engine.sql import insert
from node.index.models.history import ConversionRow, RevisionFileRow
from node.index.models.levels import SPOOL, STORE, ImageRow, SeriesRow, StudyRow, is_only_at_host
from node.index.models.work import AuditLineRow, HostRemovalRow, HostRow, LeaseRow, ObjectRemovalRow
from node.index.nouns.conversions import REVISION_FILES, revision_file, revision_files
from node.index.nouns.converted import SeriesKey
from node.index.nouns.instance_files import FILES, named_keys
from node.index.nouns.records import InstanceFile, RevisionFile
from node.index.nouns.verdicts import judge

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


def only_host_of(connection: Connection, key: str) -> str | None:
    """Return which host alone has a file, of several that share an object store."""
    of_image = select(ImageRow.spool_host).where(ImageRow.key == key, *is_only_at_host())
    of_revision = select(RevisionFileRow.spool_host).where(RevisionFileRow.key == key)
    host: str | None = connection.scalar(of_image) or connection.scalar(of_revision)
    return host


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


_SHOWN = (
    "name", "roles", "version", "started_at", "seen_at", "is_behind", "not_ready", "left_behind", "clock_ahead_seconds",
    "problems",
)  # fmt: skip


class ReadHosts(ReadRepository):
    """Rows of ``hosts`` and ``leases``."""

    def all(self, now: dt.datetime) -> list[Row]:
        """Return every host by name, with what it alone does; empty if only one can write to the index.

        `state`: alive, draining, stopped, or lost, if it has said nothing for as long as its lease. `not_ready`: why it
        is not ready, as it said last, by role. `spooled_instances`: whose files it alone has, because they have not
        been moved to the object store. `left_behind`: those that only its disk had when it stopped; None if it was not
        counted. `problems`: what of it was not as the others have it, when it was seen, by ``clock_differs`` and
        ``configuration_differs``.
        """
        spooled = select(ImageRow.spool_host, func.count()).where(*is_only_at_host()).group_by(ImageRow.spool_host)
        counts = {host: count for host, count in self._connection.execute(spooled)}
        leases: dict[str, list[str]] = {}
        for row in self._connection.execute(select(LeaseRow).order_by(LeaseRow.name)):
            leases.setdefault(row.host, []).append(row.name)
        hosts = self._connection.execute(select(HostRow).order_by(HostRow.name))
        return [
            {
                **{name: getattr(row, name) for name in _SHOWN},
                "state": _state(row, now),
                "leases": leases.get(row.name, []),
                "spooled_instances": counts.get(row.name, 0),
            }
            for row in hosts
        ]

    def living(self) -> list[Row]:
        """Return the hosts that are alive by the clock of the index."""
        return [host for host in self.all(self.now()) if host["state"] in ("alive", "draining")]

    def problems(self) -> dict[str, str]:
        """Return what hosts that live do not agree about, in words, by the names of the problems."""
        found: dict[str, str] = {}
        living = select(HostRow.name, HostRow.problems).where(HostRow.lease_until > self.now())
        for host, problems in self._connection.execute(living.order_by(HostRow.name)):
            for problem, why in problems.items():
                found[problem] = "; ".join(filter(None, [found.get(problem), f"host {host}: {why}"]))
        return found

    def spooling(self) -> list[str]:
        """Return the hosts that alone have files, because these are not in the object store yet."""
        images = select(ImageRow.spool_host).where(*is_only_at_host())
        files = select(RevisionFileRow.spool_host).where(RevisionFileRow.spool_host.is_not(None))
        return sorted({*self._connection.scalars(images), *self._connection.scalars(files)})

    only_host_of = reads(only_host_of)

    def now(self) -> dt.datetime:
        """Return the time by the clock of the index."""
        return backend_of(self._connection).moment(self._connection)


def _state(row: Any, now: dt.datetime) -> str:
    if row.lease_until is None:
        return "stopped"
    if row.lease_until <= now:
        return "lost"
    return "alive" if row.drain is None else "draining"


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


CHUNK_ROWS = 1000


class ReadAuditLines(ReadRepository):
    """Rows of ``audit_lines``."""

    def hosts(self) -> list[str]:
        """Return the hosts that have copied lines, by name."""
        return list(self._connection.scalars(select(AuditLineRow.host).distinct().order_by(AuditLineRow.host)))

    def newest(self, count: int, host: str, *, others: bool = False) -> list[tuple[str, str]]:
        """Return the last lines, of one host, or of all others, by their times, oldest first: (host, line)."""
        wanted = AuditLineRow.host != host if others else AuditLineRow.host == host
        query = select(AuditLineRow.host, AuditLineRow.line).where(wanted)
        order = AuditLineRow.at.desc(), AuditLineRow.host, AuditLineRow.number.desc()
        return [(row.host, row.line) for row in self._connection.execute(query.order_by(*order).limit(count))][::-1]

    def count_of_others(self, host: str) -> int:
        """Count the lines of all hosts but one."""
        query = select(func.count()).select_from(AuditLineRow).where(AuditLineRow.host != host)
        return int(self._connection.execute(query).scalar_one())

    def of_host(self, host: str) -> Iterator[tuple[int, bytes]]:
        """Yield number and bytes of each line of a host, oldest first."""
        last = 0
        query = select(AuditLineRow.number, AuditLineRow.line).where(AuditLineRow.host == host)
        while True:
            behind = query.where(AuditLineRow.number > last).order_by(AuditLineRow.number).limit(CHUNK_ROWS)
            rows = self._connection.execute(behind).all()
            for row in rows:
                yield row.number, f"{row.line}\n".encode()
            if len(rows) < CHUNK_ROWS:
                return
            last = rows[-1].number
