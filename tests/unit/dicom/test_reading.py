"""Reading instances: the data sets that pydicom's own reader gives."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import pydicom
import pydicom.data
import pytest
from pydicom import Dataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from node.dicom.private import PrivateTag, private_items
from node.dicom.reading import read_instance
from tests.make import ct_series


@pytest.mark.filterwarnings("ignore")  # what pydicom says of the values of odd files
def test_files_give_what_pydicom_reads() -> None:
    seen = 0
    for path in sorted((Path(pydicom.data.__file__).parent / "test_files").rglob("*.dcm")):
        try:
            expected = pydicom.dcmread(path, force=True)
        except Exception as error:  # a file that cannot be read
            with pytest.raises(type(error)):
                read_instance(path)
            continue
        found = read_instance(path)
        assert found == expected, path.name
        assert found.file_meta.get("TransferSyntaxUID") == expected.file_meta.get("TransferSyntaxUID"), path.name
        seen += 1
    assert seen > 50


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_every_native_encoding_is_read(tmp_path: Path, syntax: str) -> None:
    [ds] = ct_series(1)
    ds.file_meta.TransferSyntaxUID = syntax
    implicit, little = syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
    pydicom.dcmwrite(tmp_path / "one.dcm", ds, implicit_vr=implicit, little_endian=little, enforce_file_format=True)
    assert read_instance(tmp_path / "one.dcm") == pydicom.dcmread(tmp_path / "one.dcm")


def test_a_wrong_group_length_is_forgiven(tmp_path: Path) -> None:
    [ds] = ct_series(1)
    path = tmp_path / "one.dcm"
    ds.save_as(path, enforce_file_format=True)
    data = bytearray(path.read_bytes())
    data[140:144] = (12).to_bytes(4, "little")
    path.write_bytes(data)
    assert read_instance(path).SOPInstanceUID == ds.SOPInstanceUID


def test_a_private_sequence_that_lost_its_representation_is_read_from_its_bytes() -> None:
    item, nested = Dataset(), BytesIO()
    item.ImagePositionPatient = ["1", "2", "3"]
    holder = Dataset()
    holder.ReferencedImageSequence = [item]
    pydicom.dcmwrite(nested, holder, implicit_vr=True, little_endian=True)
    ds = Dataset()
    ds.add_new(0x00650042, "LO", "Image Private Header")
    ds.add_new(0x00654251, "UN", nested.getvalue()[8:])  # behind tag and length of the sequence
    [found] = private_items(ds, PrivateTag(0x0065, "Image Private Header", 0x51, "SQ"))
    assert found.ImagePositionPatient == [1, 2, 3]
