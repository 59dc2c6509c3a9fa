"""Custody as its users see it: commands beside a serving node, and what it leaves on the disk."""

import json
import shutil
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset

from node.archive.root import MARKER
from node.association.client.send import send_files
from tests import make
from tests.acceptance.served import Served
from tests.preloaded import run

pytestmark = pytest.mark.slow


def voxelnode(root: Path, *arguments: str, status: int = 0) -> Any:
    """Run a command on a root; what it printed, as JSON."""
    done = run(*arguments, "--root", root, "--json")
    assert done.returncode == status, done.stderr
    return json.loads(done.stdout) if done.stdout else done.stderr


def send(node: Served, folder: Path, *instances: Dataset, title: str = "CT1") -> int:
    """Send instances; how many were taken."""
    return send_files(make.saved(instances, folder), node.address, title)


def left(root: Path) -> list[Path]:
    """Files of instances and of volumes."""
    found = [path for folder in ("objects", "volumes") for path in (root / folder).rglob("*") if path.is_file()]
    return [path for path in found if path.name != MARKER]


def audit_lines(root: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (root / "audit.jsonl").read_text(encoding="utf-8").splitlines()]


def test_a_study_is_deleted_beside_a_serving_node(tmp_path: Path) -> None:
    study = make.ct_series(4, PatientID="P-1")
    with Served(tmp_path / "root") as node:
        assert send(node, tmp_path / "out", *study) == 4
        node.wait_until_idle()
        uid = str(study[0].StudyInstanceUID)
        planned = voxelnode(node.root, "delete", uid, "--dry-run")
        assert (planned["level"], planned["instances"], planned["deleted"]) == ("study", 4, False)
        assert len(left(node.root)) > 4
        keeping = {"VOXELNODE_RETENTION__KEEP_WHERE": 'modality == "CT"'}
        said = run("delete", uid, "--dry-run", "--root", node.root, environment=keeping, check=True).stdout
        assert "keep_where binds retention alone" in said
        assert said.endswith("nothing was deleted: --dry-run\n")
        assert "--yes" in voxelnode(node.root, "delete", uid, status=2)
        assert voxelnode(node.root, "delete", uid, "--erase", "--yes")["deleted"]
        assert left(node.root) == []
        assert "no study" in voxelnode(node.root, "delete", "--patient", "P-1", "--yes", status=2)
        assert node.rows("SELECT 1 FROM v_patients") == []
        assert send(node, tmp_path / "out", *study) == 4, "what was deleted may come again"
        node.wait_until_idle()
        assert node.terminate() == 0
    codes = [line["event"]["code"] for line in audit_lines(tmp_path / "root")]
    assert codes == ["110100", "110104", "110105", "110105", "110104", "110100"]
    assert audit_lines(tmp_path / "root")[1]["objects"][0]["patient_id"] == "P-1"
    assert voxelnode(tmp_path / "root", "audit", "--verify")["ok"]


def test_a_patient_is_erased_from_index_and_trash_with_a_certificate(tmp_path: Path) -> None:
    first, second, other = (make.ct_series(2, PatientID=name) for name in ("P-4711", "P-4711", "P-9"))
    uids = [str(series[0].StudyInstanceUID) for series in (first, second, other)]
    with Served(tmp_path / "root") as node:
        send(node, tmp_path / "out", *first, *second, *other)
        node.wait_until_idle()
        assert voxelnode(node.root, "share", "add", uids[1])["id"] == 1
        assert voxelnode(node.root, "delete", uids[0], "--yes")["trash_until"] is not None
        assert "  2024-01-02  " in run("trash", "--root", node.root, check=True).stdout
        file = tmp_path / "erased.json"
        planned = voxelnode(node.root, "delete", "--patient", "P-4711", "--erase", "--dry-run")
        assert (planned["trash"], [study["instances"] for study in planned["studies"]]) == (1, [2])
        order = ("delete", "--patient", "P-4711", "--erase", "--yes", "--certificate", file)
        done = voxelnode(node.root, *order)
        assert voxelnode(node.root, "share", "list") == []
        assert voxelnode(node.root, "trash") == []
        assert [row["study_instance_uid"] for row in node.rows("SELECT * FROM v_studies")] == [uids[2]]
        assert node.terminate() == 0
    certificate = json.loads(file.read_bytes())
    assert done["certificate"] == certificate
    assert (certificate["instances"], certificate["trash"]) == (4, 1)
    assert set(certificate["uids_sha256"]) == {sha256(uid.encode()).hexdigest() for uid in uids[:2]}
    for text in (file.read_text(encoding="utf-8"), file.with_suffix(".txt").read_text(encoding="utf-8")):
        assert not any(name in text for name in ("P-4711", *uids))
    files = [path for path in node.root.rglob("*") if path.is_file() and not path.name.startswith("audit")]
    assert [path for path in files if b"P-4711" in path.read_bytes()] == []


@pytest.mark.sample(0, 1)
@pytest.mark.sqlite("starts commands that look for the index in the root")
@pytest.mark.parametrize(
    "point", ["erasure-owed", "deletion-ordered:2", "trash-emptied", "erasure-purged:2", "erasure-certified"]
)
def test_a_node_killed_within_an_erasure_finishes_it_when_it_starts_again(tmp_path: Path, point: str) -> None:
    """A patient with two studies, one that is in the trash, and copies in quarantine and among the downloads."""
    studies = [make.ct_series(2, PatientID="P-4711", PatientName="Zwicklbauer^Anna") for _ in range(3)]
    uids = [str(series[0].StudyInstanceUID) for series in studies]
    with Served(tmp_path / "root", VOXELNODE_FAILPOINT=point) as node:
        send(node, tmp_path / "out", *chain(*studies))
        node.wait_until_idle()
        voxelnode(node.root, "delete", uids[2], "--yes")
        [stored] = node.rows(f"SELECT path FROM v_images WHERE study_instance_uid = '{uids[0]}' LIMIT 1")
        for copy in ("quarantine/aside.dcm", "work/download-1"):  # of no row
            (node.root / copy).parent.mkdir(exist_ok=True)
            shutil.copy(node.root / stored["path"], node.root / copy)
        order = ("delete", "--patient", "P-4711", "--erase", "--yes", "--root", str(node.root))
        assert run(*order).returncode != 0
        node.process.wait(30)
    with Served(tmp_path / "root") as node:
        [row] = node.rows("SELECT outcome, payload FROM work WHERE kind = 'erasure'")
        certificate = json.loads(row["payload"])["certificate"]
        assert row["outcome"] == "succeeded"
        assert (certificate["instances"], certificate["trash"]) == (6, 1)
        assert set(certificate["uids_sha256"]) == {sha256(uid.encode()).hexdigest() for uid in uids}
        assert certificate["index_overwritten"]
        assert [what for what in certificate["stays"] if "quarantine" in what] == []
        assert not any(uid in row["payload"] for uid in uids)
        assert voxelnode(node.root, "trash") == []
        assert node.rows("SELECT 1 FROM v_studies") == []
    files = [path for path in node.root.rglob("*") if path.is_file() and not path.name.startswith("audit")]
    assert [path for path in files if b"Zwicklbauer" in path.read_bytes()] == []
