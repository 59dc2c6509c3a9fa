"""Put instances into all four levels, and make their series due, in one transaction."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from sqlalchemy import Connection, bindparam, case, func, insert, select, update

from node.index.levels import (
    FIND_SERIES,
    Arrived,
    patient_identity,
    record_arrival_event,
    record_conflict,
    series_row,
    tell_reopened,
)
from node.index.models import ConflictRow, ImageRow, SeriesRow
from node.index.prepared import Prepared
from node.index.records import Kept, Outcome

REVOKED = -1
"""In `claimed_arrivals`: the series is still under conversion, but its outcome counts no more."""


@dataclass(frozen=True, slots=True)
class _Held:
    """An instance that the index holds; `pending` while its row is still to be inserted."""

    sha256: str
    key: str
    series_id: int
    file_missing: bool = False
    pending: bool = False


@dataclass(slots=True)
class _Growth:
    """What a batch brought to one series."""

    last: Arrived
    count: int = 0
    replaced: bool = False


_FIND_IMAGE = Prepared(
    select(ImageRow.sha256, ImageRow.key, ImageRow.series_id, ImageRow.file_missing).where(
        ImageRow.sop_instance_uid == bindparam("uid")
    )
)
_FIND_LOSER = select(ConflictRow.key).where(
    ConflictRow.sop_instance_uid == bindparam("uid"),
    ConflictRow.sha256 == bindparam("sha256"),
    ConflictRow.key.is_not(None),
)
_INSERT_IMAGES = Prepared(
    insert(ImageRow), [column.name for column in ImageRow.__table__.columns if column.name != "id"]
)
_SERIES_GREW = Prepared(
    update(SeriesRow)
    .where(SeriesRow.id == bindparam("series"))
    .values(
        arrivals=SeriesRow.arrivals + bindparam("count"),
        open_since=func.coalesce(SeriesRow.open_since, bindparam("received")),
        last_received_at=bindparam("received"),
        due_at=bindparam("due"),
        attempts=0,
        # A series under conversion stays claimed; its outcome finds that `arrivals` has grown and makes it due again.
        state=case((SeriesRow.state == "converting", "converting"), else_="receiving"),
    )
)


def add_instances(connection: Connection, batch: Sequence[Arrived]) -> list[Kept]:
    """Insert instances with their patients, studies and series, and move the `due_at` of each series that grew.

    Runs inside the writer's transaction; what became of them is in the order of `batch`.

    Notes
    -----
    The first instance of a patient, study or series says what the level holds. A study that turns up under a second
    patient, a series in a second study, a study without Patient ID and one Patient ID of two persons are recorded in
    `conflicts`.

    Other bytes under a SOP Instance UID that is here are never lost, and recorded in `conflicts` with their place:

    * ``never``: the first stays, the second goes to quarantine;
    * ``keep_both``: the first stays what is converted and served, the second keeps its place in the archive;
    * ``replace``: the second takes the row and reopens the series, the first goes to quarantine. An instance that
      comes back under another series is not replaced: that would take it out of the series that holds it.
    """
    held = _held(connection, {one.attributes.sop_instance_uid for one in batch})
    images: dict[str, dict[str, object]] = {}
    grown: dict[int, _Growth] = {}
    places: dict[tuple[object, ...], int] = {}
    kept: list[Kept] = []
    for one in batch:
        uid = one.attributes.sop_instance_uid
        first = held.get(uid)
        if first is None:
            series_id = _place(connection, one, places)
            images[uid] = _image(one, series_id)
            result = Kept(Outcome.STORED)
        elif first.file_missing or (first.sha256 != one.file.sha256 and _replaces(connection, one, first)):
            series_id = first.series_id
            result = _replaced(connection, one, first, images)
        else:
            kept.append(_not_taken(connection, one, first))
            continue
        kept.append(result)
        held[uid] = _Held(one.file.sha256, one.file.key, series_id, pending=uid in images)
        growth = grown.setdefault(series_id, _Growth(one))
        growth.last, growth.count = one, growth.count + 1
        growth.replaced |= first is not None
    if images:
        _INSERT_IMAGES.execute_many(connection, images.values())
    for series_id, growth in grown.items():
        received = growth.last.file.received_at
        due = received + dt.timedelta(seconds=growth.last.quiet_seconds)
        values = {"series": series_id, "count": growth.count, "received": received, "due": due}
        _SERIES_GREW.execute(connection, values)
        if growth.replaced:
            revoke_claim(connection, series_id)
    return kept


def _held(connection: Connection, uids: Iterable[str]) -> dict[str, _Held]:
    """Those of `uids` that the index holds."""
    rows = {uid: _FIND_IMAGE.execute(connection, {"uid": uid}).fetchone() for uid in uids}
    return {uid: _Held(*row) for uid, row in rows.items() if row is not None}


def revoke_claim(connection: Connection, series_id: int) -> None:
    """An instance of the series was replaced or deleted: what is being made of the old ones may not be recorded."""
    claimed = update(SeriesRow).where(SeriesRow.id == series_id, SeriesRow.state == "converting")
    connection.execute(claimed.values(claimed_arrivals=REVOKED))


def _place(connection: Connection, one: Arrived, places: dict[tuple[object, ...], int]) -> int:
    """The row of the series that an instance belongs to; `places` are those that the batch knows already."""
    identity = patient_identity(one.attributes)
    place = (one.attributes.study["study_instance_uid"], one.attributes.series["series_instance_uid"], identity)
    if place not in places:
        places[place] = series_row(connection, one, identity)
    return places[place]


def _not_taken(connection: Connection, one: Arrived, first: _Held) -> Kept:
    """The row stays as it is; bytes that are known are not kept twice."""
    if first.sha256 == one.file.sha256:
        return Kept(Outcome.ALREADY_THERE, remove=one.file.key)
    aside = _aside(connection, one.attributes.sop_instance_uid, one.file.sha256)
    if aside == one.file.quarantine_key:  # a crash came between the commit and the move
        return Kept(Outcome.OTHER_BYTES, quarantine=one.file.key)
    if aside is not None:
        return Kept(Outcome.ALREADY_THERE, remove=one.file.key)
    detail = f"first received with SHA-256 {first.sha256}, then with {one.file.sha256}; the first is kept"
    stays = one.overwrite_policy == "keep_both"
    key = one.file.key if stays else one.file.quarantine_key
    record_conflict(connection, "instance-versions" if stays else "instance-bytes", one, detail, key, one.file.sha256)
    record_arrival_event(connection, "instance-conflict", one, detail)
    return Kept(Outcome.OTHER_BYTES, quarantine=None if stays else one.file.key)


def _replaces(connection: Connection, one: Arrived, first: _Held) -> bool:
    """Whether the policy lets other bytes take the row: in the same series only."""
    if one.overwrite_policy != "replace":
        return False
    study_uid, series_uid = one.attributes.study["study_instance_uid"], one.attributes.series["series_instance_uid"]
    row = FIND_SERIES.execute(connection, {"study": study_uid, "series": series_uid}).fetchone()
    if row is None or row[0] != first.series_id:
        return False
    tell_reopened(connection, one, row[2])
    return True


def _replaced(connection: Connection, one: Arrived, first: _Held, images: dict[str, dict[str, object]]) -> Kept:
    """Let the arriving file take the row; the file that had it goes to quarantine, unless its bytes are there."""
    uid = one.attributes.sop_instance_uid
    if first.pending:
        images[uid] = _image(one, first.series_id)
    else:
        connection.execute(
            update(ImageRow).where(ImageRow.sop_instance_uid == uid).values(_image(one, first.series_id))
        )
    detail = f"first received with SHA-256 {first.sha256}, then with {one.file.sha256}; the second is kept"
    if first.sha256 != one.file.sha256:
        record_arrival_event(connection, "instance-replaced", one, detail)
    if first.file_missing:
        return Kept(Outcome.STORED)
    if _aside(connection, uid, first.sha256) is not None:
        return Kept(Outcome.REPLACED, remove=first.key)
    quarantine_key = str(PurePath(one.file.quarantine_key).with_name(PurePath(first.key).name))
    record_conflict(connection, "instance-replaced", one, detail, quarantine_key, first.sha256)
    return Kept(Outcome.REPLACED, quarantine=first.key)


def _aside(connection: Connection, sop_instance_uid: str, sha256: str) -> str | None:
    """Where bytes that lost are kept, if they have lost before."""
    return connection.execute(_FIND_LOSER, {"uid": sop_instance_uid, "sha256": sha256}).scalar()


def _image(one: Arrived, series_id: int) -> dict[str, object]:
    file = one.file
    return {
        **one.attributes.image,
        "series_id": series_id,
        "transfer_syntax_uid": file.transfer_syntax_uid,
        "bytes": file.bytes,
        "sha256": file.sha256,
        "data_set_offset": file.data_set_offset,
        "key": file.key,
        "source": file.source,
        "calling_ae_title": file.calling_ae_title or None,
        "called_ae_title": file.called_ae_title or None,
        "peer": file.peer or None,
        "received_at": file.received_at,
        "file_missing": False,
    }
