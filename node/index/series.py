"""The ledger of conversions: which series are due, who has claimed one, and what came of it.

State is rows. A worker that dies leaves a claim behind, which the next start of the node gives back.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, Select, and_, case, delete, func, insert, null, or_, select, update
from sqlalchemy.orm import aliased

from node.completeness import C_FIND, Expectation, InstanceCounts, Verdict, expectation, judge
from node.index.events import EventKind, record_event
from node.index.instances import REVOKED
from node.index.models import (
    ConversionRow,
    EventRow,
    ExclusionRow,
    FailureRow,
    ImageRow,
    SeriesRow,
    StudyRow,
    VolumeRow,
    VolumeSourceRow,
)
from node.index.records import (
    ClaimedInstance,
    ClaimedSeries,
    CurrentConversion,
    SeriesOutcome,
    SupersededConversion,
)
from node.retries import wait_seconds

_COUNTS = tuple(getattr(ImageRow, name) for name in InstanceCounts.__slots__)


def is_series_due(connection: Connection, now: dt.datetime, longest_wait: dt.timedelta | None = None) -> bool:
    """Whether `claim_due_series` would find one."""
    return connection.execute(_due(now, longest_wait)).first() is not None


def _due(now: dt.datetime, longest_wait: dt.timedelta | None) -> Select[Any]:
    is_due = SeriesRow.due_at <= now
    if longest_wait is not None:
        is_due = or_(is_due, and_(SeriesRow.open_since <= now - longest_wait, SeriesRow.attempts == 0))
    return select(SeriesRow.id).where(SeriesRow.state == "receiving", is_due).order_by(SeriesRow.due_at).limit(1)


def claim_due_series(
    connection: Connection, now: dt.datetime, longest_wait: dt.timedelta | None = None
) -> ClaimedSeries | None:
    """Take the series that has been due longest, if there is one.

    Parameters
    ----------
    longest_wait : timedelta or None
        A series that has been open for so long is taken although instances of it still come.
    """
    row = connection.execute(
        update(SeriesRow)
        .where(SeriesRow.id == _due(now, longest_wait).scalar_subquery())
        .values(state="converting", claim=uuid.uuid4().hex, claimed_arrivals=SeriesRow.arrivals)
        .returning(SeriesRow)
    ).first()
    if row is None:
        return None
    study_uid = connection.execute(select(StudyRow.study_instance_uid).where(StudyRow.id == row.study_id)).scalar_one()
    instances = connection.execute(
        select(ImageRow.sop_instance_uid, ImageRow.key, ImageRow.sha256, *_COUNTS)
        .where(ImageRow.series_id == row.id)
        .order_by(ImageRow.instance_number, ImageRow.sop_instance_uid)
    ).all()
    known = _expectation(connection, row, study_uid, [InstanceCounts(*one[3:]) for one in instances], now)
    _tell_quiet(connection, row, study_uid, known, now)
    return ClaimedSeries(
        id=row.id,
        claim=row.claim,
        study_instance_uid=study_uid,
        series_instance_uid=row.series_instance_uid,
        revision=row.revision + 1,
        instances=tuple(ClaimedInstance(*one[:3]) for one in instances),
        expectation=known,
        current=_current_conversion(connection, row.id),
    )


def _expectation(
    connection: Connection, row: Row[Any], study_uid: str, counts: Sequence[InstanceCounts], now: dt.datetime
) -> Expectation:
    aborted = select(EventRow.id).where(
        EventRow.kind == "sender-aborted",
        EventRow.series_instance_uid == row.series_instance_uid,
        EventRow.study_instance_uid == study_uid,
        EventRow.happened_at >= row.last_received_at,
    )
    return expectation(
        counts,
        confirmed=row.expected_instances if row.expected_source == C_FIND else None,
        aborted=connection.execute(aborted.limit(1)).first() is not None,
        forced=row.due_at is not None and row.due_at > now,
    )


def _tell_quiet(connection: Connection, row: Row[Any], study_uid: str, known: Expectation, now: dt.datetime) -> None:
    """Record the event once, also when the conversion begins several times."""
    last = (
        select(EventRow.kind)
        .where(EventRow.series_instance_uid == row.series_instance_uid, EventRow.study_instance_uid == study_uid)
        .order_by(EventRow.id.desc())
        .limit(1)
    )
    if connection.execute(last).scalar() == "series-quiet":
        return
    why = f"{known.received} instances"
    if known.forced:
        why += " and more to come; the longest wait is over"
    elif known.confirmed is not None and known.received >= known.confirmed:
        why += f", all of the {known.confirmed} that the sender has"
    _record(connection, "series-quiet", row.series_instance_uid, study_uid, now, row.revision + 1, why)


def _current_conversion(connection: Connection, series_id: int) -> CurrentConversion | None:
    current = select(ConversionRow.id, ConversionRow.input_sha256).where(
        ConversionRow.series_id == series_id, ConversionRow.superseded.is_(False)
    )
    row = connection.execute(current).first()
    if row is None:
        return None
    files = connection.execute(select(VolumeRow.path, VolumeRow.bytes).where(VolumeRow.conversion_id == row.id))
    return CurrentConversion(row.input_sha256, tuple((path, size) for path, size in files))


def record_outcome(connection: Connection, series: ClaimedSeries, outcome: SeriesOutcome, now: dt.datetime) -> bool:
    """Write the revision and end the claim, all at once: readers see the old volumes or the new ones.

    Returns
    -------
    bool
        False when the claim was no longer ours, or an instance was replaced or deleted meanwhile: nothing is written,
        and the files must go.
    """
    revoked = select(SeriesRow.id).where(
        SeriesRow.id == series.id, SeriesRow.claim == series.claim, SeriesRow.claimed_arrivals == REVOKED
    )
    if connection.execute(revoked).first() is not None:
        _end_claim(connection, series, "receiving", now)
        return False
    if not _end_claim(connection, series, outcome.state, now, revision=series.revision, error=outcome.error):
        return False
    values = {"attempts": 0} | _verdict_columns(outcome.verdict)
    connection.execute(update(SeriesRow).where(SeriesRow.id == series.id).values(values))
    _supersede(connection, series, now)
    conversion = connection.execute(
        insert(ConversionRow)
        .values(
            series_id=series.id,
            revision=series.revision,
            superseded=False,
            input_sha256=outcome.input_sha256,
            converter=outcome.converter,
            options=dict(outcome.options),
            instances=len(series.instances),
            seconds=outcome.seconds,
            created_at=now,
        )
        .returning(ConversionRow.id)
    ).scalar_one()
    _insert_rows(connection, series, outcome, conversion, now)
    kind: EventKind = "series-converted" if outcome.state == "converted" else "series-refused"
    told = outcome.error or (outcome.verdict.reason if outcome.verdict else None)
    _record(connection, kind, series.series_instance_uid, series.study_instance_uid, now, series.revision, told)
    return True


def record_unchanged(connection: Connection, series: ClaimedSeries, now: dt.datetime) -> None:
    """End a claim whose conversion would give what is there already: no revision is made."""
    if _end_claim(connection, series, "converted", now, error=None, attempts=0):
        revision = series.revision - 1
        _record(
            connection, "series-unchanged", series.series_instance_uid, series.study_instance_uid, now, revision, None
        )


def record_crash(connection: Connection, series: ClaimedSeries, detail: str, attempts: int, now: dt.datetime) -> bool:
    """Note that the converter died on a series: due again later, or set aside as `failed` after `attempts` tries.

    Returns
    -------
    bool
        Whether it will be tried again.
    """
    tried = connection.execute(select(SeriesRow.attempts).where(SeriesRow.id == series.id)).scalar_one() + 1
    again = tried < attempts
    wait = dt.timedelta(seconds=wait_seconds(tried))
    if _end_claim(connection, series, "receiving" if again else "failed", now, error=detail):
        values: dict[str, Any] = {"attempts": tried}
        if again:
            values["due_at"] = now + wait
        else:
            values |= _verdict_columns(judge(series.expectation))
            _replace_failures(connection, series, [(None, "failed", detail)], now)
            _record(
                connection, "series-failed", series.series_instance_uid, series.study_instance_uid, now,
                series.revision, detail,
            )  # fmt: skip
        connection.execute(update(SeriesRow).where(SeriesRow.id == series.id).values(values))
    return again


def release_claim(connection: Connection, series: ClaimedSeries, now: dt.datetime) -> None:
    """Hand a series back unconverted: it is due at once."""
    if _end_claim(connection, series, "receiving", now):
        connection.execute(update(SeriesRow).where(SeriesRow.id == series.id).values(due_at=now))


def release_all_claims(connection: Connection, now: dt.datetime) -> int:
    """Hand back what a dead process had claimed; returns how many series."""
    values = {"state": "receiving", "claim": None, "claimed_arrivals": None, "due_at": now}
    return connection.execute(update(SeriesRow).where(SeriesRow.state == "converting").values(values)).rowcount


def live_revisions(connection: Connection) -> set[tuple[str, str, int]]:
    """(Study Instance UID, Series Instance UID, revision) of every recorded conversion."""
    rows = connection.execute(
        select(StudyRow.study_instance_uid, SeriesRow.series_instance_uid, ConversionRow.revision)
        .join(SeriesRow, SeriesRow.id == ConversionRow.series_id)
        .join(StudyRow, StudyRow.id == SeriesRow.study_id)
    )
    return {(study, series, revision) for study, series, revision in rows}


def superseded_before(connection: Connection, moment: dt.datetime) -> list[SupersededConversion]:
    """Conversions that a newer one took the place of before `moment`, and whose files are still there."""
    newer = aliased(ConversionRow)
    since = (
        select(func.min(newer.created_at))
        .where(newer.series_id == ConversionRow.series_id, newer.revision > ConversionRow.revision)
        .scalar_subquery()
    )
    rows = connection.execute(
        select(ConversionRow.id, StudyRow.study_instance_uid, SeriesRow.series_instance_uid, ConversionRow.revision)
        .join(SeriesRow, SeriesRow.id == ConversionRow.series_id)
        .join(StudyRow, StudyRow.id == SeriesRow.study_id)
        .where(ConversionRow.superseded, ConversionRow.files_removed_at.is_(None), since <= moment)
    )
    return [SupersededConversion(*row) for row in rows]


def record_files_removed(connection: Connection, conversion: SupersededConversion, now: dt.datetime) -> None:
    """Note that the files of a superseded conversion are gone; its rows stay."""
    connection.execute(update(ConversionRow).where(ConversionRow.id == conversion.id).values(files_removed_at=now))


def _end_claim(connection: Connection, series: ClaimedSeries, state: str, now: dt.datetime, **values: Any) -> bool:
    """Leave `converting`; a series that has grown meanwhile is receiving again, due as its last arrival says."""
    grown = SeriesRow.arrivals != SeriesRow.claimed_arrivals
    open_since = SeriesRow.open_since if state == "receiving" else null()
    changed = connection.execute(
        update(SeriesRow)
        .where(SeriesRow.id == series.id, SeriesRow.claim == series.claim)
        .values(
            state=case((grown, "receiving"), else_=state),
            due_at=case((grown, SeriesRow.due_at), else_=null()),
            open_since=case((grown, SeriesRow.last_received_at), else_=open_since),
            claim=None,
            claimed_arrivals=None,
            **values,
        )
    )
    if changed.rowcount != 1:
        return False
    if state != "receiving":
        of_series = select(SeriesRow.study_id).where(SeriesRow.id == series.id).scalar_subquery()
        connection.execute(update(StudyRow).where(StudyRow.id == of_series).values(closed_at=now))
    return True


def _verdict_columns(verdict: Verdict | None) -> dict[str, Any]:
    if verdict is None:
        return {}
    return {
        "verdict": verdict.state,
        "verdict_rule": verdict.rule,
        "verdict_reason": verdict.reason,
        "expected_instances": verdict.expected,
        "expected_source": verdict.expected_source,
        "missing_instances": verdict.missing,
    }


def _supersede(connection: Connection, series: ClaimedSeries, now: dt.datetime) -> None:
    """Let the conversion that was current give way, and tell so where it had volumes."""
    current = ConversionRow.series_id == series.id, ConversionRow.superseded.is_(False)
    had_volumes = select(ConversionRow.revision).where(
        *current, select(VolumeRow.id).where(VolumeRow.conversion_id == ConversionRow.id).exists()
    )
    for revision in connection.scalars(had_volumes).all():
        detail = f"revision {series.revision} takes its place"
        _record(
            connection, "volume-superseded", series.series_instance_uid, series.study_instance_uid, now, revision,
            detail,
        )  # fmt: skip
    connection.execute(update(ConversionRow).where(*current).values(superseded=True))


def _record(
    connection: Connection,
    kind: EventKind,
    series_instance_uid: str,
    study_instance_uid: str,
    now: dt.datetime,
    revision: int,
    detail: str | None,
) -> None:
    record_event(
        connection,
        kind,
        now,
        study_instance_uid=study_instance_uid,
        series_instance_uid=series_instance_uid,
        revision=revision,
        detail=detail,
    )


def _insert_rows(
    connection: Connection, series: ClaimedSeries, outcome: SeriesOutcome, conversion: int, now: dt.datetime
) -> None:
    digests = {one.sop_instance_uid: one.sha256 for one in series.instances}
    volumes = [
        {
            "conversion_id": conversion,
            **{name: getattr(file, name) for name in file.__slots__},
            "shape": list(file.shape),
            "spacing_mm": list(file.spacing_mm),
            "warnings": list(file.warnings),
        }
        for file in outcome.files
    ]
    sources = [
        {"conversion_id": conversion, "stack": stack, "sop_instance_uid": uid, "sha256": digests[uid], "frames": frames}
        for stack, uid, frames in outcome.sources
    ]
    exclusions = [
        {"conversion_id": conversion, "sop_instance_uid": uid, "frames": frames, "reason": reason, "detail": detail}
        for uid, frames, reason, detail in outcome.exclusions
    ]
    for table, rows in ((VolumeRow, volumes), (VolumeSourceRow, sources), (ExclusionRow, exclusions)):
        if rows:
            connection.execute(insert(table), rows)
    _replace_failures(connection, series, outcome.failures, now)


def _replace_failures(
    connection: Connection,
    series: ClaimedSeries,
    failures: Sequence[tuple[int | None, str, str]],
    now: dt.datetime,
) -> None:
    """A series has the failures of its last conversion only."""
    connection.execute(delete(FailureRow).where(FailureRow.series_id == series.id))
    rows = [
        {
            "series_id": series.id,
            "revision": series.revision,
            "stack": stack,
            "reason": reason,
            "detail": detail,
            "failed_at": now,
        }
        for stack, reason, detail in failures
    ]
    if rows:
        connection.execute(insert(FailureRow), rows)
