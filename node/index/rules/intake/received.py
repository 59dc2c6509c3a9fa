"""Instances that were received: add them to all four levels, and make their series due, in one transaction.

What becomes of an instance whose UID is there already is decided by `node.index.rules.intake.disposition`, and done
here. If that needs a look at the kept file, nothing is written, and whoever added the instance has them compared first.
"""

import datetime as dt
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby
from pathlib import PurePath
from types import MappingProxyType
from typing import NamedTuple

from sqlalchemy import JSON, Connection, bindparam, or_, select, update

from node.dicom.header import ReadHead
from node.index.rows.backend import Overtaken
from node.index.rows.hot_statements import PreparedInsert, PreparedStatement
from node.index.rows.models.history import HAS_FILE, ConflictRow, LostInstanceRow
from node.index.rows.models.levels import SPOOL, Base, ImageRow, SeriesRow, StudyRow
from node.index.rows.records import Flaw, Indexed, Outcome, Received
from node.index.rows.sql import looked_up_in
from node.index.rows.writer import note
from node.index.rules.custody.leaving import leave_series
from node.index.rules.custody.lost import found_again
from node.index.rules.intake.disposition import (
    Applied,
    Aside,
    Compare,
    First,
    New,
    Replaces,
    Restores,
    Same,
    disposition,
)
from node.index.rules.intake.documents import rebase, write_documents
from node.index.rules.intake.levels import (
    Places,
    find_series,
    hold_new_places,
    record_conflict,
    record_received_event,
    series_row,
)
from node.index.rules.intake.stated import Statement, follow_stated, statement_of
from node.index.rules.series.reopening import record_growth
from node.index.rules.series.verdicts import judge
from node.index.rules.series.waits import Seen
from node.index.rules.work.events import owe_images, owe_removals
from node.index.rules.work.messages import begin_repaired

DIGEST_CORRECTED = "digest-corrected"
"""Kind of the conflict that keeps the digest which a row had before `fsck` believed its file."""

IN_ANOTHER_ENCODING = "in another encoding"
RECODED = f"the same data set {IN_ANOTHER_ENCODING}"
"""Who has decided about a version that has the data set of the current one."""

NOT_COMPARED = "not-compared"
"""Note of a commit with a version that has it if both decode to the same."""


class Compared(NamedTuple):
    """What was found by a look at the files that are kept under the UIDs of a batch, and at those of the batch.

    `flaws`: why a file is not whole, by its key; those of the batch may lack pixels.
    `recoded`: by the key of a received file, the digest of the version that has its data set in another encoding, and
        whether that is certain without decoding.
    `own`: keys of received files that seem to be copies of the current version, with the identity that was decided.
    """

    flaws: Mapping[str, Flaw] = MappingProxyType({})
    recoded: Mapping[str, tuple[str, bool]] = MappingProxyType({})
    own: Collection[str] = frozenset()


WHOLE = Compared()
"""All files are as they were received."""


_IMAGES = select(
    ImageRow.sop_instance_uid,
    ImageRow.sha256,
    ImageRow.key,
    ImageRow.series_id,
    ImageRow.file_missing,
    ImageRow.spool_host,
).where(looked_up_in(ImageRow.sop_instance_uid, bindparam("uids", type_=JSON)))
_FIND_IMAGES = PreparedStatement(_IMAGES)
_HOLD_IMAGES = PreparedStatement(_IMAGES.order_by(ImageRow.sop_instance_uid).with_for_update())
_FIND_LOSERS = select(ConflictRow.key).where(
    ConflictRow.sop_instance_uid == bindparam("uid"),
    ConflictRow.sha256 == bindparam("sha256"),
    *HAS_FILE,
    or_(ConflictRow.host.is_(None), ConflictRow.host == bindparam("host")),
)
_FIND_CORRECTED = select(ConflictRow.id).where(
    ConflictRow.sop_instance_uid == bindparam("uid"),
    ConflictRow.sha256 == bindparam("sha256"),
    ConflictRow.kind == DIGEST_CORRECTED,
)
_ANY_LOST = PreparedStatement(select(LostInstanceRow.id).limit(1))
_INSERT_IMAGES = PreparedInsert(Base.metadata.tables[ImageRow.__tablename__], order_by="sop_instance_uid")


def add_instances(
    connection: Connection,
    batch: Sequence[Received],
    compared: Compared | None = WHOLE,
    holder: str | None = None,
    *,
    host: str = "",
    are_acknowledged: bool = True,
) -> list[Indexed] | None:
    """Insert instances with their patients, studies and series, and move the `due_at` of each series that grew.

    Runs inside the writer's transaction. Other writers may be adding instances to the same index: all of them hold new
    places, then images, then series, each kind in its order, so that none waits for another that waits for it.

    `compared`: what was just found of their files; None: most instances are new, and nobody has looked yet.
    `holder`: the host that alone has the files; see `node.index.rows.sharing`.
    `host`: the host that has received them, if several share the index.
    `are_acknowledged`: they come from the journal: one that becomes current stands for the lost versions of its UID.

    The answers are in the order of `batch`; None: an instance is there already, or twice in the batch, and nobody has
    compared. Nothing was written then.

    Raises Overtaken: another writer has meanwhile inserted an instance of the batch, or deleted the series of one: done
        again, this finds it.

    The rows of patient, study and series follow from all instances (`node.index.rules.intake.stated`). Recorded in
    `conflicts` are a study under a second patient, a series in a second study, a study without Patient ID, and a
    Patient ID of two persons.

    An instance that is there already moves the `due_at` of an open series as well, because its sender is still sending.
    It never reopens a series.

    Other bytes under a known SOP Instance UID are never lost: `node.index.rules.intake.disposition` decides which of
    the two count. They are recorded in `conflicts` with the file that does not count, which goes to quarantine or, with
    ``keep_both``, stays where it is; the current data set in another encoding leaves nothing to decide. If the received
    one replaces the first, it reopens the series; if a person has accepted it, it also leaves the series of the first.
    """
    places = hold_new_places(connection, batch)
    there: dict[str, First] | None = None
    if compared is None:
        there, compared = _found(connection, batch), WHOLE
        if _is_to_be_compared(batch, there):
            return None
    _forget_losers(connection, compared.flaws)
    indexed: list[Indexed] = []
    for is_decided, some in groupby(batch, lambda received: received.overwrite_policy == "accept"):
        if is_decided:  # it may correct the patient of a study
            places = {}
        for together in [[one] for one in some] if is_decided else [list(some)]:
            found = _found(connection, together) if there is None else there
            first = _held(connection, together, found, compared.flaws)
            indexed += _Batch(connection, together, first, compared, places, holder, host, are_acknowledged).add()
    return indexed


class _Batch:
    """Instances that are added together: what the index has of them, and what becomes of each."""

    def __init__(
        self,
        connection: Connection,
        batch: Sequence[Received],
        first: dict[str, First],
        compared: Compared,
        places: Places,
        holder: str | None,
        host: str,
        are_acknowledged: bool,
    ) -> None:
        self._connection, self._batch, self._places, self._holder = connection, batch, places, holder
        self._first = first
        self._host, self._are_acknowledged = host, are_acknowledged
        self._flaws, self._recoded, self._own = compared
        self._record_conflict = partial(record_conflict, connection, holder=holder)
        self._series: dict[tuple[str, str], int] = {}
        self._images: dict[str, dict[str, object]] = {}  # rows to be inserted
        self._seen: list[Seen] = []
        self._stated: dict[int, dict[int, tuple[Statement, list[Received]]]] = {}
        self._left: set[int] = set()  # studies in which an instance has taken the place of another one
        self._contested: dict[int, dt.datetime] = {}  # series to judge again, and when
        self._current: dict[str, tuple[int, ReadHead | None]] = {}  # what documents are of

    def add(self) -> list[Indexed]:
        """Write the rows of all instances; return what became of each."""
        indexed = [self._taken(received) for received in self._batch]
        if self._images:
            self._insert_images()
        write_documents(self._connection, self._current)
        agreed = record_growth(self._connection, self._seen, self._host)
        follow_stated(self._connection, self._stated, agreed, self._left, self._batch[-1])
        for series_id, at in self._contested.items():
            judge(self._connection, series_id, at)
        if _ANY_LOST.execute(self._connection, {}).fetchone() is not None:
            return [self._found_again(received, one) for received, one in zip(self._batch, indexed, strict=True)]
        return indexed

    def _found_again(self, received: Received, indexed: Indexed) -> Indexed:
        """Let a received version be lost no more; with one that became current, no other version of its UID is."""
        uid, file = received.attributes.sop_instance_uid, received.file
        is_current = uid in self._current and indexed.outcome in (Outcome.STORED, Outcome.REPLACED)
        for_all = is_current and self._are_acknowledged
        others = found_again(self._connection, uid, file.sha256, file.received_at, for_all=for_all)
        return replace(indexed, superseded=(*indexed.superseded, *others)) if others else indexed

    def _insert_images(self) -> None:
        taken = _INSERT_IMAGES.execute(self._connection, list(self._images.values()))
        if not taken:
            owe_images(self._connection, self._images)
            return
        found = {uid for uid, *_ in _FIND_IMAGES.execute(self._connection, {"uids": list(taken)})}
        if taken - found:
            raise ValueError("the index neither has an instance nor takes it")
        raise Overtaken("another writer has inserted an instance meanwhile")

    def _taken(self, received: Received) -> Indexed:
        first = self._compared(received)
        flaw = None if first is None else self._flaws.get(first.key)
        is_cut = self._flaws.get(received.file.key) is Flaw.CUT
        is_own = received.file.key in self._own
        decided = disposition(received.file, first, flaw, received.overwrite_policy, is_cut=is_cut, is_own=is_own)
        match decided:
            case Applied():
                return Indexed(Outcome.STORED)
            case New():
                return self._insert(received)
            case Restores():
                return self._restore(received, decided)
            case Replaces():
                return self._replace(received, decided)
            case Same() | Aside():
                self._seen.append(Seen(decided.first.series_id, received))
                if decided.is_found:
                    self._note_found(received, decided.first)
                if isinstance(decided, Aside):
                    return self._keep_aside(received, decided.first)
                return Indexed(Outcome.ALREADY_THERE, remove=received.file.key, repeats=decided.first.key)
            case Compare():
                raise AssertionError("all files were compared")

    def _compared(self, received: Received) -> First | None:
        """Return the first instance, with what is to be known about other bytes."""
        uid = received.attributes.sop_instance_uid
        first = self._first.get(uid)
        if first is None or first.sha256 == received.file.sha256:
            return first
        series = find_series(self._connection, received)
        if series is None or series[0] != first.series_id:
            return first
        corrected = self._connection.execute(_FIND_CORRECTED, {"uid": uid, "sha256": received.file.sha256}).first()
        return replace(first, is_of_series=True, had_digest=corrected is not None)

    def _insert(self, received: Received) -> Indexed:
        series_id = self._series_id(received)
        self._images[received.attributes.sop_instance_uid] = self._image(received, series_id)
        self._count(received, series_id)
        return Indexed(Outcome.STORED)

    def _restore(self, received: Received, decided: Restores) -> Indexed:
        """Give the row to the received file, because the first one is not whole.

        A damaged file goes to quarantine; one that cannot be read stays, in the row of a conflict. What quarantine has
        is the version that a later one replaced, in an archive that is newer than the index.
        """
        first, flaw = decided.first, decided.flaw
        superseded = () if first.sha256 == received.file.sha256 else (first.sha256,)
        self._update(received, first, first.series_id)
        self._count(received, first.series_id, replaces=True)
        detail = f"the kept file {flaw.value}; first received with SHA-256 {first.sha256}, now with " + (
            "the same" if first.sha256 == received.file.sha256 else received.file.sha256
        )
        record_received_event(self._connection, "file-restored", received, detail)
        begin_repaired(self._connection, received.attributes, received.file.received_at)
        if flaw in (Flaw.MISSING, Flaw.AWAY):
            return Indexed(Outcome.STORED, restored=detail, superseded=superseded)
        aside = _beside(received.file.quarantine_key, first.key)
        if flaw is Flaw.ASIDE:
            if first.sha256 != received.file.sha256:
                self._record_conflict("instance-replaced", received, detail, aside, first.sha256)
            return Indexed(Outcome.STORED, restored=detail, superseded=superseded)
        stays = flaw is Flaw.UNREADABLE
        decided_by = "the bytes that were received came again" if first.sha256 == received.file.sha256 else None
        self._record_conflict(
            "instance-damaged", received, detail, first.key if stays else aside, decided_by=decided_by
        )
        aside_key = None if stays else first.key
        return Indexed(Outcome.STORED, quarantine=aside_key, restored=detail, superseded=superseded)

    def _replace(self, received: Received, decided: Replaces) -> Indexed:
        """Give the row to the received file; the first one goes to quarantine, unless its bytes are there already."""
        first, is_accepted = decided.first, received.overwrite_policy == "accept"
        series_id = self._series_id(received)
        self._update(received, first, series_id)
        self._count(received, series_id, replaces=True)
        where, uids = self._elsewhere(received, first), None
        detail = f"the instance came again with other bytes{where}; the second is current"
        if decided.is_whole:
            detail = "the instance came again whole; the first lacks pixels"
        if series_id != first.series_id:
            detail += ", and the instance leaves its series"
            uid, why = received.attributes.sop_instance_uid, "another version was accepted"
            of_first = select(StudyRow.study_instance_uid, SeriesRow.series_instance_uid).join(SeriesRow)
            uids = dict(self._connection.execute(of_first.where(SeriesRow.id == first.series_id)).mappings().one())
            leave_series(self._connection, first.series_id, uid, received.file.received_at, why)
            rebase(self._connection, first.series_id)
        record_received_event(self._connection, "instance-replaced", received, detail)
        if self._aside(received, first.sha256) is not None:
            return Indexed(Outcome.REPLACED, remove=first.key, superseded=(first.sha256,))
        aside = _beside(received.file.quarantine_key, first.key)
        decided_by = "the person who accepted" if is_accepted else "[storage] overwrite_policy"
        decided_by = "the first lacks pixels" if decided.is_whole else decided_by
        record_conflict(
            self._connection, "instance-replaced", received, detail, aside, first.sha256, decided_by,
            first.holder or self._holder, uids,
        )  # fmt: skip
        return Indexed(Outcome.REPLACED, quarantine=first.key, superseded=(first.sha256,))

    def _keep_aside(self, received: Received, first: First) -> Indexed:
        """Leave the row as it is; bytes that were set aside before are not kept twice."""
        file = received.file
        aside, is_own = self._aside(received, file.sha256), file.key in self._own
        other, known = Outcome.OTHER_BYTES, Outcome.KNOWN_VERSION
        if is_own:
            other = known = Outcome.ALREADY_THERE
        if aside == file.key:  # applied before, and kept where it is
            return Indexed(other, repeats=first.key)
        if aside == file.quarantine_key:  # a crash came between the commit and the move
            return Indexed(other, quarantine=file.key, repeats=first.key)
        if aside is not None:
            return Indexed(known, remove=file.key, repeats=first.key if is_own else aside)
        where = self._elsewhere(received, first)
        how = "without all its pixels" if self._flaws.get(file.key) is Flaw.CUT else "with other bytes"
        of_digest, is_certain = self._recoded.get(file.key, ("", False))
        is_recoded = first.is_of_series and of_digest == first.sha256
        how = IN_ANOTHER_ENCODING + " and identity" * is_own if is_recoded else how
        lacks_pixels = self._flaws.get(file.key) is Flaw.CUT and self._flaws.get(first.key) is not Flaw.CUT
        is_worse = first.is_of_series and lacks_pixels
        detail = f"the instance came again {how}{where}; the first is current"
        stays = received.overwrite_policy == "keep_both"
        kind, key = ("instance-versions", file.key) if stays else ("instance-bytes", file.quarantine_key)
        is_owed = is_recoded and not is_certain and not is_worse
        decided_by = f"{RECODED}{', if its pixels are' * is_owed}" if is_recoded else None
        decided_by = "the received one lacks pixels" if is_worse else decided_by
        if is_owed:
            note(self._connection, NOT_COMPARED)
        self._record_conflict(
            kind, received, detail, key, file.sha256, decided_by, decision="kept", is_uncompared=is_owed
        )
        if not is_own:
            record_received_event(self._connection, "instance-conflict", received, detail)
        if decided_by is None and (series := find_series(self._connection, received)) is not None:
            self._contested[series[0]] = file.received_at
        return Indexed(other, quarantine=None if stays else file.key, repeats=first.key)

    def _note_found(self, received: Received, first: First) -> None:
        """Take back that the file of an instance is missing: it was just found whole."""
        uid = received.attributes.sop_instance_uid
        self._connection.execute(update(ImageRow).where(ImageRow.sop_instance_uid == uid).values(file_missing=False))
        self._first[uid] = replace(first, file_missing=False)
        self._contested[first.series_id] = received.file.received_at
        detail = "the file was found whole when the instance came again"
        record_received_event(self._connection, "file-found", received, detail)

    def _update(self, received: Received, first: First, series_id: int) -> None:
        """Give the row of the first instance to the received one."""
        uid, image = received.attributes.sop_instance_uid, self._image(received, series_id)
        if first.is_pending:
            self._images[uid] = image
            return
        study = select(SeriesRow.study_id).where(SeriesRow.id == first.series_id)
        self._left.add(self._connection.execute(study).scalar_one())
        owe_removals(self._connection, ImageRow.sop_instance_uid == uid, received.file.received_at)
        self._connection.execute(update(ImageRow).where(ImageRow.sop_instance_uid == uid).values(image))

    def _count(self, received: Received, series_id: int, *, replaces: bool = False) -> None:
        """Note that a received instance is the current one from here on."""
        uid, file = received.attributes.sop_instance_uid, received.file
        self._current[uid] = series_id, received.head
        is_pending = uid in self._images
        self._first[uid] = First(file.sha256, file.key, series_id, holder=self._holder, is_pending=is_pending)
        self._seen.append(Seen(series_id, received, counts=True, replaces=replaces))

    def _series_id(self, received: Received) -> int:
        attributes = received.attributes
        key = attributes.study_instance_uid, attributes.series_instance_uid
        if key not in self._series:
            self._series[key] = series_row(self._connection, received, self._places)
        return self._series[key]

    def _elsewhere(self, received: Received, first: First) -> str:
        """Return in words that an instance is of another study or series than the first one."""
        of_first = select(StudyRow.study_instance_uid).join(SeriesRow).where(SeriesRow.id == first.series_id)
        if self._connection.scalar(of_first) != received.attributes.study_instance_uid:
            return " in another study"
        series = find_series(self._connection, received)
        return "" if series is not None and series[0] == first.series_id else " in another series"

    def _aside(self, received: Received, sha256: str) -> str | None:
        """Return the key of the file with these bytes that was set aside before; None if there is none that is whole.

        What other hosts have set aside cannot be read here, and does not count.
        """
        wanted = {"uid": received.attributes.sop_instance_uid, "sha256": sha256, "host": self._holder}
        keys = self._connection.scalars(_FIND_LOSERS, wanted).all()
        return next((key for key in keys if self._flaws.get(key or "", Flaw.CUT) is Flaw.CUT), None)

    def _image(self, received: Received, series_id: int) -> dict[str, object]:
        file, statement = received.file, statement_of(received.attributes)
        self._stated.setdefault(series_id, {}).setdefault(statement.number, (statement, []))[1].append(received)
        return {
            **received.attributes.image,
            "series_id": series_id,
            "stated": statement.number,
            "transfer_syntax_uid": file.transfer_syntax_uid,
            "bytes": file.bytes,
            "sha256": file.sha256,
            "data_set_offset": file.data_set_offset,
            "key": file.key,
            "place": file.place,
            "spool_host": self._holder if file.place == SPOOL else None,
            "source": file.source,
            "calling_ae_title": file.calling_ae_title or None,
            "called_ae_title": file.called_ae_title or None,
            "peer": file.peer or None,
            "received_at": file.received_at,
            "file_missing": False,
        }


def _is_to_be_compared(batch: Sequence[Received], there: Mapping[str, First]) -> bool:
    """Return whether what becomes of an instance depends on a file that is kept, or on another one of the batch."""
    by_uid = {received.attributes.sop_instance_uid: received for received in batch}
    decided = (
        disposition(one.file, there.get(uid), None, one.overwrite_policy, is_compared=False)
        for uid, one in by_uid.items()
    )
    return len(by_uid) < len(batch) or any(isinstance(one, Compare) for one in decided)


def _found(connection: Connection, batch: Sequence[Received]) -> dict[str, First]:
    """Return the instances of a batch that are in the index."""
    uids = {received.attributes.sop_instance_uid for received in batch}
    return {uid: First(*row) for uid, *row in _FIND_IMAGES.execute(connection, {"uids": list(uids)})}


def _held(
    connection: Connection, batch: Sequence[Received], found: Mapping[str, First], flaws: Mapping[str, Flaw]
) -> dict[str, First]:
    """Return what `_found` has of a batch; no other writer changes a row that may change here."""
    there = dict(found)
    changing = []
    for received in batch:
        first = there.get(received.attributes.sop_instance_uid)
        if first is not None and (first.sha256 != received.file.sha256 or first.file_missing or first.key in flaws):
            changing.append(received.attributes.sop_instance_uid)
    if changing:
        for uid in changing:
            there.pop(uid, None)  # another writer may have deleted it
        there |= {uid: First(*row) for uid, *row in _HOLD_IMAGES.execute(connection, {"uids": changing})}
    return there


def _beside(quarantine_key: str, key: str) -> str:
    """Return the key of another file in quarantine, from one of them."""
    return str(PurePath(quarantine_key).with_name(PurePath(key).name))


def _forget_losers(connection: Connection, flaws: Mapping[str, Flaw]) -> None:
    """Let the row of a conflict name no file that is gone, and say that its file no longer has the digest."""
    for key, flaw in flaws.items():
        loser = update(ConflictRow).where(ConflictRow.key == key)
        if flaw is Flaw.MISSING:
            connection.execute(loser.values(key=None))
        elif flaw is Flaw.DAMAGED:
            damaged = loser.where(ConflictRow.damage.is_(None))
            connection.execute(damaged.values(damage="the file is not as it was received"))
