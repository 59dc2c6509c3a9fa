"""Elements whose VR PS3.5 does not know, with 16 or 32 bits of length: kept byte for byte, and read as UN by all."""

import json
import struct
from io import BytesIO
from itertools import product
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pydicom.filereader import read_dataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32, STANDARD_VR
from pynetdicom import AE, build_role, evt

from node.dicom.header import WINDOW_BYTES, read_every, read_header, read_header_by_windows
from node.dicom.json_model import json_model
from node.dicom.uids import STUDY_ROOT_GET
from node.files.reading import read_instance
from node.volume.read.transcoding import transcoded
from tests.make import ct_series
from tests.preloaded import run
from tests.protocol.conftest import CT_IMAGE_STORAGE, Raw, Running, StartNode, data_set_bytes, identifier

VRS = ((b"\0\0", 2), (b"  ", 2), (b"??", 2), (b"lo", 2), (b"L\0", 2), (b"\xff\xff", 2), (b"ZZ", 4))
"""VRs and bytes of their lengths, as de-identifiers and old scanners write them; DCMTK and Orthanc keep them."""

LISTED = {bytes(vr, "ascii"): 4 if vr in EXPLICIT_VR_LENGTH_32 else 2 for vr in STANDARD_VR}


PATIENT_ID = 0x00100020
WANTED = frozenset((0x00091001, PATIENT_ID))


def element(vr: bytes, length_bytes: int, tag: int = 0x00091001, value: bytes = b"abcd") -> bytes:
    return struct.pack("<HH2sH" if length_bytes == 2 else "<HH2sxxL", tag >> 16, tag & 0xFFFF, vr, len(value)) + value


def with_element(data: bytes, vr: bytes, length_bytes: int = 2) -> bytes:
    """A data set with a private element on top, and one in an item of a private sequence."""
    creator = struct.pack("<HH2sH", 0x0009, 0x0010, b"LO", 8) + b"NOBODY 1"
    item = creator + element(vr, length_bytes)
    item = struct.pack("<HHL", 0xFFFE, 0xE000, len(item)) + item
    sequence = struct.pack("<HH2sxxL", 0x0009, 0x1002, b"SQ", len(item)) + item
    at = data.index(struct.pack("<HH2s", 0x0010, 0x0010, b"PN"))
    return data[:at] + creator + element(vr, length_bytes) + sequence + data[at:]


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


@pytest.mark.sample(3)
@pytest.mark.own_acceptor
@pytest.mark.parametrize(("vr", "length_bytes"), VRS)
def test_a_private_element_of_unknown_vr_is_read_as_un(start_node: StartNode, vr: bytes, length_bytes: int) -> None:
    node, [ds] = start_node(), ct_series(1)
    data = with_element(data_set_bytes(ds), vr, length_bytes)
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


@pytest.mark.own_acceptor
@pytest.mark.parametrize("vr", [b"ow", b"\0\0", b"ZZ"])
def test_pixels_of_an_unknown_vr_are_whole_and_can_be_read(start_node: StartNode, vr: bytes) -> None:
    node, [ds] = start_node(), ct_series(1)
    data = data_set_bytes(ds)
    head = struct.pack("<HH", 0x7FE0, 0x0010)
    with Raw(node).associate() as peer:
        assert peer.store(ds.SOPInstanceUID, data.replace(head + b"OW", head + vr)) == 0
    [row] = node.rows("SELECT path FROM v_images")
    read = read_instance(Path(row["path"]))
    assert (read.PixelData, read.pixel_array.tolist()) == (ds.PixelData, ds.pixel_array.tolist())


def of_vr(vr: bytes) -> tuple[bytes, dict[int, bytes]]:
    """All forms of elements of a VR in a public and a private group, and their values."""
    forms = [LISTED[vr]] if vr in LISTED else [2, 4]
    elements = {
        first + number: (length_bytes, value)
        for first in (0x00081010, 0x00091001)
        for number, (length_bytes, value) in enumerate(product(forms, (b"abcd", b"", b"efgh")))
    }
    encoded = (element(vr, length_bytes, tag, value) for tag, (length_bytes, value) in elements.items())
    return b"".join(encoded), {tag: value for tag, (_, value) in elements.items()}


def everywhere(vr: bytes) -> tuple[bytes, dict[int, list[bytes]]]:
    """A data set with these elements on top and in items, and their values."""
    plain, values = of_vr(vr)
    item = struct.pack("<HHL", 0xFFFE, 0xE000, len(plain)) + plain
    open_item = struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF) + plain + struct.pack("<HHL", 0xFFFE, 0xE00D, 0)
    sequence = struct.pack("<HH2sxxL", 0x0009, 0x1100, b"SQ", len(item)) + item
    open_sequence = struct.pack("<HH2sxxL", 0x0009, 0x1101, b"SQ", 0xFFFFFFFF) + open_item
    open_sequence += struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
    return HEAD + plain + sequence + open_sequence + LAST, {tag: [value] * 3 for tag, value in values.items()}


def read_by_pydicom(data: bytes) -> dict[int, list[bytes]]:
    found: dict[int, list[bytes]] = {}

    def collect(ds: Dataset) -> None:
        for tag in list(ds._dict):
            raw = ds.get_item(tag)
            if raw.VR == "SQ":
                for item in ds[tag].value:
                    collect(item)
            elif tag >> 16 in (8, 9) and tag != 0x00080005:
                found.setdefault(int(tag), []).append(raw.value or b"")

    ds = read_dataset(BytesIO(data), False, True)
    assert ds.PatientID == "ID-1"
    collect(ds)
    return found


HEAD, LAST = element(b"CS", 2, 0x00080005, b""), element(b"LO", 2, PATIENT_ID, b"ID-1")


@pytest.mark.parametrize("step", [257, pytest.param(1, marks=pytest.mark.slow)])
def test_any_two_bytes_are_a_vr_and_take_no_other_element_along(step: int) -> None:
    for number in range(0, 1 << 16, step):
        vr = number.to_bytes(2, "big")
        if vr == b"SQ":
            continue
        plain, values = of_vr(vr)
        found = read_header(HEAD + plain + LAST, ExplicitVRLittleEndian, frozenset((*values, PATIENT_ID)))
        assert found == values | {PATIENT_ID: b"ID-1"}, vr


@pytest.mark.parametrize("first", [0, 0x20, 0x4C, 0x5A, 0x6C, 0xFF])
def test_elements_of_any_vr_are_read_in_items_as_well_and_by_pydicom(first: int) -> None:
    for second in (0, 0x20, 0x41, 0x4F, 0x5A, 0x6F, 0xFF):
        data, values = everywhere(vr := bytes((first, second)))
        found = read_every(data, ExplicitVRLittleEndian, frozenset((*values, PATIENT_ID)))
        assert found == values | {PATIENT_ID: [b"ID-1"]}, vr
        assert read_by_pydicom(data) == values, vr


@pytest.mark.parametrize("length_bytes", [2, 4])
@pytest.mark.parametrize("value", [b"", b"abcd"])
def test_a_head_may_lie_across_what_is_read_at_once(length_bytes: int, value: bytes) -> None:
    for vr in (b"lo", b"ZZ", b"\0\0"):
        encoded = element(vr, length_bytes, 0x00091001, value) + LAST
        for before in range(WINDOW_BYTES - len(encoded), WINDOW_BYTES + 1):
            filling = HEAD + element(b"OB", 4, 0x00081010, bytes(before - len(HEAD) - 12))
            data = memoryview(filling + encoded)
            found = read_header_by_windows(
                lambda at, length, data=data: bytes(data[at : at + length]), ExplicitVRLittleEndian, WANTED
            )
            assert found.elements == {0x00091001: value, PATIENT_ID: b"ID-1"}, (vr, before)


def test_in_big_endian_as_well() -> None:
    data = struct.pack(">HH2sH", 0x0009, 0x1001, b"lo", 4) + b"abcd" + struct.pack(">HH2sxxL", 0x0009, 0x1002, b"ZZ", 4)
    data += b"efgh" + struct.pack(">HH2sH", 0x0010, 0x0020, b"LO", 4) + b"ID-1"
    wanted = frozenset((0x00091001, 0x00091002, PATIENT_ID))
    assert list(read_header(data, ExplicitVRBigEndian, wanted).values()) == [b"abcd", b"efgh", b"ID-1"]
    assert read_dataset(BytesIO(data), False, False).PatientID == "ID-1"


@pytest.mark.slow
def test_every_command_reads_such_files(tmp_path: Path) -> None:
    scan = tmp_path / "scan"
    scan.mkdir()
    for number, (ds, (vr, length_bytes)) in enumerate(zip(ct_series(len(VRS)), VRS, strict=True)):
        whole = BytesIO()
        ds.save_as(whole, enforce_file_format=True)
        content, plain = whole.getvalue(), data_set_bytes(ds)
        assert content.endswith(plain)
        (scan / f"{number}.dcm").write_bytes(content[: -len(plain)] + with_element(plain, vr, length_bytes))
        dumped = run("dump", scan / f"{number}.dcm", "--json", check=True).stdout
        assert "YWJjZA==" in dumped or "61626364" in dumped or "abcd" in dumped, vr
        pixels = len(ds.PixelData)
    done = run("convert", scan, "-o", tmp_path / "volumes", "--json", check=True)
    assert f'"instances": {len(VRS)}' in done.stdout, done.stdout
    clean = tmp_path / "clean"
    assert run("deidentify", scan, clean).returncode == 0
    kept = [dcmread(path) for path in clean.rglob("*") if path.is_file() and path.suffix == ".dcm"]
    assert [len(ds.PixelData) for ds in kept] == [pixels] * len(VRS)
    root = ("--root", tmp_path / "root")
    done = run("import", *root, scan, "--json", check=True)
    assert json.loads(done.stdout)["stored"] == len(VRS), done.stdout
    assert run("info", ds.SOPInstanceUID, *root).returncode == 0
