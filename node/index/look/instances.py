"""What is read of instances and volumes."""

from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.orm import join

from node.index.look.level_views import InstanceViews, VolumeViews
from node.index.rows.files import (
    REVISION_FILES,
    aside_of_order,
    instance_files,
    loser_keys,
    losers,
    named_keys,
    revision_file,
    revision_files,
    selected_instances,
    stored_instances,
    unknown_keys,
    volume_files,
    wanted_files,
)
from node.index.rows.models.history import RevisionFileRow, TrashRow
from node.index.rows.models.levels import ImageRow, PatientRow, SeriesRow, StudyRow
from node.index.rows.models.work import ObjectRemovalRow
from node.index.rows.records import RevisionFile
from node.index.rows.repositories import PagedRepository, ReadRepository, Row, reads
from node.index.rows.sql import JsonGroupDistinct


class ReadVolumes(ReadRepository, VolumeViews):
    """Rows of volumes, and of the files of their revisions."""

    files = reads(volume_files)

    file_at = reads(revision_file)

    def files_in(self, folder: str) -> list[RevisionFile]:
        """Return the files of a revision by its folder, sorted by name; empty if their places are not noted."""
        inside = RevisionFileRow.key > f"{folder}/", RevisionFileRow.key < f"{folder}0"  # "0" follows "/"
        return revision_files(self._connection, REVISION_FILES.where(*inside).order_by(RevisionFileRow.key))

    def unknown_keys(self, keys: Sequence[str]) -> list[str]:
        """Return those of `keys` that neither a revision, nor the trash, nor an order to remove objects names."""
        named = set(self._connection.scalars(select(RevisionFileRow.key).where(RevisionFileRow.key.in_(keys))))
        for row in (ObjectRemovalRow, TrashRow):
            named.update(self._connection.scalars(select(row.key).where(row.key.in_(keys))))
        return [key for key in keys if key not in named]


_OF_STUDY = "FROM v_images WHERE study_instance_uid = :study GROUP BY series_instance_uid"


class ReadInstances(PagedRepository, InstanceViews):
    """Rows of ``images`` and ``v_images``; the rows of `page` include `key`, the archive key of the file."""

    listing = select(
        *ImageRow.__table__.columns, StudyRow.study_instance_uid, SeriesRow.series_instance_uid, PatientRow.patient_id
    ).select_from(join(ImageRow, SeriesRow).join(StudyRow).join(PatientRow))
    filters = (StudyRow.study_instance_uid, SeriesRow.series_instance_uid, ImageRow.sop_instance_uid)

    stored = reads(stored_instances)

    selected = reads(selected_instances)

    files = reads(instance_files)

    named_keys = reads(named_keys)

    unknown_keys = reads(unknown_keys)

    wanted_files = reads(wanted_files)

    losers = reads(losers)

    loser_keys = reads(loser_keys)

    def to_be_set_aside(self) -> set[str]:
        """Return the keys in quarantine of replaced versions that are still to be fetched from the object store."""
        return set(self._connection.scalars(select(aside_of_order())))

    def count_unavailable(self, study: str, series: str | None = None, sop_instance: str | None = None) -> int:
        """Count the instances of a study, of a series, or the one, whose file is known to be missing or damaged."""
        rest = "AND file_missing" + ("" if sop_instance is None else " AND sop_instance_uid = :instance")
        source = "SELECT count(*) AS missing FROM v_images"
        rows = self._rows_of_study(source, study, series, rest, instance=sop_instance)
        return int(rows[0]["missing"])

    def bytes_by_series(self, study_instance_uid: str) -> dict[str, int]:
        """Return the bytes of the instances of each series of a study, by Series Instance UID."""
        return self._counts(f"SELECT series_instance_uid, sum(bytes) AS bytes {_OF_STUDY}", study=study_instance_uid)

    def count_by_study(self, study_instance_uids: Sequence[str]) -> dict[str, int]:
        """Count the instances of those of some studies that are stored."""
        studies = StudyRow.study_instance_uid
        images = select(studies, func.count()).select_from(join(ImageRow, SeriesRow).join(StudyRow))
        counts = images.where(studies.in_(study_instance_uids)).group_by(studies)
        return {uid: count for uid, count in self._connection.execute(counts)}

    def count_by_series(self, study_instance_uid: str) -> dict[str, int]:
        """Count the instances of each stored series of a study."""
        return self._counts(f"SELECT series_instance_uid, count(*) AS count {_OF_STUDY}", study=study_instance_uid)

    def calling_ae_titles(self, study_instance_uid: str, series_instance_uid: str | None = None) -> list[str]:
        """Return the distinct AE titles that sent instances of a study or a series, sorted."""
        source, rest = "SELECT DISTINCT calling_ae_title FROM v_images", "AND calling_ae_title IS NOT NULL"
        rows = self._rows_of_study(source, study_instance_uid, series_instance_uid, rest)
        return sorted(row["calling_ae_title"] for row in rows)

    def summary(self, study_instance_uid: str, series_instance_uid: str) -> Row:
        """Return a summary of the instances of a series: counts, sizes, times, encodings and senders.

        ``classes``, ``syntaxes`` and ``senders`` are lists; a sender is source, calling AE title and peer, separated by
        blanks.
        """
        [totals] = self._rows_of_study(
            "SELECT count(*) AS instances, sum(bytes) AS bytes, min(received_at) AS first_at, "
            'max(received_at) AS last_at, max("rows") AS "rows", max("columns") AS "columns", '
            "count(CASE WHEN file_missing THEN 1 END) AS missing FROM v_images",
            study_instance_uid,
            series_instance_uid,
        )
        title, peer = (func.coalesce(name, "") for name in (ImageRow.calling_ae_title, ImageRow.peer))
        kinds = (
            select(
                JsonGroupDistinct(ImageRow.sop_class_uid).label("classes"),
                JsonGroupDistinct(ImageRow.transfer_syntax_uid).label("syntaxes"),
                JsonGroupDistinct(ImageRow.source + " " + title + " " + peer).label("senders"),
            )
            .select_from(join(ImageRow, SeriesRow).join(StudyRow))
            .where(StudyRow.study_instance_uid == study_instance_uid)
            .where(SeriesRow.series_instance_uid == series_instance_uid)
        )
        return {**totals, **self._connection.execute(kinds).mappings().one()}
