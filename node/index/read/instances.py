"""Instances: their rows, files and totals."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from sqlalchemy import func, select
from sqlalchemy.orm import join

from node.dicom.retrieval import Selection
from node.index.instances import (
    FILES,
    HeldFile,
    InstanceFile,
    current_file,
    instance_files,
    loser_keys,
    losers,
    named_keys,
    unknown_keys,
)
from node.index.models import SPOOL, STORE, ImageRow, PatientRow, SeriesRow, StudyRow
from node.index.objects import PlaceCount
from node.index.read.rows import PagedRepository, Row
from node.index.removals import aside_of_order
from node.index.selection import INSTANCE_COLUMNS, Selected, StoredInstance, selected_instances, stored_instances


class ReadInstances(PagedRepository):
    """Rows of ``images`` and ``v_images``; the rows of `page` include `key`, the archive key of the file."""

    listing = select(
        ImageRow.id,
        *INSTANCE_COLUMNS,
        ImageRow.rows,
        ImageRow.columns,
        ImageRow.bytes,
        ImageRow.sha256,
        ImageRow.file_missing,
        ImageRow.source,
        ImageRow.calling_ae_title,
        ImageRow.called_ae_title,
        ImageRow.received_at,
        ImageRow.key,
        PatientRow.patient_id,
    ).select_from(join(ImageRow, SeriesRow).join(StudyRow).join(PatientRow))
    filters = (StudyRow.study_instance_uid, SeriesRow.series_instance_uid, ImageRow.sop_instance_uid)

    def stored(
        self,
        study_instance_uid: str | None = None,
        series_instance_uid: str | None = None,
        sop_instance_uids: Collection[str] = (),
    ) -> Iterator[StoredInstance]:
        """Yield the instances that match the given UIDs. See `node.index.selection.stored_instances`."""
        return stored_instances(self._connection, study_instance_uid, series_instance_uid, sop_instance_uids)

    def selected(self, selection: Selection, limit: int | None = None) -> Selected:
        """Return the instances that a retrieve requests. See `node.index.selection.selected_instances`."""
        return selected_instances(self._connection, selection, limit)

    def files(self) -> Iterator[InstanceFile]:
        """Yield the file of every instance, sorted by folder."""
        return instance_files(self._connection)

    def named_keys(self, keys: Sequence[str]) -> set[str]:
        """Return those of `keys` (at most a folder's worth) that rows name: of images, or of conflicts."""
        return named_keys(self._connection, keys)

    def count_by_place(self) -> dict[str, PlaceCount]:
        """Return the instances in each place: ``folder``, ``spool``, ``store``. Reads all rows."""
        rows = self._rows(
            "SELECT coalesce(place, 'folder') AS place, count(*) AS instances, sum(bytes) AS bytes FROM v_images "
            "GROUP BY coalesce(place, 'folder')"
        )
        counts = dict.fromkeys(("folder", SPOOL, STORE), PlaceCount(0, 0))
        return counts | {row["place"]: PlaceCount(int(row["instances"]), int(row["bytes"])) for row in rows}

    def count_by_spool_host(self) -> dict[str, int]:
        """Return how many instances are still to be moved to the store from the disk of each host."""
        rows = self._rows(
            "SELECT spool_host, count(*) AS instances FROM v_images WHERE spool_host IS NOT NULL "
            "GROUP BY spool_host ORDER BY spool_host"
        )
        return {row["spool_host"]: int(row["instances"]) for row in rows}

    def unknown_keys(self, keys: Sequence[str]) -> list[str]:
        """Return those of `keys` (at most a folder's worth) that no row names: of images, conflicts or removals."""
        return unknown_keys(self._connection, keys)

    def current(self, sop_instance_uid: str) -> InstanceFile | None:
        """Return the current file of an instance, or None."""
        return current_file(self._connection, sop_instance_uid)

    def losers(self) -> list[HeldFile]:
        """Return the kept files whose SOP Instance UID is served from another file, with their digests."""
        return losers(self._connection)

    def loser_keys(self, host: str | None = None) -> set[str]:
        """Return the keys of the kept files whose SOP Instance UID is served from another file.

        Parameters
        ----------
        host : str or None
            Leave out those that only another host has.
        """
        return loser_keys(self._connection, host)

    def to_be_set_aside(self) -> set[str]:
        """Return the keys in quarantine of replaced versions that are still to be fetched from the object store."""
        return set(self._connection.scalars(select(aside_of_order())))

    def row(self, sop_instance_uid: str) -> Row | None:
        """Return the row of ``v_images`` of an instance, or None."""
        return self._row("SELECT * FROM v_images WHERE sop_instance_uid = :uid", uid=sop_instance_uid)

    def first_file(self, study_instance_uid: str, series_instance_uid: str | None = None) -> InstanceFile | None:
        """Return the file of the first instance of a study or series, by Instance Number; None if it has none."""
        files = (
            FILES.join(SeriesRow, SeriesRow.id == ImageRow.series_id)
            .join(StudyRow)
            .where(StudyRow.study_instance_uid == study_instance_uid, ImageRow.file_missing.is_(False))
        )
        if series_instance_uid is not None:
            files = files.where(SeriesRow.series_instance_uid == series_instance_uid)
        order = SeriesRow.series_instance_uid, ImageRow.instance_number, ImageRow.sop_instance_uid
        row = self._connection.execute(files.order_by(*order).limit(1)).first()
        return None if row is None else InstanceFile(*row)

    def totals(self) -> Row:
        """Return the total numbers of ``instances`` and ``bytes``."""
        return self._rows("SELECT count(*) AS instances, coalesce(sum(bytes), 0) AS bytes FROM v_images")[0]

    def count_unavailable(self, study: str, series: str | None = None, sop_instance: str | None = None) -> int:
        """Count the instances of a study, of a series, or the one, whose file is known to be missing or damaged."""
        rest = "AND file_missing" + ("" if sop_instance is None else " AND sop_instance_uid = :instance")
        more = {} if sop_instance is None else {"instance": sop_instance}
        rows = self._rows_of_study("SELECT count(*) AS missing FROM v_images", study, series, rest, **more)
        return int(rows[0]["missing"])

    def count_missing_files(self) -> int:
        """Count the instances whose file is known to be missing or damaged."""
        return int(self._rows("SELECT count(*) AS missing FROM v_images WHERE file_missing")[0]["missing"])

    def bytes_by_series(self, study_instance_uid: str) -> dict[str, int]:
        """Return the bytes of the instances of each series of a study, by Series Instance UID."""
        rows = self._rows(
            "SELECT series_instance_uid, sum(bytes) AS bytes FROM v_images WHERE study_instance_uid = :study "
            "GROUP BY series_instance_uid",
            study=study_instance_uid,
        )
        return {row["series_instance_uid"]: row["bytes"] for row in rows}

    def count_by_study(self, study_instance_uids: Sequence[str]) -> dict[str, int]:
        """Count the instances of those of some studies that are stored."""
        query = select(StudyRow.study_instance_uid, func.count()).select_from(join(ImageRow, SeriesRow).join(StudyRow))
        named = StudyRow.study_instance_uid.in_(study_instance_uids)
        rows = self._connection.execute(query.where(named).group_by(StudyRow.study_instance_uid))
        return {uid: count for uid, count in rows}

    def count_by_series(self, study_instance_uid: str) -> dict[str, int]:
        """Count the instances of each stored series of a study."""
        query = select(SeriesRow.series_instance_uid, func.count()).select_from(
            join(ImageRow, SeriesRow).join(StudyRow)
        )
        its = StudyRow.study_instance_uid == study_instance_uid
        rows = self._connection.execute(query.where(its).group_by(SeriesRow.series_instance_uid))
        return {uid: count for uid, count in rows}

    def calling_ae_titles(self, study_instance_uid: str, series_instance_uid: str | None = None) -> list[str]:
        """Return the distinct AE titles that sent instances of a study or a series, sorted."""
        source, rest = "SELECT DISTINCT calling_ae_title FROM v_images", "AND calling_ae_title IS NOT NULL"
        rows = self._rows_of_study(source, study_instance_uid, series_instance_uid, rest)
        return sorted(row["calling_ae_title"] for row in rows)

    def summary(self, study_instance_uid: str, series_instance_uid: str) -> Row:
        """Return a summary of the instances of a series: counts, sizes, times, encodings and senders.

        ``classes``, ``syntaxes`` and ``senders`` are JSON lists; a sender is source, calling AE title and peer,
        separated by blanks.
        """
        return self._rows_of_study(
            "SELECT count(*) AS instances, sum(bytes) AS bytes, min(received_at) AS first_at, "
            'max(received_at) AS last_at, max("rows") AS "rows", max("columns") AS "columns", '
            "count(CASE WHEN file_missing THEN 1 END) AS missing, json_group_array(DISTINCT sop_class_uid) AS classes, "
            "json_group_array(DISTINCT transfer_syntax_uid) AS syntaxes, "
            "json_group_array(DISTINCT source || ' ' || coalesce(calling_ae_title, '') || ' ' || coalesce(peer, '')) "
            "AS senders FROM v_images",
            study_instance_uid,
            series_instance_uid,
        )[0]
