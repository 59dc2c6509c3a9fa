"""Frames of encapsulated pixel data, PS3.5 A.4: fragments are joined and checked before anything is decoded."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO

import numpy as np
from pydicom.dataset import Dataset
from pydicom.encaps import generate_fragments, parse_basic_offsets

from node.dicom.encoding import locates_frames
from node.dicom.values import value
from node.errors import ConversionRefused, NotUnderstood
from node.volume.model import Array
from node.volume.read.codestreams import Codestream, begins, read_codestream
from node.volume.read.decoders import FrameShape
from node.volume.read.decoders import decode_frame as decoded_frame
from node.volume.read.pixel_layout import PixelLayout, contradictory, stored_bits
from node.volume.read.transfer_syntaxes import CODESTREAM_SYNTAXES, EXACT_JPEG_SYNTAXES, JPEG_2000_SYNTAXES, can_decode
from node.volume.reasons import Reason
from node.volume.widths import Widths

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


def _decode(layout: PixelLayout, frame: bytes, stream: Codestream | None, syntax: str) -> Array:
    return decoded_frame(
        frame, FrameShape(layout.rows, layout.columns, layout.samples, layout.bits_allocated, syntax, stream)
    )


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
    return _as_stored(_decode(layout, frame, codestream, syntax), layout, syntax, codestream, widths)
