"""Where pixel data lie, and single frames of them."""

import json
import random
import struct
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread, dcmwrite
from pydicom.encaps import encapsulate, encapsulate_extended, generate_frames
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from node.dicom.values import CONVERSION_ERRORS
from node.extensions.dicomweb.pixel_element import (
    FrameNotFound,
    PixelElement,
    header_and_pixels,
    nearby_pixels,
    single_frame,
)
from tests import make
from tests.make import PYDICOM_FILES


@pytest.mark.parametrize("name", ["MR_small_implicit.dcm", "CT_small.dcm", "MR_small_bigendian.dcm", "rtdose_expb.dcm"])
def test_native_frames_are_read_alone_and_in_little_endian(name: str) -> None:
    element = header_and_pixels(PYDICOM_FILES / name)[1]
    assert not element.encapsulated
    ds = dcmread(PYDICOM_FILES / name)
    frames = ds.pixel_array if element.frames > 1 else ds.pixel_array[None]
    for number, frame in enumerate(frames, start=1):
        assert b"".join(element.native_frame(number)) == frame.astype(frame.dtype.newbyteorder("<")).tobytes()


@pytest.mark.filterwarnings("ignore:Expected (im|ex)plicit VR")
@pytest.mark.parametrize(
    ("announced", "is_implicit"), [(ImplicitVRLittleEndian, False), (ExplicitVRLittleEndian, True), (RLELossless, True)]
)
def test_pixels_are_found_in_another_encoding_than_announced(tmp_path: Path, announced: str, is_implicit: bool) -> None:
    [ds] = make.ct_series(1, rows=300, columns=200)
    pixels = ds.pixel_array.tobytes()
    if announced == RLELossless:
        ds.compress(RLELossless)
    (tmp_path / "one.dcm").write_bytes(make.misencoded(ds, announced, is_implicit=is_implicit))
    header, element = header_and_pixels(tmp_path / "one.dcm")
    assert element is not None
    if announced == RLELossless:
        assert single_frame(header, element, 1).pixel_array.tobytes() == pixels
    else:
        assert b"".join(element.native_frame(1)) == pixels


@pytest.mark.parametrize("syntax", [None, ExplicitVRBigEndian])
def test_frames_of_single_bits_begin_at_a_byte_of_their_own(tmp_path: Path, syntax: str | None) -> None:
    bits = np.random.default_rng(1).integers(0, 2, (5, 3, 7)).astype(np.uint8)  # 21 bits a frame
    ds = make.instance(**({"transfer_syntax_uid": syntax} if syntax else {}))
    make.set_pixels(ds, bits)
    ds.BitsAllocated = ds.BitsStored = 1
    ds.HighBit = 0
    packed = np.packbits(bits.ravel(), bitorder="little").tobytes()
    packed += b"\0" * (len(packed) % 2)
    ds.PixelData = packed if syntax is None else np.frombuffer(packed, "<u2").astype(">u2").tobytes()
    ds["PixelData"].VR = "OW"
    dcmwrite(tmp_path / "bits.dcm", ds, implicit_vr=False, little_endian=syntax is None, enforce_file_format=True)
    element = header_and_pixels(tmp_path / "bits.dcm")[1]
    assert element is not None
    for number, frame in enumerate(bits, start=1):
        found = np.unpackbits(np.frombuffer(b"".join(element.native_frame(number)), np.uint8), bitorder="little")
        np.testing.assert_array_equal(found[:21], frame.ravel())
        assert not found[21:].any()


def test_encapsulated_frames_are_read_alone(tmp_path: Path) -> None:
    ds = dcmread(PYDICOM_FILES / "rtdose_rle.dcm")
    frames = list(generate_frames(ds.PixelData, number_of_frames=15))
    forms = {"table": encapsulate(frames), "bare": encapsulate(frames, has_bot=False)}
    data, offsets, lengths = encapsulate_extended(frames)
    for name, pixel_data in [*forms.items(), ("extended", data)]:
        ds.PixelData = pixel_data
        if name == "extended":
            ds.ExtendedOffsetTable, ds.ExtendedOffsetTableLengths = offsets, lengths
        ds.save_as(tmp_path / name)
        header, element = header_and_pixels(tmp_path / name)
        assert "PixelData" not in header
        assert element.encapsulated
        assert [element.encapsulated_frame(number) for number in range(1, 16)] == frames
        alone = single_frame(header, element, 15)
        assert (alone.NumberOfFrames, header.NumberOfFrames) == (1, 15)
        alone.file_meta.TransferSyntaxUID = RLELossless
        np.testing.assert_array_equal(alone.pixel_array, ds.pixel_array[14])


@pytest.mark.parametrize(
    ("offsets", "is_found"), [((0, 0), True), ((0, 9), True), ((0,), True), ((8, 0), False)], ids=str
)
def test_a_frame_is_found_by_an_offset_table_only_if_that_locates_every_frame(
    tmp_path: Path, offsets: tuple[int, ...], is_found: bool
) -> None:
    ds = dcmread(PYDICOM_FILES / "SC_rgb_rle_2frame.dcm")
    frames = list(generate_frames(ds.PixelData, number_of_frames=2))
    table = struct.pack(f"<2sHL{len(offsets)}L", b"\xfe\xff", 0xE000, 4 * len(offsets), *offsets)
    for fragments in (frames, [*frames, b"more"]):
        ds.PixelData = table + encapsulate(fragments, has_bot=False)[8:]
        ds.save_as(tmp_path / "one.dcm")
        element = header_and_pixels(tmp_path / "one.dcm")[1]
        assert element is not None
        if is_found and fragments is frames:
            assert [element.encapsulated_frame(number) for number in (1, 2)] == frames
        else:
            with pytest.raises(FrameNotFound, match="offset table"):
                element.encapsulated_frame(1)


@pytest.mark.parametrize("number", [0, 16, 10**9])
def test_frames_that_there_are_not_are_not_found(number: int) -> None:
    for name in ("rtdose_expb.dcm", "rtdose_rle.dcm"):
        element = header_and_pixels(PYDICOM_FILES / name)[1]
        assert element is not None
        with pytest.raises(FrameNotFound):
            (element.encapsulated_frame if element.encapsulated else element.native_frame)(number)


def test_pixel_data_that_are_cut_short_hold_the_frames_that_are_whole(tmp_path: Path) -> None:
    (tmp_path / "cut.dcm").write_bytes((PYDICOM_FILES / "rtdose_expb.dcm").read_bytes()[:-100])
    element = header_and_pixels(tmp_path / "cut.dcm")[1]
    assert len(b"".join(element.native_frame(14))) == 10 * 10 * 4
    with pytest.raises(FrameNotFound):
        element.native_frame(15)


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small_RLE.dcm", "MR_small_bigendian.dcm", "rtdose_expb.dcm"])
def test_pixels_behind_a_short_header_are_located_by_the_bounded_reader(name: str) -> None:
    found = nearby_pixels(PYDICOM_FILES / name)
    assert found is not None
    assert found == header_and_pixels(PYDICOM_FILES / name)[1]


@pytest.mark.filterwarnings("ignore")
def test_the_bounded_reader_locates_pixels_where_pydicom_does_or_leaves_them_to_it(tmp_path: Path) -> None:
    """Also in files of which a byte of the header was changed."""
    draw, path, located = random.Random(57), tmp_path / "changed.dcm", 0
    for source in sorted(PYDICOM_FILES.glob("*.dcm")):
        if len(data := source.read_bytes()) > 100_000:
            continue
        for at in (0, *draw.choices(range(400, 2000), k=2)):
            path.write_bytes(data[:at] + draw.choice((b"\0", b"\1", b"\x80", b"U")) + data[at + 1 :])
            found = nearby_pixels(path)
            if found is not None:
                with suppress(*CONVERSION_ERRORS):  # pydicom cannot read the file
                    assert found == header_and_pixels(path)[1], (source.name, at)
                    located += 1
    assert located > 50


def test_no_pixel_data_are_none() -> None:
    assert header_and_pixels(PYDICOM_FILES / "rtplan.dcm")[1] is None


def test_frames_of_a_deflated_file_are_read_from_its_inflated_data_set() -> None:
    path = PYDICOM_FILES / "image_dfl.dcm"
    header, element = header_and_pixels(path)
    assert header.file_meta.TransferSyntaxUID == DeflatedExplicitVRLittleEndian
    assert b"".join(element.native_frame(1)) == dcmread(path).PixelData


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small_RLE.dcm", "MR_small_bigendian.dcm", "image_dfl.dcm"])
def test_a_location_comes_back_from_a_child_as_it_was(name: str) -> None:
    path = PYDICOM_FILES / name
    element = header_and_pixels(path)[1]
    assert element is not None
    tables = replace(element, extended_offsets=(b"\0" * 8, b"\1" * 8))
    assert [PixelElement.from_json(path, each.to_json()) for each in (element, tables)] == [element, tables]


@pytest.mark.parametrize(
    "wrong",
    [
        {"offset": -1},
        {"length": 1 << 62},
        {"offset": 1 << 70},
        {"frames": None},
        {"frames": "1"},
        {"word_bytes": 0},
        {"word_bytes": 1 << 40},
        {"vr": None},
        {"extended_offsets": ["00"]},
        {"extended_offsets": ["zz", "00"]},
    ],
    ids=str,
)
def test_a_location_outside_of_the_file_is_not_believed(wrong: dict[str, object]) -> None:
    path = PYDICOM_FILES / "CT_small.dcm"
    element = header_and_pixels(path)[1]
    assert element is not None
    with pytest.raises(ValueError):  # noqa: PT011 - of json, of bytes.fromhex, or ours
        PixelElement.from_json(path, json.dumps(json.loads(element.to_json()) | wrong).encode())
