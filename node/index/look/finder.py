"""Queries of C-FIND and QIDO-RS, which do not slow down receiving: few at once, none for long.

No transaction is open while a peer reads. The statements return text as data sets have it, and all of their rows in
one step: this work is SQLite's, which does it without the interpreter's lock.
"""

from __future__ import annotations

import json
import threading
import time
from array import array
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

from sqlalchemy import Connection, Select, String, bindparam, case, cast, func, literal, select, text
from sqlalchemy.exc import OperationalError

from node.dicom.answers import Answer, Found, Item
from node.dicom.keys import Key, Level, key_of
from node.dicom.matching import Query
from node.errors import VoxelnodeError
from node.index.look.conditions import PARENT, TABLES, matched, models, restriction, restrictions
from node.index.rows.backend import backend_of
from node.index.rows.hot_statements import PreparedRows, read_ids
from node.index.rows.models.levels import ImageRow, PatientRow, SeriesRow, StudyRow
from node.index.rows.narrowed import Readers
from node.index.rows.sql import Unindexed, looked_up_in
from node.runtime.budget import Turns, current_caller

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


class Matches(NamedTuple):
    """The row ids of the matches at the query's level, in the order of the answers: eight bytes each.

    `is_certain`: whether it is known of all of them that they match.
    """

    ids: array[int]
    is_certain: bool = True


def matching_ids(connection: Connection, query: Query) -> Matches:
    """Return the matches of a query."""
    table: Any = TABLES[query.level]
    order = _ORDER[query.level]
    if query.level == Level.STUDY and any(condition.key.level == Level.PATIENT for condition in query.conditions):
        # By no index, SQLite sorts the few studies of these patients; else it would scan all studies by date.
        order = (Unindexed(StudyRow.study_date).desc().nulls_last(), StudyRow.id.desc())
    found = matched(connection, query)
    conditions = restrictions(query) if found is None else [*restrictions(query), restriction(query, found)]
    matching = select(table.id).where(*conditions).order_by(*order)
    limited = matching.limit(MAX_ROWS if query.limit is None else query.limit).offset(query.offset)
    return Matches(array("q", read_ids(connection, limited)), found is None or found.is_certain)


def answers(connection: Connection, query: Query, ids: Sequence[int], *, is_certain: bool = True) -> list[Found]:
    """Return the answers for the rows `ids` of the query's level; rows deleted meanwhile are omitted."""
    found = _attributes(query.level, query.returned).read(connection, query, ids)
    others = models(connection, query, ids) if query.reads_documents else {}
    return [Found(answer, others.get(id, {}), is_certain) for id, answer in found]


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

    def read(self, connection: Connection, query: Query, ids: Sequence[int]) -> list[tuple[int, Answer]]:
        """Return the ids and the answers for rows of the level."""
        levels, stored = len(self._levels), [key.keyword for key in self._stored]
        by_id = {row[levels - 1]: row for row in self._rows.read(connection, ids=_listed(ids))}
        computed = [
            (keyword, owner, _computed(connection, keyword, owner, {row[owner] for row in by_id.values()}))
            for keyword, owner in self._computed
        ]
        found: list[tuple[int, Answer]] = []
        for id, row in ((id, by_id[id]) for id in ids if id in by_id):
            answer: dict[str, str | list[Item]] = dict(zip(stored, row[levels:], strict=True))
            for keyword, owner, values in computed:
                answer[keyword] = values[row[owner]]
            for keyword in self._sequences:
                answer[keyword] = _items(row[levels + stored.index(keyword)], query.items[keyword])
            found.append((id, answer))
        return found


_attributes = lru_cache(maxsize=64)(_Attributes)


def _text_of(key: Key) -> Any:
    """Return the expression for the text of a stored attribute, empty if there is none."""
    assert key.column is not None
    column: Any = cast(getattr(TABLES[key.level], key.column), String)
    if key.column == "patient_age":  # of a copy that leaves with a decided identity, as well
        column = case((StudyRow.identified_at.is_(None), column))
    if key.vr == "DA":
        column = func.replace(column, "-", "")
    elif key.vr == "TM":
        column = func.replace(column, ":", "")
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


MAX_RUNNING = 2
"""Queries that run at the same time; more would take processors from receiving."""

MAX_WAITING = 24
"""Queries that may wait; another is refused at once. Each waiting query occupies one of the forty HTTP threads."""

MAX_WAIT_SECONDS = 30.0
"""Longest time that a query waits for its turn."""

TOO_MANY = "too many queries at once: try again later"

MAX_RUN_SECONDS = 30.0
"""Longest run time of one statement."""

REST_FACTOR = 4.0
"""While instances are received, queries pause this many times as long as Python ran for them: a fifth of the time is
theirs. Only one Python thread runs at a time: more would delay the receiving threads, less would let queries wait."""

SQLITE_REST_FACTOR = 1.0
"""How many times as long as SQLite ran for them. It keeps a processor busy, but no thread waits for it."""

RECEIVING_SECONDS = 0.5
"""Further instances are expected for this long after an instance."""

MAX_REST_SECONDS = 2.0
"""Longest pause after a query."""

REST_STEP_SECONDS = 0.05
"""Interval at which a paused query checks whether instances are still received."""


def pause_seconds(in_python: float, in_sqlite: float) -> float:
    """Return how long queries pause after one that took these seconds of processor time."""
    return in_python * REST_FACTOR + in_sqlite * SQLITE_REST_FACTOR


class QueryRefused(VoxelnodeError):
    """A query is too large or takes too long; the message says what to do."""


class QueryStopped(VoxelnodeError):
    """The requestor no longer wants the answers."""


class Finder:
    """Answer queries. Thread-safe.

    `reader`: read-only: the writer never waits for it.
    `received_at`: returns when the last instances were received, in seconds of `time.monotonic`: queries pause a while.
    """

    def __init__(self, reader: Readers, received_at: Callable[[], float]) -> None:
        self._reader, self._received_at = reader, received_at
        self._turns = Turns(MAX_RUNNING, MAX_WAITING, lambda: QueryRefused(TOO_MANY))
        self._lock = threading.Lock()
        self._rested_at = 0.0

    def find(
        self, query: Query, maximum: int | None = None, stop: Callable[[], bool] = lambda: False
    ) -> Iterator[Found]:
        """Answer a query, reading one page of rows at a time.

        Instances stored or deleted during the query may or may not be in the answers.

        `maximum`: largest number of answers; a query with more is refused.
        `stop`: polled, even while a statement runs; True ends the query.

        Raises QueryRefused: there are more answers than `maximum`, too many queries wait, or this one takes too long.
        Raises QueryStopped: `stop` returned True.
        """
        if maximum is not None and (query.limit is None or query.limit > maximum):
            query = replace(query, limit=maximum + 1)
        matches: Matches | None = None
        read = 0
        while matches is None or read < len(matches.ids):
            with self.turn(stop) as connection:
                if matches is None:
                    matches = matching_ids(connection, query)
                    if maximum is not None and len(matches.ids) > maximum:
                        raise QueryRefused(f"more than {maximum} answers: narrow the query")
                ids = matches.ids[read : read + PAGE]
                page = answers(connection, query, ids, is_certain=matches.is_certain)
            read += PAGE
            began_at = time.thread_time()
            yield from page
            self._charge(time.thread_time() - began_at)  # the run time of the code that used the answers

    @contextmanager
    def turn(self, stop: Callable[[], bool] = lambda: False) -> Iterator[Connection]:
        """Open one of the few connections; interrupt a statement that takes too long, or when `stop` returns True.

        Raises the same exceptions as `find`.
        """
        until = time.monotonic() + MAX_WAIT_SECONDS
        with self._turns.turn(current_caller(), MAX_WAIT_SECONDS, lambda: self._rest(stop, until)):
            began_at, in_sqlite = time.thread_time(), 0.0
            try:
                with self._reader.connect() as connection:
                    clock = connection.connection.dbapi_connection
                    before = getattr(clock, "seconds", 0.0)  # no time of this processor in PostgreSQL
                    try:
                        with _bounded(connection, stop):
                            yield connection
                    finally:
                        in_sqlite = getattr(clock, "seconds", 0.0) - before
            finally:
                self._charge(time.thread_time() - began_at - in_sqlite, in_sqlite)

    def _charge(self, in_python: float, in_sqlite: float = 0.0) -> None:
        """Make the next query wait for the seconds that this one ran; this one is not delayed."""
        with self._lock:
            now, pause = time.monotonic(), pause_seconds(in_python, in_sqlite)
            self._rested_at = min(max(self._rested_at, now) + pause, now + MAX_REST_SECONDS)

    def _rest(self, stop: Callable[[], bool], until: float) -> None:
        """Wait while instances are received and the pause after earlier queries is not over."""
        while (now := time.monotonic()) < self._rested_at and now - self._received_at() < RECEIVING_SECONDS:
            if stop():
                raise QueryStopped
            if now > until:
                raise QueryRefused(TOO_MANY)
            time.sleep(min(self._rested_at - now, REST_STEP_SECONDS))


@contextmanager
def _bounded(connection: Connection, stop: Callable[[], bool]) -> Iterator[None]:
    deadline = time.monotonic() + MAX_RUN_SECONDS
    if stop():
        raise QueryStopped
    database = backend_of(connection)
    try:
        with database.bounded(connection, lambda: stop() or time.monotonic() > deadline):
            yield
    except (OperationalError, database.Error) as error:
        if stop():
            raise QueryStopped from error
        if time.monotonic() > deadline:
            raise QueryRefused(f"not found within {MAX_RUN_SECONDS:g} s: narrow the query") from error
        raise
