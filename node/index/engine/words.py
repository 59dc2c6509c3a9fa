"""The words of SQL that SQLite and PostgreSQL say differently, as text. This module loads no SQLAlchemy.

Queries and views that are written out have these words by `Words`, and statements of SQLAlchemy by the constructs of
`node.index.engine.sql`. Beside what SQLite says stands what PostgreSQL says; ``{0}`` and ``{1}`` are the operands.
"""

from __future__ import annotations

from typing import NamedTuple


class Said(NamedTuple):
    """A word in the SQL of each engine."""

    in_sqlite: str
    in_postgresql: str


EACH = Said("json_each({0})", "json_array_elements_text(CAST({0} AS JSON))")
NUMBER = Said("json_extract({0}, '$[{1}]')", "CAST({0} ->> {1} AS NUMERIC)")
ROUNDED = Said(
    "CASE WHEN {0} IS NOT NULL THEN CAST(printf('%.{1}g', {0}) AS FLOAT) END",
    "CAST(to_char(CAST({0} AS NUMERIC), '9.' || repeat('9', {1} - 1) || 'EEEE') AS FLOAT)",
)
TEXT = Said("json_extract({0}, '$.{1}')", "(CAST({0} AS JSON) ->> '{1}')")
SIZE = Said("json_array_length({0})", "json_array_length(CASE json_typeof({0}) WHEN 'array' THEN {0} END)")
DISTINCT = Said("json_group_array(DISTINCT {0})", "coalesce(json_agg(DISTINCT {0}), '[]')")
ANY_OF = Said("({0} IN {1})", "({0} = ANY (ARRAY{1}))")
MOMENT = Said("{0}", "CAST({0} AS TIMESTAMP)")
DAYS = Said("julianday({0})", "(extract(epoch FROM CAST({0} AS TIMESTAMP)) / 86400)")
UNINDEXED = Said("+{0}", "{0}")
ROOT_FOLDER = Said(
    "coalesce((SELECT CASE WHEN count(*) = 1 THEN substr(max(file), 1, length(max(file)) - 12) END "
    "FROM pragma_database_list WHERE substr(file, -13) = '/index.sqlite'), '')",
    """coalesce((SELECT value || '/' FROM about WHERE "key" = 'root'), '')""",
)


class Words:
    """The words of one engine, for queries and views that are written out; operands are SQL.

    `dialect`: ``sqlite`` or ``postgresql``. `node.index.engine.sql` says what each word means.
    """

    def __init__(self, dialect: str) -> None:
        self._place = Said._fields.index(f"in_{dialect}")
        self.root = self._say(ROOT_FOLDER)

    def each(self, array: str) -> str:
        return self._say(EACH, array)

    def size(self, array: str) -> str:
        """Return the number of values of an array; 0 or NULL of the JSON ``null``."""
        return self._say(SIZE, array)

    def number(self, array: str, place: int) -> str:
        return self._say(NUMBER, array, place)

    def rounded(self, number: str, digits: int) -> str:
        """Return a number with so many significant digits."""
        return self._say(ROUNDED, number, digits)

    def text(self, item: str, key: str) -> str:
        return self._say(TEXT, item, key)

    def distinct(self, value: str) -> str:
        return self._say(DISTINCT, value)

    def looked_up(self, column: str, numbers: str) -> str:
        """Return the condition that a column, which has an index, has one of the numbers of an array."""
        return self._say(ANY_OF, column, f"(SELECT CAST(value AS BIGINT) FROM {self.each(numbers)})")

    def moment(self, text: str) -> str:
        """Return a moment that is a text, as the views have it, to be compared with those of columns."""
        return self._say(MOMENT, text)

    def days(self, moment: str) -> str:
        """Return a moment in days with fractions; only differences mean something, as each engine has its own start."""
        return self._say(DAYS, moment)

    def unindexed(self, column: str) -> str:
        return self._say(UNINDEXED, column)

    def _say(self, said: Said, *operands: object) -> str:
        return said[self._place].format(*operands)
