"""Convert stored colours to 8-bit RGB."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydicom.pixels.processing import convert_color_space
from pydicom.uid import RLELossless

from node.volume.model import Array
from node.volume.read.codestreams import Codestream
from node.volume.read.pixel_layout import HALF_SAMPLED, PixelLayout
from node.volume.read.transfer_syntaxes import JPEG_2000_SYNTAXES


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
