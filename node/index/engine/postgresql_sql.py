"""The SQL of the index in PostgreSQL's words.

Statements, views and migrations are written once, in the SQL that SQLite and PostgreSQL share and a few words that only
SQLite knows. `in_postgresql` replaces these words. Two differences would not be errors but other answers, so every
statement gets them: NULL sorts below all values, as in SQLite, and LIKE ignores case.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import lru_cache

from node.index.models import Base

_ROOT = """coalesce((SELECT value || '/' FROM about WHERE "key" = 'root'), '')"""
"""SQLite knows the folder of its file; here the row ``root`` names it, see `node.index.engine.postgresql`."""

_FLAT = r"(?:[^()]|\([^()]*\))*"
_BALANCED = rf"(?:[^()]|\({_FLAT}\))*"
"""A text in which parentheses are two deep at most."""

_WORDS: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (r"coalesce\(\(SELECT CASE WHEN count\(\*\) = 1 [^']*?pragma_database_list\s.*?'/index\.sqlite'\), ''\)", _ROOT),
    (r"((?:[(,=]|\b(?:SELECT|WHERE|AND|OR|ON|BY))\s*)\+\s*(?=[a-z_]\w*\.[a-z_])", r"\1"),  # keeps SQLite from an index
    (r" INDEXED BY \w+", ""),
    (r"\binstr\(", "strpos("),
    (r"\bjson_each\((%s|%\(\w+\)s)::VARCHAR\)", r"json_array_elements_text(\1::JSON)"),
    (r"\bjson_each\(", "json_array_elements_text("),
    (r"\bjson_array\(", "json_build_array("),
    (r"\bjson_extract\(([\w.]+), '\$\[(\d)\]'\)", r"CAST(\1 ->> \2 AS NUMERIC)"),
    (r"\bjson_extract\(([\w.]+), (%\(\w+\)s(?:::VARCHAR)?)\)", r"(CAST(\1 AS JSON) ->> substr(\2, 3))"),  # '$.key'
    (rf"\bjson_group_array\(({_BALANCED})\)", r"coalesce(json_agg(\1), '[]')"),
    (r"\bdate\((%\(\w+\)s)\)", r"CAST(\1 AS DATE)"),
    (rf"\bjulianday\(({_BALANCED})\)", r"(extract(epoch FROM CAST(\1 AS TIMESTAMP)) / 86400)"),
    # Only ASCII letters are alike, as in SQLite. ILIKE would change the case of the pattern for every row again.
    (r"\b(\w+\.\w+) LIKE ('%%' \|\| )(%\(\w+\)s::VARCHAR)", r'lower(\1 COLLATE "C") LIKE \2lower(\3 COLLATE "C")'),
    (r" LIKE (?!'%%' \|\| lower\()", ' COLLATE "C" ILIKE '),
    (r" GLOB '([^']*)'", lambda match: f" ~ '^{match[1].replace('*', '.*').replace('?', '.')}$'"),
    (r" GLOB ", " LIKE "),  # of a pattern by `node.index.search.conditions.GlobPattern`
    (r" AS INTEGER\)", " AS BIGINT)"),
    (r"(?<=[%)]s)::INTEGER\b", ""),  # the driver gives an integer the size that it needs
    (r" IS NOT (?=%?\()", " IS DISTINCT FROM "),
    (r" IS (?=%?\()", " IS NOT DISTINCT FROM "),
)
_REPLACED = tuple((re.compile(pattern, re.DOTALL), words) for pattern, words in _WORDS)

_LIST = re.compile(
    r"(?<!NOT) IN \((SELECT (?:anon_\d+\.value|CAST\(anon_\d+\.value AS BIGINT\) AS value) \n"
    r"FROM json_array_elements_text\((?:%s|%\(\w+\)s)::JSON\) AS anon_\d+)\)"
)

_NEVER_NULL = {column.name for table in Base.metadata.tables.values() for column in table.columns} - {
    column.name for table in Base.metadata.tables.values() for column in table.columns if column.nullable
}
"""Names of columns that are NOT NULL in each table. PostgreSQL uses no index for an order that says where NULL goes,
unless the index says the same."""

_INDEX = re.compile(r'CREATE INDEX \w+ ON \w+ \((?P<columns>[\w", ]+)\)')


@lru_cache(maxsize=2048)
def in_postgresql(statement: str) -> str:
    """Return a statement in the words of PostgreSQL."""
    if "pg_catalog." in statement:  # a question of SQLAlchemy about the schema
        return statement
    translated = statement
    for pattern, words in _REPLACED:
        translated = pattern.sub(words, translated)
    translated = _with_null_first(translated)
    if (index := _INDEX.match(translated)) is not None:
        columns = ", ".join(_nulls(column) for column in index["columns"].split(", "))
        translated = translated.replace(f"({index['columns']})", f"({columns})", 1)
    return translated


def with_arrays(statement: str) -> str:
    """Return a statement of PostgreSQL whose lists are arrays, which are looked up in the index of their column.

    The server hashes a list that comes from JSON, and compares all rows with it instead of using an index. Without an
    index, an array is worse, because each row is compared with each of its values: columns must have one.
    """
    return _LIST.sub(r" = ANY (ARRAY(\1))", statement)


def _with_null_first(statement: str) -> str:
    """Return a statement whose orders say where NULL goes: below all values."""
    parts, at = [], 0
    for begin, end in _orders(statement):
        parts += [statement[at:begin], ",".join(_nulls(item) for item in _items(statement[begin:end]))]
        at = end
    return "".join([*parts, statement[at:]])


def _orders(statement: str) -> Iterator[tuple[int, int]]:
    """Yield where the items of each ORDER BY begin and end."""
    at = 0
    while (found := statement.find("ORDER BY ", at)) >= 0:
        at = begin = found + len("ORDER BY ")
        depth = 0
        while at < len(statement):
            depth += {"(": 1, ")": -1}.get(statement[at], 0)
            if depth < 0 or (depth == 0 and re.match(r"\s(LIMIT|OFFSET|FOR)\b|\s*\Z", statement[at:])):
                break
            at += 1
        yield begin, at
        at = begin  # an item may be a query with an order of its own


def _items(order: str) -> Iterator[str]:
    """Yield the items of an ORDER BY."""
    depth = begin = 0
    for at, character in enumerate(order):
        depth += {"(": 1, ")": -1}.get(character, 0)
        if character == "," and depth == 0:
            yield order[begin:at]
            begin = at + 1
    yield order[begin:]


def _nulls(item: str) -> str:
    """Return an item of an order, or of an index, with the place of NULL."""
    is_descending = item.rstrip().endswith(" DESC")
    column = re.fullmatch(r'\s*(?:\w+\.)?"?(\w+)"?(?: ASC| DESC)?\s*', item)
    if " NULLS " in item or (column is not None and column[1] in _NEVER_NULL):
        return item
    return f"{item.rstrip()} NULLS {'LAST' if is_descending else 'FIRST'}"
