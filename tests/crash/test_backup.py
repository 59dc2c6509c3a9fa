"""Backups that a real node's root is made into while it receives, killed in every step, and restored."""

import json
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from node.runtime.failpoints import BACKING_UP, RESTORING, VARIABLE
from tests.acceptance.served import Served, until
from tests.crash.harness import Node, send
from tests.crash.journal import Journal, Sender, Sent, new_series
from tests.crash.small_journal import SINGLE_SYNCS
from tests.crash.small_journal import VARIABLE as SMALL_JOURNAL
from tests.ingest import served
from tests.preloaded import run
from tests.rows import wait_until_applied

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.sqlite("a backup copies an index in SQLite only, and says so"),
]

SETTLING = BACKING_UP[BACKING_UP.index("backup-renamed") :]
POINTS = [*BACKING_UP[:2], "backup-file-copied:7", *BACKING_UP[2:], "backup-moving:9"]
SHORT = ["backup-file-copied:7", "backup-moving:9", "backup-settled"]
"""The backup before is whole, is completed from what was copied, and is the new one."""

SMALL = {SMALL_JOURNAL: SINGLE_SYNCS}


@contextmanager
def sending(node: Served, journal: Journal) -> Iterator[None]:
    """Send series after series, small instances and large ones, each over an association of its own."""
    ended = threading.Event()

    def send() -> None:
        while not ended.wait(0.1):  # converted as well, which takes a processor
            Sender(node.port, [*new_series(2), *new_series(1, large=True)], journal).run()

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(60)


def backup(root: Path, folder: Path, *options: str, point: str | None = None) -> tuple[int, dict[str, Any]]:
    environment = SMALL if point is None else {**SMALL, VARIABLE: point}
    done = run("backup", folder, "--root", root, "--json", *options, environment=environment)
    return done.returncode, json.loads(done.stdout) if done.stdout else {"said": done.stderr}


def require(folder: Path, acknowledged: list[tuple[str, str]], target: Path) -> None:
    """The backup can be restored, and has every instance as it was sent."""
    done = run("restore", folder, "--root", target, "--json", environment=SMALL)
    assert json.loads(done.stdout)["ok"], done.stdout
    there = served(target)
    assert [uid for uid, digest in acknowledged if there.get(uid) != digest] == []


@pytest.mark.parametrize("points", [SHORT, pytest.param(POINTS, marks=pytest.mark.long)], ids=len)
def test_a_backup_killed_in_any_step_is_the_one_before_or_the_new_one(tmp_path: Path, points: list[str]) -> None:
    root, folder = tmp_path / "root", tmp_path / "backup"
    with closing(Journal(tmp_path / "sent")) as journal, Served(root, **SMALL) as node, sending(node, journal):
        until(lambda: len(journal.acknowledged()) > 6, 60, "instances")
        kept = journal.acknowledged()
        assert backup(root, folder, "--no-prove")[0] == 0
        for number, point in enumerate(points):
            since = len(journal.acknowledged())
            until(lambda since=since: len(journal.acknowledged()) > since + 6, 60, "more instances")  # type: ignore[misc]
            before, is_settled = journal.acknowledged(), not (folder / ".copied").exists()
            assert backup(root, folder, point=point)[0] == -9, point
            if is_settled and point.partition(":")[0] in SETTLING:  # else it was killed before it began to copy
                kept = before
            require(folder, kept, tmp_path / f"restored-{number}")
        before = journal.acknowledged()
        status, made = backup(root, folder)
        assert (status, made["differences"]) == (0, []), made
        assert not list(folder.glob(".*")), "nothing of the runs that were killed is left"
        require(folder, before, tmp_path / "restored")


@pytest.mark.sample(0, 2)
@pytest.mark.parametrize("is_fresh", [True, False], ids=["without ledger", "with ledger"])
@pytest.mark.parametrize("name", ["", "acknowledged"])
def test_what_was_acknowledged_after_the_backup_comes_back_from_the_journal_of_the_damaged_root(
    tmp_path: Path, is_fresh: bool, name: str
) -> None:
    root, folder, new = tmp_path / "damaged", tmp_path / "backup", tmp_path / "new"
    with closing(Journal(tmp_path / "sent")) as journal, Node(root) as node:
        assert node.start()
        send(node, new_series(2), journal)
        if not is_fresh:
            node.end(signal.SIGTERM)  # with a checkpoint
            assert node.start()
            send(node, new_series(2), journal)
        assert any((root / "acknowledged").glob("0*")) != is_fresh
        assert backup(root, folder, "--no-prove")[0] == 0
        send(node, [*new_series(2), *new_series(2, large=True)], journal)
        in_use = run("restore", folder, "--root", new, "--ledger", root)
        assert "in use by another voxelnode process" in in_use.stderr
        node.kill()
        acknowledged = journal.acknowledged()
    for path in root.glob("index.sqlite*"):
        path.unlink()
    assert "; node ready: " in run("status", "--root", root).stderr
    done = run("restore", folder, "--root", new, "--ledger", root / name)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "journal-waiting" in done.stdout
    there = served(new)
    assert [uid for uid, digest in acknowledged if there.get(uid) != digest] == []
    assert run("lost", "list", "--root", new).returncode == 0
    assert run("fsck", "--hash", "--root", new).returncode == 0


@contextmanager
def backed_up(root: Path, folder: Path) -> Iterator[tuple[Node, Journal]]:
    """A node on a root that has a backup in a folder; it is killed at the end of the block."""
    with closing(Journal(root.with_name("sent"))) as journal, Node(root) as node:
        assert node.start()
        send(node, new_series(2), journal)
        assert backup(root, folder, "--no-prove")[0] == 0
        yield node, journal
        node.kill()


def send_more_than_the_journal_holds(root: Path, node: Node, journal: Journal) -> list[Sent]:
    """Return the large ones of what was sent."""
    for _ in range(6):
        send(node, new_series(9), journal)
    large = new_series(2, large=True)
    send(node, large, journal)
    wait_until_applied(root, 60)
    return large


def test_each_instance_after_the_backup_comes_back_from_the_files_of_the_damaged_root(tmp_path: Path) -> None:
    root, folder, new = tmp_path / "damaged", tmp_path / "backup", tmp_path / "new"
    with backed_up(root, folder) as (node, journal):
        send_more_than_the_journal_holds(root, node, journal)
        acknowledged = journal.acknowledged()
    index = root / "index.sqlite"
    index.write_bytes(bytes(4096) + index.read_bytes()[4096:])
    since = [path for path in root.glob("objects/*/*") if not (folder / path.relative_to(root)).exists()]
    damaged = min(since, key=lambda path: path.stat().st_mtime_ns)  # the journal has let it go
    damaged.write_bytes(damaged.read_bytes()[:-1])
    done = run("restore", folder, "--root", new, "--ledger", root)
    there = served(new)
    missing = [uid for uid, digest in acknowledged if there.get(uid) != digest]
    lost = json.loads(run("lost", "list", "--root", new, "--json").stdout)
    assert len(missing) == 1
    assert [row["sop_instance_uid"] for row in lost] == missing
    assert "1 instance lost since the backup" in done.stdout


def test_each_instance_after_the_backup_comes_back_or_is_told_as_lost(tmp_path: Path) -> None:
    root, folder, new = tmp_path / "damaged", tmp_path / "backup", tmp_path / "new"
    with backed_up(root, folder) as (node, journal):
        large = send_more_than_the_journal_holds(root, node, journal)
        acknowledged = journal.acknowledged()
    for path in (*root.glob("index.sqlite*"), root / "objects"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    done = run("restore", folder, "--root", new, "--ledger", root)
    there = served(new)
    missing = {uid for uid, digest in acknowledged if there.get(uid) != digest}
    lost = json.loads(run("lost", "list", "--root", new, "--json").stdout)
    named = {row["sop_instance_uid"] for row in lost if "sop_instance_uid" in row}
    nameless = missing - named
    assert named
    assert named <= missing
    assert nameless <= {one.sop_instance_uid for one in large}
    # The kill may come between the sync of the ledger and the mark of the journal: then both tell.
    gaps = [row for row in lost if "of a large instance" in row.get("detail", "")]
    assert len(nameless) <= len(gaps) <= len(large)
    assert "voxelnode lost list" in done.stdout


@pytest.mark.long
def test_a_restore_killed_in_any_step_leaves_no_root_or_a_whole_one(tmp_path: Path) -> None:
    root, folder, new = tmp_path / "damaged", tmp_path / "backup", tmp_path / "new"
    with backed_up(root, folder) as (node, journal):
        send(node, new_series(2), journal)
        acknowledged = journal.acknowledged()
    for point in (*RESTORING, "restore-moving:5"):
        done = run("restore", folder, "--root", new, "--ledger", root, environment={VARIABLE: point})
        assert done.returncode == -9, point
        assert (new / "index.sqlite").exists() == (point == "restore-moved")
        if point in ("restore-copied", "restore-repaired"):
            continue  # the next one begins again in the same folder
        if point == "restore-moved":
            assert set(acknowledged) <= set(served(new).items())
        shutil.rmtree(new)
    assert run("restore", folder, "--root", new, "--ledger", root).returncode == 0
    assert set(acknowledged) <= set(served(new).items())


def test_a_damaged_record_of_the_damaged_root_is_told_as_a_gap(tmp_path: Path) -> None:
    root, folder, new = tmp_path / "damaged", tmp_path / "backup", tmp_path / "new"
    since = new_series(3)
    with backed_up(root, folder) as (node, journal):
        send(node, since, journal)
    [segment] = [path for path in root.glob("journal/*.journal") if since[1].data in path.read_bytes()]
    content = bytearray(segment.read_bytes())
    content[content.index(since[1].data)] ^= 1
    segment.write_bytes(content)
    assert "of the journal cannot be read" in run("restore", folder, "--root", new, "--ledger", root).stdout
    assert [one.sop_instance_uid in served(new) for one in since] == [True, False, True]
    lost = run("lost", "list", "--root", new)
    assert (lost.returncode, "everything that was acknowledged" in lost.stdout) == (1, False)


def test_a_restore_without_the_damaged_root_does_not_say_that_all_is_here(tmp_path: Path) -> None:
    root, folder, new = tmp_path / "damaged", tmp_path / "backup", tmp_path / "new"
    with backed_up(root, folder) as (node, journal):
        send(node, new_series(2), journal)
    done = run("restore", folder, "--root", new)
    assert "what was acknowledged after the backup may be missing" in done.stdout
    told = run("lost", "list", "--root", new)
    assert told.returncode == 1
    assert "everything that was acknowledged is here" not in told.stdout
    assert "what was acknowledged after the backup may be missing" in told.stdout


def test_the_journal_of_another_root_is_refused(tmp_path: Path) -> None:
    roots = tmp_path / "one", tmp_path / "other"
    for root in roots:
        with closing(Journal(tmp_path / "sent")) as journal, Node(root) as node:
            assert node.start()
            send(node, new_series(1), journal)
            node.end(signal.SIGTERM)
    assert backup(roots[0], tmp_path / "backup", "--no-prove")[0] == 0
    done = run("restore", tmp_path / "backup", "--root", tmp_path / "new", "--ledger", roots[1])
    assert done.returncode == 2
    assert "its ledger has another name" in done.stderr
    assert not (tmp_path / "new").exists()
