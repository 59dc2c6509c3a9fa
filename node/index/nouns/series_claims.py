"""Series on their way to a volume: when each is due, who has claimed it, and the outcome.

All state is in rows, so a restart loses nothing. A process that dies leaves its claims behind; the next start of its
host releases them, or another host takes them over when its lease is over.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, and_, case, func, null, or_, select, true, update
from sqlalchemy.orm import join

from node.completeness import (
    Completeness,
    Expectation,
    InstanceCounts,
    Party,
    Reported,
    aborted_verdict,
    completeness_of,
    expectation,
    with_reported,
)
from node.index.engine.hot_statements import Prepared
from node.index.engine.sql import looked_up_in
from node.index.engine.writer import IndexRepository, on_reader, on_writer
from node.index.models import OPEN_STATES, EventRow, ImageRow, SeriesRow, StudyRow
from node.index.nouns.conflicts import count_aside
from node.index.nouns.conversions import current_conversion, insert_conversion, replace_failures
from node.index.nouns.converted import ClaimedInstance, SeriesKey
from node.index.nouns.events import EventKind, FinalKind, record_series_event
from node.index.nouns.growth import after_abort, due_at, is_quiet_of, performed_of
from node.index.nouns.lost import count_lost, judge_lost
from node.index.nouns.protocols import learn, usual_of
from node.index.nouns.records import ClaimedSeries, SeriesOutcome
from node.index.nouns.reopening import (
    DAMAGED,
    REVOKED,
    convert_for_verdict,
    convert_referring,
    end_waits_for,
    find_series,
    references_of,
    reopen,
    replace_references,
)
from node.index.nouns.senders import learn_end, learn_gaps
from node.index.nouns.terms import Terms
from node.retries import wait_seconds

RECONVERSION_REQUESTED = "reconversion requested"
"""Detail of the event by which a series opens again on request."""

FOR_ROOM = "waits: for room: "
"""How the `error` of a series begins that is due while the disk has no room for its volumes."""

IN_AN_INSTANCE = ", in the middle of an instance"
"""How the detail of an abort ends that cut an instance off: there was more, whatever is learnt of the sender."""

_COUNTS = tuple(getattr(ImageRow, name) for name in InstanceCounts.__slots__)


class SeriesRepository(IndexRepository):
    """The series of an index, from their first instance to the outcome of their conversion."""

    def claim_due(self, now: dt.datetime, longest_wait: dt.timedelta | None = None) -> ClaimedSeries | None:
        """Claim the series that has been due the longest.

        `longest_wait`: a series that has been open this long is claimed even if instances are still received. None if
        no series is due.
        """
        if not self.is_due(now, longest_wait):  # polled often: usually no write is needed
            return None
        return self._claim_due(now, longest_wait)

    @on_reader
    def next_due_at(self, connection: Connection, longest_wait: dt.timedelta | None = None) -> dt.datetime | None:
        """Return when `claim_due` will find the next series, or None if no series waits."""
        return _next_due_at(connection, longest_wait)

    @on_reader
    def is_due(self, connection: Connection, now: dt.datetime, longest_wait: dt.timedelta | None = None) -> bool:
        """Return whether `claim_due` would find a series."""
        next_at = _next_due_at(connection, longest_wait)
        if next_at is None or next_at > now:
            return False
        return connection.execute(self._due(now, longest_wait)).first() is not None

    @on_reader
    def count_open(self, connection: Connection) -> int:
        """Count the series that wait or are being converted."""
        query = select(func.count()).select_from(SeriesRow).where(SeriesRow.state.in_(OPEN_STATES))
        return int(connection.execute(query).scalar_one())

    @on_writer
    def _claim_due(
        self, connection: Connection, now: dt.datetime, longest_wait: dt.timedelta | None
    ) -> ClaimedSeries | None:
        row = connection.execute(
            update(SeriesRow)
            .where(SeriesRow.id == self._due(now, longest_wait).with_for_update(skip_locked=True).scalar_subquery())
            .values(
                state="converting",
                claim=uuid.uuid4().hex,
                claimed_by=self._turn.host,
                claimed_receptions=SeriesRow.receptions,
            )
            .returning(SeriesRow)
        ).first()
        return None if row is None else _claimed(connection, row, now)

    def _due(self, now: dt.datetime, longest_wait: dt.timedelta | None) -> Select[Any]:
        """Select the series that has been due the longest, of those whose instances can be read here."""
        waiting = select(SeriesRow.id).where(_is_due(now, longest_wait))
        return waiting.where(self._turn.has_files_of(SeriesRow.id)).order_by(SeriesRow.due_at.nulls_first()).limit(1)

    def take_over(self, now: dt.datetime) -> tuple[ClaimedSeries, str] | None:
        """Claim a series of a host whose lease is over; return it with the name of that host, None if there is none.

        Whatever that host still does, its outcome will not count.
        """
        is_abandoned = self._turn.abandoned(now)
        if is_abandoned is None or not self._is_any(is_abandoned):
            return None
        return self._take_over(is_abandoned, now)

    @on_reader
    def _is_any(self, connection: Connection, condition: ColumnElement[bool]) -> bool:
        return connection.execute(select(SeriesRow.id).where(condition).limit(1)).first() is not None

    @on_writer
    def _take_over(
        self, connection: Connection, is_abandoned: ColumnElement[bool], now: dt.datetime
    ) -> tuple[ClaimedSeries, str] | None:
        abandoned = select(SeriesRow.id, SeriesRow.claimed_by).where(is_abandoned).limit(1)
        found = connection.execute(abandoned.with_for_update(skip_locked=True)).first()
        if found is None:
            return None
        taken = update(SeriesRow).where(SeriesRow.id == found.id)
        values = {"claim": uuid.uuid4().hex, "claimed_by": self._turn.host}
        row = connection.execute(taken.values(values).returning(SeriesRow)).one()
        return _claimed(connection, row, now), str(found.claimed_by)

    @on_reader
    def claims(self, connection: Connection) -> list[str]:
        """Return the claims of all conversions under way, of any host."""
        is_claimed = SeriesRow.state == "converting", SeriesRow.claim.is_not(None)
        return list(connection.scalars(select(SeriesRow.claim).where(*is_claimed)))

    @on_reader
    def is_claimed(self, connection: Connection, series: ClaimedSeries) -> bool:
        """Return whether an outcome of this claim would be recorded now."""
        held = SeriesRow.id == series.id, SeriesRow.claim == series.claim, SeriesRow.claimed_receptions != REVOKED
        return connection.execute(select(SeriesRow.id).where(*held)).first() is not None

    @on_reader
    def held(self, connection: Connection, claims: Collection[str]) -> set[str]:
        """Return which of these claims still hold a series."""
        is_held = SeriesRow.state == "converting", SeriesRow.claim.in_(claims), SeriesRow.claimed_receptions != REVOKED
        return set(connection.scalars(select(SeriesRow.claim).where(*is_held)))

    @on_writer
    def record_outcome(
        self, connection: Connection, series: ClaimedSeries, outcome: SeriesOutcome, now: dt.datetime
    ) -> bool:
        """Write the revision and end the claim in one transaction: readers see the old volumes or the new ones.

        False if the claim is no longer ours, or an instance was replaced or deleted meanwhile. Nothing is then written,
        and the caller removes the files.
        """
        held = select(SeriesRow.claimed_receptions).where(SeriesRow.id == series.id, SeriesRow.claim == series.claim)
        if connection.execute(held.with_for_update()).scalar() == REVOKED:
            _end_claim(connection, series, "receiving", now)
            return False
        if not _end_claim(connection, series, outcome.state, now, revision=series.revision, error=outcome.error):
            return False
        completeness = _last_verdict(connection, series, outcome.completeness)
        _update(connection, series.id, {"attempts": 0} | _completeness_columns(completeness))
        _doubt_parts(connection, series.id, now)
        if completeness is not None and completeness.state != "incomplete":
            learn(connection, series.id, len(series.instances), now)
        insert_conversion(connection, series, outcome, self._turn.holder, now)
        is_stale = replace_references(connection, series.id, outcome.references)
        kind: FinalKind = "series-converted" if outcome.state == "converted" else "series-refused"
        detail = outcome.error or (completeness.reason if completeness else None)
        record_series_event(connection, kind, _key(series), now, detail, series.revision)
        if is_stale:
            change = "a series to which it refers has changed meanwhile"
            reopen(connection, series.id, series.study_instance_uid, None, now, change)
        written = outcome.completeness
        if written and completeness and (written.state, written.missing) != (completeness.state, completeness.missing):
            convert_for_verdict(connection, series.id, now)
        if completeness is not None:
            _learn_end(connection, series, completeness, now)
        if not outcome.references:
            convert_referring(connection, [series.series_instance_uid], now, f"has revision {series.revision}")
        return True

    @on_writer
    def record_unchanged(self, connection: Connection, series: ClaimedSeries, now: dt.datetime) -> None:
        """End a claim without a new revision, because the conversion would repeat the current one."""
        if _end_claim(connection, series, "converted", now, error=None, attempts=0):
            record_series_event(connection, "series-unchanged", _key(series), now, None, series.revision - 1)

    @on_writer
    def record_crash(
        self, connection: Connection, series: ClaimedSeries, detail: str, attempts: int, now: dt.datetime
    ) -> bool:
        """Record that the converter crashed on a series: it is due again later, or `failed` after too many attempts.

        Parameters
        ----------
        detail : str
            The cause, in a sentence.
        attempts : int
            Number of crashes after which the series is set aside.

        Returns
        -------
        bool
            Whether it will be tried again.
        """
        before = connection.execute(select(SeriesRow.attempts).where(SeriesRow.id == series.id)).scalar()
        if before is None:  # the series was deleted meanwhile
            return False
        tried = before + 1
        again = tried < attempts
        if not _end_claim(connection, series, "receiving" if again else "failed", now, error=detail):
            return again
        values: dict[str, Any] = {"attempts": tried}
        if again:
            values["due_at"] = now + dt.timedelta(seconds=wait_seconds(tried))
        else:
            values |= _completeness_columns(completeness_of(series.expectation))
            replace_failures(connection, series, [(None, "failed", detail)], now)
            record_series_event(connection, "series-failed", _key(series), now, detail, series.revision)
        _update(connection, series.id, values)
        return again

    @on_writer
    def record_damaged(
        self,
        connection: Connection,
        series: ClaimedSeries,
        detail: str,
        references: Sequence[tuple[SeriesKey, int]],
        now: dt.datetime,
    ) -> None:
        """Set a series aside because files that its conversion needs are not as received.

        Its current volumes, made before, stay current. An instance that is received again makes the series due, and so
        does a new revision of a series to which it refers.
        """
        if _end_claim(connection, series, "failed", now, error=f"{DAMAGED}{detail}", attempts=0):
            judge_lost(connection, *_key(series))
            replace_failures(connection, series, [(None, "damaged", detail)], now)
            replace_references(connection, series.id, references)
            record_series_event(connection, "series-failed", _key(series), now, detail, series.revision)

    @on_writer
    def release_claim(self, connection: Connection, series: ClaimedSeries, now: dt.datetime) -> bool:
        """Give up a claim without a conversion: the series is due at once, or when it is quiet again if it has grown.

        Returns whether the claim was ours.
        """
        if not _end_claim(connection, series, "receiving", now):
            return False
        is_still_due = SeriesRow.id == series.id, SeriesRow.due_at.is_(None)
        connection.execute(update(SeriesRow).where(*is_still_due).values(due_at=now))
        return True

    @on_writer
    def postpone(
        self, connection: Connection, series: ClaimedSeries, why: str, wait: dt.timedelta, now: dt.datetime
    ) -> None:
        """Give up a claim because the machine lacked something: the series is due again later, and did not fail."""
        if _end_claim(connection, series, "receiving", now, error=f"waits: {why}"):
            _update(connection, series.id, {"due_at": now + wait})

    def tell_lack(self, lack: str | None, now: dt.datetime, longest_wait: dt.timedelta, *, again: bool) -> None:
        """Have the series that are due tell in `error` what disk has no room for their volumes.

        `lack`: None if there is room again: nothing is told any more. `again`: series that tell it already tell it
        with these words.
        """
        tells = SeriesRow.error.startswith(FOR_ROOM)
        if lack is None:
            concerned = and_(SeriesRow.state == "receiving", tells)
        else:
            concerned = and_(_is_due(now, longest_wait), true() if again else tells.is_not(true()))
        if self._is_any(concerned):
            self._tell(concerned, None if lack is None else f"{FOR_ROOM}{lack}")

    @on_writer
    def _tell(self, connection: Connection, concerned: ColumnElement[bool], error: str | None) -> None:
        connection.execute(update(SeriesRow).where(concerned).values(error=error))

    @on_writer
    def wait_for(
        self,
        connection: Connection,
        series: ClaimedSeries,
        references: Sequence[SeriesKey],
        why: str,
        wait: dt.timedelta,
        now: dt.datetime,
    ) -> None:
        """Give up a claim until the open series to which a series refers are closed, or for `wait` at most."""
        if _end_claim(connection, series, "receiving", now, error=f"waits: {why}"):
            replace_references(connection, series.id, [(key, None) for key in references])
            _update(connection, series.id, {"due_at": now + wait})

    def release_all_claims(self, now: dt.datetime) -> int:
        """Release the claims of a dead process of this host; return the number of claims."""
        return self._release_claims((), now)

    def release_stalled_claims(self, held: Collection[str], now: dt.datetime) -> int:
        """Release every claim of this host that no running conversion has (`held`); return how many were released."""
        is_any = self._is_any_claimed() and self._is_any(self._is_stalled(held))
        return self._release_claims(held, now) if is_any else 0

    @on_reader
    def _is_any_claimed(self, connection: Connection) -> bool:
        return _ANY_CLAIMED.execute(connection, {}).fetchone() is not None

    @on_writer
    def _release_claims(self, connection: Connection, held: Collection[str], now: dt.datetime) -> int:
        values = {"state": "receiving", "claim": None, "claimed_by": None, "claimed_receptions": None, "due_at": now}
        return connection.execute(update(SeriesRow).where(self._is_stalled(held)).values(values)).rowcount

    def _is_stalled(self, held: Collection[str]) -> ColumnElement[bool]:
        is_own = or_(self._turn.is_own(SeriesRow.claimed_by), SeriesRow.claimed_by.is_(None))
        return and_(SeriesRow.state == "converting", SeriesRow.claim.not_in(held), is_own)

    @on_writer
    def wait_after_abort(
        self,
        connection: Connection,
        keys: Collection[SeriesKey],
        calling_ae_title: str,
        grace: dt.timedelta,
        why: str,
        now: dt.datetime,
        party: Party = "sender",
        not_over: Collection[SeriesKey] = (),
        ending_at: dt.datetime | None = None,
    ) -> None:
        """Extend the wait for series whose association was not released, so that the sender can come back.

        A series that is closed already gets another verdict: an idle association may end long after its last instance.
        The node's own end says nothing about a series that was quiet by then.

        Parameters
        ----------
        calling_ae_title : str
            The sender. Its grace ends when it comes back, with an association that begins later.
        grace : timedelta
            Wait after the last instance; never shortens a longer wait.
        why : str
            How the association ended, in one word.
        party : Party
            Who ended it.
        not_over : collection of SeriesKey
            Series that were not quiet, whatever their waits say.
        ending_at : datetime or None
            When the node began to end it; None: now.
        """
        kind: EventKind = "node-ended" if party == "node" else "sender-aborted"
        whose = "the node ended the association" if party == "node" else "the association did not end by release"
        detail = f"{whose}: {why}{IN_AN_INSTANCE if party == 'cut' else ''}"
        for key in keys:
            for row in connection.execute(_held_at(key)).all():
                is_quiet = key not in not_over and is_quiet_of(row.waits or {}, calling_ae_title, ending_at or now)
                if party == "node" and (is_quiet or row.state not in OPEN_STATES):
                    continue
                record_series_event(connection, kind, key, now, detail)
                if row.state not in OPEN_STATES:
                    _judge_again(connection, row.id, now, partial(aborted_verdict, party=party))
                    continue
                last = min(row.last_received_at, now)  # the clock may have been set back since
                waits = after_abort(row.waits or {}, calling_ae_title, last + grace, now)
                _update(connection, row.id, {"due_at": max(due_at(waits), row.due_at or last), "waits": waits})

    @on_reader
    def doubted(self, connection: Connection, keys: Collection[SeriesKey], calling_ae_title: str) -> list[SeriesKey]:
        """Return the series that a sender may have left unfinished; asked at the end of each of its associations.

        Those of `keys` whose association was not released once, and all of its series whose association the node ended.
        """
        series = (EventRow.study_instance_uid, EventRow.series_instance_uid)
        aborted = select(*series).where(
            EventRow.kind == "sender-aborted", looked_up_in(EventRow.series_instance_uid, [uid for _, uid in keys])
        )
        of_sender = select(ImageRow.id).where(
            ImageRow.series_id == SeriesRow.id, ImageRow.calling_ae_title == calling_ae_title
        )
        ended = (
            select(*series)
            .join(SeriesRow, SeriesRow.series_instance_uid == EventRow.series_instance_uid)
            .where(EventRow.kind == "node-ended", of_sender.exists())
            .where(or_(SeriesRow.state.in_(OPEN_STATES), SeriesRow.verdict_rule == "association"))
        )
        found = {(study, uid) for study, uid in connection.execute(aborted.union(ended)) if study and uid}
        return sorted(found)

    @on_writer
    def forget_ends(self, connection: Connection, calling_ae_titles: Collection[str], now: dt.datetime) -> None:
        """Let the ends of associations of senders count no more: a person has said that they never release one.

        Series that are incomplete for that alone are judged again.
        """
        of_senders = select(ImageRow.id).where(
            ImageRow.series_id == SeriesRow.id, ImageRow.calling_ae_title.in_(calling_ae_titles)
        )
        ended = (
            select(EventRow.study_instance_uid, EventRow.series_instance_uid)
            .join(SeriesRow, SeriesRow.series_instance_uid == EventRow.series_instance_uid)
            .where(EventRow.kind == "sender-aborted", of_senders.exists())
            .where(or_(SeriesRow.state.in_(OPEN_STATES), SeriesRow.verdict_rule == "association"))
        )
        for study, series in {(study, series) for study, series in connection.execute(ended)}:
            _settle_all(connection, (study or "", series or ""), "it never releases, [peers] says", now)

    @on_writer
    def record_return(
        self,
        connection: Connection,
        keys: Collection[SeriesKey],
        repeated: Mapping[SeriesKey, int],
        calling_ae_title: str,
        began_at: dt.datetime,
        now: dt.datetime,
    ) -> None:
        """Let an abort count no more for series whose sender came back with nothing new, and released its association.

        It repeated what it has: nothing is left. If the node had ended the association, that it came back is enough: it
        knew which instances were not acknowledged. A closed series is judged again, by another conversion.

        Parameters
        ----------
        keys : collection of SeriesKey
            The series of which `doubted` says so.
        repeated : mapping
            How many instances of each series it repeated; fewer than it had brought before tell nothing.
        began_at : datetime
            Begin of the association, after the abort: one that was open meanwhile tells nothing.
        """
        for key in keys:
            for row in connection.execute(_held_at(key)).all():
                of_sender = ImageRow.series_id == row.id, ImageRow.calling_ae_title == calling_ae_title
                party = _aborted_by(connection, key, row.last_received_at, before=began_at)
                if not party:
                    continue
                had = connection.execute(select(func.count()).where(*of_sender)).scalar_one()
                if 0 < had <= repeated.get(key, had if party == "node" else 0):
                    detail = "the sender came back with nothing new and released its association"
                    _settle(connection, key, row, "sender-returned", detail, now)

    def keep_waiting(
        self, asked: Mapping[SeriesKey, dt.datetime], now: dt.datetime, still_asked: Callable[[], Collection[SeriesKey]]
    ) -> None:
        """Let series that are due wait longer, because open associations ask for it.

        A series that is due for another reason than its quiet time, such as a count that is reached, is not changed.

        `asked`: when each series will be quiet if nothing more comes. `still_asked`: the series of associations that
        are open now. One that has ended meanwhile may have said that before this.
        """
        if any(self._has_become_quiet(key, now) for key in asked):
            self._keep_waiting(asked, now)
            if ended := asked.keys() - set(still_asked()):
                self.wait_no_longer(ended)

    @on_reader
    def _has_become_quiet(self, connection: Connection, key: SeriesKey, now: dt.datetime) -> bool:
        return connection.execute(_at(key).where(*_has_become_quiet(now))).first() is not None

    @on_writer
    def _keep_waiting(self, connection: Connection, asked: Mapping[SeriesKey, dt.datetime], now: dt.datetime) -> None:
        for key, until in asked.items():
            for row in connection.execute(_held_at(key).where(*_has_become_quiet(now))).all():
                _update(connection, row.id, {"due_at": max(until, row.due_at)})

    @on_writer
    def wait_no_longer(self, connection: Connection, keys: Collection[SeriesKey]) -> None:
        """Let series that waited for an open association wait only for what their senders ask."""
        is_kept = SeriesRow.state == "receiving", SeriesRow.waits.is_not(None)
        for key in keys:
            for row in connection.execute(_held_at(key).where(*is_kept)).all():
                _update(connection, row.id, {"due_at": due_at(row.waits)})

    @on_writer
    def reopen(
        self, connection: Connection, keys: Collection[SeriesKey], now: dt.datetime, terms: Terms | None = None
    ) -> int:
        """Make closed series due for another conversion; return how many were closed. Open series are not changed."""
        if terms is not None:
            for key in sorted(keys):
                connection.execute(_held_at(key))
            terms.require(connection)
        reopened = 0
        for key in keys:
            for row in connection.execute(_held_at(key).where(SeriesRow.state.not_in(OPEN_STATES))).all():
                _update(connection, row.id, {"state": "receiving", "due_at": now, "open_since": now, "attempts": 0})
                record_series_event(connection, "series-reopened", key, now, RECONVERSION_REQUESTED)
                reopened += 1
        return reopened

    @on_writer
    def record_reported(
        self, connection: Connection, key: SeriesKey, reported: Reported, now: dt.datetime, *, ends_wait: bool = False
    ) -> None:
        """Record what the sender says that it has of a series; a closed one gets another verdict.

        `ends_wait`: the series is due at once.
        """
        for row in connection.execute(_held_at(key)).all():
            received = connection.execute(select(func.count()).where(ImageRow.series_id == row.id)).scalar_one()
            if received != reported.received:
                continue
            values: dict[str, Any] = {"reported": asdict(reported)}
            if row.state == "receiving" and ends_wait:
                values |= {"due_at": now, "waits": None}
            _update(connection, row.id, values)
            if row.state not in OPEN_STATES:
                _judge_again(connection, row.id, now, lambda verdict: with_reported(verdict, reported))
            if reported.instances is not None:
                detail = f"the sender has {reported.instances} instances, {received} are here"
                record_series_event(connection, "series-confirmed", key, now, detail)


def _has_become_quiet(now: dt.datetime) -> tuple[ColumnElement[bool], ...]:
    return SeriesRow.state == "receiving", SeriesRow.waits.is_not(None), SeriesRow.due_at <= now


def _claimed(connection: Connection, row: Row[Any], now: dt.datetime) -> ClaimedSeries:
    """Return a newly claimed series with its instances, and record that it became quiet."""
    study_uid = connection.execute(select(StudyRow.study_instance_uid).where(StudyRow.id == row.study_id)).scalar_one()
    images = connection.execute(
        select(
            ImageRow.sop_instance_uid,
            ImageRow.key,
            ImageRow.sha256,
            ImageRow.data_set_offset,
            ImageRow.bytes,
            ImageRow.transfer_syntax_uid,
            *_COUNTS,
        )
        .where(ImageRow.series_id == row.id)
        .order_by(ImageRow.instance_number.nulls_first(), ImageRow.sop_instance_uid)
    ).all()
    expected = _expectation(connection, row, study_uid, [InstanceCounts(*image[6:]) for image in images], now)
    _record_quiet(connection, row, study_uid, expected, now)
    learn_gaps(connection, row.id, row.open_since, now)
    return ClaimedSeries(
        id=row.id,
        claim=row.claim,
        study_instance_uid=study_uid,
        series_instance_uid=row.series_instance_uid,
        revision=row.revision + 1,
        instances=tuple(ClaimedInstance(*image[:5]) for image in images),
        expectation=expected,
        current=current_conversion(connection, row.id),
        referenced=tuple(find_series(connection, row.id, key) for key in references_of(connection, row.id)),
        transfer_syntax_uids=frozenset(image.transfer_syntax_uid for image in images),
    )


def _expectation(
    connection: Connection, row: Row[Any], study_uid: str, counts: Sequence[InstanceCounts], now: dt.datetime
) -> Expectation:
    aside, versions = count_aside(connection, row.id, study_uid, row.series_instance_uid)
    return expectation(
        counts,
        reported=reported_of(row.reported),
        aborted=_aborted_by(connection, (study_uid, row.series_instance_uid), row.last_received_at),
        forced=row.due_at is not None and row.due_at > now,
        siblings=tuple(_siblings(connection, row)),
        split=_is_split(connection, row, counts),
        is_part=bool(_parts(connection, row)),
        performed=performed_of(connection, row.id, study_uid, row.series_instance_uid),
        lost=count_lost(connection, (study_uid, row.series_instance_uid)),
        aside=aside,
        versions=versions,
        usual=usual_of(connection, row, len(counts)),
        lacking=None if row.lacking is None else (row.lacking[0], row.lacking[1]),
    )


def reported_of(document: Mapping[str, Any] | None) -> Reported | None:
    """Return what a row has of the word of the sender."""
    return None if document is None else Reported(**{**document, "named": tuple(document["named"])})


def _aborted_by(
    connection: Connection, key: SeriesKey, last_received_at: dt.datetime, before: dt.datetime | None = None
) -> Party:
    """Return who aborted an association that delivered instances of a series, after the last one.

    That counts until the sender comes back. `before`: whether it was aborted before a moment.
    """
    last = select(EventRow.kind, EventRow.happened_at, EventRow.detail).where(
        EventRow.kind.in_(("sender-aborted", "node-ended", "sender-returned", "sender-never-releases")),
        EventRow.series_instance_uid == key[1],
        EventRow.study_instance_uid == key[0],
        EventRow.happened_at >= last_received_at,
    )
    event = connection.execute(last.order_by(EventRow.id.desc()).limit(1)).first()
    if event is None or (before is not None and event.happened_at > before):
        return ""
    if event.kind == "sender-aborted":
        return "cut" if event.detail.endswith(IN_AN_INSTANCE) else "sender"
    return "node" if event.kind == "node-ended" else ""


def _learn_end(connection: Connection, series: ClaimedSeries, verdict: Completeness, now: dt.datetime) -> None:
    """Learn from a series that is whole, although its association was not released, what that end means.

    It is whole if nothing else speaks against it, and its Instance Numbers run from 1. Once the sender is known never
    to release, the series from which that was learnt are judged again.
    """
    row = connection.execute(select(SeriesRow).where(SeriesRow.id == series.id)).one()
    if _aborted_by(connection, _key(series), row.last_received_at) != "sender":
        return
    number = ImageRow.instance_number
    lowest, highest, numbers = connection.execute(
        select(func.min(number), func.max(number), func.count(number.distinct())).where(ImageRow.series_id == series.id)
    ).one()
    if lowest is None or highest is None:
        agree = False
    else:
        agree = lowest in (0, 1) and highest - lowest + 1 == numbers == len(series.instances)
    is_alone = verdict.rule == "association" and verdict.missing is None
    is_whole = verdict.state == "complete" or (is_alone and agree)
    for key in learn_end(connection, series.id, _key(series), is_whole, now):
        _settle_all(connection, key, "its series were whole all the same", now)


def _settle_all(connection: Connection, key: SeriesKey, why: str, now: dt.datetime) -> None:
    """Let the way in which a sender ended its association count no more for what it said nothing about."""
    for known in connection.execute(_at(key)).all():
        if _aborted_by(connection, key, known.last_received_at) == "sender":
            _settle(connection, key, known, "sender-never-releases", why, now)


def _settle(
    connection: Connection, key: SeriesKey, row: Row[Any], kind: EventKind, detail: str, now: dt.datetime
) -> None:
    """Let the end of an association count no more for a series."""
    record_series_event(connection, kind, key, now, detail)
    if row.verdict_rule == "association":
        convert_for_verdict(connection, row.id, now, ("converted", "refused"))


def _judge_again(
    connection: Connection, series_id: int, now: dt.datetime, judge: Callable[[Completeness], Completeness]
) -> None:
    """Let what was heard just now count for a closed series."""
    verdict = select(
        SeriesRow.verdict, SeriesRow.verdict_rule, SeriesRow.expected_instances, SeriesRow.expected_source,
        select(func.count()).where(ImageRow.series_id == SeriesRow.id).scalar_subquery(),
        SeriesRow.missing_instances, SeriesRow.verdict_reason, SeriesRow.missing_detail,
    ).where(SeriesRow.id == series_id, SeriesRow.verdict.is_not(None), SeriesRow.last_received_at <= now)  # fmt: skip
    for before in connection.execute(verdict):
        _change_verdict(connection, series_id, judge(Completeness(*before)), now)


def _change_verdict(connection: Connection, series_id: int, verdict: Completeness, now: dt.datetime) -> None:
    """Give a closed series another verdict; the sidecars of its volumes get it by another conversion."""
    columns = select(SeriesRow.verdict, SeriesRow.missing_instances).where(SeriesRow.id == series_id)
    before = connection.execute(columns).one()
    _update(connection, series_id, _completeness_columns(verdict))
    if tuple(before) != (verdict.state, verdict.missing):
        convert_for_verdict(connection, series_id, now)


def _last_verdict(
    connection: Connection, series: ClaimedSeries, completeness: Completeness | None
) -> Completeness | None:
    """Return the verdict of a conversion, with what was heard meanwhile.

    That is the list of a performed procedure step, which decides, or the abort of an association and the answer of the
    sender.
    """
    performed = performed_of(connection, series.id, *_key(series))
    if completeness is not None and performed is None:
        heard = connection.execute(
            select(SeriesRow.last_received_at, SeriesRow.reported).where(SeriesRow.id == series.id)
        ).one()
        if party := _aborted_by(connection, _key(series), heard.last_received_at):
            completeness = aborted_verdict(completeness, party)
        reported = reported_of(heard.reported)
        if reported is not None and reported != series.expectation.reported:
            completeness = with_reported(completeness, reported)
        return completeness
    if completeness is None or performed is None or performed == series.expectation.performed:
        return completeness
    return completeness_of(replace(series.expectation, performed=performed))


def judge_by_list(connection: Connection, key: SeriesKey, now: dt.datetime, *, is_over: bool) -> None:
    """Let the list of a performed procedure step that has just ended count for a series, if there is one.

    An open series is due at once if every listed instance is stored, or if nothing more comes (`is_over`). A closed one
    gets another verdict. One under conversion gets it with its outcome.
    """
    study_instance_uid, series_instance_uid = key
    columns = select(SeriesRow.id, SeriesRow.state, StudyRow.study_instance_uid).select_from(join(SeriesRow, StudyRow))
    held = columns.where(SeriesRow.series_instance_uid == series_instance_uid)
    for row in connection.execute(held.with_for_update(key_share=True, of=SeriesRow)).all():
        performed = performed_of(connection, row.id, row.study_instance_uid, series_instance_uid)
        if performed is None or study_instance_uid not in ("", row.study_instance_uid):
            continue
        received = performed.listed - performed.missing + performed.unlisted
        key = row.study_instance_uid, series_instance_uid
        lost, (aside, versions) = count_lost(connection, key), count_aside(connection, row.id, *key)
        known = Expectation(received, performed=performed, lost=lost, aside=aside, versions=versions)
        verdict = completeness_of(known)
        if row.state == "receiving" and (is_over or not performed.missing):
            _update(connection, row.id, {"due_at": now, "waits": None})
        elif row.state not in OPEN_STATES:
            _change_verdict(connection, row.id, verdict, now)
        record_series_event(connection, "series-confirmed", key, now, verdict.reason)


def _siblings(connection: Connection, row: Row[Any]) -> list[int]:
    """Return the numbers of instances of the converted series that should have as many: same protocol, same matrix."""
    own = connection.execute(_first_image(row.id)).first()
    query = _of_same_protocol(row).where(
        SeriesRow.state == "converted", SeriesRow.series_description == row.series_description
    )
    alike = [
        series
        for series in connection.execute(query).scalars().all()
        if connection.execute(_first_image(series)).first() == own
    ]
    counts = (select(func.count()).where(ImageRow.series_id == series) for series in alike)
    return [connection.execute(count).scalar_one() for count in counts]


def _is_split(connection: Connection, row: Row[Any], counts: Sequence[InstanceCounts]) -> bool:
    """Return whether another series of the protocol announces as many times: some senders make a series of each."""
    times = max((count.number_of_temporal_positions or 0 for count in counts), default=0)
    if times < 2:
        return False
    announced = (
        connection.execute(
            select(ImageRow.number_of_temporal_positions).where(ImageRow.series_id == series).limit(1)
        ).scalar()
        for series in connection.execute(_of_same_protocol(row)).scalars().all()
    )
    return times in announced


def _parts(connection: Connection, row: Row[Any]) -> list[int]:
    """Return the series that seem to be of one acquisition with an MR series: some senders make one of each volume.

    They have its Series Number, or numbers that follow each other, and Acquisition Numbers that no two of them share.
    """
    if row.modality != "MR" or row.series_number is None or row.frame_of_reference_uid is None:
        return []
    own = connection.execute(_first_image(row.id)).first()
    alike = _of_same_protocol(row).where(
        SeriesRow.series_description.is_not_distinct_from(row.series_description),
        SeriesRow.frame_of_reference_uid == row.frame_of_reference_uid,
        SeriesRow.series_number.is_not(None),
    )
    numbered: dict[int, list[int]] = defaultdict(list)
    for series, number in connection.execute(alike.add_columns(SeriesRow.series_number)).all():
        if connection.execute(_first_image(series)).first() == own:
            numbered[number].append(series)
    if numbered[row.series_number]:
        return numbered[row.series_number]
    run = [series for number in _run_of(row.series_number, numbered) for series in numbered[number]]
    acquisitions = [_acquisitions(connection, series) for series in (row.id, *run)]
    shared = sum(map(len, acquisitions)) > len(set().union(*acquisitions))
    return [] if shared or None in set().union(*acquisitions) else run


def _run_of(number: int, numbers: Mapping[int, Any]) -> list[int]:
    """Return the numbers that follow a number, or lead to it, without a gap."""
    found = []
    for step in (-1, 1):
        other = number + step
        while numbers.get(other):
            found.append(other)
            other += step
    return found


def _acquisitions(connection: Connection, series_id: int) -> set[int | None]:
    return set(
        connection.scalars(select(ImageRow.acquisition_number).where(ImageRow.series_id == series_id).distinct())
    )


def _doubt_parts(connection: Connection, series_id: int, now: dt.datetime) -> None:
    """Have complete series converted again of whose acquisition a series just converted seems to be."""
    row = connection.execute(select(SeriesRow.__table__).where(SeriesRow.id == series_id)).one()
    of_list = SeriesRow.verdict_rule == "mpps"  # which outweighs the doubt
    complete = select(SeriesRow.id).where(SeriesRow.verdict == "complete", ~of_list)
    for part in connection.scalars(complete.where(SeriesRow.id.in_(_parts(connection, row)))).all():
        convert_for_verdict(connection, part, now)


def _first_image(series_id: int) -> Select[int | None, int | None]:
    """Select the matrix of one image of a series."""
    return select(ImageRow.rows, ImageRow.columns).where(ImageRow.series_id == series_id).limit(1)


def _of_same_protocol(row: Row[Any]) -> Select[int]:
    """Select the ids of the other series of the study with this modality and protocol; none without a protocol."""
    return select(SeriesRow.id).where(
        SeriesRow.study_id == row.study_id,
        SeriesRow.id != row.id,
        SeriesRow.modality == row.modality,
        SeriesRow.protocol_name == row.protocol_name,
        SeriesRow.protocol_name.is_not(None),
    )


def _record_quiet(
    connection: Connection, row: Row[Any], study_uid: str, expected: Expectation, now: dt.datetime
) -> None:
    """Record the event once, even if the conversion begins several times."""
    last = (
        select(EventRow.kind)
        .where(EventRow.series_instance_uid == row.series_instance_uid, EventRow.study_instance_uid == study_uid)
        .order_by(EventRow.id.desc())
        .limit(1)
    )
    if connection.execute(last).scalar() == "series-quiet":
        return
    why = f"{expected.received} {'instance' if expected.received == 1 else 'instances'}"
    if expected.forced:
        why += ", more may follow; the longest wait is over"
    elif expected.reported is not None and expected.reported.instances == expected.received:
        why += ", as many as the sender has"
    record_series_event(connection, "series-quiet", (study_uid, row.series_instance_uid), now, why, row.revision + 1)


# The worker asks these after each commit, so they are made once.
_FIRST_DUE_AT = select(func.min(SeriesRow.due_at)).where(SeriesRow.state == "receiving")
_FIRST_OPENED_AT = select(func.min(SeriesRow.open_since)).where(SeriesRow.state == "receiving", SeriesRow.attempts == 0)
_ANY_CLAIMED = Prepared(select(SeriesRow.id).where(SeriesRow.state == "converting").limit(1))


def _next_due_at(connection: Connection, longest_wait: dt.timedelta | None) -> dt.datetime | None:
    moments = [connection.execute(_FIRST_DUE_AT).scalar()]
    if longest_wait is not None:
        opened = connection.execute(_FIRST_OPENED_AT).scalar()
        moments.append(opened and opened + longest_wait)
    return min((moment for moment in moments if moment is not None), default=None)


def _is_due(now: dt.datetime, longest_wait: dt.timedelta | None) -> ColumnElement[bool]:
    is_due = SeriesRow.due_at <= now
    if longest_wait is not None:
        is_due = or_(is_due, and_(SeriesRow.open_since <= now - longest_wait, SeriesRow.attempts == 0))
    return and_(SeriesRow.state == "receiving", is_due)


def _end_claim(connection: Connection, series: ClaimedSeries, state: str, now: dt.datetime, **values: Any) -> bool:
    """Leave the state `converting`. A series that grew meanwhile is receiving again, with its current due time."""
    grown = SeriesRow.receptions != SeriesRow.claimed_receptions
    ended = connection.execute(
        update(SeriesRow)
        .where(SeriesRow.id == series.id, SeriesRow.claim == series.claim)
        .values(
            state=case((grown, "receiving"), else_=state),
            due_at=case((grown, SeriesRow.due_at), else_=null()),
            waits=case((grown, SeriesRow.waits), else_=null()),
            open_since=SeriesRow.open_since if state == "receiving" else null(),
            claim=None,
            claimed_by=None,
            claimed_receptions=None,
            **values,
        )
        .returning(SeriesRow.state)
    ).scalar()
    if ended is None:
        return False
    if state != "receiving":
        if ended != state:
            _update(connection, series.id, {"open_since": _first_received_since(connection, series) or now})
        end_waits_for(connection, series.series_instance_uid, now)
        study_id = select(SeriesRow.study_id).where(SeriesRow.id == series.id).scalar_subquery()
        connection.execute(update(StudyRow).where(StudyRow.id == study_id).values(closed_at=now))
    return True


def _first_received_since(connection: Connection, series: ClaimedSeries) -> dt.datetime | None:
    """Return the earliest reception of an instance that a claim does not have, or None if it has all."""
    had = {instance.key for instance in series.instances}
    rows = connection.execute(select(ImageRow.key, ImageRow.received_at).where(ImageRow.series_id == series.id))
    return min((received_at for key, received_at in rows if key not in had), default=None)


def _completeness_columns(completeness: Completeness | None) -> dict[str, Any]:
    if completeness is None:
        return {}
    return {
        "verdict": completeness.state,
        "verdict_rule": completeness.rule,
        "verdict_reason": completeness.reason,
        "expected_instances": completeness.expected,
        "expected_source": completeness.expected_source,
        "missing_instances": completeness.missing,
        "missing_detail": completeness.missing_detail,
    }


def _update(connection: Connection, series_id: int, values: dict[str, Any]) -> None:
    connection.execute(update(SeriesRow).where(SeriesRow.id == series_id).values(values))


def _at(key: SeriesKey) -> Select[Any]:
    """Select the row of a series by both UIDs; a Series Instance UID may occur in two studies."""
    study_instance_uid, series_instance_uid = key
    names = "id", "state", "verdict_rule", "last_received_at", "due_at", "waits"
    columns: list[Any] = [getattr(SeriesRow, name) for name in names]
    return (
        select(*columns)
        .select_from(join(SeriesRow, StudyRow))
        .where(StudyRow.study_instance_uid == study_instance_uid, SeriesRow.series_instance_uid == series_instance_uid)
    )


def _held_at(key: SeriesKey) -> Select[Any]:
    """As `_at`, of a series that is about to change: no other writer changes it meanwhile."""
    return _at(key).with_for_update(key_share=True, of=SeriesRow)


def _key(series: ClaimedSeries) -> SeriesKey:
    return series.study_instance_uid, series.series_instance_uid
