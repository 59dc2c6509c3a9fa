"""The trash of a real node that is killed in every step, and whose index is rebuilt."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom import Dataset

from node.association.client.send import send_files
from node.failpoints import TRASH, VARIABLE
from tests import make
from tests.acceptance.served import Served
from tests.acceptance.test_custody import left, voxelnode
from tests.preloaded import run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def send(node: Served, folder: Path, instances: list[Dataset]) -> None:
    folder.mkdir()
    for number, ds in enumerate(instances):
        ds.save_as(folder / f"{number}.dcm", enforce_file_format=True)
    assert send_files(sorted(folder.iterdir()), node.address, "CT1") == len(instances)


def digests(node: Served) -> set[tuple[str, str]]:
    return {(row["sop_instance_uid"], row["sha256"]) for row in node.rows("SELECT * FROM v_images")}


def test_a_node_killed_in_any_step_of_the_trash_finishes_it_when_it_starts_again(tmp_path: Path) -> None:
    root, series = tmp_path / "root", make.ct_series(3)
    uid = str(series[0].StudyInstanceUID)
    with Served(root) as node:
        send(node, tmp_path / "out", series)
        node.wait_until_idle()
        before = digests(node)
        voxelnode(root, "delete", uid, "--yes")
    for point in TRASH:
        with Served(root, **{VARIABLE: point}) as node:
            [entry] = voxelnode(root, "trash")
            assert digests(node) == set()
            restores = point.startswith("restore")
            words = ("restore", entry["number"]) if restores else ("empty", entry["number"], "--yes")
            assert run("trash", *map(str, words), "--root", root).returncode != 0
            assert node.process is not None
            node.process.wait(30)
        with Served(root) as node:
            assert voxelnode(root, "trash") == []
            assert digests(node) == (before if restores else set()), point
            node.wait_until_idle()
            if restores:
                voxelnode(root, "delete", uid, "--yes")
            else:
                assert left(root) == []


def test_a_rebuilt_index_keeps_the_trash_and_without_the_old_one_what_was_in_it_is_back(tmp_path: Path) -> None:
    root, series = tmp_path / "root", make.ct_series(3)
    with Served(root) as node:
        send(node, tmp_path / "out", series)
        node.wait_until_idle()
        before = digests(node)
        voxelnode(root, "delete", str(series[0].StudyInstanceUID), "--yes")
    assert voxelnode(root, "db", "rebuild")["instances"] == 0
    [entry] = voxelnode(root, "trash")
    assert (entry["files"], entry["uid"]) == (3, series[0].StudyInstanceUID)
    voxelnode(root, "trash", "restore", str(entry["number"]))
    with Served(root) as node:
        assert digests(node) == before
        voxelnode(root, "delete", str(series[0].StudyInstanceUID), "--yes")
    for path in root.glob("index.sqlite*"):
        path.unlink()
    assert voxelnode(root, "db", "rebuild")["instances"] == 3
    with Served(root) as node:
        assert digests(node) == before
