"""What each engine says for a construct, compiled without a server; and what SQLite answers.

That PostgreSQL gives the same answers is shown in tests/integration/test_postgresql.py.
"""

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import String, bindparam, create_engine, func, literal, select, union_all
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite

from node.index.rows import sql
from tests.sql_words import CONDITIONS, PARTIAL, ROWS, C, T

pytest.importorskip("psycopg", reason="psycopg is not installed")

from node.extensions.postgresql.dialect import IndexDialect


def in_sqlite(element: Any) -> str:
    return _one_line(element.compile(dialect=SQLiteDialect_pysqlite(), compile_kwargs={"literal_binds": True}))


def in_postgresql(element: Any) -> str:
    dialect = IndexDialect(paramstyle="named")  # type: ignore[no-untyped-call]
    return _one_line(element.compile(dialect=dialect, compile_kwargs={"literal_binds": True}))


def _one_line(compiled: Any) -> str:
    return " ".join(str(compiled).split())


@pytest.mark.parametrize(
    ("element", "sqlite", "postgresql"),
    [
        (
            select(sql.JsonEach(C.list).table_valued("value").c.value),
            "SELECT anon_1.value FROM json_each(t.list) AS anon_1",
            "SELECT anon_1.value FROM json_array_elements_text(CAST(t.list AS JSON)) AS anon_1",
        ),
        (sql.JsonArray(C.id, C.a), "json_array(t.id, t.a)", "json_build_array(t.id, t.a)"),
        (sql.JsonGroupArray(C.id), "json_group_array(t.id)", "coalesce(json_agg(t.id), '[]')"),
        (sql.JsonText(C.list, "Key"), "json_extract(t.list, '$.Key')", "(CAST(t.list AS JSON) ->> 'Key')"),
        (sql.Unindexed(C.n).desc().nulls_last(), "+t.n DESC NULLS LAST", "t.n DESC NULLS LAST"),
        (
            sql.in_partial_index(C.id, PARTIAL),
            "(t.id IN (SELECT n FROM main.t INDEXED BY ix_t_odd WHERE a LIKE '%x'))",
            "(t.id IN (SELECT n FROM t WHERE a LIKE '%x'))",
        ),
    ],
)  # fmt: skip
def test_each_engine_has_its_own_word(element: Any, sqlite: str, postgresql: str) -> None:
    assert in_sqlite(element) == sqlite
    assert in_postgresql(element) == postgresql


def test_a_list_is_one_parameter() -> None:
    ids = bindparam("ids", type_=String)
    of_sqlite = "(SELECT CAST(anon_1.value AS BIGINT) AS value FROM json_each(:ids) AS anon_1)"
    of_postgresql = (
        "SELECT CAST(anon_1.value AS BIGINT) AS value FROM json_array_elements_text(CAST(%(ids)s::VARCHAR AS JSON))"
        " AS anon_1"
    )
    for condition, sqlite, postgresql in (
        (sql.listed_in(C.id, ids), f"t.id IN {of_sqlite}", f"t.id IN ({of_postgresql})"),
        (sql.looked_up_in(C.id, ids), f"(t.id IN {of_sqlite})", f"(t.id = ANY (ARRAY({of_postgresql})))"),
    ):
        assert _one_line(condition.compile(dialect=SQLiteDialect_pysqlite(paramstyle="named"))) == sqlite
        assert _one_line(condition.compile(dialect=IndexDialect())) == postgresql  # type: ignore[no-untyped-call]


def test_an_insert_says_what_happens_to_a_row_that_is_there() -> None:
    inserted = sql.insert(T).values(id=1, a="x").inline()
    ignored = "INSERT INTO t (id, a) VALUES (1, 'x') ON CONFLICT DO NOTHING"
    assert in_sqlite(inserted.on_conflict_do_nothing()) == in_postgresql(inserted.on_conflict_do_nothing()) == ignored
    changed = inserted.on_conflict_do_update(index_elements=["id"], set_={"a": "y"}, where=C.n > 1)
    replaced = "INSERT INTO t (id, a) VALUES (1, 'x') ON CONFLICT (id) DO UPDATE SET a = 'y' WHERE t.n > 1"
    assert in_sqlite(changed) == in_postgresql(changed) == replaced


NESTED = func.coalesce(func.lower(func.trim(C.a)), "")


@pytest.mark.parametrize(
    ("element", "sqlite", "postgresql"),
    [
        (sql.matches(C.a, "1.2.*"), "(t.a GLOB '1.2.*')", "(t.a LIKE '1.2.%')"),
        (
            func.sum(C.n).over(order_by=C.n, rows=(None, 0)),
            "sum(t.n) OVER (ORDER BY t.n ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)",
            "sum(t.n) OVER (ORDER BY t.n ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)",
        ),
        (
            select(literal("for ORDER BY date")).where(C.a == "a LIKE GLOB json_each("),
            "SELECT 'for ORDER BY date' AS anon_1 FROM t WHERE t.a = 'a LIKE GLOB json_each('",
            "SELECT 'for ORDER BY date' AS anon_1 FROM t WHERE t.a = 'a LIKE GLOB json_each('",
        ),
        (
            sql.JsonGroupArray(NESTED),
            "json_group_array(coalesce(lower(trim(t.a)), ''))",
            "coalesce(json_agg(coalesce(lower(trim(t.a)), '')), '[]')",
        ),
        (
            union_all(select(C.a).order_by(C.a.nulls_first()).limit(1).subquery().select(), select(C.a)),
            "SELECT anon_1.a FROM (SELECT t.a AS a FROM t ORDER BY t.a NULLS FIRST LIMIT 1 OFFSET 0) AS anon_1 "
            "UNION ALL SELECT t.a FROM t",
            "SELECT anon_1.a FROM (SELECT t.a AS a FROM t ORDER BY t.a NULLS FIRST LIMIT 1) AS anon_1 "
            "UNION ALL SELECT t.a FROM t",
        ),
    ],
)
def test_what_stands_around_a_word_does_not_change_it(element: Any, sqlite: str, postgresql: str) -> None:
    assert in_sqlite(element) == sqlite
    assert in_postgresql(element) == postgresql


@pytest.mark.parametrize(("condition", "ids"), CONDITIONS)
def test_sqlite_knows_its_words(condition: Any, ids: list[int]) -> None:
    engine = create_engine("sqlite://")
    with engine.begin() as connection:
        T.create(connection)
        connection.execute(T.insert(), ROWS)
        assert list(connection.scalars(select(C.id).where(condition).order_by(C.id))) == ids
    engine.dispose()


ROOT = Path(__file__).parents[4]
WORDS = ("json_each(", "json_array(", "json_extract(", "json_group_array(", "instr(", "strpos(", "julianday(", "GLOB ",
         "ILIKE ", " INDEXED BY ", " AS INTEGER)", "sqlalchemy.dialects")  # fmt: skip


KNOWING = {"hot_statements", "sql", "view_rows"}


def test_only_the_engines_know_their_words() -> None:
    """Text of a statement is for both: a word of one engine in it would be found only by a test on the other one."""
    modules = [path for path in ROOT.glob("node/index/**/*.py") if path.stem not in KNOWING]
    found = [(path.name, word) for path in modules for word in WORDS if word in path.read_text(encoding="utf-8")]
    assert len(modules) > 40
    assert found == []
