"""DCMTK asks, moves and gets."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import FileDataset, dcmread
from pydicom.uid import JPEG2000Lossless, generate_uid

from tests.acceptance.served import Served
from tests.interop.conftest import STUDY, run, served, stored
from tests.make import rgb_capture
from tests.programs import free_port, needs
from tests.protocol.conftest import after_file_meta, data_set_bytes

pytestmark = pytest.mark.peer

COMPRESSED = generate_uid()


@pytest.fixture(scope="module")
def store_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def capture() -> FileDataset:
    """A compressed instance of another study."""
    ds = rgb_capture(64, 64, study_uid=COMPRESSED, PatientID="P-2")
    ds.compress(JPEG2000Lossless, encoding_plugin="pylibjpeg", generate_instance_uid=False)
    return ds


@pytest.fixture(scope="module")
def node(
    tmp_path_factory: pytest.TempPathFactory, study: list[FileDataset], capture: FileDataset, store_port: int
) -> Iterator[Served]:
    needs("movescu", "dcmtk")
    folder = tmp_path_factory.mktemp("dcmtk")
    peers = {
        "dcmtk": {"ae_title": "DCMTK", "host": "127.0.0.1", "port": store_port},
        "reader": {"ae_title": "READER", "may": ["query"]},
    }
    with served(folder, peers) as running:
        stored(running, [*study, capture], folder)
        yield running


def data_sets(folder: Path) -> dict[str, bytes]:
    """What lies in a folder, by SOP Instance UID, as it was received."""
    return {
        str(dcmread(path, stop_before_pixels=True).SOPInstanceUID): after_file_meta(path.read_bytes())
        for path in folder.iterdir()
    }


def dcmtk(
    program: str, node: Served, *arguments: str, title: str = "DCMTK", ok: bool = True, folder: Path | None = None
) -> str:
    common = ["-v", "-aet", title, "-aec", "VOXELNODE", *arguments, "127.0.0.1", str(node.port)]
    return run(needs(program, "dcmtk"), *common, ok=ok, folder=folder)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["-S", "-k", "QueryRetrieveLevel=STUDY", "-k", "PatientName=doe*", "-k", "StudyInstanceUID"], STUDY),
        (["-P", "-k", "QueryRetrieveLevel=PATIENT", "-k", "PatientID=P-1", "-k", "PatientName"], "Doe^Jane"),
        (["-S", "-k", "QueryRetrieveLevel=SERIES", "-k", f"StudyInstanceUID={STUDY}", "-k", "Modality=MR"], "[MR]"),
    ],
    ids=["study", "patient", "series"],  # the UID differs in each process that runs tests
)
def test_findscu_is_answered(node: Served, arguments: list[str], expected: str) -> None:
    assert expected in dcmtk("findscu", node, *arguments)


@pytest.mark.slow
def test_movescu_gets_a_study_byte_for_byte(
    node: Served, store_port: int, study: list[FileDataset], tmp_path: Path
) -> None:
    keys = ["-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={STUDY}"]
    port = ["+P", str(store_port), "+xe", "+B"]
    dcmtk("movescu", node, "-S", "-aem", "DCMTK", *port, *keys, folder=tmp_path)  # with +B it minds no -od
    assert data_sets(tmp_path) == {ds.SOPInstanceUID: data_set_bytes(ds) for ds in study}


@pytest.mark.slow
def test_movescu_that_takes_no_compression_gets_the_pixels_uncompressed(
    node: Served, store_port: int, capture: FileDataset, tmp_path: Path
) -> None:
    keys = ["-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={COMPRESSED}"]
    port = ["+P", str(store_port), "+xi", "-od", str(tmp_path)]
    dcmtk("movescu", node, "-S", "-aem", "DCMTK", *port, *keys)
    [path] = tmp_path.iterdir()
    received = dcmread(path)
    assert received.file_meta.TransferSyntaxUID.is_implicit_VR
    assert (received.pixel_array == capture.pixel_array).all()


@pytest.mark.slow
def test_movescu_cancels(node: Served, store_port: int, study: list[FileDataset], tmp_path: Path) -> None:
    keys = ["-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={STUDY}"]
    port = ["+P", str(store_port), "-od", str(tmp_path)]
    reported = dcmtk("movescu", node, "-S", "-aem", "DCMTK", "--cancel", "1", *port, *keys)
    assert "Received Final Move Response (Cancel: SubOperationsTerminatedDueToCancelIndication)" in reported
    assert 1 <= len(data_sets(tmp_path)) < len(study)


def test_movescu_is_reported_that_a_destination_is_unknown(node: Served) -> None:
    keys = ["-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={STUDY}"]
    assert "MoveDestinationUnknown" in dcmtk("movescu", node, "-S", "-aem", "ELSEWHERE", *keys, ok=False)


@pytest.mark.parametrize("level", ["STUDY", "SERIES", "IMAGE"])
def test_getscu_gets_byte_for_byte(node: Served, study: list[FileDataset], tmp_path: Path, level: str) -> None:
    first = study[0]
    keys = ["-k", f"QueryRetrieveLevel={level}", "-k", f"StudyInstanceUID={STUDY}"]
    wanted = study
    if level != "STUDY":
        keys += ["-k", f"SeriesInstanceUID={first.SeriesInstanceUID}"]
        wanted = [ds for ds in study if ds.SeriesInstanceUID == first.SeriesInstanceUID]
    if level == "IMAGE":
        keys += ["-k", f"SOPInstanceUID={first.SOPInstanceUID}"]
        wanted = [first]
    dcmtk("getscu", node, "-S", "+B", "-od", str(tmp_path), *keys)
    assert data_sets(tmp_path) == {ds.SOPInstanceUID: data_set_bytes(ds) for ds in wanted}


@pytest.mark.slow
def test_getscu_without_compression_gets_native_pixels(node: Served, capture: FileDataset, tmp_path: Path) -> None:
    keys = ["-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={COMPRESSED}"]
    dcmtk("getscu", node, "-S", "-od", str(tmp_path), *keys)
    [path] = tmp_path.iterdir()
    assert (dcmread(path).pixel_array == capture.pixel_array).all()


@pytest.mark.slow
def test_a_peer_that_may_query_neither_gets_nor_stores(node: Served, study: list[FileDataset], tmp_path: Path) -> None:
    keys = ["-S", "-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={STUDY}"]
    assert STUDY in dcmtk("findscu", node, *keys, title="READER")
    reported = dcmtk("getscu", node, *keys, "-od", str(tmp_path), title="READER", ok=False)
    assert "No Acceptable Presentation Contexts" in reported
    path = tmp_path / "one.dcm"
    study[0].save_as(path, enforce_file_format=True)
    common = ["-aet", "READER", "-aec", "VOXELNODE", "127.0.0.1", str(node.port), str(path)]
    assert "No Acceptable Presentation Contexts" in run(needs("storescu", "dcmtk"), *common, ok=False)
