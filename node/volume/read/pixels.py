"""Stored values of the frames of an instance, checked against the header first, then decoded one frame at a time.

Native frames (PS3.5 8) are read one at a time from memory or from their file. Palettes and the Modality LUT
(`node.volume.read.lookup_tables`) are part of the stored values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from node.counted import counted
from node.dicom.header import CutPixels
from node.dicom.reading import FileBytes, stored_bytes
from node.dicom.values import held, standard_tag
from node.errors import ConversionRefused
from node.volume.elements import text
from node.volume.model import Array
from node.volume.read.colours import Colours, compressed_colours, decoded_photometric, from_half_sampled, native_colours
from node.volume.read.encapsulated_pixels import checked_frames, decode_frame
from node.volume.read.lookup_tables import LookupTable, modality_lut, palette
from node.volume.read.pixel_layout import (
    GREY,
    HALF_SAMPLED,
    PIXELS,
    PixelLayout,
    contradictory,
    cut,
    pixel_layout,
    stored_bits,
)
from node.volume.reasons import Reason
from node.volume.widths import Widths

_NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, "1.2.840.10008.1.2.1.99")

StoredBytes = bytes | FileBytes
"""Pixel data in memory, or still in their file."""

PIECE_BYTES = 1 << 20
"""How much of what is behind the last frame is in memory at once: a few deflated bytes may be a gigabyte of zeros."""


class FrameReader:
    """Read the frames of one instance one by one: ``reader(index)``, with `index` from 0.

    `colour`: frames are (rows, columns, 3), RGB of 8 bits; else (rows, columns).
    `dtype`: type of the returned values, in the machine's byte order.
    `modality_lut`: a Modality LUT Sequence is applied; then rescale slope and intercept are 1 and 0.
    `lossy`: the pixels went through a lossy codec, now or before they were received.
    `widths`: what the frames that were read say of their width and sign.
    `stored`: returns the samples of a frame, without palette and lookup table; those of a colour have `photometric`.
    """

    def __init__(
        self,
        layout: PixelLayout,
        stored: Callable[[int], Array],
        table: LookupTable | None,
        colours: Colours | None,
        lossy: bool,
        widths: Widths,
    ) -> None:
        self.frames = layout.frames
        self.rows = layout.rows
        self.columns = layout.columns
        self.colour = layout.photometric not in GREY
        self.modality_lut = table is not None and not self.colour
        self.lossy = lossy
        if self.colour:
            self.dtype = np.dtype(np.uint8)
        else:
            self.dtype = layout.stored_dtype if table is None else table.entries.dtype
        self.stored = stored
        self._table = table
        self._colours = colours
        self.photometric = layout.photometric if colours is None else colours.photometric
        self._grey_bits = layout.bits_stored if table is None and colours is None and layout.real is None else 0
        self.widths = widths

    def __call__(self, index: int) -> Array:
        """Return one frame as `Frame.read` describes; it may be a read-only view into the data set.

        Raises ConversionRefused ``undecodable``: the codec failed.
        """
        stored = self.stored(index)
        if self._table is not None:
            return self._table(stored)
        if self._colours is None:
            self.widths.see_sign(stored, self._grey_bits)
            return stored
        if self._colours.bits > 8:
            self.widths.see_colour(stored, self._colours.bits)
        return self._colours(stored, as_bytes=self.widths.as_bytes)


def frame_reader(ds: Dataset, *, as_labels: bool = False) -> FrameReader:
    """Return a reader of the frames of an instance.

    Nothing is allocated by a number from the data set before the numbers agree with each other, with the length of the
    pixel data and with the headers of the compressed frames.

    `ds`: one instance, with its pixel data; the reader keeps them, or their place in the file. `as_labels`: values of
    PALETTE COLOR are labels, which the palette only colours (PS3.3 C.8.20.2): they are read without it.

    Raises ConversionRefused: ``not-an-image``, ``contradictory``, ``too-large`` or ``undecodable``; `detail` names tag,
        value and rule.

    PS3.3 C.7.6.3, C.7.6.24 and C.7.6.25 (Image Pixel, Floating Point and Double Floating Point Image Pixel);
    PS3.5 8 and annex A. Overlays in unused high bits are masked off. Supplemental palettes leave grey values unchanged.
    """
    keyword = next((name for name in PIXELS if held(ds, standard_tag(name)) is not None), None)
    if keyword is None:
        raise ConversionRefused(Reason.NOT_AN_IMAGE, "the instance has no Pixel Data (7FE0,0010)")
    layout = pixel_layout(ds, keyword)
    if as_labels and layout.photometric == "PALETTE COLOR":
        layout = replace(layout, photometric="MONOCHROME2")
    syntax = text(ds.file_meta, "TransferSyntaxUID") or "" if hasattr(ds, "file_meta") else ""
    data, encapsulated = stored_bytes(ds, keyword)
    if not data:
        raise contradictory("(7FE0,0010) Pixel Data is empty or unreadable")
    table = _table(ds, layout)
    lossy = text(ds, "LossyImageCompression") == "01"
    widths = Widths(_overlay_bits(ds), "" if table is None else table.doubt)
    if syntax in _NATIVE or (not syntax and not encapsulated):
        if encapsulated:
            raise contradictory(
                "(7FE0,0010) Pixel Data has an undefined length, but its transfer syntax is not a compressed one"
            )
        big = syntax == ExplicitVRBigEndian or (not syntax and ds.original_encoding[1] is False)
        swapped = big and layout.bits_allocated <= 8 and ds[keyword].VR == "OW"
        frames = native_frames(layout, data, big, swapped, widths)
        return FrameReader(layout, frames, table, native_colours(layout), lossy, widths)
    return _compressed(ds, layout, data[:], syntax, table, lossy, widths)


def _overlay_bits(ds: Dataset) -> int:
    """Return the bits of a stored word that belong to overlays: Overlay Bit Position (60xx,0102)."""
    tags = (BaseTag(group << 16 | 0x0102) for group in range(0x6000, 0x6020, 2))
    places = {ds[tag].value for tag in tags if held(ds, tag) is not None}
    return sum(1 << place for place in places if isinstance(place, int) and 0 < place < 64)


def _table(ds: Dataset, layout: PixelLayout) -> LookupTable | None:
    if layout.photometric == "PALETTE COLOR":
        return palette(ds)
    return modality_lut(ds) if layout.photometric in GREY and layout.real is None else None


def _compressed(
    ds: Dataset, layout: PixelLayout, data: bytes, syntax: str, table: LookupTable | None, lossy: bool, widths: Widths
) -> FrameReader:
    frames, streams = checked_frames(ds, layout, data, syntax)
    lossy = lossy or any(stream.lossy for stream in streams if stream)

    def stored(index: int) -> Array:
        return decode_frame(layout, frames[index], streams[index], syntax, widths)

    return FrameReader(layout, stored, table, compressed_colours(layout, streams[0], syntax), lossy, widths)


@dataclass(frozen=True, slots=True)
class DecompressedFrames:
    """The frames of a compressed instance, in the form of native pixel data.

    `photometric`: Photometric Interpretation (0028,0004) of the decoded samples. `layout`: layout from the data set,
    except that the samples of a colour pixel are always adjacent. `frames`: iterator of (rows, columns) or (rows,
    columns, samples) array; all bits that the codec kept, including those above Bits Stored (0028,0101).
    """

    photometric: str
    layout: PixelLayout
    frames: Iterator[Array]


def decompressed_frames(ds: Dataset) -> DecompressedFrames:
    """Return the frames of a compressed instance; each is decoded when it is iterated.

    Raises ConversionRefused as `frame_reader` does; ``undecodable`` also during iteration.
    """
    layout = pixel_layout(ds, "PixelData")
    layout = replace(layout, bits_stored=layout.bits_allocated, shift=0)  # keeps the bits above Bits Stored
    syntax = text(ds.file_meta, "TransferSyntaxUID") or ""
    data, _ = stored_bytes(ds, "PixelData")
    if not data:
        raise contradictory("(7FE0,0010) Pixel Data is empty or unreadable")
    frames, streams = checked_frames(ds, layout, data[:], syntax)
    decoded = (decode_frame(layout, frame, stream, syntax) for frame, stream in zip(frames, streams, strict=True))
    return DecompressedFrames(decoded_photometric(layout, streams[0], syntax), layout, decoded)


def native_frames(
    layout: PixelLayout, data: StoredBytes, big: bool, swapped: bool, widths: Widths | None = None
) -> Callable[[int], Array]:
    """Return a function that reads one native frame by its index from 0, after the length of the data is checked.

    `data`: pixel data. `big`: the data are big endian. `swapped`: the data are bytes in big-endian words of 16 bits
    (OW).

    Raises ConversionRefused: ``cut``: there are fewer bytes than rows, columns, samples and frames take (PS3.5 8.1.1);
        ``contradictory``: there are more.
    """
    if layout.photometric in HALF_SAMPLED and (layout.columns % 2 or layout.bits_allocated < 8):
        raise contradictory(
            f"(0028,0011) Columns is {layout.columns}: {layout.photometric} in (0028,0004) requires an even number"
        )
    _check_length(layout, data)
    if swapped:
        data = np.frombuffer(data[: len(data) // 2 * 2], "u2").byteswap().tobytes()
    if layout.bits_allocated == 1:
        return partial(_native_bits, layout, data)
    return partial(_native_words, layout, data, layout.stored_dtype.newbyteorder(">" if big else "<"), widths)


def _check_length(layout: PixelLayout, data: StoredBytes) -> None:
    expected = -(-layout.frame_bits * layout.frames // 8)
    # Some writers pad with zeros. Other bytes after the last frame mean that a dimension is wrong.
    pieces = range(expected, len(data), PIECE_BYTES) if len(data) > expected + 1 else ()
    if len(data) < expected:
        raise cut(CutPixels(len(data), expected))
    if any(data[start : start + PIECE_BYTES].strip(b"\0") for start in pieces):
        raise contradictory(
            f"(7FE0,0010) Pixel Data has {len(data)} bytes, but {counted(layout.frames, 'frame')} of {layout.rows} "
            f"rows x {layout.columns} columns with {counted(layout.samples, 'sample')} of {layout.bits_allocated} bits "
            f"need {expected}"
        )


def _native_bits(layout: PixelLayout, data: StoredBytes, index: int) -> Array:
    """Return a frame of single bits; frames follow each other without padding (PS3.5 8.1.1)."""
    first = index * layout.pixels
    packed = _bytes_as(np.dtype(np.uint8), data, first // 8, -(-(first + layout.pixels) // 8))
    bits = np.unpackbits(packed, bitorder="little")[first % 8 : first % 8 + layout.pixels]
    return bits.reshape(layout.rows, layout.columns)


def _native_words(
    layout: PixelLayout, data: StoredBytes, dtype: np.dtype[Any], widths: Widths | None, index: int
) -> Array:
    count = layout.frame_bits // layout.bits_allocated
    frame_bytes = count * dtype.itemsize
    words = _bytes_as(dtype, data, index * frame_bytes, (index + 1) * frame_bytes)
    if not dtype.isnative:
        words = words.astype(layout.stored_dtype)
    words = stored_bits(words, layout, layout.bits_stored, layout.shift, widths)
    if layout.photometric in HALF_SAMPLED:
        return from_half_sampled(words).reshape(layout.rows, layout.columns, 3)
    if layout.samples == 1:
        return words.reshape(layout.rows, layout.columns)
    if layout.by_plane:
        return words.reshape(3, layout.rows, layout.columns).transpose(1, 2, 0)
    return words.reshape(layout.rows, layout.columns, 3)


def _bytes_as(dtype: np.dtype[Any], data: StoredBytes, start: int, stop: int) -> Array:
    """Return bytes as numbers; bytes still in their file are read now.

    Raises ConversionRefused ``unreadable``: the file has changed since its header was read.
    """
    if isinstance(data, bytes):
        return np.frombuffer(data, dtype, (stop - start) // dtype.itemsize, start)
    try:
        return np.frombuffer(data[start:stop], dtype)
    except (OSError, EOFError) as error:
        detail = "the file can no longer be read, or is shorter than when its header was read"
        raise ConversionRefused(Reason.UNREADABLE, detail) from error
