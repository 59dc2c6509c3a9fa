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
    ConflictRow,
    ConversionRow,
    EventRow,
    ExclusionRow,
    FailureRow,
    ImageRow,
    PatientRow,
    RejectionRow,
    SeriesRow,
    StudyRow,
    VolumeRow,
)

Rows = list[dict[str, Any]]

_OF_SERIES = StudyRow.study_instance_uid, SeriesRow.series_instance_uid


class Browse:
    """Lists of one view of the index; for one thread."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def patients(
        self, after: int | None, limit: int, *, patient_id: str | None = None, name: str | None = None
    ) -> Rows:
        """Patients with how many studies each has; `name` is the beginning of a name, whatever its case."""
        query = select(
            PatientRow.id,
            PatientRow.patient_id,
            PatientRow.issuer_of_patient_id,
            PatientRow.patient_name,
            PatientRow.patient_birth_date,
            PatientRow.patient_sex,
            PatientRow.merged_into,
        ).where(*_equal((PatientRow.patient_id, patient_id)))
        if name is not None:
            query = query.where(PatientRow.patient_name.istartswith(name, autoescape=True))
        rows = _page(self._connection, query, PatientRow.id, after, limit)
        return _with_counts(
            self._connection, rows, "studies", select(StudyRow.patient_id, func.count()), StudyRow.patient_id
        )

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
                SeriesRow.id,
                *_OF_SERIES,
                SeriesRow.modality,
                SeriesRow.series_number,
                SeriesRow.series_description,
                SeriesRow.body_part_examined,
                SeriesRow.protocol_name,
                SeriesRow.state,
                SeriesRow.verdict,
                SeriesRow.verdict_rule,
                SeriesRow.verdict_reason,
                SeriesRow.expected_instances,
                SeriesRow.expected_source,
                SeriesRow.missing_instances,
                SeriesRow.revision,
                SeriesRow.open_since,
                SeriesRow.last_received_at,
                SeriesRow.due_at,
                SeriesRow.attempts,
                SeriesRow.error,
            )
            .join(StudyRow, StudyRow.id == SeriesRow.study_id)
            .where(
                *_equal(
                    (StudyRow.study_instance_uid, study_instance_uid),
                    (SeriesRow.series_instance_uid, series_instance_uid),
                    (SeriesRow.modality, modality),
                    (SeriesRow.verdict, verdict),
                )
            )
        )
        if states:
            query = query.where(SeriesRow.state.in_(states))
        rows = _page(self._connection, query, SeriesRow.id, after, limit)
        return _with_counts(
            self._connection, rows, "instances", select(ImageRow.series_id, func.count()), ImageRow.series_id
        )

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
                ImageRow.id,
                *_OF_SERIES,
                ImageRow.sop_instance_uid,
                ImageRow.sop_class_uid,
                ImageRow.transfer_syntax_uid,
                ImageRow.instance_number,
                ImageRow.number_of_frames,
                ImageRow.rows,
                ImageRow.columns,
                ImageRow.bytes,
                ImageRow.sha256,
                ImageRow.file_missing,
                ImageRow.door,
                ImageRow.calling_ae_title,
                ImageRow.called_ae_title,
                ImageRow.received_at,
                ImageRow.key,
                PatientRow.patient_id,
            )
            .join(SeriesRow, SeriesRow.id == ImageRow.series_id)
            .join(StudyRow, StudyRow.id == SeriesRow.study_id)
            .join(PatientRow, PatientRow.id == StudyRow.patient_id)
            .where(
                *_equal(
                    (StudyRow.study_instance_uid, study_instance_uid),
                    (SeriesRow.series_instance_uid, series_instance_uid),
                    (ImageRow.sop_instance_uid, sop_instance_uid),
                )
            )
        )
        return _page(self._connection, query, ImageRow.id, after, limit)

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
                VolumeRow.id,
                *_OF_SERIES,
                ConversionRow.revision,
                ConversionRow.superseded,
                VolumeRow.stack,
                VolumeRow.suffix,
                VolumeRow.kind,
                VolumeRow.format,
                VolumeRow.path,
                VolumeRow.shape,
                VolumeRow.spacing_mm,
                VolumeRow.dtype,
                VolumeRow.geometry,
                VolumeRow.instances,
                VolumeRow.warnings,
                VolumeRow.bytes,
                VolumeRow.sha256,
                ConversionRow.converter,
                ConversionRow.created_at,
                ConversionRow.files_removed_at,
                PatientRow.patient_id,
            )
            .join(ConversionRow, ConversionRow.id == VolumeRow.conversion_id)
            .join(SeriesRow, SeriesRow.id == ConversionRow.series_id)
            .join(StudyRow, StudyRow.id == SeriesRow.study_id)
            .join(PatientRow, PatientRow.id == StudyRow.patient_id)
            .where(
                *_equal(
                    (VolumeRow.id, id),
                    (StudyRow.study_instance_uid, study_instance_uid),
                    (SeriesRow.series_instance_uid, series_instance_uid),
                    (VolumeRow.kind, kind),
                    (VolumeRow.format, format),
                    (ConversionRow.superseded, superseded),
                )
            )
        )
        return _page(self._connection, query, VolumeRow.id, after, limit)

    def failures(self, after: int | None, limit: int, *, reason: str | None = None) -> Rows:
        """Why series, or stacks of them, gave no volume."""
        query = (
            select(
                FailureRow.id,
                *_OF_SERIES,
                FailureRow.revision,
                FailureRow.stack,
                FailureRow.reason,
                FailureRow.detail,
                FailureRow.failed_at,
            )
            .join(SeriesRow, SeriesRow.id == FailureRow.series_id)
            .join(StudyRow, StudyRow.id == SeriesRow.study_id)
            .where(*_equal((FailureRow.reason, reason)))
        )
        return _page(self._connection, query, FailureRow.id, after, limit)

    def exclusions(self, after: int | None, limit: int, *, series_instance_uid: str | None = None) -> Rows:
        """Instances, or frames of them, that conversions left out of their volumes."""
        query = (
            select(
                ExclusionRow.id,
                *_OF_SERIES,
                ConversionRow.revision,
                ConversionRow.superseded,
                ExclusionRow.sop_instance_uid,
                ExclusionRow.frames,
                ExclusionRow.reason,
                ExclusionRow.detail,
            )
            .join(ConversionRow, ConversionRow.id == ExclusionRow.conversion_id)
            .join(SeriesRow, SeriesRow.id == ConversionRow.series_id)
            .join(StudyRow, StudyRow.id == SeriesRow.study_id)
            .where(*_equal((SeriesRow.series_instance_uid, series_instance_uid)))
        )
        return _page(self._connection, query, ExclusionRow.id, after, limit)

    def rejections(self, after: int | None, limit: int, *, rule: str | None = None) -> Rows:
        """What was refused, and what helps."""
        query = select(
            RejectionRow.id,
            RejectionRow.what,
            RejectionRow.rule,
            RejectionRow.peer,
            RejectionRow.calling_ae_title,
            RejectionRow.called_ae_title,
            RejectionRow.offered,
            RejectionRow.reason,
            RejectionRow.remedy,
            RejectionRow.count,
            RejectionRow.first_at,
            RejectionRow.last_at,
        ).where(*_equal((RejectionRow.rule, rule)))
        return _page(self._connection, query, RejectionRow.id, after, limit)

    def conflicts(self, after: int | None, limit: int, *, study_instance_uid: str | None = None) -> Rows:
        """What claims one identity and is not the same."""
        query = select(
            ConflictRow.id,
            ConflictRow.kind,
            ConflictRow.study_instance_uid,
            ConflictRow.series_instance_uid,
            ConflictRow.sop_instance_uid,
            ConflictRow.detail,
            ConflictRow.sha256,
            ConflictRow.calling_ae_title,
            ConflictRow.found_at,
        ).where(*_equal((ConflictRow.study_instance_uid, study_instance_uid)))
        return _page(self._connection, query, ConflictRow.id, after, limit)

    def events(
        self,
        after: int | None,
        limit: int,
        *,
        kind: str | None = None,
        series_instance_uid: str | None = None,
    ) -> Rows:
        """What happened, the newest first."""
        query = _events().where(*_equal((EventRow.kind, kind), (EventRow.series_instance_uid, series_instance_uid)))
        return _page(self._connection, query, EventRow.id, after, limit)

    def events_since(self, id: int, limit: int) -> Rows:
        """What happened after an event, in the order in which it did."""
        rows = self._connection.execute(_events().where(EventRow.id > id).order_by(EventRow.id).limit(limit))
        return [dict(row) for row in rows.mappings()]

    def last_event(self) -> int:
        """The newest event; 0 before there is one."""
        return int(self._connection.execute(select(func.max(EventRow.id))).scalar() or 0)

    def series_by_state(self) -> dict[str, int]:
        """How many series are in each state."""
        rows = self._connection.execute(select(SeriesRow.state, func.count()).group_by(SeriesRow.state))
        return {state: count for state, count in rows}

    def failures_by_reason(self) -> dict[str, int]:
        """How many failures of the last conversions there are of each reason."""
        rows = self._connection.execute(select(FailureRow.reason, func.count()).group_by(FailureRow.reason))
        return {reason: count for reason, count in rows}

    def oldest_unconverted(self) -> dt.datetime | None:
        """Since when the series that has waited longest for its conversion has instances that none has seen."""
        waits = SeriesRow.state.in_(("receiving", "converting"))
        return self._connection.execute(select(func.min(SeriesRow.open_since)).where(waits)).scalar()

    def patient_of(self, study_instance_uid: str) -> str | None:
        """*Patient ID* of a study, for the audit log; None where there is no such study."""
        query = select(PatientRow.patient_id).join(StudyRow, StudyRow.patient_id == PatientRow.id)
        row = self._connection.execute(query.where(StudyRow.study_instance_uid == study_instance_uid)).first()
        return None if row is None else str(row[0] or "")


def _events() -> Any:
    return select(
        EventRow.id,
        EventRow.kind,
        EventRow.study_instance_uid,
        EventRow.series_instance_uid,
        EventRow.sop_instance_uid,
        EventRow.revision,
        EventRow.detail,
        EventRow.happened_at,
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
