"""Compress single frames without loss (PS3.5 A.4)."""

import zlib
from collections.abc import Callable

import numpy as np
from pydicom import uid

from node.volume.model import Array
from node.volume.read.pixel_layout import PixelLayout
from node.volume.read.transfer_syntaxes import DEFLATED_IMAGE_FRAME, NotTranscodable


def compressed(frame: Array, layout: PixelLayout, transfer_syntax_uid: str) -> bytes:
    """Return a frame compressed without loss, after it was decoded again.

    `frame`: (rows, columns) or (rows, columns, samples) array of `layout.stored_dtype`; of 0 and 1 for one bit.

    Raises NotTranscodable: nothing encodes this transfer syntax, or the encoder does not take or keep the samples.
    """
    encode, decode = _CODECS.get(transfer_syntax_uid, (None, None))
    if encode is None:
        raise NotTranscodable("no encoder is installed for the transfer syntax")
    try:
        codestream = encode(frame, layout)
        is_kept = decode is None or decode(codestream) == frame.tobytes()
    except (ArithmeticError, LookupError, ImportError, RuntimeError, TypeError, ValueError) as error:
        raise NotTranscodable(f"the encoder failed: {type(error).__name__}") from error
    if not is_kept:
        raise NotTranscodable("the compressed frame would not have the same samples")
    return codestream


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


def _jpeg_2000(frame: Array, layout: PixelLayout) -> bytes:
    import openjpeg.utils

    is_transformed = layout.photometric.startswith(("YBR_RCT", "YBR_ICT"))
    bits = layout.bits_stored if layout.shift == 0 and not layout.signed else layout.bits_allocated
    colours = 1 if is_transformed else 0
    return bytes(openjpeg.utils.encode_array(frame, bits, colours, is_transformed))


def _of_jpeg_2000(codestream: bytes) -> bytes:
    import openjpeg.utils

    return bytes(openjpeg.utils.decode_pixel_data(codestream, version=2))


def _rle(frame: Array, layout: PixelLayout) -> bytes:
    import rle.utils

    stated = {"rows": layout.rows, "columns": layout.columns, "samples_per_pixel": layout.samples}
    data = frame.astype(frame.dtype.newbyteorder("<"), copy=False).tobytes()
    return bytes(rle.utils.encode_pixel_data(data, None, "<", bits_allocated=layout.bits_allocated, **stated))


def _deflated(frame: Array, layout: PixelLayout) -> bytes:
    data = np.packbits(frame, bitorder="little") if layout.bits_allocated == 1 else frame
    return zlib.compress(data.tobytes(), wbits=-zlib.MAX_WBITS)


_Codec = tuple[Callable[[Array, PixelLayout], bytes], Callable[[bytes], bytes] | None]

_CODECS: dict[str, _Codec] = {
    **dict.fromkeys((uid.JPEGLSLossless, uid.JPEGLSNearLossless), (_jpeg_ls, _of_jpeg_ls)),
    **dict.fromkeys((uid.HTJ2KLossless, uid.HTJ2K), (_htj2k, _of_htj2k)),
    **dict.fromkeys((uid.JPEG2000Lossless, uid.JPEG2000), (_jpeg_2000, _of_jpeg_2000)),
    uid.RLELossless: (_rle, None),
    DEFLATED_IMAGE_FRAME: (_deflated, None),
}
"""By transfer syntax: what encodes, and what decodes again. Those that allow a loss allow none as well."""
