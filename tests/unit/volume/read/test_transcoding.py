"""The same values in another transfer syntax; pydicom's own files, which many programs have written."""

import struct
import warnings
from copy import deepcopy
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, dcmread, dcmwrite
from pydicom._private_dict import private_dictionaries
from pydicom.dataset import FileDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from node.dicom.encoding import file_head
from node.volume.read.pixels import frame_reader
from node.volume.read.transcoding import encoded, transcoded
from node.volume.read.transfer_syntaxes import TARGETS, NotTranscodable, choose_target
from tests.make import PYDICOM_FILES, ct_series, instance, rgb_capture, set_pixels

EXPLICIT, IMPLICIT = TARGETS
FILES = (
    "CT_small.dcm", "MR_small_bigendian.dcm", "MR_small_implicit.dcm", "MR_small_expb.dcm", "image_dfl.dcm",
    "JPEG2000.dcm", "693_J2KI.dcm", "MR_small_RLE.dcm", "SC_rgb_rle_2frame.dcm", "SC_rgb_small_odd_big_endian.dcm",
    "SC_ybr_full_422_uncompressed.dcm", "MR_small_jpeg_ls_lossless.dcm", "SC_rgb_jpeg_gdcm.dcm",
    "SC_rgb_dcmtk_+eb+cy+np.dcm", "SC_jpeg_no_color_transform.dcm", "examples_ybr_color.dcm", "JPGExtended.dcm",
    "liver_expb_1frame.dcm", "liver_1frame.dcm", "rtdose_expb_1frame.dcm", "test-SR.dcm", "nested_priv_SQ.dcm",
    "UN_sequence.dcm", "reportsi.dcm", "rtplan.dcm",
)  # fmt: skip


def read(data_set: bytes, target: str) -> FileDataset:
    return dcmread(BytesIO(file_head("1.2.3", "1.2.3.4", target) + data_set))


def in_syntax(path: Path, target: str) -> bytes:
    with path.open("rb") as file:
        return transcoded(file, target)


def saved(ds: FileDataset, folder: Path) -> Path:
    path = folder / "instance.dcm"
    ds.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.diagonal
@pytest.mark.parametrize("target", TARGETS, ids=["explicit", "implicit"])
@pytest.mark.parametrize("name", FILES)
def test_every_element_and_every_pixel_is_what_it_was(name: str, target: str) -> None:
    path = PYDICOM_FILES / name
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, about values that are broken on purpose
        before, after = dcmread(path), read(in_syntax(path, target), target)
        assert_same_elements(before, after, compressed=before.file_meta.TransferSyntaxUID.is_encapsulated)
        if "PixelData" in before and "Rows" in before:
            first, second = frame_reader(before), frame_reader(after)
            assert first.frames == second.frames
            for index in range(min(first.frames, 3)):
                np.testing.assert_array_equal(first(index), second(index))


def assert_same_elements(before: Dataset, after: Dataset, *, compressed: bool) -> None:
    changed = ("PixelData", "PhotometricInterpretation", "PlanarConfiguration") if compressed else ("PixelData",)
    left_out = {element.tag for element in before if element.tag.element == 0}  # group lengths, PS3.5 7.2
    assert set(before.keys()) - left_out == set(after.keys())
    for element in before:
        found = after.get(element.tag)
        if element.keyword in changed or element.tag in left_out:
            continue
        if element.VR == "SQ":
            assert len(element.value) == len(found.value)
            for one, other in zip(element.value, found.value, strict=True):
                assert_same_elements(one, other, compressed=False)
        elif found.VR == element.VR:
            assert found.value == element.value, element.tag


def test_values_that_pydicom_cannot_read_keep_their_bytes(tmp_path: Path) -> None:
    path = saved(ct_series(1)[0], tmp_path)
    name = b"Voxel^Test"
    raw = path.read_bytes()
    assert name in raw
    path.write_bytes(raw.replace(name, b"V\xff\xfe\x81^Tes\x1b("))  # no character set has these
    data_set = in_syntax(path, IMPLICIT)
    assert b"V\xff\xfe\x81^Tes\x1b(" in data_set
    assert struct.pack("<HHL", 0x0010, 0x0010, 10) in data_set


def test_the_text_of_numbers_stays_as_it_was_written(tmp_path: Path) -> None:
    ds = ct_series(1)[0]
    ds.SliceThickness = "2.50"
    ds.RescaleSlope = "+1.000E0"
    path = saved(ds, tmp_path)
    assert b"+1.000E0" in in_syntax(path, IMPLICIT)
    ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    ds.save_as(path, enforce_file_format=True, implicit_vr=True, little_endian=True)
    assert b"DS\x08\x00+1.000E0" in in_syntax(path, EXPLICIT)


def test_private_values_keep_their_bytes_whatever_their_vendor_writes(tmp_path: Path) -> None:
    known = {vr: (creator, tag) for creator, tags in private_dictionaries.items() for tag, (vr, *_) in tags.items()}
    for creator, tag in known.values():
        ds, group, number = ct_series(1)[0], int(tag[:4].replace("x", "1"), 16), 0x1000 | int(tag[-2:], 16)
        ds.add_new((group, 0x10), "LO", creator)
        ds.add_new((group, number), "UN", b" 1.5\0\0\0\0 \0")
        assert struct.pack("<HHL", group, number, 10) + b" 1.5\0\0\0\0 \0" in in_syntax(saved(ds, tmp_path), IMPLICIT)


def test_an_ambiguous_representation_follows_pixel_representation(tmp_path: Path) -> None:
    ds = ct_series(1, transfer_syntax_uid=ImplicitVRLittleEndian)[0]
    ds.SmallestImagePixelValue = -5
    ds["SmallestImagePixelValue"].VR = "SS"
    after = read(in_syntax(saved(ds, tmp_path), EXPLICIT), EXPLICIT)
    assert after["SmallestImagePixelValue"].VR == "SS"
    assert after.SmallestImagePixelValue == -5
    assert after["PixelData"].VR == "OW"


@pytest.mark.parametrize("was_changed", [False, True])
def test_words_of_every_width_change_their_order(tmp_path: Path, was_changed: bool) -> None:
    ds = instance(transfer_syntax_uid=ExplicitVRBigEndian)
    ds.BitsAllocated = 64
    ds.SelectorFDValue, ds.SelectorFLValue, ds.SelectorULValue = 1.5, [2.5, 3.5], 70000
    ds.SelectorSSValue, ds.SelectorUVValue, ds.SelectorATValue = -2, 1 << 40, 0x00100020
    ds.DoubleFloatPixelData = struct.pack(">2d", 0.25, -4.0)
    path = tmp_path / "big.dcm"
    dcmwrite(path, ds, implicit_vr=False, little_endian=False, enforce_file_format=True)
    stored = dcmread(path)
    if was_changed:
        stored.decode()  # as a coercion does that sets a text beyond its character set
    after = read(encoded(stored, IMPLICIT), IMPLICIT)
    assert (after.SelectorFDValue, list(after.SelectorFLValue), after.SelectorULValue) == (1.5, [2.5, 3.5], 70000)
    assert (after.SelectorSSValue, after.SelectorUVValue, after.SelectorATValue) == (-2, 1 << 40, 0x00100020)
    assert struct.unpack("<2d", after.DoubleFloatPixelData) == (0.25, -4.0)


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_what_describes_the_frames_is_set_right(tmp_path: Path, syntax: UID) -> None:
    native = rgb_capture(64, 64, frames=2)
    expected = native.PixelData
    native.compress(
        syntax, encoding_plugin="pydicom" if syntax == RLELossless else "pylibjpeg", generate_instance_uid=False
    )
    native.ExtendedOffsetTable = native.ExtendedOffsetTableLengths = struct.pack("<2Q", 0, 100)
    native.PlanarConfiguration = 1
    uid = native.SOPInstanceUID
    after = read(in_syntax(saved(native, tmp_path), EXPLICIT), EXPLICIT)
    assert (after.PhotometricInterpretation, after.PlanarConfiguration, after.NumberOfFrames) == ("RGB", 0, 2)
    assert "ExtendedOffsetTable" not in after
    assert "ExtendedOffsetTableLengths" not in after
    assert after.PixelData == expected
    assert not after["PixelData"].is_undefined_length
    assert after.SOPInstanceUID == uid


def with_icon(fragments: bytes | None = None) -> FileDataset:
    """An image in RLE whose icon is in RLE too, or is of `fragments`, and which has another compressed image inside."""
    ds, icon = ct_series(1)[0], Dataset()
    set_pixels(icon, np.arange(16, dtype=np.uint8).reshape(4, 4))
    icon.file_meta = deepcopy(ds.file_meta)
    for one in (ds, icon):
        one.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
    other = deepcopy(icon)
    if fragments is not None:
        icon.PixelData = fragments
    del icon.file_meta, other.file_meta  # items have none
    outer = Dataset()
    outer.ReferencedImageBoxSequence = [other]
    ds.IconImageSequence, ds.SourceImageSequence = [icon], [outer]
    return ds


@pytest.mark.parametrize("target", TARGETS)
def test_pixels_within_sequences_are_decompressed_too(tmp_path: Path, target: str) -> None:
    after = read(in_syntax(saved(with_icon(), tmp_path), target), target)
    for item in (after.IconImageSequence[0], after.SourceImageSequence[0].ReferencedImageBoxSequence[0]):
        assert (item.PixelData, item["PixelData"].is_undefined_length) == (bytes(range(16)), False)


def test_an_icon_that_cannot_be_decoded_is_left_out_and_another_image_fails(tmp_path: Path) -> None:
    ds = with_icon(encapsulate([b"not RLE!"]))
    after = read(in_syntax(saved(ds, tmp_path), EXPLICIT), EXPLICIT)
    assert "IconImageSequence" not in after
    assert after.SourceImageSequence[0].ReferencedImageBoxSequence[0].PixelData == bytes(range(16))
    ds.SourceImageSequence = ds.pop("IconImageSequence").value
    with pytest.raises(NotTranscodable, match="decompress"):
        in_syntax(saved(ds, tmp_path), EXPLICIT)


def test_bits_above_those_stored_are_kept(tmp_path: Path) -> None:
    ds = instance()
    pixels = np.arange(64, dtype=np.uint16).reshape(8, 8) | 0x8000  # an overlay in the unused bits
    set_pixels(ds, pixels)
    ds.BitsStored, ds.HighBit = 12, 11
    ds.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
    assert read(in_syntax(saved(ds, tmp_path), EXPLICIT), EXPLICIT).PixelData == pixels.tobytes()


def test_an_odd_number_of_bytes_is_padded(tmp_path: Path) -> None:
    ds = instance()
    set_pixels(ds, np.arange(15, dtype=np.uint8).reshape(3, 5))
    ds.PixelData = ds.PixelData[:15] + b"\0"
    ds.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
    after = read(in_syntax(saved(ds, tmp_path), EXPLICIT), EXPLICIT)
    assert after.PixelData == bytes(range(15)) + b"\0"
    assert after["PixelData"].VR == "OB"


@pytest.mark.parametrize(
    ("frames", "why"), [([b"\xff\x4f not JPEG 2000"], "decompress"), ([b"\0" * 64] * 2, "decompress")]
)
def test_frames_that_cannot_be_decoded_are_refused_with_a_reason(tmp_path: Path, frames: list[bytes], why: str) -> None:
    ds: Any = ct_series(1)[0]
    ds.file_meta.TransferSyntaxUID = JPEG2000Lossless
    ds.PixelData = encapsulate(frames)
    ds["PixelData"].is_undefined_length = True
    ds["PixelData"].VR = "OB"
    with pytest.raises(NotTranscodable, match=why):
        in_syntax(saved(ds, tmp_path), EXPLICIT)


def test_frames_too_long_for_a_native_value_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    ds: Any = ct_series(1)[0]
    ds.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
    frame = ds.PixelData
    ds.Rows, ds.Columns, ds.NumberOfFrames = 30000, 15000, 5
    ds.PixelData = encapsulate([frame] * 5)
    with pytest.raises(NotTranscodable, match="4500000000 bytes uncompressed"):
        in_syntax(saved(ds, tmp_path), EXPLICIT)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = saved(ct_series(1)[0], tmp_path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(NotTranscodable, match="ends within"):
        in_syntax(path, IMPLICIT)


def test_what_is_accepted_as_stored_is_never_transcoded() -> None:
    every = [str(JPEG2000Lossless), EXPLICIT, IMPLICIT]
    assert choose_target(str(JPEG2000Lossless), every) == str(JPEG2000Lossless)
    assert choose_target(str(JPEG2000Lossless), [IMPLICIT, EXPLICIT]) == EXPLICIT
    assert choose_target(str(ExplicitVRLittleEndian), [IMPLICIT]) == IMPLICIT
    assert choose_target("1.2.840.10008.1.2.4.100", [IMPLICIT]) is None  # MPEG-2: no decoder
    assert choose_target(str(ExplicitVRLittleEndian), [str(JPEG2000Lossless)]) is None
