"""Scheduled and performed procedure steps, as commands and pages list them."""

import datetime as dt
import json
from typing import Any, ClassVar

from node.index.rows.view_rows import Kinds, PagedViews, Queries, Row, timed

MAX_SHOWN = 5
"""Studies and performed steps that are shown of one entry."""

_PERFORMED = (
    "SELECT id, sop_instance_uid, state, study_instance_uid, patient_id, accession_number, "
    "performed_procedure_step_id, modality, station_ae_title, series, instances, calling_ae_title, created_at, "
    "changed_at, ended_at FROM performed_steps"
)


class StepViews(PagedViews):
    """Rows of ``scheduled_steps`` and, as `performed`, of ``performed_steps``; lists are without their attributes."""

    listing = (
        "SELECT id, source, source_key, source_version, patient_id, patient_name, accession_number, "
        "study_instance_uid, requested_procedure_id, scheduled_procedure_step_id, modality, station_ae_title, "
        "start_date, start_time, description, state, created_at, changed_at FROM scheduled_steps"
    )
    kinds: ClassVar[Kinds] = {"start_date": dt.date.fromisoformat, "start_time": dt.time.fromisoformat}

    def __init__(self, queries: Queries) -> None:
        super().__init__(queries)
        self.performed = PagedViews(queries, _PERFORMED)

    def _matching(self, *, start_date: dt.date | None = None, **wanted: Any) -> tuple[str, dict[str, Any]]:
        return super()._matching(start_date=start_date and start_date.isoformat(), **wanted)

    def is_any(self) -> bool:
        """Return whether there are entries."""
        return self._row("SELECT id FROM scheduled_steps LIMIT 1") is not None

    def with_studies(self, limit: int, skip: int = 0) -> list[Row]:
        """Return entries, the last day first, with what was performed and received for each.

        ``performed`` are rows of the steps that modalities report of its study; ``studies`` are the studies with its
        Study Instance UID or Accession Number: ``study_instance_uid``, ``patient_id`` and the number of ``series``.
        """
        order = "ORDER BY start_date DESC NULLS LAST, id DESC LIMIT :limit OFFSET :skip"
        rows = self._listed(order, {}, limit=limit, skip=skip)
        return [{**row, "performed": self._performed(row), "studies": self._studies(row)} for row in rows]

    def _performed(self, row: Row) -> list[Row]:
        query = "SELECT state, modality, series, instances FROM performed_steps WHERE study_instance_uid = :study"
        return self._rows(f"{query} ORDER BY id LIMIT {MAX_SHOWN}", study=row["study_instance_uid"] or None)

    def _studies(self, row: Row) -> list[Row]:
        return self._rows(
            "SELECT st.study_instance_uid, p.patient_id, (SELECT count(*) FROM series se WHERE se.study_id = st.id) "
            "AS series FROM studies st JOIN patients p ON p.id = st.patient_id WHERE st.study_instance_uid = :study "
            f"OR st.accession_number = :number ORDER BY st.id LIMIT {MAX_SHOWN}",
            study=row["study_instance_uid"] or None,
            number=row["accession_number"] or None,
        )

    def entry(self, id: int) -> Row | None:
        """Return an entry with its attributes, or None."""
        row = next(iter(self.page(None, 1, id=id)), None)
        found = self._row("SELECT attributes, identified FROM scheduled_steps WHERE id = :id", id=id)
        if row is None or found is None:
            return None
        return {**row, "attributes": json.loads(found["attributes"]) | json.loads(found["identified"] or "{}")}

    def performed_step(self, sop_instance_uid: str) -> Row | None:
        """Return a step that a modality reports, with its attributes, or None."""
        row = self._row("SELECT * FROM performed_steps WHERE sop_instance_uid = :uid", uid=sop_instance_uid)
        return None if row is None else {**timed(row), "attributes": json.loads(row["attributes"])}
