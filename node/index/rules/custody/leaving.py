"""What leaves: volumes and series with an instance, what is old enough to go, and events and deletions of long ago."""

import datetime as dt
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, Text, and_, cast, delete, exists, func, or_, select, update
from sqlalchemy.orm import aliased

from node.files.acknowledged import LedgerPosition
from node.index.rows.about_keys import LEDGER, RETENTION, RETENTION_CONFIRMED, RetentionState, look_of, retention_state
from node.index.rows.files import folders_of
from node.index.rows.models.history import (
    ConversionRow,
    EventRow,
    ExclusionRow,
    FailureRow,
    RevisionFileRow,
    TombstoneRow,
    TrashRow,
    VolumeRow,
    VolumeSourceRow,
)
from node.index.rows.models.levels import ImageRow, SeriesRow, StudyRow
from node.index.rows.models.work import ObjectRemovalRow, OwedEventRow, SubscriberRow
from node.index.rows.repositories import IndexRepository, about, on_reader, on_writer, reads, set_about
from node.index.rows.sql import Unindexed, insert
from node.index.rules.intake.levels import delete_empty_levels
from node.index.rules.series.reopening import delete_references, reopen
from node.index.rules.series.verdicts import judge_doubted
from node.index.rules.work.events import forget_images, owe_files, owe_host_removals, owe_removals
from node.index.rules.work.messages import after_deletion

LIVE = ConversionRow.files_removed_at.is_(None)


def leave_series(connection: Connection, series_id: int, sop_instance_uid: str, now: dt.datetime, detail: str) -> None:
    """Let an instance leave a series, after its row names another one.

    The volumes that contain the instance are deleted, and the series is converted without it. A series that is empty
    then is deleted with its study and patient, if these are empty. A tombstone names the files.
    """
    series = connection.execute(
        select(SeriesRow.study_id, SeriesRow.series_instance_uid, StudyRow.study_instance_uid)
        .join(StudyRow)
        .where(SeriesRow.id == series_id)
        .with_for_update(of=SeriesRow)  # no other writer adds an instance to one that may be deleted
    ).one()
    if connection.execute(select(ImageRow.id).where(ImageRow.series_id == series_id).limit(1)).first() is None:
        folders = delete_series_rows(connection, [series_id], now)
        delete_empty_levels(connection, series.study_id)
        after_deletion(connection, series.study_instance_uid, now)
    else:
        folders = drop_volumes_of(connection, series_id, sop_instance_uid, now)
        reopen(connection, series_id, series.study_instance_uid, sop_instance_uid, now, detail)
    if folders:
        add_tombstone(connection, "instance", sop_instance_uid, detail, folders, now)


def conversions_holding(series_id: int, sop_instance_uid: str) -> Select[int]:
    """Select the conversions of a series whose files contain an instance, and exist."""
    sources = select(VolumeSourceRow.conversion_id).where(VolumeSourceRow.sop_instance_uid == sop_instance_uid)
    return select(ConversionRow.id).where(ConversionRow.series_id == series_id, ConversionRow.id.in_(sources), LIVE)


def drop_volumes_of(
    connection: Connection, series_id: int, sop_instance_uid: str, now: dt.datetime, *, keeps_files: bool = False
) -> list[str]:
    """Supersede the conversions of a series that contain an instance; return the folders that are to be deleted.

    `keeps_files`: they are in the trash.
    """
    holding = list(connection.scalars(conversions_holding(series_id, sop_instance_uid)))
    folders = folders_of(connection.scalars(select(VolumeRow.path).where(VolumeRow.conversion_id.in_(holding))))
    of_files = RevisionFileRow.conversion_id.in_(holding)
    if keeps_files:
        connection.execute(delete(RevisionFileRow).where(of_files))
    else:
        owe_files(connection, of_files, now)
    gone = {"superseded": True, "owes_sidecars": 0, "files_removed_at": now}
    connection.execute(update(ConversionRow).where(ConversionRow.id.in_(holding)).values(gone))
    return [] if keeps_files else sorted(folders)


def delete_series_rows(
    connection: Connection, series: Sequence[int], now: dt.datetime, *, keeps_files: bool = False
) -> list[str]:
    """Delete series with their instances, conversions and failures; return the folders of their volumes.

    What is left of their studies is judged again.

    `keeps_files`: they are in the trash, and no folder is to be deleted.
    """
    delete_references(connection, series, now)
    conversions = list(connection.scalars(select(ConversionRow.id).where(ConversionRow.series_id.in_(series))))
    folders = folders_of(connection.scalars(select(VolumeRow.path).where(VolumeRow.conversion_id.in_(conversions))))
    if not keeps_files:
        owe_files(connection, RevisionFileRow.conversion_id.in_(conversions), now)
        owe_removals(connection, ImageRow.series_id.in_(series), now)
    for table in (VolumeRow, VolumeSourceRow, ExclusionRow, RevisionFileRow):
        connection.execute(delete(table).where(table.conversion_id.in_(conversions)))
    forget_images(connection, ImageRow.series_id.in_(series))
    for owned in (ConversionRow, FailureRow, ImageRow):
        connection.execute(delete(owned).where(owned.series_id.in_(series)))
    gone = delete(SeriesRow).where(SeriesRow.id.in_(series)).returning(SeriesRow.study_id)
    judge_doubted(connection, set(connection.scalars(gone)), now)
    return [] if keeps_files else sorted(folders)


def add_tombstone(
    connection: Connection, level: str, uid: str, reason: str, paths: Sequence[str], now: dt.datetime,
    listed: str | None = None,
) -> int:  # fmt: skip
    """Record that files are to be deleted; return the number of the tombstone."""
    owe_host_removals(connection, paths, now)
    values = {"level": level, "uid": uid, "reason": reason, "paths": list(paths), "ordered_at": now, "listed": listed}
    tombstone = insert(TombstoneRow).values(values)
    return int(connection.execute(tombstone.returning(TombstoneRow.id)).scalar_one())


MAX_STALENESS = dt.timedelta(hours=1)
"""How far the clock may be from the newest look at it: somebody looks every few seconds while a node runs."""


@dataclass(frozen=True, slots=True)
class Receipts:
    """Of the instances behind one: the number of the newest, and the first and the last time of reception.

    What was found as a file, and not received, does not count: its time is that of the file.
    """

    image: int
    oldest: dt.datetime | None
    newest: dt.datetime | None


def newest_look(connection: Connection) -> dt.datetime | None:
    """Return the newest time that the clock showed and that nothing contradicted; None: nobody has looked."""
    last = retention_state(about(connection, RETENTION)).last
    return last.at if last is not None else None


def old_before(connection: Connection, now: dt.datetime, keep_time: dt.timedelta) -> dt.datetime | None:
    """Return when what is kept for a time, and may go now, is from; None: nothing goes while the clock is in doubt.

    For its time after a person has confirmed the clock, nothing goes either: nobody knows how old it is.
    """
    state, before = retention_state(about(connection, RETENTION)), now - keep_time
    if not state.is_free or (state.last is not None and abs(now - state.last.at) > MAX_STALENESS):
        return None
    confirmed = json.loads(about(connection, RETENTION_CONFIRMED) or "null")
    return None if confirmed and look_of(confirmed["look"]).at > before else before


HISTORY_TIME = dt.timedelta(days=90)
"""How long events and deletions are kept that nothing needs, also beyond the newest ones."""

HISTORIES = {"events": 100_000, "tombstones": 10_000}
"""By table, its newest rows, which are kept whatever their age: cursors stand behind the newest event."""

MAX_EXAMINED = 500
"""Rows of a table that one transaction examines."""

_LASTING = (
    "series-quiet", "series-converted", "series-refused", "series-failed", "sender-aborted", "node-ended",
    "sender-returned", "sender-never-releases",
)  # fmt: skip
"""Kinds of events of a series of which the newest is read while it is here: a replay sends it, or the verdict is by it.
"""


def _is_old_event(before: dt.datetime) -> ColumnElement[bool]:
    """Return the condition of events that nobody is owed, and that tell nothing of what is here or in the trash."""
    row, later = EventRow, aliased(EventRow)
    is_owed = and_(OwedEventRow.event_id == row.id, OwedEventRow.subscriber_id.in_(select(SubscriberRow.id)))
    in_trash = select(TombstoneRow.content["study_instance_uid"].as_string()).where(TombstoneRow.content.is_not(None))
    is_study = StudyRow.study_instance_uid == row.study_instance_uid
    is_series = and_(
        is_study, SeriesRow.study_id == StudyRow.id, SeriesRow.series_instance_uid == row.series_instance_uid
    )
    has_later = exists().where(
        later.series_instance_uid == row.series_instance_uid,
        later.study_instance_uid == row.study_instance_uid,
        Unindexed(later.kind) == row.kind,
        later.why.is_not_distinct_from(row.why),
        later.id > row.id,
    )
    return (row.happened_at <= before) & ~or_(
        exists().where(is_owed),
        row.key.is_not(None),  # why a file is in quarantine
        func.coalesce(row.study_instance_uid, "").in_(in_trash),
        and_(row.kind.in_(_LASTING), exists().where(is_series), ~has_later),
        and_(row.kind == "study-quiet", exists().where(is_study, StudyRow.quiet_at <= row.happened_at)),
    )


def _is_old_deletion(before: dt.datetime, ledger: str) -> ColumnElement[bool]:
    """Return the condition of deletions that are over, and by which the age of no study counts.

    `ledger`: identity of the one of this host, in which their instances are written off; else they would be lost.
    """
    row = TombstoneRow
    return (row.finished_at <= before) & ~or_(
        and_(cast(row.paths, Text).like('%"objects/%'), ~func.coalesce(row.listed, "").like(f"{ledger}:%")),
        exists().where(TrashRow.deletion == row.id),
        and_(row.restored_at.is_not(None), exists().where(StudyRow.study_instance_uid == row.uid)),
        exists().where(ObjectRemovalRow.ordered_at <= before),  # else what is found in the store would be indexed
    )


class RetentionRepository(IndexRepository):
    """Receipts, confirmations of a person, and the end of what happened long ago."""

    @on_writer
    def prune(self, connection: Connection, table: str, after: int, now: dt.datetime) -> int:
        """Delete old rows of one of `HISTORIES` behind a number; return the last one that was examined, 0 at the end.

        Of an index with several hosts, every deletion stays: the ledgers of the others have it not written off.
        """
        before = old_before(connection, now, HISTORY_TIME)
        if before is None or (table == "tombstones" and self._sharing.host):
            return 0
        of: Any = {"events": EventRow, "tombstones": TombstoneRow}[table]
        beyond = select(func.max(of.id) - HISTORIES[table]).scalar_subquery()
        some = select(of.id).where(of.id > after, of.id <= beyond).order_by(of.id).limit(MAX_EXAMINED)
        last = connection.scalar(select(func.max(some.subquery().c.id)))
        if last is not None:
            ledger = LedgerPosition.of(about(connection, LEDGER)).identity
            is_old = _is_old_event(before) if of is EventRow else _is_old_deletion(before, ledger)
            connection.execute(delete(of).where(of.id > after, of.id <= last, is_old))
        return last or 0

    old_before = reads(old_before)

    @on_reader
    def state(self, connection: Connection) -> RetentionState:
        """Return what retention has seen, and what it waits for."""
        return retention_state(about(connection, RETENTION))

    @on_reader
    def receipts(self, connection: Connection, after: int) -> Receipts:
        """Return what was received behind the instance with the number `after`."""
        times = select(func.min(ImageRow.received_at), func.max(ImageRow.received_at)).where(
            ImageRow.id > after, ImageRow.source != "recovered"
        )
        oldest, newest = connection.execute(times).one()
        image = connection.scalar(select(func.max(ImageRow.id)).where(ImageRow.id >= after))
        return Receipts(image or after, oldest, newest)

    @on_writer
    def hold(self, connection: Connection, reason: str) -> None:
        """Let nothing be deleted by its age until a person has confirmed, for another reason than the clock."""
        state = retention_state(about(connection, RETENTION))
        reasons = dict.fromkeys([*([state.held] if state.held else []), reason])
        held = replace(state, held="; ".join(reasons), asked=None, approved=0)
        set_about(connection, RETENTION, held.encoded())

    @on_writer
    def confirm(
        self,
        connection: Connection,
        after: int | None,
        now: dt.datetime,
        confirmation: str,
        trash_until: dt.datetime | None = None,
    ) -> int:
        """Store a confirmation that the clock is right; return how many series count as received at `now`.

        These are the series that were received behind the instance with the number `after`, while the clock was in
        doubt, and those with a receipt in the future: nobody knows when they came, only that it was before `now`. Nor
        does anybody know for how long a deletion has been in the trash: each stays until `trash_until`, if that is
        given.
        """
        doubtful = SeriesRow.last_received_at > now
        if after is not None:
            doubtful = or_(doubtful, SeriesRow.id.in_(select(ImageRow.series_id).where(ImageRow.id > after)))
        changed = connection.execute(update(SeriesRow).where(doubtful).values(last_received_at=now))
        if trash_until is not None:
            in_trash = TombstoneRow.content.is_not(None)
            connection.execute(update(TombstoneRow).where(in_trash).values(trash_until=trash_until))
        set_about(connection, RETENTION_CONFIRMED, confirmation)
        return changed.rowcount
