"""Roots at any path: each has an index of its own, and every path that the node tells is right after a move."""

import json
import shutil
import sqlite3
import string
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text

from node.api import reading
from node.control.care import check_repository
from node.control.repository import Repository
from node.index.rows import place as engine
from node.index.rows.place import FILE_NAME, check, open_engine
from node.index.rows.sqlite import backup
from node.index.rows.sqlite_file import connect
from tests.crash.journal import new_series
from tests.ingest import settings_of, take
from tests.preloaded import run
from tests.rows import view_rows

CHARACTERS = sorted({*string.printable, "é", "日", "\u202e", "\x7f", "\udcff"} - {"/"})


def filled(root: Path) -> Path:
    with Repository(settings_of(root)) as repository:
        take(repository.ingest, new_series(1))
    return root


def paths(root: Path) -> list[Path]:
    return [Path(row["path"]) for row in view_rows(root, "SELECT path FROM v_images")]


@pytest.mark.slow
@pytest.mark.sqlite("the name of the file")
@pytest.mark.parametrize("read_only", [False, True])
def test_a_database_is_at_its_path_whichever_characters_that_has(tmp_path: Path, read_only: bool) -> None:
    expected = {}
    for number, character in enumerate(CHARACTERS):
        for name in (f"ward{character}1", f"ward{character}2%41{character}%3f"):
            folder = tmp_path / str(number) / name
            folder.mkdir(parents=True, exist_ok=True)
            expected[folder / FILE_NAME] = name
            with closing(sqlite3.connect(folder / FILE_NAME)) as made, made:
                made.execute("CREATE TABLE IF NOT EXISTS here (name)")
    for path in expected:
        opened = open_engine(path, read_only=read_only)
        with opened.connect() as connection:
            assert connection.execute(text("SELECT count(*) FROM here")).scalar() == 0
        opened.dispose()
        if read_only:
            with closing(connect(path, read_only=True)) as direct:  # as a backup reads it
                assert direct.execute("SELECT count(*) FROM here").fetchone() == (0,)
    assert {path for path in tmp_path.rglob("index*") if path.suffix == ".sqlite"} == expected.keys()


HOSTILE = "ward#1?mode=memory&%41%2f 'a' \"b\" \\ é日本;[*]" + "x" * 150


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["characters", "symlink", "relative"])
def test_everything_about_a_root_works_at_any_path(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / HOSTILE
    folder.mkdir()
    monkeypatch.chdir(folder)
    root = {"characters": folder / "root", "symlink": tmp_path / "link", "relative": Path("root")}[kind]
    if kind == "symlink":
        root.symlink_to(folder, target_is_directory=True)
    filled(root)
    assert {entry.name for entry in tmp_path.iterdir()} <= {folder.name, "link"}
    [path] = paths(root)
    assert path.is_absolute()
    assert path.is_file()
    settings = settings_of(root)
    assert check_repository(settings, digests=True, repair=False) == []
    assert check(engine.place_of(root.absolute(), None)) == []
    with reading(root) as index:
        assert Path(index.root).samefile(root)


@pytest.mark.slow
@pytest.mark.sqlite("a root with the file in it; an index of a server follows its root at the next start")
@pytest.mark.parametrize("how", ["moved", "copied"])
def test_a_root_at_another_path_is_right_at_once(tmp_path: Path, how: str) -> None:
    first, second = filled(tmp_path / "first"), tmp_path / "second"
    if how == "moved":
        first.rename(second)
    else:
        shutil.copytree(first, second)
    [path] = paths(second)
    assert path.is_relative_to(second)
    assert path.is_file()
    with reading(second) as index:
        assert index.root == str(second)
    [row] = view_rows(second, "SELECT sop_instance_uid FROM v_images")
    known = json.loads(run("info", row["sop_instance_uid"], "--root", second, "--json", check=True).stdout)
    assert known["instance"]["path"] == str(path)
    settings = settings_of(second)
    assert check_repository(settings, digests=True, repair=False) == []


@pytest.mark.sqlite("the file elsewhere")
def test_an_index_that_lies_in_no_root_has_relative_paths(tmp_path: Path) -> None:
    root = filled(tmp_path / "root")
    [path] = paths(root)
    relative = [(str(path.relative_to(root)),)]
    query = "SELECT path FROM v_images"
    backup(root / FILE_NAME, tmp_path / "copy.db")
    with closing(sqlite3.connect(tmp_path / "copy.db")) as copy, closing(sqlite3.connect(":memory:")) as memory:
        assert copy.execute(query).fetchall() == relative
        copy.backup(memory)
        assert memory.execute(query).fetchall() == relative
    with closing(sqlite3.connect(":memory:")) as other:
        other.execute("ATTACH ? AS node", (str(root / FILE_NAME),))
        assert other.execute("SELECT path FROM node.v_images").fetchall() == [(str(path),)]
        filled(tmp_path / "second")
        other.execute("ATTACH ? AS second", (str(tmp_path / "second" / FILE_NAME),))
        assert other.execute("SELECT path FROM node.v_images").fetchall() == relative
