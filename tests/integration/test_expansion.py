"""Migrations that expand the schema: what they may do, and which versions work on an index that one has migrated."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, event, inspect

from node.index.engine import schema, sqlite
from node.index.engine.place import IndexUnusable, check, open_engine, upgrade
from node.index.engine.schema import Migration, migrate, migrations
from node.index.models import REVISION
from tests.made_once import migrated
from tests.newer import newer, newer_migrations

pytestmark = pytest.mark.sqlite("test_hosts.py migrates beside the hosts of a server")

UNDECLARED = "0028"
"""The last migration that may declare nothing: it does not expand the schema."""

OWN = ("alembic_version", "about")


def where(index: Any) -> str:
    """The condition of a partial index."""
    return str(index["dialect_options"].get("sqlite_where"))


def shape(connection: Connection) -> dict[str, Any]:
    """Tables with their columns, constraints and indexes, and the columns of views."""
    found = inspect(connection)
    tables = {
        name: {
            "columns": {column["name"]: {**column, "type": str(column["type"])} for column in found.get_columns(name)},
            "constraints": [found.get_pk_constraint(name), found.get_unique_constraints(name),
                            found.get_check_constraints(name), found.get_foreign_keys(name)],
            "indexes": {index["name"]: {**index, "dialect_options": where(index)} for index in found.get_indexes(name)},
        }
        for name in found.get_table_names()
    }  # fmt: skip
    views = {name: {column["name"] for column in found.get_columns(name)} for name in found.get_view_names()}
    return {"tables": tables, "views": views}


def violations(before: dict[str, Any], after: dict[str, Any], statements: list[str]) -> Iterator[str]:
    """Yield what versions that know only the schema before do not survive, of a migration that claims to expand it."""
    for statement in statements:
        words = statement.replace('"', "").split()
        if words[0] in ("INSERT", "UPDATE", "DELETE") and not any(own in words[:4] for own in OWN):
            yield f"changes rows, which takes long or locks what others write: {statement[:60]}"
    for name, old in before["tables"].items():
        if name in after["tables"]:
            yield from of_table(name, old, after["tables"][name])
        else:
            yield f"table {name} is gone"
    for name, columns in before["views"].items():
        if lost := columns - after["views"].get(name, set()):
            yield f"view {name} has lost {', '.join(sorted(lost))}"


def of_table(name: str, old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    for part in ("columns", "indexes"):
        for key, attributes in old[part].items():
            if new[part].get(key) != attributes:
                yield f"{part} of {name}: {key} is not as it was"
    for key, column in new["columns"].items():
        if key not in old["columns"] and not column["nullable"] and column["default"] is None:
            yield f"column {name}.{key} needs a value, which older versions do not give it"
    if new["constraints"] != old["constraints"]:
        yield f"constraints of {name} are not as they were"
    for key, index in new["indexes"].items():
        if key not in old["indexes"] and index["unique"]:
            yield f"index {key} is unique: older versions may insert what it refuses"


@contextmanager
def noted(connection: Connection) -> Iterator[list[str]]:
    statements: list[str] = []

    def note(_: Any, __: Any, statement: str, *___: Any) -> None:
        statements.append(statement)

    event.listen(connection, "before_cursor_execute", note)
    yield statements
    event.remove(connection, "before_cursor_execute", note)


def judged(connection: Connection, migration: Migration) -> list[str]:
    """Migrate one step further; return the violations of the migration."""
    before = shape(connection)
    with noted(connection) as statements:
        migrate(connection, migration.revision)
    return list(violations(before, shape(connection), statements))


def test_every_migration_declares_whether_it_expands_and_those_that_do_only_expand(tmp_path: Path) -> None:
    config = Config()
    config.set_main_option("script_location", str(schema.folder()))
    for script in ScriptDirectory.from_config(config).walk_revisions():
        declares = isinstance(getattr(script.module, "expands", None), bool)
        assert declares or script.revision <= UNDECLARED, f"{script.path}: declare `expands`, see docs/development.md"
    engine = open_engine(tmp_path / "index.sqlite")
    with engine.connect() as connection, connection.begin():
        for migration in migrations():
            if migration.expands:
                assert judged(connection, migration) == [], migration.revision
            elif migration.revision >= UNDECLARED:
                migrate(connection, migration.revision)
    engine.dispose()


EXPANDS = """\
op.add_column("images", sa.Column("colour", sa.String(8), nullable=True))
op.add_column("images", sa.Column("is_new", sa.Boolean(), server_default=sa.false(), nullable=False))
op.create_index("ix_images_colour", "images", ["colour"])
op.create_table("colours", sa.Column("name", sa.String(8), primary_key=True))
change_view(op.get_bind(), "v_images", [("i.file_missing,", "i.file_missing, i.colour,")])
"""

CONTRACTS = 'op.drop_column("hosts", "left_behind")'


SURVIVED_BY_NONE = """\
op.drop_column("hosts", "left_behind")
with op.batch_alter_table("hosts") as table:
    table.alter_column("version", new_column_name="release")
with op.batch_alter_table("leases") as table:
    table.create_unique_constraint("uq_leases_host", ["host"])
op.drop_table("object_removals")
op.execute("UPDATE hosts SET seen_at = started_at")
op.drop_index("ix_images_spooled", "images")
op.create_index("ix_new", "patients", ["patient_id"], unique=True)
change_view(op.get_bind(), "v_images", [("i.file_missing,", "")])
"""

VIOLATIONS = {
    "columns of hosts: left_behind is not as it was",
    "columns of hosts: version is not as it was",
    "column hosts.release needs a value, which older versions do not give it",
    "constraints of leases are not as they were",
    "table object_removals is gone",
    "changes rows, which takes long or locks what others write: UPDATE hosts SET seen_at = started_at",
    "indexes of images: ix_images_spooled is not as it was",
    "index ix_new is unique: older versions may insert what it refuses",
    "view v_images has lost file_missing",
}


def test_the_rule_for_migrations_that_expand_finds_what_older_versions_do_not_survive(tmp_path: Path) -> None:
    found = []
    for name, body in (("good", EXPANDS), ("bad", SURVIVED_BY_NONE)):
        path = tmp_path / f"{name}.sqlite"
        path.write_bytes(migrated()[0])
        engine = open_engine(path)
        folder = newer_migrations(tmp_path / name, body, expands=True)
        with newer(folder), engine.connect() as connection, connection.begin():
            found.append(set(judged(connection, migrations()[-1])))
        engine.dispose()
    assert found[0] == set()
    assert found[1] >= VIOLATIONS  # batches copy rows as well


def test_a_version_opens_an_index_that_a_newer_one_has_expanded_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "index.sqlite"
    path.write_bytes(migrated()[0])
    expanded = newer_migrations(tmp_path / "expanded", EXPANDS, expands=True)
    contracted = newer_migrations(tmp_path / "contracted", CONTRACTS, expands=False, before=expanded)
    with newer(expanded):
        assert upgrade(path) == (REVISION, f"{int(REVISION) + 1:04}")
    assert upgrade(path) == (f"{int(REVISION) + 1:04}", f"{int(REVISION) + 1:04}")
    assert check(path) == []
    with newer(contracted):
        upgrade(path)
    with pytest.raises(IndexUnusable, match="install the newer one"):
        upgrade(path)


def test_a_migration_of_a_file_that_another_program_has_locked_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "index.sqlite"
    path.write_bytes(migrated()[0])
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.05)
    with newer(newer_migrations(tmp_path / "expanded", EXPANDS, expands=True)):
        with closing(sqlite3.connect(path)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(IndexUnusable, match=r"another program has locked it: close .*, then start") as refused:
                upgrade(path)
        assert "backup" not in str(refused.value)
        upgrade(path)
