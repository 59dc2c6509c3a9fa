"""What is shown of a file, whole, private, nested, damaged or none at all."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian

from node.dicom import dump as module
from node.dicom.dump import ALL, Dump, DumpedElement, DumpLimits
from tests import make


def saved(ds: Dataset, path: Path, transfer_syntax_uid: str | None = None) -> Path:
    if transfer_syntax_uid is not None:
        ds.file_meta.TransferSyntaxUID = transfer_syntax_uid
    ds.save_as(path, enforce_file_format=True)
    return path


def dump(path: Path, limits: DumpLimits = ALL) -> Dump:
    with path.open("rb") as file:
        return module.dump(file, limits)


def by_tag(elements: tuple[DumpedElement, ...]) -> dict[str, DumpedElement]:
    return {element.tag: element for element in elements}


def image() -> Dataset:
    ds = make.ct_series(1, rows=10, columns=20, PatientName="Müller^Jürgen", SpecificCharacterSet="ISO_IR 192")[0]
    block = ds.private_block(0x0019, "SIEMENS MR HEADER", create=True)
    block.add_new(0x0C, "IS", "1000")
    ds.private_block(0x0099, "NOBODY KNOWS", create=True).add_new(0x01, "LO", "words")
    inner = make.dataset(CodeValue="T-1")
    reference = make.dataset(ReferencedSOPInstanceUID="1.2.3", PurposeOfReferenceCodeSequence=[inner])
    ds.ReferencedImageSequence = [reference, Dataset()]
    return ds


@pytest.mark.parametrize("syntax", [None, ImplicitVRLittleEndian])
def test_names_values_and_nesting_are_shown_and_of_pixels_the_length(tmp_path: Path, syntax: str | None) -> None:
    ds = image()
    dumped = dump(saved(ds, tmp_path / "a.dcm", syntax))
    assert dumped.error is None
    shown = by_tag(dumped.elements)
    assert shown["(0010,0010)"].values == ("Müller^Jürgen",)
    assert shown["(0008,0008)"] == DumpedElement(
        "(0008,0008)", "CS", "ImageType", values=("ORIGINAL", "PRIMARY", "AXIAL")
    )
    assert shown["(0028,0010)"].values == (10,)
    assert shown["(0002,0010)"].values == (ds.file_meta.TransferSyntaxUID,)
    first, second = shown["(0008,1140)"].items
    assert (second, by_tag(first)["(0008,1155)"].values) == ((), ("1.2.3",))
    ((code,),) = by_tag(first)["(0040,A170)"].items
    assert (code.keyword, code.values) == ("CodeValue", ("T-1",))
    known, unknown = shown["(0019,100C)"], shown["(0099,1001)"]
    assert (known.creator, known.keyword, known.values) == ("SIEMENS MR HEADER", "B_value", (1000,))
    assert (unknown.creator, unknown.keyword, unknown.values) == ("NOBODY KNOWS", "", ("words",))
    assert (shown["(7FE0,0010)"].values, shown["(7FE0,0010)"].length) == ((), 400)


def test_big_endian_is_read_as_such() -> None:
    shown = by_tag(dump(Path(str(get_testdata_file("ExplVR_BigEnd.dcm")))).elements)
    assert shown["(0028,0010)"].values == (60,)


def test_long_values_stay_in_the_file(tmp_path: Path) -> None:
    path = saved(make.ct_series(1, pixels=np.zeros((1, 1024, 1024), np.int16))[0], tmp_path / "a.dcm")
    assert by_tag(dump(path).elements)["(7FE0,0010)"].length == 2 << 20


@pytest.mark.parametrize("defer", [10, 1 << 20])
def test_compressed_pixels_are_as_long_as_their_fragments(monkeypatch: pytest.MonkeyPatch, defer: int) -> None:
    path = Path(str(get_testdata_file("JPEG2000.dcm")))
    monkeypatch.setattr(module, "DEFER_BYTES", defer)
    length = by_tag(dump(path).elements)["(7FE0,0010)"].length
    assert length is not None
    assert 0 < dcmread(path)["PixelData"].value.__len__() - length <= 8 * 3  # items of table, fragment, and end


@pytest.mark.parametrize("kept", [-1, -399, -401, -405, -700])
def test_of_a_file_that_was_cut_all_is_shown_up_to_there(tmp_path: Path, kept: int) -> None:
    path = saved(image(), tmp_path / "a.dcm")
    path.write_bytes(path.read_bytes()[:kept])
    dumped = dump(path)
    assert by_tag(dumped.elements)["(0010,0010)"].values == ("Müller^Jürgen",)
    if kept > -400:
        assert dumped.error == "the file ends within (7FE0,0010)"
        assert by_tag(dumped.elements)["(7FE0,0010)"].error == f"only {400 + kept} of 400 bytes are present"


def test_a_value_that_cannot_be_read_leaves_the_others(tmp_path: Path) -> None:
    ds = image()
    stream = BytesIO()
    ds.save_as(stream, enforce_file_format=True)
    path = tmp_path / "a.dcm"
    path.write_bytes(stream.getvalue().replace(b"US\x02\0\x0a\0", b"FD\x02\0\x0a\0"))
    shown = by_tag(dump(path).elements)
    assert shown["(0028,0010)"].error == "value cannot be read (BytesLengthException)"
    assert shown["(0028,0011)"].values == (20,)


def test_an_element_that_ends_the_parser_leaves_what_comes_before(tmp_path: Path) -> None:
    path = saved(image(), tmp_path / "a.dcm", ImplicitVRLittleEndian)
    broken = path.read_bytes().replace(b"\x08\0\x40\x11", b"\x08\0\x40\x11\xff\xff\xff\xff\x08\0", 1)
    path.write_bytes(broken)
    dumped = dump(path)
    assert dumped.error is not None
    assert "(0008,1140)" in dumped.error
    assert "(0008,0060)" in by_tag(dumped.elements)


def test_sequences_without_end_are_shown_to_a_depth(tmp_path: Path) -> None:
    inner = Dataset()
    for _ in range(100):
        inner = make.dataset(ContentSequence=[inner])
    ds = make.structured_report()
    ds.ContentSequence = [inner]
    (one,) = (
        element for element in dump(saved(ds, tmp_path / "a.dcm")).elements if element.keyword == "ContentSequence"
    )
    depth = 0
    while one.items:
        ((one,),) = one.items
        depth += 1
    assert depth == module.MAX_NESTING
    assert one.error == f"nested deeper than {module.MAX_NESTING} sequences"


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
    assert by_tag(deflated.elements)["(0002,0010)"].values == (DeflatedExplicitVRLittleEndian,)
    ds.PixelData = bytes(50_000_000)
    bomb = dump(saved(ds, path), DumpLimits(inflated_bytes=3_000_000))
    assert bomb.error == "only the first 3000000 bytes of the deflated data set are listed"
    assert by_tag(bomb.elements)["(7FE0,0010)"].error is not None
    path.write_bytes(path.read_bytes()[:-10])
    assert by_tag(dump(path).elements)["(0010,0010)"].values == ("Müller^Jürgen",)


def test_elements_of_all_levels_count_in_the_limit_and_values_are_cut(tmp_path: Path) -> None:
    ds = make.dataset(SOPClassUID="1.2", TextValue="x" * 500, RedPaletteColorLookupTableData=b"")
    ds.ContentSequence = [make.dataset(CodeValue="T-1") for _ in range(20)]
    path = saved(make.changed(make.structured_report(), ContentSequence=list(ds.ContentSequence)), tmp_path / "a.dcm")
    total = dump(path)
    cut = dump(path, DumpLimits(elements=15, characters=3))

    def count(elements: tuple[DumpedElement, ...]) -> int:
        return sum(1 + len(one.items) + sum(map(count, one.items)) for one in elements)

    assert count(total.elements) > 40
    assert count(cut.elements) == 15
    assert cut.error == "only the first 15 elements are listed; `voxelnode dump` lists all"
    assert max(len(str(value)) for one in cut.elements for value in one.values) == 3
    every = count(total.elements)
    assert dump(path, DumpLimits(elements=every)).error is None
