"""Events, in the order in which they were recorded."""

from __future__ import annotations

from sqlalchemy import Connection, func, select

from node.index.backend import Settled, is_settled
from node.index.models import EventRow
from node.index.read.rows import PagedRepository, Row


class ReadEvents(PagedRepository):
    """Rows of ``events`` and ``v_events``; see `node.index.read.ReadIndex`."""

    def __init__(self, connection: Connection, settled: Settled | None) -> None:
        super().__init__(connection)
        self._is_settled = is_settled(settled, EventRow.id)

    listing = select(
        EventRow.id,
        EventRow.kind,
        EventRow.study_instance_uid,
        EventRow.series_instance_uid,
        EventRow.sop_instance_uid,
        EventRow.revision,
        EventRow.detail,
        EventRow.happened_at,
    )
    filters = (EventRow.kind, EventRow.series_instance_uid)

    def since(self, id: int, limit: int) -> list[Row]:
        """Return at most `limit` events after the event `id`, oldest first."""
        rows = self._connection.execute(
            self.listing.where(EventRow.id > id, self._is_settled).order_by(EventRow.id).limit(limit)
        )
        return [dict(row) for row in rows.mappings()]

    def set_aside(self) -> list[Row]:
        """Return kind and detail of the events whose detail ends with the key of a file in quarantine."""
        return self._rows("SELECT kind, detail FROM v_events WHERE kind IN ('instance-set-aside', 'journal-damaged')")

    def newest(self) -> int:
        """Return the id of the newest event, or 0 if there are no events."""
        return int(self._connection.execute(select(func.max(EventRow.id)).where(self._is_settled)).scalar() or 0)

    def of_series(self, study_instance_uid: str, series_instance_uid: str, limit: int) -> list[Row]:
        """Return the last events of a series, newest first."""
        source, rest = "SELECT kind, revision, detail, happened_at FROM v_events", "ORDER BY id DESC LIMIT :limit"
        return self._rows_of_study(source, study_instance_uid, series_instance_uid, rest, limit=limit)

    def conversions(self, limit: int) -> list[Row]:
        """Return the final events of the last conversions, with series and patient, newest first.

        ``certainty`` is that of the series, if the conversion is its current one.
        """
        return self._rows(
            "SELECT e.kind, e.revision, e.detail, e.happened_at, e.study_instance_uid, e.series_instance_uid, "
            "se.series_number, se.series_description, se.modality, st.patient_name, st.patient_id, "
            "CASE WHEN se.revision = e.revision THEN se.certainty END AS certainty "
            "FROM (SELECT * FROM v_events WHERE +v_events.kind IN "  # unary plus: scan by id, not by kind
            "('series-converted', 'series-refused', 'series-failed', 'series-unchanged', 'conversion-cancelled') "
            "ORDER BY id DESC LIMIT :limit) e JOIN v_series se USING (study_instance_uid, series_instance_uid) "
            "JOIN v_studies st USING (study_instance_uid) ORDER BY e.id DESC",
            limit=limit,
        )
