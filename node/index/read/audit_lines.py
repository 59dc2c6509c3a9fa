"""Copies of the audit logs of all hosts."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import select

from node.index.models import AuditLineRow
from node.index.read.rows import ReadRepository

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
