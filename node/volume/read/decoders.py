"""Decode compressed frames: by a library for each transfer syntax, whose output becomes samples.

A library is loaded for the first frame that needs it, because most series need none. Codecs that hold the interpreter's
lock while they decode keep every other thread waiting, so threads gain nothing: assisting processes decode their frames
at the same time.
"""

import json
import struct
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from io import BytesIO
from typing import Any

import numpy as np
from pydicom import uid

from node.errors import ConversionRefused, is_out_of_memory
from node.volume.model import Array
from node.volume.read.transfer_syntaxes import (
    CODESTREAM_SYNTAXES,
    DEFLATED_IMAGE_FRAME,
    HAS_PYJPEGLS,
    JPEG,
    JPEG_2000,
    JPEG_LS,
    LOCKING_SYNTAXES,
    PACKAGES,
    Codestream,
)
from node.volume.reasons import Reason

Ask = Callable[[bytes, int], bytearray | None]
"""Asks one of the assistants: a request, and the greatest number of bytes of the answer; None if none can answer."""

MIN_BYTES = 1 << 14
"""Decoded size of the smallest frame that is sent to an assistant: 128 x 128 pixels of 8 bits, which take 0.1 ms."""

_MAX_REFUSAL_BYTES = 4096
_HEAD = struct.Struct(">I")
_SHORTAGE, _REFUSED = b"m", b"r"
_ITEM_BYTES = {b"1": 1, b"2": 2, b"4": 4}

_ask: Ask | None = None


@dataclass(frozen=True, slots=True)
class FrameShape:
    """Expected shape of one decoded frame; `codestream` is the frame's own header, if the format has one."""

    rows: int
    columns: int
    samples: int
    bits_allocated: int
    transfer_syntax_uid: str
    codestream: Codestream | None = None

    @property
    def container(self) -> np.dtype[np.unsignedinteger]:
        """Type of decoded samples: the smallest of 8, 16 and 32 bits that holds their precision."""
        bits = self.codestream.precision if self.codestream else self.bits_allocated
        return np.dtype(f"u{1 if bits <= 8 else 2 if bits <= 16 else 4}")


def _decode_pillow(data: bytes, shape: FrameShape) -> Array:
    from PIL import Image

    with Image.open(BytesIO(data), formats=("JPEG",)) as image:
        stream = shape.codestream
        if shape.samples == 3 and stream is not None and stream.colour_space != "RGB":
            image.draft("YCbCr", image.size)  # as stored: the caller converts colours, by the data set
        return np.asarray(image)


@cache
def _gdcm() -> Any:
    """Return gdcm's module, which prints nothing."""
    import gdcm

    gdcm.Trace.WarningOff()
    gdcm.Trace.ErrorOff()
    gdcm.Trace.DebugOff()
    return gdcm


def _decode_gdcm(data: bytes, shape: FrameShape) -> Array:
    gdcm = _gdcm()
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(data)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((shape.columns, shape.rows, 1))
    image.SetDataElement(element)
    interpretation = gdcm.PhotometricInterpretation.GetPIType("RGB" if shape.samples == 3 else "MONOCHROME2")
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(interpretation))
    syntax = gdcm.TransferSyntax.GetTSType(shape.transfer_syntax_uid)
    image.SetTransferSyntax(gdcm.TransferSyntax(syntax))
    bits = shape.codestream.precision if shape.codestream else shape.bits_allocated
    container = shape.container
    image.SetPixelFormat(gdcm.PixelFormat(shape.samples, container.itemsize * 8, bits, bits - 1, 0))
    decoded = image.GetBuffer()
    if decoded is None:
        raise ValueError("gdcm could not decode the frame")
    # SWIG returns a char* as text; this is its inverse.
    return np.frombuffer(decoded.encode("utf-8", "surrogateescape"), container)


def _decode_jpeg(data: bytes, shape: FrameShape) -> Array:
    """Decode by Pillow if it can: its libjpeg-turbo is faster.

    Pillow supports only 8 bits; gdcm supports 12 and 16 bits and the lossless modes.
    """
    stream = shape.codestream
    if stream is not None and stream.precision == 8 and stream.lossy:
        return _decode_pillow(data, shape)
    return _decode_gdcm(data, shape)


def _decode_jpeg_ls(data: bytes, shape: FrameShape) -> Array:
    import jpeg_ls

    decoded, header = jpeg_ls.decode_pixel_data(data)
    samples = np.frombuffer(decoded, shape.container)
    return _by_pixel(samples, shape) if shape.samples > 1 and header["interleave_mode"] == 0 else samples


def _decode_openjpeg(data: bytes, shape: FrameShape) -> Array:
    import openjpeg.utils

    return np.frombuffer(openjpeg.utils.decode_pixel_data(data, version=2), shape.container)


def _decode_rle(data: bytes, shape: FrameShape) -> Array:
    import rle.utils

    _check_rle(data, shape)
    decoded = rle.utils.decode_pixel_data(
        data, version=2, rows=shape.rows, columns=shape.columns, bits_allocated=shape.bits_allocated
    )
    return _by_pixel(np.frombuffer(decoded, shape.container), shape)


def _check_rle(data: bytes, shape: FrameShape) -> None:
    """Raise if the data cannot hold the frame, before memory is allocated: 2 bytes of PackBits yield at most 128."""
    segments = shape.samples * max(shape.bits_allocated // 8, 1)
    if len(data) < 64 or int.from_bytes(data[:4], "little") != segments:
        raise ValueError(f"the RLE header does not have {segments} segments, as the data set requires")
    if (len(data) - 64) * 64 < shape.rows * shape.columns * segments:
        raise ValueError(f"{len(data)} bytes of RLE cannot hold the frame")


def _decode_deflated(data: bytes, shape: FrameShape) -> Array:
    pixels = shape.rows * shape.columns * shape.samples
    expected = -(-pixels * shape.bits_allocated // 8)
    # Ask for one byte more than expected: a bomb stops there and has a wrong length.
    decoded = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, expected + 2)
    if not expected <= len(decoded) <= expected + 1:
        raise ValueError(f"{len(decoded)} bytes instead of {expected}")
    if shape.bits_allocated == 1:
        return np.unpackbits(np.frombuffer(decoded, np.uint8), count=pixels, bitorder="little")
    return np.frombuffer(decoded, shape.container, count=pixels)


def _by_pixel(samples: Array, shape: FrameShape) -> Array:
    """Turn colour-by-plane into colour-by-pixel."""
    return samples.reshape(shape.samples, shape.rows, shape.columns).transpose(1, 2, 0)


def load_codec(transfer_syntax_uid: str) -> None:
    """Load what decodes frames of a transfer syntax, in a process whose forks decode many of them."""
    if transfer_syntax_uid in JPEG_2000:
        import openjpeg.utils  # noqa: F401
    elif transfer_syntax_uid in JPEG_LS and HAS_PYJPEGLS:
        import jpeg_ls  # noqa: F401
    elif transfer_syntax_uid in CODESTREAM_SYNTAXES:
        _gdcm()


def load_codecs() -> None:
    """Load all codecs, in a process whose forks decode: none of them has to load one."""
    import rle.utils  # noqa: F401
    from PIL import Image  # noqa: F401

    _gdcm()
    if HAS_PYJPEGLS:
        import jpeg_ls  # noqa: F401


_Decode = Callable[[bytes, FrameShape], Array]

_DECODERS: dict[str, _Decode] = {
    **dict.fromkeys(JPEG[:2], _decode_jpeg),
    **dict.fromkeys(JPEG[2:], _decode_gdcm),
    **dict.fromkeys(JPEG_LS, _decode_jpeg_ls if HAS_PYJPEGLS else _decode_gdcm),
    **dict.fromkeys(JPEG_2000, _decode_openjpeg),
    uid.RLELossless: _decode_rle,
    DEFLATED_IMAGE_FRAME: _decode_deflated,
}
"""gdcm decodes JPEG-LS to the same samples as pyjpegls, but refuses frames of fewer than 8 bits."""


def decode(data: bytes, shape: FrameShape) -> Array:
    """Return the samples of one compressed frame: unsigned, and in the colour space of the codestream.

    `data`: the codestream of one frame. `shape`: what the data set and the codestream's header state.

    Result: (rows, columns) or (rows, columns, samples) array; of 8, 16 or 32 bits: `FrameShape.container`. Colours are
    as the codec stored them, but JPEG 2000's own transforms (YBR_RCT, YBR_ICT) are undone.

    Raises ConversionRefused ``undecodable``: the codec failed, or returned another size.
    """
    try:
        samples = _DECODERS[shape.transfer_syntax_uid](data, shape)
        return samples.reshape((shape.rows, shape.columns, shape.samples)[: 2 if shape.samples == 1 else 3])
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # codecs raise anything; a panic in Rust is not even an Exception
        if is_out_of_memory(error):
            raise MemoryError from error
        packages = " and ".join(PACKAGES[shape.transfer_syntax_uid])
        raise ConversionRefused(
            Reason.UNDECODABLE, f"{packages} cannot decode the compressed frame ({type(error).__name__})"
        ) from error


def use_assistants(ask: Ask) -> None:
    """Let assistants decode the frames that this process needs."""
    global _ask
    _ask = ask


def decode_frame(frame: bytes, shape: FrameShape) -> Array:
    """Return what `node.volume.read.decoders.decode` does, decoded by an assistant if that is faster."""
    pixel_bytes = shape.rows * shape.columns * shape.samples * shape.container.itemsize
    if _ask is None or shape.transfer_syntax_uid not in LOCKING_SYNTAXES or pixel_bytes < MIN_BYTES:
        return decode(frame, shape)
    head = json.dumps(asdict(shape)).encode()
    answer = _ask(_HEAD.pack(len(head)) + head + frame, 1 + max(pixel_bytes, _MAX_REFUSAL_BYTES))
    if not answer or answer[:1] == _SHORTAGE:
        return decode(frame, shape)
    if answer[:1] == _REFUSED:
        raise ConversionRefused(Reason.UNDECODABLE, answer[1:].decode("utf-8", "replace"))
    samples = np.frombuffer(answer, f"u{_ITEM_BYTES[bytes(answer[:1])]}", offset=1)
    return samples.reshape((shape.rows, shape.columns, shape.samples)[: 2 if shape.samples == 1 else 3])


def answer_request(request: bytearray) -> bytes:
    """Decode the frame of a request of `decode_frame`; run in an assistant."""
    [length] = _HEAD.unpack_from(request)
    stated = json.loads(request[_HEAD.size : _HEAD.size + length])
    codestream = stated.pop("codestream")
    shape = FrameShape(**stated, codestream=Codestream(**codestream) if codestream else None)
    try:
        samples = decode(bytes(memoryview(request)[_HEAD.size + length :]), shape)
    except MemoryError:
        return _SHORTAGE
    except ConversionRefused as refused:
        return _REFUSED + str(refused.detail).encode()[:_MAX_REFUSAL_BYTES]
    return b"%d" % samples.dtype.itemsize + samples.tobytes()
