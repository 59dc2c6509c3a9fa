"""A root that was harmed while no node ran: refused with the remedy, or nothing acknowledged is missing."""

import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from node.runtime.failpoints import VARIABLE
from tests.crash.checker import Checker
from tests.crash.harness import Node, send
from tests.crash.journal import Journal, new_series
from tests.preloaded import run
from tests.rows import read_rows

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


@pytest.fixture
def node(tmp_path: Path, journal: Journal) -> Iterator[Node]:
    """A node that was killed, with twelve acknowledged instances."""
    with Node(tmp_path / "root") as node:
        assert node.start()
        send(node, [*new_series(6), *new_series(6)], journal)
        node.kill()
        assert set(journal.statuses) == {0}
        yield node


def refused(node: Node) -> str:
    """What a start that is refused says."""
    assert not node.start()
    return node.log.read_text().splitlines()[-1]


def test_a_lost_write_ahead_log_loses_no_instance(node: Node, journal: Journal) -> None:
    (node.root / "index.sqlite-wal").unlink()
    assert node.start()
    assert Checker(node.root).problems(journal) == []


@pytest.mark.parametrize(("large", "point"), [(False, "file-written"), (True, "record-synced:2")])
def test_a_record_whose_folder_is_not_in_the_copy_of_a_root_is_applied(
    tmp_path: Path, journal: Journal, large: bool, point: str
) -> None:
    with Node(tmp_path / "root") as node:
        assert node.start({VARIABLE: point})
        send(node, new_series(3, large=large), journal)
        assert node.end() != 0
        for folder in (node.root / "objects").glob("*/"):
            shutil.rmtree(folder)
        assert node.start()
        rows = read_rows(node.root, "SELECT key, data_set_offset + bytes AS bytes FROM images")
        assert len(rows) >= 1 + large
        assert {(node.root / row["key"]).stat().st_size for row in rows} == {row["bytes"] for row in rows}
        assert Checker(node.root).problems(journal) == []


def test_a_damaged_page_of_the_index_is_noticed_at_the_start(node: Node, journal: Journal) -> None:
    """Also one that a start has no reason to read."""
    assert node.start()
    node.kill()
    index = node.root / "index.sqlite"
    with closing(sqlite3.connect(index)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        [(page,)] = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'shares'")
    with index.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xff" * 8)
    assert "voxelnode db rebuild" in refused(node)
    assert "12 instances indexed" in run("db", "rebuild", "--root", node.root).stdout
    assert node.start()
    assert Checker(node.root).problems(journal) == []


def test_a_root_that_may_only_be_read_is_reported(tmp_path: Path) -> None:
    place = tmp_path / "mounted"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m,ro", "none", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a file system needs root")
    try:
        reported = run("serve", "--create", "--root", str(place / "root"), "--port", "0", "--web-port", "0")
    finally:
        subprocess.run(["umount", place], check=True)
    assert reported.returncode == 1
    assert "mounted cannot be written: let the account" in reported.stderr
    assert "Traceback" not in reported.stderr
