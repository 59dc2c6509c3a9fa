"""The ledger of conversions: which series are due, who has claimed one, and what came of it.

State is rows. A worker that dies leaves a claim behind, which the next start of the node gives back.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, case, delete, insert, null, select, update

from node.index.models import Conversion, Exclusion, Failure, Image, Series, Study, Volume, VolumeSource
from node.index.records import ClaimedInstance, ClaimedSeries, SeriesOutcome


def claim_due_series(connection: Connection, now: dt.datetime) -> ClaimedSeries | None:
    """Take the series that has been due longest, if there is one."""
    due = select(Series.id).where(Series.state == "receiving", Series.due_at <= now).order_by(Series.due_at).limit(1)
    claim = uuid.uuid4().hex
    row = connection.execute(
        update(Series)
        .where(Series.id == due.scalar_subquery())
        .values(state="converting", claim=claim, claimed_arrivals=Series.arrivals)
        .returning(Series.id, Series.study_id, Series.series_instance_uid, Series.revision)
    ).first()
    if row is None:
        return None
    study_uid = connection.execute(select(Study.study_instance_uid).where(Study.id == row.study_id)).scalar_one()
    images = connection.execute(
        select(Image.sop_instance_uid, Image.key, Image.sha256, Image.images_in_acquisition)
        .where(Image.series_id == row.id)
        .order_by(Image.instance_number, Image.sop_instance_uid)
    ).all()
    announced = [image.images_in_acquisition for image in images if image.images_in_acquisition]
    return ClaimedSeries(
        id=row.id,
        claim=claim,
        study_instance_uid=study_uid,
        series_instance_uid=row.series_instance_uid,
        revision=row.revision + 1,
        instances=tuple(ClaimedInstance(image.sop_instance_uid, image.key, image.sha256) for image in images),
        images_in_acquisition=max(announced, default=None),
    )


def record_outcome(connection: Connection, series: ClaimedSeries, outcome: SeriesOutcome, now: dt.datetime) -> bool:
    """Write the revision and end the claim, all at once.

    Returns
    -------
    bool
        False when the claim was no longer ours: nothing is written, and the files must go.
    """
    if not _end_claim(connection, series, outcome.state, revision=series.revision, error=outcome.error):
        return False
    connection.execute(
        update(Series)
        .where(Series.id == series.id)
        .values(
            verdict=outcome.verdict,
            verdict_reason=outcome.verdict_reason,
            expected_instances=outcome.expected_instances,
            attempts=0,
        )
    )
    connection.execute(update(Conversion).where(Conversion.series_id == series.id).values(superseded=True))
    conversion = connection.execute(
        insert(Conversion)
        .values(
            series_id=series.id,
            revision=series.revision,
            superseded=False,
            converter=outcome.converter,
            options=dict(outcome.options),
            instances=len(series.instances),
            seconds=outcome.seconds,
            created_at=now,
        )
        .returning(Conversion.id)
    ).scalar_one()
    _insert_rows(connection, series, outcome, conversion, now)
    return True


def record_crash(
    connection: Connection, series: ClaimedSeries, detail: str, attempts: int, retry_seconds: float, now: dt.datetime
) -> bool:
    """Note that the converter died on a series: due again later, or set aside as `failed` after `attempts` tries.

    Returns
    -------
    bool
        Whether it will be tried again.
    """
    tried = connection.execute(select(Series.attempts).where(Series.id == series.id)).scalar_one() + 1
    again = tried < attempts
    wait = dt.timedelta(seconds=retry_seconds * 2 ** (tried - 1))
    if _end_claim(connection, series, "receiving" if again else "failed", error=detail):
        values: dict[str, Any] = {"attempts": tried}
        if again:
            values["due_at"] = now + wait
        connection.execute(update(Series).where(Series.id == series.id).values(values))
        if not again:
            _replace_failures(connection, series, [(None, "failed", detail)], now)
    return again


def release_claim(connection: Connection, series: ClaimedSeries, now: dt.datetime) -> None:
    """Hand a series back unconverted: it is due at once."""
    if _end_claim(connection, series, "receiving"):
        connection.execute(update(Series).where(Series.id == series.id).values(due_at=now))


def release_all_claims(connection: Connection, now: dt.datetime) -> int:
    """Hand back what a dead process had claimed; returns how many series."""
    values = {"state": "receiving", "claim": None, "claimed_arrivals": None, "due_at": now}
    return connection.execute(update(Series).where(Series.state == "converting").values(values)).rowcount


def shift_due_times(connection: Connection, step: dt.timedelta) -> None:
    """Follow a step of the system clock, so that what was due in ten seconds still is."""
    for row in connection.execute(select(Series.id, Series.due_at).where(Series.state == "receiving")).all():
        if row.due_at is not None:
            connection.execute(update(Series).where(Series.id == row.id).values(due_at=row.due_at + step))


def live_revisions(connection: Connection) -> set[tuple[str, str, int]]:
    """(Study Instance UID, Series Instance UID, revision) of every recorded conversion."""
    rows = connection.execute(
        select(Study.study_instance_uid, Series.series_instance_uid, Conversion.revision)
        .join(Series, Series.id == Conversion.series_id)
        .join(Study, Study.id == Series.study_id)
    )
    return {(study, series, revision) for study, series, revision in rows}


def _end_claim(connection: Connection, series: ClaimedSeries, state: str, **values: Any) -> bool:
    """Leave `converting`; a series that has grown meanwhile is receiving again, due as its last arrival says."""
    grown = Series.arrivals != Series.claimed_arrivals
    changed = connection.execute(
        update(Series)
        .where(Series.id == series.id, Series.claim == series.claim)
        .values(
            state=case((grown, "receiving"), else_=state),
            due_at=case((grown, Series.due_at), else_=null()),
            claim=None,
            claimed_arrivals=None,
            **values,
        )
    )
    return changed.rowcount == 1


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
    for table, rows in ((Volume, volumes), (VolumeSource, sources), (Exclusion, exclusions)):
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
    connection.execute(delete(Failure).where(Failure.series_id == series.id))
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
        connection.execute(insert(Failure), rows)
