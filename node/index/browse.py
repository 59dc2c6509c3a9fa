"""What the index holds, page by page, the newest first: for whoever looks at it over HTTP.

A page begins after the row where the last one ended (its `id`) and goes along the primary key, so that the hundredth
page costs what the first does, and rows that come meanwhile shift nothing. Counts are of the rows of the page alone.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, func, select

from node.index.models import (
    Conflict,
    Conversion,
    Event,
    Exclusion,
    Failure,
    Image,
    Patient,
    Rejection,
    Series,
    Study,
    Volume,
)

Rows = list[dict[str, Any]]

_OF_SERIES = Study.study_instance_uid, Series.series_instance_uid


class Browse:
    """Lists of one view of the index; for one thread."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def patients(
        self, after: int | None, limit: int, *, patient_id: str | None = None, name: str | None = None
    ) -> Rows:
        """Patients with how many studies each has; `name` is the beginning of a name, whatever its case."""
        query = select(
            Patient.id,
            Patient.patient_id,
            Patient.issuer_of_patient_id,
            Patient.patient_name,
            Patient.patient_birth_date,
            Patient.patient_sex,
            Patient.merged_into,
        ).where(*_equal((Patient.patient_id, patient_id)))
        if name is not None:
            query = query.where(Patient.patient_name.istartswith(name, autoescape=True))
        rows = _page(self._connection, query, Patient.id, after, limit)
        return _with_counts(self._connection, rows, "studies", select(Study.patient_id, func.count()), Study.patient_id)

    def series(
        self,
        after: int | None,
        limit: int,
        *,
        study_instance_uid: str | None = None,
        series_instance_uid: str | None = None,
        modality: str | None = None,
        states: Sequence[str] = (),
        verdict: str | None = None,
    ) -> Rows:
        """Series with state, verdict and how many instances each has."""
        query = (
            select(
                Series.id,
                *_OF_SERIES,
                Series.modality,
                Series.series_number,
                Series.series_description,
                Series.body_part_examined,
                Series.protocol_name,
                Series.state,
                Series.verdict,
                Series.verdict_rule,
                Series.verdict_reason,
                Series.expected_instances,
                Series.expected_source,
                Series.missing_instances,
                Series.revision,
                Series.open_since,
                Series.last_received_at,
                Series.due_at,
                Series.attempts,
                Series.error,
            )
            .join(Study, Study.id == Series.study_id)
            .where(
                *_equal(
                    (Study.study_instance_uid, study_instance_uid),
                    (Series.series_instance_uid, series_instance_uid),
                    (Series.modality, modality),
                    (Series.verdict, verdict),
                )
            )
        )
        if states:
            query = query.where(Series.state.in_(states))
        rows = _page(self._connection, query, Series.id, after, limit)
        return _with_counts(self._connection, rows, "instances", select(Image.series_id, func.count()), Image.series_id)

    def instances(
        self,
        after: int | None,
        limit: int,
        *,
        study_instance_uid: str | None = None,
        series_instance_uid: str | None = None,
        sop_instance_uid: str | None = None,
    ) -> Rows:
        """Stored instances, whence each came, and where its bytes lie (`key`)."""
        query = (
            select(
                Image.id,
                *_OF_SERIES,
                Image.sop_instance_uid,
                Image.sop_class_uid,
                Image.transfer_syntax_uid,
                Image.instance_number,
                Image.number_of_frames,
                Image.rows,
                Image.columns,
                Image.bytes,
                Image.sha256,
                Image.file_missing,
                Image.door,
                Image.calling_ae_title,
                Image.called_ae_title,
                Image.received_at,
                Image.key,
                Patient.patient_id,
            )
            .join(Series, Series.id == Image.series_id)
            .join(Study, Study.id == Series.study_id)
            .join(Patient, Patient.id == Study.patient_id)
            .where(
                *_equal(
                    (Study.study_instance_uid, study_instance_uid),
                    (Series.series_instance_uid, series_instance_uid),
                    (Image.sop_instance_uid, sop_instance_uid),
                )
            )
        )
        return _page(self._connection, query, Image.id, after, limit)

    def volumes(
        self,
        after: int | None,
        limit: int,
        *,
        id: int | None = None,
        study_instance_uid: str | None = None,
        series_instance_uid: str | None = None,
        kind: str | None = None,
        format: str | None = None,
        superseded: bool | None = None,
    ) -> Rows:
        """Files of conversions; `path` counts from the root."""
        query = (
            select(
                Volume.id,
                *_OF_SERIES,
                Conversion.revision,
                Conversion.superseded,
                Volume.stack,
                Volume.suffix,
                Volume.kind,
                Volume.format,
                Volume.path,
                Volume.shape,
                Volume.spacing_mm,
                Volume.dtype,
                Volume.geometry,
                Volume.instances,
                Volume.warnings,
                Volume.bytes,
                Volume.sha256,
                Conversion.converter,
                Conversion.created_at,
                Conversion.files_removed_at,
                Patient.patient_id,
            )
            .join(Conversion, Conversion.id == Volume.conversion_id)
            .join(Series, Series.id == Conversion.series_id)
            .join(Study, Study.id == Series.study_id)
            .join(Patient, Patient.id == Study.patient_id)
            .where(
                *_equal(
                    (Volume.id, id),
                    (Study.study_instance_uid, study_instance_uid),
                    (Series.series_instance_uid, series_instance_uid),
                    (Volume.kind, kind),
                    (Volume.format, format),
                    (Conversion.superseded, superseded),
                )
            )
        )
        return _page(self._connection, query, Volume.id, after, limit)

    def failures(self, after: int | None, limit: int, *, reason: str | None = None) -> Rows:
        """Why series, or stacks of them, gave no volume."""
        query = (
            select(
                Failure.id,
                *_OF_SERIES,
                Failure.revision,
                Failure.stack,
                Failure.reason,
                Failure.detail,
                Failure.failed_at,
            )
            .join(Series, Series.id == Failure.series_id)
            .join(Study, Study.id == Series.study_id)
            .where(*_equal((Failure.reason, reason)))
        )
        return _page(self._connection, query, Failure.id, after, limit)

    def exclusions(self, after: int | None, limit: int, *, series_instance_uid: str | None = None) -> Rows:
        """Instances, or frames of them, that conversions left out of their volumes."""
        query = (
            select(
                Exclusion.id,
                *_OF_SERIES,
                Conversion.revision,
                Conversion.superseded,
                Exclusion.sop_instance_uid,
                Exclusion.frames,
                Exclusion.reason,
                Exclusion.detail,
            )
            .join(Conversion, Conversion.id == Exclusion.conversion_id)
            .join(Series, Series.id == Conversion.series_id)
            .join(Study, Study.id == Series.study_id)
            .where(*_equal((Series.series_instance_uid, series_instance_uid)))
        )
        return _page(self._connection, query, Exclusion.id, after, limit)

    def rejections(self, after: int | None, limit: int, *, rule: str | None = None) -> Rows:
        """What was refused, and what helps."""
        query = select(
            Rejection.id,
            Rejection.what,
            Rejection.rule,
            Rejection.peer,
            Rejection.calling_ae_title,
            Rejection.called_ae_title,
            Rejection.offered,
            Rejection.reason,
            Rejection.remedy,
            Rejection.count,
            Rejection.first_at,
            Rejection.last_at,
        ).where(*_equal((Rejection.rule, rule)))
        return _page(self._connection, query, Rejection.id, after, limit)

    def conflicts(self, after: int | None, limit: int, *, study_instance_uid: str | None = None) -> Rows:
        """What claims one identity and is not the same."""
        query = select(
            Conflict.id,
            Conflict.kind,
            Conflict.study_instance_uid,
            Conflict.series_instance_uid,
            Conflict.sop_instance_uid,
            Conflict.detail,
            Conflict.sha256,
            Conflict.calling_ae_title,
            Conflict.found_at,
        ).where(*_equal((Conflict.study_instance_uid, study_instance_uid)))
        return _page(self._connection, query, Conflict.id, after, limit)

    def events(
        self,
        after: int | None,
        limit: int,
        *,
        kind: str | None = None,
        series_instance_uid: str | None = None,
    ) -> Rows:
        """What happened, the newest first."""
        query = _events().where(*_equal((Event.kind, kind), (Event.series_instance_uid, series_instance_uid)))
        return _page(self._connection, query, Event.id, after, limit)

    def events_since(self, id: int, limit: int) -> Rows:
        """What happened after an event, in the order in which it did."""
        rows = self._connection.execute(_events().where(Event.id > id).order_by(Event.id).limit(limit))
        return [dict(row) for row in rows.mappings()]

    def last_event(self) -> int:
        """The newest event; 0 before there is one."""
        return int(self._connection.execute(select(func.max(Event.id))).scalar() or 0)

    def series_by_state(self) -> dict[str, int]:
        """How many series are in each state."""
        rows = self._connection.execute(select(Series.state, func.count()).group_by(Series.state))
        return {state: count for state, count in rows}

    def failures_by_reason(self) -> dict[str, int]:
        """How many failures of the last conversions there are of each reason."""
        rows = self._connection.execute(select(Failure.reason, func.count()).group_by(Failure.reason))
        return {reason: count for reason, count in rows}

    def oldest_unconverted(self) -> dt.datetime | None:
        """Since when the series that has waited longest for its conversion has instances that none has seen."""
        waits = Series.state.in_(("receiving", "converting"))
        return self._connection.execute(select(func.min(Series.open_since)).where(waits)).scalar()

    def patient_of(self, study_instance_uid: str) -> str | None:
        """*Patient ID* of a study, for the audit log; None where there is no such study."""
        query = select(Patient.patient_id).join(Study, Study.patient_id == Patient.id)
        row = self._connection.execute(query.where(Study.study_instance_uid == study_instance_uid)).first()
        return None if row is None else str(row[0] or "")


def _events() -> Any:
    return select(
        Event.id,
        Event.kind,
        Event.study_instance_uid,
        Event.series_instance_uid,
        Event.sop_instance_uid,
        Event.revision,
        Event.detail,
        Event.happened_at,
    )


def _equal(*wanted: tuple[Any, Any]) -> list[ColumnElement[bool]]:
    """Conditions of columns that have to have a value; None holds for all."""
    return [column == value for column, value in wanted if value is not None]


def _page(connection: Connection, query: Any, id_column: Any, after: int | None, limit: int) -> Rows:
    if after is not None:
        query = query.where(id_column < after)
    return [dict(row) for row in connection.execute(query.order_by(id_column.desc()).limit(limit)).mappings()]


def _with_counts(connection: Connection, rows: Rows, name: str, query: Any, column: Any) -> Rows:
    """Add how many rows of another table belong to each of these."""
    counts = dict(connection.execute(query.where(column.in_([row["id"] for row in rows])).group_by(column)).all())
    return [{**row, name: counts.get(row["id"], 0)} for row in rows]
