"""What is shown of a file, whole, private, nested, damaged or none at all."""

from functools import partial
from pathlib import Path

import pytest
from pydicom import Dataset
from pydicom.data import get_testdata_file
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian

from node.dicom import dump as module
from node.dicom.dump import Dump, DumpedElement, DumpLimits
from node.files.reading import BoundedFile
from tests import make


def saved(ds: Dataset, path: Path, transfer_syntax_uid: str | None = None) -> Path:
    if transfer_syntax_uid is not None:
        ds.file_meta.TransferSyntaxUID = transfer_syntax_uid
    ds.save_as(path, enforce_file_format=True)
    return path


VIEW = partial(BoundedFile, max_bytes=64 << 20)


def dump(path: Path, elements: int = 1000, characters: int = 200, inflated_bytes: int = 1 << 20) -> Dump:
    with path.open("rb") as file:
        return module.dump(file, DumpLimits(elements, characters, inflated_bytes, VIEW))


def by_tag(elements: tuple[DumpedElement, ...]) -> dict[str, DumpedElement]:
    return {element.tag: element for element in elements}


def image() -> Dataset:
    ds = make.ct_series(1, rows=10, columns=20, PatientName="Müller^Jürgen", SpecificCharacterSet="ISO_IR 192")[0]
    ds.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0C, "IS", "1000")
    ds.private_block(0x0099, "NOBODY KNOWS", create=True).add_new(0x01, "LO", "words")
    inner = make.dataset(CodeValue="T-1")
    reference = make.dataset(ReferencedSOPInstanceUID="1.2.3", PurposeOfReferenceCodeSequence=[inner])
    ds.ReferencedImageSequence = [reference, Dataset()]
    return ds


@pytest.mark.parametrize("syntax", [None, ImplicitVRLittleEndian])
def test_elements_are_printed_with_their_nesting_and_without_pixels(tmp_path: Path, syntax: str | None) -> None:
    dumped = dump(saved(image(), tmp_path / "a.dcm", syntax))
    assert dumped.error is None
    shown = by_tag(dumped.elements)
    assert shown["(0010,0010)"].text == "'Müller^Jürgen'"
    assert shown["(0008,0008)"] == DumpedElement(
        0, "(0008,0008)", "CS", "ImageType", "['ORIGINAL', 'PRIMARY', 'AXIAL']"
    )
    assert (shown["(0028,0010)"].text, shown["(0019,100C)"].keyword) == ("10", "[B_value]")
    nested = [(one.depth, one.keyword, one.text) for one in dumped.elements if one.depth]
    assert nested == [
        (1, "item 1", ""),
        (1, "ReferencedSOPInstanceUID", "1.2.3"),
        (1, "PurposeOfReferenceCodeSequence", "<Sequence, length 1>"),
        (2, "item 1", ""),
        (2, "CodeValue", "'T-1'"),
        (1, "item 2", ""),
    ]
    assert shown["(7FE0,0010)"].text == "Array of 400 elements"


def test_big_endian_is_read_as_such() -> None:
    assert by_tag(dump(Path(str(get_testdata_file("ExplVR_BigEnd.dcm")))).elements)["(0028,0010)"].text == "60"


def test_long_values_stay_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DEFER_BYTES", 100)
    for path in (saved(image(), tmp_path / "a.dcm"), Path(str(get_testdata_file("JPEG2000.dcm")))):
        assert by_tag(dump(path).elements)["(7FE0,0010)"].text == "not read: longer than 100 bytes"


@pytest.mark.parametrize("kept", [-1, -399, -401, -405, -700])
def test_of_a_file_that_was_cut_all_is_shown_up_to_there(tmp_path: Path, kept: int) -> None:
    path = saved(image(), tmp_path / "a.dcm")
    path.write_bytes(path.read_bytes()[:kept])
    dumped = dump(path)
    assert by_tag(dumped.elements)["(0010,0010)"].text == "'Müller^Jürgen'"
    if kept > -400:
        assert dumped.error == f"the file ends within (7FE0,0010): only {400 + kept} of 400 bytes are present"


def test_a_value_that_cannot_be_read_leaves_the_others(tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    path.write_bytes(make.as_file(image()).replace(b"US\x02\0\x0a\0", b"FD\x02\0\x0a\0"))
    shown = by_tag(dump(path).elements)
    assert shown["(0028,0010)"].text == "cannot be read (BytesLengthException)"
    assert shown["(0028,0011)"].text == "20"


def test_an_element_that_ends_the_parser_leaves_what_comes_before(tmp_path: Path) -> None:
    path = saved(image(), tmp_path / "a.dcm", ImplicitVRLittleEndian)
    path.write_bytes(path.read_bytes().replace(b"\x08\0\x40\x11", b"\x08\0\x40\x11\xff\xff\xff\xff\x08\0", 1))
    dumped = dump(path)
    assert "(0008,1140)" in dumped.error
    assert "(0008,0060)" in by_tag(dumped.elements)


def test_sequences_without_end_are_shown_to_a_depth(tmp_path: Path) -> None:
    inner = Dataset()
    for _ in range(100):
        inner = make.dataset(ContentSequence=[inner])
    ds = make.structured_report()
    ds.ContentSequence = [inner]
    dumped = dump(saved(ds, tmp_path / "a.dcm"))
    deepest = max(dumped.elements, key=lambda one: one.depth)
    assert (deepest.depth, deepest.keyword) == (module.MAX_NESTING, "item 1")
    assert f"nested deeper than {module.MAX_NESTING} sequences" in [one.text for one in dumped.elements]


@pytest.mark.parametrize("content", [b"", b"no DICOM", bytes(200), bytes(128) + b"DICM"])
def test_what_is_no_instance_is_an_error_and_no_exception(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a"
    path.write_bytes(content)
    assert dump(path).error


def test_a_deflated_data_set_is_listed_up_to_a_limit(tmp_path: Path) -> None:
    ds = image()
    whole = dump(saved(ds, tmp_path / "plain.dcm"))
    path = saved(ds, tmp_path / "a.dcm", DeflatedExplicitVRLittleEndian)
    deflated = dump(path)
    assert (deflated.elements[-1], deflated.error) == (whole.elements[-1], None)
    assert by_tag(deflated.elements)["(0002,0010)"].text == "Deflated Explicit VR Little Endian"
    ds.PixelData = bytes(50_000_000)
    assert dump(saved(ds, path)).error == "only the first 1048576 bytes of the deflated data set are listed"
    path.write_bytes(path.read_bytes()[:-10])
    assert by_tag(dump(path).elements)["(0010,0010)"].text == "'Müller^Jürgen'"


def test_elements_of_all_levels_count_in_the_limit_and_values_are_cut(tmp_path: Path) -> None:
    content = [make.dataset(CodeValue="T-1", TextValue="x" * 500) for _ in range(20)]
    path = saved(make.changed(make.structured_report(), ContentSequence=content), tmp_path / "a.dcm")
    every = len(dump(path).elements)
    cut = dump(path, 30, 3)
    assert len(cut.elements) == 30 < every
    assert cut.error == "only the first 30 elements are listed"
    assert max(len(one.text) for one in cut.elements) == 3
    assert dump(path, every).error is None
