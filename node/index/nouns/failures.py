"""Failures: the reasons why a series, or one of its stacks, has no volume."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.orm import join

from node.index.engine.rows import PagedRepository, Row
from node.index.models import FailureRow, SeriesRow, StudyRow
from node.index.nouns.problems import BEYOND_MENDING


class ReadFailures(PagedRepository):
    """Rows of ``failures`` and ``v_failures``."""

    listing = select(
        FailureRow.id,
        StudyRow.study_instance_uid,
        SeriesRow.series_instance_uid,
        FailureRow.revision,
        FailureRow.stack,
        FailureRow.reason,
        FailureRow.detail,
        FailureRow.failed_at,
    ).select_from(join(FailureRow, SeriesRow).join(StudyRow))
    filters = (FailureRow.reason,)

    def of_study(self, study_instance_uid: str, series_instance_uid: str | None = None) -> list[Row]:
        """Return the rows of ``v_failures`` of a study or a series, by stack; failures of whole series come last."""
        order = "ORDER BY stack IS NULL, stack"
        return self._rows_of_study("SELECT * FROM v_failures", study_instance_uid, series_instance_uid, order)

    def of_revision(self, study_instance_uid: str, series_instance_uid: str, revision: int | None) -> list[Row]:
        """Return ``stack``, ``reason`` and ``detail`` of the failures of a revision."""
        source = "SELECT stack, reason, detail FROM v_failures"
        rest = "AND revision = :revision ORDER BY stack NULLS FIRST"
        return self._rows_of_study(source, study_instance_uid, series_instance_uid, rest, revision=revision)

    def newest(self, limit: int) -> list[Row]:
        """Return at most `limit` failures with series and patient, newest first."""
        return self._rows(
            "SELECT f.series_instance_uid, f.revision, f.stack, f.reason, f.detail, f.failed_at, se.series_number, "
            "se.modality, se.series_description, st.patient_name, st.patient_id, st.study_date "
            "FROM v_failures f JOIN v_series se USING (study_instance_uid, series_instance_uid) "
            "JOIN v_studies st USING (study_instance_uid) ORDER BY f.failed_at DESC LIMIT :limit",
            limit=limit,
        )

    def beyond_mending(self, limit: int, skip: int) -> list[Row]:
        """Return the failures of images about which nobody can do anything, with series and patient, newest first."""
        reasons = ", ".join(f"'{reason}'" for reason in BEYOND_MENDING if reason != "not-an-image")
        return self._rows(
            "SELECT f.*, se.series_number, se.series_description, se.modality, se.state, st.patient_name, "
            "st.patient_id FROM v_failures f JOIN v_series se USING (study_instance_uid, series_instance_uid) "
            f"JOIN v_studies st USING (study_instance_uid) WHERE f.reason IN ({reasons}) "
            "ORDER BY f.failed_at DESC, f.series_instance_uid, f.stack NULLS FIRST LIMIT :limit OFFSET :skip",
            limit=limit,
            skip=skip,
        )

    def count(self) -> int:
        """Count all failures."""
        return int(self._connection.execute(select(func.count()).select_from(FailureRow)).scalar_one())

    def count_by_reason(self) -> dict[str, int]:
        """Count the failures of the last conversions by reason."""
        query = select(FailureRow.reason, func.count()).group_by(FailureRow.reason)
        return {reason: count for reason, count in self._connection.execute(query)}
