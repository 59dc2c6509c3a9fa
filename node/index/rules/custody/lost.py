"""Lost instances: versions that were acknowledged and are not here.

An instance may have come in several versions: with the same UID, and other bytes. Each is owed until another one takes
its place. A row stands until the version is received or found again, until another one is received and becomes current,
or until a person deletes its series or study, or writes it off. Which versions were acknowledged is in the ledger
beside the files (`node.files.acknowledged`).

Of records of the journal that cannot be read, nobody knows which instances they had. Such a gap stands, as a sentence,
until a person accepts it.
"""

import datetime as dt
import json
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, delete, func, null, or_, select, true
from sqlalchemy.orm import join

from node.completeness import lost_instances
from node.errors import UsageError
from node.files.acknowledged import Acknowledged, LedgerPosition
from node.index.rows.about_keys import GAPS
from node.index.rows.converted import SeriesKey
from node.index.rows.models.history import HAS_FILE, ConflictRow, LostInstanceRow, TombstoneRow
from node.index.rows.models.levels import ImageRow, SeriesRow, StudyRow
from node.index.rows.records import SET_ASIDE, DeletionPlan, removes_instances
from node.index.rows.repositories import (
    IndexRepository,
    about,
    columns_of,
    on_reader,
    on_writer,
    reads,
    set_about,
    writes,
)
from node.index.rows.sql import insert, looked_up_in
from node.index.rules.series.reopening import reopen
from node.index.rules.series.verdicts import judge, series_at
from node.index.rules.work.events import record_event, record_series_event

_COLUMNS = Acknowledged._fields[:-1]


def found_again(
    connection: Connection, sop_instance_uid: str, sha256: str, now: dt.datetime, *, for_all: bool
) -> list[str]:
    """Note that a version of an instance is here, or stands `for_all`; return the digests of the others that it is for.

    Its series is converted again if its instances are others now; else it is judged again.
    """
    row = LostInstanceRow
    its = row.sop_instance_uid == sop_instance_uid, true() if for_all else row.sha256 == sha256
    found = connection.execute(delete(row).where(*its).returning(row)).all()
    for study, series in {(one.study_instance_uid, one.series_instance_uid) for one in found}:
        _reopen(connection, study, series, now, "a lost instance was received again")
    return [one.sha256 for one in found if one.sha256 != sha256]


def _reopen(connection: Connection, study: str, series: str, now: dt.datetime, detail: str) -> None:
    for row in connection.execute(series_at((study, series))).all():
        reopen(connection, row.id, study, None, now, detail)


def all_lost(connection: Connection, *which: ColumnElement[bool]) -> list[Acknowledged]:
    """Return the lost instances that meet all conditions, as a ledger has them."""
    query = select(LostInstanceRow.__table__).where(*which).order_by(LostInstanceRow.id)
    return [_acknowledged(row) for row in connection.execute(query)]


def of_plan(plan: DeletionPlan) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions of the lost instances of what is deleted."""
    if plan.level == "instance":
        return (LostInstanceRow.sop_instance_uid == plan.uid,)
    of_study = LostInstanceRow.study_instance_uid == plan.study_instance_uid
    return (of_study, LostInstanceRow.series_instance_uid == plan.uid) if plan.level == "series" else (of_study,)


def absent(connection: Connection, instances: Sequence[Acknowledged]) -> list[int]:
    """Return which of some acknowledged versions are nowhere and were not deleted since, by their places in the list.

    A version is here if its UID and its digest are those of a row, or of a file that a conflict names. A deletion
    covers what was received before it, but for what its ledger has behind it: an instance that was acknowledged before
    and applied after it is still owed. A ledger that another host has, or that is of before, knows no better.
    """
    places = list(range(len(instances)))
    for columns in (
        select(ImageRow.sop_instance_uid, ImageRow.sha256),
        select(ConflictRow.sop_instance_uid, ConflictRow.sha256).where(*HAS_FILE),
    ):
        known = looked_up_in(columns.selected_columns.sop_instance_uid, [instances[place][0] for place in places])
        here = {(uid, sha256) for uid, sha256 in connection.execute(columns.where(known))}
        places = [place for place in places if (instances[place].sop_instance_uid, instances[place].sha256) not in here]
        if not places:
            return []
    uids = {uid for place in places for uid in instances[place][:3]}
    of, deletions = TombstoneRow, defaultdict[str, list[Any]](list)
    tombstones = select(of.uid, of.paths, of.ordered_at, of.listed, of.content.is_not(None).label("is_in_trash"))
    for row in connection.execute(tombstones.where(looked_up_in(of.uid, list(uids)))):
        if row.is_in_trash or removes_instances(row.paths):
            deletions[row.uid].append(row)
    return [
        place
        for place in places
        if not any(_covers(row, instances[place]) for uid in instances[place][:3] for row in deletions[uid])
    ]


def _covers(deletion: Row[Any], one: Acknowledged) -> bool:
    listed, at = LedgerPosition.of(deletion.listed), one.at or LedgerPosition.of(None)
    is_behind = listed.identity and at.identity == listed.identity and at.entries >= listed.entries
    return not is_behind and bool(deletion.ordered_at >= dt.datetime.fromisoformat(one.received_at))


def record_lost(connection: Connection, instances: Sequence[Acknowledged], now: dt.datetime) -> int:
    """Note instances as lost, unless they came meanwhile; return for how many this is news.

    The verdict of a closed series becomes incomplete; its volumes stay.
    """
    lost = [instances[place] for place in absent(connection, instances)]
    news: Counter[tuple[str, str]] = Counter()
    for one in lost:
        values = {name: getattr(one, name) for name in _COLUMNS}
        values |= {"received_at": dt.datetime.fromisoformat(one.received_at), "noticed_at": now}
        if connection.execute(insert(LostInstanceRow).values(values).on_conflict_do_nothing()).rowcount == 1:
            news[one.study_instance_uid, one.series_instance_uid] += 1
    for (study, series), count in news.items():
        detail = f"{lost_instances(count)}: send them again, or write them off"
        record_series_event(connection, "instances-lost", (study, series), now, detail)
        for row in connection.execute(series_at((study, series))).all():
            judge(connection, row.id, now)
    return news.total()


class LostRepository(IndexRepository):
    """The lost instances of an index."""

    absent = reads(absent)

    all = reads(all_lost)

    @on_reader
    def count(self, connection: Connection) -> int:
        """Count the lost instances."""
        return int(connection.execute(select(func.count()).select_from(LostInstanceRow)).scalar_one())

    @on_reader
    def by_series(self, connection: Connection) -> dict[SeriesKey, set[str]]:
        """Return the lost instances of each series."""
        found: defaultdict[SeriesKey, set[str]] = defaultdict(set)
        for one in all_lost(connection):
            found[one.study_instance_uid, one.series_instance_uid].add(one.sop_instance_uid)
        return found

    @on_reader
    def stored(self, connection: Connection, after: int, limit: int) -> list[tuple[int, Acknowledged]]:
        """Return what a ledger has of stored instances, with their numbers, in the order of these, from behind one."""
        rows = connection.execute(_STORED.where(ImageRow.id > after).order_by(ImageRow.id).limit(limit)).all()
        return [(row.id, _acknowledged(row)) for row in rows]

    @on_reader
    def stored_at(self, connection: Connection, keys: Collection[str]) -> list[Acknowledged]:
        """Return what a ledger has of the versions in these files: current ones, and those that were set aside."""
        stored = connection.execute(_STORED.where(looked_up_in(ImageRow.key, keys))).all()
        aside = connection.execute(_ASIDE.where(looked_up_in(ConflictRow.key, keys))).all()
        return [*map(aside_entry, aside), *map(_acknowledged, stored)]

    @on_reader
    def aside(self, connection: Connection) -> list[Acknowledged]:
        """Return what a ledger has of the versions that were received and set aside, because another one counts."""
        return [aside_entry(row) for row in connection.execute(_ASIDE)]

    @on_reader
    def replaced(self, connection: Connection, sop_instance_uids: Collection[str]) -> dict[str, list[str]]:
        """Return the digests of the versions whose place others took, as far as conflicts tell, by UID."""
        row = ConflictRow
        of_these = looked_up_in(row.sop_instance_uid, list(sop_instance_uids)), row.kind == "instance-replaced"
        found: defaultdict[str, list[str]] = defaultdict(list)
        for uid, sha256 in connection.execute(select(row.sop_instance_uid, row.sha256).where(*of_these)):
            if uid is not None and sha256 is not None:
                found[uid].append(sha256)
        return found

    record = writes(record_lost)

    @on_writer
    def note_gap(self, connection: Connection, detail: str, now: dt.datetime, key: str | None = None) -> None:
        """Note once that instances were acknowledged and cannot be read from the journal; `key`: what is kept of it."""
        gaps = _gaps(connection)
        if all(gap["detail"] != detail for gap in gaps):
            record_event(connection, "journal-damaged", now, detail=detail, key=key)
            gaps.append({"noticed_at": now.isoformat(timespec="seconds"), "detail": detail})
            set_about(connection, GAPS, json.dumps(gaps))

    @on_reader
    def gaps(self, connection: Connection) -> list[str]:
        """Return the gaps that nobody has accepted, in words."""
        return [str(gap["detail"]) for gap in _gaps(connection)]

    @on_writer
    def accept_gaps(self, connection: Connection) -> None:
        """Let the gaps be known to a person who accepts them."""
        set_about(connection, GAPS, "[]")

    @on_reader
    def of(self, connection: Connection, uid: str | None) -> list[Acknowledged]:
        """Return the lost instances of a study or a series, the one with this UID, or all of them.

        Raises UsageError if there are none.
        """
        row = LostInstanceRow
        is_named = or_(row.sop_instance_uid == uid, row.series_instance_uid == uid, row.study_instance_uid == uid)
        if not (found := all_lost(connection, true() if uid is None else is_named)):
            what = f"nothing of {uid} is lost" if uid is not None else "no instance is lost"
            raise UsageError(f"{what}: `voxelnode lost list` lists those that are")
        return found

    @on_writer
    def write_off(self, connection: Connection, uids: Sequence[str], who: str, now: dt.datetime) -> None:
        """Let lost instances be owed no more; their series are judged again, from the instances that are here."""
        is_one = looked_up_in(LostInstanceRow.sop_instance_uid, uids)
        columns = LostInstanceRow.study_instance_uid, LostInstanceRow.series_instance_uid
        rows = connection.execute(delete(LostInstanceRow).where(is_one).returning(*columns)).all()
        for study, series in sorted({(row.study_instance_uid, row.series_instance_uid) for row in rows}):
            detail = f"lost instances were written off by {who}"
            record_series_event(connection, "lost-written-off", (study, series), now, detail)
            _reopen(connection, study, series, now, detail)


def _gaps(connection: Connection) -> list[dict[str, str]]:
    return list(json.loads(about(connection, GAPS) or "[]"))


_STORED = select(ImageRow.id, *columns_of(Acknowledged, ImageRow, StudyRow, SeriesRow, at=null())).select_from(
    join(ImageRow, SeriesRow).join(StudyRow)
)

_ASIDE = select(ConflictRow).where(ConflictRow.kind.in_(SET_ASIDE), *HAS_FILE)


def _acknowledged(row: Any) -> Acknowledged:
    fields: dict[str, Any] = {
        name: getattr(row, name) or "" for name in _COLUMNS
    }  # what came from a file has no sender
    return Acknowledged(**fields | {"received_at": row.received_at.isoformat()})


def aside_entry(row: Any) -> Acknowledged:
    """Return what a ledger has of the version in a conflict, by its row."""
    uids = row.sop_instance_uid, row.study_instance_uid, row.series_instance_uid
    return Acknowledged(*uids, row.sha256, "", row.calling_ae_title or "", "", row.found_at.isoformat())
