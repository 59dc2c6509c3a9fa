"""De-identified projects of a serving node: its copies survive kills, and a peer with the project sees nothing else."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmwrite
from pynetdicom import AE, build_role, evt
from pynetdicom.sop_class import CTImageStorage  # type: ignore[attr-defined]

from node.dicom import uids
from tests import make
from tests.acceptance.served import Served, until
from tests.acceptance.test_custody import send, voxelnode

pytestmark = [pytest.mark.slow, pytest.mark.sqlite("starts commands that look for the index in the root")]

STUDY, SERIES = "1.2.826.4711.1", "1.2.826.4711.1.1"
NAMED = {"PatientName": "Secret^Person", "PatientID": "SECRET-4711", "AccessionNumber": "SECRET-A1"}

PEER = {
    "VOXELNODE_PEERS__CT1__AE_TITLE": "CT1",
    "VOXELNODE_PEERS__TRIAL__AE_TITLE": "TRIAL",
    "VOXELNODE_PEERS__TRIAL__MAY": '["query", "retrieve"]',
    "VOXELNODE_PEERS__TRIAL__PROJECTS": '["trial"]',
}


def series(slices: int) -> list[Any]:
    instances = make.ct_series(slices, study_uid=STUDY, series_uid=SERIES, **NAMED)
    for number, ds in enumerate(instances):
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"{SERIES}.{number}"
    return instances


def copies(node: Served) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = voxelnode(node.root, "projects", "copies", "trial")
    return rows


def wait_until_copied(node: Served, instances: int) -> None:
    until(lambda: [row["state"] for row in copies(node)] == ["copied"] * instances, 60, "every instance is copied")
    node.wait_until_settled()


def stored(node: Served) -> list[tuple[str, str]]:
    rows = node.rows("SELECT series_instance_uid, sop_instance_uid FROM v_images")
    return [(row["series_instance_uid"], row["sop_instance_uid"]) for row in rows]


@pytest.mark.parametrize(
    "point", ["copies-noted", "copies-noted:2", "copies-stored", "record-synced:23", "file-written:25"]
)
def test_a_node_killed_while_it_copies_loses_nothing_and_makes_nothing_twice(tmp_path: Path, point: str) -> None:
    with Served(tmp_path / "root") as node:
        voxelnode(node.root, "projects", "set", "trial", "--deidentified", "--called", "VOXELNODE")
        assert node.terminate() == 0
    with Served(tmp_path / "root", VOXELNODE_FAILPOINT=point) as node:
        assert send(node, tmp_path / "out", *series(20)) == 20
        assert node.process is not None
        assert node.process.wait(60) == -9
    with Served(tmp_path / "root") as node:
        wait_until_copied(node, 20)
        there = stored(node)
        assert len(there) == len(set(there)) == 40
        assert len({uid for uid, _ in there}) == 2
        rows = copies(node)
        assert {row["copy_sop_instance_uid"] for row in rows} == {one for uid, one in there if uid != SERIES}
        assert {row["sop_instance_uid"] for row in rows} == {one for uid, one in there if uid == SERIES}
        volumes = node.rows("SELECT series_instance_uid, shape FROM v_volumes WHERE kind = 'volume' AND NOT superseded")
        assert {(row["series_instance_uid"], json.loads(row["shape"])[2]) for row in volumes} == {
            (uid, 20) for uid, _ in there
        }
        assert node.rows("SELECT 1 FROM v_conflicts") == []
        assert len(list((node.root / "objects").rglob("*.dcm"))) == 40
        assert list((node.root / "work").iterdir()) == []
        assert node.terminate() == 0


@pytest.mark.parametrize("point", ["deletion-ordered", "copies-removed"])
def test_a_node_killed_while_it_removes_copies_removes_them_all(tmp_path: Path, point: str) -> None:
    with Served(tmp_path / "root") as node:
        voxelnode(node.root, "projects", "set", "trial", "--deidentified", "--called", "VOXELNODE")
        send(node, tmp_path / "out", *series(3))
        wait_until_copied(node, 3)
        assert node.terminate() == 0
    with Served(tmp_path / "root", VOXELNODE_FAILPOINT=point) as node:
        assert voxelnode(node.root, "projects", "take", "trial", STUDY, "--series", SERIES)["removed"] == 1
        assert node.process is not None
        assert node.process.wait(60) == -9
    with Served(tmp_path / "root") as node:
        until(lambda: len(stored(node)) == 3 and copies(node) == [], 60, "the copies are gone")
        assert {uid for uid, _ in stored(node)} == {SERIES}
        assert len(list((node.root / "objects").rglob("*.dcm"))) == 3
        assert node.terminate() == 0


def test_an_index_that_is_made_anew_knows_the_copies(tmp_path: Path) -> None:
    with Served(tmp_path / "root") as node:
        voxelnode(node.root, "projects", "set", "trial", "--deidentified", "--called", "VOXELNODE")
        send(node, tmp_path / "out", *series(3))
        wait_until_copied(node, 3)
        before = copies(node)
        assert node.terminate() == 0
    voxelnode(tmp_path / "root", "db", "rebuild")
    with Served(tmp_path / "root") as node:
        wait_until_copied(node, 3)
        assert copies(node) == before
        [project] = voxelnode(node.root, "projects", "list")
        assert (project["series"], project["copies"]) == (1, {"instances": 3, "copied": 3, "refused": 0})
        assert {row["copied_for"] for row in node.rows("SELECT copied_for FROM v_series")} == {None, "trial"}
        assert len(stored(node)) == 6
        assert node.terminate() == 0


def test_a_peer_with_the_project_finds_and_gets_copies_alone(tmp_path: Path) -> None:
    with Served(tmp_path / "root", **PEER) as node:
        voxelnode(node.root, "projects", "set", "trial", "--deidentified", "--called", "VOXELNODE")
        send(node, tmp_path / "out", *series(3))
        wait_until_copied(node, 3)
        [study] = {row["copy_study_instance_uid"] for row in copies(node)}
        for keys in (
            {"PatientID": NAMED["PatientID"]}, {"PatientName": "Secret*"}, {"StudyInstanceUID": STUDY},
            {"StudyDate": "20240102"}, {"AccessionNumber": NAMED["AccessionNumber"]},
        ):  # fmt: skip
            assert found(node, "TRIAL", **keys) == [], keys
            assert len(found(node, "CT1", **keys)) == 1, keys
        [answer] = found(node, "TRIAL", StudyInstanceUID="", PatientID="", PatientName="", StudyDate="")
        assert answer.StudyInstanceUID == study
        got = gotten(node, study)
        assert len(got) == 3
        for content in (*got, str(answer).encode()):
            assert not [mark for mark in (b"secret", b"4711", b"20240102") if mark in content.lower()]
        assert gotten(node, STUDY) == []
        assert node.terminate() == 0


def found(node: Served, title: str, **keys: str) -> list[Dataset]:
    """The answers to a C-FIND at the level of studies."""
    ae = AE(title)
    ae.add_requested_context(uids.STUDY_ROOT_FIND)
    assoc = ae.associate("127.0.0.1", node.port, ae_title="VOXELNODE")
    query = make.dataset(QueryRetrieveLevel="STUDY", **({"StudyInstanceUID": ""} | keys))
    answers = [answer for status, answer in assoc.send_c_find(query, uids.STUDY_ROOT_FIND) if answer is not None]
    assoc.release()
    return answers


def gotten(node: Served, study: str) -> list[bytes]:
    """The instances of a study by C-GET, as files."""
    taken: list[bytes] = []

    def take(event: Any) -> int:
        stream = BytesIO()
        ds = event.dataset
        ds.file_meta = event.file_meta
        dcmwrite(stream, ds, enforce_file_format=True)
        taken.append(stream.getvalue())
        return 0

    ae = AE("TRIAL")
    ae.add_requested_context(uids.STUDY_ROOT_GET)
    ae.add_requested_context(CTImageStorage)
    role = build_role(CTImageStorage, scp_role=True)
    handlers = [(evt.EVT_C_STORE, take)]
    assoc = ae.associate("127.0.0.1", node.port, ae_title="VOXELNODE", ext_neg=[role], evt_handlers=handlers)
    query = make.dataset(QueryRetrieveLevel="STUDY", StudyInstanceUID=study)
    list(assoc.send_c_get(query, uids.STUDY_ROOT_GET))
    assoc.release()
    return taken
