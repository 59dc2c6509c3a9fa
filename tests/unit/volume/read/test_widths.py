"""Samples and lookup tables that contradict the width or the sign that their headers state."""

import numpy as np
import pytest
from openjpeg.utils import encode_array
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from node.volume.display import display_of, rendered_frame
from node.volume.read.pixels import frame_reader
from node.volume.reasons import WarningKind
from tests import make
from tests.volumes import only

RAMP = np.linspace(0, 4022, 16 * 12).reshape(16, 12).astype(np.uint16)


def doubts(volume):
    return [warning.detail for warning in volume.warnings if warning.name is WarningKind.VALUES_DOUBTFUL]


def image(pixels, **attributes):
    ds = make.set_pixels(make.instance(RescaleSlope="1", RescaleIntercept="0", PixelSpacing=["1", "1"]), pixels)
    return make.changed(ds, **attributes)


def with_modality_lut(pixels, descriptor, data, vr="OW", **attributes):
    lut = make.dataset(ModalityLUTType="HU")
    lut.add_new("LUTDescriptor", "US", descriptor)
    lut.add_new("LUTData", vr, data)
    return image(pixels, ModalityLUTSequence=[lut], **attributes)


def with_palette(pixels, descriptor, data, prefix=""):
    ds = image(pixels, PhotometricInterpretation="PALETTE COLOR")
    for colour in ("Red", "Green", "Blue"):
        ds.add_new(f"{colour}PaletteColorLookupTableDescriptor", "US", descriptor)
        ds.add_new(f"{prefix}{colour}PaletteColorLookupTableData", "OW", data)
    return ds


@pytest.mark.parametrize(("bits", "vr"), [(8, "US"), (8, "OW"), (10, "US")])
def test_entries_of_a_modality_lut_that_exceed_their_stated_width_are_kept_with_a_warning(bits, vr):
    table = np.linspace(0, 4022, 256).astype("<u2")
    data = table.tobytes() if vr == "OW" else table.tolist()
    volume = only(with_modality_lut(np.arange(256, dtype=np.uint8).reshape(16, 16), [256, 0, bits], data, vr))
    assert np.array_equal(volume.voxels[0, 0], table.reshape(16, 16))
    assert len(doubts(volume)) == 1


def test_bytes_in_words_and_bytes_are_entries_without_a_doubt():
    indices = np.arange(256, dtype=np.uint8).reshape(16, 16)
    table = indices[::-1].ravel()
    for data in (table.tobytes(), table.astype("<u2").tobytes()):
        volume = only(with_modality_lut(indices, [256, 0, 8], data))
        assert np.array_equal(volume.voxels[0, 0].ravel(), table)
        assert (volume.voxels.dtype, doubts(volume)) == (np.uint8, [])


def test_the_first_entry_of_signed_samples_may_be_below_zero():
    table = (np.arange(200) * 3).astype("<u2")
    pixels = np.arange(-100, 100, dtype=np.int16).reshape(10, 20)
    volume = only(with_modality_lut(pixels, [200, 65536 - 100, 16], table.tobytes()))
    assert np.array_equal(volume.voxels[0, 0].ravel(), table)


def test_negative_entries_of_a_modality_lut_keep_their_sign():
    indices = np.arange(4, dtype=np.uint8).reshape(2, 2)
    volume = only(with_modality_lut(indices, [4, 0, 16], [-1000, -1, 0, 3000], "SS"))
    assert volume.voxels[0, 0].ravel().tolist() == [-1000, -1, 0, 3000]
    assert len(doubts(volume)) == 1


@pytest.mark.parametrize("bits", [8, 16])
def test_a_palette_of_more_than_256_narrow_entries_is_read_to_its_end(bits):
    table = (np.arange(600) // 3).astype(np.uint8)
    data = table.tobytes() if bits == 8 else (table.astype("<u2") << 8).tobytes()
    volume = only(with_palette(np.arange(600, dtype=np.uint16).reshape(20, 30), [600, 0, bits], data))
    assert np.array_equal(volume.voxels[0, 0, :, :, 1].ravel(), table)
    assert doubts(volume) == []


def test_entries_of_a_palette_that_exceed_their_stated_width_are_not_cut():
    table = np.linspace(0, 4095, 256).astype("<u2")
    volume = only(with_palette(np.arange(256, dtype=np.uint8).reshape(16, 16), [256, 0, 8], table.tobytes()))
    assert np.array_equal(volume.voxels[0, 0, :, :, 0].ravel(), table >> 4)
    assert len(doubts(volume)) == 1


@pytest.mark.parametrize(("stated", "doubtful"), [(8, 1), (16, 0)])
def test_a_segmented_palette_of_words_is_read_in_words(stated, doubtful):
    # Two values, a ramp of 298 to the highest, and the first segment once more, at byte 0.
    words = np.array([0, 2, 300, 300, 1, 298, 0xFFFF, 2, 1, 0, 0], "<u2").tobytes()
    expected = [300, 300, *np.around(np.linspace(300, 0xFFFF, 299)[1:]).astype(int), 300, 300]
    volume = only(
        with_palette(np.arange(302, dtype=np.uint16).reshape(2, 151), [302, 0, stated], words, prefix="Segmented")
    )
    assert np.array_equal(volume.voxels[0, 0, :, :, 2].ravel(), np.array(expected) >> 8)
    assert len(doubts(volume)) == doubtful


def test_a_voi_lut_of_bytes_is_read():
    ds = image(RAMP)
    lut = make.dataset(LUTDescriptor=[4, 0, 8])
    lut.add_new("LUTData", "OW", bytes([0, 50, 100, 255]))
    ds.VOILUTSequence = [lut]
    first, table = display_of(ds, 1).voi_lut
    assert (first, table.tolist()) == (0, [0, 50, 100, 255])


@pytest.mark.parametrize("syntax", [None, RLELossless, JPEGLSLossless])
def test_bits_beyond_those_stored_are_reported(syntax):
    ds = image(RAMP)
    if syntax:
        ds.compress(syntax, generate_instance_uid=False)
    ds.BitsStored, ds.HighBit = 11, 10
    volume = only(ds)
    kept = np.array_equal(volume.voxels[0, 0], RAMP)
    assert kept or (np.array_equal(volume.voxels[0, 0], RAMP & 0x7FF) and "(0x800)" in doubts(volume)[0])
    assert kept == (syntax == JPEGLSLossless)


@pytest.mark.parametrize("is_extended", [False, True])
def test_a_sign_with_or_without_extension_is_no_doubt(is_extended):
    values = np.linspace(-2048, 2047, 16 * 12).reshape(16, 12).astype(np.int16)
    pixels = values if is_extended else values & 0xFFF
    volume = only(image(pixels, BitsStored=12, HighBit=11))
    assert np.array_equal(volume.voxels[0, 0], values)
    assert doubts(volume) == []


def test_bits_of_overlays_are_no_doubt():
    pixels = (RAMP & 0xFFF) | (np.arange(RAMP.size).reshape(RAMP.shape) % 2 << 13).astype(np.uint16)
    ds = image(pixels, BitsStored=12, HighBit=11)
    assert len(doubts(only(ds))) == 1
    ds.add_new(0x60000100, "US", 16)
    ds.add_new(0x60000102, "US", 13)
    volume = only(ds)
    assert np.array_equal(volume.voxels[0, 0], RAMP & 0xFFF)
    assert doubts(volume) == []


def waves(low, high, dtype):
    """Smooth values through all of a range, as tissue and water have them."""
    rows, columns = np.mgrid[0:64, 0:64]
    unit = (np.sin(rows / 9) * np.cos(columns / 7) + 1) / 2
    return (low + unit * (high - low)).astype(dtype)


@pytest.mark.parametrize("bits", [12, 16])
def test_the_wrong_sign_of_smooth_samples_is_reported(bits):
    words = waves(-1000, 900, np.int16).view(np.uint16) & ((1 << bits) - 1)
    volume = only(image(words.astype(np.uint16), BitsStored=bits, HighBit=bits - 1))
    assert "sign" in doubts(volume)[0]
    bright = waves(0, (1 << bits) - 200, np.uint16)
    volume = only(image(bright.view(np.int16), BitsStored=bits, HighBit=bits - 1))
    assert "sign" in doubts(volume)[0]


@pytest.mark.parametrize(
    ("pixels", "bits"),
    [
        (waves(-1000, 900, np.int16), 16),
        (waves(0, 4095, np.uint16), 12),
        (waves(0, 65535, np.uint16), 16),
        (np.where(waves(0, 9, np.uint16) > 4, 4095, 0).astype(np.uint16), 12),
        (np.random.default_rng(59).integers(0, 65536, (64, 64), np.uint16), 16),
    ],
)
def test_the_right_sign_is_no_doubt(pixels, bits):
    volume = only(image(pixels, BitsStored=bits, HighBit=bits - 1))
    assert np.array_equal(volume.voxels[0, 0], pixels)
    assert doubts(volume) == []


def colours(samples, **attributes):
    ds = image(np.zeros((4, 5, 3), np.uint8), BitsAllocated=16, BitsStored=16, HighBit=15)
    ds.PixelData = np.broadcast_to(np.array(samples, "<u2"), (4, 5, 3)).tobytes()
    return make.changed(ds, **attributes)


def test_colours_of_bytes_in_words_are_not_black():
    volume = only(colours([10, 200, 255]))
    assert volume.voxels[0, 0, 0, 0].tolist() == [10, 200, 255]
    assert len(doubts(volume)) == 1
    picture = rendered_frame(colours([10, 200, 255]), 1, frame_reader(colours([10, 200, 255])), 0)
    assert picture.pixels[0, 0].tolist() == [10, 200, 255]


def test_the_brightest_image_of_a_series_decides_how_all_of_them_are_read():
    uids = {"StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.3.4"}
    dark, bright = colours([10, 200, 255], **uids), colours([300, 0x8000, 0xFFFF], InstanceNumber=2, **uids)
    volume = only(dark, bright)
    assert sorted(volume.voxels[:, :, 0, 0].reshape(-1, 3).tolist()) == [[0, 0, 0], [1, 0x80, 0xFF]]
    assert doubts(volume) == []


@pytest.mark.parametrize(("least", "is_denied"), [(-400, True), (0, False)])
def test_samples_below_zero_by_their_codestream_alone_are_reported(least, is_denied):
    ds = image(np.tile(RAMP % 1000, (4, 6)).astype(np.int16) + least)  # a codestream of six resolutions
    codestream = encode_array(ds.pixel_array, bits_stored=12)
    ds.PixelData, ds.PixelRepresentation, ds.BitsStored, ds.HighBit = encapsulate([codestream]), 0, 12, 11
    ds["PixelData"].is_undefined_length = True
    ds.file_meta.TransferSyntaxUID = JPEG2000Lossless
    assert len([doubt for doubt in doubts(only(ds)) if "codestream" in doubt]) == is_denied
