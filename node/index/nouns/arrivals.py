"""Arrivals: add instances to all four levels, and make their series due, in one transaction."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import PurePath
from typing import NamedTuple

from sqlalchemy import JSON, Connection, bindparam, case, or_, select, update

from node.errors import VoxelnodeError
from node.index.engine.backend import Overtaken
from node.index.engine.hot_statements import Prepared, PreparedInsert
from node.index.engine.sql import looked_up_in
from node.index.models import OPEN_STATES, Base, ConflictRow, ImageRow, SeriesRow, StudyRow
from node.index.nouns.departures import leave_series
from node.index.nouns.levels import (
    Places,
    correct_levels,
    find_series,
    hold_new_places,
    patient_identity,
    record_arrival_event,
    record_conflict,
    series_row,
)
from node.index.nouns.performed_series import is_all_here, listed_series
from node.index.nouns.removals import owe_removals
from node.index.nouns.reopening import revoke_claim
from node.index.nouns.waits import Waits, after_arrival, due_at
from node.index.records import Arrived, Flaw, Kept, Outcome

DIGEST_MENDED = "digest-mended"
"""Kind of the conflict that keeps the digest which a row had before `fsck` believed its file."""

_NO_FLAWS: Mapping[str, Flaw] = {}


class NotCompared(VoxelnodeError):
    """The index has an instance already, and nobody has looked whether its file is still whole."""


@dataclass(frozen=True, slots=True)
class _Held:
    """An instance of the index; `pending` until its row is inserted."""

    sha256: str
    key: str
    series_id: int
    file_missing: bool = False
    spool_host: str | None = None
    pending: bool = False


class _Seen(NamedTuple):
    """An instance that a series has seen; `counts` unless it was there already."""

    series_id: int
    arrived: Arrived
    counts: bool = False
    replaces: bool = False


@dataclass(slots=True)
class _Growth:
    """The instances of a batch that belong to one series, by their reception: a host may be late.

    `first`, `last` and `count` are without those that were there already.
    """

    senders: dict[str, Arrived] = field(default_factory=dict)  # the last instance of each
    began_at: dict[str, dt.datetime] = field(default_factory=dict)  # the last association of each that began
    first: Arrived | None = None
    last: Arrived | None = None
    count: int = 0
    replaced: bool = False

    def add(self, one: _Seen) -> None:
        """Note an instance."""
        arrived, sender, received = one.arrived, one.arrived.file.calling_ae_title, one.arrived.file.received_at
        began_at = arrived.began_at or received
        self.senders[sender] = _later(self.senders.get(sender), arrived)
        self.began_at[sender] = max(began_at, self.began_at.get(sender, began_at))
        if one.counts:
            self.last = _later(self.last, arrived)
            if self.first is None or received < self.first.file.received_at:
                self.first = arrived
            self.count += 1
            self.replaced |= one.replaces


def _later(before: Arrived | None, arrived: Arrived) -> Arrived:
    return arrived if before is None or arrived.file.received_at >= before.file.received_at else before


_IMAGES = select(
    ImageRow.sop_instance_uid,
    ImageRow.sha256,
    ImageRow.key,
    ImageRow.series_id,
    ImageRow.file_missing,
    ImageRow.spool_host,
).where(looked_up_in(ImageRow.sop_instance_uid, bindparam("uids", type_=JSON)))
_FIND_IMAGES = Prepared(_IMAGES)
_HOLD_IMAGES = Prepared(_IMAGES.order_by(ImageRow.sop_instance_uid).with_for_update())
_FIND_LOSERS = select(ConflictRow.key).where(
    ConflictRow.sop_instance_uid == bindparam("uid"),
    ConflictRow.sha256 == bindparam("sha256"),
    ConflictRow.key.is_not(None),
    or_(ConflictRow.host.is_(None), ConflictRow.host == bindparam("host")),
)
_FIND_MENDED = select(ConflictRow.id).where(
    ConflictRow.sop_instance_uid == bindparam("uid"),
    ConflictRow.sha256 == bindparam("sha256"),
    ConflictRow.kind == DIGEST_MENDED,
)
_INSERT_IMAGES = PreparedInsert(Base.metadata.tables[ImageRow.__tablename__], order_by="sop_instance_uid")
_FIRST = bindparam("first", type_=SeriesRow.open_since.type)
_LAST = bindparam("last", type_=SeriesRow.last_received_at.type)
_SERIES_GREW = Prepared(
    update(SeriesRow)
    .where(SeriesRow.id == bindparam("series"))
    .values(
        arrivals=SeriesRow.arrivals + bindparam("count"),
        open_since=case((SeriesRow.open_since < _FIRST, SeriesRow.open_since), else_=_FIRST),
        last_received_at=case((SeriesRow.last_received_at > _LAST, SeriesRow.last_received_at), else_=_LAST),
        due_at=bindparam("due"),
        waits=bindparam("waits", type_=SeriesRow.waits.type),
        attempts=0,
        # A series under conversion stays claimed; its outcome finds that `arrivals` has grown and makes it due again.
        state=case((SeriesRow.state == "converting", "converting"), else_="receiving"),
    )
)

_HOLD_WAITS = Prepared(
    select(SeriesRow.id, SeriesRow.state, SeriesRow.waits)
    .where(looked_up_in(SeriesRow.id, bindparam("ids", type_=JSON)))
    .order_by(SeriesRow.id)
    .with_for_update(key_share=True)  # others insert images of the series meanwhile
)
_SERIES_ALIVE = Prepared(
    update(SeriesRow)
    .where(SeriesRow.id == bindparam("series"))
    .values(due_at=bindparam("due"), waits=bindparam("waits", type_=SeriesRow.waits.type))
)


def add_instances(
    connection: Connection, batch: Sequence[Arrived], flaws: Mapping[str, Flaw] | None = _NO_FLAWS
) -> list[Kept]:
    """Insert instances with their patients, studies and series, and move the `due_at` of each series that grew.

    Runs inside the writer's transaction. Other writers may be adding instances to the same index: all of them hold new
    places, then images, then series, each kind in its order, so that none waits for another that waits for it.

    Parameters
    ----------
    flaws : mapping or None
        The kept files under the UIDs of the batch that were just found not to be whole, by key; None: most instances
        are new, and nothing was compared yet.

    Returns
    -------
    list of Kept
        In the order of `batch`.

    Raises
    ------
    NotCompared
        An instance is there already, and `flaws` is None.

    Notes
    -----
    The first instance of a patient, study or series sets the attributes of the level. Recorded in `conflicts` are a
    study under a second patient, a series in a second study, a study without Patient ID, and a Patient ID of two
    persons.

    An instance that is there already moves the `due_at` of an open series as well, because its sender is still sending.
    It never reopens a series.

    Other bytes under a known SOP Instance UID are never lost. They are recorded in `conflicts` with the file that does
    not count:

    * ``never``: the first instance counts, the file of the second goes to quarantine;
    * ``keep_both``: the first instance is converted and served, the file of the second stays where it is;
    * ``replace``: the second instance gets the row and reopens the series, the file of the first goes to quarantine. An
      instance that comes again under another series is not replaced: that would remove it from its series;
    * ``accept``: a person has decided for the second instance. It gets the row in whichever series it is, and leaves
      the series of the first.

    If the kept file is missing or damaged, arriving bytes of the same series take its place, whatever the policy is;
    the same bytes also take the place of a file that cannot be read.
    """
    places = hold_new_places(connection, batch)
    _forget_losers(connection, flaws or _NO_FLAWS)
    kept: list[Kept] = []
    for is_decided, some in groupby(batch, lambda arrived: arrived.overwrite_policy == "accept"):
        if is_decided:  # it may correct the patient of a study
            places = {}
        for together in [[one] for one in some] if is_decided else [list(some)]:
            kept += _add_instances(connection, together, flaws, places)
    return kept


def _add_instances(
    connection: Connection, batch: Sequence[Arrived], flaws: Mapping[str, Flaw] | None, places: Places
) -> list[Kept]:
    kept, seen = _decided(connection, batch, flaws, places)
    grown: dict[int, _Growth] = {}
    for one in seen:
        grown.setdefault(one.series_id, _Growth()).add(one)
    if grown:
        _record_growth(connection, grown)
    return kept


def _decided(
    connection: Connection,
    batch: Sequence[Arrived],
    compared: Mapping[str, Flaw] | None,
    places: Places,
    *,
    is_again: bool = False,
) -> tuple[list[Kept], list[_Seen]]:
    """Insert and change the rows of images; return also which series have seen which instances."""
    held = _held(connection, batch, compared)
    flaws = compared or _NO_FLAWS
    images: dict[str, dict[str, object]] = {}
    series_ids: dict[tuple[object, ...], int] = {}
    kept: list[Kept] = []
    seen: list[_Seen] = []
    for arrived in batch:
        uid = arrived.attributes.sop_instance_uid
        first = held.get(uid)
        if first is not None and first.key == arrived.file.key:  # applied before: this is the file of the row
            kept.append(Kept(Outcome.STORED))
            continue
        if first is None:
            series_id = _series_id(connection, arrived, series_ids, places)
            images[uid] = _image(arrived, series_id)
            result = Kept(Outcome.STORED)
        elif (flaw := _decisive_flaw(connection, arrived, first, flaws)) is not None:
            series_id = first.series_id
            result = _restore(connection, arrived, first, flaw)
        elif first.sha256 != arrived.file.sha256 and _replaces(connection, arrived, first):
            if arrived.overwrite_policy == "accept":
                correct_levels(connection, arrived, patient_identity(arrived.attributes))
            series_id = _series_id(connection, arrived, series_ids, places)
            result = _replace(connection, arrived, first, images, flaws, series_id)
        else:
            if first.file_missing and first.key not in flaws:
                _note_found(connection, arrived)
                held[uid] = replace(first, file_missing=False)
            kept.append(_not_taken(connection, arrived, first, flaws))
            seen.append(_Seen(first.series_id, arrived))
            continue
        kept.append(result)
        held[uid] = _Held(
            arrived.file.sha256, arrived.file.key, series_id, spool_host=arrived.file.host, pending=uid in images
        )
        seen.append(_Seen(series_id, arrived, counts=True, replaces=first is not None))
    if images and (taken := _INSERT_IMAGES.execute(connection, list(images.values()))):
        if is_again:
            raise ValueError("the index neither has an instance nor takes it")
        return _decided_again(connection, batch, compared, places, taken, kept, seen)
    return kept, seen


def _decided_again(
    connection: Connection,
    batch: Sequence[Arrived],
    compared: Mapping[str, Flaw] | None,
    places: Places,
    taken: set[str],
    kept: list[Kept],
    seen: list[_Seen],
) -> tuple[list[Kept], list[_Seen]]:
    """Decide once more about instances that another writer has inserted meanwhile: they are held by now."""
    again = [number for number, arrived in enumerate(batch) if arrived.attributes.sop_instance_uid in taken]
    if len(again) > len(taken):  # what was decided about the second of one UID depends on the first
        raise Overtaken("another writer has inserted an instance meanwhile that the batch has twice")
    kept_now, seen_now = _decided(connection, [batch[number] for number in again], compared, places, is_again=True)
    before = {one.arrived.attributes.sop_instance_uid: one.series_id for one in seen}
    if any(one.series_id != before[one.arrived.attributes.sop_instance_uid] for one in seen_now):  # which is empty now
        raise Overtaken("another writer has inserted an instance meanwhile in another series")
    for number, one in zip(again, kept_now, strict=True):
        kept[number] = one
    return kept, [one for one in seen if one.arrived.attributes.sop_instance_uid not in taken] + seen_now


def _record_growth(connection: Connection, grown: Mapping[int, _Growth]) -> None:
    rows = {id: (state, waits) for id, state, waits in _HOLD_WAITS.execute(connection, {"ids": list(grown)})}
    if len(rows) < len(grown):
        raise Overtaken("another writer has deleted the series of an instance meanwhile")
    uids = {growth.last.attributes.series_instance_uid for growth in grown.values() if growth.last}
    listed = listed_series(connection, uids) if uids else set()
    alive, grew = [], []
    for series_id in sorted(grown):
        growth = grown[series_id]
        state, stored = rows[series_id]
        if growth.last is None and state not in OPEN_STATES:
            continue
        waits: Waits = json.loads(stored) if stored else {}
        for sender, arrived in growth.senders.items():
            received = arrived.file.received_at
            quiet_at = received + dt.timedelta(seconds=arrived.quiet_seconds)
            waits = after_arrival(waits, sender, quiet_at, growth.began_at[sender], received)
        values = {"series": series_id, "due": due_at(waits), "waits": waits}
        if growth.first is None or growth.last is None:
            alive.append(values)
            continue
        attributes, received = growth.last.attributes, growth.last.file.received_at
        study, series = attributes.study_instance_uid, attributes.series_instance_uid
        if series in listed and is_all_here(connection, series_id, study, series):
            values |= {"due": received, "waits": None}
        grew.append(values | {"count": growth.count, "first": growth.first.file.received_at, "last": received})
    _SERIES_ALIVE.execute_each(connection, alive)
    _SERIES_GREW.execute_each(connection, grew)
    for series_id, growth in grown.items():
        if growth.replaced:
            revoke_claim(connection, series_id)


def _held(connection: Connection, batch: Sequence[Arrived], flaws: Mapping[str, Flaw] | None) -> dict[str, _Held]:
    """Return the instances of a batch that are in the index; no other writer changes a row that may change here."""
    uids = {arrived.attributes.sop_instance_uid for arrived in batch}
    held = {uid: _Held(*row) for uid, *row in _FIND_IMAGES.execute(connection, {"uids": list(uids)})}
    if flaws is None and {one.key for one in held.values()}.difference(arrived.file.key for arrived in batch):
        raise NotCompared
    flaws = flaws or _NO_FLAWS
    changing = []
    for arrived in batch:
        first = held.get(arrived.attributes.sop_instance_uid)
        if first is not None and (first.sha256 != arrived.file.sha256 or first.file_missing or first.key in flaws):
            changing.append(arrived.attributes.sop_instance_uid)
    if changing:
        for uid in changing:
            held.pop(uid, None)  # another writer may have deleted it
        held |= {uid: _Held(*row) for uid, *row in _HOLD_IMAGES.execute(connection, {"uids": changing})}
    return held


def _series_id(connection: Connection, arrived: Arrived, known: dict[tuple[object, ...], int], places: Places) -> int:
    """Return the id of the series of an instance; `known` are those of the batch until now."""
    identity = patient_identity(arrived.attributes)
    key = (arrived.attributes.study["study_instance_uid"], arrived.attributes.series["series_instance_uid"], identity)
    if key not in known:
        known[key] = series_row(connection, arrived, identity, places)
    return known[key]


def _decisive_flaw(connection: Connection, arrived: Arrived, first: _Held, flaws: Mapping[str, Flaw]) -> Flaw | None:
    """Return the flaw of the kept file if the arriving bytes take its place, else None."""
    flaw = flaws.get(first.key)
    if first.sha256 == arrived.file.sha256:
        return flaw
    if not _is_of(connection, arrived, first.series_id):
        return None
    if flaw in (Flaw.MISSING, Flaw.ASIDE, Flaw.DAMAGED):
        return flaw
    # The digest that the row had at first comes back: the file that was believed against it is the damaged one.
    mended = {"uid": arrived.attributes.sop_instance_uid, "sha256": arrived.file.sha256}
    return Flaw.DAMAGED if connection.execute(_FIND_MENDED, mended).first() is not None else None


def _note_found(connection: Connection, arrived: Arrived) -> None:
    """Take back that the file of an instance is missing: it was just found whole."""
    uid = arrived.attributes.sop_instance_uid
    connection.execute(update(ImageRow).where(ImageRow.sop_instance_uid == uid).values(file_missing=False))
    record_arrival_event(connection, "file-found", arrived, "the file was found whole when the instance came again")


def _restore(connection: Connection, arrived: Arrived, first: _Held, flaw: Flaw) -> Kept:
    """Give the row to the arriving file, because the kept one is not whole.

    A damaged file goes to quarantine; one that cannot be read stays, in the row of a conflict. What quarantine has is
    the version that a later one replaced, in an archive that is newer than the index.
    """
    uid = arrived.attributes.sop_instance_uid
    owe_removals(connection, ImageRow.sop_instance_uid == uid, arrived.file.received_at)
    connection.execute(
        update(ImageRow).where(ImageRow.sop_instance_uid == uid).values(_image(arrived, first.series_id))
    )
    detail = f"the kept file {flaw.value}; first received with SHA-256 {first.sha256}, now with {arrived.file.sha256}"
    record_arrival_event(connection, "file-restored", arrived, detail)
    if flaw in (Flaw.MISSING, Flaw.AWAY):
        return Kept(Outcome.STORED, restored=detail)
    if flaw is Flaw.ASIDE:
        if first.sha256 != arrived.file.sha256:
            aside = _beside(arrived.file.quarantine_key, first.key)
            record_conflict(connection, "instance-replaced", arrived, detail, aside, first.sha256)
        return Kept(Outcome.STORED, restored=detail)
    stays = flaw is Flaw.UNREADABLE
    key = first.key if stays else _beside(arrived.file.quarantine_key, first.key)
    record_conflict(connection, "instance-damaged", arrived, detail, key)
    return Kept(Outcome.STORED, quarantine=None if stays else first.key, restored=detail)


def _not_taken(connection: Connection, arrived: Arrived, first: _Held, flaws: Mapping[str, Flaw]) -> Kept:
    """Leave the row as it is; known bytes are not kept twice."""
    if first.sha256 == arrived.file.sha256:
        return Kept(Outcome.ALREADY_THERE, remove=arrived.file.key, repeats=first.key)
    aside = _aside(connection, arrived, arrived.file.sha256, flaws)
    if aside == arrived.file.key:  # applied before, and kept where it is
        return Kept(Outcome.OTHER_BYTES)
    if aside == arrived.file.quarantine_key:  # a crash came between the commit and the move
        return Kept(Outcome.OTHER_BYTES, quarantine=arrived.file.key)
    if aside is not None:
        return Kept(Outcome.KNOWN_VERSION, remove=arrived.file.key, repeats=aside)
    detail = f"the instance came again with other bytes{_elsewhere(connection, arrived, first)}; the first is current"
    stays = arrived.overwrite_policy == "keep_both"
    key = arrived.file.key if stays else arrived.file.quarantine_key
    record_conflict(
        connection, "instance-versions" if stays else "instance-bytes", arrived, detail, key, arrived.file.sha256
    )
    record_arrival_event(connection, "instance-conflict", arrived, detail)
    return Kept(Outcome.OTHER_BYTES, quarantine=None if stays else arrived.file.key)


def _elsewhere(connection: Connection, arrived: Arrived, first: _Held) -> str:
    """Return in words that an instance is of another study or series than the current one."""
    of_first = select(StudyRow.study_instance_uid).join(SeriesRow).where(SeriesRow.id == first.series_id)
    if connection.scalar(of_first) != arrived.attributes.study_instance_uid:
        return " in another study"
    return "" if _is_of(connection, arrived, first.series_id) else " in another series"


def _replaces(connection: Connection, arrived: Arrived, first: _Held) -> bool:
    """Return whether other bytes replace those of the row: by policy in the same series, by decision in any."""
    if arrived.overwrite_policy == "accept":
        return True
    return arrived.overwrite_policy == "replace" and _is_of(connection, arrived, first.series_id)


def _is_of(connection: Connection, arrived: Arrived, series_id: int) -> bool:
    """Return whether an instance belongs to a series by its own UIDs."""
    row = find_series(connection, arrived)
    return row is not None and row[0] == series_id


def _replace(
    connection: Connection,
    arrived: Arrived,
    first: _Held,
    images: dict[str, dict[str, object]],
    flaws: Mapping[str, Flaw],
    series_id: int,
) -> Kept:
    """Give the row to the arriving file; the old file goes to quarantine, unless its bytes are there already."""
    uid = arrived.attributes.sop_instance_uid
    if first.pending:
        images[uid] = _image(arrived, series_id)
    else:
        owe_removals(connection, ImageRow.sop_instance_uid == uid, arrived.file.received_at)
        connection.execute(update(ImageRow).where(ImageRow.sop_instance_uid == uid).values(_image(arrived, series_id)))
    detail = f"the instance came again with other bytes{_elsewhere(connection, arrived, first)}; the second is current"
    if series_id != first.series_id:
        detail += ", and the instance leaves its series"
        leave_series(connection, first.series_id, uid, arrived.file.received_at, "another version was accepted")
    record_arrival_event(connection, "instance-replaced", arrived, detail)
    if _aside(connection, arrived, first.sha256, flaws) is not None:
        return Kept(Outcome.REPLACED, remove=first.key)
    quarantine_key = _beside(arrived.file.quarantine_key, first.key)
    decided_by = "[storage] overwrite_policy" if arrived.overwrite_policy == "replace" else "the person who accepted"
    record_conflict(
        connection, "instance-replaced", arrived, detail, quarantine_key, first.sha256, decided_by, first.spool_host
    )
    return Kept(Outcome.REPLACED, quarantine=first.key)


def _beside(quarantine_key: str, key: str) -> str:
    """Return the key of another file in quarantine, from one of them."""
    return str(PurePath(quarantine_key).with_name(PurePath(key).name))


def _aside(connection: Connection, arrived: Arrived, sha256: str, flaws: Mapping[str, Flaw]) -> str | None:
    """Return the key of the file with these bytes that was set aside before; None if there is none that is whole.

    What other hosts have set aside cannot be read here, and does not count.
    """
    wanted = {"uid": arrived.attributes.sop_instance_uid, "sha256": sha256, "host": arrived.file.host}
    keys = connection.scalars(_FIND_LOSERS, wanted).all()
    return next((key for key in keys if key not in flaws), None)


def _forget_losers(connection: Connection, flaws: Mapping[str, Flaw]) -> None:
    """Let the row of a conflict name no file that is gone, and no digest that its file no longer has."""
    for key, flaw in flaws.items():
        loser = update(ConflictRow).where(ConflictRow.key == key)
        if flaw is Flaw.MISSING:
            connection.execute(loser.values(key=None))
        elif flaw is Flaw.DAMAGED:
            connection.execute(loser.values(sha256=None))


def _image(arrived: Arrived, series_id: int) -> dict[str, object]:
    file = arrived.file
    return {
        **arrived.attributes.image,
        "series_id": series_id,
        "transfer_syntax_uid": file.transfer_syntax_uid,
        "bytes": file.bytes,
        "sha256": file.sha256,
        "data_set_offset": file.data_set_offset,
        "key": file.key,
        "place": file.place,
        "spool_host": file.host,
        "source": file.source,
        "calling_ae_title": file.calling_ae_title or None,
        "called_ae_title": file.called_ae_title or None,
        "peer": file.peer or None,
        "received_at": file.received_at,
        "file_missing": False,
    }
