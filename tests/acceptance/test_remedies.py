"""Every remedy that the node names is tried: what it tells an operator to run then works."""

import json
import re
import shlex
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from node.control.repository import Repository
from node.index.rows.place import FILE_NAME
from tests.acceptance.served import READY, Served
from tests.crash.journal import new_series
from tests.ingest import settings_of, take
from tests.made_once import empty_folder
from tests.preloaded import Process, run
from tests.rows import view_rows, write_rows

LOOKING = (("status",), ("journal", "drain"), ("series",), ("account", "list"), ("reconvert", "--all"), ("fsck",))
PASSWORD_FREE = ("--role", "admin", "--no-password")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    with Repository(settings_of(tmp_path / "root")) as repository:
        take(repository.ingest, new_series(3))
    return tmp_path / "root"


def refused(root: Path, *arguments: str) -> str:
    """Run a command that must fail; what it said."""
    done = run(*arguments, "--root", root, folder=root.parent)
    assert done.returncode == 1, (arguments, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def remedy(said: str) -> list[str]:
    """The command that a message names last."""
    found = re.findall(r"`voxelnode ([^`]+)`", " ".join(said.split()))
    assert found, said
    return found[-1].split()


def follow(root: Path, said: str, *, with_loss: bool = False) -> None:
    """Run the command that a message names last; `with_loss`: it may end with 1, having told what is gone."""
    done = run(*remedy(said), "--root", root)
    assert done.returncode in ((0, 1) if with_loss else (0,)), done.stderr


def starts(root: Path, **environment: str) -> None:
    with Served(root, **environment) as node:
        assert node.terminate() == 0


def remove_index(root: Path) -> None:
    for path in root.glob("index.sqlite*"):
        path.unlink()


@pytest.mark.sample(4, 2)
@pytest.mark.sqlite("removes or damages the file")
@pytest.mark.parametrize("command", [("serve",), ("db", "upgrade"), ("db", "check"), ("account", "add", "ann",
    *PASSWORD_FREE), *LOOKING], ids=" ".join)  # fmt: skip
def test_an_index_that_is_gone_is_built_again(root: Path, command: tuple[str, ...]) -> None:
    remove_index(root)
    said = refused(root, *command)
    assert remedy(said) == ["db", "rebuild"]
    if command == ("serve",):
        follow(root, said)
        starts(root)
        assert len(view_rows(root, "SELECT 1 FROM v_images")) == 3


@pytest.mark.sqlite("a database of a server is created by its administrator")
@pytest.mark.parametrize("command", [("db", "check"), *LOOKING], ids=" ".join)
def test_a_root_without_anything_gets_an_index(tmp_path: Path, command: tuple[str, ...]) -> None:
    assert remedy(refused(tmp_path / "new", *command)) == ["serve", "--create"]
    if command == ("status",):
        starts(tmp_path / "new")
        run("status", "--root", tmp_path / "new", check=True)


@pytest.mark.parametrize("there", ["nothing", "an empty folder", "a folder of others"])
def test_a_folder_that_was_not_made_as_a_root_is_refused_and_stays_as_it_is(tmp_path: Path, there: str) -> None:
    """A disk that is not mounted leaves an empty folder, in which the node would acknowledge."""
    mount_point = tmp_path / "disk of images"
    if there != "nothing":
        mount_point.mkdir()
    if there == "a folder of others":
        (mount_point / "lost+found").mkdir()
    before = sorted(tmp_path.rglob("*"))
    done = run("serve", "--root", mount_point, "--port", "0", "--web-port", "0")
    assert done.returncode == 2
    assert done.stdout == ""
    assert f"{mount_point} is not a root" in done.stderr
    assert f"run `voxelnode serve --create '--root={mount_point}'`" in done.stderr
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.sample(0, 1)
@pytest.mark.parametrize("how", ["serve --create", "init", "db upgrade", "account add ann --role admin --no-password"])
def test_a_root_that_was_made_is_served_with_no_more_said(tmp_path: Path, how: str) -> None:
    root = tmp_path / "root"
    if how == "serve --create":
        with Served(root) as node:  # as all of its starts
            assert node.terminate() == 0
    else:
        run(*how.split(), "--root", root, check=True, folder=tmp_path)
    with (tmp_path / "log").open("w") as log:
        process = Process(["serve", "--root", str(root), "--port", "0"], {"VOXELNODE_WEB__PORT": "0"}, log)
    with process.stdout:
        assert READY.fullmatch(process.stdout.readline().strip())
        process.terminate()
        assert process.wait(30) == 0


@pytest.mark.slow
@pytest.mark.parametrize("first", ["account", "serve"])
def test_a_node_that_requires_accounts_starts_on_a_fresh_root(tmp_path: Path, first: str) -> None:
    public = {"VOXELNODE_WEB__AUTHENTICATION": "always"}
    fresh = tmp_path / "fresh"
    if first == "serve":
        done = run(
            "serve", "--create", "--root", fresh, "--port", "0", environment={**public, "VOXELNODE_WEB__PORT": "0"}
        )
        assert done.returncode != 0
        assert remedy(done.stderr)[:2] == ["account", "add"]
    run("account", "add", "ann", *PASSWORD_FREE, "--root", fresh, check=True)
    starts(fresh, **public)


@pytest.mark.sample(0, 1)
@pytest.mark.sqlite("removes or damages the file")
@pytest.mark.parametrize("harm", ["no database", "newer", "empty"])
def test_an_index_that_cannot_be_used_is_built_again_or_waits_for_a_newer_program(root: Path, harm: str) -> None:
    if harm == "no database":
        (root / FILE_NAME).write_bytes(b"no database" * 1000)
        for path in root.glob("index.sqlite-*"):
            path.unlink()
    elif harm == "newer":
        with closing(sqlite3.connect(root / FILE_NAME)) as connection, connection:
            connection.execute("UPDATE alembic_version SET version_num = 'r9999' WHERE version_num = 'r0001'")
    else:
        shutil.rmtree(root)
        root.mkdir()
        sqlite3.connect(root / FILE_NAME).close()
    if harm == "newer":
        for command in (
            ("serve",),
            ("db", "upgrade"),
            ("db", "check"),
            ("status",),
            ("db", "rebuild"),
            ("backup", root.with_name("copy")),
            ("doctor",),
        ):
            assert "install the newer one" in refused(root, *command)
    elif harm == "empty":
        assert remedy(refused(root, "db", "check")) == ["serve", "--create"]
        starts(root)
        run("db", "check", "--root", root, check=True)
    else:
        assert remedy(refused(root, "db", "upgrade")) == ["db", "rebuild"]
        follow(root, refused(root, "serve"), with_loss=True)
        starts(root)


@pytest.mark.slow
@pytest.mark.sqlite("overwrites the file")
@pytest.mark.parametrize(
    "command", [("serve",), ("status",), ("fsck",), ("db", "check"), ("lost", "list")], ids=" ".join
)
def test_every_command_names_the_remedy_of_a_damaged_index(root: Path, command: tuple[str, ...]) -> None:
    path = root / FILE_NAME
    path.write_bytes(path.read_bytes()[:100] + b"\xa5" * (path.stat().st_size - 100))
    said = " ".join(refused(root, *command).split())
    assert "remove its -wal and -shm first" in said
    assert remedy(said) == ["db", "rebuild"]


@pytest.mark.sqlite("overwrites pages of the file")
def test_no_command_says_that_all_is_here_of_an_index_that_nobody_has_checked(root: Path) -> None:
    with closing(sqlite3.connect(root / FILE_NAME)) as connection:
        [size] = connection.execute("PRAGMA page_size").fetchone()
        [page] = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'images'").fetchone()
    with (root / FILE_NAME).open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xa5" * size)
    told = run("lost", "list", "--root", root, check=True).stdout
    assert "is here" not in told
    assert "`voxelnode fsck`" in told
    assert "remove its -wal and -shm first" in " ".join(refused(root, "fsck").split())


@pytest.mark.slow
def test_a_rebuild_that_was_interrupted_is_done_again(root: Path) -> None:
    assert run("db", "rebuild", "--root", root, environment={"VOXELNODE_FAILPOINT": "parts-swept"}).returncode != 0
    for command in (("serve",), ("db", "upgrade"), ("account", "add", "ann", *PASSWORD_FREE)):
        said = refused(root, *command)
    follow(root, said)
    starts(root)


@pytest.mark.slow
def test_a_damaged_deletion_does_not_keep_the_node_from_starting_for_ever(root: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("")
    write_rows(
        root,
        "INSERT INTO tombstones (level, uid, reason, paths, ordered_at) "
        "VALUES ('study', '1.2', 'by command', '[\"objects/../../precious\"]', '2026-01-01 00:00:00')",
    )
    follow(root, refused(root, "serve"))
    assert (tmp_path / "precious").exists()
    starts(root)


@pytest.mark.slow
def test_fsck_asks_whether_the_archive_is_mounted_and_force_marks_what_is_missing(root: Path) -> None:
    empty_folder(root / "objects")
    said = refused(root, "fsck", "--repair")
    assert "is the archive mounted" in " ".join(said.split())
    assert "--force" in said
    assert "marked" in refused(root, "fsck", "--repair", "--force")
    assert "lost list" in refused(root, "fsck")
    assert len(view_rows(root, "SELECT 1 FROM v_images WHERE file_missing")) == 3


@pytest.mark.slow
def test_a_missing_file_is_repaired_as_doctor_says(root: Path) -> None:
    [first, *_] = sorted(root.glob("objects/*/*.dcm"))
    content = first.read_bytes()
    first.unlink()
    run("fsck", "--repair", "--root", root)
    found = json.loads(run("doctor", "--root", root, "--json").stdout)["findings"]
    said = next(one for one in found if one["check"] == "archive")
    first.write_bytes(content)  # restored from a backup
    assert "fsck --repair" in said["remedy"]
    run("fsck", "--repair", "--root", root, check=True)
    found = json.loads(run("doctor", "--root", root, "--json").stdout)["findings"]
    assert [one for one in found if one["check"] == "archive"] == []


@pytest.mark.parametrize("name", ["no.toml", "with a blank & more.toml"])
def test_a_missing_configuration_is_written_as_reported(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    done = run("config", "check", "--config", file)
    assert done.returncode == 2
    [shown] = re.findall(r"`voxelnode (.*)`", done.stderr)
    command, _, target = shown.partition(" > ")
    assert shlex.split(target) == [str(file)]
    file.write_text(run(*command.split(), check=True).stdout)
    run("config", "check", "--config", file, check=True)


def test_a_configuration_that_may_not_be_read_is_not_written_again(tmp_path: Path) -> None:
    done = run("config", "check", "--config", tmp_path)
    assert done.returncode == 2
    assert "config example" not in done.stderr
