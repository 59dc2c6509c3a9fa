"""The hosts that share an index, and what only one of them does at a time.

A host says every few seconds that it lives, which lengthens its lease. While that lasts, nobody else touches what it
has claimed: series under conversion, and the leases in the table of that name (a hook, a destination of a route,
retention). Once it is over, others take them over. All moments are of the clock of the database.

A lease does not stop a host that was only slow, so what such a host writes is fenced: by the claim of a series, and by
`Sharing.require` for everything else.
"""

import datetime as dt
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import structlog
from sqlalchemy import Connection, delete, exists, func, select, update
from sqlalchemy.orm import join

from node.archive.base import Remote, StoreAway
from node.association.added import OpenedRoot
from node.audit.audit_log import AuditAction, AuditEvent, AuditMessage, EventType
from node.errors import UsageError
from node.extensions.postgresql.several import subscribers_beside
from node.hookspecs import Action as RootAction
from node.index.database import Index
from node.index.rows.about_keys import SWEPT_FOLDER, SWEPT_VOLUMES
from node.index.rows.files import aside_of_order
from node.index.rows.models.history import ConflictRow, TrashRow
from node.index.rows.models.levels import ImageRow, SeriesRow, StudyRow, is_only_at_host
from node.index.rows.models.work import HostRemovalRow, HostRow, LeaseRow
from node.index.rows.repositories import IndexRepository, on_reader, on_writer, set_about
from node.index.rows.sql import insert
from node.index.rules.work.events import record_event, uids_of

NOTHING: Mapping[str, str] = {}

CLOCK_SECONDS = 30.0
"""Largest difference of the clock of a host from that of the index; one that NTP corrects is off by less than 1 s."""

ASKED, BEGUN = "asked", "begun"
"""Why a host drains: somebody has asked it to, or it has begun."""


@dataclass(frozen=True, slots=True)
class JoiningHost:
    """A host as it joins.

    `subscribers`: the hooks and destinations of its configuration, as in the ledger. `configuration`: digests of what
    must be the same on all hosts, by section.
    """

    name: str
    roles: Sequence[str]
    version: str
    subscribers: Sequence[str]
    lease: dt.timedelta
    configuration: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LostFiles:
    """Instances of one series whose files only a forgotten host had."""

    study_instance_uid: str
    series_instance_uid: str
    instances: int


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What a host had that was forgotten.

    `subscribers`: hooks, and destinations of routes, that no other host has in its configuration. `leases`: what it did
    alone; another host takes it. `claims`: series that it was converting; another host takes them over. `is_behind`:
    when it was last heard, it had acknowledged instances that were not in the index. `lost`: what its disk alone had.
    """

    subscribers: Sequence[str]
    leases: Sequence[str]
    claims: int
    is_behind: bool
    lost: Sequence[LostFiles]


class HostRepository(IndexRepository):
    """The hosts of an index, and their leases."""

    @on_writer
    def beat(
        self,
        connection: Connection,
        member: JoiningHost,
        wanted: Collection[str],
        started_at: dt.datetime,
        now: dt.datetime,
        *,
        is_behind: bool,
        clock_ahead_seconds: float = 0.0,
        not_ready: Mapping[str, str] = NOTHING,
        gives: Collection[str] = (),
    ) -> frozenset[str]:
        """Lengthen the lease of a host, and take what it wants and no living host has; return what it holds.

        `is_behind`: it has acknowledged instances that are not in the index after a second.
        `clock_ahead_seconds`: of its own clock before that of the database.
        `not_ready`: why it is not ready, by role.
        `gives`: what it does no more: another host takes it at once.
        """
        values = {
            "roles": list(member.roles),
            "version": member.version,
            "subscribers": list(member.subscribers),
            "is_behind": is_behind,
            "not_ready": dict(not_ready),
            "clock_ahead_seconds": clock_ahead_seconds,
            "configuration": dict(member.configuration),
            "problems": _problems(connection, member, clock_ahead_seconds, now),
            "started_at": started_at,
            "seen_at": now,
            "lease_until": now + member.lease,
        }
        joined = insert(HostRow).values(name=member.name, **values)
        connection.execute(joined.on_conflict_do_update(index_elements=["name"], set_=values))
        is_free = LeaseRow.host.not_in(select(HostRow.name).where(HostRow.lease_until > now))
        held = select(LeaseRow.name).where(LeaseRow.host == member.name)
        if gives:
            connection.execute(delete(LeaseRow).where(LeaseRow.host == member.name, LeaseRow.name.in_(gives)))
        for name in sorted(set(wanted) - set(connection.scalars(held))):
            taken = insert(LeaseRow).values(name=name, host=member.name)
            connection.execute(
                taken.on_conflict_do_update(index_elements=["name"], set_={"host": member.name}, where=is_free)
            )
        return frozenset(connection.scalars(held))

    @on_writer
    def leave(self, connection: Connection, name: str, now: dt.datetime, left_behind: int | None = None) -> None:
        """Give back what a host has, because it stops; its row stays.

        `left_behind`: instances that only the disk of the host has.
        """
        connection.execute(delete(LeaseRow).where(LeaseRow.host == name))
        values: dict[str, Any] = {"lease_until": None, "drain": None, "problems": {}}
        values |= {"seen_at": now, "left_behind": left_behind}
        connection.execute(update(HostRow).where(HostRow.name == name).values(values))

    @on_writer
    def set_drain(self, connection: Connection, name: str, drain: str | None) -> None:
        """Note that a host drains, or that it has started."""
        connection.execute(update(HostRow).where(HostRow.name == name).values(drain=drain, left_behind=None))

    @on_writer
    def ask_to_drain(self, connection: Connection, name: str, now: dt.datetime) -> None:
        """Ask a host to stop; it hears that within a second.

        Raises UsageError if there is none, or it does not live.
        """
        row = _row(connection, name)
        if row.lease_until is None or row.lease_until <= now:
            raise UsageError(f"{name} does not run")
        if row.drain is None:
            connection.execute(update(HostRow).where(HostRow.name == name).values(drain=ASKED))

    @on_reader
    def news(self, connection: Connection, name: str) -> tuple[bool, frozenset[str]]:
        """Return whether somebody has asked a host to drain, and the leases that any host holds."""
        drain = connection.scalar(select(HostRow.drain).where(HostRow.name == name))
        return drain == ASKED, frozenset(connection.scalars(select(LeaseRow.name)))

    @on_writer
    def forget(self, connection: Connection, name: str, now: dt.datetime) -> Forgotten:
        """Delete the row of a host that will not come back; return what it alone had.

        What its disk alone had is marked as missing, also in the trash: the next such instance that is received takes
        its place. If the host does come back, its next start has the files.

        Raises UsageError if there is none, or the host lives.
        """
        row = _gone(connection, name, now)
        leases = sorted(connection.scalars(select(LeaseRow.name).where(LeaseRow.host == name)))
        claims = select(func.count()).where(SeriesRow.state == "converting", SeriesRow.claimed_by == name)
        connection.execute(delete(LeaseRow).where(LeaseRow.host == name))
        connection.execute(delete(HostRemovalRow).where(HostRemovalRow.host == name))
        # A replaced version that the store still has is set aside by this host instead.
        is_in_store = exists().where(aside_of_order() == ConflictRow.key)
        of_host = ConflictRow.host == name
        connection.execute(update(ConflictRow).where(of_host, is_in_store).values(host=self._sharing.host))
        connection.execute(update(ConflictRow).where(of_host).values(key=None, host=None))
        for note in (SWEPT_FOLDER, SWEPT_VOLUMES):  # if it starts again, it compares all of its folders
            set_about(connection, f"{note}-{name}", "")
        connection.execute(delete(HostRow).where(HostRow.name == name))
        its = *is_only_at_host(), ImageRow.spool_host == name
        uids = StudyRow.study_instance_uid, SeriesRow.series_instance_uid, ImageRow.sop_instance_uid
        images = select(*uids).select_from(join(ImageRow, SeriesRow).join(StudyRow)).where(*its).order_by(ImageRow.id)
        files = connection.execute(images).all()
        connection.execute(update(ImageRow).where(*its).values(file_missing=True))
        in_trash = select(TrashRow).where(TrashRow.holder == name)
        for one in connection.execute(in_trash).all():  # the same holds for it once it is brought back
            gone = {"file_missing": True} if one.kind == "images" else {"key": None, "host": None}
            values = {"content": one.content | gone, "key": gone.get("key", one.key), "holder": None}
            connection.execute(update(TrashRow).where(TrashRow.id == one.id).values(values))
        counts: Counter[tuple[str, str]] = Counter()
        detail = f"only host {name} had it, which was forgotten"
        for file in files:
            counts[file.study_instance_uid, file.series_instance_uid] += 1
            record_event(connection, "file-missing", now, detail=detail, **uids_of(file))
        only_its = sorted(set(row.subscribers) - subscribers_beside(connection, name))
        lost = [LostFiles(*key, count) for key, count in sorted(counts.items())]
        return Forgotten(only_its, leases, int(connection.execute(claims).scalar_one()), row.is_behind, lost)

    @on_reader
    def require_gone(self, connection: Connection, name: str, now: dt.datetime) -> None:
        """Raise unless a host can be forgotten; see `forget`."""
        _gone(connection, name, now)

    def note_waits_for_hosts(self, since: dt.datetime) -> None:
        """Let series that have been due since a moment tell for which host they wait, as `v_series.error`.

        That host alone has instances of them, on its disk.
        """
        if self._is_any_waiting(since):
            self._note_waits_for_hosts(since)

    @on_reader
    def _is_any_waiting(self, connection: Connection, since: dt.datetime) -> bool:
        return bool(_series_waiting_for_hosts(connection, since))

    @on_writer
    def _note_waits_for_hosts(self, connection: Connection, since: dt.datetime) -> None:
        for series_id, error in _series_waiting_for_hosts(connection, since).items():
            is_waiting = SeriesRow.id == series_id, SeriesRow.state == "receiving"
            connection.execute(update(SeriesRow).where(*is_waiting).values(error=error, why=None))


def _problems(connection: Connection, member: JoiningHost, ahead: float, now: dt.datetime) -> dict[str, str]:
    """Return what of a host is not as the index and the host that started first have it."""
    problems = {}
    if abs(ahead) > CLOCK_SECONDS:
        way = "ahead of" if ahead > 0 else "behind"
        problems["clock_differs"] = f"its clock is {abs(ahead):.0f} s {way} that of PostgreSQL: synchronize both (NTP)"
    living = select(HostRow.name, HostRow.configuration).where(HostRow.lease_until > now)
    first = connection.execute(living.order_by(HostRow.started_at, HostRow.name).limit(1)).first()
    if first is None or first.name == member.name:
        return problems
    own, others = member.configuration, first.configuration
    if differing := [name for name in sorted({*own, *others}) if own.get(name) != others.get(name)]:
        named = ", ".join(f"[{name}]" for name in differing)
        problems["configuration_differs"] = (
            f"{named} not as host {first.name} has it: give both one configuration, and start them again"
        )
    return problems


def _row(connection: Connection, name: str) -> Any:
    row = connection.execute(select(HostRow).where(HostRow.name == name)).first()
    if row is None:
        raise UsageError(f"no host {name!r}; `voxelnode db hosts` lists them")
    return row


def _gone(connection: Connection, name: str, now: dt.datetime) -> Any:
    """Return the row of a host. Raises UsageError unless there is one with this name, and it does not live."""
    row = _row(connection, name)
    if row.lease_until is not None and row.lease_until > now:
        raise UsageError(f"{name} was seen {(now - row.seen_at).total_seconds():.0f} s ago: stop it first")
    return row


def _series_waiting_for_hosts(connection: Connection, since: dt.datetime) -> dict[int, str]:
    """Return what each series that waits for hosts is to tell, by its id; none of those that tell it already."""
    found = connection.execute(
        select(SeriesRow.id, SeriesRow.error, ImageRow.spool_host, func.count().label("instances"))
        .select_from(join(ImageRow, SeriesRow))
        .where(*is_only_at_host(), SeriesRow.state == "receiving", SeriesRow.due_at <= since)
        .group_by(SeriesRow.id, SeriesRow.error, ImageRow.spool_host)
        .order_by(SeriesRow.id, ImageRow.spool_host)
    ).all()
    awaited: dict[int, list[str]] = {}
    for row in found:
        awaited.setdefault(row.id, []).append(
            f"host {row.spool_host}, which alone has {row.instances} of its instances"
        )
    errors_before = {row.id: row.error for row in found}
    errors = {series_id: f"waits: for {', and '.join(hosts)}" for series_id, hosts in awaited.items()}
    return {series_id: error for series_id, error in errors.items() if error != errors_before[series_id]}


log = structlog.get_logger()


def actions(root: OpenedRoot) -> Mapping[str, RootAction]:
    """Return the actions by name."""
    ingest, audit = root.ingest, root.audit
    index, remote = ingest.index, ingest.archive.remote
    hosts = index.repository(HostRepository)

    def drain(host: str, who: str) -> Mapping[str, Any]:
        if index.sharing.host is None:
            raise UsageError("the index is a file, and has no hosts: stop the node with SIGTERM")
        hosts.ask_to_drain(host, index.now())
        log.info("drain_asked", host=host, detail=f"by {who}")
        return {"asked": host}

    def forget(host: str, who: str) -> Mapping[str, Any]:
        hosts.require_gone(host, index.now())
        if remote is not None:
            _record_uploaded(index, remote, host)
        index.series.reopen(index.objects.current_only_at(host), index.now())
        index.objects.give_up(host)
        forgotten = asdict(hosts.forget(host, index.now()))
        event, kind = AuditEvent.SECURITY_ALERT, EventType.SOFTWARE_CONFIGURATION
        detail = f"host {host} of the index was forgotten"
        audit.note(AuditMessage.by(who, event, AuditAction.DELETE, detail, kind=kind))
        return {"forgotten": host, **forgotten}

    return {"drain-host": drain, "forget-host": forget}


def _record_uploaded(index: Index, remote: Remote, host: str) -> None:
    """Note what a host has put into the store and did not live to record."""
    files = index.objects.only_at(host)
    try:
        problems = list(remote.object_problems(files))
    except StoreAway as error:
        raise UsageError(f"{error.strerror}: {host} can be forgotten when the store tells what it has") from error
    stored = [file.key for file, problem in zip(files, problems, strict=True) if problem is None]
    if stored:
        index.objects.record_stored(stored, index.now())
