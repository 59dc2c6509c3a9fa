"""The claim of a series: who gets which is due, and how it ends.

It ends with an outcome, without one for now, or because the converter crashed. An end counts only while the claim is
held: who has lost it changes nothing.
"""

import datetime as dt
import uuid
from collections.abc import Collection, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, and_, case, func, null, or_, select, update

from node.completeness import Expectation, Reported, verdict_of
from node.dicom.counts import InstanceCounts
from node.index.rows.converted import ClaimedInstance, SeriesKey
from node.index.rows.hot_statements import PreparedStatement
from node.index.rows.models.history import EventRow
from node.index.rows.models.levels import OPEN_STATES, ImageRow, SeriesRow, StudyRow
from node.index.rows.records import ClaimedSeries, FinalKind, SeriesOutcome
from node.index.rows.repositories import IndexRepository, Terms, columns_of, on_reader, on_writer, reads
from node.index.rules.intake.stated import settle
from node.index.rules.series.conversions import (
    current_conversion,
    insert_conversion,
    last_revision,
    owe_sidecars,
    replace_failures,
)
from node.index.rules.series.reopening import (
    OPENED,
    convert_referring,
    end_waits_for,
    find_series,
    references_of,
    reopen,
    replace_references,
)
from node.index.rules.series.verdicts import (
    COUNTS,
    completeness_columns,
    count_damaged,
    count_lost,
    doubt_parts,
    expectation_of,
    held_at,
    judge,
    row_of,
    update_series,
    verdict_now,
)
from node.index.rules.series.waits import REVOKED, await_nobody, is_due, learn_gaps
from node.index.rules.work.events import record_series_event
from node.runtime.background import wait_seconds


class ClaimEnds(IndexRepository):
    """The ends of claims: with an outcome, with one that is as before, or by a crash."""

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
        why = outcome.failures[0][1] if outcome.error else None
        columns = {"revision": series.revision, "error": outcome.error, "why": why}
        if not _end_claim(connection, series, outcome.state, now, **columns):
            return False
        insert_conversion(connection, series, outcome, self._sharing.holder, now)
        completeness, row = outcome.completeness, row_of(connection, series.id)
        if completeness is not None and row.state not in OPEN_STATES:
            completeness = verdict_now(connection, row, now)  # with what was heard meanwhile
        update_series(connection, series.id, {"attempts": 0} | completeness_columns(completeness))
        if completeness != outcome.completeness:
            owe_sidecars(connection, series.id)
        doubt_parts(connection, series.id, now)
        is_stale = replace_references(connection, series.id, outcome.references)
        kind: FinalKind = "series-converted" if outcome.state == "converted" else "series-refused"
        detail = outcome.error or (completeness.reason if completeness else None)
        record_series_event(connection, kind, series.key, now, detail, series.revision, why=why)
        if is_stale:
            change = "a series to which it refers has changed meanwhile"
            reopen(connection, series.id, series.study_instance_uid, None, now, change)
        if not outcome.references:
            convert_referring(connection, [series.series_instance_uid], now, f"has revision {series.revision}")
        return True

    @on_writer
    def record_unchanged(self, connection: Connection, series: ClaimedSeries, now: dt.datetime) -> None:
        """End a claim without a new revision, because the conversion would repeat the current one."""
        if _end_claim(connection, series, "converted", now, error=None, why=None, attempts=0):
            revision = connection.scalar(select(SeriesRow.revision).where(SeriesRow.id == series.id))
            record_series_event(connection, "series-unchanged", series.key, now, None, revision)
            judge(connection, series.id, now)

    @on_writer
    def record_crash(
        self, connection: Connection, series: ClaimedSeries, detail: str, attempts: int, now: dt.datetime
    ) -> bool:
        """Record that the converter crashed on a series: it is due again later, or `failed` after too many attempts.

        `detail`: the cause, in a sentence.
        `attempts`: number of crashes after which the series is set aside.

        The result says whether it will be tried again.
        """
        before = connection.execute(select(SeriesRow.attempts).where(SeriesRow.id == series.id)).scalar()
        if before is None:  # the series was deleted meanwhile
            return False
        tried = before + 1
        again = tried < attempts
        if not _end_claim(connection, series, "receiving" if again else "failed", now, error=detail, why="failed"):
            return again
        values: dict[str, Any] = {"attempts": tried}
        if again:
            values["due_at"] = now + dt.timedelta(seconds=wait_seconds(tried))
        else:
            values |= completeness_columns(verdict_of(series.expectation))
            replace_failures(connection, series, [(None, "failed", detail)], now)
            record_series_event(connection, "series-failed", series.key, now, detail, series.revision)
        update_series(connection, series.id, values)
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
        if _end_claim(connection, series, "failed", now, error=f"damaged: {detail}", why="damaged", attempts=0):
            if count_lost(connection, series.key) or count_damaged(connection, series.id):
                judge(connection, series.id, now)
            replace_failures(connection, series, [(None, "damaged", detail)], now)
            replace_references(connection, series.id, references)
            record_series_event(connection, "series-failed", series.key, now, detail, series.revision)

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
        self,
        connection: Connection,
        series: ClaimedSeries,
        why: str,
        wait: dt.timedelta,
        now: dt.datetime,
        references: Sequence[SeriesKey] = (),
        reason: str | None = None,
    ) -> None:
        """Give up a claim because the machine lacked something: the series is due again later, and did not fail.

        One that has grown says nothing of it, and is due when it is quiet again.

        `references`: it waits until these open series, to which it refers, are closed, or for `wait` at most.
        `reason`: `why` in one word, `FOR_ROOM` if it waits for nothing else.
        """
        if _end_claim(connection, series, "receiving", now):
            if references:
                replace_references(connection, series.id, [(key, None) for key in references])
            has_not_grown = SeriesRow.id == series.id, SeriesRow.due_at.is_(None)
            postponed = update(SeriesRow).where(*has_not_grown)
            connection.execute(postponed.values(due_at=now + wait, error=f"waits: {why}", why=reason))


def _end_claim(connection: Connection, series: ClaimedSeries, state: str, now: dt.datetime, **values: Any) -> bool:
    """Leave the state `converting`. A series that grew meanwhile is receiving again, with its current due time."""
    grown = SeriesRow.receptions != SeriesRow.claimed_receptions
    ended = connection.execute(
        update(SeriesRow)
        .where(SeriesRow.id == series.id, SeriesRow.claim == series.claim)
        .values(
            state=case((grown, "receiving"), else_=state),
            due_at=case((grown, SeriesRow.due_at), else_=null()),
            open_since=SeriesRow.open_since if state == "receiving" else null(),
            claim=None,
            claimed_by=None,
            claimed_receptions=None,
            **values,
        )
        .returning(SeriesRow.state, SeriesRow.due_at)
    ).first()
    if ended is None:
        return False
    if ended.due_at is None:  # it has not grown
        await_nobody(connection, series.id)
    if state != "receiving":
        if ended.state != state:
            update_series(connection, series.id, {"open_since": _first_received_since(connection, series) or now})
        end_waits_for(connection, series.series_instance_uid, now)
        study_id = select(SeriesRow.study_id).where(SeriesRow.id == series.id).scalar_subquery()
        connection.execute(update(StudyRow).where(StudyRow.id == study_id).values(closed_at=now))
    return True


def _first_received_since(connection: Connection, series: ClaimedSeries) -> dt.datetime | None:
    """Return the earliest reception of an instance that a claim does not have, or None if it has all."""
    had = {instance.key for instance in series.instances}
    rows = connection.execute(select(ImageRow.key, ImageRow.received_at).where(ImageRow.series_id == series.id))
    return min((received_at for key, received_at in rows if key not in had), default=None)


RECONVERSION_REQUESTED = "reconversion requested"
"""Detail of the event by which a series opens again on request."""

FOR_ROOM = "for-room"
"""Why a series waits that is due, and whose conversion found no room for the files that it writes."""


def _next_due_at(connection: Connection, longest_wait: dt.timedelta | None = None) -> dt.datetime | None:
    moments = [connection.execute(_FIRST_DUE_AT).scalar()]
    if longest_wait is not None:
        opened = connection.execute(_FIRST_OPENED_AT).scalar()
        moments.append(opened and opened + longest_wait)
    return min((moment for moment in moments if moment is not None), default=None)


class SeriesRepository(ClaimEnds):
    """The series of an index, from their first instance to the outcome of their conversion."""

    next_due_at = reads(_next_due_at)

    @on_reader
    def is_due(
        self,
        connection: Connection,
        now: dt.datetime,
        longest_wait: dt.timedelta | None = None,
        *,
        has_room: bool = True,
    ) -> bool:
        """Return whether `claim_due` would find a series: polled often, and usually no write is needed."""
        first_at = connection.execute(_FIRST_DUE_AT).scalar()
        if first_at is None or first_at > now:  # else a look at each series that is open would tell nothing more
            next_at = _next_due_at(connection, longest_wait)
            if next_at is None or next_at > now:
                return False
        return connection.execute(self._due(now, longest_wait, has_room)).first() is not None

    @on_reader
    def count_open(self, connection: Connection) -> int:
        """Count the series that wait or are being converted."""
        query = select(func.count()).select_from(SeriesRow).where(SeriesRow.state.in_(OPEN_STATES))
        return int(connection.execute(query).scalar_one())

    @on_writer
    def claim_due(
        self,
        connection: Connection,
        now: dt.datetime,
        longest_wait: dt.timedelta | None = None,
        *,
        has_room: bool = True,
    ) -> ClaimedSeries | None:
        """Claim the series that has been due the longest; None if no series is due.

        `longest_wait`: a series that has been open this long is claimed even if instances are still received.
        `has_room`: whether there is room for volumes; without, each series is claimed once, until it grows.
        """
        due = self._due(now, longest_wait, has_room)
        row = connection.execute(
            update(SeriesRow)
            .where(SeriesRow.id == due.with_for_update(skip_locked=True).scalar_subquery())
            .values(
                state="converting",
                claim=uuid.uuid4().hex,
                claimed_by=self._sharing.host,
                claimed_receptions=SeriesRow.receptions,
            )
            .returning(SeriesRow)
        ).first()
        return None if row is None else _claimed(connection, row, now)

    def _due(self, now: dt.datetime, longest_wait: dt.timedelta | None, has_room: bool) -> Select[Any]:
        """Select the series that has been due the longest, of those whose instances can be read here."""
        waiting = select(SeriesRow.id).where(is_due(now, longest_wait))
        if not has_room:
            waiting = waiting.where(SeriesRow.why.is_distinct_from(FOR_ROOM))
        return waiting.where(self._sharing.has_files_of(SeriesRow.id)).order_by(SeriesRow.due_at.nulls_first()).limit(1)

    def take_over(self, now: dt.datetime) -> tuple[ClaimedSeries, str] | None:
        """Claim a series of a host whose lease is over; return it with the name of that host, None if there is none.

        Whatever that host still does, its outcome will not count.
        """
        is_abandoned = self._sharing.abandoned(now)
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
        values = {"claim": uuid.uuid4().hex, "claimed_by": self._sharing.host}
        row = connection.execute(taken.values(values).returning(SeriesRow)).one()
        return _claimed(connection, row, now), str(found.claimed_by)

    @on_reader
    def claims(self, connection: Connection) -> list[str]:
        """Return the claims of all conversions under way, of any host."""
        is_claimed = SeriesRow.state == "converting", SeriesRow.claim.is_not(None)
        return list(connection.scalars(select(SeriesRow.claim).where(*is_claimed)))

    def is_claimed(self, series: ClaimedSeries) -> bool:
        """Return whether an outcome of this claim would be recorded now."""
        return series.claim in self.held([series.claim])

    @on_reader
    def held(self, connection: Connection, claims: Collection[str]) -> set[str]:
        """Return which of these claims still hold a series."""
        is_held = SeriesRow.state == "converting", SeriesRow.claim.in_(claims), SeriesRow.claimed_receptions != REVOKED
        return set(connection.scalars(select(SeriesRow.claim).where(*is_held)))

    def record_lack(self, lack: str | None) -> None:
        """Write into `error` of the series that found no room what a disk lacks now; None: there is room again."""
        concerned = and_(SeriesRow.state == "receiving", SeriesRow.why == FOR_ROOM)
        if self._is_any(concerned):
            told = (None, None) if lack is None else (f"waits: for room: {lack}", FOR_ROOM)
            self._set_error(concerned, *told)

    @on_writer
    def _set_error(
        self, connection: Connection, concerned: ColumnElement[bool], error: str | None, why: str | None
    ) -> None:
        connection.execute(update(SeriesRow).where(concerned).values(error=error, why=why))

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
        is_own = or_(self._sharing.is_own(SeriesRow.claimed_by), SeriesRow.claimed_by.is_(None))
        return and_(SeriesRow.state == "converting", SeriesRow.claim.not_in(held), is_own)

    @on_writer
    def reopen(
        self, connection: Connection, keys: Collection[SeriesKey], now: dt.datetime, terms: Terms | None = None
    ) -> int:
        """Make closed series due for another conversion; return how many were closed. Open series are not changed."""
        if terms is not None:
            for key in sorted(keys):
                connection.execute(held_at(key))
            terms(connection)
        reopened = 0
        for key in keys:
            for row in connection.execute(held_at(key).where(SeriesRow.state.not_in(OPEN_STATES))).all():
                update_series(connection, row.id, OPENED | {"open_since": now, "due_at": now})
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
        for row in connection.execute(held_at(key)).all():
            received = connection.execute(select(func.count()).where(ImageRow.series_id == row.id)).scalar_one()
            if received != reported.received:
                continue
            values: dict[str, Any] = {"reported": asdict(reported)}
            if row.state == "receiving" and ends_wait:
                await_nobody(connection, row.id)
                values["due_at"] = now
            update_series(connection, row.id, values)
            judge(connection, row.id, now)
            if reported.instances is not None:
                detail = f"the sender has {reported.instances} instances, {received} are here"
                record_series_event(connection, "series-confirmed", key, now, detail)


def _claimed(connection: Connection, row: Row[Any], now: dt.datetime) -> ClaimedSeries:
    """Return a newly claimed series with its instances, and record that it became quiet."""
    columns = StudyRow.study_instance_uid, StudyRow.uncounted
    study_uid, uncounted = connection.execute(select(*columns).where(StudyRow.id == row.study_id)).one()
    if uncounted:
        settle(connection, row.study_id, now)
        row = connection.execute(select(SeriesRow.__table__).where(SeriesRow.id == row.id)).one()
    images = connection.execute(
        select(*columns_of(ClaimedInstance, ImageRow), ImageRow.transfer_syntax_uid, *COUNTS)
        .where(ImageRow.series_id == row.id)
        .order_by(ImageRow.instance_number.nulls_first(), ImageRow.sop_instance_uid)
    ).all()
    expected = expectation_of(connection, row, study_uid, [InstanceCounts(*image[6:]) for image in images], now)
    revision = 1 + last_revision(connection, row)
    _record_quiet(connection, row, study_uid, expected, revision, now)
    learn_gaps(connection, row.id, row.open_since, now)
    return ClaimedSeries(
        id=row.id,
        claim=row.claim,
        study_instance_uid=study_uid,
        series_instance_uid=row.series_instance_uid,
        revision=revision,
        instances=tuple(ClaimedInstance(*image[:5]) for image in images),
        expectation=expected,
        current=current_conversion(connection, row.id),
        referenced=tuple(find_series(connection, row.id, key) for key in references_of(connection, row.id)),
        transfer_syntax_uids=frozenset(image.transfer_syntax_uid for image in images),
    )


def _record_quiet(
    connection: Connection, row: Row[Any], study_uid: str, expected: Expectation, revision: int, now: dt.datetime
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
    record_series_event(connection, "series-quiet", (study_uid, row.series_instance_uid), now, why, revision)


# The worker asks these after each commit, so they are made once.
_FIRST_DUE_AT = select(func.min(SeriesRow.due_at)).where(SeriesRow.state == "receiving")
_FIRST_OPENED_AT = select(func.min(SeriesRow.open_since)).where(SeriesRow.state == "receiving", SeriesRow.attempts == 0)
_ANY_CLAIMED = PreparedStatement(select(SeriesRow.id).where(SeriesRow.state == "converting").limit(1))
