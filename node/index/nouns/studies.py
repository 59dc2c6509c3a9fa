"""Studies: when each became quiet, what retention needs to know, and the rows of the list of studies."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, Connection, Float, and_, func, literal_column, null, select, update
from sqlalchemy.orm import join

from node.completeness import Certainty, certainty
from node.index.engine.rows import ReadRepository
from node.index.engine.sql import JsonNumber, listed_in
from node.index.engine.view_rows import years_of
from node.index.engine.writer import IndexRepository, on_reader, on_writer
from node.index.models.history import ConversionRow, VolumeRow
from node.index.models.levels import OPEN_STATES, ImageRow, PatientRow, SeriesRow, StudyRow
from node.index.models.people import LabelRow
from node.index.nouns.events import record_event
from node.index.nouns.study_search import SAME_PATIENT, TEXTS, MatchingStudies, StudyCursor, StudyFilter, StudyOrder
from node.index.nouns.views import StudyViews


class StudyRepository(IndexRepository):
    """The studies of an index."""

    def mark_quiet(self, quiet: dt.timedelta, now: dt.datetime) -> int:
        """Mark the studies that have had no open series for `quiet`; return how many became quiet."""
        next_at = self.next_quiet_at(quiet)
        if next_at is None or next_at > now:  # polled often: usually no write is needed
            return 0
        return self._mark_quiet(quiet, now)

    @on_reader
    def next_quiet_at(self, connection: Connection, quiet: dt.timedelta) -> dt.datetime | None:
        """Return when `mark_quiet` will next find a study if nothing is received, or None if none is pending."""
        closed_at = connection.execute(_FIRST_CLOSED_AT).scalar()
        return closed_at and closed_at + quiet

    @on_writer
    def _mark_quiet(self, connection: Connection, quiet: dt.timedelta, now: dt.datetime) -> int:
        studies = connection.execute(
            update(StudyRow)
            .where(StudyRow.closed_at <= now - quiet, ~_is_open())
            .values(closed_at=None, quiet_at=now)
            .returning(StudyRow.id, StudyRow.study_instance_uid)
        ).all()
        for study in studies:
            count = connection.execute(select(func.count()).where(SeriesRow.study_id == study.id)).scalar_one()
            detail = f"{count} series, none of them open"
            record_event(connection, "study-quiet", now, study_instance_uid=study.study_instance_uid, detail=detail)
        return len(studies)


def _is_open() -> ColumnElement[bool]:
    return select(SeriesRow.id).where(SeriesRow.study_id == StudyRow.id, SeriesRow.state.in_(OPEN_STATES)).exists()


_FIRST_CLOSED_AT = select(func.min(StudyRow.closed_at)).where(StudyRow.closed_at.is_not(None), ~_is_open())


DERIVED_MODALITIES = ("SEG", "RTSTRUCT", "RTDOSE")
"""Their pictures show a study only if no image does."""


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """The picture of a study: that of its largest series of images."""

    study_instance_uid: str
    series_instance_uid: str
    revision: int
    name: str


@dataclass(frozen=True, slots=True)
class ListedStudy:
    """A study with a summary of its series.

    `patient`: the `id` of the patient.
    `patient_age`: in years.
    `series`, `instances`: numbers of series and instances.
    `modalities`: distinct modalities of the series.
    `states`: number of series in each state.
    `due_at`: when the last of the series that are received will be due; None if none is.
    `incomplete`: number of series that are incomplete or suspect.
    `certainties`: number of converted series of each certainty, and of others that are incomplete or suspect.
    `labels`: labels of the study.
    """

    cursor: StudyCursor
    study_instance_uid: str
    patient: int
    patient_name: str | None
    patient_id: str | None
    patient_birth_date: dt.date | None
    patient_sex: str | None
    patient_age: float | None
    study_time: dt.time | None
    accession_number: str | None
    study_description: str | None
    series: int = 0
    instances: int = 0
    modalities: tuple[str, ...] = ()
    states: Mapping[str, int] = field(default_factory=dict)
    due_at: dt.datetime | None = None
    incomplete: int = 0
    certainties: Mapping[Certainty, int] = field(default_factory=dict)
    last_received_at: dt.datetime | None = None
    labels: tuple[str, ...] = ()

    @property
    def study_date(self) -> dt.date | None:
        """The Study Date, by which studies are ordered as well."""
        return self.cursor.study_date


class ReadStudies(ReadRepository, StudyViews):
    """Searches for studies, and rows of ``v_studies``."""

    def matching(self, wanted: StudyFilter) -> MatchingStudies:
        """Return the studies that match a search."""
        return MatchingStudies(self._connection, wanted)

    def summaries(self, study_ids: Sequence[int], order: StudyOrder = "received") -> list[ListedStudy]:
        """Return the rows of a list for studies of a page of `matching`, with cursors for its order."""
        query = (
            select(
                StudyRow.id,
                StudyRow.study_date,
                TEXTS.get(order, null()).label("text"),
                StudyRow.study_instance_uid,
                PatientRow.id.label("patient"),
                PatientRow.patient_name,
                PatientRow.patient_id,
                PatientRow.patient_birth_date,
                PatientRow.patient_sex,
                literal_column(years_of("studies.patient_age"), Float).label("patient_age"),
                StudyRow.study_time,
                StudyRow.accession_number,
                StudyRow.study_description,
            )
            .join(PatientRow, SAME_PATIENT)
            .where(listed_in(StudyRow.id, study_ids))
        )
        rows = {row.id: row for row in self._connection.execute(query).all()}
        details = _summaries(self._connection, study_ids)
        return [
            ListedStudy(StudyCursor(row.id, row.study_date, row.text), *row[3:], **details[row.id])
            for row in (rows[id] for id in study_ids)
        ]

    def listed(
        self,
        wanted: StudyFilter,
        order: StudyOrder = "received",
        after: StudyCursor | None = None,
        limit: int = 50,
        *,
        reverse: bool = False,
    ) -> list[ListedStudy]:
        """Return the rows of a list for the next studies; see `MatchingStudies`."""
        return self.summaries(self.matching(wanted).page(order, after, limit, reverse=reverse), order)

    def thumbnails(self, study_ids: Sequence[int]) -> dict[int, Thumbnail]:
        """Return the pictures of studies that have one, by the `id` of their cursors."""
        is_image = SeriesRow.modality.not_in(DERIVED_MODALITIES)
        slices = JsonNumber(VolumeRow.shape, 2)
        query = (
            select(
                SeriesRow.study_id,
                StudyRow.study_instance_uid,
                SeriesRow.series_instance_uid,
                ConversionRow.revision,
                VolumeRow.path,
            )
            .select_from(join(VolumeRow, ConversionRow).join(SeriesRow).join(StudyRow))
            .where(
                listed_in(SeriesRow.study_id, study_ids),
                VolumeRow.kind == "thumbnail",
                ~ConversionRow.superseded,
                ConversionRow.files_removed_at.is_(None),
            )
            .order_by(is_image.nulls_first(), slices.nulls_first(), SeriesRow.id.desc(), VolumeRow.stack.desc())
        )
        return {  # the last one of a study stays
            row.study_id: Thumbnail(*row[1:4], row.path.rpartition("/")[2])
            for row in self._connection.execute(query).all()
        }

    def patient_id(self, study_instance_uid: str) -> str | None:
        """Return the Patient ID of a study, for the audit log, or None if the study is not in the index."""
        query = select(PatientRow.patient_id).join(StudyRow, StudyRow.patient_id == PatientRow.id)
        row = self._connection.execute(query.where(StudyRow.study_instance_uid == study_instance_uid)).first()
        return None if row is None else str(row[0] or "")

    def bytes_of(self, study_instance_uids: Collection[str]) -> int:
        """Return how many bytes the instances of studies have."""
        total = select(func.coalesce(func.sum(ImageRow.bytes), 0)).select_from(join(ImageRow, SeriesRow).join(StudyRow))
        of_them = listed_in(StudyRow.study_instance_uid, list(study_instance_uids))
        return int(self._connection.execute(total.where(of_them)).scalar_one())

    def newest_number(self) -> int:
        """Return the number of the study that was received last, or 0 if there are none."""
        return int(self._connection.execute(select(func.max(StudyRow.id))).scalar_one() or 0)

    def count_since(self, number: int) -> int:
        """Count the studies that were received after the study with this number; see `newest_number`."""
        query = select(func.count()).select_from(StudyRow).where(StudyRow.id > number)
        return int(self._connection.execute(query).scalar_one())


def _summaries(connection: Connection, study_ids: Sequence[int]) -> dict[int, dict[str, Any]]:
    """Return keyword arguments for `ListedStudy`, by `StudyRow.id`."""
    instances = select(func.count()).where(ImageRow.series_id == SeriesRow.id).correlate(SeriesRow)
    query = select(
        SeriesRow.study_id,
        SeriesRow.modality,
        SeriesRow.state,
        SeriesRow.due_at,
        SeriesRow.verdict,
        SeriesRow.verdict_rule,
        SeriesRow.last_received_at,
        instances.scalar_subquery().label("instances"),
    )
    series: dict[int, list[Any]] = {study_id: [] for study_id in study_ids}
    for row in connection.execute(query.where(listed_in(SeriesRow.study_id, study_ids))).all():
        series[row.study_id].append(row)
    labels: dict[int, list[str]] = {study_id: [] for study_id in study_ids}
    of_study = and_(LabelRow.study_instance_uid == StudyRow.study_instance_uid, LabelRow.series_instance_uid == "")
    given = select(StudyRow.id, LabelRow.label).join(LabelRow, of_study).where(listed_in(StudyRow.id, study_ids))
    for study_id, label in connection.execute(given):
        labels[study_id].append(label)
    return {
        study_id: {
            "labels": tuple(sorted(labels[study_id])),
            "series": len(rows),
            "instances": sum(row.instances for row in rows),
            "modalities": tuple(sorted({row.modality for row in rows if row.modality})),
            "states": Counter(row.state for row in rows),
            "due_at": max((row.due_at for row in rows if row.state == "receiving" and row.due_at), default=None),
            "incomplete": sum(row.verdict not in (None, "complete") and row.state not in OPEN_STATES for row in rows),
            "certainties": Counter(
                certainty(row.verdict, row.verdict_rule)
                for row in rows
                if row.verdict
                and row.state not in OPEN_STATES
                and (row.state == "converted" or row.verdict != "complete")
            ),
            "last_received_at": max((row.last_received_at for row in rows), default=None),
        }
        for study_id, rows in series.items()
    }
