"""What open series wait for: the rows of what `node.quiet` says, when a series is due, and the clock behind it.

A series grows by the instances that are received, and waits until it is quiet again. One whose instances an ended
performed procedure step lists is due as soon as all of them are stored (PS3.4 F.7.2).

A series awaits senders (``awaited_senders``). One that awaits nobody is due for another reason than quiet, such as a
count that is reached: no open association keeps it waiting. A closed series awaits nobody. Whoever changes these rows
holds the row of the series, and reads them after that: a statement that waits for a row of PostgreSQL sees the newest
state of that row alone.

While an association is open, more of the series that it has brought last is to be expected: the series is not quiet
until the association ends, brings another series, or is idle for `OPEN_SECONDS`. A row of ``open_associations`` stands
for a series of which an open association has brought an instance. It is written with the instance, and removed by the
record of the end (`node.index.rules.series.association_ends`), which is in the journal before the release is answered.
A row that is left when a start has applied the journal is therefore of an association that the end of the process cut
off.

A moment in a row means a wait that began when the row was written. If the clock is stepped, every such moment is moved
by the step, so that no wait changes its length: of series and studies, and of what the ledger owes. Several hosts
follow the clock of their database instead: none of them moves the timers of all.
"""

import datetime as dt
import json
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from math import ceil
from typing import Any, NamedTuple

from sqlalchemy import (
    JSON,
    ColumnElement,
    Connection,
    Row,
    and_,
    bindparam,
    delete,
    exists,
    func,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.orm import aliased

from node.completeness import Performed, performed
from node.index.rows.hot_statements import PreparedStatement
from node.index.rows.models.history import PerformedSeriesRow
from node.index.rows.models.levels import OPEN_STATES, ImageRow, SeriesRow, StudyRow
from node.index.rows.models.work import AwaitedSenderRow, OpenAssociationRow, SenderRow, WorkRow
from node.index.rows.records import Received
from node.index.rows.repositories import IndexRepository, on_reader, on_writer
from node.index.rows.sql import insert, looked_up_in
from node.index.rows.view_rows import moment
from node.index.rules.work.events import record_event
from node.quiet import Awaited, Waits, last_sign, shifted
from node.runtime.background import MAX_WAIT_SECONDS

OPEN_SECONDS = 60.0
"""How long an open association that sends nothing keeps its last series waiting."""

_KEY = "series_id", "calling_ae_title"
_ROWS = PreparedStatement(
    select(*(getattr(AwaitedSenderRow, name) for name in (*_KEY, *Awaited._fields))).where(
        looked_up_in(AwaitedSenderRow.series_id, bindparam("ids", type_=JSON))
    )
)
_NEW = insert(AwaitedSenderRow)
_AWAIT = PreparedStatement(
    _NEW.on_conflict_do_update(index_elements=_KEY, set_={name: _NEW.excluded[name] for name in Awaited._fields}),
    (*_KEY, *Awaited._fields),
)
_AWAIT_NO_MORE = PreparedStatement(
    delete(AwaitedSenderRow).where(
        AwaitedSenderRow.series_id == bindparam("series"), AwaitedSenderRow.calling_ae_title == bindparam("sender")
    )
)


def waits_of(connection: Connection, series: Collection[int]) -> Mapping[int, Waits]:
    """Return what each of some series awaits; nothing of those that await nobody."""
    waits: dict[int, dict[str, Awaited]] = defaultdict(dict)
    for series_id, sender, *moments, aborted in _ROWS.execute(connection, {"ids": list(series)}):
        waits[series_id][sender] = Awaited._make([*(said and moment(said) for said in moments), aborted])
    return waits


def replace_waits(connection: Connection, changes: Mapping[int, tuple[Waits, Waits]]) -> None:
    """Let series await something else: before and after, by series."""
    over = [
        {"series": series_id, "sender": sender}
        for series_id, (before, after) in changes.items()
        for sender in before.keys() - after.keys()
    ]
    now = [
        {"series_id": series_id, "calling_ae_title": sender, **its._asdict()}
        for series_id, (before, after) in changes.items()
        for sender, its in after.items()
        if before.get(sender) != its
    ]
    _AWAIT_NO_MORE.execute_each(connection, over)
    _AWAIT.execute_each(connection, now)


def await_nobody(connection: Connection, series_id: int) -> None:
    """Let a series await nobody any more."""
    connection.execute(delete(AwaitedSenderRow).where(AwaitedSenderRow.series_id == series_id))


def is_awaiting() -> ColumnElement[bool]:
    """Return the condition that a series awaits a sender."""
    return exists().where(AwaitedSenderRow.series_id == SeriesRow.id)


class Seen(NamedTuple):
    """An instance that a series has seen; `counts` unless it was there already."""

    series_id: int
    received: Received
    counts: bool = False
    replaces: bool = False


def note_open(connection: Connection, host: str, seen: Sequence[Seen]) -> None:
    """Note what open associations have just brought, in its order."""
    brought = {
        (one.received.association, one.series_id): {
            "host": host,
            "association": one.received.association,
            "series_id": one.series_id,
            "calling_ae_title": one.received.file.calling_ae_title,
            "begun": one.received.begun,
            "place": place,
            "open_until": one.received.file.received_at + dt.timedelta(seconds=OPEN_SECONDS),
        }
        for place, one in enumerate(seen, 1)
        if one.received.association
    }
    _NOTE_OPEN.execute_each(connection, [*brought.values()])


_LAST_NUMBER = select(func.coalesce(func.max(OpenAssociationRow.number), 0)).scalar_subquery()
_OPEN = insert(OpenAssociationRow).values(number=_LAST_NUMBER + bindparam("place"))
_CHANGED = {name: _OPEN.excluded[name] for name in ("open_until", "number")}
_NOTE_OPEN = PreparedStatement(
    _OPEN.on_conflict_do_update(index_elements=["host", "association", "series_id"], set_=_CHANGED),
    (one.name for one in OpenAssociationRow.__table__.columns if one.name not in ("id", "number")),
)


def is_being_brought(now: dt.datetime) -> ColumnElement[bool]:
    """Return the condition that an open association is bringing instances of a series."""
    row, later = OpenAssociationRow, aliased(OpenAssociationRow)
    others = select(later.id).where(
        later.host == row.host, later.association == row.association, later.number > row.number
    )
    return select(row.id).where(row.series_id == SeriesRow.id, row.open_until > now, ~others.exists()).exists()


REVOKED = -1
"""In `claimed_receptions`: the series is still under conversion, but its outcome will not count."""


def revoke_claim(connection: Connection, series_id: int) -> None:
    """Revoke the claim of a series after an instance has left it: its conversion may not be recorded."""
    claimed = update(SeriesRow).where(SeriesRow.id == series_id, SeriesRow.state == "converting")
    connection.execute(claimed.values(claimed_receptions=REVOKED))


_LISTS = PreparedStatement(
    select(PerformedSeriesRow.sop_instance_uids).where(
        PerformedSeriesRow.series_instance_uid == bindparam("series"),
        or_(
            PerformedSeriesRow.study_instance_uid == bindparam("study"), PerformedSeriesRow.study_instance_uid.is_(None)
        ),
    )
)
_LISTED = PreparedStatement(
    select(PerformedSeriesRow.series_instance_uid).where(
        looked_up_in(PerformedSeriesRow.series_instance_uid, bindparam("uids", type_=JSON))
    )
)
_COUNT = PreparedStatement(select(func.count()).where(ImageRow.series_id == bindparam("id")))
_STORED = PreparedStatement(select(ImageRow.sop_instance_uid).where(ImageRow.series_id == bindparam("id")))


def performed_of(
    connection: Connection, series_id: int, study_instance_uid: str, series_instance_uid: str
) -> Performed | None:
    """Compare what is listed of a series with what is stored; None if no ended step lists it."""
    listed = _listed(connection, study_instance_uid, series_instance_uid)
    return performed(listed, _stored(connection, series_id)) if listed else None


def listed_series(connection: Connection, series_instance_uids: Collection[str]) -> set[str]:
    """Return which of some Series Instance UIDs steps list; asked for each batch that is received.

    The rows of the series are locked before: a step that ends at the same time is seen here, or sees what is received.
    """
    return {uid for (uid,) in _LISTED.execute(connection, {"uids": list(series_instance_uids)})}


def is_all_here(connection: Connection, series_id: int, study_instance_uid: str, series_instance_uid: str) -> bool:
    """Return whether a step lists a series, and every listed instance is stored."""
    listed = _listed(connection, study_instance_uid, series_instance_uid)
    if not listed or _COUNT.execute(connection, {"id": series_id}).fetchone()[0] < len(listed):
        return False
    return listed <= _stored(connection, series_id)


def _listed(connection: Connection, study_instance_uid: str, series_instance_uid: str) -> set[str]:
    """Return the SOP Instance UIDs of all lists: two steps may make one series."""
    rows = _LISTS.execute(connection, {"study": study_instance_uid, "series": series_instance_uid})
    return {uid for (uids,) in rows for uid in json.loads(uids)}


def _stored(connection: Connection, series_id: int) -> set[str]:
    return {uid for (uid,) in _STORED.execute(connection, {"id": series_id})}


def is_due(now: dt.datetime, longest_wait: dt.timedelta | None) -> ColumnElement[bool]:
    """Return the condition that a series is due: it is quiet, or for another reason, such as a count that is reached.

    A series that an open association is bringing is not quiet.
    """
    due = and_(SeriesRow.due_at <= now, or_(~is_awaiting(), ~is_being_brought(now)))
    if longest_wait is not None:
        due = or_(due, and_(SeriesRow.open_since <= now - longest_wait, SeriesRow.attempts == 0))
    return and_(SeriesRow.state == "receiving", due)


class TimerRepository(IndexRepository):
    """All timers of an index."""

    def shift(self, step: dt.timedelta) -> None:
        """Move all timers by a step of the system clock."""
        if self._sharing.host is None:
            self._shift(step)

    def correct(self, now: dt.datetime) -> None:
        """Move timers that are too far in the future, because the clock was set back while no node was running.

        Series wait from `now` on. What is tried again is due at once if it would have to wait longer than it ever does.
        """
        if self._sharing.host is None:
            self._correct(now)

    @on_writer
    def _shift(self, connection: Connection, step: dt.timedelta) -> None:
        open_series = connection.execute(select(SeriesRow).where(SeriesRow.state.in_(OPEN_STATES))).all()
        waits = waits_of(connection, [row.id for row in open_series])
        for row in open_series:
            _shift_series(connection, row, waits.get(row.id, {}), step)
        others: Any = (
            (WorkRow, WorkRow.due_at, WorkRow.outcome.is_(None)),
            (StudyRow, StudyRow.closed_at, true()),
            (OpenAssociationRow, OpenAssociationRow.open_until, true()),
        )
        for table, moved, waits_on in others:
            for id, at in connection.execute(select(table.id, moved).where(waits_on, moved.is_not(None))).all():
                connection.execute(update(table).where(table.id == id).values({moved.key: at + step}))

    @on_writer
    def _correct(self, connection: Connection, now: dt.datetime) -> None:
        is_waiting = SeriesRow.state.in_(OPEN_STATES), SeriesRow.due_at > now
        waiting = connection.execute(select(SeriesRow).where(*is_waiting)).all()
        waits = waits_of(connection, [row.id for row in waiting])
        for row in waiting:
            its = waits.get(row.id, {})
            begun = last_sign(its) or row.last_received_at  # which `shift` does not move
            if begun > now:
                _shift_series(connection, row, its, now - begun)
        # No work ever waits longer; a job waits for others, as long as it takes.
        longest = now + dt.timedelta(seconds=MAX_WAIT_SECONDS)
        late = WorkRow.state == "waiting", WorkRow.kind != "job", WorkRow.due_at > longest
        connection.execute(update(WorkRow).where(*late).values(due_at=now))
        connection.execute(update(StudyRow).where(StudyRow.closed_at > now).values(closed_at=now))


def _shift_series(connection: Connection, row: Row[Any], waits: Waits, step: dt.timedelta) -> None:
    moments = {name: getattr(row, name) for name in ("due_at", "open_since")}
    values: dict[str, Any] = {name: moment + step for name, moment in moments.items() if moment is not None}
    replace_waits(connection, {row.id: (waits, shifted(waits, step))})
    if values:
        connection.execute(update(SeriesRow).where(SeriesRow.id == row.id).values(values))


MAX_SERIES = 50
"""Longest gaps of a sender that are kept, one for each of its last series."""

MIN_SERIES = 5
"""With fewer series, nothing is known about a sender."""

MAX_GAP_SECONDS = 3600.0
"""A longer gap lies between two sendings."""

SHARE = 0.95
"""Share of the series whose longest gap the quiet time covers, by `FACTOR`."""

FACTOR = 2.0
MIN_QUIET_SECONDS = 10.0
MAX_QUIET_SECONDS = 600.0


class SenderRepository(IndexRepository):
    """What is known about the senders."""

    @on_reader
    def quiet_seconds(self, connection: Connection, calling_ae_title: str) -> float | None:
        """Return the quiet time learnt for a sender, or None while too little is known."""
        query = select(SenderRow.quiet_seconds).where(SenderRow.calling_ae_title == calling_ae_title)
        return connection.execute(query).scalar()


def learn_gaps(connection: Connection, series_id: int, since: dt.datetime | None, now: dt.datetime) -> None:
    """Note the longest gap of each sender of a series, for those instances that no conversion has seen.

    `since`: when the first of them was received; None if there is none.
    """
    if since is None:
        return
    rows = connection.execute(
        select(ImageRow.calling_ae_title, ImageRow.received_at)
        .where(ImageRow.series_id == series_id, ImageRow.calling_ae_title.is_not(None))
        .order_by(ImageRow.received_at)
    )
    receptions = [(sender, received_at) for sender, received_at in rows if sender is not None]
    for sender, gap in _longest_gaps(receptions, since).items():
        _note_gap(connection, sender, gap, now)


def quiet_seconds_after(gaps: Sequence[float]) -> float | None:
    """Return the quiet time for a sender whose last series had these longest gaps."""
    if len(gaps) < MIN_SERIES:
        return None
    covered = sorted(gaps)[ceil(SHARE * len(gaps)) - 1]
    return min(max(FACTOR * covered, MIN_QUIET_SECONDS), MAX_QUIET_SECONDS)


def _longest_gaps(receptions: Sequence[tuple[str, dt.datetime]], since: dt.datetime) -> Mapping[str, float]:
    last: dict[str, dt.datetime] = {}
    longest: dict[str, float] = {}
    for sender, received_at in receptions:
        if sender in last and received_at >= since:
            gap = (received_at - last[sender]).total_seconds()
            if gap <= MAX_GAP_SECONDS:
                longest[sender] = max(gap, longest.get(sender, 0.0))
        last[sender] = received_at
    return longest


def _note_gap(connection: Connection, sender: str, gap: float, now: dt.datetime) -> None:
    known = connection.execute(select(SenderRow.gaps).where(SenderRow.calling_ae_title == sender)).scalar() or []
    gaps = [*known, round(gap, 3)][-MAX_SERIES:]
    values = {"gaps": gaps, "quiet_seconds": quiet_seconds_after(gaps), "learnt_at": now}
    row = insert(SenderRow).values(calling_ae_title=sender, **values)
    connection.execute(row.on_conflict_do_update(index_elements=["calling_ae_title"], set_=values))


class StudyRepository(IndexRepository):
    """The studies of an index."""

    def mark_quiet(self, quiet: dt.timedelta, now: dt.datetime) -> int:
        """Mark the studies that have had no open series for `quiet`; return how many became quiet."""
        next_at = self.next_quiet_at(quiet)
        if next_at is None or next_at > now:  # polled often: usually no write is needed
            return 0
        return self._mark_quiet(quiet, now)

    @on_reader
    def next_quiet_at(self, connection: Connection, quiet: dt.timedelta) -> dt.datetime | None:
        """Return when `mark_quiet` will next find a study if nothing is received, or None if none is pending."""
        closed_at = connection.execute(_FIRST_CLOSED_AT).scalar()
        return closed_at and closed_at + quiet

    @on_writer
    def _mark_quiet(self, connection: Connection, quiet: dt.timedelta, now: dt.datetime) -> int:
        studies = connection.execute(
            update(StudyRow)
            .where(StudyRow.closed_at <= now - quiet, ~_is_open())
            .values(closed_at=None, quiet_at=now)
            .returning(StudyRow.id, StudyRow.study_instance_uid)
        ).all()
        for study in studies:
            count = connection.execute(select(func.count()).where(SeriesRow.study_id == study.id)).scalar_one()
            detail = f"{count} series, none of them open"
            record_event(connection, "study-quiet", now, study_instance_uid=study.study_instance_uid, detail=detail)
        return len(studies)


def _is_open() -> ColumnElement[bool]:
    return select(SeriesRow.id).where(SeriesRow.study_id == StudyRow.id, SeriesRow.state.in_(OPEN_STATES)).exists()


_FIRST_CLOSED_AT = select(func.min(StudyRow.closed_at)).where(StudyRow.closed_at.is_not(None), ~_is_open())
