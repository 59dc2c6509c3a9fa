"""Custody as its users see it: commands beside a serving node, and what it leaves on the disk."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmread

from node import logs
from node.association.client.negotiation import NoAssociation
from node.association.client.send import SendFailed, send_files
from node.audit import verify
from node.receive.dicom_files import SkippedFile, find_instances
from tests import make
from tests.acceptance.served import Served, until
from tests.acceptance.test_corpus_through_the_node import as_file


def voxelnode(root: Path, *arguments: str, status: int = 0) -> Any:
    """Run a command on a root; what it printed, as JSON."""
    done = subprocess.run(
        [sys.executable, "-m", "node", *arguments, "--root", str(root), "--json"],
        capture_output=True,
        text=True,
        timeout=60,
        env={name: value for name, value in os.environ.items() if not name.startswith("VOXELNODE_FAIL")},
    )
    assert done.returncode == status, done.stderr
    return json.loads(done.stdout) if done.stdout else done.stderr


def send(node: Served, folder: Path, *instances: Dataset, title: str = "CT1") -> int:
    """Send instances; how many were taken."""
    folder.mkdir(exist_ok=True)
    paths = []
    for number, ds in enumerate(instances):
        paths.append(folder / f"{number}.dcm")
        ds.save_as(paths[-1], enforce_file_format=True)
    return send_files(paths, "127.0.0.1", node.port, title, "VOXELNODE")


def left(root: Path) -> list[Path]:
    """Files of instances and of volumes."""
    return [path for folder in ("objects", "volumes") for path in (root / folder).rglob("*") if path.is_file()]


def audit_lines(root: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (root / "audit.jsonl").read_text(encoding="utf-8").splitlines()]


def test_a_study_is_deleted_beside_a_serving_node(tmp_path: Path) -> None:
    study = make.ct_series(4, PatientID="P-1")
    with Served(tmp_path / "root") as node:
        assert send(node, tmp_path / "out", *study) == 4
        node.wait_until_settled()
        uid = str(study[0].StudyInstanceUID)
        planned = voxelnode(node.root, "delete", uid, "--dry-run")
        assert (planned["level"], planned["instances"], planned["deleted"]) == ("study", 4, False)
        assert len(left(node.root)) > 4
        assert "--yes" in voxelnode(node.root, "delete", uid, status=2)
        assert voxelnode(node.root, "delete", uid, "--yes")["deleted"]
        assert left(node.root) == []
        assert node.rows("SELECT 1 FROM v_patients") == []
        assert send(node, tmp_path / "out", *study) == 4, "what was deleted may come again"
        node.wait_until_settled()
        assert node.terminate() == 0
    codes = [line["event"]["code"] for line in audit_lines(tmp_path / "root")]
    assert codes == ["110100", "110104", "110105", "110105", "110104", "110100"]
    assert audit_lines(tmp_path / "root")[1]["objects"][0]["patient_id"] == "P-1"
    assert verify(tmp_path / "root" / "audit.jsonl") == []
    assert voxelnode(tmp_path / "root", "audit", "--verify")["ok"]


@pytest.mark.parametrize("point", ["deletion-ordered", "deletion-unlinked"])
def test_a_node_killed_within_a_deletion_finishes_it_when_it_starts_again(tmp_path: Path, point: str) -> None:
    study = make.ct_series(3)
    with Served(tmp_path / "root", VOXELNODE_FAILPOINT=point) as node:
        send(node, tmp_path / "out", *study)
        node.wait_until_settled()
        with subprocess.Popen(
            [sys.executable, "-m", "node", "delete", str(study[0].StudyInstanceUID), "--yes", "--root", str(node.root)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        ) as command:  # fmt: skip
            assert node.process is not None
            node.process.wait(30)
            command.kill()
    with Served(tmp_path / "root") as node:
        assert left(node.root) == []
        assert node.rows("SELECT 1 FROM v_images") == []
        assert node.rows("SELECT 1 FROM v_deletions WHERE finished_at IS NULL") == []
        [told] = node.rows("SELECT count(*) AS n FROM v_deletions")
        assert told["n"] == 1


def test_patients_are_merged_beside_a_serving_node(tmp_path: Path) -> None:
    with Served(tmp_path / "root") as node:
        for patient_id in ("OLD", "NEW"):
            send(node, tmp_path / "out", *make.ct_series(1, PatientID=patient_id))
        assert len(voxelnode(node.root, "patient", "merge", "OLD", "NEW")["studies"]) == 1
        send(node, tmp_path / "out", *make.ct_series(1, PatientID="OLD"))
        assert {row["patient_id"] for row in node.rows("SELECT patient_id FROM v_studies")} == {"NEW"}
        assert "no patient has the ID 'NOBODY'" in voxelnode(node.root, "patient", "merge", "NOBODY", "NEW", status=2)
        assert [row["merged_into"] is None for row in voxelnode(node.root, "patient", "list")].count(False) == 1


def test_commands_list_refusals_and_conflicts(tmp_path: Path) -> None:
    peers = {"VOXELNODE_PEERS__CT1__AE_TITLE": "CT1"}
    [first] = make.ct_series(1, SeriesDescription="first")
    with Served(tmp_path / "root", VOXELNODE_DICOM__HOST="127.0.0.1", **peers) as node:
        send(node, tmp_path / "out", first)
        first.SeriesDescription = "second"
        send(node, tmp_path / "out", first)
        with pytest.raises(NoAssociation):
            send(node, tmp_path / "out", first, title="STRANGER")
        until(lambda: node.rows("SELECT 1 FROM v_rejections"), 20, "the rejection is told")
        [rejection] = voxelnode(node.root, "rejections")
        assert (rejection["calling_ae_title"], rejection["what"]) == ("STRANGER", "association")
        assert "[peers]" in rejection["remedy"]
        [conflict] = voxelnode(node.root, "conflicts")
        assert conflict["kind"] == "instance-bytes"
        assert Path(conflict["path"]).is_file()
        assert node.terminate() == 0
    alerts = [line for line in audit_lines(node.root) if line["event"]["code"] == "110113"]
    assert [alert["participants"][0]["user"] for alert in alerts] == ["STRANGER"]


def test_retention_deletes_in_a_serving_node_and_tells_before(tmp_path: Path) -> None:
    study = make.ct_series(3)
    with Served(tmp_path / "root") as node:
        send(node, tmp_path / "out", *study)
        node.wait_until_settled()
        told = voxelnode(node.root, "retention")
        assert (told["studies"], told["expired"]) == (1, [])
    with Served(tmp_path / "root", VOXELNODE_RETENTION__DAYS="0.000001") as node:
        until(lambda: node.rows("SELECT 1 FROM v_deletions WHERE finished_at IS NOT NULL"), 20, "the study has gone")
        assert left(node.root) == []


def personal_values(ds: Dataset) -> set[str]:
    """Values of a data set that tell who somebody is, as text long enough to be told from a count."""
    keywords = (
        "PatientName", "PatientID", "OtherPatientIDs", "PatientBirthDate", "PatientAddress", "AccessionNumber",
        "ReferringPhysicianName", "PerformingPhysicianName", "OperatorsName", "InstitutionName", "StudyDescription",
        "SeriesDescription", "PatientComments",
    )  # fmt: skip
    values = {str(ds.get(keyword, "")).strip() for keyword in keywords}
    parts = {part for value in values for part in value.replace("=", "^").split("^")}
    return {value for value in values | parts if len(value) >= 5}


@pytest.mark.corpus
@pytest.mark.timeout(600)
@pytest.mark.parametrize("level", ["info", "debug"])
def test_the_log_of_a_node_that_took_in_the_corpus_names_nobody(corpus: Path, tmp_path: Path, level: str) -> None:
    """Every name and every ID of the corpus, and of instances that are refused, contradict and are deleted."""
    instances = [one for one in find_instances([corpus]) if not isinstance(one, SkippedFile)]
    one_each = {one.identity.series_instance_uid: one for one in instances}
    sent = [as_file(one, tmp_path) for one in one_each.values()]
    personal = {value for path in sent for value in personal_values(dcmread(path, stop_before_pixels=True))}
    assert len(personal) > 20
    with Served(tmp_path / "root", VOXELNODE_LOG__LEVEL=level, VOXELNODE_LOG__FORMAT="json") as node:
        send_files(sent, "127.0.0.1", node.port, "SENDER", "VOXELNODE")
        named = make.ct_series(3, PatientName="Secretname^Person", PatientID="SECRET-ID-7")
        assert send(node, tmp_path / "out", *named) == 3
        named[0].SeriesDescription = "Secretname again"
        send(node, tmp_path / "out", named[0])
        del named[1].SeriesInstanceUID
        with pytest.raises(SendFailed, match="0xC000"):
            send(node, tmp_path / "out", named[1])
        node.wait_until_settled(300)
        voxelnode(node.root, "delete", str(named[0].StudyInstanceUID), "--yes")
        node.terminate()
    log = (tmp_path / "serve.log").read_text(encoding="utf-8", errors="replace").casefold()
    assert all(event in log for event in ("series_converted", "conflict", "c_store_refused", "deleted"))
    uids = {uid for one in instances for uid in (one.identity.series_instance_uid, one.identity.sop_instance_uid)}
    ours = "".join(path.read_text(encoding="utf-8") for path in Path(logs.__file__).parent.rglob("*.py"))
    harmless = " ".join([ours, *uids]).casefold()  # a person who is named as our own words are cannot be told apart
    names = {value.casefold() for value in personal | {"Secretname", "SECRET-ID-7"}}
    # A patient ID may be a number, whose digits a random UID or a time may contain: it counts as a whole word only.
    words = set(re.findall(r"[0-9a-z.]+", log))
    assert {name for name in names if name in (words if name.isdigit() else log) and name not in harmless} == set()
