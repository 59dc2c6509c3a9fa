"""Conditions of a query as SQL, and the search in documents: attributes that have no column.

`node.dicom.matching` defines each kind of match. Conditions on a higher level are subqueries for the rows below it, so
that SQLite can start at any level. Of documents, SQL reads only the values that a query names. A series whose instances
all have the same values is decided by its own document; the instances of the others are read one by one.
"""

import datetime as dt
import json
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, false, func, literal, or_, select, union_all
from sqlalchemy.orm import DeclarativeBase, InstrumentedAttribute, aliased

from node.dicom.coercion import identifies
from node.dicom.documents import OTHERS, Document, effective, holds, selected, standard, whole_model
from node.dicom.json_model import Json
from node.dicom.key_values import Between, InItem, Like, Match, Moments, NameLike, NameWords, OneOf
from node.dicom.keys import Key, Level
from node.dicom.matching import Condition, Query
from node.index.rows.grams import OF_PATIENT, OF_STUDY, SIZE, having_words
from node.index.rows.models.levels import ImageDocumentRow, ImageRow, PatientRow, SeriesDocumentRow, SeriesRow, StudyRow
from node.index.rows.sql import JsonEach, JsonEntry, JsonText, PositionOf, listed_in, matches
from node.index.rows.view_rows import LOWERED

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


CHUNK = 500
"""Series whose instances are read at a time."""


@dataclass(slots=True)
class Matched:
    """What matches the keys of a query that have no column.

    `series`: all instances of these; `images`: further instances, by the id of their series. `is_certain`: whether all
    values were known; instances for which they are not known are among them.
    """

    series: list[int] = field(default_factory=list)
    images: dict[int, list[int]] = field(default_factory=dict)
    is_certain: bool = True

    def add(self, known: bool | None, series: int, image: int | None = None) -> None:
        """Take a series, or an instance, unless it is known that it does not match."""
        if known is False:
            return
        self.is_certain &= known is True
        if image is None:
            self.series.append(series)
        else:
            self.images.setdefault(series, []).append(image)


def matched(connection: Connection, query: Query) -> Matched | None:
    """Return what matches the keys of a query that have no column; None if no such key restricts it."""
    keys = [key for key in query.documents if key.restricts]
    if not keys:
        return None
    names = list(dict.fromkeys([*(key.name for key in keys), OTHERS]))
    found, various = Matched(), {}
    for series, document, is_same in _series_documents(connection, query, names):
        if is_same or document is None:
            found.add(None if document is None else holds(keys, document), series)
        else:
            various[series] = document
    for series, image, own in _image_documents(connection, various, names):
        found.add(None if own is None else holds(keys, effective(various[series], own)), series, image)
    return found


def restriction(query: Query, found: Matched) -> ColumnElement[bool]:
    """Return the condition that rows of the query's level have something below that matches."""
    ids = [image for images in found.images.values() for image in images]
    images = or_(listed_in(ImageRow.series_id, found.series), listed_in(ImageRow.id, ids))
    if query.level == Level.IMAGE:
        return images
    of_images = own_conditions(query.conditions, Level.IMAGE)
    series: ColumnElement[bool]
    if of_images:
        series = SeriesRow.id.in_(select(ImageRow.series_id).where(images, *of_images))
    else:
        series = listed_in(SeriesRow.id, [*found.series, *found.images])
    if query.level == Level.SERIES:
        return series
    studies = StudyRow.id.in_(select(SeriesRow.study_id).where(series))
    if query.level == Level.STUDY:
        return studies
    return PatientRow.id.in_(select(StudyRow.patient_id).where(studies))


def models(connection: Connection, query: Query, ids: Sequence[int]) -> dict[int, Json]:
    """Return the attributes without a column that answers have, by the row id of the query's level.

    An entity has the value of most of its series that have one, of as many that of the first series. A series has the
    value of most of its instances. With all attributes, a series lacks those in which its instances differ.
    """
    names = None if query.with_all else [key.name for key in query.documents]
    documents = (
        _of_images(connection, ids, names)
        if query.level == Level.IMAGE
        else _of_entities(connection, query.level, ids, names)
    )
    return {
        id: (whole_model(documents.get(id, {})) if query.with_all else {})
        | selected(documents.get(id, {}), query.documents)
        for id in ids
    }


def _of_images(connection: Connection, ids: Sequence[int], names: Sequence[str] | None) -> dict[int, Document]:
    columns = _columns(ImageDocumentRow.document, names)
    rows = connection.execute(
        select(ImageRow.id, ImageRow.series_id, StudyRow.identified_at, *columns)
        .join(ImageDocumentRow, ImageDocumentRow.image_id == ImageRow.id)
        .join(SeriesRow, SeriesRow.id == ImageRow.series_id)
        .join(StudyRow)
        .where(listed_in(ImageRow.id, ids))
    ).all()
    of_series = select(SeriesDocumentRow.series_id, *_columns(SeriesDocumentRow.document, names))
    series = {row[1] for row in rows}
    found = connection.execute(of_series.where(listed_in(SeriesDocumentRow.series_id, series)))
    bases = {id: _document(names, texts) for id, *texts in found}
    return {
        id: _as_it_leaves(effective(bases.get(of, {}), _document(names, texts)), decided)
        for id, of, decided, *texts in rows
    }


def _as_it_leaves(document: Document, decided: object) -> Document:
    """Return a document without what it says of somebody who was named wrongly, if a person has decided that."""
    return document if decided is None else {name: own for name, own in document.items() if not _identifies(name)}


@lru_cache(maxsize=4096)
def _identifies(name: str) -> bool:
    tag = standard(name)
    return tag is not None and identifies(tag)


def _of_entities(
    connection: Connection, level: Level, ids: Sequence[int], names: Sequence[str] | None
) -> dict[int, Document]:
    owner: Any = {Level.PATIENT: StudyRow.patient_id, Level.STUDY: SeriesRow.study_id, Level.SERIES: SeriesRow.id}[
        level
    ]
    statement = (
        select(
            owner, SeriesRow.id, SeriesDocumentRow.varying, StudyRow.identified_at,
            *_columns(SeriesDocumentRow.document, names),
        )
        .select_from(SeriesRow)
        .join(StudyRow)
        .join(SeriesDocumentRow, SeriesDocumentRow.series_id == SeriesRow.id)
        .where(listed_in(owner, ids))
        .order_by(SeriesRow.id)
    )  # fmt: skip
    found = [
        (
            id,
            series,
            _as_it_leaves(dict.fromkeys(_names(varying)), decided),
            _as_it_leaves(_document(names, texts), decided),
        )
        for id, series, varying, decided, *texts in connection.execute(statement)
    ]
    for name in names or ():
        various = {series: document for _, series, varying, document in found if name in varying}
        if various:
            _put_most_frequent(connection, name, various)
    counted: dict[int, dict[str, dict[str, int]]] = {}
    for id, _, varying, document in found:
        counts = counted.setdefault(id, {})
        for name, value in document.items():
            if value and (names is not None or name not in varying):
                values = counts.setdefault(name, {})
                text = json.dumps(value)
                values[text] = values.get(text, 0) + 1
    return {
        id: {name: _value(max(values, key=values.__getitem__)) for name, values in counts.items()}
        for id, counts in counted.items()
    }


def _put_most_frequent(connection: Connection, name: str, documents: dict[int, Document]) -> None:
    """Give the documents of some series the value that most of their instances have, the first one of as many.

    Those that lack the attribute, have it without a value, or have no document, do not count.
    """
    images = (
        select(ImageRow.series_id, ImageRow.id, JsonEntry(ImageDocumentRow.document, name).label("text"))
        .join(ImageDocumentRow, ImageDocumentRow.image_id == ImageRow.id)
        .where(listed_in(ImageRow.series_id, documents))
        .subquery()
    )
    counts = select(images.c.series_id, images.c.text, func.count()).group_by(images.c.series_id, images.c.text)
    found: dict[int, Any] = {}
    for series, text, _ in connection.execute(counts.order_by(func.count().desc(), func.min(images.c.id))):
        value = documents[series].get(name) if text is None else _value(text)
        if value:
            found.setdefault(series, value)
    for series, document in documents.items():
        document[name] = found.get(series)


def _series_documents(
    connection: Connection, query: Query, names: Sequence[str]
) -> Iterator[tuple[int, Document | None, bool]]:
    """Yield the series that may have matches, what their documents have, and whether all of their instances have it."""
    conditions = restrictions(replace(query, level=Level.SERIES))
    if any(key.restricts and identifies(key.tag) for key in query.documents):  # whoever was named wrongly is not found
        decided = select(StudyRow.id).where(StudyRow.identified_at.is_not(None))
        conditions.append(SeriesRow.study_id.not_in(decided))
    statement = select(
        SeriesRow.id,
        SeriesDocumentRow.varying,
        SeriesDocumentRow.is_partial,
        *_columns(SeriesDocumentRow.document, names),
    ).outerjoin(SeriesDocumentRow, SeriesDocumentRow.series_id == SeriesRow.id)
    for id, varying, is_partial, *texts in connection.execute(statement.where(*conditions)):
        if varying is None:
            yield id, None, True
        else:
            yield id, _document(names, texts), not is_partial and _names(varying).isdisjoint(names)


def _image_documents(
    connection: Connection, series: Collection[int], names: Sequence[str]
) -> Iterator[tuple[int, int, Document | None]]:
    """Yield the instances of some series, and what their own documents have; None if they have no document."""
    ids = sorted(series)
    columns = _columns(ImageDocumentRow.document, names)
    for at in range(0, len(ids), CHUNK):
        rows = connection.execute(
            select(ImageRow.series_id, ImageRow.id, ImageDocumentRow.image_id, *columns)
            .outerjoin(ImageDocumentRow, ImageDocumentRow.image_id == ImageRow.id)
            .where(listed_in(ImageRow.series_id, ids[at : at + CHUNK]))
        )
        for of, id, has_document, *texts in rows:
            yield of, id, None if has_document is None else _document(names, texts)


def _columns(document: Any, names: Sequence[str] | None) -> list[Any]:
    """Return the JSON texts of some names of a document, or of all of it."""
    return [document] if names is None else [JsonEntry(document, name) for name in names] or [literal("")]


def _document(names: Sequence[str] | None, texts: Iterable[str | None]) -> Document:
    if names is None:
        return dict(_object(next(iter(texts)) or "{}"))
    return {name: _value(text) for name, text in zip(names, texts, strict=False) if text is not None}


@lru_cache(maxsize=64)
def _object(text: str) -> Document:
    found: Document = json.loads(text)
    return found


@lru_cache(maxsize=4096)
def _value(text: str) -> Any:
    """Return the value of a JSON text; it is shared and must not be changed."""
    return json.loads(text)


@lru_cache(maxsize=256)
def _names(text: str) -> frozenset[str]:
    return frozenset(json.loads(text))
