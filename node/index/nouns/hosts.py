"""The hosts that share an index, as each of them reads, and the copies of their audit logs.

An index that has one host has no rows of hosts. The record is the audit log of each host, a file
(`node.audit.audit_log`). Its lines have a chain of digests, so a copy of them shows whether the file was cut off,
replaced or rewritten since, and each host can look.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, func, insert, select

from node.index.engine.backend import backend_of
from node.index.engine.rows import ReadRepository, Row
from node.index.engine.writer import IndexRepository, on_reader, on_writer, reads
from node.index.models.history import RevisionFileRow
from node.index.models.levels import ImageRow, is_only_at_host
from node.index.models.work import AuditLineRow, HostRow, LeaseRow
from node.index.nouns.objects import only_host_of

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
            for problem, text in problems.items():
                found[problem] = "; ".join(filter(None, [found.get(problem), f"host {host}: {text}"]))
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

    def newest(self, count: int, *, host: str | None = None, other_than: str | None = None) -> list[tuple[str, str]]:
        """Return the last lines, of one host, or of all but one, by their times, oldest first: (host, line)."""
        query = select(AuditLineRow.host, AuditLineRow.line)
        if host is not None:
            query = query.where(AuditLineRow.host == host)
        if other_than is not None:
            query = query.where(AuditLineRow.host != other_than)
        order = AuditLineRow.at.desc(), AuditLineRow.host, AuditLineRow.number.desc()
        return [(row.host, row.line) for row in self._connection.execute(query.order_by(*order).limit(count))][::-1]

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
