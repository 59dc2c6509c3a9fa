"""Exclusions: instances, or some of their frames, that are in no volume."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import join

from node.index.engine.rows import PagedRepository, Row
from node.index.models import ConversionRow, ExclusionRow, SeriesRow, StudyRow


class ReadExclusions(PagedRepository):
    """Rows of ``exclusions`` and ``v_exclusions``."""

    listing = select(
        ExclusionRow.id,
        StudyRow.study_instance_uid,
        SeriesRow.series_instance_uid,
        ConversionRow.revision,
        ConversionRow.superseded,
        ExclusionRow.sop_instance_uid,
        ExclusionRow.frames,
        ExclusionRow.reason,
        ExclusionRow.detail,
    ).select_from(join(ExclusionRow, ConversionRow).join(SeriesRow).join(StudyRow))
    filters = (SeriesRow.series_instance_uid,)

    def of_instance(self, sop_instance_uid: str) -> list[Row]:
        """Return the revisions that excluded an instance, with the reasons."""
        return self._rows(
            "SELECT revision, frames, reason, detail FROM v_exclusions WHERE sop_instance_uid = :uid ORDER BY revision",
            uid=sop_instance_uid,
        )

    def of_revision(self, study_instance_uid: str, series_instance_uid: str, revision: int, limit: int) -> list[Row]:
        """Return the instances that a revision excluded."""
        columns = "sop_instance_uid, frames, reason, detail"
        return self._rows_of_revision(columns, "v_exclusions", study_instance_uid, series_instance_uid, revision, limit)
