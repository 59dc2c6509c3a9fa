"""Queries that are written out, on the documented views (docs/data.md), and the words of SQL that differ in them.

This module loads no SQLAlchemy.

A command that prints a table runs for less time than SQLAlchemy takes to load: on a file of SQLite, the queries here go
to the driver. SQLite has the parameters of ``text()``, ``:name``, too. `node.index.rows.repositories` runs the same
queries by SQLAlchemy, on either engine.

Where SQLite and PostgreSQL say something differently, both words stand beside each other; ``{0}`` and ``{1}`` are the
operands. Statements of SQLAlchemy have them by the constructs of `node.index.rows.sql`.
"""

from __future__ import annotations

import datetime as dt
import json
import re
import sqlite3
import string
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from node.completeness import COUNTED_RULES
from node.selector.fields import POSITION_DIGITS
from node.volume.reasons import REMEDIES

if TYPE_CHECKING:
    from sqlalchemy import Connection


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
"""A number with so many significant digits."""

TEXT = Said("json_extract({0}, '$.{1}')", "(CAST({0} AS JSON) ->> '{1}')")
SIZE = Said("json_array_length({0})", "json_array_length(CASE json_typeof({0}) WHEN 'array' THEN {0} END)")
"""The number of values of an array; 0 or NULL of the JSON ``null``."""

NUMERIC = Said(
    "CASE WHEN CAST({0} AS FLOAT) = {0} AND abs({0}) < 1e99 THEN CAST({0} AS FLOAT) END",
    "CASE WHEN {0} ~ '^ *[+-]?([0-9]{{1,30}}[.]?[0-9]*|[.][0-9]+)([eE][+-]?[0-9]{{1,2}})? *$' "
    "THEN CAST({0} AS FLOAT) END",
)
"""The number that a text is, NULL if it is none: a text that is compared with a number becomes one in SQLite."""

OF_DOCUMENT = Said(
    "coalesce(d.document -> '{0}', b.document -> '{0}')",
    "coalesce(CAST(d.document AS JSON) -> '{0}', CAST(b.document AS JSON) -> '{0}')",
)
"""The value of an attribute in the documents of an instance and its series, as JSON: see `node.dicom.documents`."""

AS_TEXT = Said(
    "CASE json_type(e) WHEN 'text' THEN e ->> '$' WHEN 'array' THEN e ->> 1 END",
    "CASE json_typeof(e) WHEN 'string' THEN e #>> '{{}}' WHEN 'array' THEN e ->> 1 END",
)
"""The text of such a value, which may stand behind its VR."""

PART = Said(
    """('["' || replace(replace({0}, '"', '?'), '\\', '","') || '"]' ->> {1})""", "split_part({0}, '\\', {1} + 1)"
)
"""One of the values in a text, from 0."""

LIKE = Said("({0} LIKE {1} ESCAPE '/')", "(lower({0} COLLATE \"C\") LIKE {1} ESCAPE '/')")
"""A pattern without letters from A to Z. LIKE of SQLite ignores the case of ASCII letters.

lower() of PostgreSQL changes these letters alone under the collation "C". ILIKE would change the pattern for each row.
"""

DISTINCT = Said("json_group_array(DISTINCT {0})", "coalesce(json_agg(DISTINCT {0}), '[]')")
ANY_OF = Said("({0} IN {1})", "({0} = ANY (ARRAY{1}))")
MOMENT = Said("{0}", "CAST({0} AS TIMESTAMP)")
"""A moment that is a text, as the views have it, to be compared with those of columns."""

DAYS = Said("julianday({0})", "(extract(epoch FROM CAST({0} AS TIMESTAMP)) / 86400)")
"""A moment in days with fractions; only differences mean something, as each engine has its own start."""

NOW = Said("strftime('%Y-%m-%d %H:%M:%f', 'now')", "clock_timestamp() AT TIME ZONE 'UTC'")
"""The time of the clock that the hosts of an index share."""

UNINDEXED = Said("+{0}", "{0}")
ROOT_FOLDER = Said(
    "coalesce((SELECT CASE WHEN count(*) = 1 THEN substr(max(file), 1, length(max(file)) - 12) END "
    "FROM pragma_database_list WHERE substr(file, -13) = '/index.sqlite'), '')",
    """coalesce((SELECT value || '/' FROM about WHERE "key" = 'root'), '')""",
)


class Words:
    """The words of one engine, for queries and views that are written out; operands are SQL.

    `dialect`: ``sqlite`` or ``postgresql``. `node.index.rows.sql` says what each word means.
    """

    def __init__(self, dialect: str) -> None:
        self._place = Said._fields.index(f"in_{dialect}")
        self.root = self(ROOT_FOLDER)

    def __call__(self, said: Said, *operands: object) -> str:
        """Return what the engine says, with its operands."""
        return said[self._place].format(*operands)

    def looked_up(self, column: str, numbers: str) -> str:
        """Return the condition that a column, which has an index, has one of the numbers of an array."""
        return self(ANY_OF, column, f"(SELECT CAST(value AS BIGINT) FROM {self(EACH, numbers)})")

    def named(self, column: str, texts: str) -> str:
        """Return the condition that a column, which has an index, has one of the texts of an array."""
        return self(ANY_OF, column, f"(SELECT value FROM {self(EACH, texts)})")


Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Queries:
    """Queries that are written out, on one connection.

    `rows`: returns the rows of a query, whose ``:names`` are bound to values. Times and lists are text, as docs/data.md
        says.
    `say`: the words of the engine that runs them. `shared`: the connection, if it is one of SQLAlchemy.
    """

    rows: Callable[[str, Mapping[str, Any]], list[Row]]
    say: Words
    shared: Connection | None = None

    @property
    def connection(self) -> Connection:
        """The connection of SQLAlchemy."""
        assert self.shared is not None, "a look at a file has none"
        return self.shared


LISTS = ("shape", "spacing_mm", "affine_lps", "warnings")
"""Columns of volumes that the views have as JSON."""


def parsed(row: Row) -> Row:
    """Return a row of volumes with its lists as such."""
    return {name: json.loads(value) if name in LISTS and value else value for name, value in row.items()}


_VERDICT = ("verdict", "certainty", "verdict_rule", "verdict_reason", "missing_instances", "missing_detail")


def judged(row: Row) -> Row:
    """Return a row of ``v_series``; while the series is open, without the verdict on what its last conversion had."""
    return row | dict.fromkeys(_VERDICT) if row["state"] in ("receiving", "converting") else row


_REMEDIES: Mapping[str, str] = {
    "acknowledged": "Have the instances sent again, or take them from a backup; the series is then judged again.",
    "versions": "Nothing is missing: compare both versions, and decide which one counts.",
    "conflict": "They are here: accept them for this series, or have them sent again with UIDs of their own.",
}
"""Remedies by rule of a verdict."""


def remedy_of(series: Mapping[str, Any]) -> str:
    """Return what to do about an incomplete or suspect series, a row of ``v_series``."""
    if series["missing_at_sender"]:
        return "The sender has no more either: check the scanner, or acknowledge the series as it is."
    return _REMEDIES.get(series["verdict_rule"], REMEDIES["incomplete"])


def moment(said: str | dt.datetime) -> dt.datetime:
    """Return the moment that the index says; those without an offset are in UTC."""
    time = dt.datetime.fromisoformat(said) if isinstance(said, str) else said
    return time if time.tzinfo is not None else time.replace(tzinfo=dt.UTC)


def written(moment: dt.datetime) -> str:
    """Return a moment as the index has it, to be compared by `MOMENT`."""
    return f"{moment.astimezone(dt.UTC):%Y-%m-%d %H:%M:%S.%f}"


def timed(row: Row) -> Row:
    """Return a row with its times, whose names end in ``_at``, as such."""
    return {name: moment(value) if name.endswith("_at") and value else value for name, value in row.items()}


def queries_of_file(connection: sqlite3.Connection) -> Queries:
    """Return what runs queries on the driver of SQLite."""

    def rows(query: str, values: Mapping[str, Any]) -> list[Row]:
        cursor = connection.execute(query, values)
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor]

    return Queries(rows, Words("sqlite"))


class Newest(list[Row]):
    """The newest rows of a list, which has `total`."""

    def __init__(self, rows: Iterable[Row], total: int) -> None:
        super().__init__(rows)
        self.total = total


class ViewRows:
    """Queries about one noun on one connection. Not thread-safe."""

    def __init__(self, queries: Queries) -> None:
        self._queries = queries

    def _rows(self, query: str, **values: Any) -> list[Row]:
        return self._queries.rows(query, values)

    def _newest(self, limit: int, order: str, view: str, around: str = "{0}", **filters: Any) -> Newest:
        """Return the first rows of a view in an order, and how many there are.

        `around`: the query that has them as ``({0})``. `filters`: values of columns; None matches all.
        """
        matching, wanted = matching_rows(view, **filters)
        rows = self._rows(around.format(f"{matching} ORDER BY {order} LIMIT :limit"), limit=limit, **wanted)
        return self._with_total(rows, limit, matching, **wanted)

    def _with_total(self, rows: list[Row], limit: int, matching: str, **values: Any) -> Newest:
        """Return rows, and how many a query has without `limit`; they are counted only if it cut them."""
        counted = f"SELECT count(*) FROM ({matching}) matching"
        return Newest(rows, len(rows) if len(rows) < limit else self._number(counted, **values))

    def _row(self, query: str, **values: Any) -> Row | None:
        return next(iter(self._rows(query, **values)), None)

    def _about(self, key: str) -> str | None:
        """Return a fact about the index, or None."""
        row = self._row('SELECT value FROM about WHERE "key" = :key', key=key)
        return None if row is None else str(row["value"])

    def _value(self, query: str, **values: Any) -> Any:
        """Return what a query of one row and one column gives."""
        (value,) = self._rows(query, **values)[0].values()
        return value

    def _number(self, query: str, **values: Any) -> int:
        return int(self._value(query, **values))

    def _text(self, query: str) -> str | None:
        text: str | None = self._value(query)
        return text

    def _counts(self, query: str, **values: Any) -> dict[str, int]:
        """Return the numbers that a query gives in its second column, by its first one."""
        pairs = (row.values() for row in self._rows(query, **values))
        return {str(name): int(count) for name, count in pairs}

    def _rows_of_study(
        self, source: str, study_instance_uid: str, series_instance_uid: str | None, rest: str = "", **values: Any
    ) -> list[Row]:
        """Return the rows of a study, or of a series of it.

        `source`: ``SELECT`` columns ``FROM`` a view. `rest`: what follows the condition on study and series: more
        conditions, an order, a limit. `values`: fill the ``:names`` in `rest`.
        """
        of_series = "" if series_instance_uid is None else " AND series_instance_uid = :series"
        values |= {"study": study_instance_uid, "series": series_instance_uid}
        return self._rows(f"{source} WHERE study_instance_uid = :study{of_series} {rest}", **values)

    def _of_ids(self, query: str, column: str, ids: Sequence[int], rest: str = "") -> list[Row]:
        """Return the rows of a query whose column, which has an index, is one of some numbers."""
        looked_up = self._queries.say.looked_up(column, ":ids")
        return self._rows(f"{query} WHERE {looked_up} {rest}", ids=json.dumps(list(ids)))


def matching_rows(source: str, **filters: Any) -> tuple[str, dict[str, Any]]:
    """Return the query of the rows of a view whose columns have values, and what it binds; None matches all."""
    wanted = {name: value for name, value in filters.items() if value is not None}
    return " AND ".join((f"SELECT * FROM {source} WHERE 1 = 1", *(f"{name} = :{name}" for name in wanted))), wanted


def distinct_values(column: str, table: str, condition: str = "1 = 1") -> str:
    """Return the query of the distinct values of a column, as ``value``, in their order and without NULL.

    They are looked up one by one in the index of the column, or of what the condition compares and the column: DISTINCT
    would read all rows.
    """
    least = f"SELECT min({column}) FROM {table} WHERE {condition}"
    following = f"SELECT ({least} AND {column} > known.value) FROM known WHERE known.value IS NOT NULL"
    return (
        f"WITH RECURSIVE known(value) AS ({least} UNION ALL {following}) "
        "SELECT value FROM known WHERE value IS NOT NULL"
    )


Kinds = Mapping[str, Callable[[Any], Any]]


class PagedViews(ViewRows):
    """Queries about a noun that is listed in pages, newest row first.

    `listing`: the query of all rows; ``id`` is the primary key of the listed table, and rows are filtered by columns.
    `kinds`: what makes their value of what the index gives, of columns that are no text, number or moment.
    """

    listing: str
    kinds: ClassVar[Kinds] = {}

    def __init__(self, queries: Queries, listing: str | None = None) -> None:
        super().__init__(queries)
        if listing is not None:
            self.listing = listing

    def page(self, after: int | None, limit: int, **wanted: Any) -> list[Row]:
        """Return at most `limit` rows below the id `after`, newest first; `wanted` are filters, None matches all.

        A page starts below the `id` where the previous page ended, and follows the primary key. The hundredth page
        therefore costs as much as the first, and rows added meanwhile do not shift the pages.
        """
        below = "" if after is None else "AND id < :after"
        return self._listed(f"{below} ORDER BY id DESC LIMIT :limit", wanted, after=after, limit=limit)

    def count_matching(self, **wanted: Any) -> int:
        """Count all rows that match; this reads every one of them."""
        matching, values = self._matching(**wanted)
        return self._number(f"SELECT count(*) FROM ({matching}) matching", **values)

    def _with_counts(self, rows: list[Row], name: str, table: str, column: str) -> list[Row]:
        """Add to each row, as `name`, the number of rows of another table that belong to it."""
        owned = f"{table} WHERE {self._queries.say.looked_up(column, ':ids')} GROUP BY {column}"
        ids = json.dumps([row["id"] for row in rows])
        counts = self._counts(f"SELECT {column}, count(*) AS count FROM {owned}", ids=ids)
        return [{**row, name: counts.get(str(row["id"]), 0)} for row in rows]

    def _matching(self, **wanted: Any) -> tuple[str, dict[str, Any]]:
        """Return the query of the rows that match, and what it binds."""
        return matching_rows(f"({self.listing}) listed", **wanted)

    def _listed(self, rest: str, wanted: Mapping[str, Any], **values: Any) -> list[Row]:
        """Return the rows that match as callers know them; `rest`: more conditions, an order, a limit."""
        matching, found = self._matching(**wanted)
        return [known(timed(row), self.kinds) for row in self._rows(f"{matching} {rest}", **found, **values)]


def known(row: Row, kinds: Kinds) -> Row:
    """Return a row with the values that `kinds` make, by column."""
    return row | {name: kind(row[name]) for name, kind in kinds.items() if row[name] is not None}


_COUNTED = ", ".join(f"'{rule}'" for rule in COUNTED_RULES)


def certainty_of(series: str) -> str:
    """Return the SQL expression for `node.completeness.certainty` of a row of ``series``, by the name of the table."""
    return (
        f"CASE WHEN {series}.verdict <> 'complete' THEN {series}.verdict "
        f"WHEN {series}.verdict_rule IN ({_COUNTED}) THEN 'verified' "
        f"WHEN {series}.verdict = 'complete' THEN 'no gap seen' END"
    )


def problem_of(series: str) -> str:
    """Return the SQL of the problem of a row of ``series``, as it was acknowledged or is now."""
    missing = f"coalesce(CAST({series}.missing_instances AS TEXT), '')"
    return f"{series}.state || ' ' || coalesce({series}.verdict, 'unknown') || {missing} || ' ' || {series}.revision"


PROBLEM = problem_of("series")
"""SQL of what an acknowledgment is about, as ``v_series`` has it."""


def years_of(age: str) -> str:
    """Return the SQL of the years of an Age String (PS3.5 6.2) such as ``018M``; NULL of any other text.

    Of a study whose patient somebody has decided it is NULL as well: it may be the age of another person.
    """
    digits = " AND ".join(f"substr({age}, {place}, 1) BETWEEN '0' AND '9'" for place in (1, 2, 3))
    units = "WHEN 'Y' THEN 1.0 WHEN 'M' THEN 12.0 WHEN 'W' THEN 52.1775 WHEN 'D' THEN 365.2425"
    years = f"CAST(substr({age}, 1, 3) AS FLOAT) / CASE substr({age}, 4) {units} END"
    is_of_patient = f"{age.partition('.')[0]}.identified_at IS NULL"
    return f"CASE WHEN length({age}) = 4 AND {is_of_patient} AND {digits} THEN {years} END"


OF_IMAGES = (
    "InstitutionName", "OperatorsName", "DeviceSerialNumber", "SoftwareVersions", "PatientWeight", "PatientSize",
    "PatientPosition", "AcquisitionDate", "AcquisitionTime", "ContrastBolusAgent", "ImageType",
    "PhotometricInterpretation", "BitsStored", "LossyImageCompression", "WindowCenter", "WindowWidth",
    "ImagePositionPatient", "ImageOrientationPatient", "SliceLocation", "PixelSpacing", "SliceThickness", "Units",
    "KVP", "XRayTubeCurrent", "Exposure", "ExposureTime", "ConvolutionKernel", "ScanningSequence", "RepetitionTime",
    "EchoTime", "InversionTime", "FlipAngle", "MagneticFieldStrength", "ViewPosition", "ImageLaterality",
)  # fmt: skip
"""What ``v_images`` has of documents: nothing that identifies a patient whom somebody has decided."""


def column_of(keyword: str) -> str:
    """Return the name of the column of an attribute in the views."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=X)(?=Ray)", "_", keyword).lower()


def attributes_of(say: Words) -> str:
    """Return the columns of `OF_IMAGES`, from documents ``d`` of an instance and ``b`` of its series.

    A number is the first of its values, as a window may have several; what always has several is text, as in the file.
    """
    from pydicom.datadict import dictionary_VM, dictionary_VR  # here: commands start without pydicom

    from node.dicom.encoding import NUMBER_CODES

    columns = []
    for keyword in OF_IMAGES:
        text = f"(SELECT {say(AS_TEXT)} FROM (SELECT {say(OF_DOCUMENT, keyword)} AS e LIMIT 1) x)"
        numbers = [
            f"(SELECT {say(NUMERIC, 't')} FROM (SELECT {say(PART, text, place)} AS t LIMIT 1) y)" for place in range(3)
        ]
        name = column_of(keyword)
        is_number = dictionary_VR(keyword) in NUMBER_CODES.keys() | {"DS", "IS"}
        is_first = is_number and dictionary_VM(keyword).startswith("1")
        columns.append((numbers[0] if is_first else f"nullif({text}, '')") + f" AS {name}")
        if keyword == "ImagePositionPatient":
            columns += [f"{number} AS {name}_{axis}" for axis, number in zip("xyz", numbers, strict=True)]
    return ", ".join(columns)


def grid_of(volume: str, say: Words) -> dict[str, str]:
    """Return the SQL of each field of the grid of a row of ``volumes``: see `node.selector.fields.grid_fields`."""
    columns, rows, slices, times = (f"CAST({say(NUMBER, f'{volume}.shape', axis)} AS BIGINT)" for axis in range(4))
    across, down = (f"CAST({say(NUMBER, f'{volume}.spacing_mm', axis)} AS FLOAT)" for axis in range(2))
    through = say(ROUNDED, say(NUMBER, f"{volume}.spacing_mm", 2), POSITION_DIGITS)
    return {
        "columns": columns,
        "rows": rows,
        "slices": slices,
        "times": f"CASE WHEN {volume}.id IS NOT NULL THEN coalesce({times}, 1) END",
        "column_spacing_mm": across,
        "row_spacing_mm": down,
        "slice_spacing_mm": f"CASE WHEN {slices} > 1 AND {volume}.geometry <> 'none' THEN {through} END",
    }


_ESCAPED = str.maketrans({character: f"/{character}" for character in "/%_"})
LOWERED = str.maketrans({letter: letter.lower() for letter in string.ascii_uppercase})


def literal(part: str) -> str:
    """Return a part of a pattern of LIKE that matches a text, with ``/`` before what would be a sign of a pattern."""
    return part.translate(_ESCAPED).translate(LOWERED)


def pattern_of(words: Collection[str]) -> str:
    """Return the pattern of LIKE of texts that contain words with one character between them."""
    return f"%{'_'.join(map(literal, words))}%"
