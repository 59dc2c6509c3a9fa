"""Compress single frames without loss, for clients that ask for it: JPEG-LS and HTJ2K (PS3.5 A.4.3 and A.4.11)."""

from collections.abc import Callable

import numpy as np
from pydicom import Dataset, uid

from node.volume.model import Array
from node.volume.read.pixel_layout import PixelLayout, pixel_layout
from node.volume.read.transfer_syntaxes import NotTranscodable


def encoded_frame(header: Dataset, samples: bytes, transfer_syntax_uid: str) -> bytes:
    """Return the codestream of one frame, after it was decoded again: an encoder may err.

    `header`: the header of its instance.
    `samples`: the frame as an uncompressed data set in little endian holds it.
    `transfer_syntax_uid`: one of `node.volume.read.transfer_syntaxes.ENCODERS`.

    Raises NotTranscodable: the frame is neither grey nor RGB by pixel, has other samples than of 8 or 16 bits, or would
        have others.
    Raises ConversionRefused: the header contradicts itself.
    """
    layout = pixel_layout(header, "PixelData")
    encode, decode = _CODECS[transfer_syntax_uid]
    codestream = encode(_shaped(layout, samples), layout)
    if decode(codestream) != samples:
        raise NotTranscodable("the compressed frame would not have the same samples")
    return codestream


def _shaped(layout: PixelLayout, samples: bytes) -> Array:
    """Return the samples as (rows, columns) or (rows, columns, 3), signed if the data set says so."""
    is_colour = layout.samples == 3 and layout.photometric == "RGB" and not layout.by_plane
    if layout.bits_allocated not in (8, 16) or not (layout.samples == 1 or is_colour):
        raise NotTranscodable("only frames of 8 or 16 bits, grey or RGB by pixel, are compressed")
    shape = (layout.rows, layout.columns, *([3] if is_colour else []))
    dtype = layout.stored_dtype.newbyteorder("<")
    if len(samples) != dtype.itemsize * int(np.prod(shape)):
        raise NotTranscodable(f"the frame has {len(samples)} bytes, not those of {shape} samples")
    return np.frombuffer(samples, dtype).reshape(shape)


def _jpeg_ls(frame: Array, layout: PixelLayout) -> bytes:
    """JPEG-LS knows no sign: negative samples are the large numbers that have their bits."""
    import jpeg_ls

    bits = layout.bits_allocated
    if not layout.signed and bits == 16 and int(frame.max()) >> max(layout.bits_stored, 9) == 0:
        bits = max(layout.bits_stored, 9)  # of 8 bits or less, readers would expect one byte a sample
    mode = 2 if layout.samples > 1 else 0
    return bytes(jpeg_ls.encode_buffer(frame.tobytes(), layout.rows, layout.columns, layout.samples, bits, 0, mode))


def _of_jpeg_ls(codestream: bytes) -> bytes:
    import jpeg_ls

    return bytes(jpeg_ls.decode_buffer(codestream)[0])


def _htj2k(frame: Array, layout: PixelLayout) -> bytes:
    from imagecodecs import htj2k_encode

    return bytes(htj2k_encode(frame, reversible=True))


def _of_htj2k(codestream: bytes) -> bytes:
    from imagecodecs import htj2k_decode

    return bytes(htj2k_decode(codestream).tobytes())


_CODECS: dict[str, tuple[Callable[[Array, PixelLayout], bytes], Callable[[bytes], bytes]]] = {
    uid.JPEGLSLossless: (_jpeg_ls, _of_jpeg_ls),
    uid.HTJ2KLossless: (_htj2k, _of_htj2k),
}
