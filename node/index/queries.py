"""Answers to queries, for both C-FIND and QIDO-RS."""

from __future__ import annotations

import datetime as dt
from array import array
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag
from sqlalchemy import Connection, Select, UnaryExpression, func, select, text
from sqlalchemy.sql.operators import custom_op

from node.dicom.keys import Key, Level, key_of
from node.dicom.matching import Query
from node.dicom.values import standard_tag
from node.index.conditions import PARENT, TABLES, restrictions
from node.index.models import ImageRow, PatientRow, SeriesRow, StudyRow

PAGE = 200
"""Answers read at a time."""

_UTF_8 = RawDataElement(standard_tag("SpecificCharacterSet"), "CS", 10, b"ISO_IR 192", 0, False, True)

_ORDER: Mapping[Level, tuple[Any, ...]] = {
    Level.PATIENT: (PatientRow.id,),
    Level.STUDY: (StudyRow.study_date.desc(), StudyRow.id.desc()),  # newest first, studies without a date last
    Level.SERIES: (SeriesRow.study_id, SeriesRow.series_number, SeriesRow.id),
    Level.IMAGE: (ImageRow.series_id, ImageRow.instance_number, ImageRow.id),
}
_COUNTED = {
    "NumberOfPatientRelatedStudies": Level.STUDY,
    "NumberOfPatientRelatedSeries": Level.SERIES,
    "NumberOfPatientRelatedInstances": Level.IMAGE,
    "NumberOfStudyRelatedSeries": Level.SERIES,
    "NumberOfStudyRelatedInstances": Level.IMAGE,
    "NumberOfSeriesRelatedInstances": Level.IMAGE,
}


def find(connection: Connection, query: Query) -> Iterator[Dataset]:
    """Yield the answers to a query, in an order that is stable while nothing is stored or deleted.

    Each answer has the requested attributes, empty where the index has no value, and *Specific Character Set*
    (0008,0005) if a value needs it: ``ISO_IR 192``.
    """
    ids = matching_ids(connection, query)
    for at in range(0, len(ids), PAGE):
        yield from answers(connection, query, ids[at : at + PAGE])


def matching_ids(connection: Connection, query: Query) -> array[int]:
    """Return the row ids of the matches at the query's level, in the order of the answers: eight bytes each."""
    table: Any = TABLES[query.level]
    order = _ORDER[query.level]
    if query.level == Level.STUDY and any(condition.key.level == Level.PATIENT for condition in query.conditions):
        # The unary plus makes SQLite sort the few studies of these patients; else it would scan all studies by date.
        order = (UnaryExpression(StudyRow.__table__.c.study_date, operator=custom_op("+")).desc(), StudyRow.id.desc())
    matching = select(table.id).where(*restrictions(query)).order_by(*order)
    return array("q", connection.scalars(matching.limit(query.limit).offset(query.offset)))


def answers(connection: Connection, query: Query, ids: Sequence[int]) -> list[Dataset]:
    """Return the answers for the rows `ids` of the query's level; rows deleted meanwhile are omitted."""
    table: Any = TABLES[query.level]
    rows = {row.row_id: row for row in connection.execute(_rows(query).where(table.id.in_(ids)))}
    computed = _computed(connection, query, rows.values())
    return [_data_set(query, rows[id], computed) for id in ids if id in rows]


def _rows(query: Query) -> Select[Any]:
    """Select the requested attributes that are stored, labelled by keyword, and the row ids, labelled by level."""
    table: Any = TABLES[query.level]
    keys = [_key(keyword, query.level) for keyword in query.returned]
    levels = [level for level in Level if level <= query.level]
    columns = [getattr(TABLES[key.level], key.column).label(key.keyword) for key in keys if key.column is not None]
    owners = [_id(level).label(level.name) for level in levels]
    statement = select(table.id.label("row_id"), *owners, *columns).select_from(table)
    for level in reversed(levels[1:]):
        statement = statement.join(TABLES[Level(level - 1)], _id(Level(level - 1)) == PARENT[level])
    return statement


def _key(keyword: str, level: Level) -> Key:
    key = key_of(keyword, level)
    assert key is not None, "a query returns only supported keys"
    return key


def _id(level: Level) -> Any:
    table: Any = TABLES[level]
    return table.id


def _computed(connection: Connection, query: Query, rows: Collection[Any]) -> dict[str, Mapping[int, Any]]:
    """Return the requested attributes that are computed from lower levels: keyword -> row id -> value."""
    computed: dict[str, Mapping[int, Any]] = {}
    for keyword in query.returned:
        owner = _key(keyword, query.level).level
        ids = {getattr(row, owner.name) for row in rows}
        if keyword in _COUNTED:
            computed[keyword] = _counts(connection, owner, _COUNTED[keyword], ids)
        elif keyword == "ModalitiesInStudy":
            computed[keyword] = _several(connection, select(SeriesRow.study_id, SeriesRow.modality), ids)
        elif keyword == "SOPClassesInStudy":
            classes = select(SeriesRow.study_id, ImageRow.sop_class_uid).join(
                ImageRow, ImageRow.series_id == SeriesRow.id
            )
            computed[keyword] = _several(connection, classes, ids)
        elif keyword == "InstanceAvailability":
            computed[keyword] = _availability(connection, owner, ids)
    return computed


def _below(owner: Level, counted: Level) -> Select[Any]:
    """Select the rows of level `counted`, each with the row id of its ancestor at level `owner` as `owner_id`."""
    statement: Select[Any] = select(PARENT[Level(owner + 1)].label("owner_id")).select_from(TABLES[counted])
    for level in range(counted, owner + 1, -1):
        statement = statement.join(TABLES[Level(level - 1)], _id(Level(level - 1)) == PARENT[Level(level)])
    return statement


def _counts(connection: Connection, owner: Level, counted: Level, ids: Collection[int]) -> dict[int, int]:
    column = PARENT[Level(owner + 1)]
    statement = _below(owner, counted).add_columns(func.count()).where(column.in_(ids)).group_by(column)
    return dict.fromkeys(ids, 0) | {row[0]: row[1] for row in connection.execute(statement)}


def _several(connection: Connection, statement: Any, ids: Collection[int]) -> dict[int, list[str]]:
    by_study: defaultdict[int, list[str]] = defaultdict(list)
    for study_id, value in connection.execute(statement.where(SeriesRow.study_id.in_(ids)).distinct()):
        if value is not None:
            by_study[study_id].append(value)
    return {study_id: sorted(values) for study_id, values in by_study.items()}


def _availability(connection: Connection, owner: Level, ids: Collection[int]) -> dict[int, str]:
    """Return ``UNAVAILABLE`` for rows whose files are all missing, else ``ONLINE`` (PS3.3 C.4.23.1.1)."""
    missing_file = text("images.file_missing")  # the exact text of the partial index, else SQLite ignores it
    if owner == Level.IMAGE:
        gone = set(connection.scalars(select(ImageRow.id).where(missing_file, ImageRow.id.in_(ids))))
    else:
        column = PARENT[Level(owner + 1)]
        lost = _below(owner, Level.IMAGE).add_columns(func.count()).where(missing_file, column.in_(ids))
        missing = {row[0]: row[1] for row in connection.execute(lost.group_by(column))}
        counts = _counts(connection, owner, Level.IMAGE, missing.keys()) if missing else {}
        gone = {id for id, count in missing.items() if count == counts[id]}
    return {id: "UNAVAILABLE" if id in gone else "ONLINE" for id in ids}


def _data_set(query: Query, row: Any, computed: Mapping[str, Mapping[int, Any]]) -> Dataset:
    """Return an answer of elements that are not converted, as if read: conversion would be most of a query's work.

    Values are returned as stored, even if they violate their value representation.
    """
    elements: dict[BaseTag, DataElement | RawDataElement] = {}
    values, is_ascii = row._mapping, True
    for keyword in query.returned:
        key = _key(keyword, query.level)
        if key.items:
            items = [_item(item, query.items[keyword]) for item in values[keyword] or ()]
            is_ascii &= all(text.isascii() for item in values[keyword] or () for text in item.values())
            tag = standard_tag(keyword)
            elements[tag] = DataElement(tag, "SQ", items)
            continue
        vr, owner = key.vr, key.level
        value = _encoded(vr, computed[keyword].get(values[owner.name]) if keyword in computed else values[keyword])
        is_ascii &= value.isascii() or vr == "US"
        tag = standard_tag(keyword)
        elements[tag] = RawDataElement(tag, vr, len(value), value, 0, False, True)
    if not is_ascii:
        elements[_UTF_8.tag] = _UTF_8
    ds = Dataset(elements)
    ds.set_original_encoding(False, True, "utf8")
    return ds


def _item(item: Mapping[str, str], keywords: Sequence[str]) -> Dataset:
    ds = Dataset()
    for keyword in keywords:
        setattr(ds, keyword, item.get(keyword))
    return ds


def _encoded(vr: str, value: Any) -> bytes:
    """Return a value of the index as bytes of an element, little endian, not padded."""
    match value:
        case None:
            return b""
        case int() if vr == "US":
            return value.to_bytes(2, "little")
        case dt.date():
            text = value.isoformat().replace("-", "")
        case dt.time():
            text = f"{value:%H%M%S}" + (f".{value.microsecond:06d}" if value.microsecond else "")
        case list():
            text = "\\".join(value)
        case _:
            text = str(value)
    return text.encode()
