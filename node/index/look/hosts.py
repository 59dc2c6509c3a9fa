"""What is read of hosts and their audit logs, of accounts, and of who sends."""

import datetime as dt
from collections.abc import Iterator
from typing import Any

from sqlalchemy import ColumnElement, Connection, Subquery, func, select

from node.index.look.views import AccountViews, SenderViews
from node.index.rows.backend import backend_of
from node.index.rows.models.history import RevisionFileRow
from node.index.rows.models.levels import ImageRow, is_only_at_host
from node.index.rows.models.work import AccountRow, AuditLineRow, HostRow, LeaseRow, WebSessionRow
from node.index.rows.records import Client, ListedSession
from node.index.rows.repositories import ReadRepository, Row, reads


class ReadAccounts(ReadRepository, AccountViews):
    """Accounts for HTTP."""

    def sessions(self, name: str, now: dt.datetime) -> list[ListedSession]:
        """Return the open sessions of an account, newest first."""
        query = select(*WebSessionRow.__table__.columns).join(AccountRow, AccountRow.id == WebSessionRow.account_id)
        query = query.where(AccountRow.name == name, WebSessionRow.expires_at > now).order_by(WebSessionRow.id.desc())
        found = ((row, Client(row.address or "", row.agent or "")) for row in self._connection.execute(query))
        return [ListedSession(row.id, client, row.created_at, row.expires_at, row.used_at) for row, client in found]


def only_host_of(connection: Connection, key: str) -> str | None:
    """Return which host alone has a file, of several that share an object store."""
    of_image = select(ImageRow.spool_host).where(ImageRow.key == key, *is_only_at_host())
    of_revision = select(RevisionFileRow.spool_host).where(RevisionFileRow.key == key)
    host: str | None = connection.scalar(of_image) or connection.scalar(of_revision)
    return host


_SHOWN = (
    "name", "roles", "version", "started_at", "seen_at", "is_behind", "not_ready", "left_behind", "clock_ahead_seconds",
    "problems",
)  # fmt: skip


class ReadHosts(ReadRepository):
    """Rows of ``hosts`` and ``leases``."""

    def all(self, now: dt.datetime) -> list[Row]:
        """Return every host by name, with what it alone does; empty if only one can write to the index.

        Its ``state`` is alive, draining, stopped, or lost, if it has said nothing for as long as its lease;
        ``not_ready`` why it is not ready, as it said last, by role; ``spooled_instances`` those whose files it alone
        has, because they have not been moved to the object store; ``left_behind`` those that only its disk had when it
        stopped, None if it was not counted; ``problems`` what of it was not as the others have it, when it was seen, by
        ``clock_differs`` and ``configuration_differs``.
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


LAST_IMAGES = 50_000
"""Newest images that are looked at for what came lately, since no index has their times: read in 0.1 s."""


class ReadSenders(ReadRepository, SenderViews):
    """Rows of ``senders``, and what they sent lately."""

    def received(self, since: dt.datetime, until: dt.datetime) -> list[tuple[dt.datetime, int]]:
        """Return when each of the last images was received, and its bytes."""
        newest, within = _newest(since, until)
        rows = self._connection.execute(select(newest.c.received_at, newest.c.bytes).where(*within))
        return [(received_at, size) for received_at, size in rows]

    def heard(self, since: dt.datetime, until: dt.datetime) -> list[tuple[str, str, dt.datetime, int]]:
        """Return AE title, address, last time and number of images of who sent the last images, the earliest first.

        What came otherwise than by an association has its source, such as ``import``, for the AE title.
        """
        newest, within = _newest(since, until)
        sender, last = (newest.c.sender, newest.c.peer), func.max(newest.c.received_at)
        found = select(*sender, last, func.count()).where(*within).group_by(*sender).order_by(last)
        return [(title, peer or "", at, count) for title, peer, at, count in self._connection.execute(found)]


def _newest(since: dt.datetime, until: dt.datetime) -> tuple[Subquery, tuple[ColumnElement[bool], ...]]:
    sender = func.coalesce(ImageRow.calling_ae_title, ImageRow.source).label("sender")
    columns = sender, ImageRow.peer, ImageRow.received_at, ImageRow.bytes
    newest = select(*columns).order_by(ImageRow.id.desc()).limit(LAST_IMAGES).subquery()
    return newest, (newest.c.received_at >= since, newest.c.received_at < until)
