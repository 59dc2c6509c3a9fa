"""A disk that is full or fails: refused and told, nothing acknowledged is lost, and no sync is tried twice."""

import errno
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from node.api import Settings, reading
from node.control.repository import perform_action
from node.receive.readiness import intake_of, read_counters
from tests.crash.checker import Checker
from tests.crash.disk import Disk
from tests.crash.harness import Node, send, within
from tests.crash.journal import Journal, Sender, Sent, new_series
from tests.crash.small_disk import fill, mount_small, use_inodes
from tests.preloaded import FIRST_WAIT, run
from tests.protocol.conftest import Raw, associate_rq, echo_seconds

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

OUT_OF_RESOURCES = 0xA700
SOON = {"VOXELNODE_SERIES__QUIET_SECONDS": "0.1"}
"""Settings of a node that converts what was sent as soon as its association is released."""


@pytest.fixture
def node(disk: Disk) -> Iterator[Node]:
    """A node on a disk that does all it is told, until a test says otherwise."""
    with Node(disk.root / "root", environment={**disk.environment, **SOON, FIRST_WAIT: "0.5"}) as node:
        assert node.start()
        yield node


def rejection(node: Node) -> tuple[int, int, int] | None:
    """(result, source, reason) with which a new association is rejected; None when it is accepted."""
    with Raw(node) as peer:
        peer.send(associate_rq())
        answer = peer.receive()
        assert answer is not None
        return (answer[1][1], answer[1][2], answer[1][3]) if answer[0] == 0x03 else None


FAULTS = {
    "a part file is written": ("w", "/incoming/"),
    "a part file is synced": ("s", "/incoming/"),
    "the folder of part files is synced": ("s", "/incoming"),
    "the journal is written": ("w", "/journal/"),
    "the journal is synced": ("s", "/journal/"),
}
"""In front of the answer."""

FAULTS_BEHIND = {
    "a file is created": ("o", "/objects/"),
    "a file is written": ("w", "/objects/"),
    "a part file is renamed": ("r", "/objects/"),
    "the log of the index is written": ("w", "/index.sqlite-wal"),
}
"""Where what was acknowledged is applied; the journal has it."""

FAULTS_OF_CHECKPOINTS = {
    "a file is synced": ("s", "/objects/"),
    "the log of the index is synced": ("s", "/index.sqlite-wal"),
    "the mark is written": ("w", "/freed.json"),
    "the mark is renamed": ("r", "/freed.json"),
}


def each_once(faults: dict[str, tuple[str, str]]) -> list[Any]:
    """The places of faults: the gate has each kind of call once, and a release all of them."""
    last = {calls: place for place, (calls, _) in faults.items()}
    return [place if place in last.values() else pytest.param(place, marks=pytest.mark.long) for place in faults]


def begin_series(node: Node, journal: Journal) -> list[Sent]:
    """A series of six large instances, the first two of which are sent."""
    series = new_series(6, large=True)
    assert send(node, series[:2], journal) == [0, 0]
    return series


def begin_fault(disk: Disk, node: Node, journal: Journal, fault: tuple[str, str], error: int) -> list[Sent]:
    """As `begin_series`; from then on the calls of a fault fail."""
    series = begin_series(node, journal)
    disk.fail(fault[0], error, fault[1])
    return series


def require_sound_start(node: Node, journal: Journal) -> None:
    """After a kill, everything acknowledged is there."""
    node.kill()
    assert node.start()
    assert Checker(node.root).problems(journal) == []


def refuses(node: Node, journal: Journal) -> bool:
    """Whether an instance is refused; those that are not are acknowledged."""
    return rejection(node) is not None or send(node, new_series(1), journal) == [OUT_OF_RESOURCES]


def noted_reason(node: Node) -> str:
    """Return why intake has stopped, as other processes read it; empty while it is not told."""
    live = read_counters(node.root) or {"reasons": {}}
    return str(live["reasons"].get("intake", "")).replace("IOERR", "EIO")


@pytest.mark.sample(0, 1)
@pytest.mark.parametrize("place", each_once(FAULTS))
def test_after_an_error_of_the_disk_nothing_is_acknowledged_until_the_node_is_started_again(
    disk: Disk, node: Node, journal: Journal, place: str
) -> None:
    series = begin_series(node, journal)
    with Raw(node) as peer:
        peer.associate()  # from before the error: stores over it are refused, too
        disk.fail(FAULTS[place][0], errno.EIO, FAULTS[place][1])
        # A write of the node itself may fail first; then the node rejects the association.
        assert send(node, series[2:4], journal) in ([OUT_OF_RESOURCES] * 2, [])
        disk.heal()  # a disk that works again proves nothing about what it was told before
        sender = Sender(node.port, series[2:4], journal)
        for one in series[4:]:
            sender._store(peer, one, 1)
    assert journal.statuses[-2:] == [OUT_OF_RESOURCES] * 2
    assert rejection(node) == (2, 3, 1)
    assert within(10, lambda: "EIO" in noted_reason(node))  # noted after the first refusal
    node.kill()
    assert node.start()
    assert Checker(node.root).problems(journal) == []
    assert send(node, series[2:], journal) == [0] * 4
    assert within(10, lambda: not Checker(node.root).problems(journal))  # the files of copies go behind their commit


@pytest.mark.sample(0, 1)
@pytest.mark.parametrize("place", each_once(FAULTS_BEHIND | FAULTS_OF_CHECKPOINTS))
def test_after_an_error_behind_the_answer_intake_stops_and_nothing_acknowledged_is_lost(
    disk: Disk, node: Node, journal: Journal, place: str
) -> None:
    series = begin_fault(disk, node, journal, (FAULTS_BEHIND | FAULTS_OF_CHECKPOINTS)[place], errno.EIO)
    send(node, [*series[2:4], *new_series(20)], journal)  # enough for a checkpoint
    assert within(30, lambda: refuses(node, journal))
    disk.heal()
    assert refuses(node, journal)
    assert rejection(node) == (2, 3, 1)
    assert within(10, lambda: "EIO" in noted_reason(node))  # noted after the first refusal
    require_sound_start(node, journal)
    assert send(node, series, journal) == [0] * 6
    assert within(10, lambda: not Checker(node.root).problems(journal))  # the files of copies go behind their commit


@pytest.mark.sample(0, 1)
@pytest.mark.parametrize(
    ("call", "place", "error"),
    [("r", "/objects/", errno.ESTALE), ("s", "/journal/", errno.ENOTCONN), ("s", "/objects/", errno.EOPNOTSUPP)],
)
def test_a_file_system_that_is_away_stops_intake_with_a_remedy_and_nothing_acknowledged_is_lost(
    disk: Disk, node: Node, journal: Journal, call: str, place: str, error: int
) -> None:
    series = begin_fault(disk, node, journal, (call, place), error)
    send(node, [*series[2:4], *new_series(20)], journal)  # enough for a checkpoint
    assert within(30, lambda: refuses(node, journal))
    name = errno.errorcode[error]
    assert within(10, lambda: f"disk: {name}: {os.strerror(error)}; " in noted_reason(node))
    disk.heal()
    require_sound_start(node, journal)


@pytest.mark.sample(0, 1)
@pytest.mark.parametrize("place", each_once(FAULTS_BEHIND))
def test_what_a_full_disk_keeps_from_being_applied_stays_in_the_journal_until_there_is_room(
    disk: Disk, node: Node, journal: Journal, place: str
) -> None:
    series = begin_fault(disk, node, journal, FAULTS_BEHIND[place], errno.ENOSPC)
    assert send(node, series[2:4], journal) == [0] * 2
    disk.heal()
    assert within(60, lambda: not Checker(node.root).problems(journal))
    assert send(node, series[4:], journal) == [0] * 2
    assert within(30, lambda: not Checker(node.root).unsettled())
    require_sound_start(node, journal)


@pytest.mark.parametrize("place", [place for place, (calls, _) in FAULTS.items() if calls != "s"])
def test_a_full_disk_refuses_and_goes_on_by_itself_when_there_is_room(
    disk: Disk, node: Node, journal: Journal, place: str
) -> None:
    series = begin_fault(disk, node, journal, FAULTS[place], errno.ENOSPC)
    assert send(node, series[2:4], journal) == [OUT_OF_RESOURCES] * 2
    assert echo_seconds(node) < 2
    disk.heal()
    assert send(node, series[2:], journal) == [0] * 4
    assert within(30, lambda: not Checker(node.root).unsettled())
    require_sound_start(node, journal)


@pytest.mark.parametrize(
    "error",
    [
        errno.ENOSPC,
        errno.ESTALE,
        *(pytest.param(error, marks=pytest.mark.long) for error in (errno.EIO, errno.ENOTCONN)),
    ],
)
def test_a_conversion_that_the_disk_spoils_is_tried_again(disk: Disk, node: Node, journal: Journal, error: int) -> None:
    disk.fail("wo", error, "/work/")
    assert send(node, new_series(4), journal) == [0] * 4
    checker = Checker(node.root)
    assert within(30, lambda: "disk:" in "".join(checker.unsettled()))
    disk.heal()
    assert within(30, lambda: not checker.unsettled())
    assert checker.problems(journal) == []


PUT = (
    "import sys; from pathlib import Path; from node.extensions.object_store.stores import FolderStore; "
    "FolderStore(Path(sys.argv[1]), None).put_bytes('objects/1.dcm', b'1')"
)


@pytest.mark.parametrize("error", [errno.EPERM, errno.EOPNOTSUPP])
def test_a_file_system_without_hard_links_is_named_with_a_remedy(disk: Disk, error: int) -> None:
    disk.fail("l", error, "/")
    key = disk.root / "key"
    made = run("pseudonyms", "new", key, environment=disk.environment)
    assert made.returncode != 0
    assert f"{errno.errorcode[error]}: its file system has no hard links" in made.stderr
    assert [*disk.root.iterdir()] == []
    put = [sys.executable, "-c", PUT, str(disk.root)]
    done = subprocess.run(put, env={**os.environ, **disk.environment}, capture_output=True, text=True, check=False)
    assert f"{errno.errorcode[error]}: this file system has no hard links" in done.stderr
    assert "s3://" in done.stderr
    assert [path for path in disk.root.rglob("*") if path.is_file()] == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MB; the test is skipped where none can be mounted."""
    place = tmp_path / "small"
    place.mkdir()
    if not mount_small(place, "size=16m"):
        pytest.skip("mounting a small file system needs root")
    yield place
    unmount = ["umount", place]  # busy until the converter of a killed node has noticed
    assert within(30, lambda: subprocess.run(unmount, capture_output=True, check=False).returncode == 0)


def test_a_disk_that_is_full_to_the_last_byte_loses_nothing_acknowledged(small_disk: Path, journal: Journal) -> None:
    series = [one for _ in range(6) for one in new_series(8)]
    with Node(small_disk / "root") as node:
        assert node.start()
        assert send(node, series[:8], journal) == [0] * 8
        with Raw(node) as peer:
            peer.associate()
            sender = Sender(node.port, series[8:], journal)
            fill(small_disk / "ballast")
            for one in series[8:]:
                sender._store(peer, one, 1)
        statuses = journal.statuses[8:]
        assert OUT_OF_RESOURCES in statuses
        assert set(statuses) <= {0, OUT_OF_RESOURCES}
        assert rejection(node) == (2, 3, 1)
        node.kill()
        (small_disk / "ballast").unlink()
        assert node.start()
        assert Checker(node.root).problems(journal) == []
        assert send(node, series[8:], journal) == [0] * len(series[8:])
        assert within(40, lambda: not Checker(node.root).unsettled())


@pytest.mark.sample(0, 1)
@pytest.mark.parametrize("is_serving", [True, False], ids=["by the node", "after a kill, by the command"])
@pytest.mark.parametrize("lacking", ["bytes", "inodes"])
def test_a_study_can_be_deleted_from_a_disk_that_is_full(
    small_disk: Path, journal: Journal, lacking: str, is_serving: bool
) -> None:
    subprocess.run(["mount", "-o", "remount,size=64m,nr_inodes=400", small_disk], check=True)
    root, filler = small_disk / "root", small_disk / "filler"
    series = new_series(8, large=True)
    settings = Settings.model_validate({"storage": {"root": root}})
    with Node(root, environment=SOON) as node:
        assert node.start()
        assert send(node, series, journal) == [0] * 8
        assert within(30, lambda: not Checker(root).unsettled())
        fill(filler) if lacking == "bytes" else use_inodes(filler)
        assert rejection(node) == (2, 3, 1)
        assert within(15, lambda: re.search("free|full", intake_of(settings, read_counters(root))))
        with reading(root) as index:
            [study] = {row["study_instance_uid"] for row in index.series.newest(100)}
        if not is_serving:
            node.kill()
        done = perform_action(
            settings, "delete", level="study", uid=study, study_instance_uid=None, who="test", erase=True
        )
        assert done["instances"] == 8
        assert list((root / "objects").rglob("*.dcm")) == []
        with reading(root) as index:
            assert index.count_levels()["instances"] == 0
        reported = node.log.read_text()
        assert reported.count("conversions_wait") <= 2, reported[-3000:]
