"""Conversions: the revisions of a series with their volumes, sources and exclusions, and the files of each.

A series has at most one current conversion; earlier ones are superseded. Their rows outlive their files. Exclusions are
instances, or some of their frames, in no volume.
"""

import datetime as dt
from collections.abc import Collection, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, Select, case, delete, func, insert, select, text, update
from sqlalchemy import Row as SelectedRow
from sqlalchemy.orm import aliased, join

from node.completeness import Completeness
from node.index.rows.files import folders_of, named_keys, volumes_in_trash
from node.index.rows.models.history import (
    ConversionRow,
    ExclusionRow,
    FailureRow,
    LostInstanceRow,
    RevisionFileRow,
    TrashRow,
    VolumeRow,
    VolumeSourceRow,
)
from node.index.rows.models.levels import SPOOL, STORE, SeriesRow
from node.index.rows.records import (
    OWED_SIDECARS,
    ClaimedSeries,
    CurrentConversion,
    OwedSidecars,
    RevisionFile,
    SeriesOutcome,
    SupersededConversion,
)
from node.index.rows.repositories import IndexRepository, on_reader, on_writer
from node.index.rows.writer import note
from node.index.rules.work.events import owe_files, record_series_event


class ConversionRepository(IndexRepository):
    """The conversions of all series."""

    @on_reader
    def last(self, connection: Connection) -> int:
        """Return the id of the last conversion, or 0."""
        return connection.scalar(select(func.max(ConversionRow.id))) or 0

    @on_reader
    def live_folders(self, connection: Connection) -> set[str]:
        """Return the folders of all files of conversions, relative to the root, with those in the trash."""
        live = ConversionRow.files_removed_at.is_(None)
        folders = folders_of(connection.scalars(select(VolumeRow.path).join(ConversionRow).where(live)))
        return folders | volumes_in_trash(connection)

    @on_reader
    def is_recorded(self, connection: Connection, series: int, folder: str) -> bool:
        """Return whether a row of a series, by its id, names a file in this folder, or the trash names the folder."""
        rows = (
            select(VolumeRow.id)
            .join(ConversionRow)
            .where(ConversionRow.series_id == series, VolumeRow.path.startswith(f"{folder}/", autoescape=True))
        )
        is_there = connection.execute(rows.limit(1)).first() is not None
        return is_there or bool(named_keys(connection, [folder]))

    @on_reader
    def source_digests(self, connection: Connection, sop_instance_uid: str) -> set[str]:
        """Return the digests that an instance had when volumes were made of it."""
        sources = select(VolumeSourceRow.sha256).where(VolumeSourceRow.sop_instance_uid == sop_instance_uid)
        return set(connection.scalars(sources))

    @on_reader
    def superseded_before(self, connection: Connection, moment: dt.datetime) -> list[SupersededConversion]:
        """Return the conversions superseded at or before `moment` whose files still exist."""
        newer = aliased(ConversionRow)
        since = (
            select(func.min(newer.created_at))
            .where(newer.series_id == ConversionRow.series_id, newer.revision > ConversionRow.revision)
            .scalar_subquery()
        )
        rows = connection.execute(
            select(ConversionRow.id, SeriesRow.series_instance_uid, ConversionRow.revision)
            .select_from(join(ConversionRow, SeriesRow))
            .where(ConversionRow.superseded, ConversionRow.files_removed_at.is_(None), since <= moment)
        ).all()
        return [SupersededConversion(*row, tuple(sorted(_folders(connection, row.id)))) for row in rows]

    @on_reader
    def owed_sidecars(self, connection: Connection, limit: int, without: Collection[int] = ()) -> list[OwedSidecars]:
        """Return conversions whose sidecars are to tell another verdict, and can be written here.

        Files that another host is about to move to the object store wait until they are there.
        """
        row = RevisionFileRow
        elsewhere = row.spool_host.is_not(None), row.spool_host.is_distinct_from(self._sharing.holder)
        is_elsewhere = select(row.id).where(row.conversion_id == ConversionRow.id, *elsewhere).exists()
        query: Select[*tuple[Any, ...]] = (
            select(
                ConversionRow.id, ConversionRow.owes_sidecars, SeriesRow.verdict, SeriesRow.verdict_rule,
                SeriesRow.expected_instances, SeriesRow.expected_source, ConversionRow.instances,
                SeriesRow.missing_instances, SeriesRow.verdict_reason, SeriesRow.missing_detail,
            )
            .join(SeriesRow)
            .where(_OWES, ConversionRow.id.not_in(without), ~is_elsewhere, SeriesRow.state != "failed")
            .limit(limit)
        )  # fmt: skip
        found = []
        for id, number, *verdict in connection.execute(query).all():
            paths = list(connection.scalars(select(VolumeRow.path).where(VolumeRow.conversion_id == id)))
            found.append(OwedSidecars(id, number, Completeness(*verdict), frozenset(paths)))
        return found

    @on_writer
    def begin_sidecars(self, connection: Connection, owed: OwedSidecars, keys: Collection[str]) -> None:
        """Note that sidecars are about to be written again: no digest holds, and only this host has them."""
        row = RevisionFileRow
        in_store = row.place.is_not(None)
        values = {"sha256": "", "place": case((in_store, SPOOL)), "spool_host": case((in_store, self._sharing.holder))}
        connection.execute(update(row).where(row.conversion_id == owed.conversion_id, row.key.in_(keys)).values(values))

    @on_writer
    def end_sidecars(self, connection: Connection, owed: OwedSidecars, files: Sequence[RevisionFile]) -> None:
        """Note that sidecars were written, and owe them again if the verdict has changed meanwhile."""
        for file in files:
            begun = RevisionFileRow.key == file.key, RevisionFileRow.sha256 == ""
            connection.execute(update(RevisionFileRow).where(*begun).values(bytes=file.bytes, sha256=file.sha256))
        number = ConversionRow.owes_sidecars
        owing = update(ConversionRow).where(ConversionRow.id == owed.conversion_id, ConversionRow.superseded.is_(False))
        connection.execute(owing.values(owes_sidecars=case((number == owed.number, 0), else_=number + 1)))

    @on_writer
    def record_files_removed(self, connection: Connection, conversion: SupersededConversion, now: dt.datetime) -> None:
        """Record that the local files of a superseded conversion are gone, and order those of its objects.

        Its other rows stay.
        """
        owe_files(connection, RevisionFileRow.conversion_id == conversion.id, now)
        connection.execute(update(ConversionRow).where(ConversionRow.id == conversion.id).values(files_removed_at=now))


_OWES = text("conversions.owes_sidecars > 0")
"""In words: with a parameter, SQLite does not use the index of these rows."""


def owe_sidecars(connection: Connection, series_id: int) -> None:
    """Note that the current sidecars of a series are to tell its verdict; see `node.conversion.volume_files`."""
    has_files = select(VolumeRow.id).where(VolumeRow.conversion_id == ConversionRow.id).exists()
    current = ConversionRow.series_id == series_id, ConversionRow.superseded.is_(False), has_files
    connection.execute(update(ConversionRow).where(*current).values(owes_sidecars=ConversionRow.owes_sidecars + 1))
    note(connection, OWED_SIDECARS)


def _folders(connection: Connection, conversion_id: int) -> set[str]:
    return folders_of(connection.scalars(select(VolumeRow.path).where(VolumeRow.conversion_id == conversion_id)))


def last_revision(connection: Connection, row: SelectedRow[Any]) -> int:
    """Return the last number that a revision of a series has, by its row: also one that is in the trash."""
    made = select(func.max(ConversionRow.revision)).where(ConversionRow.series_id == row.id)
    number = func.max(TrashRow.content["revision"].as_integer())
    trashed = select(number).where(TrashRow.kind == "series", TrashRow.key == row.series_instance_uid)
    return max(int(row.revision), connection.scalar(made) or 0, connection.scalar(trashed) or 0)


def current_conversion(connection: Connection, series_id: int) -> CurrentConversion | None:
    """Return the current conversion of a series, or None."""
    current = select(ConversionRow.id, ConversionRow.input_sha256).where(
        ConversionRow.series_id == series_id, ConversionRow.superseded.is_(False)
    )
    row = connection.execute(current).first()
    if row is None:
        return None
    columns = select(VolumeRow.path, VolumeRow.bytes, VolumeRow.shape).where(VolumeRow.conversion_id == row.id)
    volumes = connection.execute(columns).all()
    columns_of_all = select(RevisionFileRow.key, RevisionFileRow.bytes, RevisionFileRow.place)
    listed = connection.execute(columns_of_all.where(RevisionFileRow.conversion_id == row.id)).all()
    stored = {file.key for file in listed if file.place == STORE}
    sizes = {file.path: file.bytes for file in volumes} | {file.key: file.bytes for file in listed}
    local = tuple((path, size) for path, size in sizes.items() if path not in stored)
    is_lost = (
        VolumeSourceRow.conversion_id == row.id,
        VolumeSourceRow.sop_instance_uid == LostInstanceRow.sop_instance_uid,
    )
    holds_lost = connection.execute(select(VolumeSourceRow.id).where(*is_lost).limit(1)).first() is not None
    return CurrentConversion(row.input_sha256, local, any(file.shape for file in volumes), holds_lost)


def insert_conversion(
    connection: Connection, series: ClaimedSeries, outcome: SeriesOutcome, holder: str | None, now: dt.datetime
) -> None:
    """Insert an outcome as the current conversion of its series, and supersede the previous one."""
    _supersede(connection, series, now)
    conversion_id = connection.execute(
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
            findings=asdict(outcome.findings),
        )
        .returning(ConversionRow.id)
    ).scalar_one()
    _insert_details(connection, series, outcome, conversion_id, holder)
    replace_failures(connection, series, outcome.failures, now)


def replace_failures(
    connection: Connection, series: ClaimedSeries, failures: Sequence[tuple[int | None, str, str]], now: dt.datetime
) -> None:
    """Replace the failures of a series by those of its last conversion: (stack or None, reason, detail)."""
    connection.execute(delete(FailureRow).where(FailureRow.series_id == series.id))
    own = {"series_id": series.id, "revision": series.revision, "failed_at": now}
    rows = [{**own, "stack": stack, "reason": reason, "detail": detail} for stack, reason, detail in failures]
    if rows:
        connection.execute(insert(FailureRow), rows)


def _supersede(connection: Connection, series: ClaimedSeries, now: dt.datetime) -> None:
    """Mark the current conversion as superseded; record an event if it had volumes."""
    current = ConversionRow.series_id == series.id, ConversionRow.superseded.is_(False)
    had_volumes = select(ConversionRow.revision).where(
        *current, select(VolumeRow.id).where(VolumeRow.conversion_id == ConversionRow.id).exists()
    )
    for revision in connection.scalars(had_volumes).all():
        detail = f"replaced by revision {series.revision}"
        record_series_event(connection, "volume-superseded", series.key, now, detail, revision)
    connection.execute(update(ConversionRow).where(*current).values(superseded=True, owes_sidecars=0))


def _insert_details(
    connection: Connection, series: ClaimedSeries, outcome: SeriesOutcome, conversion_id: int, holder: str | None
) -> None:
    digests = {instance.sop_instance_uid: instance.sha256 for instance in series.instances}
    volumes = [asdict(file) for file in outcome.files]
    sources = [
        {"stack": stack, "sop_instance_uid": uid, "sha256": digests[uid], "frames": frames}
        for stack, uid, frames in outcome.sources
    ]
    exclusions = [
        {"sop_instance_uid": uid, "frames": frames, "reason": reason, "detail": detail}
        for uid, frames, reason, detail in outcome.exclusions
    ]
    listed = [
        {"key": file.key, "bytes": file.bytes, "sha256": file.sha256, "place": SPOOL, "spool_host": holder}
        for file in outcome.revision_files
    ]
    tables = (VolumeRow, volumes), (VolumeSourceRow, sources), (ExclusionRow, exclusions), (RevisionFileRow, listed)
    for table, rows in tables:
        if rows:
            connection.execute(insert(table), [{"conversion_id": conversion_id, **row} for row in rows])
