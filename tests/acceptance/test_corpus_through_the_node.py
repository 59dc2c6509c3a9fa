"""Real series by DCMTK's storescu into a served node: bytes at rest, volumes out, each series accounted for."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage

from node.association.client.send import send_files
from node.dicom.part10 import file_head
from node.receive.dicom_files import MediaFile, SkippedFile, find_instances
from tests.acceptance.served import Served

pytestmark = [
    pytest.mark.corpus,
    pytest.mark.peer,
    pytest.mark.skipif(shutil.which("storescu") is None, reason="DCMTK's storescu is not installed"),
    pytest.mark.timeout(600),
]

OUT_OF_SCOPE = ("refs",)
CLASSIC = frozenset([CTImageStorage, MRImageStorage])


def is_classic(file: MediaFile) -> bool:
    """Single-frame CT and MR of which DCMTK's storescu, which encodes data sets anew, makes no other syntax."""
    return file.identity.sop_class_uid in CLASSIC and file.identity.transfer_syntax_uid == ExplicitVRLittleEndian


def as_file(file: MediaFile, folder: Path) -> Path:
    """The data set with a head that names it rightly; some real files have none, or name another instance."""
    identity = file.identity
    made = folder / f"{identity.sop_instance_uid}.dcm"
    head = file_head(identity.sop_class_uid, identity.sop_instance_uid, identity.transfer_syntax_uid)
    made.write_bytes(head + b"".join(file.data_set()))
    return made


@pytest.fixture(scope="module")
def sent(corpus: Path) -> dict[str, MediaFile]:
    """Every instance of the corpus by its UID (copies of an instance count once)."""
    cases = [folder for folder in sorted(corpus.iterdir()) if folder.is_dir() and folder.name not in OUT_OF_SCOPE]
    return {
        found.identity.sop_instance_uid: found for found in find_instances(cases) if not isinstance(found, SkippedFile)
    }


@pytest.fixture(scope="module")
def served(sent: dict[str, MediaFile], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A node that has received the corpus and converted it."""
    folder = tmp_path_factory.mktemp("served")
    with Served(folder / "root") as node:
        by_dcmtk = [str(one.path) for one in sent.values() if is_classic(one)]
        for start in range(0, len(by_dcmtk), 100):
            arguments = ["storescu", "-aec", "VOXELNODE", "127.0.0.1", str(node.port), *by_dcmtk[start : start + 100]]
            done = subprocess.run(arguments, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr[-2000:]
        others = [as_file(one, folder) for one in sent.values() if not is_classic(one)]
        assert send_files(others, "127.0.0.1", node.port, "SENDER", "VOXELNODE") == len(others)
        node.wait_until_settled(300)
        yield node


def test_every_instance_is_at_rest_byte_for_byte(served: Served, sent: dict[str, MediaFile]) -> None:
    rows = {row["sop_instance_uid"]: row for row in served.rows("SELECT * FROM v_images")}
    assert rows.keys() == sent.keys()
    for uid, file in sent.items():
        row = rows[uid]
        assert row["transfer_syntax_uid"] == file.identity.transfer_syntax_uid
        at_rest = Path(row["path"]).read_bytes()[row["data_set_offset"] :]
        assert row["sha256"] == hashlib.sha256(at_rest).hexdigest()
        if not is_classic(file):  # what storescu makes of a file is compared in tests/protocol/test_peers.py
            assert at_rest == b"".join(file.data_set()), f"{file.name} differs from what was sent"


def test_every_case_is_right_and_every_series_accounted_for(served: Served, corpus: Path, tmp_path: Path) -> None:
    volumes = served.rows("SELECT * FROM v_volumes WHERE NOT superseded")
    listing: dict[str, list[dict[str, Any]]] = {
        "volumes": [dict(row) for row in volumes],
        "refusals": served.rows("SELECT series_instance_uid, reason, detail FROM v_failures"),
    }
    (tmp_path / "conversion.json").write_text(json.dumps(listing))
    done = subprocess.run(
        [sys.executable, str(corpus / "check.py"), str(tmp_path / "conversion.json"), "--failures"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    states = {row["state"] for row in served.rows("SELECT state FROM v_series")}
    assert states <= {"converted", "refused", "not-an-image"}


def test_instances_in_are_slices_out_and_explained_exclusions(served: Served, sent: dict[str, MediaFile]) -> None:
    in_volumes = {row["sop_instance_uid"] for row in served.rows("SELECT sop_instance_uid FROM v_sources")}
    excluded = {row["sop_instance_uid"] for row in served.rows("SELECT sop_instance_uid FROM v_exclusions")}
    refused_series = {
        row["series_instance_uid"]
        for row in served.rows("SELECT series_instance_uid FROM v_failures WHERE stack IS NULL")
    }
    refused = {
        row["sop_instance_uid"]
        for row in served.rows("SELECT sop_instance_uid, series_instance_uid FROM v_images")
        if row["series_instance_uid"] in refused_series
    }
    assert sent.keys() <= in_volumes | excluded | refused


def test_rows_agree_with_the_files(served: Served) -> None:
    for row in served.rows("SELECT * FROM v_volumes"):
        content = Path(row["path"]).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (row["bytes"], row["sha256"])


def test_the_three_doors_give_the_same_voxels_and_affine(served: Served, corpus: Path, tmp_path: Path) -> None:
    """The same folder by the network, by `import` and by `convert`."""
    folder = corpus / "derived"
    run = [sys.executable, "-m", "node"]
    subprocess.run([*run, "convert", str(folder), "-o", str(tmp_path / "out")], check=True, capture_output=True)
    subprocess.run([*run, "import", "--root", str(tmp_path / "root"), str(folder)], check=True, capture_output=True)
    listing = json.loads((tmp_path / "out" / "conversion.json").read_text())["volumes"]
    by_convert = {key(row): tmp_path / "out" / row["path"] for row in listing if row["format"] == "nifti"}
    with Served(tmp_path / "root") as imported:
        imported.wait_until_settled()
        by_import = nifti(imported)
    by_network = {at: path for at, path in nifti(served).items() if at in by_convert}
    assert by_convert.keys() == by_import.keys() == by_network.keys()
    for at, path in by_convert.items():
        expected = nib.load(path)
        for other in (nib.load(by_import[at]), nib.load(by_network[at])):
            assert np.array_equal(expected.affine, other.affine)
            assert np.array_equal(np.asanyarray(expected.dataobj), np.asanyarray(other.dataobj))


def key(row: dict[str, Any]) -> tuple[str, int, str]:
    return row["series_instance_uid"], row["stack"], row["kind"]


def nifti(node: Served) -> dict[tuple[str, int, str], Path]:
    query = "SELECT * FROM v_volumes WHERE format = 'nifti' AND NOT superseded"
    return {key(row): Path(row["path"]) for row in node.rows(query)}
