"""What leaves the node as a data set: patients, their series with state and times, and their NIfTI files."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import bindparam, text

from node.index.engine.rows import ReadRepository, Row


class ReadExports(ReadRepository):
    """Rows of patients, studies, series and volumes, for programs that write data sets."""

    def patients(self, patient: int | None = None) -> list[Row]:
        """Return ``id``, ``identity`` and ``patient_id`` of each patient with a series, by ``id``, or of one alone."""
        query = (
            "SELECT p.id, p.identity, p.patient_id FROM patients p WHERE EXISTS "
            "(SELECT 1 FROM studies st JOIN series se ON se.study_id = st.id WHERE st.patient_id = p.id)"
        )
        if patient is None:
            return self._rows(f"{query} ORDER BY p.id")
        return self._rows(f"{query} AND p.id = :patient", patient=patient)

    def patient_of(self, study_instance_uid: str) -> int | None:
        """Return the ``id`` of the patient of a study, or None if there is no such study."""
        row = self._row("SELECT patient_id FROM studies WHERE study_instance_uid = :uid", uid=study_instance_uid)
        return None if row is None else int(row["patient_id"])

    def series_keys(self) -> list[tuple[str, str]]:
        """Return study and series UID of all series."""
        query = "SELECT study_instance_uid, series_instance_uid FROM series se JOIN studies st ON st.id = se.study_id"
        return [(row["study_instance_uid"], row["series_instance_uid"]) for row in self._rows(query)]

    def series_of(self, patients: Sequence[int]) -> list[Row]:
        """Return the series of patients, by their ``id``, with dates and times, state, verdict and failures."""
        return self._of_ids(
            "SELECT se.id, st.patient_id AS patient, st.study_instance_uid, se.series_instance_uid, st.study_date, "
            "st.study_time, se.series_date, se.series_time, se.state, se.verdict, se.verdict_reason, se.error, "
            "(SELECT f.detail FROM failures f WHERE f.series_id = se.id AND f.revision = se.revision LIMIT 1) "
            "AS failure FROM series se JOIN studies st ON st.id = se.study_id "
            "WHERE st.patient_id IN :ids ORDER BY se.id",
            patients,
        )

    def nifti_of(self, series: Sequence[int]) -> list[Row]:
        """Return the current NIfTI volumes of series, by their ``id``; paths are relative to the root."""
        return self._of_ids(
            "SELECT c.series_id, v.stack, v.suffix, v.path, v.sha256, v.shape, v.spacing_mm, v.geometry, "
            "v.orientation, v.warnings FROM conversions c JOIN volumes v ON v.conversion_id = c.id "
            "WHERE c.series_id IN :ids AND NOT c.superseded AND c.files_removed_at IS NULL AND v.kind = 'volume' "
            "AND v.format = 'nifti' ORDER BY v.stack, v.path",
            series,
        )

    def _of_ids(self, query: str, ids: Sequence[int]) -> list[Row]:
        statement = text(query).bindparams(bindparam("ids", expanding=True))
        return self._plain(self._connection.execute(statement, {"ids": list(ids)}))
