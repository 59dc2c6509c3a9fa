"""A root of an earlier checkout: no start uses its index, and `voxelnode db rebuild` takes it over.

`before/` is such a root, of commit 73d6ca5c: the index as SQL, and the files. That version itself has received,
converted, merged, deleted and decided what is in it; tables that had no row got one by hand, and the work a copy for a
project, which nothing makes any more. It was killed when its journal had acknowledged a series of which neither archive
nor index knew.
"""

import datetime as dt
import json
import re
import sqlite3
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

import node
from node.cli.application import application
from node.control.care import check_repository, rebuild_index
from node.control.repository import Repository
from node.index.rows.place import IndexUnusable
from node.index.rules.custody.salvage import HISTORY, WORK
from node.settings.model import Settings
from tests.made_once import IN_POSTGRESQL, emptied_in_postgresql
from tests.preloaded import run as started
from tests.rows import read_rows, view_rows

pytestmark = pytest.mark.postgresql

BEFORE = Path(__file__).parent / "before"

FAR = dt.datetime(2100, 1, 1, tzinfo=dt.UTC)

TYPES = {"DATETIME": "TIMESTAMP", "INTEGER": "BIGINT", "FLOAT": "DOUBLE PRECISION"}
"""Those of PostgreSQL that have other names there."""

Row = dict[str, Any]


def old_index(path: Path | str = ":memory:") -> sqlite3.Connection:
    """The index as that version wrote it to a file."""
    connection = sqlite3.connect(path)
    connection.row_factory = sqlite3.Row
    connection.executescript((BEFORE / "index.sql").read_text(encoding="utf-8"))
    return connection


@pytest.fixture(scope="module")
def old() -> dict[str, list[Row]]:
    """The rows of each of its tables and views."""
    with closing(old_index()) as connection:
        names = [row["name"] for row in connection.execute("SELECT name FROM sqlite_master WHERE type <> 'index'")]
        return {name: [dict(row) for row in connection.execute(f'SELECT * FROM "{name}"')] for name in names}


@pytest.fixture
def root(settings: Settings) -> Path:
    folder = settings.storage.root
    with zipfile.ZipFile(BEFORE / "files.zip") as files:
        files.extractall(folder)
    if IN_POSTGRESQL:
        put_into_postgresql(emptied_in_postgresql(folder))
    else:
        old_index(folder / "index.sqlite").close()
    return folder


def put_into_postgresql(url: str) -> None:
    """Make the same tables there, with the types that they had there, and without what reading them does not need."""
    import psycopg

    with closing(old_index()) as source, psycopg.connect(url) as target:
        for (table,) in source.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'"
        ).fetchall():
            declared = {row["name"]: row["type"] for row in source.execute(f'PRAGMA table_info("{table}")')}
            types = {name: TYPES.get(kind, kind.partition("(")[0]) for name, kind in declared.items()}
            columns = ", ".join(f'"{name}" {kind}' for name, kind in types.items())
            target.execute(f'CREATE TABLE "{table}" ({columns})'.encode())
            places = ", ".join(f"CAST(CAST(%s AS TEXT) AS {kind})" for kind in types.values())
            for row in source.execute(f'SELECT * FROM "{table}"'):
                target.execute(f'INSERT INTO "{table}" VALUES ({places})'.encode(), tuple(row))


def rows(root: Path, query: str) -> list[Row]:
    """Rows of the new index, as SQLite has them."""
    return [{name: plain(value) for name, value in row.items()} for row in read_rows(root, query)]


def plain(value: object) -> object:
    """A value as both databases have it: JSON is read, and truth is a number."""
    if isinstance(value, str) and value[:1] in ("[", "{"):
        return json.loads(value)
    if isinstance(value, str) and value.endswith(":00.000000") and len(value) == 15:  # a time of day had all digits
        return value[:8]
    return int(value) if isinstance(value, bool) else value


def same(found: list[Row], expected: list[Row], *but: str) -> None:
    """Require the same rows in the columns that both have, in whatever order."""
    names = [name for name in (expected or [{}])[0] if name in (found or [{}])[0] and name not in but]
    assert expected == [] or names

    def counted(some: list[Row]) -> Counter[str]:
        return Counter(repr([plain(row[name]) for name in names]) for row in some)

    assert counted(found) == counted(expected)


REFUSED = re.compile("a version before 0.2 made the index.* `voxelnode db rebuild`")

SUCCEEDING = {"audit", "config show", "db path", "journal status", "peers list"}
"""Commands that need no index."""

FAILING = {
    "archive copy", "hooks set", "hooks test", "peers set", "reload", "retention set", "routes set", "viewers install",
    "viewers remove",
}  # fmt: skip
"""Commands that fail for another reason before they need one."""

CONFIGURATION = """
[hooks.1]
kind = "webhook"
on = ["volume-written"]
url = "http://127.0.0.1:1/"

[routes.1]
to = ["1"]

[peers.1]
ae_title = "PACS"
host = "127.0.0.1"
port = 1
"""

ARGUMENTS = {
    "account add": ("1", "--no-password"), "account role": ("1", "admin"), "db hosts drain": ("1",),
    "db copy": ("--to", "postgresql://nobody@127.0.0.1:1/none"), "export": ("--media", "1", "--where", "rows > 1"),
    "hooks replay": ("1", "--where", "rows > 1"), "import": ("voxelnode.toml",), "peers send": ("--to", "1", "1"),
    "lost write-off": ("--all", "--reason", "1", "--yes"), "quarantine purge": ("--all", "--yes"),
    "reconvert": ("--all",), "restore": ("root",), "routes replay": ("1", "--where", "rows > 1"),
    "select": ("rows > 1",), "trash empty": ("--all", "--yes"),
}  # fmt: skip
"""Where ``1`` for all that is required is not enough."""


def commands(command: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Each command that has a configuration, and its parameters by their last names."""
    for name, each in getattr(command, "commands", {}).items():
        yield from commands(each, f"{path} {name}".strip())
    parameters = {parameter.opts[-1]: parameter for parameter in command.params}
    if "--root" in parameters and "--config" in str([one.opts for one in command.params]) and path != "db rebuild":
        yield path, parameters


@pytest.mark.slow
@pytest.mark.sqlite("a command looks for its database by [index] url")
def test_every_command_refuses_its_index_and_says_what_helps(root: Path, tmp_path: Path, run: Any) -> None:
    (tmp_path / "voxelnode.toml").write_text(CONFIGURATION)
    reason = re.compile("a version before 0.2 made the index, .*: stop the node, and run `voxelnode db rebuild`")
    succeeding, failing = set(), set()
    for path, parameters in commands(get_command(application())):
        required = (((name, "1") if name[:2] == "--" else ("1",)) for name, one in parameters.items() if one.required)
        given = ARGUMENTS.get(path) or tuple(word for words in required for word in words)
        done = run(*path.split(), *given, "--root", "restored" if path == "restore" else str(root))
        if not done.status:
            succeeding.add(path)
        elif not reason.search(" ".join((done.out + done.err).split())):
            failing.add(path)
    assert (succeeding ^ SUCCEEDING, failing ^ FAILING) == (set(), set())
    with pytest.raises(IndexUnusable, match=reason), node.open(root):
        pass


@pytest.mark.slow
def test_everything_is_taken_over(settings: Settings, root: Path, old: dict[str, list[Row]]) -> None:
    rebuilt = rebuild_index(settings)
    assert (rebuilt.salvaged.unread, rebuilt.salvaged.altered, rebuilt.salvaged.gone) == ({}, [], [])
    assert (rebuilt.unread, rebuilt.taken_back) == ([], [])

    for table in (*HISTORY, *WORK):
        assert old[table], f"{table} has no row that could get lost"
        known = [row for row in old[table] if table != "work" or row["kind"] != "copy"]
        same(rows(root, f'SELECT * FROM "{table}"'), known)
    for table in ("conversions", "failures", "series_references"):
        same(rows(root, f'SELECT * FROM "{table}"'), old[table], "series_id")
    for table in ("volumes", "volume_sources", "exclusions"):
        same(rows(root, f'SELECT * FROM "{table}"'), old[table])
    images = rows(root, "SELECT * FROM images")
    known = {row["sop_instance_uid"] for row in old["images"]}
    same([row for row in images if row["sop_instance_uid"] in known], old["images"], "series_id")
    same(rows(root, "SELECT * FROM conflicts"), old["conflicts"])
    known = {row["study_instance_uid"] for row in old["studies"]}
    for table, but in (("v_series", ()), ("studies", ("id", "patient_id"))):
        found = [row for row in rows(root, f"SELECT * FROM {table}") if row["study_instance_uid"] in known]
        same(found, old[table], *but)
    merged = [row for row in old["patients"] if row["merged_into"] is not None]
    same(rows(root, "SELECT * FROM patients WHERE merged_into IS NOT NULL"), merged)
    others = rows(root, "SELECT * FROM patients WHERE patient_id <> 'KILLED'")
    same(others, old["patients"], "id", "merged_into")
    assert len(view_rows(root, "SELECT * FROM v_studies WHERE patient_id = 'B'")) == 2, "A was merged into B"

    assert rebuilt.replayed.applied == 5
    [series] = view_rows(root, "SELECT * FROM v_series WHERE state = 'receiving'")
    assert series["instances"] == 5
    with Repository(settings) as repository:
        claimed = repository.index.series.claim_due(FAR)
        assert claimed.series_instance_uid == series["series_instance_uid"]
        assert repository.index.series.claim_due(FAR) is None, "nothing else has to be converted"
    assert check_repository(settings, digests=True, repair=False) == []
    [trashed] = old["trash"]
    with Repository(settings) as repository:  # which has the file alone of what is in the trash
        done = repository.actions.by_name["restore-trash"](number=trashed["deletion"], who="somebody")
        back = repository.index.instances.of_key(trashed["key"])
    assert (done["instances"], back is not None) == (1, True)
    assert check_repository(settings, digests=True, repair=False) == []


@pytest.mark.slow
@pytest.mark.sqlite("a command that is started looks for its database by [index] url")
def test_the_command_says_what_it_took_over(settings: Settings, root: Path) -> None:
    said = json.loads(started("db", "rebuild", "--root", root, "--json").stdout)
    assert (said["not_read"], said["gone"], said["lost"]) == ({}, [], 1)
    assert said["taken_over"]["accounts"] == 2
    assert started("db", "check", "--root", root).returncode == 0
