"""What an acknowledgement promises beyond the journal: a node dies before it has kept its promise, or amid uploads."""

import os
import shutil
from contextlib import closing
from pathlib import Path

import pytest

from node.control.care import rebuild_index
from node.extensions.object_store.stores import INCOMING, PART_SECONDS
from node.runtime.failpoints import VARIABLE
from tests.crash.checker import digest_of
from tests.crash.harness import Node, send
from tests.crash.journal import Journal, new_series
from tests.ingest import settings_of
from tests.rows import read_rows
from tests.waiting import until

pytestmark = pytest.mark.slow


def test_what_was_acknowledged_is_in_the_store_although_the_disk_of_the_host_is_lost(tmp_path: Path) -> None:
    series, store, root = new_series(5), tmp_path / "store", tmp_path / "root"
    store.mkdir()
    environment = {"VOXELNODE_JOURNAL__ACKNOWLEDGE": "object", "VOXELNODE_STORAGE__URL": f"file://{store}"}
    with closing(Journal(tmp_path / "journal")) as journal, Node(root, environment=environment) as node:
        assert node.start({VARIABLE: "objects-recorded:3"})
        send(node, series, journal)
        assert node.end() != 0
        shutil.rmtree(root)
        assert [uid for uid, _ in journal.acknowledged()] == [one.sop_instance_uid for one in series[:2]]
        kept = {digest_of(path) for path in store.glob("objects/*/*.dcm")}
        assert kept >= {sha256 for _, sha256 in journal.acknowledged()}
    rebuild_index(settings_of(root, url=f"file://{store}"))
    found = {row["sop_instance_uid"] for row in read_rows(root, "SELECT sop_instance_uid FROM v_images")}
    assert found == {one.sop_instance_uid for one in series[:3]}


@pytest.mark.parametrize("at", [3, 6], ids=["in the trial of the store", "in an upload"])
def test_a_kill_amid_an_upload_leaves_nothing_that_no_row_names(tmp_path: Path, at: int) -> None:
    series, store, root = new_series(5), tmp_path / "store", tmp_path / "root"
    abandoned, under_way = (store / INCOMING / host / "0.part" for host in ("gone", "other"))
    for part in (abandoned, under_way):
        part.parent.mkdir(parents=True)
        part.write_bytes(b"of another host")
    os.utime(abandoned, (0, under_way.stat().st_mtime - PART_SECONDS - 60))
    environment = {"VOXELNODE_STORAGE__URL": f"file://{store}", "VOXELNODE_SERIES__QUIET_SECONDS": "3600"}
    with closing(Journal(tmp_path / "journal")) as journal, Node(root, environment=environment) as node:
        if node.start({VARIABLE: f"object-written:{at}"}):  # the trial of the store may kill it before it listens
            send(node, series, journal)
            assert node.end() != 0
        assert [*store.glob(f"{INCOMING}/node/*.part")]
        assert node.start()
        send(node, series, journal)
        moved = "SELECT key FROM images WHERE place = 'store'"
        until(lambda: len(read_rows(root, moved)) == len(series), 30, "every instance in the store")
        assert len(journal.acknowledged()) >= len(series)
        keys = {row["key"] for row in read_rows(root, "SELECT key FROM images")}
    found = {str(path.relative_to(store)) for path in store.rglob("*") if path.is_file()}
    assert found == {*keys, "voxelnode-archive.json", str(under_way.relative_to(store))}


# A node that is killed around the answer to a release: whoever has released has done its part.


CLOSED = "SELECT verdict, verdict_reason FROM v_series WHERE state NOT IN ('receiving', 'converting')"
ENDS = "SELECT detail FROM v_events WHERE kind IN ('node-ended', 'sender-aborted')"


@pytest.mark.parametrize("point", ["release-recorded", "release-answered"])
def test_a_kill_around_the_answer_to_a_release_is_held_against_nobody(node: Node, journal: Journal, point: str) -> None:
    assert node.start({VARIABLE: point})
    send(node, new_series(8), journal)
    assert node.end() != 0
    assert node.start()
    until(lambda: read_rows(node.root, CLOSED), 60, "the series is converted")
    [series] = read_rows(node.root, CLOSED)
    assert series["verdict"] == "complete", series["verdict_reason"]
    assert read_rows(node.root, ENDS) == []


def test_a_kill_before_the_end_is_durable_cuts_the_association_off_once(node: Node, journal: Journal) -> None:
    assert node.start({VARIABLE: "record-synced:5"})
    send(node, new_series(8), journal)
    assert node.end() != 0
    for _ in range(2):
        assert node.start()
        until(lambda: read_rows(node.root, CLOSED), 60, "the series is converted")
        node.kill()
    assert [row["detail"] for row in read_rows(node.root, ENDS)] == ["the node ended the association: it was killed"]
