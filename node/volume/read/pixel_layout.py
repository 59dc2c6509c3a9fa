"""Layout of the samples of an instance: the Image Pixel module, checked for impossible values; colours as 8-bit RGB."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.pixels.processing import convert_color_space
from pydicom.uid import RLELossless

from node.dicom.header import CutPixels
from node.dicom.values import held, number, once_per_series, standard_tag
from node.errors import ConversionRefused
from node.volume.elements import text
from node.volume.model import Array
from node.volume.read.transfer_syntaxes import JPEG_2000_SYNTAXES, Codestream
from node.volume.reasons import Reason
from node.volume.widths import Widths

FLOATS: dict[str, tuple[np.dtype[Any], int]] = {
    "FloatPixelData": (np.dtype(np.float32), 32),
    "DoubleFloatPixelData": (np.dtype(np.float64), 64),
}
PIXELS = ("PixelData", *FLOATS)
"""Attributes that hold pixels; an image has one of them (PS3.3 C.7.6.3, C.7.6.24, C.7.6.25)."""

SEND_AGAIN = "; send it again"
"""The end of what is said of an instance that was cut."""

GREY = frozenset(("MONOCHROME1", "MONOCHROME2"))
HALF_SAMPLED = frozenset(("YBR_FULL_422", "YBR_PARTIAL_422"))
_COLOUR = frozenset(("RGB", "YBR_FULL", "YBR_RCT", "YBR_ICT", "YBR_PARTIAL_420", *HALF_SAMPLED))


@dataclass(frozen=True, slots=True)
class PixelLayout:
    """The attributes of the Image Pixel module (PS3.3 C.7.6.3) that describe the layout of the samples."""

    rows: int
    columns: int
    frames: int
    samples: int
    photometric: str
    bits_allocated: int
    bits_stored: int
    shift: int  # lowest stored bit; before 2014 the standard allowed any High Bit
    signed: bool
    by_plane: bool
    real: np.dtype[Any] | None

    @property
    def stored_dtype(self) -> np.dtype[Any]:
        if self.real is not None:
            return self.real
        if self.bits_allocated == 1:
            return np.dtype(np.uint8)
        return np.dtype(f"{'i' if self.signed else 'u'}{self.bits_allocated // 8}")

    @property
    def pixels(self) -> int:
        return self.rows * self.columns

    @property
    def frame_bits(self) -> int:
        """Bits of one native frame; two samples per pixel if chrominance is sampled at every second pixel."""
        samples = 2 if self.photometric in HALF_SAMPLED else self.samples
        return self.pixels * samples * self.bits_allocated


@once_per_series(
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated"),
    *("BitsStored", "HighBit", "PixelRepresentation", "PlanarConfiguration"),
)
def pixel_layout(ds: Dataset, keyword: str) -> PixelLayout:
    """Return the layout of the samples of the pixel data element `keyword`.

    Raises ConversionRefused: ``contradictory``; `detail` names tag, value and rule.
    """
    rows = _required(ds, "Rows", "(0028,0010)", 1, 65535)
    columns = _required(ds, "Columns", "(0028,0011)", 1, 65535)
    frames = _frames(ds)
    if keyword in FLOATS:
        real, bits = FLOATS[keyword]
        return PixelLayout(rows, columns, frames, 1, "MONOCHROME2", bits, bits, 0, True, False, real)
    samples = _whole(ds, "SamplesPerPixel") or 1
    photometric = text(ds, "PhotometricInterpretation") or ("MONOCHROME2" if samples == 1 else "")
    _check_samples(samples, photometric)
    allocated = _required(ds, "BitsAllocated", "(0028,0100)", 1, 64)
    if allocated not in (1, 8, 16, 32, 64):
        raise contradictory(f"(0028,0100) Bits Allocated is {allocated}; it must be 1, 8, 16, 32 or 64")
    stored = _whole(ds, "BitsStored")
    stored = allocated if stored is None else stored
    if not 1 <= stored <= allocated:
        raise contradictory(f"(0028,0101) Bits Stored is {stored}; it must be 1 to Bits Allocated, {allocated}")
    high = _whole(ds, "HighBit")
    shift = high + 1 - stored if high is not None and stored <= high + 1 <= allocated else 0
    signed = _whole(ds, "PixelRepresentation") == 1 and allocated > 1
    by_plane = samples == 3 and _whole(ds, "PlanarConfiguration") == 1
    return PixelLayout(rows, columns, frames, samples, photometric, allocated, stored, shift, signed, by_plane, None)


def _frames(ds: Dataset) -> int:
    """Return Number of Frames (0028,0008); 1 if it is absent, empty or 0."""
    count = _whole(ds, "NumberOfFrames")
    if count is None:
        element = held(ds, standard_tag("NumberOfFrames"))
        count = 1 if element is None or not element.value else -1
    if not 0 <= count < 1 << 31:
        raise contradictory("(0028,0008) Number of Frames must be a whole number from 1 to 2^31-1")
    return max(count, 1)


def _whole(ds: Dataset, keyword: str) -> int | None:
    """Return the first number of an element if it is a whole number; else None."""
    first = number(ds, keyword)
    return int(first) if first is not None and first == int(first) else None


def _required(ds: Dataset, keyword: str, tag: str, minimum: int, maximum: int) -> int:
    value = _whole(ds, keyword)
    if value is None or not minimum <= value <= maximum:
        shown = "missing or unreadable" if value is None else value
        raise contradictory(f"{tag} {keyword} is {shown}; it must be {minimum} to {maximum}")
    return value


def _check_samples(samples: int, photometric: str) -> None:
    expected = 1 if photometric in GREY or photometric == "PALETTE COLOR" else 3 if photometric in _COLOUR else 0
    if not expected:
        raise contradictory("(0028,0004) Photometric Interpretation is missing, unknown or retired (ARGB, CMYK, HSV)")
    if samples != expected:
        raise contradictory(
            f"(0028,0002) Samples per Pixel is {samples}; {photometric} in (0028,0004) requires {expected}"
        )


def stored_bits(words: Array, layout: PixelLayout, bits: int, shift: int = 0, widths: Widths | None = None) -> Array:
    """Return the low `bits` of words after a shift: the other bits may hold overlays or garbage (PS3.5 8.1.1, annex D).

    `bits`: number of bits that hold the value. `shift`: lowest bit of the value. `widths`: takes note of what is
    cut off.
    """
    spare = layout.bits_allocated - bits
    if not spare or layout.real is not None or (not shift and _fit(words, bits, layout.signed)):
        return words
    if widths is not None:
        widths.see_cut(words, bits, shift, signed=layout.signed)
    if layout.signed:
        return (words << (spare - shift)) >> spare
    masked: Array = (words >> shift if shift else words) & words.dtype.type((1 << bits) - 1)
    return masked


def _fit(words: Array, bits: int, signed: bool) -> bool:
    """Return whether all words already fit into `bits`: most do, and this check is faster than a copy."""
    limit = 1 << (bits - signed)
    return int(words.max()) < limit and (not signed or int(words.min()) >= -limit)


def cut(pixels: CutPixels) -> ConversionRefused:
    """Return the refusal of an instance that has not all its pixels."""
    return ConversionRefused(Reason.CUT, f"{pixels}{SEND_AGAIN}")


def contradictory(detail: str) -> ConversionRefused:
    """Return the refusal of attributes that contradict each other."""
    return ConversionRefused(Reason.CONTRADICTORY, detail)


@dataclass(frozen=True, slots=True)
class Colours:
    """Convert (rows, columns, 3) samples of a frame to RGB of 8 bits.

    `photometric`: Photometric Interpretation (0028,0004) of the samples. `bits`: bits per sample.
    """

    photometric: str
    bits: int

    def __call__(self, samples: Array, *, as_bytes: bool = False) -> Array:
        """Return RGB; `as_bytes`: the samples are below 256, whatever `bits` says."""
        return to_rgb(self.photometric, 8 if as_bytes else self.bits, samples)


def native_colours(layout: PixelLayout) -> Colours | None:
    """Return what converts the samples of a native frame to RGB; None for grey frames."""
    return None if layout.samples == 1 else Colours(layout.photometric, layout.bits_stored)


def compressed_colours(layout: PixelLayout, stream: Codestream | None, syntax: str) -> Colours | None:
    """Return what converts the samples of a decoded frame to RGB; None for grey frames."""
    if layout.samples == 1:
        return None
    bits = layout.bits_stored if stream is None else stream.precision
    return Colours(decoded_photometric(layout, stream, syntax), bits)


def decoded_photometric(layout: PixelLayout, stream: Codestream | None, syntax: str) -> str:
    """Return the Photometric Interpretation (0028,0004) of the samples that a decoder returns.

    The codestream takes precedence over the data set, because few writers update the latter.
    """
    photometric = layout.photometric
    if layout.samples == 1:
        return photometric
    if stream is not None and stream.colour_space:
        photometric = "RGB" if stream.colour_space == "RGB" else photometric if "YBR" in photometric else "YBR_FULL"
    if syntax in JPEG_2000_SYNTAXES and photometric in ("YBR_RCT", "YBR_ICT"):
        return "RGB"  # the decoder has undone the transform
    if photometric == "YBR_FULL_422" or (syntax == RLELossless and photometric in HALF_SAMPLED):
        return "YBR_FULL"  # the decoder has given each pixel its chrominance
    return photometric


def to_rgb(photometric: str, bits: int, samples: Array) -> Array:
    """Return RGB with 8 bits per sample; wider samples are reduced to their high 8 bits (PS3.3 C.7.6.3.1.2).

    `photometric`: Photometric Interpretation (0028,0004) of the samples; chrominance has full resolution. `bits`: bits
    per sample. `samples`: (rows, columns, 3) array.

    Result: (rows, columns, 3) uint8 array.
    """
    wide = samples >> (bits - 8) if bits > 8 else samples
    narrow = wide.astype(np.uint8)
    if photometric.startswith("YBR_PARTIAL"):
        return _from_partial_range(narrow)
    if photometric.startswith("YBR"):
        return np.asarray(convert_color_space(narrow, "YBR_FULL", "RGB"))
    return np.asarray(narrow)


def _from_partial_range(samples: Array) -> Array:
    """Return RGB from luminance of 16 to 235 and chrominance of 16 to 240 (the retired YBR_PARTIAL_422 and _420)."""
    y, b, r = (samples[..., channel].astype(np.float32) for channel in range(3))
    y, b, r = (y - 16) * (255 / 219), (b - 128) * (255 / 224), (r - 128) * (255 / 224)
    rgb = np.stack((y + 1.402 * r, y - 0.344136 * b - 0.714136 * r, y + 1.772 * b), axis=-1)
    full_range: Array = np.clip(np.rint(rgb), 0, 255).astype(np.uint8)
    return full_range


def from_half_sampled(words: Array) -> Array:
    """Return Y, B, R of each pixel from samples in the order Y1 Y2 B R (PS3.3 C.7.6.3.1.2)."""
    pairs = words.reshape(-1, 4)
    return np.stack((pairs[:, :2], pairs[:, 2:3].repeat(2, 1), pairs[:, 3:].repeat(2, 1)), axis=-1).reshape(-1, 3)
