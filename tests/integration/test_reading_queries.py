"""What reads by text, as one walk finds it: each query is prepared by the engine, whatever its method is given."""

import datetime as dt
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from importlib import import_module
from inspect import CO_VARARGS, getmembers, isfunction
from itertools import islice
from pkgutil import walk_packages
from traceback import walk_stack
from types import CodeType, NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

import node
from node.index.look import study_search
from node.index.rows.repositories import queries_of
from node.index.rows.view_rows import PagedViews, Queries, Row, ViewRows
from node.selector import Selector, compile_selector
from node.selector.fields import FIELDS
from node.settings import core, model
from tests.integration.conftest import Root

VALUES: Mapping[Any, list[Any]] = {
    str: ["1.2.3"], int: [1], float: [1.0], bool: [False, True], NoneType: [None], dt.date: [dt.date(2026, 1, 2)],
    dt.datetime: [dt.datetime(2026, 1, 2, tzinfo=dt.UTC)], Selector: [compile_selector("modality == 'CT'")],
    model.Settings: [model.Settings()], study_search.StudyFilter: [study_search.StudyFilter()],
}  # fmt: skip
ASKS = {name for name in (*vars(ViewRows), *vars(PagedViews)) if name.startswith("_")} - {"_queries", "_matching"}


def readers(kind: type = ViewRows) -> Iterator[type]:
    """The classes that read, of the core and of every extension."""
    for each in kind.__subclasses__():
        yield from (each, *readers(each)) if each.__module__.startswith("node.") else ()


def values_of(hint: Any) -> list[Any]:
    """What an argument with an annotation may be: each member of a union, none and one of a list."""
    args = get_args(hint)
    match get_origin(hint) or hint:
        case origin if origin is Literal:
            return list(args)
        case origin if origin is UnionType:
            return [value for one in args for value in values_of(one)]
        case origin if origin is tuple:
            return [tuple(values_of(one)[-1] for one in args)]
        case origin if origin in (Sequence, Collection, Iterable):
            return [[], values_of(args[0])[-1:]]
        case origin if origin is Mapping:
            return [{"patient_name": "1", "study_instance_uid": "1"}]
    return VALUES.get(hint, [None])


def made(name: str) -> str:
    """A value by the name of its column: a moment, a date, a time, or a text that is a number as well."""
    if name.endswith(("_at", "since", "until")):
        return "2026-01-02 03:04:05.000000"
    return "2026-01-02" if "date" in name else "03:04:05" if name.endswith("time") else "1"


def given(method: Callable[..., Any]) -> dict[str, list[Any]]:
    hints = get_type_hints(
        method, {**vars(core), **vars(model), **vars(study_search), **vars(sys.modules[method.__module__])}
    )
    names = (name for name in method.__code__.co_varnames if name in hints and name not in ("wanted", "uids"))
    return {name: [FIELDS] if name == "fields" else values_of(hints[name]) for name in names}


def calls_of(kind: type, method: Callable[..., Any]) -> Iterator[dict[str, Any]]:
    """As many calls as it takes until each argument had each of its values; filters are those of the class."""
    filters = given(kind._matching) if "wanted" in method.__code__.co_varnames and issubclass(kind, PagedViews) else {}
    values = {**filters, **given(method)}
    for number in range(max(map(len, values.values()), default=1)):
        yield {name: some[number % len(some)] for name, some in values.items()}


def names_of(code: CodeType) -> set[str]:
    return {*code.co_names}.union(*(names_of(inner) for inner in code.co_consts if isinstance(inner, CodeType)))


@pytest.mark.slow
@pytest.mark.postgresql
def test_every_query_that_reads_is_prepared_by_the_engine(root: Root) -> None:
    for module in walk_packages(node.__path__, "node."):
        if module.name.startswith(("node.index.", "node.extensions.")):
            import_module(module.name)
    kinds, asked, refused = list(readers()), set[Any](), set[str]()
    assert len(kinds) <= 25, "as many classes read"
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
                    found = method(reader, *["1.2.3"] * bool(method.__code__.co_flags & CO_VARARGS), **arguments)
                    assert not isinstance(found, Iterator) or list(islice(found, 3))
    assert refused == set()
    asking = [method for _, method in methods if not ASKS.isdisjoint(names_of(method.__code__))]
    unasked = {method.__qualname__ for method in asking if method.__code__ not in asked}
    assert {name for name in unasked if not name.endswith("__init__")} == set()
    assert len(asking) > 150
