"""Problems of series that a person has to settle."""

from __future__ import annotations

from node.index.problems import PROBLEM
from node.index.read.certainty import certainty_of
from node.index.read.rows import ReadRepository, Row

BEYOND_MENDING = ("not-an-image", "tiled-slide", "duplicate-slice")
"""Reasons of failures about which nobody can do anything: such instances are stored, and no volume is missing."""

_BEYOND_MENDING = ", ".join(f"'{reason}'" for reason in BEYOND_MENDING)
# The conditions are those of the partial indexes ix_series_doubted and ix_failures_of_images.
_IDS = f"""
    SELECT id FROM series WHERE verdict IN ('suspect', 'incomplete')
        AND state NOT IN ('receiving', 'converting')
    UNION
    SELECT f.series_id FROM failures f JOIN series ON series.id = f.series_id
        WHERE f.reason <> 'not-an-image' AND f.reason NOT IN ({_BEYOND_MENDING})
        AND series.state NOT IN ('receiving', 'converting')
"""
_IS_OPEN = f"series.acknowledged_problem IS NOT ({PROBLEM})"


class ReadProblems(ReadRepository):
    """Series that are suspect or incomplete, or that lack a volume that somebody can help to make."""

    def count(self) -> int:
        """Count the series with a problem that nobody has acknowledged."""
        rows = self._rows(f"SELECT count(*) AS count FROM series WHERE id IN ({_IDS}) AND {_IS_OPEN}")
        return int(rows[0]["count"])

    def open(self, limit: int, skip: int = 0) -> list[Row]:
        """Return the series with a problem that nobody has acknowledged, the last to receive an instance first.

        ``problem`` is what `ProblemRepository.acknowledge` takes; ``failures`` are ``reason``, ``stack`` and
        ``detail`` of each stack without a volume.
        """
        return self._listed(_IS_OPEN, "series.last_received_at DESC, series.id DESC", limit, skip)

    def acknowledged(self, limit: int, skip: int = 0) -> list[Row]:
        """Return the series with a problem that was acknowledged, the last acknowledgment first."""
        return self._listed(f"NOT {_IS_OPEN}", "series.acknowledged_at DESC, series.id DESC", limit, skip)

    def _listed(self, condition: str, order: str, limit: int, skip: int) -> list[Row]:
        rows = self._rows(
            f"""
            SELECT series.id, st.study_instance_uid, series.series_instance_uid, series.series_number,
                series.series_description, series.modality, series.state, series.revision, series.verdict,
                {certainty_of("series")} AS certainty, series.verdict_reason, series.missing_detail,
                series.last_received_at, series.attempts, series.error, p.patient_name, p.patient_id, st.study_date,
                series.acknowledged_reason, series.acknowledged_by, series.acknowledged_at, {PROBLEM} AS problem
            FROM series JOIN studies st ON st.id = series.study_id JOIN patients p ON p.id = st.patient_id
            WHERE series.id IN ({_IDS}) AND {condition} ORDER BY {order} LIMIT :limit OFFSET :skip
            """,
            limit=limit,
            skip=skip,
        )
        return [{**row, "failures": self._failures(row["id"])} for row in rows]

    def _failures(self, series_id: int) -> list[Row]:
        return self._rows(
            "SELECT reason, stack, detail FROM failures WHERE series_id = :series AND reason <> 'not-an-image' "
            f"AND reason NOT IN ({_BEYOND_MENDING}) ORDER BY stack IS NULL, stack",
            series=series_id,
        )
