"""Private elements whose VR is NUL NUL, two spaces or ``??``: kept byte for byte, and read as UN."""

from __future__ import annotations

import struct
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pydicom.filereader import read_dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, build_role, evt

from node.dicom.json_model import json_model
from node.dicom.uids import STUDY_ROOT_GET
from node.files.reading import read_instance
from node.volume.read.transcoding import transcoded
from tests.make import ct_series
from tests.protocol.conftest import CT_IMAGE_STORAGE, Raw, Running, data_set_bytes, identifier

VRS = (b"\0\0", b"  ", b"??")
"""As de-identifiers and old scanners write them; DCMTK and Orthanc keep such instances."""


def element(vr: bytes) -> bytes:
    return struct.pack("<HH2sH", 0x0009, 0x1001, vr, 4) + b"abcd"


def with_element(data: bytes, vr: bytes) -> bytes:
    """A data set with a private element on top, and one in an item of a private sequence."""
    creator = struct.pack("<HH2sH", 0x0009, 0x0010, b"LO", 8) + b"NOBODY 1"
    item = struct.pack("<HHL", 0xFFFE, 0xE000, len(creator) + 12) + creator + element(vr)
    sequence = struct.pack("<HH2sxxL", 0x0009, 0x1002, b"SQ", len(item)) + item
    at = data.index(struct.pack("<HH2s", 0x0010, 0x0010, b"PN"))
    return data[:at] + creator + element(vr) + sequence + data[at:]


def got(node: Running, study: str, syntax: str) -> bytes:
    """The data set of the only instance, by C-GET."""
    stored: list[bytes] = []

    def store(event: evt.Event) -> int:
        stored.append(event.request.DataSet.getvalue())
        return 0

    ae = AE("ASKER")
    ae.add_requested_context(STUDY_ROOT_GET)
    ae.add_requested_context(CT_IMAGE_STORAGE, syntax)
    role = build_role(CT_IMAGE_STORAGE, scp_role=True)
    assoc = ae.associate(node.host, node.port, ext_neg=[role], evt_handlers=[(evt.EVT_C_STORE, store)])
    assert [
        status.Status for status, _ in assoc.send_c_get(identifier("STUDY", StudyInstanceUID=study), STUDY_ROOT_GET)
    ][-1] == 0
    assoc.release()
    [data] = stored
    return data


def private(ds: Dataset) -> list[tuple[str, bytes]]:
    both = ds[0x0009, 0x1001], ds[0x0009, 0x1002].value[0][0x0009, 0x1001]
    return [(str(element.VR), element.value) for element in both]


@pytest.mark.own_acceptor
@pytest.mark.parametrize("vr", VRS)
def test_a_private_element_without_a_vr_is_kept_and_read_as_un(
    start_node: Callable[..., Running], vr: bytes, tmp_path: Path
) -> None:
    node, [ds] = start_node(), ct_series(1)
    data = with_element(data_set_bytes(ds), vr)
    with Raw(node).associate() as peer:
        assert peer.store(ds.SOPInstanceUID, data) == 0
    assert got(node, ds.StudyInstanceUID, ExplicitVRLittleEndian) == data  # byte for byte
    implicit = read_dataset(BytesIO(got(node, ds.StudyInstanceUID, ImplicitVRLittleEndian)), True, True)
    assert implicit[0x0009, 0x1001].value == b"abcd"
    assert implicit[0x0009, 0x1002].value.endswith(b"\4\0\0\0abcd")  # an item in implicit VR (PS3.5 6.2.2)
    assert implicit.PixelData == ds.PixelData
    [row] = node.rows("SELECT path FROM v_images")
    for read in (dcmread(row["path"]), read_instance(Path(row["path"]))):
        assert private(read) == [("UN", b"abcd")] * 2
        assert read.PixelData == ds.PixelData
    with Path(row["path"]).open("rb") as file:
        again = read_dataset(BytesIO(transcoded(file, ExplicitVRLittleEndian)), False, True)
    assert private(again) == [("UN", b"abcd")] * 2
    model = json_model(dcmread(row["path"]), lambda path: None)
    assert model["00091001"] == {"vr": "UN", "InlineBinary": "YWJjZA=="}
