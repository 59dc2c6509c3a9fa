"""Stored values of the frames of an instance: checked against the data first, decoded one frame at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.encaps import generate_fragments, parse_basic_offsets
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from node.dicom.reading import FileBytes, stored_bytes
from node.dicom.values import value
from node.errors import ConversionRefused
from node.volume.elements import text
from node.volume.model import Array
from node.volume.read.codestreams import Codestream, begins, read_codestream
from node.volume.read.colours import compressed_colours, decoded_photometric, from_half_sampled, native_colours
from node.volume.read.decoders import (
    CODESTREAM_SYNTAXES,
    EXACT_JPEG_SYNTAXES,
    JPEG_2000_SYNTAXES,
    FrameShape,
    can_decode,
    decode,
)
from node.volume.read.lookup_tables import LookupTable, modality_lut, palette
from node.volume.read.pixel_layout import GREY, HALF_SAMPLED, PIXELS, PixelLayout, contradictory, pixel_layout
from node.volume.reasons import Reason

MAXIMUM_FRAME_BYTES = 1 << 30
"""Largest decoded frame: 32768 x 32768 pixels of 8 bits; larger ones are decompression bombs or slides."""

MAXIMUM_INSTANCE_BYTES = 16_000_000_000
"""Largest sum of the decoded frames of one compressed instance."""

_NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, "1.2.840.10008.1.2.1.99")


Stored = bytes | FileBytes
"""Pixel data in memory, or in their file."""


class FrameReader:
    """The frames of one instance, read one by one: ``reader(index)`` with `index` from 0.

    Attributes
    ----------
    frames : int
    rows, columns : int
    colour : bool
        Frames are (rows, columns, 3), RGB of 8 bits; else (rows, columns).
    dtype : numpy.dtype
        Of what is returned, in the machine's byte order.
    modality_lut : bool
        A Modality LUT Sequence is applied; rescale slope and intercept are 1 and 0 then.
    lossy : bool
        The pixels went through a lossy codec, now or before they arrived.
    """

    def __init__(
        self,
        layout: PixelLayout,
        stored: Callable[[int], Array],
        table: LookupTable | None,
        to_rgb: Callable[[Array], Array] | None,
        lossy: bool,
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
        self._stored = stored
        self._table = table
        self._to_rgb = to_rgb

    def __call__(self, index: int) -> Array:
        """Return one frame as `Frame.read` describes; it may be a read-only view into the data set.

        Raises
        ------
        ConversionRefused
            ``undecodable``: the codec failed.
        """
        stored = self._stored(index)
        if self._table is not None:
            return self._table(stored)
        return stored if self._to_rgb is None else self._to_rgb(stored)


def frame_reader(ds: Dataset) -> FrameReader:
    """Return a reader of the frames of an instance, after everything that can be known beforehand is checked.

    Nothing is allocated by numbers of the data set before they agree with each other, with the length of the pixel
    data and with the headers of compressed frames.

    Raises
    ------
    ConversionRefused
        ``not-an-image``, ``contradictory``, ``too-large`` or ``undecodable``; `detail` names tag, value and rule.

    Notes
    -----
    PS3.3 C.7.6.3, C.7.6.24 and C.7.6.25 (Image Pixel, Floating Point and Double Floating Point Image Pixel);
    PS3.5 8 and annex A. Overlays in unused high bits are masked away; supplemental palettes leave grey as it is.
    """
    keyword = next((each for each in PIXELS if each in ds), None)
    if keyword is None:
        raise ConversionRefused(Reason.NOT_AN_IMAGE, "the data set has no pixel data")
    layout = pixel_layout(ds, keyword)
    syntax = text(ds.file_meta, "TransferSyntaxUID") or "" if hasattr(ds, "file_meta") else ""
    data, encapsulated = stored_bytes(ds, keyword)
    if not data:
        raise contradictory("(7FE0,0010) Pixel Data is empty or is not a string of bytes")
    table = _table(ds, layout)
    lossy = text(ds, "LossyImageCompression") == "01"
    if syntax in _NATIVE or (not syntax and not encapsulated):
        if encapsulated:
            raise contradictory("(7FE0,0010) Pixel Data is of undefined length, its transfer syntax is not compressed")
        big = syntax == ExplicitVRBigEndian or (not syntax and ds.original_encoding[1] is False)
        swapped = big and layout.bits_allocated <= 8 and ds[keyword].VR == "OW"
        return FrameReader(layout, _native(layout, data, big, swapped), table, native_colours(layout), lossy)
    return _compressed(ds, layout, data[:], syntax, table, lossy)


def _table(ds: Dataset, layout: PixelLayout) -> LookupTable | None:
    if layout.photometric == "PALETTE COLOR":
        return palette(ds)
    return modality_lut(ds) if layout.photometric in GREY and layout.real is None else None


# Native frames


def _native(layout: PixelLayout, data: Stored, big: bool, swapped: bool) -> Callable[[int], Array]:
    """Return how to read a native frame, after its length is checked (PS3.5 8.1.1)."""
    if layout.photometric in HALF_SAMPLED and (layout.columns % 2 or layout.bits_allocated < 8):
        raise contradictory(f"(0028,0011) Columns is {layout.columns}: {layout.photometric} asks for an even number")
    _check_length(layout, data)
    if swapped:
        data = np.frombuffer(data[: len(data) // 2 * 2], "u2").byteswap().tobytes()
    if layout.bits_allocated == 1:
        return partial(_native_bits, layout, data)
    return partial(_native_words, layout, data, layout.stored_dtype.newbyteorder(">" if big else "<"))


def _check_length(layout: PixelLayout, data: Stored) -> None:
    expected = -(-layout.frame_bits * layout.frames // 8)
    # Some writers pad with zeros; anything else behind the last frame says that a dimension is wrong.
    if len(data) < expected or (len(data) > expected + 1 and data[expected:].count(0) < len(data) - expected):
        raise contradictory(
            f"(7FE0,0010) Pixel Data is {len(data)} bytes long: {layout.frames} frames of {layout.rows} x "
            f"{layout.columns} pixels, {layout.samples} samples of {layout.bits_allocated} bits, take {expected}"
        )


def _native_bits(layout: PixelLayout, data: Stored, index: int) -> Array:
    """Return a frame of single bits; frames follow each other without padding (PS3.5 8.1.1)."""
    first = index * layout.pixels
    packed = _bytes_as(np.dtype(np.uint8), data, first // 8, -(-(first + layout.pixels) // 8))
    bits = np.unpackbits(packed, bitorder="little")[first % 8 : first % 8 + layout.pixels]
    return bits.reshape(layout.rows, layout.columns)


def _native_words(layout: PixelLayout, data: Stored, dtype: np.dtype[Any], index: int) -> Array:
    count = layout.frame_bits // layout.bits_allocated
    frame_bytes = count * dtype.itemsize
    words = _bytes_as(dtype, data, index * frame_bytes, (index + 1) * frame_bytes)
    if not dtype.isnative:
        words = words.astype(layout.stored_dtype)
    words = _stored_bits(words, layout, layout.bits_stored, layout.shift)
    if layout.photometric in HALF_SAMPLED:
        return from_half_sampled(words).reshape(layout.rows, layout.columns, 3)
    if layout.samples == 1:
        return words.reshape(layout.rows, layout.columns)
    if layout.by_plane:
        return words.reshape(3, layout.rows, layout.columns).transpose(1, 2, 0)
    return words.reshape(layout.rows, layout.columns, 3)


def _bytes_as(dtype: np.dtype[Any], data: Stored, start: int, stop: int) -> Array:
    """Return some bytes as numbers, read from their file only now if they have stayed there.

    Raises
    ------
    ConversionRefused
        ``unreadable``: the file is not what it was when its header was read.
    """
    if isinstance(data, bytes):
        return np.frombuffer(data, dtype, (stop - start) // dtype.itemsize, start)
    try:
        return np.frombuffer(data[start:stop], dtype)
    except (OSError, EOFError) as error:
        raise ConversionRefused(Reason.UNREADABLE, "the file can no longer be read, or has become shorter") from error


def _stored_bits(words: Array, layout: PixelLayout, bits: int, shift: int = 0) -> Array:
    """Return the `bits` that are the value: the others may hold overlays or dirt (PS3.5 8.1.1, annex D)."""
    spare = layout.bits_allocated - bits
    if not spare or layout.real is not None or (not shift and _hold(words, bits, layout.signed)):
        return words
    if layout.signed:
        return (words << (spare - shift)) >> spare
    masked: Array = (words >> shift if shift else words) & words.dtype.type((1 << bits) - 1)
    return masked


def _hold(words: Array, bits: int, signed: bool) -> bool:
    """Whether all words are numbers of so many bits already: most are, and looking is faster than copying."""
    limit = 1 << (bits - signed)
    return int(words.max()) < limit and (not signed or int(words.min()) >= -limit)


# Compressed frames


def _compressed(
    ds: Dataset, layout: PixelLayout, data: bytes, syntax: str, table: LookupTable | None, lossy: bool
) -> FrameReader:
    frames, streams = _checked_frames(ds, layout, data, syntax)
    lossy = lossy or any(stream.lossy for stream in streams if stream)

    def stored(index: int) -> Array:
        return _as_stored(_decoded(layout, frames[index], streams[index], syntax), layout, syntax, streams[index])

    return FrameReader(layout, stored, table, compressed_colours(layout, streams[0], syntax), lossy)


def _checked_frames(
    ds: Dataset, layout: PixelLayout, data: bytes, syntax: str
) -> tuple[list[bytes], Sequence[Codestream | None]]:
    """The compressed frames and their headers, after everything that can be known beforehand is checked."""
    if not can_decode(syntax):
        raise ConversionRefused(Reason.UNDECODABLE, f"no decoder for {_shown(syntax)}")
    if layout.real is not None:
        raise contradictory("floating point pixel data cannot be compressed (PS3.5 A.4)")
    frame_bytes = layout.pixels * layout.samples * max(layout.bits_allocated // 8, 1)
    if frame_bytes > MAXIMUM_FRAME_BYTES or frame_bytes * layout.frames > MAXIMUM_INSTANCE_BYTES:
        raise ConversionRefused(
            Reason.TOO_LARGE,
            f"{layout.frames} compressed frames of {frame_bytes} bytes each: at most {MAXIMUM_FRAME_BYTES} bytes a "
            f"frame and {MAXIMUM_INSTANCE_BYTES} an instance are decoded",
        )
    frames = _encoded_frames(ds, data, layout.frames)
    if syntax not in CODESTREAM_SYNTAXES:
        return frames, [None] * len(frames)
    return frames, [_checked_codestream(frame, layout) for frame in frames]


def _decoded(layout: PixelLayout, frame: bytes, stream: Codestream | None, syntax: str) -> Array:
    return decode(frame, FrameShape(layout.rows, layout.columns, layout.samples, layout.bits_allocated, syntax, stream))


@dataclass(frozen=True, slots=True)
class DecompressedFrames:
    """The frames of a compressed instance, as a native one would hold them.

    Attributes
    ----------
    photometric : str
        Photometric Interpretation (0028,0004) of the decoded samples.
    layout : PixelLayout
        Of the data set; the samples of colours lie by pixel, whatever it says.
    frames : iterator of (rows, columns) or (rows, columns, samples) array
        Every bit that the codec kept, also those above Bits Stored (0028,0101).
    """

    photometric: str
    layout: PixelLayout
    frames: Iterator[Array]


def decompressed_frames(ds: Dataset) -> DecompressedFrames:
    """Return the decoded frames of an instance whose transfer syntax is a compressed one, decoded one by one.

    Raises
    ------
    ConversionRefused
        As of `frame_reader`; ``undecodable`` also while the frames are iterated.
    """
    layout = pixel_layout(ds, "PixelData")
    layout = replace(layout, bits_stored=layout.bits_allocated, shift=0)  # what lies above Bits Stored is kept too
    syntax = text(ds.file_meta, "TransferSyntaxUID") or ""
    data, _ = stored_bytes(ds, "PixelData")
    if not data:
        raise contradictory("(7FE0,0010) Pixel Data is empty or is not a string of bytes")
    frames, streams = _checked_frames(ds, layout, data[:], syntax)
    decoded = (
        _as_stored(_decoded(layout, frame, stream, syntax), layout, syntax, stream)
        for frame, stream in zip(frames, streams, strict=True)
    )
    return DecompressedFrames(decoded_photometric(layout, streams[0], syntax), layout, decoded)


def _shown(syntax: str) -> str:
    """The transfer syntax for a message: digits and dots only, as it came over the network."""
    return f"transfer syntax {syntax}" if syntax.replace(".", "").isdigit() else "a transfer syntax that is no UID"


def _checked_codestream(frame: bytes, layout: PixelLayout) -> Codestream:
    stream = read_codestream(frame)
    found = stream.rows, stream.columns, stream.samples
    if found != (layout.rows, layout.columns, layout.samples):
        raise contradictory(
            f"a compressed frame is {found[0]} x {found[1]} with {found[2]} samples: the data set says "
            f"{layout.rows} x {layout.columns} with {layout.samples}, (0028,0010), (0028,0011) and (0028,0002)"
        )
    if not 1 <= stream.precision <= layout.bits_allocated:
        raise contradictory(
            f"a compressed frame has {stream.precision} bits a sample: (0028,0100) Bits Allocated is "
            f"{layout.bits_allocated}"
        )
    return stream


def _encoded_frames(ds: Dataset, data: bytes, frames: int) -> list[bytes]:
    """Return the compressed frames, each of one or several fragments (PS3.5 A.4).

    The count decides where it can: one fragment a frame, or one frame of all fragments. Else the offset tables, and
    where they are empty the beginnings of codestreams do.
    """
    try:
        with BytesIO(data) as buffer:
            offsets = parse_basic_offsets(buffer)
            fragments = list(generate_fragments(buffer))
    except MemoryError:
        raise
    except Exception as error:  # struct.error, ValueError, ... whatever a broken item makes pydicom raise
        raise contradictory("(7FE0,0010) Pixel Data is no sequence of fragments (PS3.5 A.4)") from error
    if len(fragments) < frames:
        raise contradictory(
            f"(7FE0,0010) Pixel Data has {len(fragments)} fragments: (0028,0008) Number of Frames is {frames}"
        )
    if len(fragments) == frames:
        return fragments
    if frames == 1:
        return [b"".join(fragments)]
    extended = value(ds, "ExtendedOffsetTable")
    if isinstance(extended, bytes):
        offsets = np.frombuffer(extended[: len(extended) // 8 * 8], "<u8").tolist()
    starts = _frame_starts(fragments, offsets, frames)
    return [b"".join(fragments[start:stop]) for start, stop in zip(starts, [*starts[1:], len(fragments)], strict=True)]


def _frame_starts(fragments: list[bytes], offsets: list[int], frames: int) -> list[int]:
    begin = np.cumsum([0, *(len(fragment) + 8 for fragment in fragments[:-1])])
    starts = [index for index, at in enumerate(begin) if at in set(offsets)]
    if len(starts) != frames or len(offsets) != frames or starts[0] != 0:
        starts = [index for index, fragment in enumerate(fragments) if begins(fragment)]
    if len(starts) != frames or starts[0] != 0:
        raise contradictory(
            f"(7FE0,0010) Pixel Data has {len(fragments)} fragments and no offset table or frame beginnings that make "
            f"{frames} frames of them, (0028,0008) Number of Frames"
        )
    return starts


def _as_stored(samples: Array, layout: PixelLayout, syntax: str, stream: Codestream | None) -> Array:
    """Return decoded samples in the type that the data set stores them in.

    Codecs that do not know signed samples, and encoders that marked them wrongly, give the bits of a two's complement
    as an unsigned number of the codestream's precision: the precision of the codestream holds, Pixel Representation
    (0028,0103) says how its bits are read (PS3.5 8.2.4).
    """
    if stream is None:
        words = samples.view(layout.stored_dtype) if layout.bits_allocated > 1 else samples
        return _stored_bits(words, layout, layout.bits_stored, layout.shift)
    bits = stream.precision
    signed = layout.signed
    if syntax in EXACT_JPEG_SYNTAXES:
        bits = min(bits, layout.bits_stored)
    spare = samples.dtype.itemsize * 8 - bits
    if syntax in JPEG_2000_SYNTAXES and stream.signed == signed:
        if signed:
            samples = samples.view(f"i{samples.dtype.itemsize}")
    elif signed:
        samples = (samples.view(f"i{samples.dtype.itemsize}") << spare) >> spare
    elif spare and (syntax in EXACT_JPEG_SYNTAXES or syntax in JPEG_2000_SYNTAXES):
        samples = samples & samples.dtype.type((1 << bits) - 1)
    return samples.astype(layout.stored_dtype, copy=False)
