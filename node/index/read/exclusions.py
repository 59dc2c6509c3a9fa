"""Exclusions: instances, or frames of them, that are in no volume."""

from __future__ import annotations

from sqlalchemy import select

from node.index.models import ConversionRow, ExclusionRow, SeriesRow, StudyRow
from node.index.read.rows import ReadRepository, Row, equal


class ReadExclusions(ReadRepository):
    """Rows of ``exclusions`` and ``v_exclusions``."""

    def page(self, after: int | None, limit: int, *, series_instance_uid: str | None = None) -> list[Row]:
        """Return the next exclusions, the newest first."""
        query = (
            select(
                ExclusionRow.id,
                StudyRow.study_instance_uid,
                SeriesRow.series_instance_uid,
                ConversionRow.revision,
                ConversionRow.superseded,
                ExclusionRow.sop_instance_uid,
                ExclusionRow.frames,
                ExclusionRow.reason,
                ExclusionRow.detail,
            )
            .join(ConversionRow, ConversionRow.id == ExclusionRow.conversion_id)
            .join(SeriesRow, SeriesRow.id == ConversionRow.series_id)
            .join(StudyRow, StudyRow.id == SeriesRow.study_id)
            .where(*equal((SeriesRow.series_instance_uid, series_instance_uid)))
        )
        return self._page(query, ExclusionRow.id, after, limit)

    def of_instance(self, sop_instance_uid: str) -> list[Row]:
        """Return in which revisions an instance was left out, and why."""
        return self._rows(
            "SELECT revision, frames, reason, detail FROM v_exclusions WHERE sop_instance_uid = :uid ORDER BY revision",
            uid=sop_instance_uid,
        )

    def of_revision(self, study_instance_uid: str, series_instance_uid: str, revision: int, limit: int) -> list[Row]:
        """Return the instances that a revision left out."""
        # v_exclusions has no Study Instance UID: a series that lies in two studies is told apart by its instances
        return self._rows(
            "SELECT sop_instance_uid, frames, reason, detail FROM v_exclusions "
            "WHERE series_instance_uid = :series AND revision = :revision AND sop_instance_uid IN "
            "(SELECT sop_instance_uid FROM v_images "
            "WHERE series_instance_uid = :series AND study_instance_uid = :study) LIMIT :limit",
            study=study_instance_uid,
            series=series_instance_uid,
            revision=revision,
            limit=limit,
        )
