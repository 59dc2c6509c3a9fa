"""Performed procedure steps."""

from __future__ import annotations

from sqlalchemy import select

from node.index.models import PerformedStepRow
from node.index.read.rows import PagedRepository, Row

_COLUMNS = tuple(column for column in PerformedStepRow.__table__.columns if column.name != "attributes")


class ReadPerformedSteps(PagedRepository):
    """Rows of ``performed_steps``."""

    listing = select(*_COLUMNS)
    filters = (PerformedStepRow.state, PerformedStepRow.study_instance_uid)

    def step(self, sop_instance_uid: str) -> Row | None:
        """Return a step with its attributes, or None."""
        is_it = PerformedStepRow.sop_instance_uid == sop_instance_uid
        row = self._connection.execute(select(PerformedStepRow.__table__).where(is_it)).first()
        return None if row is None else dict(row._mapping)
