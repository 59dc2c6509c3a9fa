"""Studies and series: when a study became quiet, the rows of the lists of both, and what exports read."""

import datetime as dt
import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from sqlalchemy import Connection, Float, String, and_, func, literal_column, null, select
from sqlalchemy.orm import aliased, join

from node.completeness import Certainty, certainty
from node.index.look.facts import CHUNK_ROWS, SeriesFacts
from node.index.look.level_views import FEW_SERIES, SeriesViews, StudyViews
from node.index.look.study_search import SAME_PATIENT, TEXTS, MatchingStudies, StudyCursor, StudyFilter, StudyOrder
from node.index.rows.models.history import ConversionRow, VolumeRow
from node.index.rows.models.levels import OPEN_STATES, ImageRow, PatientRow, SeriesRow, StudyRow
from node.index.rows.models.work import LabelRow
from node.index.rows.repositories import PagedRepository, ReadRepository, Row, columns_but, distinct_values
from node.index.rows.sql import JsonNumber, Unindexed, listed_in
from node.index.rows.view_rows import EACH, ViewRows, certainty_of, years_of
from node.selector import Selector

_NAMED = aliased(PatientRow)
"""The person whom the files of a study name, if that is another one."""

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
    `stored_patient_id`, `stored_patient_name`: those of the files, if a person has decided who the patient is.
    """

    cursor: StudyCursor
    study_instance_uid: str
    patient: int
    patient_name: str | None
    patient_id: str | None
    patient_birth_date: dt.date | None
    patient_sex: str | None
    patient_age: float | None
    study_time: str | None
    accession_number: str | None
    study_description: str | None
    stored_patient_id: str | None
    stored_patient_name: str | None
    decided_by: str | None
    decided_at: dt.datetime | None
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
                _NAMED.patient_id.label("stored_patient_id"),
                _NAMED.patient_name.label("stored_patient_name"),
                func.coalesce(StudyRow.decided_by, _NAMED.decided_by),
                StudyRow.identified_at,
            )
            .join(PatientRow, SAME_PATIENT)
            .outerjoin(_NAMED, _NAMED.id == StudyRow.named_patient_id)
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


class ReadSeries(PagedRepository, SeriesViews):
    """Rows of ``series`` and ``v_series``."""

    listing = select(
        *columns_but(SeriesRow, "request_attributes", "reported"),
        StudyRow.study_instance_uid,
        literal_column(certainty_of("series"), String).label("certainty"),
    ).select_from(join(SeriesRow, StudyRow))
    filters = (StudyRow.study_instance_uid, SeriesRow.series_instance_uid, SeriesRow.modality, SeriesRow.verdict)

    def page(
        self, after: int | None, limit: int, *, states: Sequence[str] = (), where: Selector | None = None, **wanted: Any
    ) -> list[Row]:
        """Return the next page of series with their numbers of instances, newest first."""
        if where is None:
            rows = self._page(after, limit, states=states, **wanted)
        else:
            rows = list(islice(self._selected(after, where, states=states, **wanted), limit))
        return self._with_counts(rows, "instances", select(ImageRow.series_id, func.count()), ImageRow.series_id)

    def count_matching(self, *, where: Selector | None = None, **wanted: Any) -> int:
        """Count all series that match; this reads every one of them."""
        if where is None:
            return super().count_matching(**wanted)
        return sum(1 for _ in self._selected(None, where, **wanted))

    def _matching(self, *, states: Sequence[str] = (), modality: str | None = None, **wanted: Any) -> Any:
        query = super()._matching(**wanted)
        for column, values in (
            (SeriesRow.modality, [modality] if modality is not None else []),
            (SeriesRow.state, states),
        ):
            if values:
                query = query.where((column if self._are_few(column, values) else Unindexed(column)).in_(values))
        return query

    def _are_few(self, column: Any, values: Sequence[str]) -> bool:
        """Return whether few series have one of some values: by an index, SQLite reads and sorts all of them."""
        found = select(literal_column("1")).where(column.in_(values)).limit(FEW_SERIES).subquery()
        return int(self._connection.execute(select(func.count()).select_from(found)).scalar_one()) < FEW_SERIES

    def _selected(self, after: int | None, where: Selector, **wanted: Any) -> Iterator[Row]:
        """Yield the rows that match and whose series are selected."""
        facts = SeriesFacts(self._queries)
        rows = self._page(after, CHUNK_ROWS, **wanted)
        while rows:
            known = facts.of_rows(where.fields, [row["id"] for row in rows])
            yield from (row for row in rows if row["id"] in known and where.matches(known[row["id"]]))
            rows = self._page(rows[-1]["id"], CHUNK_ROWS, **wanted)

    def modalities(self) -> list[str]:
        """Return the distinct modalities of all series."""
        return [modality for modality in self._connection.scalars(distinct_values(SeriesRow.modality)) if modality]

    def count_open_by_state(self) -> dict[str, int]:
        """Count the series that wait or are being converted by state; an index finds them."""
        is_open = "state IN ('receiving', 'converting')"
        return self._counts(f"SELECT state, count(*) AS count FROM series WHERE {is_open} GROUP BY state")

    def count_open(self) -> int:
        """Count the series that wait or are being converted."""
        return sum(self.count_open_by_state().values())

    def oldest_unconverted(self) -> dt.datetime | None:
        """Return when the oldest instance without a conversion was received, or None if there is none."""
        waits = SeriesRow.state.in_(OPEN_STATES)
        return self._connection.execute(select(func.min(SeriesRow.open_since)).where(waits)).scalar()

    def oldest_due(self, now: dt.datetime) -> dt.datetime | None:
        """Return since when a series has been due and waits for a converter, of the one that waits longest, or None."""
        is_due = SeriesRow.state == "receiving", SeriesRow.due_at <= now
        return self._connection.execute(select(func.min(SeriesRow.due_at)).where(*is_due)).scalar()


class ExportViews(ViewRows):
    """Rows of patients, studies, series and volumes, for programs that write data sets."""

    def patients(self, patient: int | None = None) -> list[Row]:
        """Return ``id``, ``identity`` and ``patient_id`` of each patient with a series, by ``id``.

        `patient`: only this one and all of the same identity, as people with one issuer and Patient ID are.
        """
        query = (
            "SELECT p.id, p.identity, p.patient_id FROM patients p WHERE EXISTS "
            "(SELECT 1 FROM studies st JOIN series se ON se.study_id = st.id WHERE st.patient_id = p.id)"
        )
        if patient is None:
            return self._rows(f"{query} ORDER BY p.id")
        alike = "p.identity = (SELECT identity FROM patients WHERE id = :patient)"
        return self._rows(f"{query} AND {alike} ORDER BY p.id", patient=patient)

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
            "WHERE st.patient_id IN {0} ORDER BY se.id",
            patients,
        )

    def nifti_of(self, series: Sequence[int]) -> list[Row]:
        """Return the current NIfTI volumes, spectra and recordings of series, by their ``id``.

        Paths are relative to the root.
        """
        return self._of_ids(
            "SELECT c.series_id, v.stack, v.suffix, v.path, v.sha256, v.shape, v.spacing_mm, v.geometry, "
            "v.orientation, v.warnings, v.weighting, v.contrast_agent "
            "FROM conversions c JOIN volumes v ON v.conversion_id = c.id "
            "WHERE c.series_id IN {0} AND NOT c.superseded AND c.files_removed_at IS NULL "
            "AND (v.kind IN ('volume', 'spectra') AND v.format = 'nifti' OR v.kind = 'physio') "
            "ORDER BY v.stack, v.path",
            series,
        )

    def _of_ids(self, query: str, ids: Sequence[int]) -> list[Row]:
        of_ids = f"(SELECT CAST(value AS BIGINT) FROM {self._queries.say(EACH, ':ids')})"
        return self._rows(query.format(of_ids), ids=json.dumps(list(ids)))
