"""Stored values: exact, or refused before anything is allocated."""

import base64
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import data_store
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset, FileDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import pixel_array
from pydicom.pixels.processing import convert_color_space
from pydicom.uid import (
    HTJ2K,
    MPEG2MPML,
    ExplicitVRBigEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLossless,
    JPEGLSLossless,
    RLELossless,
)

from node.errors import ConversionRefused
from node.files.reading import read_instance
from node.volume.read import pixels
from node.volume.read.decoders import _DECODERS
from node.volume.read.pixels import frame_reader
from node.volume.read.transfer_syntaxes import DEFLATED_IMAGE_FRAME, decoders_by_transfer_syntax
from tests import make
from tests.make import PYDICOM_FILES

FOLDERS = (PYDICOM_FILES, Path(data_store.__file__).parent / "data")


def grey(values: np.ndarray, **attributes: Any) -> FileDataset:
    return make.changed(make.set_pixels(make.instance(), values), **attributes)


def shipped(name: str) -> FileDataset:
    """A file of pydicom's own tests."""
    return pydicom.dcmread(next(path for folder in FOLDERS for path in folder.rglob(name)))


def frames(ds: Dataset) -> np.ndarray:
    reader = frame_reader(ds)
    out = np.stack([reader(index) for index in range(reader.frames)])
    assert out.dtype == reader.dtype
    return out


def refusal(ds: Dataset) -> ConversionRefused:
    with pytest.raises(ConversionRefused) as caught:
        frames(ds)
    return caught.value


# Native grey


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4"])
def test_native_values_come_back_as_they_were_stored(dtype: str) -> None:
    limits = np.iinfo(dtype)
    values = np.random.default_rng(0).integers(limits.min, limits.max, (3, 5, 7), dtype, endpoint=True)
    assert np.array_equal(frames(grey(values)), values)


@pytest.mark.slow
@given(st.integers(1, 16), st.integers(0, 15), st.booleans(), st.lists(st.integers(0, 65535), min_size=12, max_size=12))
@settings(max_examples=60)
def test_bits_above_and_below_the_stored_ones_never_show(bits: int, shift: int, signed: bool, words: list[int]) -> None:
    shift = min(shift, 16 - bits)
    dirty = np.array(words, np.uint16).reshape(3, 4)
    ds = grey(dirty, BitsStored=bits, HighBit=bits + shift - 1, PixelRepresentation=int(signed))
    stored = (dirty.astype(int) >> shift) & ((1 << bits) - 1)
    expected = np.where(signed & (stored >= 1 << (bits - 1)), stored - (1 << bits), stored)
    assert np.array_equal(frames(ds)[0], expected)


@pytest.mark.parametrize(("dtype", "keyword"), [("f4", "FloatPixelData"), ("f8", "DoubleFloatPixelData")])
def test_floating_point_pixels_are_unchanged(dtype: str, keyword: str) -> None:
    values = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(dtype)
    ds = grey(np.zeros((2, 3, 4), np.uint16))
    del ds.PixelData
    setattr(ds, keyword, values.tobytes())
    assert np.array_equal(frames(ds), values)


def test_single_bits_are_unpacked_where_frames_do_not_end_on_a_byte() -> None:
    bits = np.random.default_rng(0).integers(0, 2, (5, 3, 5), np.uint8)
    ds = grey(bits, BitsAllocated=1, BitsStored=1, HighBit=0)
    packed = np.packbits(bits, bitorder="little").tobytes()
    ds.PixelData = packed + b"\0" * (len(packed) % 2)
    assert np.array_equal(frames(ds), bits)


@pytest.mark.parametrize("dtype", ["u1", "u2", "i4"])
def test_big_endian_pixels_are_swapped(dtype: str) -> None:
    values = np.random.default_rng(0).integers(0, 100, (3, 5, 5), dtype)
    ds = grey(values)
    ds.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    data = values.astype(np.dtype(dtype).newbyteorder(">")).tobytes()
    data += b"\0" * (len(data) % 2)
    if dtype == "u1":  # 8 bits in words of 16, which are swapped as a whole
        data = np.frombuffer(data, "<u2").byteswap().tobytes()
    ds.PixelData = data
    ds["PixelData"].VR = "OW"
    assert np.array_equal(frames(ds), values)


def test_a_native_slice_is_a_view_without_a_copy() -> None:
    ds = grey(np.ones((64, 64), np.uint16), BitsStored=12, HighBit=11)
    assert np.shares_memory(frame_reader(ds)(0), np.frombuffer(ds.PixelData, np.uint8))


def test_a_slice_whose_pixels_stay_in_its_file_is_read_from_there(tmp_path: Path) -> None:
    values = np.arange(256 * 256, dtype=np.uint16).reshape(256, 256)
    path = tmp_path / "slice.dcm"
    grey(values).save_as(path, enforce_file_format=True)
    reader = frame_reader(read_instance(path))
    np.testing.assert_array_equal(reader(0), values)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ConversionRefused) as refused:
        reader(0)
    assert refused.value.reason == "unreadable"


def test_what_is_behind_the_last_frame_is_not_read_at_once(tmp_path: Path) -> None:
    ds = grey(np.zeros((1, 64, 64), np.uint16))
    ds.PixelData = bytes(20_000_000)
    ds.save_as(tmp_path / "long.dcm", enforce_file_format=True)
    ds = read_instance(tmp_path / "long.dcm")
    tracemalloc.start()
    assert frame_reader(ds).frames == 1
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


def test_zeros_behind_the_last_frame_are_padding() -> None:
    values = np.arange(12, dtype=np.uint16).reshape(3, 4)
    ds = grey(values)
    ds.PixelData += b"\0" * 128
    assert np.array_equal(frames(ds)[0], values)


def test_a_modality_lut_is_applied_and_its_ends_hold_beyond_it() -> None:
    ds = grey(np.array([[-5, -2, 0, 1, 9]], np.int16))
    item = Dataset()
    item.add_new("LUTDescriptor", "SS", [4, -2, 16])
    item.add_new("LUTData", "OW", np.array([100, 200, 300, 65535], "<u2").tobytes())
    ds.ModalityLUTSequence = [item]
    reader = frame_reader(ds)
    assert reader.modality_lut
    assert reader(0).tolist() == [[100, 100, 300, 65535, 65535]]
    assert reader(0).dtype == reader.dtype == np.uint16


# Colour


def test_colour_by_plane_and_by_pixel_are_the_same() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    ds = grey(rgb)
    assert np.array_equal(frames(ds)[0], rgb)
    ds.PlanarConfiguration = 1
    ds.PixelData = rgb.transpose(2, 0, 1).tobytes()
    assert np.array_equal(frames(ds)[0], rgb)


def test_ybr_becomes_rgb() -> None:
    ybr = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    ds = grey(ybr, PhotometricInterpretation="YBR_FULL")
    assert np.array_equal(frames(ds)[0], convert_color_space(ybr, "YBR_FULL", "RGB"))


def test_half_sampled_chrominance_is_shared_by_two_pixels() -> None:
    ds = grey(np.zeros((1, 4, 3), np.uint8), PhotometricInterpretation="YBR_FULL_422")
    ds.PixelData = bytes([10, 20, 128, 128, 30, 40, 128, 128])
    assert frames(ds)[0, 0].tolist() == [[10] * 3, [20] * 3, [30] * 3, [40] * 3]


def test_colours_of_16_bits_keep_their_high_byte() -> None:
    ds = grey(np.zeros((2, 2, 3), np.uint8), BitsAllocated=16, BitsStored=16, HighBit=15)
    ds.PixelData = np.array([0x1234, 0xFF00, 0x00FF] * 4, "<u2").tobytes()
    assert frames(ds)[0, 0, 0].tolist() == [0x12, 0xFF, 0x00]


def with_palette(ds: Dataset, entries: int, first: int, bits: int, red: bytes, prefix: str = "") -> Dataset:
    ds.PhotometricInterpretation = "PALETTE COLOR"
    for colour in ("Red", "Green", "Blue"):
        ds.add_new(f"{colour}PaletteColorLookupTableDescriptor", "US", [entries, first, bits])
        ds.add_new(f"{prefix}{colour}PaletteColorLookupTableData", "OW", red)
    return ds


def test_a_palette_of_16_bits_gives_its_high_byte() -> None:
    table = np.array([0x0100, 0x8000, 0xFFFF], "<u2").tobytes()
    ds = with_palette(grey(np.array([[0, 5, 6, 7, 200]], np.uint8)), 3, 5, 16, table)
    assert frames(ds)[0, 0, :, 0].tolist() == [1, 1, 0x80, 0xFF, 0xFF]


def test_a_palette_of_8_bits_in_words_is_not_black() -> None:
    table = np.array([1, 128, 255], "<u2").tobytes()
    ds = with_palette(grey(np.array([[0, 1, 2]], np.uint8)), 3, 0, 16, table)
    assert frames(ds)[0, 0, :, 2].tolist() == [1, 128, 255]


def test_a_segmented_palette_is_expanded() -> None:
    table = np.array([0, 1, 0, 1, 4, 0xFF00], "<u2").tobytes()  # one value, then a ramp of four
    ds = with_palette(grey(np.arange(5, dtype=np.uint8)[None]), 5, 0, 16, table, prefix="Segmented")
    assert frames(ds)[0, 0, :, 1].tolist() == [0, 0x3F, 0x7F, 0xBF, 0xFF]


def test_a_supplemental_palette_leaves_grey_as_it_is() -> None:
    ds = with_palette(grey(np.array([[0, 5, 900]], np.uint16)), 3, 0, 16, bytes(6))
    ds.PhotometricInterpretation = "MONOCHROME2"
    assert frames(ds)[0, 0].tolist() == [0, 5, 900]


# Compressed


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
@pytest.mark.parametrize("dtype", ["u1", "u2", "i2"])
def test_lossless_frames_come_back_as_they_were(syntax: str, dtype: str) -> None:
    values = np.random.default_rng(0).integers(0, 120, (3, 40, 36)).astype(dtype)
    if dtype == "i2":
        values -= 60
    ds = grey(values)
    ds.compress(syntax, generate_instance_uid=False)
    assert np.array_equal(frames(ds), values)
    assert not frame_reader(ds).lossy


def test_deflated_frames_are_inflated_and_a_bomb_is_not() -> None:
    values = np.random.default_rng(0).integers(0, 9, (2, 5, 5), np.uint8)

    def deflated(data: bytes) -> bytes:
        worker = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
        return worker.compress(data) + worker.flush()

    ds = grey(values)
    ds.file_meta.TransferSyntaxUID = DEFLATED_IMAGE_FRAME
    ds.PixelData = encapsulate([deflated(frame.tobytes()) for frame in values])
    ds["PixelData"].is_undefined_length = True
    assert np.array_equal(frames(ds), values)
    ds.PixelData = encapsulate([deflated(bytes(10_000_000))] * 2)
    assert refusal(ds).reason == "undecodable"


def fragmented(ds: Dataset, pieces: int, *, offsets: bool) -> Dataset:
    """Compress with JPEG 2000 and cut each frame into several fragments."""
    ds.compress(JPEG2000Lossless, generate_instance_uid=False)
    encoded = pydicom.encaps.generate_frames(ds.PixelData, number_of_frames=ds.get("NumberOfFrames", 1))
    ds.PixelData = encapsulate(list(encoded), fragments_per_frame=pieces, has_bot=offsets)
    return ds


@pytest.mark.parametrize("offsets", [True, False])
def test_frames_of_several_fragments_are_put_together_with_and_without_an_offset_table(offsets: bool) -> None:
    values = np.random.default_rng(0).integers(0, 4000, (3, 40, 36), np.uint16)
    assert np.array_equal(frames(fragmented(grey(values), 2, offsets=offsets)), values)


@pytest.mark.parametrize(
    ("pieces", "offsets", "is_read"), [(1, (0, 0), True), (1, (1, 0), False), (2, (0, 0), True), (2, (1, 0), False)]
)
def test_an_offset_table_that_does_not_locate_the_frames_exchanges_none(
    pieces: int, offsets: tuple[int, int], is_read: bool
) -> None:
    """A table of equal offsets says nothing; one out of order contradicts the order of the fragments."""
    values = np.random.default_rng(0).integers(0, 4000, (2, 40, 36), np.uint16)
    ds = fragmented(grey(values), pieces, offsets=True)
    second = struct.unpack("<2L", ds.PixelData[8:16])[1]
    ds.PixelData = ds.PixelData[:8] + struct.pack("<2L", *(at * second for at in offsets)) + ds.PixelData[16:]
    if is_read:
        assert np.array_equal(frames(ds), values)
    else:
        assert refusal(ds).reason == "contradictory"


def test_one_frame_of_several_fragments_needs_no_offset_table() -> None:
    values = np.random.default_rng(0).integers(0, 4000, (40, 36), np.uint16)
    assert np.array_equal(frames(fragmented(grey(values), 3, offsets=False))[0], values)


def test_the_bits_of_a_wrongly_signed_jpeg_2000_codestream_are_read_as_the_data_set_says() -> None:
    ds = shipped("J2K_pixelrep_mismatch.dcm")
    found = frames(ds)[0]
    assert np.array_equal(found, ds.pixel_array)
    assert found.min() == -2000


def test_jpeg_extended_of_12_bits_is_decoded() -> None:
    found = frames(shipped("JPEG-lossy.dcm"))[0]
    # As dcmdjpeg of DCMTK decodes it, to the last bit.
    assert (found.dtype, found.shape, int(found.max()), int(found.sum())) == (np.uint16, (1024, 256), 264, 3767007)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "SC_rgb_jpeg_dcmtk.dcm",
        "SC_rgb_dcmtk_+eb+cr.dcm",
        "SC_rgb_dcmtk_+eb+cy+n1.dcm",
        "SC_rgb_dcmtk_+eb+cy+s4.dcm",
        "SC_jpeg_no_color_transform.dcm",
        "SC_jpeg_no_color_transform_2.dcm",
        "SC_rgb_jpeg_lossy_gdcm.dcm",
        "SC_rgb_gdcm_KY.dcm",
        "JPEG-LL.dcm",
        "JPEGLSNearLossless_08.dcm",
        "JPEGLSNearLossless_16.dcm",
        "RG1_J2KR.dcm",
        "emri_small_jpeg_ls_lossless.dcm",
        "color3d_jpeg_baseline.dcm",
        "SC_rgb_rle_2frame.dcm",
    ],
)
@pytest.mark.filterwarnings("default")
def test_compressed_files_of_other_writers_agree_with_pydicom(name: str) -> None:
    ds = shipped(name)
    ours = frames(ds)
    for number in {*range(0, len(ours), 8), len(ours) - 1}:  # pydicom takes long for a clip of 120 frames
        theirs = pixel_array(ds, index=number)
        assert np.abs(ours[number].astype(int) - theirs).max() <= (1 if ours.ndim == 4 else 0)


HIGH_THROUGHPUT = (
    "/0//UQApQAAAAAAUAAAAEAAAAAAAAAAAAAAAFAAAABAAAAAAAAAAAAABCwEB/1AACAACAAAACP9SAAwAAgABAAMEBEAB/1wADSBweHiAeHh4cHB4"
    "/2QAFgABT3BlbkpQSCBWZXIgMC45LjAu/5AACgAAAAAAdQAB/5PAAV7/X9VR38pKx+8AhAD5tgDAAJIABVD1InMAUKGg/gAIQHdWAMAAqIABWjCE"
    "8NfgC3UApCQSifTgCEYhAey4AMABWQAFqERERETv4Kenp8J4AEgEQRAEQRDk/oI9hCB79hCB7LwA/9k="
)
"""A codestream of OpenJPH 0.9: 20 columns, 16 rows of 12 bits, reversible, 37 * row + 11 * column."""


HIGH_THROUGHPUT_SIGNED = (
    "/0//UQApQAAAAAAUAAAAEAAAAAAAAAAAAAAAFAAAABAAAAAAAAAAAAABjwEB/1AACAACAAAACv9SAAwAAgABAAUEBEAB/1wAEyCIkJCQkJCQkJCQ"
    "kJCQiIiI/2QAFwABT3BlbkpQSCBWZXIgMC4yNi4zLv+QAAoAAAAAAIkAAf+TwAAl5QAHdADAABKAZwGHdADAABJAABOA/CdzAKKK+gCCNADAABJA"
    "ABVA8CJzAFChoP4ACEB3VgDAABUQAAVocYzx1+ALdQCkJBKJ9OAIRiEB7LgAwAArIAAWoFVVVVXv4Kenp8J4AEgEQRAEQRDk/oI9hCB79hCB7LwA"
    "/9k="
)
"""A codestream of OpenJPH 0.26: 20 columns, 16 rows of 16 signed bits, reversible, 37 * row - 11 * column - 100."""

HIGH_THROUGHPUT_LOSSY = (
    "/0//UQApQAAAAAAKAAAADAAAAAAAAAAAAAAACgAAAAwAAAAAAAAAAAABDwEB/1AACAACAAAAKv9SAAwAAgABAAUEBEAA/1wAIyK3GLbqtuq2vK8A"
    "rwCu4qdMp0ynZJADkAOQRpfSl9KXYf9kABcAAU9wZW5KUEggVmVyIDAuMjYuMy7/kAAKAAAAAACTAAH/k8AAATi7lOAIB3QAAMAAAmgAAEz6/gKH"
    "dACM8wOHdADAAASwAAEwOQDLdADHxwBCNADAABUwAAWgnK/FrQOYArUASI/0SC9XTu4AcQvPkXi4AMAAFrQAAWsAiAYAsBQAgKUA8EF/lX/+V+Ae"
    "slt8ANbMLKJGqBEVUSPUOBD8IQKbue1qOwD/2Q=="
)
"""A codestream of OpenJPH 0.26: 10 columns, 12 rows of 16 bits, irreversible, 1000 + 50 * row + 20 * column."""


@pytest.mark.parametrize(
    ("codestream", "expected", "bits", "syntax"),
    [
        (HIGH_THROUGHPUT, np.add.outer(np.arange(16) * 37, np.arange(20) * 11), 12, HTJ2KLossless),
        (HIGH_THROUGHPUT, np.add.outer(np.arange(16) * 37, np.arange(20) * 11), 12, HTJ2KLosslessRPCL),
        (HIGH_THROUGHPUT_SIGNED, np.add.outer(np.arange(16) * 37, np.arange(20) * -11) - 100, 16, HTJ2KLossless),
        (HIGH_THROUGHPUT_LOSSY, 1000 + np.add.outer(np.arange(12) * 50, np.arange(10) * 20), 16, HTJ2K),
    ],
)
def test_high_throughput_jpeg_2000_of_another_encoder_is_exact_or_reported_to_be_lossy(
    codestream: str, expected: Any, bits: int, syntax: str
) -> None:
    ds = grey(expected.astype(np.int16 if expected.min() < 0 else np.uint16), BitsStored=bits, HighBit=bits - 1)
    ds.PixelData = encapsulate([base64.b64decode(codestream)])
    ds.file_meta.TransferSyntaxUID = syntax
    assert np.abs(frames(ds)[0].astype(int) - expected).max() <= (syntax == HTJ2K)
    assert frame_reader(ds).lossy == (syntax == HTJ2K)


def test_lossy_codestreams_are_reported() -> None:
    assert frame_reader(shipped("JPEG2000.dcm")).lossy
    assert frame_reader(shipped("JPEG-lossy.dcm")).lossy
    assert not frame_reader(shipped("JPEG-LL.dcm")).lossy


def test_every_common_compression_has_a_decoder_and_it_is_named() -> None:
    decoders = decoders_by_transfer_syntax()
    common = {JPEGBaseline8Bit, JPEGLossless, JPEGLSLossless, JPEG2000Lossless, HTJ2KLossless, RLELossless}
    assert common <= set(decoders)
    assert all(each.split()[1][0].isdigit() for packages in decoders.values() for each in packages)


def test_what_can_be_decoded_is_what_there_are_decoders_for() -> None:
    assert set(decoders_by_transfer_syntax()) == set(_DECODERS)


# Damaged


def compressed(syntax: str = JPEG2000Lossless) -> FileDataset:
    ds = grey(np.random.default_rng(0).integers(0, 4000, (40, 36), np.uint16))
    ds.compress(syntax, generate_instance_uid=False)
    return ds


def other_bytes_behind(ds: Dataset) -> None:
    ds.PixelData += b"\7" * 64


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (other_bytes_behind, "(7FE0,0010)"),
        (lambda ds: setattr(ds, "Rows", 0), "(0028,0010)"),
        (lambda ds: delattr(ds, "Columns"), "(0028,0011)"),
        (lambda ds: setattr(ds, "BitsAllocated", 12), "(0028,0100)"),
        (lambda ds: setattr(ds, "BitsStored", 17), "(0028,0101)"),
        (lambda ds: setattr(ds, "BitsStored", 0), "(0028,0101)"),
        (lambda ds: setattr(ds, "NumberOfFrames", -1), "(0028,0008)"),
        (lambda ds: setattr(ds, "SamplesPerPixel", 3), "(0028,0002)"),
        (lambda ds: setattr(ds, "PhotometricInterpretation", "CMYK"), "(0028,0004)"),
        (lambda ds: setattr(ds, "PhotometricInterpretation", "PALETTE COLOR"), "(0028,1101)"),
        (lambda ds: setattr(ds, "PixelData", b""), "(7FE0,0010)"),
        (
            lambda ds: setattr(ds, "PixelData", b"\1" * 200),
            "but 1 frame of 8 rows x 8 columns with 1 sample of 16 bits need 128",
        ),
    ],
)
def test_contradictions_are_refused_with_tag_and_rule(damage: Callable[[Dataset], None], named: str) -> None:
    ds = grey(np.ones((8, 8), np.uint16))
    damage(ds)
    refused = refusal(ds)
    assert refused.reason == "contradictory"
    assert named in refused.detail


@pytest.mark.parametrize(
    ("element", "stated"),
    [({"PixelData": b"\0" * 118}, 128), ({"Rows": 65535}, 1_048_560), ({"NumberOfFrames": 2_000_000_000}, 256 * 10**9)],
)
def test_fewer_pixels_than_the_header_states_are_cut_with_both_lengths(element: dict[str, Any], stated: int) -> None:
    ds = make.changed(grey(np.ones((8, 8), np.uint16)), **element)
    refused = refusal(ds)
    assert refused.reason == "cut"
    assert refused.detail == f"cut within its pixels: {len(ds.PixelData)} of {stated} bytes; send it again"


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
@pytest.mark.parametrize("keep", [0.02, 0.3, 0.9])
def test_a_frame_that_was_cut_short_is_undecodable(syntax: str, keep: float) -> None:
    ds = compressed(syntax)
    frame = next(pydicom.encaps.generate_frames(ds.PixelData, number_of_frames=1))
    ds.PixelData = encapsulate([frame[: int(len(frame) * keep) // 2 * 2]])
    assert refusal(ds).reason == "undecodable"


@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEG2000Lossless])
def test_a_codestream_of_another_size_is_refused_before_it_is_decoded(syntax: str) -> None:
    ds = compressed(syntax)
    ds.Rows = 65535
    with pytest.raises(ConversionRefused, match="40 rows, 36 columns and 1 samples, but"):
        frame_reader(ds)


def test_a_bomb_is_too_large_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    ds = compressed()
    ds.Rows = ds.Columns = 65535
    with pytest.raises(ConversionRefused) as caught:
        frame_reader(ds)
    assert caught.value.reason == "too-large"
    small = compressed()
    monkeypatch.setattr(pixels, "MAX_DECODED_BYTES", 2879)
    assert refusal(small).reason == "too-large"


def test_rle_that_cannot_hold_the_frame_takes_no_memory_for_it() -> None:
    ds = compressed(RLELossless)
    ds.Rows = ds.Columns = 20000
    assert refusal(ds).reason == "undecodable"


def test_fewer_fragments_than_frames_are_refused() -> None:
    ds = compressed()
    ds.NumberOfFrames = 2
    assert refusal(ds).reason == "contradictory"


def test_transfer_syntaxes_without_a_decoder_are_named() -> None:
    ds = compressed()
    ds.file_meta.TransferSyntaxUID = MPEG2MPML
    refused = refusal(ds)
    assert refused.reason == "undecodable"
    assert MPEG2MPML in refused.detail


def test_an_instance_without_pixels_is_no_image() -> None:
    assert refusal(make.structured_report()).reason == "not-an-image"


@pytest.mark.slow
@given(st.data())
@settings(max_examples=150)
def test_damaged_codestreams_are_decoded_or_refused_and_nothing_else(data: st.DataObject) -> None:
    ds = compressed(data.draw(st.sampled_from([RLELossless, JPEGLSLossless, JPEG2000Lossless])))
    frame = bytearray(next(pydicom.encaps.generate_frames(ds.PixelData, number_of_frames=1)))
    for _ in range(data.draw(st.integers(1, 4))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    ds.PixelData = encapsulate([bytes(frame)])
    with suppress(ConversionRefused):
        assert frames(ds).shape == (1, 40, 36)
