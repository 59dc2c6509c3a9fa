"""Entries of the modality worklist."""

from __future__ import annotations

from sqlalchemy import select

from node.index.models import ScheduledStepRow
from node.index.read.rows import PagedRepository, Row

_COLUMNS = tuple(column for column in ScheduledStepRow.__table__.columns if column.name != "attributes")


class ReadScheduledSteps(PagedRepository):
    """Rows of ``scheduled_steps``."""

    listing = select(*_COLUMNS)
    filters = (
        ScheduledStepRow.id,
        ScheduledStepRow.state,
        ScheduledStepRow.start_date,
        ScheduledStepRow.modality,
        ScheduledStepRow.station_ae_title,
        ScheduledStepRow.patient_id,
        ScheduledStepRow.accession_number,
    )

    def entry(self, id: int) -> Row | None:
        """Return an entry with its attributes, or None."""
        row = self._connection.execute(select(ScheduledStepRow.__table__).where(ScheduledStepRow.id == id)).first()
        return None if row is None else dict(row._mapping)
