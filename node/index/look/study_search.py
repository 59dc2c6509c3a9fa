"""The search for studies: which ones a list has, page by page.

A part of a search that few studies fulfil names them: they are compared with the other parts, and sorted. If many
studies fulfil each part, studies are read in the order of the list until the page is full. Those that fulfil a part may
all be at the end of that order, as names that begin with a letter are: after some studies, those of a part are sorted,
however many they are.
"""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

from sqlalchemy import ColumnElement, Connection, Date, Select, and_, case, func, literal, or_, select, true, union_all
from sqlalchemy.orm import join

from node.completeness import COUNTED_RULES
from node.dicom.key_values import folded
from node.index.look.conditions import GROUPS
from node.index.rows.grams import having_words
from node.index.rows.hot_statements import read_ids
from node.index.rows.models.levels import DOUBTED_SERIES, OPEN_STATES, PatientRow, SeriesRow, StudyRow
from node.index.rows.models.work import LabelRow
from node.index.rows.sql import PositionOf, Unindexed, ValueAfter, contains, in_partial_index, listed_in, looked_up_in
from node.index.rows.view_rows import LOWERED

StudyOrder = Literal["received", "date", "name", "patient-id", "accession", "description"]
"""By reception of the first instance, by Study Date, or by text: each has an index, so that no list is sorted."""

TEXTS: Mapping[StudyOrder, Any] = {
    "name": PatientRow.patient_name_alphabetic,
    "patient-id": PatientRow.patient_id,
    "accession": StudyRow.accession_number,
    "description": StudyRow.study_description,
}

Doubt = Literal["suspect", "incomplete"]
StudyCondition = Literal["open", "complete", "verified", "no-gap-seen", Doubt, "refused", "failed"]
"""open: a series waits or is being converted; complete: every converted series is complete; verified: and a count was
announced for each; no-gap-seen: and for one of them none was; suspect, incomplete: a converted series is; refused,
failed: a series is."""

_STATES: Mapping[str | None, Sequence[str]] = {"open": OPEN_STATES, "refused": ("refused",), "failed": ("failed",)}
"""States of one of its series with which a study fulfils a condition."""

_WORD_SEPARATORS = str.maketrans(",^=", "   ")
"""Data sets write names as ``Family^Given``, people as ``Family, Given``."""


_FOLDED_NAMES = [getattr(PatientRow, f"patient_name_{group}") for group in GROUPS]

FEW_STUDIES = 5000
"""Studies that are looked up one by one and sorted, in some 20 ms."""

WALKED_STUDIES = 10_000
"""Studies that are read in the order of a list before others are sorted, in some 50 ms."""

COUNTED_STUDIES = 200_000
"""Studies of each part that are counted, in some 20 ms, if all of one part are to be sorted."""


@dataclass(frozen=True, slots=True)
class StudyFilter:
    """A search for studies; an unset field matches every study.

    `words`: each word must occur in Patient's Name, Patient ID or Accession Number. Case is ignored; in names, accents
        are ignored too.
    `description`: Part of Study Description or of a Series Description.
    `modality`: modality of at least one series.
    `modalities`: at least one series has one of these modalities.
    `first_date`, `last_date`: first and last Study Date, both inclusive.
    `study_instance_uid`, `patient_id`, `accession_number`: exact values.
    `label`: label of the study or of at least one series.
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


SAME_PATIENT = StudyRow.patient_id == PatientRow.id
_STUDIES_OF_PATIENTS = StudyRow.patient_id == Unindexed(PatientRow.id)
"""The same for lists in an order of patients: this keeps SQLite from looking each patient up and sorting then."""


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of a search.

    `ids`: the studies that fulfil it; of words, others too. `fulfils`: the condition that a study fulfils it, of which
    reading few studies takes little time.
    """

    ids: Any
    fulfils: ColumnElement[bool]
    is_of_words: bool = False

    @property
    def found(self) -> ColumnElement[bool]:
        """The condition that a study is one of those that fulfil it."""
        named = StudyRow.id.in_(self.ids)
        return and_(named, self.fulfils) if self.is_of_words else named


class MatchingStudies:
    """The studies that match a search, on one connection: pages of a list of them, and their number."""

    def __init__(self, connection: Connection, wanted: StudyFilter) -> None:
        self._connection, self._wanted, self._parts = connection, wanted, _parts(wanted)
        self._few = self._fewest()
        self._newest_are_others = False

    def page(
        self,
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
        if self._few == []:
            return []
        value = StudyRow.study_date if order == "date" else TEXTS.get(order)
        page = partial(_page, after=after, is_descending=(order in ("received", "date")) != reverse)
        if self._few is None:
            found = self._walked(page(self._studies(order, is_sorted=False), StudyRow.id, value), limit)
            if len(found) == limit or not self._parts:
                return found
            self._newest_are_others = order == "received" and not reverse
        query = self._studies(order, is_sorted=True).where(self._named())
        if value is None:
            return read_ids(self._connection, page(query, StudyRow.id, None).limit(limit))
        # All of them are found before they are sorted: PostgreSQL would look for them in the index of the order.
        named = query.add_columns(value.label("value")).cte("named").prefix_with("MATERIALIZED")
        return read_ids(self._connection, page(select(named.c.id), named.c.id, named.c.value).limit(limit))

    def count(self, most: int | None = None) -> int:
        """Count the studies that match. This reads every one of them, or with `most` no more than so many."""
        if self._few == []:
            return 0
        query = self._studies("received", is_sorted=True)
        newest = query.order_by(StudyRow.id.desc())
        is_common = self._few is None and self._parts and not self._newest_are_others
        if most is not None and is_common and len(self._walked(newest, most)) == most:
            return most
        matching = query.where(self._named()).limit(most).subquery()
        return int(self._connection.execute(select(func.count()).select_from(matching)).scalar_one())

    def _walked(self, query: Select[Any], limit: int) -> list[int]:
        """Return at most `limit` of the first studies of a query, which must fulfil all parts."""
        if not self._parts:
            return read_ids(self._connection, query.limit(limit))
        fulfils = and_(*(part.fulfils for part in self._parts)).label("fulfils")
        walked = query.add_columns(fulfils).limit(WALKED_STUDIES).subquery()
        return read_ids(self._connection, select(walked.c.id).where(walked.c.fulfils).limit(limit))

    def _studies(self, order: StudyOrder, *, is_sorted: bool) -> Select[Any]:
        """Return a SELECT of studies, with what the parts and the order need."""
        query = select(StudyRow.id).where(*(_dated(self._wanted) if order == "date" else ()))
        if self._wanted.condition in ("complete", "verified", "no-gap-seen"):  # most studies fulfil it
            query = query.where(_is_complete(self._wanted.condition))
        is_by_patient = order in ("name", "patient-id")
        if not (is_by_patient or self._wanted.words or self._wanted.patient_id is not None):
            return query
        of_patient = _STUDIES_OF_PATIENTS if is_by_patient and not is_sorted else SAME_PATIENT
        return query.select_from(join(PatientRow, StudyRow, of_patient))

    def _named(self) -> ColumnElement[bool]:
        """Return the condition that a study fulfils all parts: the rarest one names the studies that are compared."""
        parts = self._parts
        if self._few is not None:
            return and_(listed_in(StudyRow.id, self._few), *(part.fulfils for part in parts))
        rarest = min(parts, key=self._number_named) if len(parts) > 1 else None
        return and_(true(), *(part.fulfils if rarest and part is not rarest else part.found for part in parts))

    def _fewest(self) -> list[int] | None:
        """Return the studies of the part that fewest fulfil; None if many fulfil each."""
        fewest: list[int] | None = None
        for part in self._parts:
            found = read_ids(self._connection, part.ids.limit(FEW_STUDIES + 1))
            if len(found) <= FEW_STUDIES and (fewest is None or len(found) < len(fewest)):
                fewest = found
            if fewest == []:
                break
        return fewest

    def _number_named(self, part: _Part) -> int:
        """Return how many studies a part names, up to a limit, to compare it with others."""
        query = select(func.count()).select_from(part.ids.limit(COUNTED_STUDIES).subquery())
        return int(self._connection.execute(query).scalar_one())


def _parts(wanted: StudyFilter) -> list[_Part]:
    parts = []
    if words := wanted.words.translate(_WORD_SEPARATORS).split():
        spellings = [(word.translate(LOWERED), folded(word)) for word in words]
        parts.append(_Part(having_words(spellings), and_(*map(_has_word, words)), is_of_words=True))
    if wanted.label:
        of_study = LabelRow.study_instance_uid == StudyRow.study_instance_uid
        labelled = select(StudyRow.id).join(LabelRow, of_study).where(LabelRow.label == wanted.label)
        having = select(LabelRow.id).where(of_study, LabelRow.label == wanted.label).exists()
        parts.append(_Part(labelled, having))
    if wanted.modality:
        parts.append(_of_series(SeriesRow.modality == wanted.modality))
    if wanted.modalities:
        parts.append(_of_series(SeriesRow.modality.in_(wanted.modalities)))
    if states := _STATES.get(wanted.condition):
        parts.append(_of_series(SeriesRow.state.in_(states)))
    if wanted.condition in get_args(Doubt):
        fulfils = _of_series(_is_doubted(wanted.condition)).fulfils
        doubted = select(StudyRow.id).where(in_partial_index(StudyRow.id, DOUBTED_SERIES), fulfils)
        parts.append(_Part(doubted, fulfils))
    if wanted.description:
        parts.append(_described(wanted.description))
    exact = (
        (StudyRow.study_instance_uid, wanted.study_instance_uid),
        (PatientRow.patient_id, wanted.patient_id),
        (StudyRow.accession_number, wanted.accession_number),
    )
    fulfilled = [*_dated(wanted), *(column == value for column, value in exact if value is not None)]
    studies = select(StudyRow.id).join(PatientRow, SAME_PATIENT)
    return parts + [_Part(studies.where(condition), condition) for condition in fulfilled]


def _described(part: str) -> _Part:
    """Return the part that a text is in the description of a study, or of one of its series."""
    of_study, of_series = StudyRow.study_description, SeriesRow.series_description
    ids = union_all(
        select(StudyRow.id).where(looked_up_in(of_study, _descriptions(of_study, part))),
        select(SeriesRow.study_id).where(looked_up_in(of_series, _descriptions(of_series, part))),
    )
    return _Part(ids, or_(contains(of_study, part), _its_series(_number_of(contains(of_series, part)) > 0)))


def _descriptions(column: Any, part: str) -> Select[Any]:
    """Return a SELECT of the values of a column that contain a text.

    Many series share a description: each of them is found in the index of the column, and compared once.
    """
    known = select(ValueAfter(column, literal("")).label("value")).cte(f"known_{column.key}", recursive=True)
    known = known.union_all(select(ValueAfter(column, known.c.value)).where(known.c.value.is_not(None)))
    return select(known.c.value).where(contains(known.c.value, part))


def _dated(wanted: StudyFilter) -> list[ColumnElement[bool]]:
    """Return the condition of the date of a study, if there is one."""
    if wanted.first_date is None and wanted.last_date is None:
        return []
    return [StudyRow.study_date.between(wanted.first_date or dt.date.min, wanted.last_date or dt.date.max)]


def _has_word(word: str) -> ColumnElement[bool]:
    """Return that a word is part of a name or the ID of the patient of a study, or of its accession number."""
    # Quicker than `contains`, and folded names need no more.
    names = (PositionOf(column, folded(word)) > 0 for column in _FOLDED_NAMES)
    return or_(*names, contains(PatientRow.patient_id, word), contains(StudyRow.accession_number, word))


def _is_doubted(*which: str | None) -> ColumnElement[bool]:
    return and_(SeriesRow.verdict.in_(which), SeriesRow.state == "converted")


def _is_complete(condition: StudyCondition) -> ColumnElement[bool]:
    others = (state for states in _STATES.values() for state in states)
    unlike = _number_of(or_(SeriesRow.state.in_(others), _is_doubted(*get_args(Doubt))))
    uncounted = _number_of(and_(SeriesRow.state == "converted", SeriesRow.verdict_rule.not_in(COUNTED_RULES)))
    is_like = and_(unlike == 0, _number_of(SeriesRow.verdict == "complete") > 0)
    counted = {"verified": uncounted == 0, "no-gap-seen": uncounted > 0}
    return _its_series(and_(is_like, counted.get(condition, true())))


def _of_series(condition: ColumnElement[bool]) -> _Part:
    """Return the part that a series of the study fulfils a condition."""
    return _Part(select(SeriesRow.study_id).where(condition), _its_series(_number_of(condition) > 0))


def _its_series(condition: ColumnElement[bool]) -> ColumnElement[bool]:
    """Return that the series of the study together fulfil a condition.

    PostgreSQL looks them up for each study that it reads. For an EXISTS, it would read and sort all series instead.
    """
    of_study = select(condition).where(SeriesRow.study_id == StudyRow.id).correlate(StudyRow)
    return of_study.scalar_subquery()


def _number_of(condition: ColumnElement[bool]) -> ColumnElement[int]:
    """Return how many series of a group fulfil a condition."""
    return func.count(case((condition, 1)))


def _page(
    query: Select[Any], number: Any, value: Any, *, after: StudyCursor | None, is_descending: bool
) -> Select[Any]:
    """Order studies by `value`, unless it is None, and `number`, from where the last page ended.

    NULL counts as less than any value.
    """
    by_number = number.desc() if is_descending else number.asc()
    if value is None:
        query = query.order_by(by_number)
        return query if after is None else query.where(number < after.id if is_descending else number > after.id)
    query = query.order_by(value.desc().nulls_last() if is_descending else value.asc().nulls_first(), by_number)
    if after is None:
        return query
    last = after.study_date if isinstance(value.type, Date) else after.text
    same = and_(value.is_not_distinct_from(last), number < after.id if is_descending else number > after.id)
    if last is None:
        return query.where(same if is_descending else or_(same, value.is_not(None)))
    if is_descending:
        return query.where(or_(value < last, same, value.is_(None)))
    return query.where(value >= last, or_(value > last, same))
