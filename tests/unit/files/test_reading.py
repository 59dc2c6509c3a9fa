"""Reading instances: the data sets that pydicom's own reader gives."""

import tracemalloc
from copy import deepcopy
from io import BytesIO
from pathlib import Path
from random import Random

import numpy as np
import pydicom
import pydicom.data
import pytest
from pydicom import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from node.dicom import header
from node.dicom.reading import LONG_PIXELS, FileBytes, stored_bytes
from node.dicom.values import PrivateTag, private_items
from node.errors import NotUnderstood
from node.files import reading
from node.files.reading import HEAD_BYTES, read_instance
from tests import make
from tests.make import PYDICOM_FILES, ct_series


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # what pydicom says of the values of odd files
def test_files_give_what_pydicom_reads() -> None:
    seen = 0
    for path in sorted(PYDICOM_FILES.rglob("*.dcm")):
        try:
            expected = pydicom.dcmread(path, force=True)
        except Exception as error:  # a file that cannot be read
            with pytest.raises(type(error)):
                read_instance(path)
            continue
        ds = read_instance(path)
        assert ds == expected, path.name
        assert ds.file_meta.get("TransferSyntaxUID") == expected.file_meta.get("TransferSyntaxUID"), path.name
        seen += 1
    assert seen > 50


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_every_native_encoding_is_read(tmp_path: Path, syntax: str) -> None:
    [ds] = ct_series(1)
    ds.file_meta.TransferSyntaxUID = syntax
    implicit, little = syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
    pydicom.dcmwrite(tmp_path / "one.dcm", ds, implicit_vr=implicit, little_endian=little, enforce_file_format=True)
    assert read_instance(tmp_path / "one.dcm") == pydicom.dcmread(tmp_path / "one.dcm")


def saved(folder: Path, pixels: bytes = bytes(range(256)) * 512, **elements: object) -> Path:
    """A slice of 256 x 256, whose pixels are longer than what stays in memory."""
    [ds] = ct_series(1)
    ds.Rows = ds.Columns = 256
    ds.PixelData = pixels
    make.changed(ds, **elements)
    ds.save_as(folder / "one.dcm", enforce_file_format=True)
    return folder / "one.dcm"


def nested() -> list[Dataset]:
    item = make.dataset(ReferencedSOPInstanceUID="1.2.3")
    item.is_undefined_length_sequence_item = True
    return [item]


def test_long_pixels_stay_in_their_file_until_they_are_asked_for(tmp_path: Path) -> None:
    path = saved(tmp_path)
    ds = read_instance(path)
    assert ds.get_item("PixelData", keep_deferred=True).value is None
    data, undefined = stored_bytes(ds, "PixelData")
    assert isinstance(data, FileBytes)
    assert len(data) == 2 * LONG_PIXELS
    assert not undefined
    assert data[250:260] == bytes([250, 251, 252, 253, 254, 255, 0, 1, 2, 3])
    assert data[:] == ds.PixelData == pydicom.dcmread(path).PixelData


def test_a_file_that_became_shorter_gives_no_pixels(tmp_path: Path) -> None:
    path = saved(tmp_path)
    data, _ = stored_bytes(read_instance(path), "PixelData")
    path.write_bytes(path.read_bytes()[:-1])
    assert data is not None
    with pytest.raises(EOFError):
        data[:]


def test_pixels_that_are_cut_off_are_reported_as_long_as_they_are(tmp_path: Path) -> None:
    path = saved(tmp_path)
    path.write_bytes(path.read_bytes()[:-1000])
    data, _ = stored_bytes(read_instance(path), "PixelData")
    assert len(data) == 2 * LONG_PIXELS - 1000


@pytest.mark.sample(4)
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize(
    "elements",
    [
        {"ReferencedImageSequence": nested()},
        {"ImageComments": "x" * 9000, "ReferencedImageSequence": nested() * 2000},
        {"DataSetTrailingPadding": bytes(100)},
        {"SpecificCharacterSet": "ISO_IR 100", "PatientName": "Müller", "ReferencedImageSequence": nested()},
    ],
    ids=["sequence", "long-header", "trailing-padding", "character-set"],
)
def test_what_stands_around_long_pixels_is_read(tmp_path: Path, elements: dict[str, object], syntax: str) -> None:
    path = saved(tmp_path, **elements)
    ds = pydicom.dcmread(path)
    if "ReferencedImageSequence" in ds:
        ds["ReferencedImageSequence"].is_undefined_length = True
    ds.file_meta.TransferSyntaxUID = syntax
    pydicom.dcmwrite(path, ds, implicit_vr=syntax == ImplicitVRLittleEndian, little_endian=True)
    found, expected = read_instance(path), pydicom.dcmread(path)
    assert stored_bytes(found, "PixelData")[0][:] == expected.PixelData  # type: ignore[index]
    assert found == expected
    if "ImageComments" in elements:
        assert len(path.read_bytes()) - 2 * LONG_PIXELS > HEAD_BYTES
    if "PatientName" in elements:
        assert found.PatientName == "Müller"


@pytest.mark.parametrize("pixels", [100, 2 * LONG_PIXELS], ids=["short-pixels", "long-pixels"])
@pytest.mark.parametrize("distance", range(-14, 16, 2))
def test_what_is_read_first_may_end_at_any_byte_of_the_header(tmp_path: Path, distance: int, pixels: int) -> None:
    """Also between two elements: what follows is read too."""
    path = saved(tmp_path, bytes(pixels))

    def padded(length: int) -> int:
        """Write the file with a private element of this length; return where the element behind it begins."""
        ds = pydicom.dcmread(path)
        ds.add_new(0x00190010, "LO", "EXAMPLE")
        ds.add_new(0x00191010, "OB", bytes(length))
        ds.save_as(path)
        return pydicom.dcmread(path)["StudyInstanceUID"].file_tell - 8

    assert padded(HEAD_BYTES + distance - padded(0)) == HEAD_BYTES + distance
    assert read_instance(path) == pydicom.dcmread(path)


@pytest.mark.sample(20)
@pytest.mark.diagonal
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize("error", [-100_000, *range(-31, 80), 300, 1_000_000])
def test_a_wrong_group_length_is_forgiven(tmp_path: Path, error: int, syntax: str) -> None:
    """Too short, too long, within an element, and with elements of the data set: the group ends where it ends."""
    [ds] = ct_series(1)
    path = tmp_path / "one.dcm"
    ds.file_meta.TransferSyntaxUID = syntax
    ds.save_as(path, enforce_file_format=True)
    data = bytearray(path.read_bytes())
    data[140:144] = max(int.from_bytes(data[140:144], "little") + error, 0).to_bytes(4, "little")
    path.write_bytes(data)
    found = read_instance(path)
    assert found == ds
    assert found.file_meta.MediaStorageSOPInstanceUID == ds.SOPInstanceUID


def test_a_private_sequence_that_lost_its_representation_is_read_from_its_bytes() -> None:
    item, nested = Dataset(), BytesIO()
    item.ImagePositionPatient = ["1", "2", "3"]
    pydicom.dcmwrite(nested, make.dataset(ReferencedImageSequence=[item]), implicit_vr=True, little_endian=True)
    ds = Dataset()
    ds.add_new(0x00650042, "LO", "Image Private Header")
    ds.add_new(0x00654251, "UN", nested.getvalue()[8:])  # behind tag and length of the sequence
    [found] = private_items(ds, PrivateTag(0x0065, "Image Private Header", 0x51, "SQ"))
    assert found.ImagePositionPatient == [1, 2, 3]


def test_a_file_like_the_one_before_gives_its_own_values(tmp_path: Path) -> None:
    changes: list[dict[str, object]] = [
        {},
        {"PatientName": "Other^Name", "InstanceNumber": 12345},  # other lengths: all that follows is moved
        {"PatientName": None, "SeriesDescription": "one more"},
        {"ReferencedImageSequence": nested()},
        {"Rows": 256, "BurnedInAnnotation": "NO"},
        {},
    ]
    for turn, elements in enumerate(changes):
        (tmp_path / str(turn)).mkdir()
        path = saved(tmp_path / str(turn), bytes([turn]) * 2 * LONG_PIXELS, **elements)
        assert read_instance(path) == pydicom.dcmread(path)


@pytest.mark.slow
def test_files_of_a_series_give_their_own_values_however_they_differ(tmp_path: Path) -> None:
    """Runs of elements grow over the files that are alike, break where one differs, and grow again."""
    random = Random(0)
    [ds] = ct_series(1)
    changes = [("PatientName", "A", "A^Longer"), ("StudyTime", "10", "1011"), ("KVP", 80, None), ("Rows", 16, 512)]
    for turn in range(100):
        for keyword, *values in random.sample(changes, random.choice((0, 0, 1, 2))):
            setattr(ds, keyword, random.choice(values))
        for keyword, value in (("BodyPartExamined", "HEAD"), ("StudyID", "7")):
            if random.random() < 0.1:
                setattr(ds, keyword, value) if keyword not in ds else delattr(ds, keyword)
        ds.InstanceNumber = turn
        ds.save_as(tmp_path / "1.dcm", enforce_file_format=True)
        read = read_instance(tmp_path / "1.dcm")
        assert list(read.keys()) == sorted(read.keys())
        assert read == pydicom.dcmread(tmp_path / "1.dcm")


@pytest.mark.parametrize("cut", [1, 2, 9, 100])
def test_a_file_that_ends_within_an_element_of_the_one_before_is_read_as_by_pydicom(tmp_path: Path, cut: int) -> None:
    [ds] = ct_series(1)
    ds.PixelData = None
    del ds.PixelData
    ds.save_as(tmp_path / "whole.dcm", enforce_file_format=True)
    (tmp_path / "cut.dcm").write_bytes((tmp_path / "whole.dcm").read_bytes()[:-cut])
    read_instance(tmp_path / "whole.dcm")
    outcomes = []
    for read in (read_instance, pydicom.dcmread):
        try:
            outcomes.append(read(tmp_path / "cut.dcm"))
        except Exception as error:
            outcomes.append(type(error))
    assert outcomes[0] == outcomes[1]


def test_data_sets_that_share_elements_change_alone(tmp_path: Path) -> None:
    [ds] = ct_series(1)
    ds.save_as(tmp_path / "one.dcm", enforce_file_format=True)
    first, second = read_instance(tmp_path / "one.dcm"), read_instance(tmp_path / "one.dcm")
    assert first.get_item("ImagePositionPatient") is second.get_item("ImagePositionPatient")
    first.ImagePositionPatient[0] = 7
    first.PatientName = "Another"
    first.file_meta.ImplementationVersionName = "ANOTHER"
    del first.StudyDate
    assert second == pydicom.dcmread(tmp_path / "one.dcm")
    assert second.file_meta.ImplementationVersionName != "ANOTHER"


def test_a_long_deflated_data_set_is_read_frame_by_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ds = make.enhanced_mr(60, pixels=np.random.default_rng(57).integers(0, 4096, (60, 128, 128)).astype("<u2"))
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    path = tmp_path / "long.dcm"
    ds.save_as(path, enforce_file_format=True)
    expected = pydicom.dcmread(path)
    assert read_instance(path) == expected
    monkeypatch.setattr(reading, "MAX_INFLATED_AT_ONCE", len(ds.PixelData) // 2)
    tracemalloc.start()
    found = read_instance(path)
    stored, _ = stored_bytes(found, "PixelData")
    frame_bytes = 2 * 128 * 128
    for number in (*range(60), 3, 59, 58):
        start = number * frame_bytes
        assert stored[start : start + frame_bytes] == expected.PixelData[start : start + frame_bytes]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000, "a window of what is deflated, and one of what is inflated"
    assert deepcopy(found) == found == expected
    assert found.file_meta.TransferSyntaxUID == DeflatedExplicitVRLittleEndian


def test_a_short_read_of_deflated_bytes_copies_no_window(tmp_path: Path) -> None:
    ds = make.enhanced_mr(2, pixels=np.zeros((2, 512, 512), "<u2"))
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    ds.save_as(tmp_path / "one.dcm", enforce_file_format=True)
    file = reading.inflated_file(tmp_path / "one.dcm")
    at = len(file.meta)
    file.read_at(at, 8)
    tracemalloc.start()
    file.read_at(at + 8, 8)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < header.WINDOW_BYTES // 8, "a header with many frames has many elements"


@pytest.mark.parametrize("is_bomb", [False, True])
def test_a_long_deflated_data_set_without_frames_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_bomb: bool
) -> None:
    ds = make.structured_report()
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    ds.add_new(0x00091001, "OB", bytes(1_000_000))
    ds.save_as(tmp_path / "one.dcm", enforce_file_format=True)
    monkeypatch.setattr(header, "MAX_INFLATED_BYTES", 500_000 if is_bomb else 2_000_000)
    monkeypatch.setattr(reading, "MAX_INFLATED_AT_ONCE", 400_000)
    monkeypatch.setattr(reading, "MAX_DEFLATED_HEAD_BYTES", 1000)
    with pytest.raises(NotUnderstood, match=f"more than {500_000 if is_bomb else 400_000} bytes: send it in Explicit"):
        read_instance(tmp_path / "one.dcm")
