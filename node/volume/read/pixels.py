"""Stored values of the frames of an instance, checked against the header first, then decoded one frame at a time.

Native frames (PS3.5 8) are read one at a time from memory or from their file. Palettes and the Modality LUT
(`node.volume.read.lookup_tables`) are part of the stored values. Fragments of encapsulated pixel data (PS3.5 A.4) are
joined and checked before anything is decoded.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.encaps import generate_fragments, parse_basic_offsets
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from node.dicom.encoding import locates_frames
from node.dicom.header import CutPixels
from node.dicom.reading import FileBytes, stored_bytes
from node.dicom.values import held, held_elements, standard_tag, value
from node.errors import ConversionRefused, NotUnderstood, counted
from node.volume.elements import text
from node.volume.model import Array
from node.volume.read.decoders import FrameShape
from node.volume.read.decoders import decode_frame as decoded_frame
from node.volume.read.lookup_tables import LookupTable, modality_lut, palette
from node.volume.read.pixel_layout import (
    GREY,
    HALF_SAMPLED,
    PIXELS,
    Colours,
    PixelLayout,
    compressed_colours,
    contradictory,
    cut,
    decoded_photometric,
    from_half_sampled,
    native_colours,
    pixel_layout,
    stored_bits,
)
from node.volume.read.transfer_syntaxes import (
    CODESTREAM_SYNTAXES,
    EXACT_JPEG_SYNTAXES,
    JPEG_2000_SYNTAXES,
    Codestream,
    begins,
    can_decode,
    read_codestream,
)
from node.volume.reasons import Reason
from node.volume.widths import Widths

_NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, "1.2.840.10008.1.2.1.99")

_OVERLAY_BITS = frozenset(group << 16 | 0x0102 for group in range(0x6000, 0x6020, 2))

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
        self.frames, self.rows, self.columns = layout.frames, layout.rows, layout.columns
        self.colour = layout.photometric not in GREY
        self.modality_lut = table is not None and not self.colour
        grey = layout.stored_dtype if table is None else table.entries.dtype
        self.dtype = np.dtype(np.uint8) if self.colour else grey
        self.stored, self._table, self._colours, self.lossy, self.widths = stored, table, colours, lossy, widths
        self.photometric = layout.photometric if colours is None else colours.photometric
        self._grey_bits = layout.bits_stored if table is None and colours is None and layout.real is None else 0

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
    places = {ds[tag].value for tag in _OVERLAY_BITS.intersection(held_elements(ds))}
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


MAX_FRAME_BYTES = 1 << 30
"""Largest decoded frame: 32768 x 32768 pixels of 8 bits. Larger frames are decompression bombs or slides."""

MAX_DECODED_BYTES = 16_000_000_000
"""Largest sum of the decoded frames of one compressed instance."""


def checked_frames(
    ds: Dataset, layout: PixelLayout, data: bytes, syntax: str
) -> tuple[list[bytes], Sequence[Codestream | None]]:
    """Return the compressed frames and their headers, after every check that needs no decoding.

    `data`: the value of Pixel Data: basic offset table and fragments.
    `syntax`: Transfer Syntax UID.

    There is one codestream for each frame; its header is None in formats without headers (RLE, deflated frames).

    Raises ConversionRefused: ``undecodable``: no decoder for the transfer syntax, or a damaged codestream.
        ``contradictory`` or ``too-large``.
    """
    if not can_decode(syntax):
        raise ConversionRefused(Reason.UNDECODABLE, f"voxelnode has no decoder for {_shown(syntax)}")
    if layout.real is not None:
        raise contradictory("floating point pixel data cannot be compressed (PS3.5 A.4)")
    frame_bytes = layout.pixels * layout.samples * max(layout.bits_allocated // 8, 1)
    if frame_bytes > MAX_FRAME_BYTES or frame_bytes * layout.frames > MAX_DECODED_BYTES:
        raise ConversionRefused(
            Reason.TOO_LARGE,
            f"{layout.frames} compressed frames take {frame_bytes} bytes each when decoded; the limits are "
            f"{MAX_FRAME_BYTES} bytes per frame and {MAX_DECODED_BYTES} bytes per instance",
        )
    frames = _encoded_frames(ds, data, layout.frames)
    if syntax not in CODESTREAM_SYNTAXES:
        return frames, [None] * len(frames)
    return frames, [_checked_codestream(frame, layout) for frame in frames]


def _shown(syntax: str) -> str:
    """Return the transfer syntax for a message: only digits and dots, because it came over the network."""
    return f"transfer syntax {syntax}" if syntax.replace(".", "").isdigit() else "a transfer syntax that is not a UID"


def _checked_codestream(frame: bytes, layout: PixelLayout) -> Codestream:
    stream = read_codestream(frame)
    if (stream.rows, stream.columns, stream.samples) != (layout.rows, layout.columns, layout.samples):
        raise contradictory(
            f"a compressed frame has {stream.rows} rows, {stream.columns} columns and {stream.samples} samples, but "
            f"(0028,0010) Rows is {layout.rows}, (0028,0011) Columns is {layout.columns} and (0028,0002) Samples per "
            f"Pixel is {layout.samples}"
        )
    if not 1 <= stream.precision <= layout.bits_allocated:
        raise contradictory(
            f"a compressed frame has {stream.precision} bits per sample, but (0028,0100) Bits Allocated is "
            f"{layout.bits_allocated}"
        )
    return stream


def _encoded_frames(ds: Dataset, data: bytes, frames: int) -> list[bytes]:
    """Return the compressed frames, each of one or several fragments (PS3.5 A.4).

    If there is one fragment per frame, or one frame in all, the count decides. Otherwise the offset tables do, and if
    they do not locate the frames, the beginnings of codestreams.
    """
    try:
        with BytesIO(data) as buffer:
            offsets = parse_basic_offsets(buffer)
            fragments = list(generate_fragments(buffer))
    except MemoryError:
        raise
    except Exception as error:  # struct.error, ValueError, ...: anything that a broken item makes pydicom raise
        raise contradictory("(7FE0,0010) Pixel Data is not a sequence of fragments (PS3.5 A.4)") from error
    if len(fragments) < frames:
        raise contradictory(
            f"(7FE0,0010) Pixel Data has {len(fragments)} fragments, but (0028,0008) Number of Frames is {frames}"
        )
    if frames == 1:
        return [b"".join(fragments)]
    extended = value(ds, "ExtendedOffsetTable")
    if isinstance(extended, bytes):
        offsets = np.frombuffer(extended[: len(extended) // 8 * 8], "<u8").tolist()
    try:
        if not locates_frames(offsets, frames):
            offsets = []
    except NotUnderstood as error:
        raise contradictory(f"(7FE0,0010) Pixel Data: {error}") from error
    if len(fragments) == frames:
        return fragments
    starts = _frame_starts(fragments, offsets, frames)
    return [b"".join(fragments[start:stop]) for start, stop in zip(starts, [*starts[1:], len(fragments)], strict=True)]


def _frame_starts(fragments: list[bytes], offsets: list[int], frames: int) -> list[int]:
    begin = np.cumsum([0, *(len(fragment) + 8 for fragment in fragments[:-1])])
    starts = [index for index, at in enumerate(begin) if at in set(offsets)]
    if len(starts) != frames:
        starts = [index for index, fragment in enumerate(fragments) if begins(fragment)]
    if len(starts) != frames or starts[0] != 0:
        raise contradictory(
            f"(0028,0008) Number of Frames is {frames}, but neither the offset tables nor the beginnings of "
            f"codestreams divide the {len(fragments)} fragments of (7FE0,0010) Pixel Data into that many frames"
        )
    return starts


def _as_stored(
    samples: Array, layout: PixelLayout, syntax: str, stream: Codestream | None, widths: Widths | None
) -> Array:
    """Return decoded samples in the type in which the data set stores them.

    Codecs without signed samples, and encoders that marked samples wrongly, return the bits of a two's complement as an
    unsigned number with the precision of the codestream. That precision is kept, and Pixel Representation (0028,0103)
    decides whether the bits are signed (PS3.5 8.2.4).
    """
    if stream is None:
        words = samples.view(layout.stored_dtype) if layout.bits_allocated > 1 else samples
        return stored_bits(words, layout, layout.bits_stored, layout.shift, widths)
    bits = stream.precision
    signed = layout.signed
    if syntax in EXACT_JPEG_SYNTAXES:
        bits = min(bits, layout.bits_stored)
    if widths is not None and bits < stream.precision:
        widths.see_cut(samples, bits, 0, signed=signed)
    spare = samples.dtype.itemsize * 8 - bits
    if syntax in JPEG_2000_SYNTAXES and stream.signed == signed:
        if signed:
            samples = samples.view(f"i{samples.dtype.itemsize}")
    elif signed:
        samples = (samples.view(f"i{samples.dtype.itemsize}") << spare) >> spare
    elif spare and (syntax in EXACT_JPEG_SYNTAXES or syntax in JPEG_2000_SYNTAXES):
        samples = samples & samples.dtype.type((1 << bits) - 1)
    if widths is not None and stream.signed and not signed:
        widths.see_denied_sign(samples, bits)
    return samples.astype(layout.stored_dtype, copy=False)


def decode_frame(
    layout: PixelLayout, frame: bytes, codestream: Codestream | None, syntax: str, widths: Widths | None = None
) -> Array:
    """Return the samples of one compressed frame in the type in which the data set stores them.

    `frame`: the codestream. `codestream`: its header, as `checked_frames` returned it. `syntax`: Transfer Syntax UID.

    Result: (rows, columns) or (rows, columns, samples) array.

    Raises ConversionRefused ``undecodable``: the codec failed.
    """
    shape = FrameShape(layout.rows, layout.columns, layout.samples, layout.bits_allocated, syntax, codestream)
    return _as_stored(decoded_frame(frame, shape), layout, syntax, codestream, widths)
