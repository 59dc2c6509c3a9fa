"""The ledger of work as lists show it, newest first."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, and_, exists, func, or_, select
from sqlalchemy.orm import aliased

from node.index.engine.rows import PagedRepository, Row, distinct_values
from node.index.models.history import EventRow
from node.index.models.levels import PatientRow, SeriesRow, StudyRow
from node.index.models.work import WorkRow
from node.index.nouns.converted import SeriesKey

_STATE = func.coalesce(WorkRow.outcome, WorkRow.state).label("state")
_MESSAGE, _JOB = aliased(WorkRow), aliased(WorkRow)
_IS_JOB = WorkRow.kind == "job"


def _is_message_of(message: Any, job: Any) -> Any:
    return and_(message.kind == "hook", message.name == job.name, message.key == job.cause)


_HAS_JOB = exists().where(_is_message_of(WorkRow, _JOB))  # only jobs have a cause, and an index of it


def _failed_of(kind: str, *conditions: ColumnElement[bool]) -> ColumnElement[bool]:
    names = distinct_values(_JOB.name, _JOB.kind == kind)  # so that the index by outcome is used: every page asks this
    is_of_hook = WorkRow.name.in_(names), WorkRow.destination == ""
    return and_(WorkRow.kind == kind, *is_of_hook, WorkRow.outcome.in_(("failed", "expired")), *conditions)


_IS_FAILED = and_(
    or_(_failed_of("hook", ~_HAS_JOB), _failed_of("job", WorkRow.cause.is_not(None))),
    exists().where(StudyRow.study_instance_uid == WorkRow.study_instance_uid),
)
"""What hooks failed to do for studies that are here: a job whose message is tried again has no cause any more."""

_COLUMNS = [column for column in WorkRow.__table__.columns if column.name not in ("state", "outcome")]


class ReadWork(PagedRepository):
    """Rows of ``work``, with what their payloads have; ``state`` is the outcome of what has ended."""

    listing = select(*_COLUMNS, _STATE)
    filters = (
        WorkRow.id,
        WorkRow.kind,
        WorkRow.name,
        WorkRow.destination,
        WorkRow.key,
        WorkRow.study_instance_uid,
        WorkRow.series_instance_uid,
        _STATE,
    )

    def page(self, after: int | None, limit: int, **wanted: Any) -> list[Row]:
        """Return at most `limit` rows below the id `after`, newest first; `wanted` are filters, None matches all."""
        return [_flat(row) for row in self._page(after, limit, **wanted)]

    def counts(self) -> dict[tuple[str, str], int]:
        """Count the rows by kind and state."""
        rows = self._connection.execute(select(WorkRow.kind, _STATE, func.count()).group_by(WorkRow.kind, _STATE))
        return {(kind, state): count for kind, state, count in rows}

    def newest(self, limit: int, offset: int = 0, **wanted: Any) -> list[Row]:
        """Return a page of rows, the last changed first, with what is known here of their studies and series.

        Without a `kind`, a message that has a job is no row of its own: its job is.
        """
        is_shown = () if wanted.get("kind") else (~_HAS_JOB,)
        return self._known(self._matching(**wanted).where(*is_shown), limit, offset)

    def failed(self, limit: int, offset: int = 0, *, series: SeriesKey | None = None) -> list[Row]:
        """Return a page of what hooks failed to do, as `newest`; `series`: only for this one."""
        of_series = () if series is None else _of_series(series)
        return self._known(self.listing.where(_IS_FAILED, *of_series), limit, offset)

    def count_failed(self) -> int:
        """Count what hooks failed to do."""
        return self._count(_IS_FAILED)

    def count_failed_since(self, event: int) -> int:
        """Count what hooks failed to do after an event by its id."""
        is_before = exists().where(EventRow.id == event, EventRow.happened_at >= WorkRow.changed_at)
        return self._count(_IS_FAILED, ~is_before)

    def _count(self, *conditions: ColumnElement[bool]) -> int:
        return int(self._connection.execute(select(func.count()).select_from(WorkRow).where(*conditions)).scalar_one())

    def _known(self, listing: Any, limit: int, offset: int) -> list[Row]:
        last_changed = listing.with_only_columns(WorkRow.id).order_by(WorkRow.changed_at.desc(), WorkRow.id.desc())
        rows = self._connection.execute(
            self.listing.where(WorkRow.id.in_(last_changed.limit(limit).offset(offset)))
            .add_columns(
                _MESSAGE.id.label("message"),
                _MESSAGE.outcome.label("message_outcome"),
                _MESSAGE.attempts.label("message_attempts"),
                PatientRow.patient_name,
                PatientRow.patient_id,
                SeriesRow.series_description,
                SeriesRow.modality,
                SeriesRow.series_number,
                SeriesRow.revision.label("newest_revision"),
                StudyRow.id.is_not(None).label("is_study_here"),
                SeriesRow.id.is_not(None).label("is_series_here"),
            )
            .select_from(WorkRow)
            .outerjoin(_MESSAGE, and_(_IS_JOB, _is_message_of(_MESSAGE, WorkRow)))
            .outerjoin(StudyRow, StudyRow.study_instance_uid == WorkRow.study_instance_uid)
            .outerjoin(PatientRow, PatientRow.id == StudyRow.patient_id)
            .outerjoin(
                SeriesRow,
                and_(SeriesRow.study_id == StudyRow.id, SeriesRow.series_instance_uid == WorkRow.series_instance_uid),
            )
            .order_by(WorkRow.changed_at.desc(), WorkRow.id.desc())
        )
        return [_flat(dict(row)) for row in rows.mappings()]


def _of_series(series: SeriesKey) -> tuple[Any, ...]:
    study_instance_uid, series_instance_uid = series
    return WorkRow.study_instance_uid == study_instance_uid, WorkRow.series_instance_uid == series_instance_uid


def _flat(row: Row) -> Row:
    return {**row.pop("payload"), **row}
