"""Copies of the audit logs of all hosts: one view over them, and evidence that does not lie beside the log.

The record is the file of each host (`node.audit.audit_log`). Its lines have a chain of digests, so a copy of them shows
whether the file was cut off, replaced or rewritten since, and each host can look.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator, Sequence

from sqlalchemy import Connection, func, insert, select

from node.index.engine.rows import ReadRepository
from node.index.engine.writer import IndexRepository, on_reader, on_writer
from node.index.models.work import AuditLineRow


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
