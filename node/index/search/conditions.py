"""Conditions of a query as SQL; `node.dicom.matching` defines each kind of match.

Conditions on a higher level are subqueries for the rows below it, so that SQLite can start at any level.
"""

import datetime as dt
import re
from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, false, func, or_, select, union_all
from sqlalchemy.orm import DeclarativeBase, InstrumentedAttribute, aliased

from node.dicom.key_values import Between, InItem, Like, Match, Moments, NameLike, NameWords, OneOf
from node.dicom.keys import Key, Level
from node.dicom.matching import Condition, Query
from node.index.engine.grams import OF_PATIENT, OF_STUDY, SIZE, having_words
from node.index.engine.sql import JsonEach, JsonText, PositionOf, listed_in, matches
from node.index.engine.view_rows import LOWERED
from node.index.models.levels import ImageRow, PatientRow, SeriesRow, StudyRow

TABLES: dict[Level, type[DeclarativeBase]] = {
    Level.PATIENT: PatientRow,
    Level.STUDY: StudyRow,
    Level.SERIES: SeriesRow,
    Level.IMAGE: ImageRow,
}
PARENT: dict[Level, InstrumentedAttribute[int]] = {
    Level.STUDY: StudyRow.patient_id,
    Level.SERIES: SeriesRow.study_id,
    Level.IMAGE: ImageRow.series_id,
}
GROUPS = ("alphabetic", "ideographic", "phonetic")

_AFTER_ALL_TEXT = "\U0010ffff"
"""Sorts after every text with the same prefix."""


def restrictions(query: Query) -> list[ColumnElement[bool]]:
    """Return the conditions on the rows of the query's level, to be joined by AND."""
    own, above = own_conditions(query.conditions, query.level), _of_parents(query.conditions, query.level)
    conditions = [*own, *above, *_of_children(query.conditions, query.level)]
    if query.level == Level.PATIENT:
        conditions.append(PatientRow.merged_into.is_(None))
    return conditions


def own_conditions(conditions: Sequence[Condition], level: Level) -> list[ColumnElement[bool]]:
    own = [condition for condition in conditions if condition.key.level == level]
    if level == Level.PATIENT:
        return [PatientRow.id.in_(_patients(own))] if own else []
    found = [_condition(condition, TABLES[level]) for condition in own]
    if level == Level.STUDY and (words := _words_of_all(own)):
        found.append(StudyRow.id.in_(having_words(words)))
    return found


def _of_parents(conditions: Sequence[Condition], level: Level) -> list[ColumnElement[bool]]:
    above = [condition for condition in conditions if condition.key.level < level]
    if not above:
        return []
    parent = Level(level - 1)
    if parent == Level.PATIENT:
        return [PARENT[level].in_(_patients(above))]
    restricting = [*own_conditions(above, parent), *_of_parents(above, parent)]
    return [PARENT[level].in_(select(TABLES[parent].id).where(*restricting))]  # type: ignore[attr-defined]


def _of_children(conditions: Sequence[Condition], level: Level) -> list[ColumnElement[bool]]:
    below = [condition for condition in conditions if condition.key.level > level]
    if not below:
        return []
    child = Level(level + 1)
    restricting = [*own_conditions(below, child), *_of_children(below, child)]
    return [TABLES[level].id.in_(select(PARENT[child]).where(*restricting))]  # type: ignore[attr-defined]


_PATIENT = aliased(PatientRow)


def _patients(conditions: Sequence[Condition]) -> Select[Any]:
    """Select the matching patients. A merged patient stands for its target: both identities find the same studies."""
    patient = _PATIENT
    matching = [_condition(condition, patient) for condition in conditions]
    if words := _words_of_all(conditions):
        # Each patient has a study, or was merged into another one, whose name the grams of the study have.
        having = select(StudyRow.patient_id).where(StudyRow.id.in_(having_words(words)))
        merged = select(PatientRow.id).where(PatientRow.merged_into.is_not(None))
        matching.append(patient.id.in_(union_all(having, merged)))
    return select(func.coalesce(patient.merged_into, patient.id)).where(*matching)


_IN_GRAMS = frozenset({*OF_PATIENT, *OF_STUDY, "patient_name"})


def _words_of_all(conditions: Sequence[Condition]) -> list[tuple[str]]:
    """Return words that must be in the name or the ID of a patient, or in an Accession Number, for `having_words`.

    None of a condition that an index fulfils: it has the text before the first wildcard.
    """
    words: list[tuple[str]] = []
    for condition in conditions:
        if condition.key.column in _IN_GRAMS and len(condition.matches) == 1:
            words += ((word.translate(LOWERED),) for word in _words_in(condition.matches[0]) if len(word) >= SIZE)
    return words


def _words_in(match: Match) -> list[str]:
    match match:
        case NameWords(words):
            return list(words)
        case Like(pattern):
            patterns: tuple[str, ...] = (pattern,)
        case NameLike(patterns):
            pass
        case _:
            return []
    parts = [re.split("[*?]", pattern) for pattern in patterns]
    return [] if any(first for first, *_ in parts) else [part for _, *others in parts for part in others]


def _condition(condition: Condition, table: Any) -> ColumnElement[bool]:
    if condition.key.column is not None:
        return or_(*(condition_on(match, condition.key.column, table) for match in condition.matches))
    below = SeriesRow.modality if condition.key.keyword == "ModalitiesInStudy" else ImageRow.sop_class_uid
    rows = select(SeriesRow.id).where(SeriesRow.study_id == table.id)
    if below is ImageRow.sop_class_uid:
        rows = rows.join(ImageRow, ImageRow.series_id == SeriesRow.id)
    # A correlated subquery: few studies are left at this point, and an index finds the series of each.
    return or_(*(rows.where(_text(match, below)).correlate(StudyRow).exists() for match in condition.matches))


def condition_on(match: Match, column: str, table: Any) -> ColumnElement[bool]:
    """Return the condition that a column of a table satisfies a match."""
    match match:
        case OneOf() | Like():
            return _text(match, getattr(table, column))
        case Between(first, last):
            return _between(getattr(table, column), first, last)
        case Moments(time, first, last):
            return _moments(getattr(table, column), getattr(table, str(time.column)), first, last)
        case InItem(keys):
            return _in_item(keys, getattr(table, column))
        case NameLike(patterns):
            return _name(patterns, [getattr(table, f"{column}_{group}") for group in GROUPS])
        case NameWords(words):
            return or_(*(_words(words, getattr(table, f"{column}_{group}")) for group in GROUPS))
    return false()  # no column has a DT


def _in_item(keys: Sequence[tuple[Key, tuple[Match, ...]]], column: InstrumentedAttribute[Any]) -> ColumnElement[bool]:
    """Match one of the items of a column, a JSON array of objects."""
    listed = JsonEach(column).table_valued("value")
    texts = {key.keyword: JsonText(listed.c.value, key.keyword) for key, _ in keys}
    found = (or_(*(_text(match, texts[key.keyword]) for match in matches)) for key, matches in keys)
    return and_(column.is_not(None), select(listed.c.value).where(*found).exists())


def _text(match: Match, column: ColumnElement[Any] | InstrumentedAttribute[Any]) -> ColumnElement[bool]:
    match match:
        case OneOf((value,)):
            return column == value
        case OneOf(values):  # one parameter for any number of values
            return listed_in(column, values)
        case Like(pattern):
            return _like(column, pattern)
    return false()


def _like(column: ColumnElement[Any] | InstrumentedAttribute[Any], pattern: str) -> ColumnElement[bool]:
    """Match a pattern; add a range for the text before the first wildcard, to use an index."""
    prefix = re.split("[*?]", pattern, maxsplit=1)[0]
    whole = matches(column, pattern)
    return and_(column >= prefix, column < prefix + _AFTER_ALL_TEXT, whole) if prefix else whole


def _between(column: InstrumentedAttribute[Any], first: Any, last: Any) -> ColumnElement[bool]:
    whole: Any = _whole(column) if isinstance(first or last, dt.time) else column
    bounds = [] if first is None else [whole >= _clock(first)]
    bounds += [] if last is None else [whole <= _clock(last)]
    return and_(*bounds)


def _clock(value: Any) -> Any:
    return value.isoformat("microseconds") if isinstance(value, dt.time) else value


def _whole(time: Any) -> Any:
    """Return a time of day with all of its digits, as texts are compared."""
    return time + func.substr("00:00:00.000000", func.length(time) + 1)


def _moments(date: InstrumentedAttribute[Any], time: Any, first: Any, last: Any) -> ColumnElement[bool]:
    bounds: list[ColumnElement[bool]] = []
    if first is not None:
        bounds += [date >= first[0], or_(date > first[0], _whole(time) >= _clock(first[1]))]
    if last is not None:
        bounds += [date <= last[0], or_(date < last[0], _whole(time) <= _clock(last[1]))]
    return and_(*bounds)


def _name(patterns: tuple[str, ...], groups: Sequence[InstrumentedAttribute[Any]]) -> ColumnElement[bool]:
    if len(patterns) == 1:
        return or_(*(_group(patterns[0], group) for group in groups))
    wanted = zip(patterns, groups, strict=True)
    return and_(*(_group(pattern, group) for pattern, group in wanted if pattern not in ("", "*")))


def _group(pattern: str, group: InstrumentedAttribute[Any]) -> ColumnElement[bool]:
    return _like(group, pattern) if "*" in pattern or "?" in pattern else group == pattern


def _words(words: Sequence[str], group: InstrumentedAttribute[Any]) -> ColumnElement[bool]:
    spaced = func.replace(" " + group, "^", " ")
    return and_(*(PositionOf(spaced, f" {word}") > 0 for word in words))
