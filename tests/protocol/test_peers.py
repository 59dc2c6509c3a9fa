"""Senders that we did not write: DCMTK; and our own, which sends files as they are."""

import os
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from node.association.client.association import NoAssociation, verify
from node.association.client.send import SendFailed, send_files
from tests.interop.conftest import is_answered
from tests.make import PYDICOM_FILES, ct_series, instance, saved
from tests.programs import needs
from tests.protocol.conftest import Running, StartNode, after_file_meta
from tests.waiting import until

PROPOSE = {
    "CT_small.dcm": "-xe",
    "MR_small_bigendian.dcm": "-xb",
    "MR_small_implicit.dcm": "-xi",
    "JPEG2000.dcm": "-xw",
    "MR_small_RLE.dcm": "-xr",
    "MR_small_jpeg_ls_lossless.dcm": "-xt",
    "examples_rgb_color.dcm": "-xe",
    "test-SR.dcm": "-xe",
}
"""Files that pydicom ships, and the option by which storescu proposes their transfer syntax."""


def shipped(name: str) -> Path:
    return PYDICOM_FILES / name


def run(*command: str, **environment: str) -> None:
    done = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def reference(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """DCMTK's storescp, writing what it receives bit by bit: (port, folder)."""
    folder = tmp_path / "reference"
    folder.mkdir()
    accepts_all = ["+xa", "+B", "-od", str(folder), "-aet", "VOXELNODE"]
    for _ in range(5):  # somebody else may take the free port before storescp does
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        with subprocess.Popen([needs("storescp"), *accepts_all, str(port)]) as process:
            try:
                until(lambda process=process, port=port: process.poll() is not None or is_answered(port))
                if process.poll() is None:
                    yield port, folder
                    return
            finally:
                process.terminate()
    pytest.fail("storescp did not start")


def at_rest(folder: Path) -> list[bytes]:
    return sorted(after_file_meta(path.read_bytes()) for path in folder.iterdir())


@pytest.mark.sample(3)
@pytest.mark.peer
@pytest.mark.parametrize("name", PROPOSE)
def test_what_dcmtk_sends_is_stored_as_dcmtk_does_it(node: Running, reference: tuple[int, Path], name: str) -> None:
    # DCMTK encodes data sets anew, so the file is no measure: its own bit-preserving receiver is.
    port, folder = reference
    path = str(shipped(name))
    for target in (node.port, port):
        run(needs("storescu"), "-R", PROPOSE[name], "-aec", "VOXELNODE", "127.0.0.1", str(target), path)
    assert list(node.stored_data_sets().values()) == at_rest(folder)
    assert node.count("c_store_answers_total{status=0x0000}") == 1


@pytest.mark.slow
@pytest.mark.peer
@pytest.mark.parametrize("nodelay", ["0", "1"], ids=["with Nagle", "without Nagle"])
def test_a_series_by_dcmsend_is_stored_as_dcmtk_itself_stores_it(
    node: Running, reference: tuple[int, Path], tmp_path: Path, nodelay: str
) -> None:
    port, folder = reference
    files = list(map(str, saved(ct_series(8), tmp_path)))
    for target in (node.port, port):
        run(needs("dcmsend"), "-aec", "VOXELNODE", "127.0.0.1", str(target), *files, TCP_NODELAY=nodelay)
    assert sorted(node.stored_data_sets().values()) == at_rest(folder)
    assert len(node.rows()) == 8


@pytest.mark.peer
def test_echoscu_is_answered(node: Running) -> None:
    run(needs("echoscu"), node.host, str(node.port))
    assert node.settled()


@pytest.mark.sample(3)
@pytest.mark.parametrize("name", [*PROPOSE, "MR_small.dcm"])
def test_our_own_sender_sends_the_bytes_of_the_file(node: Running, name: str) -> None:
    assert send_files([shipped(name)], node.address, "SENDER") == 1
    assert list(node.stored_data_sets().values()) == [after_file_meta(shipped(name).read_bytes())]
    assert [row["calling_ae_title"] for row in node.rows()] == ["SENDER"]


@pytest.mark.slow
def test_more_kinds_than_one_association_can_hold_are_sent_in_several(node: Running, tmp_path: Path) -> None:
    kinds = (instance(sop_class_uid=f"1.2.826.0.1.3680043.9.7.{number + 1}") for number in range(130))
    assert send_files(saved(kinds, tmp_path), node.address, "SENDER") == 130
    assert len(node.rows()) == 130
    assert node.settled()
    assert node.count("associations_total{outcome=released}") == 3


def test_a_refused_context_names_the_file(node: Running, tmp_path: Path) -> None:
    path = tmp_path / "private.dcm"
    ds = ct_series(1)[0]
    ds.file_meta.TransferSyntaxUID = "1.2.826.0.1.3680043.9.7.1"
    ds.save_as(path, enforce_file_format=True, implicit_vr=False, little_endian=True)
    with pytest.raises((SendFailed, NoAssociation), match=r"private\.dcm|no presentation context"):
        send_files([path], node.address, "SENDER")


def test_verification_measures_and_explains(node: Running, start_node: StartNode) -> None:
    assert 0 < verify(node.address, "SENDER", 5) < 5
    strict = start_node(require_called_ae_title=True)
    with pytest.raises(NoAssociation, match="called ae title not recognised"):
        verify(replace(strict.address, ae_title="OTHER"), "SENDER", 5)
    strict.listener.drain(5)
    with pytest.raises(NoAssociation, match="does not answer"):
        verify(strict.address, "SENDER", 5)
