"""Orthanc asks, sends, fetches and has its copies committed; and is asked itself."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import FileDataset

from tests.acceptance.served import Served
from tests.interop.conftest import STUDY, Orthanc, orthanc_beside, run, served, stored, until
from tests.make import ct_series, saved
from tests.programs import free_port, needs

pytestmark = pytest.mark.peer


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, study: list[FileDataset]) -> Iterator[tuple[Served, Orthanc]]:
    """A node that holds the study, and Orthanc beside it."""
    needs("Orthanc", "orthanc")
    folder = tmp_path_factory.mktemp("orthanc")
    http_port, dicom_port = free_port(), free_port()
    peers = {"orthanc": {"ae_title": "ORTHANC", "host": "127.0.0.1", "port": dicom_port}}
    with served(folder, peers) as node, orthanc_beside(folder, http_port, dicom_port, node.port) as orthanc:
        stored(node, study, folder)
        yield node, orthanc


@pytest.fixture
def node(pair: tuple[Served, Orthanc]) -> Served:
    return pair[0]


@pytest.fixture
def orthanc(pair: tuple[Served, Orthanc]) -> Orthanc:
    """Orthanc, emptied."""
    pair[1].clear()
    return pair[1]


def uids(instances: list[FileDataset]) -> set[str]:
    return {str(ds.SOPInstanceUID) for ds in instances}


def file_bytes(ds: FileDataset, folder: Path) -> bytes:
    path = folder / "instance.dcm"
    ds.save_as(path, enforce_file_format=True)
    return path.read_bytes()


def held(node: Served) -> set[str]:
    return {row["sop_instance_uid"] for row in node.rows("SELECT sop_instance_uid FROM v_images")}


@pytest.mark.slow
def test_orthanc_verifies_queries_and_fetches(orthanc: Orthanc, study: list[FileDataset]) -> None:
    assert orthanc.ask("/modalities/voxelnode/echo", {}) is not None
    query = orthanc.ask("/modalities/voxelnode/query", {"Level": "Study", "Query": {"PatientName": "DOE*"}})
    [answer] = orthanc.ask(f"{query['Path']}/answers?expand&simplify")
    assert answer["StudyInstanceUID"] == STUDY
    assert answer["PatientID"] == "P-1"
    orthanc.ask(f"{query['Path']}/retrieve", {"TargetAet": "ORTHANC", "Synchronous": True})
    assert orthanc.instances() == uids(study)


def test_orthanc_finds_series_and_instances(orthanc: Orthanc, study: list[FileDataset]) -> None:
    wanted = {"Level": "Series", "Query": {"StudyInstanceUID": STUDY, "Modality": "MR"}}
    query = orthanc.ask("/modalities/voxelnode/query", wanted)
    [series] = orthanc.ask(f"{query['Path']}/answers?expand&simplify")
    keys = {"StudyInstanceUID": STUDY, "SeriesInstanceUID": series["SeriesInstanceUID"], "SOPInstanceUID": ""}
    query = orthanc.ask("/modalities/voxelnode/query", {"Level": "Instance", "Query": keys})
    found = {answer["SOPInstanceUID"] for answer in orthanc.ask(f"{query['Path']}/answers?expand&simplify")}
    assert found == {str(ds.SOPInstanceUID) for ds in study if ds.Modality == "MR"}


def test_orthanc_sends_and_has_its_copies_committed(node: Served, orthanc: Orthanc, tmp_path: Path) -> None:
    series = ct_series(3)
    kept = [orthanc.ask("/instances", raw=file_bytes(ds, tmp_path))["ID"] for ds in series]
    orthanc.ask("/modalities/voxelnode/store", {"Resources": kept, "Synchronous": True})
    assert uids(series) <= held(node)
    asked = orthanc.ask("/modalities/voxelnode/storage-commitment", {"Resources": kept})
    until(lambda: orthanc.ask(f"/storage-commitment/{asked['ID']}")["Status"] != "Pending", 90)
    report = orthanc.ask(f"/storage-commitment/{asked['ID']}")
    assert report["Status"] == "Success"
    assert {one["SOPInstanceUID"] for one in report["Success"]} == uids(series)


def test_orthanc_takes_the_warning_about_cut_pixels_as_success(node: Served, orthanc: Orthanc, tmp_path: Path) -> None:
    series = ct_series(3)
    series[0].PixelData = series[0].PixelData[:-100]
    sent = [orthanc.ask("/instances", raw=file_bytes(ds, tmp_path))["ID"] for ds in series]
    job = orthanc.ask("/modalities/voxelnode/store", {"Resources": sent, "Synchronous": True})
    assert (job["InstancesCount"], job["FailedInstancesCount"]) == (3, 0)
    assert uids(series) <= held(node)


@pytest.mark.slow
def test_orthanc_is_reported_what_is_not_safe(node: Served, orthanc: Orthanc, study: list[FileDataset]) -> None:
    ct = study[0]
    references = [
        {"SOPClassUID": str(ct.SOPClassUID), "SOPInstanceUID": str(ct.SOPInstanceUID)},
        {"SOPClassUID": str(ct.SOPClassUID), "SOPInstanceUID": "1.2.3.4"},
    ]
    asked = orthanc.ask("/modalities/voxelnode/storage-commitment", {"DicomInstances": references})
    until(lambda: orthanc.ask(f"/storage-commitment/{asked['ID']}")["Status"] != "Pending", 90)
    report = orthanc.ask(f"/storage-commitment/{asked['ID']}")
    assert report["Status"] == "Failure"
    assert [one["SOPInstanceUID"] for one in report["Success"]] == [str(ct.SOPInstanceUID)]
    [failure] = report["Failures"]
    assert (failure["SOPInstanceUID"], failure["FailureReason"]) == ("1.2.3.4", 0x0112)


@pytest.mark.slow
def test_orthanc_moves_to_the_node(node: Served, orthanc: Orthanc, tmp_path: Path) -> None:
    series = ct_series(2)
    for ds in series:
        orthanc.ask("/instances", raw=file_bytes(ds, tmp_path))
    keys = ["-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={series[0].StudyInstanceUID}"]
    common = ["-S", "-aem", "VOXELNODE", "-aet", "VOXELNODE", "-aec", "ORTHANC", *keys]
    run(needs("movescu", "dcmtk"), *common, "127.0.0.1", str(orthanc.dicom_port))
    assert uids(series) <= held(node)


@pytest.mark.slow
@pytest.mark.sqlite("starts commands that look for the index in the root")
def test_our_commands_find_get_and_send_with_orthanc(
    node: Served, orthanc: Orthanc, study: list[FileDataset], tmp_path: Path
) -> None:
    series = ct_series(2, PatientID="P-9")
    for ds in series:
        orthanc.ask("/instances", raw=file_bytes(ds, tmp_path))
    config = ["--config", str(tmp_path / "voxelnode.toml")]
    (tmp_path / "voxelnode.toml").write_text(
        f'[peers.orthanc]\nae_title = "ORTHANC"\nhost = "127.0.0.1"\nport = {orthanc.dicom_port}\n'
    )
    voxelnode = [sys.executable, "-m", "node"]
    found = run(*voxelnode, "peers", "find", "--from", "orthanc", "PatientID=P-9", "--json", *config)
    assert series[0].StudyInstanceUID in found
    root = ["--root", str(node.root), *config]
    reported = run(
        *voxelnode,
        "peers",
        "get",
        series[0].StudyInstanceUID,
        "--from",
        f"ORTHANC@127.0.0.1:{orthanc.dicom_port}",
        *root,
    )
    assert "2" in reported
    assert uids(series) <= held(node)
    run(*voxelnode, "peers", "send", STUDY, "--to", "orthanc", *root)
    assert uids(study) <= orthanc.instances()


@pytest.mark.slow
def test_the_storage_folder_of_orthanc_is_imported_byte_for_byte(tmp_path: Path, study: list[FileDataset]) -> None:
    with orthanc_beside(tmp_path, free_port(), free_port(), free_port()) as orthanc:
        for path in saved(study, tmp_path / "files"):
            orthanc.ask("/instances", raw=path.read_bytes(), method="POST")
    digests = []
    for folder in ("files", "orthanc"):
        run(sys.executable, "-m", "node", "import", "--root", str(tmp_path / f"from-{folder}"), str(tmp_path / folder))
        rows = Served(tmp_path / f"from-{folder}").rows("SELECT sha256 FROM v_images")
        digests.append({row["sha256"] for row in rows})
    assert len(digests[0]) == len(study)
    assert digests[0] == digests[1]
