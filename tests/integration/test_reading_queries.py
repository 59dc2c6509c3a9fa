"""What reads by text, as one walk finds it: each query is prepared by the engine, whatever its method is given.

Another walk has what reads and what changes run on an index with rows in every table: none goes through the archive.
"""

import datetime as dt
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import is_dataclass, replace
from functools import cache, partial
from importlib import import_module
from inspect import CO_VARARGS, getmembers, isfunction
from itertools import chain, islice, product
from pkgutil import walk_packages
from traceback import walk_stack
from types import CodeType, NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
from pydicom import Dataset
from sqlalchemy import Connection, UniqueConstraint, text
from sqlalchemy.exc import SQLAlchemyError

import node
from node.api import Index
from node.dicom.keys import KEYS, Key, Level
from node.dicom.matching import Options, Query, read_query
from node.index.look import study_search
from node.index.look.finder import answers, matching_ids
from node.index.rows.extension_tables import every_table
from node.index.rows.models.levels import SERIES_STATES
from node.index.rows.place import FILE_NAME
from node.index.rows.repositories import IndexRepository, queries_of
from node.index.rows.view_rows import PagedViews, Queries, Row, ViewRows
from node.selector import Selector, compile_selector
from node.selector.fields import FIELDS
from node.settings import model
from tests.every_row import filled
from tests.integration.conftest import Root

SERIES = 2000
NAMED = f"1.2.{SERIES // 2}"
"""What names a row in the middle of each table of an index that `tests.every_row` has filled."""
VALUES: Mapping[Any, list[Any]] = {
    str: [NAMED], int: [SERIES // 2], float: [1.0], bool: [False, True], NoneType: [None],
    dt.date: [dt.date(2026, 1, 2)], dt.datetime: [dt.datetime(2026, 1, 2, tzinfo=dt.UTC)],
    Selector: [compile_selector("modality == 'CT'")],
    model.Settings: [model.Settings()], study_search.StudyFilter: [study_search.StudyFilter()],
}  # fmt: skip
BY_NAME: Mapping[str, list[Any]] = {
    "fields": [FIELDS], "modality": [None, "CT", "XA"], **{key: [1] for key in ("limit", "skip", "offset", "count")},
    "states": [[], *([state] for state in (*SERIES_STATES, "verified", "no gap seen", "incomplete", "suspect"))],
}  # fmt: skip
ASKS = {name for name in (*vars(ViewRows), *vars(PagedViews)) if name.startswith("_")} - {"_queries", "_matching"}


def readers(kind: type = ViewRows) -> Iterator[type]:
    """The classes that read, of the core and of every extension."""
    for each in kind.__subclasses__():
        yield from (each, *readers(each)) if each.__module__.startswith("node.") else ()


@cache
def named_in(module: str) -> dict[str, Any]:
    """What annotations of a module may name: some of it is imported for them alone."""
    names = (name for name in sorted(sys.modules) if name.startswith("node."))
    return {name: value for one in (*names, module) for name, value in vars(sys.modules[one]).items()}


def values_of(hint: Any) -> list[Any]:
    """What an argument with an annotation may be: each member of a union, none and one of a list."""
    args = get_args(hint)
    match get_origin(hint) or hint:
        case origin if origin is Literal:
            return list(args)
        case origin if origin in (UnionType, Union):
            return [value for one in args for value in values_of(one)]
        case origin if origin is tuple:
            return [tuple(values_of(one)[-1] for one in args)]
        case origin if origin in (Sequence, Collection, Iterable):
            return [[], values_of(args[0])[-1:]]
        case origin if origin is Mapping:
            return [{"patient_name": NAMED, "study_instance_uid": NAMED}]
    if isinstance(hint, type) and (is_dataclass(hint) or hasattr(hint, "_fields")) and hint not in VALUES:
        hints = get_type_hints(hint, named_in(hint.__module__))
        return [hint(**{name: values_of(hints[name])[-1] for name in hint.__match_args__})]
    return VALUES.get(hint, [None])


def made(name: str) -> str:
    """A value by the name of its column: a moment, a date, a time, or a text that is a number as well."""
    if name.endswith(("_at", "since", "until")):
        return "2026-01-02 03:04:05.000000"
    return "2026-01-02" if "date" in name else "03:04:05" if name.endswith("time") else "1"


def given(method: Callable[..., Any]) -> dict[str, list[Any]]:
    hints = get_type_hints(method, named_in(method.__module__))
    names = (name for name in method.__code__.co_varnames if name in hints and name not in ("wanted", "uids"))
    return {name: BY_NAME.get(name) or values_of(hints[name]) for name in names}


def calls_of(kind: type, method: Callable[..., Any]) -> Iterator[dict[str, Any]]:
    """As many calls as it takes until each argument had each of its values; filters are those of the class."""
    filters = given(kind._matching) if "wanted" in method.__code__.co_varnames and issubclass(kind, PagedViews) else {}
    values = {**filters, **given(method)}
    for number in range(max(map(len, values.values()), default=1)):
        yield {name: some[number % len(some)] for name, some in values.items()}


def names_of(code: CodeType) -> set[str]:
    return {*code.co_names}.union(*(names_of(inner) for inner in code.co_consts if isinstance(inner, CodeType)))


def import_readers() -> None:
    for module in walk_packages(node.__path__, "node."):
        if module.name.startswith(("node.index.", "node.extensions.")):
            import_module(module.name)


@pytest.mark.slow
@pytest.mark.postgresql
def test_every_query_that_reads_is_prepared_by_the_engine(root: Root) -> None:
    import_readers()
    kinds, asked, refused = list(readers()), set[Any](), set[str]()
    assert len(kinds) <= 27, "as many classes read"
    with root.index.reading() as index:
        connection = index.connection

        def rows_of(seen: set[str], query: str, values: Mapping[str, Any]) -> list[Row]:
            asked.update(frame.f_code for frame, _ in walk_stack(None))
            try:
                with connection.begin_nested():
                    result = connection.execute(text(query), values)
                    found = [dict(row) for row in result.mappings()]
            except SQLAlchemyError as error:
                refused.add(str(error))
                return []
            is_new = query not in seen and not found
            seen.add(query)  # a row is made up once: whoever reads on until there is none comes to an end
            return [{name: made(name) for name in result.keys()}] if is_new else found  # noqa: SIM118

        methods = [(kind, each) for kind in kinds for _, each in getmembers(kind, isfunction)]
        for kind, method in methods:
            for arguments in [] if method.__name__.startswith("_") else calls_of(kind, method):
                reader = kind(Queries(partial(rows_of, set[str]()), queries_of(connection).say, connection))
                with suppress(Exception):  # of what a row that was made up does not have
                    found = method(reader, *[NAMED] * bool(method.__code__.co_flags & CO_VARARGS), **arguments)
                    assert not isinstance(found, Iterator) or list(islice(found, 3))
    assert refused == set()
    asking = [method for _, method in methods if not ASKS.isdisjoint(names_of(method.__code__))]
    unasked = {method.__qualname__ for method in asking if method.__code__ not in asked}
    assert {name for name in unasked if not name.endswith("__init__")} == set()
    assert len(asking) > 150


FEW_OF_SEARCH = "study_search.FEW_STUDIES", "study_search.WALKED_STUDIES"
PARTS = {"PatientName", "PatientID", "AccessionNumber"}
"""Keys of which an index has the parts."""
ASKED = {"DA": "19550601", "CS": "XA"}
OF_ARCHIVE = {"images", "series", "studies"}
READ_WHOLE = {
    "what is exported or moved is all of it": {"StudyViews.all", "StudyViews.series_keys", "VolumeViews.catalog",
        "PlaceRepository.spool_all", "PlaceRepository.leave_store"},
    "a number of all: `LargeCounts` keeps it, or who asks has asked for it": {
        "InstanceViews.totals", "PlaceViews.count_instances", "InstanceViews.count_matching",
        "InstanceRepository.total_bytes", "SeriesViews.count_by_state", "SeriesViews.count_matching",
        "SeriesViews.newest, how many",
    },
    "as many of the newest, and no more": {"InstanceViews.last_stored", "SenderViews.heard", "SenderViews.received"},
    "no index has the ends of UIDs": {"SeriesViews.ending"},
}  # fmt: skip
"""What reads more of the archive than it gives, by why."""


@contextmanager
def traced(connection: Any) -> Iterator[list[list[Any]]]:
    """Note the statements that are run, each with the steps that it takes."""
    ran: list[list[Any]] = [["", 0]]
    connection.set_trace_callback(lambda statement: statement.startswith("--") or ran.append([statement, 0]))
    connection.set_progress_handler(lambda: ran[-1].append(ran[-1].pop() + 50), 50)
    try:
        yield ran
    finally:
        connection.set_trace_callback(None)
        connection.set_progress_handler(None, 0)


def read_through(connection: Any, statement: str) -> set[str]:
    """The tables of the archive of which a statement goes through all rows of the table, or of an index."""
    whole = "rootpage > 0 AND coalesce(sql, '') NOT LIKE 'CREATE INDEX% WHERE %'"  # others are of few rows
    tables = dict(connection.execute(f"SELECT rootpage, tbl_name FROM sqlite_master WHERE {whole}"))
    steps = [row[1:4] for row in connection.execute(f"EXPLAIN {statement}")]
    opened = {cursor: tables.get(page) for code, cursor, page in steps if code in ("OpenRead", "OpenWrite")}
    return OF_ARCHIVE & {opened.get(cursor) for code, cursor, _ in steps if code in ("Rewind", "Last")}


def reads(index: Index, connection: Connection) -> Iterator[tuple[str, Callable[[], Any]]]:
    """What pages, lists and commands read or change, each with its arguments."""
    for kind in readers():
        reader = kind(queries_of(connection))
        for name, method in getmembers(kind, isfunction):
            for given_ in [] if name.startswith("_") else calls_of(kind, method):
                yield f"{kind.__name__}.{name}", partial(method, reader, **given_)
    for kind in readers(IndexRepository):
        for name, method in getmembers(kind, lambda member: hasattr(member, "__wrapped__")):
            own = [index.repository(kind)] * (method.__wrapped__.__code__.co_varnames[0] == "self")
            for given_ in calls_of(kind, method.__wrapped__):
                wanted = {key: value for key, value in given_.items() if key != "connection"}
                yield f"{kind.__name__}.{name}", partial(method.__wrapped__, *own, connection, **wanted)
    filters = given(study_search.StudyFilter.__init__).items()
    for order, (name, values) in product(get_args(study_search.StudyOrder), filters):
        for value in values:
            found = partial(study_search.MatchingStudies, connection, study_search.StudyFilter(**{name: value}))
            yield (
                f"studies by {name}",
                lambda found=found, order=order: (found().page(order, None, 9), found().count(9)),
            )


def queries() -> Iterator[tuple[str, Query]]:
    """Queries for each key that an index finds, at each level."""
    for level, key in product((Level.STUDY, Level.SERIES, Level.IMAGE), KEYS.values()):
        if key.level <= level and is_indexed(key):
            wanted = Dataset()
            wanted.QueryRetrieveLevel = level.name
            part = f"*{NAMED}*" if key.keyword in PARTS else ASKED.get(key.vr, NAMED)
            setattr(wanted, key.keyword, part)
            yield f"find {key.keyword}", replace(read_query(wanted, options=Options(relational=True)), limit=20)


def found_by(connection: Connection, query: Query) -> object:
    return answers(connection, query, matching_ids(connection, query).ids)


def is_indexed(key: Key) -> bool:
    """Whether an index of its table begins with the column of a key: others compare all rows of a level."""
    table = every_table()[("patients", "studies", "series", "images")[key.level]]
    unique = (one for one in table.constraints if isinstance(one, UniqueConstraint))
    return bool(key.column) and any(next(iter(one.columns)).name == key.column for one in (*table.indexes, *unique))


@pytest.mark.slow
@pytest.mark.sqlite("counts the steps of SQLite, which are those of its plans")
def test_no_list_no_page_and_no_command_goes_through_the_archive(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in ("series.FEW_SERIES", "studies.CHUNK_STUDIES", "series.CHUNK_ROWS", *FEW_OF_SEARCH):
        monkeypatch.setattr(f"node.index.look.{number}", 3)
    filled(root.folder / FILE_NAME, SERIES)
    import_readers()
    named, refused = set[str](), dict[str, tuple[int, str]]()
    with root.index._engine.connect() as connection:
        driver: Any = connection.connection.driver_connection
        find = partial(found_by, connection)
        asked = ((name, partial(find, query)) for name, query in queries())
        for name, read in chain(reads(root.index, connection), asked):
            with traced(driver) as ran, suppress(Exception):  # of who names what is not there, or says it is done
                found = read()
                assert not isinstance(found, Iterator) or list(islice(found, 3))
            connection.rollback()
            named |= {name} if len(ran) > 1 else set()
            for statement, steps in ran:
                what = ", how many" * statement.startswith("SELECT count(*) FROM (SELECT se.id")
                if steps > SERIES and read_through(driver, statement):
                    refused[name + what] = steps, statement
    assert len(named) > 400, "as many read or change something"
    known = set[str]().union(*READ_WHOLE.values())
    assert {name: what for name, what in refused.items() if name not in known} == {}
    assert known == refused.keys()
