"""Frames of native (not encapsulated) pixel data, PS3.5 8, read one at a time from memory or from their file."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from node.dicom.reading import FileBytes
from node.errors import ConversionRefused
from node.volume.model import Array
from node.volume.read.colours import from_half_sampled
from node.volume.read.pixel_layout import HALF_SAMPLED, PixelLayout, contradictory, stored_bits
from node.volume.reasons import Reason

StoredBytes = bytes | FileBytes
"""Pixel data in memory, or still in their file."""


def native_frames(layout: PixelLayout, data: StoredBytes, big: bool, swapped: bool) -> Callable[[int], Array]:
    """Return a function that reads one native frame by its index from 0, after the length of the data is checked.

    Parameters
    ----------
    layout : PixelLayout
    data : bytes or FileBytes
        Pixel data.
    big : bool
        The data are big endian.
    swapped : bool
        The data are bytes in big-endian words of 16 bits (OW).

    Raises
    ------
    ConversionRefused
        ``contradictory``: the length does not match rows, columns, samples and frames (PS3.5 8.1.1).
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
    return partial(_native_words, layout, data, layout.stored_dtype.newbyteorder(">" if big else "<"))


def _check_length(layout: PixelLayout, data: StoredBytes) -> None:
    expected = -(-layout.frame_bits * layout.frames // 8)
    # Some writers pad with zeros. Other bytes after the last frame mean that a dimension is wrong.
    if len(data) < expected or (len(data) > expected + 1 and data[expected:].count(0) < len(data) - expected):
        raise contradictory(
            f"(7FE0,0010) Pixel Data has {len(data)} bytes, but {layout.frames} frames of {layout.rows} rows x "
            f"{layout.columns} columns with {layout.samples} samples of {layout.bits_allocated} bits take {expected}"
        )


def _native_bits(layout: PixelLayout, data: StoredBytes, index: int) -> Array:
    """Return a frame of single bits; frames follow each other without padding (PS3.5 8.1.1)."""
    first = index * layout.pixels
    packed = _bytes_as(np.dtype(np.uint8), data, first // 8, -(-(first + layout.pixels) // 8))
    bits = np.unpackbits(packed, bitorder="little")[first % 8 : first % 8 + layout.pixels]
    return bits.reshape(layout.rows, layout.columns)


def _native_words(layout: PixelLayout, data: StoredBytes, dtype: np.dtype[Any], index: int) -> Array:
    count = layout.frame_bits // layout.bits_allocated
    frame_bytes = count * dtype.itemsize
    words = _bytes_as(dtype, data, index * frame_bytes, (index + 1) * frame_bytes)
    if not dtype.isnative:
        words = words.astype(layout.stored_dtype)
    words = stored_bits(words, layout, layout.bits_stored, layout.shift)
    if layout.photometric in HALF_SAMPLED:
        return from_half_sampled(words).reshape(layout.rows, layout.columns, 3)
    if layout.samples == 1:
        return words.reshape(layout.rows, layout.columns)
    if layout.by_plane:
        return words.reshape(3, layout.rows, layout.columns).transpose(1, 2, 0)
    return words.reshape(layout.rows, layout.columns, 3)


def _bytes_as(dtype: np.dtype[Any], data: StoredBytes, start: int, stop: int) -> Array:
    """Return bytes as numbers; bytes still in their file are read now.

    Raises
    ------
    ConversionRefused
        ``unreadable``: the file has changed since its header was read.
    """
    if isinstance(data, bytes):
        return np.frombuffer(data, dtype, (stop - start) // dtype.itemsize, start)
    try:
        return np.frombuffer(data[start:stop], dtype)
    except (OSError, EOFError) as error:
        detail = "the file can no longer be read, or is shorter than when its header was read"
        raise ConversionRefused(Reason.UNREADABLE, detail) from error
