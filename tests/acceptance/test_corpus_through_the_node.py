"""Real series by DCMTK's storescu into a served node: bytes at rest, volumes out, each series accounted for.

The node writes everything to its log, which names nobody.
"""

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage

from node.association.client.send import SendFailed, send_files
from node.dicom.encoding import file_head
from node.receive.dicom_files import MediaFile, SkippedFile, find_instances
from node.runtime import logs
from tests import make
from tests.acceptance.served import Served
from tests.preloaded import run
from tests.programs import needs

pytestmark = [pytest.mark.corpus, pytest.mark.peer, pytest.mark.slow, pytest.mark.timeout(600)]

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
    with Served(folder / "root", VOXELNODE_LOG__LEVEL="debug", VOXELNODE_LOG__FORMAT="json") as node:
        by_dcmtk = [str(one.path) for one in sent.values() if is_classic(one)]
        for start in range(0, len(by_dcmtk), 100):
            arguments = [
                needs("storescu"),
                "-aec",
                "VOXELNODE",
                "127.0.0.1",
                str(node.port),
                *by_dcmtk[start : start + 100],
            ]
            done = subprocess.run(arguments, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr[-2000:]
        others = [as_file(one, folder) for one in sent.values() if not is_classic(one)]
        assert send_files(others, node.address, "SENDER") == len(others)
        node.wait_until_idle(300)
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


def require_right(corpus: Path, folder: Path, volumes: list[dict[str, Any]], refusals: list[dict[str, Any]]) -> None:
    """Compare volumes and refusals with what the corpus says of its cases."""
    listing = folder / "conversion.json"
    listing.write_text(json.dumps({"volumes": volumes, "refusals": refusals}, default=str))
    command = [sys.executable, str(corpus / "check.py"), str(listing), "--failures"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_every_case_is_right_and_every_series_accounted_for(served: Served, corpus: Path, tmp_path: Path) -> None:
    volumes = [dict(row) for row in served.rows("SELECT * FROM v_volumes WHERE NOT superseded")]
    refusals = served.rows("SELECT series_instance_uid, reason, detail FROM v_failures")
    require_right(corpus, tmp_path, volumes, refusals)
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
    """A dynamic series by the network, by `import` and by `convert`; what becomes of others, the first door tells."""
    folder = corpus / "derived" / "pet-dynamic-slope-per-slice"
    run("convert", folder, "-o", tmp_path / "out", check=True)
    run("import", "--root", tmp_path / "root", folder, check=True)
    listing = json.loads((tmp_path / "out" / "conversion.json").read_text())["volumes"]
    by_convert = {key(row): tmp_path / "out" / row["path"] for row in listing if row["format"] == "nifti"}
    with Served(tmp_path / "root") as imported:
        imported.wait_until_idle()
        by_import = nifti(imported)
    by_network = {at: path for at, path in nifti(served).items() if at in by_convert}
    assert len(by_convert) == 1
    assert by_convert.keys() == by_import.keys() == by_network.keys()
    for at, path in by_convert.items():
        expected = nib.load(path)
        for other in (nib.load(by_import[at]), nib.load(by_network[at])):
            assert np.array_equal(expected.affine, other.affine)
            assert np.array_equal(np.asanyarray(expected.dataobj), np.asanyarray(other.dataobj))


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


def test_the_log_names_nobody(served: Served, sent: dict[str, MediaFile], tmp_path: Path) -> None:
    """Every name and every ID of the corpus, and of instances that are refused, contradict and are deleted."""
    one_each = {one.identity.series_instance_uid: one for one in sent.values()}
    heads = [dcmread(as_file(one, tmp_path), stop_before_pixels=True) for one in one_each.values()]
    personal = {value for head in heads for value in personal_values(head)}
    assert len(personal) > 20

    def send(ds: Dataset) -> None:
        ds.save_as(tmp_path / "named.dcm", enforce_file_format=True)
        send_files([tmp_path / "named.dcm"], served.address, "CT1")

    named = make.ct_series(3, PatientName="Secretname^Person", PatientID="SECRET-ID-7")
    for ds in named:
        send(ds)
    named[0].SeriesDescription = "Secretname again"
    send(named[0])
    del named[1].SeriesInstanceUID
    with pytest.raises(SendFailed, match="0xC000"):
        send(named[1])
    served.wait_until_idle()
    run("delete", named[0].StudyInstanceUID, "--yes", "--root", served.root, check=True)
    assert served.terminate() == 0
    log = (served.root.parent / "serve.log").read_text(encoding="utf-8", errors="replace").casefold()
    assert all(event in log for event in ("series_converted", "conflict", "c_store_refused", "deleted"))
    uids = {uid for one in sent.values() for uid in (one.identity.series_instance_uid, one.identity.sop_instance_uid)}
    ours = "".join(path.read_text(encoding="utf-8") for path in Path(logs.__file__).parent.rglob("*.py"))
    harmless = " ".join([ours, *uids]).casefold()  # a person who is named as our own words are cannot be told apart
    names = {value.casefold() for value in personal | {"Secretname", "SECRET-ID-7"}}
    # A patient ID may be a number, whose digits a random UID or a time may contain: it counts as a whole word only.
    words = set(re.findall(r"[0-9a-z.]+", log))
    assert {name for name in names if name in (words if name.isdigit() else log) and name not in harmless} == set()


def key(row: dict[str, Any]) -> tuple[str, int, str]:
    return row["series_instance_uid"], row["stack"], row["kind"]


def nifti(node: Served) -> dict[tuple[str, int, str], Path]:
    query = "SELECT * FROM v_volumes WHERE format = 'nifti' AND NOT superseded"
    return {key(row): Path(row["path"]) for row in node.rows(query)}
