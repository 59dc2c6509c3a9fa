"""How the claim of a series ends: with an outcome, without one for now, or because the converter crashed.

An end counts only while the claim is held: who has lost it changes nothing.
"""

import datetime as dt
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, case, null, select, update

from node.completeness import verdict_of
from node.index.engine.rows import IndexRepository, on_writer
from node.index.models.levels import OPEN_STATES, ImageRow, SeriesRow, StudyRow
from node.index.nouns.conversions import insert_conversion, owe_sidecars, replace_failures
from node.index.nouns.converted import SeriesKey
from node.index.nouns.events import FinalKind, record_series_event
from node.index.nouns.records import ClaimedSeries, SeriesOutcome
from node.index.nouns.reopening import DAMAGED, convert_referring, end_waits_for, reopen, replace_references
from node.index.nouns.verdicts import (
    completeness_columns,
    count_damaged,
    count_lost,
    doubt_parts,
    judge,
    row_of,
    update_series,
    verdict_now,
)
from node.index.nouns.waits import REVOKED, await_nobody
from node.runtime.background import wait_seconds


class ClaimEnds(IndexRepository):
    """The ends of claims, whose begins are in `node.index.nouns.series_claims`."""

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
        record_series_event(connection, kind, series.key, now, detail, series.revision)
        if is_stale:
            change = "a series to which it refers has changed meanwhile"
            reopen(connection, series.id, series.study_instance_uid, None, now, change)
        if not outcome.references:
            convert_referring(connection, [series.series_instance_uid], now, f"has revision {series.revision}")
        return True

    @on_writer
    def record_unchanged(self, connection: Connection, series: ClaimedSeries, now: dt.datetime) -> None:
        """End a claim without a new revision, because the conversion would repeat the current one."""
        if _end_claim(connection, series, "converted", now, error=None, attempts=0):
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
        if not _end_claim(connection, series, "receiving" if again else "failed", now, error=detail):
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
        if _end_claim(connection, series, "failed", now, error=f"{DAMAGED}{detail}", attempts=0):
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
    ) -> None:
        """Give up a claim because the machine lacked something: the series is due again later, and did not fail.

        One that has grown says nothing of it, and is due when it is quiet again.

        `references`: it waits until these open series, to which it refers, are closed, or for `wait` at most.
        """
        if _end_claim(connection, series, "receiving", now):
            if references:
                replace_references(connection, series.id, [(key, None) for key in references])
            has_not_grown = SeriesRow.id == series.id, SeriesRow.due_at.is_(None)
            postponed = update(SeriesRow).where(*has_not_grown)
            connection.execute(postponed.values(due_at=now + wait, error=f"waits: {why}"))


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
