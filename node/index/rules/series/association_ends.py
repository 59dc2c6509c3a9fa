"""What the end of an association says about the series that it has brought (PS3.8 7.2, 7.3).

An end without release leaves an event of each series, which counts against it until another instance comes, until its
sender comes back, or until a person says that its sender never releases one.
"""

import datetime as dt
from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Any

import structlog
from sqlalchemy import Connection, Row, Select, delete, func, or_, select, update

from node.completeness import Party
from node.index.rows.converted import SeriesKey
from node.index.rows.models.history import EventKind, EventRow
from node.index.rows.models.levels import OPEN_STATES, ImageRow, SeriesRow, StudyRow
from node.index.rows.models.work import OpenAssociationRow
from node.index.rows.records import AssociationEnd
from node.index.rows.repositories import IndexRepository, on_reader, on_writer
from node.index.rows.sql import looked_up_in
from node.index.rules.series.verdicts import aborted_by, held_at, judge, series_at, standing_ends, update_series
from node.index.rules.series.waits import OPEN_SECONDS, replace_waits, waits_of
from node.index.rules.work.events import record_series_event
from node.quiet import after_abort, due_at, is_quiet_of

log = structlog.get_logger()

RELEASED = "released"
"""Outcome of an association whose requestor has released it."""

BY_NODE = frozenset({"idle", "drained", "cut off", "given up"})
"""Outcomes of associations that the node ends: their senders may have sent all that they had."""


class AssociationRepository(IndexRepository):
    """The open associations of this host."""

    @on_writer
    def keep_open(self, connection: Connection, idle_seconds: Mapping[str, float], now: dt.datetime) -> None:
        """Keep the last series of associations waiting: a large instance may take longer to arrive than a quiet time.

        `idle_seconds`: how long ago the last bytes of each association came.
        """
        for association, seconds in idle_seconds.items():
            own = OpenAssociationRow.host == self._host, OpenAssociationRow.association == association
            last = select(func.max(OpenAssociationRow.number)).where(*own).scalar_subquery()
            until = now + dt.timedelta(seconds=OPEN_SECONDS - seconds)
            latest = update(OpenAssociationRow).where(*own, OpenAssociationRow.number == last)
            connection.execute(latest.values(open_until=until))

    @on_reader
    def left(self, connection: Connection) -> list[tuple[str, SeriesKey]]:
        """Return the calling AE titles and series of the associations that are open, as far as the index knows."""
        return [(row.calling_ae_title, (row[3], row[4])) for row in connection.execute(_left(self._host))]

    @on_writer
    def forget(self, connection: Connection) -> None:
        """Forget the open associations: a restored index has those of the time of its copy."""
        connection.execute(delete(OpenAssociationRow).where(OpenAssociationRow.host == self._host))

    @on_writer
    def forget_ends(self, connection: Connection, calling_ae_titles: Collection[str], now: dt.datetime) -> None:
        """Let the ends of associations of senders count no more: a person has said that they never release one.

        Series that are incomplete for that alone are judged again.
        """
        ended = _ended("sender-aborted", calling_ae_titles)
        for study, series in {(study, series) for study, series in connection.execute(ended)}:
            key, why = (study or "", series or ""), "it never releases, [peers] says"
            for row in connection.execute(series_at(key)).all():  # ends within an instance count all the same
                if any(end.why == "sender" for end in standing_ends(connection, key, row.last_event)):
                    _end_doubt(connection, key, row, "sender-never-releases", why, now)

    @on_writer
    def end_cut_off(self, connection: Connection, grace: dt.timedelta, now: dt.datetime) -> None:
        """Record that the end of the process before has cut associations off, before anything is received.

        The rest of their series may never have been sent.
        """
        series: dict[tuple[str, str], list[SeriesKey]] = defaultdict(list)
        for row in connection.execute(_left(self._host)):
            series[row.association, row.calling_ae_title].append((row[3], row[4]))
        for (name, title), keys in series.items():
            brought, seconds = dict.fromkeys(keys, 0), grace.total_seconds()
            end = AssociationEnd(name, title, "it was killed", now, brought, keys[-1], seconds)
            _wait_after_end(connection, end, "node", keys)
        connection.execute(delete(OpenAssociationRow).where(OpenAssociationRow.host == self._host))
        if series:
            log.info("associations_cut_off", count=len(series))

    @property
    def _host(self) -> str:
        return self._sharing.host or ""


def _left(host: str) -> Any:
    series = StudyRow.study_instance_uid, SeriesRow.series_instance_uid
    row = OpenAssociationRow
    found = select(row.id, row.association, row.calling_ae_title, *series).where(row.host == host).order_by(row.id)
    return found.join(SeriesRow, SeriesRow.id == row.series_id).join(StudyRow, StudyRow.id == SeriesRow.study_id)


def end_association(connection: Connection, end: AssociationEnd, host: str) -> None:
    """Let the series of an association wait no longer for it, or longer if it was not released (PS3.8 7.2)."""
    row = OpenAssociationRow
    connection.execute(delete(row).where(row.host == host, row.association == end.association))
    if party := _party(end):
        _wait_after_end(connection, end, party, {end.last} if end.is_cut else ())
    else:
        _note_return(connection, end)


def _party(end: AssociationEnd) -> Party:
    """Return against whom an end counts."""
    if end.outcome in BY_NODE and not (end.outcome == "idle" and end.is_cut):
        return "" if end.is_agreed and not end.is_cut else "node"
    if end.outcome == RELEASED:
        return ""
    if end.is_cut:
        return "cut"
    return "sender" if end.releases else ""


def _wait_after_end(connection: Connection, end: AssociationEnd, party: Party, not_over: Collection[SeriesKey]) -> None:
    """Extend the wait for series whose association was not released, so that the sender can come back.

    A series that is closed already gets another verdict: an idle association may end long after its last instance. The
    node's own end says nothing about a series that was quiet by then.

    The grace of the sender never shortens a longer wait, and ends with an instance of the series on an association that
    begins later.

    `party`: who ended it. `not_over`: series that were not quiet, whatever their waits say.
    """
    now, brings = end.ended_at, select(OpenAssociationRow.begun)
    kind: EventKind = "node-ended" if party == "node" else "sender-aborted"
    whose = "the node ended the association" if party == "node" else "the association did not end by release"
    detail = f"{whose}: {end.outcome}{', in the middle of an instance' * (party == 'cut')}"
    for key in end.brought:
        for row in connection.execute(held_at(key)).all():
            before = waits_of(connection, [row.id]).get(row.id, {})
            is_quiet = key not in not_over and is_quiet_of(before, end.calling_ae_title, end.ending_at or now)
            if party == "node" and (is_quiet or row.state not in OPEN_STATES):
                continue
            others = connection.scalars(brings.where(OpenAssociationRow.series_id == row.id))
            ended = " ".join(filter(None, (end.ended, *others))) or None
            record_series_event(connection, kind, key, now, detail, ended=ended, why=party)
            if row.state not in OPEN_STATES:
                judge(connection, row.id, now)
                continue
            last = min(row.last_received_at, now)  # the clock may have been set back since
            grace_until = last + dt.timedelta(seconds=end.grace_seconds)
            after = after_abort(before, end.calling_ae_title, grace_until, now, ended)
            replace_waits(connection, {row.id: (before, after)})
            update_series(connection, row.id, {"due_at": max(due_at(after), row.due_at or last)})


def doubted_series(connection: Connection, keys: Collection[SeriesKey], calling_ae_title: str) -> list[SeriesKey]:
    """Return the series that a sender may have left unfinished; asked at the end of each of its associations.

    Those of `keys` whose association was not released once, and all of its series whose association the node ended.
    """
    aborted = _ENDS.where(
        EventRow.kind == "sender-aborted", looked_up_in(EventRow.series_instance_uid, [uid for _, uid in keys])
    )
    ended = _ended("node-ended", [calling_ae_title])
    found = {(study, uid) for study, uid in connection.execute(aborted.union(ended)) if study and uid}
    return sorted(found)


_ENDS = select(EventRow.study_instance_uid, EventRow.series_instance_uid)


def _ended(kind: EventKind, calling_ae_titles: Collection[str]) -> Select[str | None, str | None]:
    """Return the series of senders that are open, or incomplete by the end of an association, with such an event."""
    of_senders = select(ImageRow.id).where(
        ImageRow.series_id == SeriesRow.id, ImageRow.calling_ae_title.in_(calling_ae_titles)
    )
    return (
        _ENDS.join(SeriesRow, SeriesRow.series_instance_uid == EventRow.series_instance_uid)
        .where(EventRow.kind == kind, of_senders.exists())
        .where(or_(SeriesRow.state.in_(OPEN_STATES), SeriesRow.verdict_rule == "association"))
    )


def _note_return(connection: Connection, end: AssociationEnd) -> None:
    """Let an abort count no more for series whose sender came back with nothing new, and released its association.

    It repeated what it has: nothing is left. If the node had ended the association, that it came back is enough: it
    knew which instances were not acknowledged. A closed series is judged again.

    Fewer instances of a series than it had brought before tell nothing, and an association that was open meanwhile
    neither.
    """
    for key in doubted_series(connection, end.brought, end.calling_ae_title):
        for row in connection.execute(held_at(key)).all():
            of_sender = ImageRow.series_id == row.id, ImageRow.calling_ae_title == end.calling_ae_title
            party = aborted_by(connection, key, row.last_event, end.begun)
            if not party:
                continue
            had = connection.execute(select(func.count()).where(*of_sender)).scalar_one()
            if 0 < had <= end.brought.get(key, had if party == "node" else 0):
                detail = "the sender came back with nothing new and released its association"
                _end_doubt(connection, key, row, "sender-returned", detail, end.ended_at)


def _end_doubt(
    connection: Connection, key: SeriesKey, row: Row[Any], kind: EventKind, detail: str, now: dt.datetime
) -> None:
    """Let the end of an association count no more for a series: another rule may have named it, too."""
    record_series_event(connection, kind, key, now, detail)
    judge(connection, row.id, now)
