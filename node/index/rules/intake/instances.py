"""Instances: how they get into the index, their rows, and totals."""

import datetime as dt
from collections.abc import Callable, Collection, Mapping, Sequence
from math import inf
from time import monotonic
from typing import Any, Literal

from sqlalchemy import JSON, ColumnElement, Connection, Select, bindparam, func, insert, select, true, update
from sqlalchemy import Row as SelectedRow
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import join

from node.errors import VoxelnodeError
from node.index.rows.about_keys import AppliedPosition
from node.index.rows.backend import Failure
from node.index.rows.files import (
    FILES,
    HeldFile,
    aside_of_order,
    current_file,
    current_files,
    instance_files,
    loser_keys,
    losers,
    named_keys,
    unknown_keys,
)
from node.index.rows.hot_statements import PreparedStatement
from node.index.rows.models.history import ConflictRow, EventKind, EventRow, VolumeRow
from node.index.rows.models.levels import ImageRow, SeriesRow, StudyRow
from node.index.rows.models.work import ObjectRemovalRow
from node.index.rows.records import AssociationEnd, Indexed, InstanceFile, Received
from node.index.rows.repositories import IndexRepository, columns_of, on_reader, on_writer, reads, set_applied
from node.index.rows.sql import PositionOf, looked_up_in
from node.index.rules.custody.lost import aside_entry, record_lost
from node.index.rules.intake.levels import record_conflict
from node.index.rules.intake.received import DIGEST_CORRECTED, WHOLE, Compared, add_instances
from node.index.rules.series.association_ends import end_association
from node.index.rules.series.reopening import reopen_damaged
from node.index.rules.series.verdicts import judge, judge_holding
from node.index.rules.work.events import EventUids, record_event, uids_of
from node.index.rules.work.messages import begin_repaired
from node.runtime.failpoints import reached

_FIND_HELD = PreparedStatement(
    select(*columns_of(HeldFile, ImageRow, holder=ImageRow.spool_host)).where(
        looked_up_in(ImageRow.sop_instance_uid, bindparam("uids", type_=JSON))
    )
)


class NotIndexable(VoxelnodeError):
    """The rows of an instance cannot be written: trying again does not help."""


class InstanceRepository(IndexRepository):
    """The instances of an index.

    `received_at`: when the last batch came, in seconds of `monotonic`: searches give way while instances are received.
    """

    received_at = -inf

    def add(
        self,
        batch: Sequence[Received],
        applied: AppliedPosition | None = None,
        ends: Sequence[AssociationEnd] = (),
        compare: Callable[[], Compared] = lambda: WHOLE,
    ) -> list[Indexed]:
        """Index instances in one transaction; see `add_instances`.

        `applied`: the last record of the journal that they came from, noted in the same transaction: the commit is not
            synced then, because the journal still has them. Without it, the commit is durable when this returns.
        `ends`: the ends of associations that came with them, which count after all of `batch`.
        `compare`: looks at the files that are kept, outside of a transaction, if the index has an instance already.

        The answers are in the order of `batch`.

        Raises NotIndexable: the rows of an instance cannot be written; nothing of the batch was.
        Raises OutOfResources: the commit failed or may have failed: try again.
        """
        self.received_at = monotonic()
        indexed = self._add(batch, applied, ends, None)
        if indexed is None:
            indexed = self._add(batch, applied, ends, compare())
        assert indexed is not None
        reached("rows-committed")
        return indexed

    def _add(
        self,
        batch: Sequence[Received],
        applied: AppliedPosition | None,
        ends: Sequence[AssociationEnd],
        compared: Compared | None,
    ) -> list[Indexed] | None:
        def write(connection: Connection) -> list[Indexed] | None:
            host, is_acknowledged = self._sharing.host or "", applied is not None
            holder = self._sharing.holder
            indexed = add_instances(connection, batch, compared, holder, host=host, are_acknowledged=is_acknowledged)
            if indexed is None:
                return None
            for end in ends:
                end_association(connection, end, host)
            if applied is not None:
                set_applied(connection, applied)
            reached("rows-written")
            return indexed

        try:
            return self._writer.run(write, durable=applied is None, takes_many_locks=True)
        except (SQLAlchemyError, self._writer.database.Error, ValueError, TypeError, OverflowError) as error:
            if Failure.ROWS not in self._writer.database.failure(error):
                raise  # no room, or the disk, or the server
            cause = getattr(error, "orig", error)
            raise NotIndexable(f"the index does not take it: {type(cause).__name__}") from error

    @on_writer
    def set_aside(
        self, connection: Connection, reason: str, key: str, applied: AppliedPosition | None, now: dt.datetime
    ) -> None:
        """Record once that an instance of the journal, or none, goes to quarantine because it cannot be indexed."""
        known = select(EventRow.id).where(EventRow.kind == "instance-set-aside", EventRow.key == key)
        if applied is None and connection.scalar(known.limit(1)) is not None:
            return
        record_event(connection, "instance-set-aside", now, detail=f"{reason}: {key}", key=key)
        if applied is not None:
            set_applied(connection, applied)

    @on_reader
    def held(self, connection: Connection, sop_instance_uids: Collection[str]) -> list[HeldFile]:
        """Return the files that are kept under these UIDs, with those that lost."""
        uids = list(sop_instance_uids)
        found = _FIND_HELD.execute(connection, {"uids": uids}).fetchall()
        if not found:
            return []
        files = [
            HeldFile(key, sha256, offset, size, bool(gone), place, host)
            for key, sha256, offset, size, gone, place, host in found
        ]
        return files + losers(connection, uids)

    @on_reader
    def files_after(self, connection: Connection, key: str, limit: int) -> list[InstanceFile]:
        """Return at most `limit` files that rows of images name, in the order of their keys, from behind `key`."""
        return list(instance_files(connection, after=key, limit=limit))

    @on_reader
    def of_key(self, connection: Connection, key: str) -> InstanceFile | None:
        """Return the file that a row of images names by this key, or None."""
        row = connection.execute(FILES.where(ImageRow.key == key)).first()
        return None if row is None else InstanceFile(*row)

    current = reads(current_file)

    currents = reads(current_files)

    @on_writer
    def record_removed_from_quarantine(
        self,
        connection: Connection,
        key: str,
        kind: Literal["quarantine-released", "quarantine-purged"],
        who: str,
        now: dt.datetime,
    ) -> None:
        """Let conflicts name a file no more that was released or purged, and record the decision and the event."""
        decision = "accepted" if kind == "quarantine-released" else "kept"
        rows = connection.execute(
            update(ConflictRow)
            .where(ConflictRow.key == key)
            .values(key=None, decision=decision, decided_at=now, decided_by=who, is_uncompared=False)
            .returning(ConflictRow.study_instance_uid, ConflictRow.series_instance_uid, ConflictRow.sop_instance_uid)
        ).all()
        judge_holding(connection, [row.sop_instance_uid for row in rows], now)
        aside = EventRow.kind.in_(("instance-set-aside", "journal-damaged")), EventRow.key == key
        connection.execute(update(EventRow).where(*aside).values(key=None))
        uids = uids_of(rows[0]) if rows else EventUids()
        record_event(connection, kind, now, detail=key, **uids)

    losers = reads(losers)

    @on_reader
    def is_loser(self, connection: Connection, key: str) -> bool:
        """Return whether a conflict names this file."""
        return connection.execute(select(ConflictRow.id).where(ConflictRow.key == key).limit(1)).first() is not None

    @on_writer
    def correct_digest(self, connection: Connection, key: str, sha256: str, now: dt.datetime) -> None:
        """Give a row the digest of its file, which is whole.

        The digest that it had is kept: if an instance with it comes, it was the file that was wrong.
        """
        row = connection.execute(_rows(ImageRow.key == key)).one()
        detail = f"the row had the SHA-256 {row.sha256}, the file has {sha256}; the file is believed"
        connection.execute(update(ImageRow).where(ImageRow.key == key).values(sha256=sha256, file_missing=False))
        record_event(connection, "digest-corrected", now, detail=detail, **uids_of(row))
        judge_holding(connection, [row.sop_instance_uid], now)
        _insert_conflict(connection, DIGEST_CORRECTED, row, detail, now, sha256=row.sha256)

    @on_writer
    def set_aside_damaged(
        self, connection: Connection, key: str, quarantine_key: str, detail: str, now: dt.datetime
    ) -> None:
        """Mark the row of a damaged file that is about to be moved to quarantine."""
        row = connection.execute(_rows(ImageRow.key == key)).one()
        connection.execute(update(ImageRow).where(ImageRow.key == key).values(file_missing=True))
        asked = f"the file {detail}: send the instance again"
        record_event(connection, "file-damaged", now, detail=asked, **uids_of(row))
        judge_holding(connection, [row.sop_instance_uid], now)
        damage = f"the file {detail}"
        aside = {"key": quarantine_key, "host": self._sharing.holder, "sha256": row.sha256, "damage": damage}
        _insert_conflict(connection, "instance-damaged", row, damage, now, **aside)

    @on_writer
    def record_loser_damage(
        self, connection: Connection, key: str, detail: str, now: dt.datetime, *, gone: bool = False
    ) -> None:
        """Record that a file that lost, or one in the trash, is damaged, or gone: then no conflict names it any more.

        The digest stands, and what was acknowledged is owed. A file that is still to be fetched from the object store
        is not gone.
        """
        if gone and connection.execute(select(ObjectRemovalRow.key).where(aside_of_order() == key)).first() is not None:
            return
        rows = connection.execute(
            update(ConflictRow)
            .where(ConflictRow.key == key, true() if gone else ConflictRow.damage.is_(None))
            .values({"key": None} if gone else {"damage": detail})
            .returning(ConflictRow)
        ).all()
        kind: EventKind = "file-missing" if gone else "file-damaged"
        for row in rows:
            record_event(connection, kind, now, detail=f"{key}, another version: {detail}", **uids_of(row))
        owed = [
            row for row in rows if row.kind != "instance-damaged" and row.sha256 is not None and row.sop_instance_uid
        ]
        record_lost(connection, [aside_entry(row) for row in owed], now)

    @on_reader
    def versions_at(self, connection: Connection, key: str) -> list[HeldFile]:
        """Return what conflicts say that a file was when it was set aside."""
        columns = ConflictRow.key, ConflictRow.sha256, ConflictRow.host
        rows = connection.execute(select(*columns).where(ConflictRow.key == key, ConflictRow.sha256.is_not(None)))
        return [HeldFile(str(row.key), str(row.sha256), holder=row.host) for row in rows]

    @on_reader
    def recovered_among(self, connection: Connection, sop_instance_uids: Collection[str]) -> set[str]:
        """Return those of some instances that were indexed from a file alone, or found in quarantine."""
        uids = list(sop_instance_uids)
        images = select(ImageRow.sop_instance_uid).where(looked_up_in(ImageRow.sop_instance_uid, uids))
        aside = select(ConflictRow.sop_instance_uid).where(looked_up_in(ConflictRow.sop_instance_uid, uids))
        found = {*connection.scalars(images.where(ImageRow.source == "recovered", ImageRow.file_missing.is_(False)))}
        found |= {*connection.scalars(aside.where(ConflictRow.kind == "instance-quarantined"))}
        return {uid for uid in found if uid is not None}

    @on_writer
    def distrust(self, connection: Connection, owed: Mapping[str, set[str]], now: dt.datetime) -> None:
        """Mark the files that were indexed from themselves alone, and are no version that was acknowledged.

        `owed`: all digests that the ledger has of instances of which a version is nowhere, by their UIDs. The row gets
        one of them: its file is damaged, and the instance must be sent again.
        """
        corrected = select(ConflictRow.sop_instance_uid).where(ConflictRow.kind == DIGEST_CORRECTED)
        found = select(ImageRow.key, ImageRow.sop_instance_uid, ImageRow.sha256).where(
            looked_up_in(ImageRow.sop_instance_uid, list(owed)),
            ImageRow.source == "recovered",
            ImageRow.sop_instance_uid.not_in(corrected.where(ConflictRow.sop_instance_uid.is_not(None))),
        )
        for key, uid, sha256 in connection.execute(found).all():
            if sha256 not in owed[uid]:
                detail = f"the file has the SHA-256 {sha256}, which was not acknowledged: send the instance again"
                damaged = update(ImageRow).where(ImageRow.key == key)
                connection.execute(damaged.values(sha256=max(owed[uid]), file_missing=True))
                row = connection.execute(_rows(ImageRow.key == key)).one()
                record_event(connection, "file-damaged", now, detail=detail, **uids_of(row))
        judge_holding(connection, list(owed), now)
        aside = ConflictRow.kind == "instance-quarantined", looked_up_in(ConflictRow.sop_instance_uid, list(owed))
        for row in connection.execute(select(ConflictRow).where(*aside, ConflictRow.damage.is_(None))).all():
            if row.sha256 not in owed[str(row.sop_instance_uid)]:
                damage = f"the file has the SHA-256 {row.sha256}, which was not acknowledged"
                values = {"damage": damage, "sha256": max(owed[str(row.sop_instance_uid)])}
                connection.execute(update(ConflictRow).where(ConflictRow.id == row.id).values(values))

    @on_reader
    def total_bytes(self, connection: Connection) -> int:
        """Return the bytes of all instances and volumes."""
        queries = (select(func.coalesce(func.sum(table.bytes), 0)) for table in (ImageRow, VolumeRow))
        return sum(int(connection.execute(query).scalar_one()) for query in queries)

    @on_reader
    def files(self, connection: Connection, folder: str) -> list[InstanceFile]:
        """Return the files that rows of images name in one folder, such as ``objects/00000000``."""
        return list(instance_files(connection, folder))

    @on_reader
    def folders(self, connection: Connection, first: str = "") -> list[str]:
        """Return the names of the folders of `objects` that rows of images name, from one on; reads all of these.

        If several hosts have roots, only rows of files that this one alone has.
        """
        begin = len("objects/") + 1
        length = PositionOf(func.substr(ImageRow.key, begin), "/") - 1
        which = ImageRow.key > f"objects/{first}", ImageRow.spool_host == self._sharing.holder
        return list(connection.scalars(select(func.substr(ImageRow.key, begin, length)).where(*which).distinct()))

    @on_writer
    def record_quarantined(self, connection: Connection, found: Received) -> None:
        """Record an instance that was found in quarantine."""
        detail = "found in quarantine; the index did not know why it is there"
        file = found.file
        record_conflict(
            connection, "instance-quarantined", found, detail, file.key, file.sha256, holder=self._sharing.holder
        )

    named_keys = reads(named_keys)

    unknown_keys = reads(unknown_keys)

    @on_reader
    def loser_keys(self, connection: Connection, *, here: bool = False) -> set[str]:
        """Return the keys of the files that lost against another file of their SOP Instance UID; see `loser_keys`.

        A crash between the commit and the move leaves such a file where it was received.
        """
        return loser_keys(connection, self._sharing.holder if here else None)

    @on_writer
    def mark_files(
        self, connection: Connection, keys: Sequence[str], *, missing: bool, now: dt.datetime, damage: str | None = None
    ) -> int:
        """Note that files (at most a folder's worth) are missing or damaged, or are there again.

        An instance whose file is missing or damaged takes the next instance received under its UID as its own, and its
        series is incomplete. A series that was set aside because of a file that is whole again is converted.

        `damage`: how the files differ from what was received; None if they do not exist. Returns for how many instances
        that is news.
        """
        marked = _rows(ImageRow.key.in_(keys), ImageRow.file_missing.is_not(missing))
        rows = connection.execute(marked).all()
        of_images = ImageRow.id.in_([row.id for row in rows])
        connection.execute(update(ImageRow).where(of_images).values(file_missing=missing))
        kind: EventKind = "file-found"
        if missing:
            kind = "file-missing" if damage is None else "file-damaged"
        for row in rows:
            record_event(connection, kind, now, detail=damage, **uids_of(row))
        if not missing:
            reopen_damaged(connection, [row.id for row in rows], now)
            for row in rows:
                begin_repaired(connection, row, now)
        for series_id in sorted({row.series_id for row in rows}):
            judge(connection, series_id, now)
        return len(rows)


def _rows(*which: ColumnElement[bool]) -> Select[*tuple[Any, ...]]:
    columns = ImageRow.id, ImageRow.series_id, ImageRow.sha256, ImageRow.calling_ae_title, ImageRow.sop_instance_uid
    rows = select(*columns, SeriesRow.series_instance_uid, StudyRow.study_instance_uid)
    return rows.select_from(join(ImageRow, SeriesRow).join(StudyRow)).where(*which)


def _insert_conflict(
    connection: Connection, kind: str, row: SelectedRow[Any], detail: str, now: dt.datetime, **values: str | None
) -> None:
    """Insert the conflict of a row of `_rows` with itself."""
    own = {"kind": kind, "calling_ae_title": row.calling_ae_title, "detail": detail, "found_at": now}
    connection.execute(insert(ConflictRow).values(**own, **uids_of(row), **values))
