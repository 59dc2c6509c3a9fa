"""Studies: when each became quiet, what retention needs to know, and the list of studies, page by page."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from sqlalchemy import (
    ColumnElement,
    Connection,
    Float,
    Select,
    and_,
    case,
    func,
    literal_column,
    null,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.orm import aliased, join

from node.completeness import COUNTED_RULES, Certainty, certainty
from node.dicom.key_values import folded
from node.index.engine.hot_statements import read_ids
from node.index.engine.rows import ReadRepository
from node.index.engine.sql import JsonNumber, Position, Unindexed, contains, in_partial_index, listed_in
from node.index.engine.views import years_of
from node.index.engine.writer import IndexRepository, on_reader, on_writer
from node.index.models import (
    DOUBTED_SERIES,
    OPEN_STATES,
    ConversionRow,
    ImageRow,
    LabelRow,
    PatientRow,
    SeriesRow,
    StudyRow,
    VolumeRow,
)
from node.index.nouns.companions import judge_companions
from node.index.nouns.events import record_event
from node.index.nouns.records import StoredStudy
from node.index.nouns.views import StudyViews

SETTLED_STATES = ("converted", "not-an-image")


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
            judge_companions(connection, study.id, now)
            record_event(connection, "study-quiet", now, study_instance_uid=study.study_instance_uid, detail=detail)
        return len(studies)

    @on_reader
    def stored(self, connection: Connection) -> list[StoredStudy]:
        """Return every study as retention sees it, in the order in which they last received an instance."""
        return stored_studies(connection)


def stored_studies(connection: Connection, study_instance_uid: str | None = None) -> list[StoredStudy]:
    """Return every study, or one, as retention sees it, in the order in which they last received an instance."""
    titles: dict[int, set[str]] = {}
    is_wanted = true() if study_instance_uid is None else StudyRow.study_instance_uid == study_instance_uid
    senders = (
        select(SeriesRow.study_id, ImageRow.calling_ae_title)
        .join(ImageRow, ImageRow.series_id == SeriesRow.id)
        .join(StudyRow, StudyRow.id == SeriesRow.study_id)
        .where(is_wanted)
        .distinct()
    )
    for study_id, title in connection.execute(senders):
        titles.setdefault(study_id, set()).add(title or "")
    last = func.max(SeriesRow.last_received_at)
    settled = func.min(case((SeriesRow.state.in_(SETTLED_STATES), 1), else_=0))
    rows = connection.execute(
        select(StudyRow.id, StudyRow.study_instance_uid, last, settled)
        .join(SeriesRow, SeriesRow.study_id == StudyRow.id)
        .where(is_wanted)
        .group_by(StudyRow.id)
        .order_by(last, StudyRow.id)
    )
    return [
        StoredStudy(uid, last_received_at, bool(is_settled), frozenset(titles.get(study_id, ())))
        for study_id, uid, last_received_at, is_settled in rows
    ]


def _is_open() -> ColumnElement[bool]:
    return select(SeriesRow.id).where(SeriesRow.study_id == StudyRow.id, SeriesRow.state.in_(OPEN_STATES)).exists()


_FIRST_CLOSED_AT = select(func.min(StudyRow.closed_at)).where(StudyRow.closed_at.is_not(None), ~_is_open())


StudyOrder = Literal["received", "date", "name", "patient-id", "accession", "description"]
"""By reception of the first instance, by Study Date, or by text: each has an index, so that no list is sorted."""

_TEXTS: Mapping[StudyOrder, Any] = {
    "name": PatientRow.patient_name_alphabetic,
    "patient-id": PatientRow.patient_id,
    "accession": StudyRow.accession_number,
    "description": StudyRow.study_description,
}

StudyCondition = Literal["open", "complete", "verified", "no-gap-seen", "incomplete", "refused"]
"""open: a series waits or is being converted; complete: every converted series is complete; verified: and a count was
announced for each; no-gap-seen: and for one of them none was; incomplete: a series is incomplete or suspect; refused: a
series was refused or failed."""

REFUSED_STATES = ("refused", "failed")

DERIVED_MODALITIES = ("SEG", "RTSTRUCT", "RTDOSE")
"""Their pictures show a study only if no image does."""

_FOLDED_NAMES = (
    PatientRow.patient_name_alphabetic,
    PatientRow.patient_name_ideographic,
    PatientRow.patient_name_phonetic,
)

SAMPLE_STUDIES = 200
"""The newest studies, in which words are looked for to see how common they are."""

COMMON_STUDIES = SAMPLE_STUDIES // 10
"""Words that so many of them have are common: 1000 matches are found among some 10 000 studies."""

FEW_STUDIES = 1000
"""Studies that are looked up one by one and sorted."""

_WORD_SEPARATORS = str.maketrans(",^=", "   ")
"""Data sets write names as ``Family^Given``, people as ``Family, Given``."""


@dataclass(frozen=True, slots=True)
class StudyFilter:
    """A search for studies; an unset field matches every study.

    Attributes
    ----------
    words : str
        Each word must occur in Patient's Name, Patient ID or Accession Number. Case is ignored; in names,
        accents are ignored too.
    description : str
        Part of Study Description or of a Series Description.
    modality : str
        Modality of at least one series.
    modalities : tuple of str
        At least one series has one of these modalities.
    first_date, last_date : date or None
        First and last Study Date, both inclusive.
    study_instance_uid, patient_id, accession_number : str or None
        Exact values.
    label : str
        Label of the study or of at least one series.
    """

    words: str = ""
    description: str = ""
    modality: str = ""
    first_date: dt.date | None = None
    last_date: dt.date | None = None
    condition: StudyCondition | None = None
    study_instance_uid: str | None = None
    patient_id: str | None = None
    accession_number: str | None = None
    modalities: tuple[str, ...] = ()
    label: str = ""


@dataclass(frozen=True, slots=True)
class StudyCursor:
    """The last study of a page; the next page begins after it. `text` is its value in an order by text."""

    id: int
    study_date: dt.date | None
    text: str | None = None


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

    Attributes
    ----------
    patient : int
        The `id` of the patient.
    patient_age : float or None
        In years.
    series, instances : int
        Numbers of series and instances.
    modalities : tuple of str
        Distinct modalities of the series.
    states : mapping of str to int
        Number of series in each state.
    due_at : datetime or None
        When the last of the series that are received will be due; None if none is.
    incomplete : int
        Number of series that are incomplete or suspect.
    certainties : mapping of str to int
        Number of converted series of each certainty, and of others that are incomplete or suspect.
    labels : tuple of str
        Labels of the study.
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


_SAME_PATIENT = StudyRow.patient_id == PatientRow.id
_STUDIES_OF_PATIENTS = StudyRow.patient_id == Unindexed(PatientRow.id)
"""The same for lists in an order of patients: this keeps SQLite from looking each patient up and sorting then."""


class ReadStudies(ReadRepository, StudyViews):
    """Searches for studies, and rows of ``v_studies``."""

    def matching(
        self,
        wanted: StudyFilter,
        order: StudyOrder = "received",
        after: StudyCursor | None = None,
        limit: int = 50,
        *,
        reverse: bool = False,
    ) -> list[int]:
        """Return the next studies of a list after the study `after`, by the `id` of their cursors.

        The newest come first in orders by time, and in orders by text those without a text; `reverse` turns that round.
        There are fewer than `limit` at the end of the list.
        """
        words = _words(wanted)
        is_compared = self._are_common(words)
        has_words = map(_study_has, words) if is_compared else _listed_with(words)
        is_by_patient = order in ("name", "patient-id")
        query = select(StudyRow.id).where(*self._conditions(wanted), *has_words).limit(limit)
        if is_by_patient or is_compared or wanted.patient_id is not None:
            is_sorted = is_by_patient and self._few_with(wanted.label) is None
            of_patient = _STUDIES_OF_PATIENTS if is_sorted else _SAME_PATIENT
            query = query.select_from(join(PatientRow, StudyRow, of_patient))
        is_descending = (order in ("received", "date")) != reverse
        return read_ids(self._connection, _ordered(query, order, after, is_descending=is_descending))

    def summaries(self, study_ids: Sequence[int], order: StudyOrder = "received") -> list[ListedStudy]:
        """Return the rows of a list for studies found by `matching`, with cursors for its order."""
        query = (
            select(
                StudyRow.id,
                StudyRow.study_date,
                _TEXTS.get(order, null()).label("text"),
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
            .join(PatientRow, _SAME_PATIENT)
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
        """Return the rows of a list for the next studies; see `matching`."""
        return self.summaries(self.matching(wanted, order, after, limit, reverse=reverse), order)

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

    def count_matching(self, wanted: StudyFilter) -> int:
        """Count all studies that match; this reads every one of them."""
        conditions = *self._conditions(wanted), *_listed_with(_words(wanted))
        query = select(func.count()).select_from(join(StudyRow, PatientRow, _SAME_PATIENT)).where(*conditions)
        return int(self._connection.execute(query).scalar_one())

    def _conditions(self, wanted: StudyFilter) -> list[ColumnElement[bool]]:
        """Return what a study must fulfil, except for its words."""
        conditions: list[ColumnElement[bool]] = []
        if wanted.description:
            of_series = contains(SeriesRow.series_description, wanted.description)
            conditions.append(or_(contains(StudyRow.study_description, wanted.description), _any_series(of_series)))
        if wanted.modality:
            conditions.append(_any_series(SeriesRow.modality == wanted.modality))
        if wanted.modalities:
            conditions.append(_any_series(SeriesRow.modality.in_(wanted.modalities)))
        if wanted.first_date is not None:
            conditions.append(StudyRow.study_date >= wanted.first_date)
        if wanted.last_date is not None:
            conditions.append(StudyRow.study_date <= wanted.last_date)
        if wanted.label:
            few, of_study = self._few_with(wanted.label), LabelRow.study_instance_uid == StudyRow.study_instance_uid
            having = select(LabelRow.id).where(of_study, LabelRow.label == wanted.label).exists()
            conditions.append(having if few is None else listed_in(StudyRow.id, few))
        if wanted.condition is not None:
            conditions.append(_in_condition(wanted.condition))
        exact = (
            (StudyRow.study_instance_uid, wanted.study_instance_uid),
            (PatientRow.patient_id, wanted.patient_id),
            (StudyRow.accession_number, wanted.accession_number),
        )
        return conditions + [column == value for column, value in exact if value is not None]

    def _few_with(self, label: str) -> list[int] | None:
        """Return the studies with a label if they are few; None: it is quicker to ask each study that is listed."""
        if not label:
            return None
        query = select(StudyRow.id).join(LabelRow, LabelRow.study_instance_uid == StudyRow.study_instance_uid)
        found = list(self._connection.scalars(query.where(LabelRow.label == label).distinct().limit(FEW_STUDIES + 1)))
        return found if len(found) <= FEW_STUDIES else None

    def _are_common(self, words: Sequence[str]) -> bool:
        """Return whether many of the newest studies have all of some words."""
        if not words:
            return False
        newest = (
            select(and_(*map(_study_has, words)).label("has_words"))
            .select_from(join(StudyRow, PatientRow, _SAME_PATIENT))
            .order_by(StudyRow.id.desc())
            .limit(SAMPLE_STUDIES)
            .subquery()
        )
        having = self._connection.execute(select(func.count()).select_from(newest).where(newest.c.has_words))
        return int(having.scalar_one()) >= COMMON_STUDIES

    def stored(self, study_instance_uid: str | None = None) -> list[StoredStudy]:
        """Return every study, or one, as retention sees it, in the order in which they last received an instance."""
        return stored_studies(self._connection, study_instance_uid)

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

    def count_and_newest(self) -> tuple[int, int]:
        """Count all studies, and return the number of the one that was received last, or 0 if there are none."""
        counted = select(func.count()).select_from(StudyRow).scalar_subquery()
        newest = select(func.max(StudyRow.id)).scalar_subquery()
        count, number = self._connection.execute(select(counted, newest)).one()
        return int(count), int(number or 0)

    def count_since(self, number: int) -> int:
        """Count the studies that were received after the study with this number; see `count_and_newest`."""
        query = select(func.count()).select_from(StudyRow).where(StudyRow.id > number)
        return int(self._connection.execute(query).scalar_one())


def _ordered(query: Select[int], order: StudyOrder, after: StudyCursor | None, *, is_descending: bool) -> Select[int]:
    """Sort by an index, from where the last page ended. SQLite takes NULL for less than any value."""
    number = StudyRow.id
    by_number = number.desc() if is_descending else number.asc()
    if order == "received":
        query = query.order_by(by_number)
        return query if after is None else query.where(number < after.id if is_descending else number > after.id)
    column = StudyRow.study_date if order == "date" else _TEXTS[order]
    query = query.order_by(column.desc().nulls_last() if is_descending else column.asc().nulls_first(), by_number)
    if after is None:
        return query
    value = after.study_date if order == "date" else after.text
    same = and_(column.is_not_distinct_from(value), number < after.id if is_descending else number > after.id)
    if value is None:
        return query.where(same if is_descending else or_(same, column.is_not(None)))
    if is_descending:
        return query.where(or_(column < value, same, column.is_(None)))
    return query.where(column >= value, or_(column > value, same))


def _words(wanted: StudyFilter) -> list[str]:
    return wanted.words.translate(_WORD_SEPARATORS).split()


def _study_has(word: str) -> ColumnElement[bool]:
    """Return that a study has a word, by its own row and that of its patient."""
    return or_(_patient_has(PatientRow, word), _accession_has(StudyRow, word))


def _listed_with(words: Sequence[str]) -> list[ColumnElement[bool]]:
    """Return that a study is one of those that have each word, of which there are few.

    Either the patient has all words, or the accession number has at least one. Few studies have such an accession
    number; they are compared with the other words.
    """
    if not words:
        return []
    study, patient = aliased(StudyRow), aliased(PatientRow)
    patients = select(patient.id).where(*(_patient_has(patient, word) for word in words))
    by_accession = select(study.id).where(or_(*(_accession_has(study, word) for word in words)))
    if len(words) > 1:
        rest = (or_(_patient_has(patient, word), _accession_has(study, word)) for word in words)
        by_accession = by_accession.join(patient, study.patient_id == patient.id).where(*rest)
    return [StudyRow.id.in_(select(study.id).where(study.patient_id.in_(patients)).union_all(by_accession))]


def _accession_has(study: Any, word: str) -> ColumnElement[bool]:
    return contains(study.accession_number, word)


def _patient_has(patient: Any, word: str) -> ColumnElement[bool]:
    """Return that a word is part of a name or the ID of a patient."""
    # Quicker than `contains`, and folded names need no more.
    names = (Position(getattr(patient, column.key), folded(word)) > 0 for column in _FOLDED_NAMES)
    return or_(*names, contains(patient.patient_id, word))


_DOUBTED = and_(
    in_partial_index(StudyRow.id, DOUBTED_SERIES),
    select(SeriesRow.id)
    .where(SeriesRow.study_id == StudyRow.id, SeriesRow.verdict.in_(("suspect", "incomplete")))
    .correlate(StudyRow)
    .exists(),
)
"""A series of the study is suspect or incomplete."""


def _in_condition(condition: StudyCondition) -> ColumnElement[bool]:
    if condition == "open":
        return _any_series(SeriesRow.state.in_(OPEN_STATES))
    if condition == "incomplete":
        return _DOUBTED
    if condition == "refused":
        return _any_series(SeriesRow.state.in_(REFUSED_STATES))
    unlike = or_(_any_series(SeriesRow.state.in_((*OPEN_STATES, *REFUSED_STATES))), _DOUBTED)
    complete = _number_of(SeriesRow.verdict == "complete")
    uncounted = _number_of(and_(SeriesRow.state == "converted", SeriesRow.verdict_rule.not_in(COUNTED_RULES)))
    if condition == "verified":
        return and_(~unlike, _its_series(and_(complete > 0, uncounted == 0)))
    if condition == "no-gap-seen":
        return and_(~unlike, _its_series(and_(complete > 0, uncounted > 0)))
    return and_(~unlike, _its_series(complete > 0))


def _any_series(condition: ColumnElement[bool]) -> ColumnElement[bool]:
    """Return that a series of the study fulfils a condition that few do, or that an index finds."""
    return StudyRow.id.in_(select(SeriesRow.study_id).where(condition))


def _its_series(condition: ColumnElement[bool]) -> ColumnElement[bool]:
    """Return that the series of the study together fulfil a condition that most studies fulfil.

    PostgreSQL looks them up for each study that it reads. For an EXISTS, it would read and sort all series instead.
    """
    of_study = select(condition).where(SeriesRow.study_id == StudyRow.id).correlate(StudyRow)
    return of_study.scalar_subquery()


def _number_of(condition: ColumnElement[bool]) -> ColumnElement[int]:
    """Return how many series of a group fulfil a condition."""
    return func.count(case((condition, 1)))


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
            "incomplete": sum(row.verdict not in (None, "complete") for row in rows),
            "certainties": Counter(
                certainty(row.verdict, row.verdict_rule)
                for row in rows
                if row.verdict and (row.state == "converted" or row.verdict != "complete")
            ),
            "last_received_at": max((row.last_received_at for row in rows), default=None),
        }
        for study_id, rows in series.items()
    }
