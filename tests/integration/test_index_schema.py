"""The database: created, upgraded, checked; its views hold what they promise."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from alembic.config import CommandLine
from sqlalchemy import Connection, event, inspect, text
from sqlalchemy.exc import IntegrityError

from node.index.reading import reading
from node.index.rows.about_keys import REVISION, SCHEMA
from node.index.rows.backend import Place, ServerPlace, backend_at
from node.index.rows.extension_tables import extension_tables
from node.index.rows.grams import having_words
from node.index.rows.models.levels import Base
from node.index.rows.place import (
    FILE_NAME,
    IndexUnusable,
    _owners,
    alone,
    check,
    downgrade,
    open_engine,
    run_migrations,
    script_directory,
    upgrade,
)
from tests.made_once import IN_POSTGRESQL
from tests.newer import NEWER, newer
from tests.postgresql import shared

pytestmark = pytest.mark.postgresql

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture
def database(tmp_path: Path) -> Place:
    """A new index, made by all migrations."""
    place = new_place(tmp_path)
    upgrade(place)
    return place


def new_place(folder: Path) -> Place:
    return ServerPlace(shared().create(f"schema_{uuid4().hex}"), folder) if IN_POSTGRESQL else folder / FILE_NAME


def run(place: Place, *statements: str) -> Sequence[str]:
    """Commit statements; return the names of the columns of the last one."""
    engine = open_engine(place)
    try:
        with engine.begin() as connection:
            *_, last = [connection.execute(text(statement)) for statement in statements]
            return list(last.keys()) if last.returns_rows else []
    finally:
        engine.dispose()


@pytest.mark.slow
def test_upgrading_twice_changes_nothing(database: Place) -> None:
    assert upgrade(database) == (REVISION, REVISION), "the last migration leads to the revision of the models"
    assert check(database) == []


@pytest.mark.sqlite("the file")
def test_a_file_that_is_no_database_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(IndexUnusable, match="not a usable database"):
        upgrade(path)
    assert path.read_bytes().startswith(b"not a database")


@pytest.mark.slow
def test_foreign_keys_are_enforced_and_a_missing_table_is_found_by_the_check(database: Place) -> None:
    with pytest.raises(IntegrityError):
        run(database, "INSERT INTO studies (patient_id, study_instance_uid) VALUES (99, '1.2')")
    run(database, "DROP VIEW v_exclusions", "DROP TABLE exclusions")
    assert any("exclusions" in problem for problem in check(database))


@pytest.mark.slow
def test_words_find_what_each_statement_leaves(database: Place) -> None:
    def found(*words: str) -> list[int]:
        engine = open_engine(database)
        with engine.connect() as connection:
            ids = sorted(connection.scalars(having_words([(word,) for word in words])))
        engine.dispose()
        return ids

    run(
        database,
        "INSERT INTO patients (id, identity, patient_id, patient_name_alphabetic) VALUES (1, 'a', 'P-1', 'ann^müller')",
        "INSERT INTO patients (id, identity, patient_id, patient_name_ideographic) VALUES (2, 'b', 'Q 2', '山田^太郎')",
        "INSERT INTO studies (id, patient_id, study_instance_uid, accession_number) VALUES (7, 1, '1.7', 'ACC')",
        "INSERT INTO studies (id, patient_id, study_instance_uid) VALUES (8, 2, '1.8'), (9, 2, '1.9')",
    )
    assert [found(word) for word in ("ann", "ü", "ül", "p-1", "acc", "c", "")] == [[7]] * 6 + [[7, 8, 9]]
    assert [found(word) for word in ("山", "山田", "山田^", "q")] == [[8, 9]] * 4
    assert (found("ann", "acc", "p-"), found("ann", "q"), found("anna"), found("山太")) == ([7], [], [], [])
    run(database, "UPDATE studies SET patient_id = 1 WHERE id = 9", "UPDATE studies SET accession_number = 'ZZ'")
    assert (found("ann"), found("q"), found("acc"), found("zz")) == ([7, 9], [8], [], [7, 8, 9])
    run(database, "UPDATE patients SET patient_id = 'R', patient_name_alphabetic = 'bob' WHERE id = 1")
    assert (found("ann"), found("p-1"), found("bob"), found("r")) == ([], [], [7, 9], [7, 9])
    assert check(database) == []
    run(database, "DELETE FROM studies WHERE id = 9")
    assert (found("bob"), found("zz"), check(database)) == ([7], [7, 8], [])
    lost = "DELETE FROM study_grams" if IN_POSTGRESQL else "INSERT INTO study_grams (study_grams) VALUES ('delete-all')"
    run(database, lost)
    assert ["2 studies are not found by words" in problem for problem in check(database)] == [True]


@pytest.mark.slow
@pytest.mark.sqlite("the file")
def test_overwriting_leaves_no_grams_of_a_deleted_study_in_the_file(tmp_path: Path) -> None:
    """The first gram of a page is written out, and others where they differ from the one before."""
    path = tmp_path / FILE_NAME
    upgrade(path)
    insert = "INSERT INTO patients (id, identity, patient_name_ideographic) VALUES (1, 'a', '山田'), (2, 'b', 'b')"
    run(path, insert, "INSERT INTO studies (id, patient_id, study_instance_uid) VALUES (1, 1, '1.1')")
    run(path, "INSERT INTO studies (id, patient_id, study_instance_uid) VALUES (2, 2, '1.2')")
    gram = "山田".encode().hex().encode()

    def files() -> list[Path]:
        return [file for file in tmp_path.iterdir() if gram in file.read_bytes()]

    assert files() != []
    run(path, "DELETE FROM studies WHERE id = 1")
    engine = open_engine(path)
    assert backend_at(path).overwrite_deleted(engine)
    engine.dispose()
    assert (files(), check(path)) == ([], [])


def test_reading_where_there_is_no_index_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(IndexUnusable, match="db upgrade" if IN_POSTGRESQL else "serve --create"), reading(tmp_path):
        pass


def options(index: Any) -> dict[str, str]:
    return {name: str(value) for name, value in index["dialect_options"].items()}


def shape(connection: Connection) -> dict[str, Any]:
    """Each table with its columns, constraints and indexes, in no order."""
    found = inspect(connection)
    return {
        name: {
            "columns": {column["name"]: {**column, "type": str(column["type"])} for column in found.get_columns(name)},
            "key": found.get_pk_constraint(name),
            "unique": {one["name"]: one for one in found.get_unique_constraints(name)},
            "check": {one["name"]: one for one in found.get_check_constraints(name)},
            "foreign": {one["name"]: one for one in found.get_foreign_keys(name)},
            "indexes": {one["name"]: {**one, "dialect_options": options(one)} for one in found.get_indexes(name)},
        }
        for name in found.get_table_names()
        if name != "alembic_version"
    }


def test_migrations_make_the_tables_of_the_models(database: Place, tmp_path: Path) -> None:
    """The check knows neither conditions of indexes nor constraints."""
    other: Place = tmp_path / "models.sqlite"
    if IN_POSTGRESQL:
        other = ServerPlace(shared().create(f"models_{uuid4().hex}"), tmp_path)
    shapes = []
    for place in (database, other):
        engine = open_engine(place, alone=True)
        with engine.begin() as connection:
            if place is other:
                for metadata in (Base.metadata, *(own.metadata for own in extension_tables().values())):
                    metadata.create_all(connection)
                for line in kept("0.2", connection):  # PostgreSQL numbers the rows of two tables in a way of its own
                    if line.startswith("ALTER"):
                        connection.exec_driver_sql(line)
            shapes.append(shape(connection))
        engine.dispose()
    migrated, made = shapes
    assert {name for name in migrated if not name.startswith("study_grams")} == made.keys()
    for table in made:
        assert migrated[table] == made[table], table


def test_the_schema_of_this_version_is_written_out() -> None:
    assert {own.revision for own in _owners().values()} == SCHEMA


RELEASED = {"0.2": ("r0001", "labels_0001", "shares_0001", "worklist_0001")}
"""The migrations of each released version. Never change what they do, nor the files of their statements."""


def kept(version: str, connection: Connection) -> list[str]:
    """The statements of its migrations."""
    name = f"schema.{connection.dialect.name}.sql"
    return (CHECKOUT / "tests/kept" / version / name).read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("version", RELEASED)
def test_a_released_migration_never_changes(version: str, tmp_path: Path) -> None:
    place, script, run = new_place(tmp_path), script_directory(), list[str]()
    with alone(place) as connection:
        event.listen(connection, "before_cursor_execute", lambda *given: run.append(given[2]))
        for revision in RELEASED[version]:
            run_migrations(connection, script, lambda there, _, to=revision: script._upgrade_revs(to, tuple(there)))
        expected = kept(version, connection)
    made = sorted(" ".join(one.split()) + ";" for one in run if one.split()[0] in ("CREATE", "ALTER"))
    assert made == expected, "a released migration has changed: write another one that makes this change"


UP = """op.add_column("patients", sa.Column("colour", sa.String(8)))
op.drop_index("ix_patients_patient_name")
op.create_table("inks", sa.Column("id", sa.Integer(), primary_key=True), sa.Column("name", sa.Text(), index=True))"""
DOWN = """op.drop_table("inks")
op.create_index("ix_patients_patient_name", "patients", ["patient_name"])
op.drop_column("patients", "colour")"""


@pytest.mark.slow
def test_each_migration_leads_forward_and_back_with_the_rows(database: Place, tmp_path: Path) -> None:
    """From the first schema step by step to the newest, back, and forward again."""

    def shaped() -> dict[str, Any]:
        with alone(database) as connection:
            return shape(connection)

    run(database, *ROWS)
    with newer(tmp_path / "newer", UP, DOWN):
        upgrade(database)
        chain = [one.revision for one in script_directory().iterate_revisions(NEWER, "base")]
        shapes = {NEWER: shaped()}
        for revision in chain[1:]:
            downgrade(database, revision)
            shapes[revision] = shaped()
        for revision in chain[:0:-1]:
            downgrade(database, revision)
            assert shaped() == shapes[revision]
            upgrade(database)
            assert shaped() == shapes[NEWER]
            assert "colour" in run(database, "SELECT * FROM patients")
        assert downgrade(database, REVISION) == (NEWER, REVISION)
        for wrong in (NEWER, "r9999", "labels_0002"):
            with pytest.raises(IndexUnusable, match=f"{wrong} is none that came before it"):
                downgrade(database, wrong)
    assert upgrade(database) == (REVISION, REVISION)  # makes the views again
    assert downgrade(database, REVISION) == (REVISION, REVISION)
    assert check(database) == []
    assert "patient_name" in run(database, "SELECT * FROM v_patients WHERE patient_id = 'a'")


def test_an_upgrade_keeps_the_rows_and_makes_the_views_again(database: Place, tmp_path: Path) -> None:
    run(database, "INSERT INTO patients (id, identity, patient_id, patient_name) VALUES (1, 'a', 'a', 'A')")
    body = 'op.add_column("patients", sa.Column("colour", sa.String(8)))\nop.drop_index("ix_patients_patient_name")'
    with newer(tmp_path / "newer", body):
        assert upgrade(database) == (REVISION, NEWER)
        assert upgrade(database) == (NEWER, NEWER)
        assert "studies" in run(database, "SELECT * FROM v_patients")
        with pytest.raises(IntegrityError):
            run(database, "INSERT INTO patients (id, identity) VALUES (1, 'b')")
        run(database, "UPDATE alembic_version SET version_num = 'labels_0002' WHERE version_num = 'labels_0001'")
        with pytest.raises(IndexUnusable, match="labels_0002, which the extension labels does not know"):
            upgrade(database)
    with pytest.raises(IndexUnusable, match="install the newer one"):
        upgrade(database)
    assert check(database) == [
        f"schema is {NEWER}, which this version of voxelnode does not know: install the newer one"
    ]


@pytest.mark.slow
@pytest.mark.sqlite("the lock of a file")
def test_an_upgrade_of_a_file_that_another_program_has_locked_says_so(
    database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.index.rows.sqlite_file.BUSY_SECONDS", 0.05)
    with newer(tmp_path / "newer", 'op.add_column("patients", sa.Column("colour", sa.String(8)))'):
        with closing(sqlite3.connect(database)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(IndexUnusable, match=r"another program has locked it: close .*, then start") as refused:
                upgrade(database)
        assert "backup" not in str(refused.value)
        upgrade(database)


ROWS = (
    "INSERT INTO patients (id, identity, patient_id, patient_name) VALUES (1, 'a', 'a', 'A')",
    "UPDATE patients SET merged_into = 1",
    "INSERT INTO studies (id, patient_id, study_instance_uid) VALUES (7, 1, '1.7')",
    "INSERT INTO comments (study_instance_uid, series_instance_uid, comment, written_by, written_at) "
    "VALUES ('1.7', '', 'clear', 'anna', '2026-01-01 00:00:00')",
)


@pytest.mark.slow
def test_alembic_runs_in_a_checkout(database: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CHECKOUT)  # here and not in a process: the server of the tests does not sync

    def alembic(*words: str) -> None:
        CommandLine().main(["-x", f"url={database}", *words])

    run(database, *ROWS)
    alembic("current")
    alembic("check")
    run(database, "ALTER TABLE comments ADD COLUMN colour VARCHAR(8)")
    with pytest.raises(SystemExit):
        alembic("check")
    run(database, "ALTER TABLE comments DROP COLUMN colour")
    assert check(database) == []
    alembic("upgrade", "heads")
    assert check(database) == []
