"""Answers to queries, for both C-FIND and QIDO-RS.

The statements return text as data sets have it, and all of their rows in one step: this work is SQLite's, which does
it without the interpreter's lock.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, Select, String, bindparam, cast, func, literal, select, text

from node.dicom.answers import Answer, Item
from node.dicom.keys import Key, Level, key_of
from node.dicom.matching import Query
from node.index.engine.hot_statements import PreparedRows, read_ids
from node.index.engine.sql import Unindexed, looked_up_in
from node.index.models import ImageRow, PatientRow, SeriesRow, StudyRow
from node.index.search.conditions import PARENT, TABLES, restrictions

MAX_ROWS = (1 << 63) - 1
"""No limit: SQLite and PostgreSQL have no other number for it in common."""

PAGE = 200
"""Answers read at a time."""

_ORDER: Mapping[Level, tuple[Any, ...]] = {
    Level.PATIENT: (PatientRow.id,),
    Level.STUDY: (StudyRow.study_date.desc().nulls_last(), StudyRow.id.desc()),  # newest first
    Level.SERIES: (SeriesRow.study_id, SeriesRow.series_number.nulls_first(), SeriesRow.id),
    Level.IMAGE: (ImageRow.series_id, ImageRow.instance_number.nulls_first(), ImageRow.id),
}
_COUNTED = {
    "NumberOfPatientRelatedStudies": Level.STUDY,
    "NumberOfPatientRelatedSeries": Level.SERIES,
    "NumberOfPatientRelatedInstances": Level.IMAGE,
    "NumberOfStudyRelatedSeries": Level.SERIES,
    "NumberOfStudyRelatedInstances": Level.IMAGE,
    "NumberOfSeriesRelatedInstances": Level.IMAGE,
}

_WANTED = bindparam("ids", type_=String)
"""Row ids, as JSON."""


def find(connection: Connection, query: Query) -> Iterator[Answer]:
    """Yield the answers to a query, in an order that is stable while nothing is stored or deleted.

    Each answer has the requested attributes, as stored even if they violate their value representation.
    """
    ids = matching_ids(connection, query)
    for at in range(0, len(ids), PAGE):
        yield from answers(connection, query, ids[at : at + PAGE])


def matching_ids(connection: Connection, query: Query) -> array[int]:
    """Return the row ids of the matches at the query's level, in the order of the answers: eight bytes each."""
    table: Any = TABLES[query.level]
    order = _ORDER[query.level]
    if query.level == Level.STUDY and any(condition.key.level == Level.PATIENT for condition in query.conditions):
        # By no index, SQLite sorts the few studies of these patients; else it would scan all studies by date.
        order = (Unindexed(StudyRow.study_date).desc().nulls_last(), StudyRow.id.desc())
    matching = select(table.id).where(*restrictions(query)).order_by(*order)
    limited = matching.limit(MAX_ROWS if query.limit is None else query.limit).offset(query.offset)
    return array("q", read_ids(connection, limited))


def answers(connection: Connection, query: Query, ids: Sequence[int]) -> list[Answer]:
    """Return the answers for the rows `ids` of the query's level; rows deleted meanwhile are omitted."""
    return _attributes(query.level, query.returned).read(connection, query, ids)


class _Attributes:
    """How the attributes of the answers to a kind of query are read."""

    def __init__(self, level: Level, keywords: Sequence[str]) -> None:
        table: Any = TABLES[level]
        self._levels = [above for above in Level if above <= level]
        keys = [_key(keyword, level) for keyword in keywords]
        self._stored = [key for key in keys if key.column is not None]
        self._sequences = [key.keyword for key in keys if key.items]
        self._computed = [(key.keyword, key.level) for key in keys if key.column is None]
        columns = [_text_of(key).label(key.keyword) for key in self._stored]
        statement = select(*(_id(above).label(above.name) for above in self._levels), *columns).select_from(table)
        for below in reversed(self._levels[1:]):
            statement = statement.join(TABLES[Level(below - 1)], _id(Level(below - 1)) == PARENT[below])
        self._rows = PreparedRows(statement.where(looked_up_in(table.id, _WANTED)))

    def read(self, connection: Connection, query: Query, ids: Sequence[int]) -> list[Answer]:
        """Return the answers for rows of the level."""
        levels, stored = len(self._levels), [key.keyword for key in self._stored]
        by_id = {row[levels - 1]: row for row in self._rows.read(connection, ids=_listed(ids))}
        computed = [
            (keyword, owner, _computed(connection, keyword, owner, {row[owner] for row in by_id.values()}))
            for keyword, owner in self._computed
        ]
        found: list[Answer] = []
        for row in (by_id[id] for id in ids if id in by_id):
            answer: dict[str, str | list[Item]] = dict(zip(stored, row[levels:], strict=True))
            for keyword, owner, values in computed:
                answer[keyword] = values[row[owner]]
            for keyword in self._sequences:
                answer[keyword] = _items(row[levels + stored.index(keyword)], query.items[keyword])
            found.append(answer)
        return found


_attributes = lru_cache(maxsize=64)(_Attributes)


def _text_of(key: Key) -> Any:
    """Return the expression for the text of a stored attribute, empty if there is none."""
    assert key.column is not None
    column: Any = cast(getattr(TABLES[key.level], key.column), String)
    if key.vr == "DA":
        column = func.replace(column, "-", "")
    elif key.vr == "TM":
        column = func.replace(func.replace(column, ":", ""), ".000000", "")
    return func.coalesce(column, "")


def _items(text: str, keywords: Sequence[str]) -> list[Item]:
    return [{keyword: item.get(keyword) or "" for keyword in keywords} for item in json.loads(text or "[]") or ()]


def _listed(ids: Collection[int]) -> str:
    return json.dumps(list(ids))


def _key(keyword: str, level: Level) -> Key:
    key = key_of(keyword, level)
    assert key is not None, "a query returns only supported keys"
    return key


def _id(level: Level) -> Any:
    table: Any = TABLES[level]
    return table.id


def _computed(connection: Connection, keyword: str, owner: Level, ids: Collection[int]) -> Mapping[int, str]:
    """Return an attribute that is computed from lower levels, by the row id of its owner."""
    if keyword in _COUNTED:
        counts = _counts(owner, _COUNTED[keyword]).read(connection, ids=_listed(ids))
        return dict.fromkeys(ids, "0") | {id: str(count) for id, count in counts}
    if keyword == "InstanceAvailability":
        return _availability(connection, owner, ids)
    values: dict[int, list[str]] = {id: [] for id in ids}
    for id, value in _several(keyword).read(connection, ids=_listed(ids)):
        values[id].append(value)
    return {id: "\\".join(sorted(texts)) for id, texts in values.items()}


def _below(owner: Level, counted: Level) -> Select[Any]:
    """Select the wanted rows of level `owner`, each as often as it has rows of level `counted`."""
    statement: Select[Any] = select(PARENT[Level(owner + 1)].label("owner_id")).select_from(TABLES[counted])
    for level in range(counted, owner + 1, -1):
        statement = statement.join(TABLES[Level(level - 1)], _id(Level(level - 1)) == PARENT[Level(level)])
    return statement.where(looked_up_in(PARENT[Level(owner + 1)], _WANTED))


@lru_cache
def _counts(owner: Level, counted: Level) -> PreparedRows:
    return PreparedRows(_counted(_below(owner, counted), owner))


def _counted(statement: Select[Any], owner: Level) -> Select[Any]:
    return statement.add_columns(func.count().label("count")).group_by(PARENT[Level(owner + 1)])


@lru_cache
def _several(keyword: str) -> PreparedRows:
    """Select the different values of an attribute of the series or images of studies."""
    modalities = keyword == "ModalitiesInStudy"
    column: Any = SeriesRow.modality if modalities else ImageRow.sop_class_uid
    below = _below(Level.STUDY, Level.SERIES if modalities else Level.IMAGE)
    return PreparedRows(below.add_columns(column).where(column.is_not(None)).distinct())


@lru_cache
def _missing(owner: Level) -> PreparedRows:
    """Count the images below whose file is missing."""
    missing_file = text("images.file_missing")  # the exact text of the partial index, else SQLite ignores it
    if owner == Level.IMAGE:
        return PreparedRows(select(ImageRow.id, literal(1)).where(missing_file, looked_up_in(ImageRow.id, _WANTED)))
    return PreparedRows(_counted(_below(owner, Level.IMAGE).where(missing_file), owner))


def _availability(connection: Connection, owner: Level, ids: Collection[int]) -> dict[int, str]:
    """Return ``UNAVAILABLE`` for rows whose files are all missing, else ``ONLINE`` (PS3.3 C.4.23.1.1)."""
    gone = {id: missing for id, missing in _missing(owner).read(connection, ids=_listed(ids))}
    if gone and owner != Level.IMAGE:
        counts = _counts(owner, Level.IMAGE).read(connection, ids=_listed(gone))
        gone = {id: count for id, count in counts if count == gone[id]}
    return {id: "UNAVAILABLE" if id in gone else "ONLINE" for id in ids}
