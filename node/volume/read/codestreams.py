"""Headers of compressed frames (JPEG, JPEG-LS, JPEG 2000), read before a decoder runs.

A decoder allocates memory by the numbers in these headers, so they are compared with the data set first. Decoders also
complete truncated codestreams silently, so the end of the codestream is checked here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from node.errors import ConversionRefused
from node.volume.reasons import Reason

_SOI, _SOC = b"\xff\xd8", b"\xff\x4f"
_JP2_SIGNATURE = b"\x00\x00\x00\x0cjP  "
_END = b"\xff\xd9"
_STANDALONE = frozenset((0x01, *range(0xD0, 0xD8)))
_SOF = frozenset((0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF, 0xF7))
_LOSSLESS_SOF = frozenset((0xC3, 0xC7, 0xCB, 0xCF))
_JPEG_LS_SOF = 0xF7
_SOS, _APP0, _APP14 = 0xDA, 0xE0, 0xEE
_SIZ, _COD, _SOT = 0xFF51, 0xFF52, 0xFF90


@dataclass(frozen=True, slots=True)
class Codestream:
    """The header of one compressed frame.

    `signed` is None if the format does not state it (JPEG, JPEG-LS). `colour_space` is ``"RGB"`` or ``"YBR"`` if the
    codestream states it (component names, Adobe or JFIF marker), else empty. `transformed`: whether JPEG 2000 made
    luminance and colour differences of three components.
    """

    rows: int
    columns: int
    samples: int
    precision: int
    signed: bool | None = None
    lossy: bool = False
    colour_space: str = ""
    transformed: bool = False


def begins(data: bytes) -> bool:
    """Return whether a fragment is the first of a JPEG, JPEG-LS or JPEG 2000 frame."""
    return data.startswith((_SOI, _SOC, _JP2_SIGNATURE))


def read_codestream(data: bytes) -> Codestream:
    """Return the header of a JPEG, JPEG-LS or JPEG 2000 codestream.

    Raises ConversionRefused: ``undecodable``: not such a codestream, a broken header, or a missing end.

    ITU-T T.81 B.2 (JPEG), T.87 C.2 (JPEG-LS), T.800 A.4 and A.5 (JPEG 2000).
    """
    try:
        if data.startswith(_SOI):
            return _read_jpeg(data)
        return _read_jpeg_2000(data)
    except IndexError:
        raise _undecodable("the header is truncated") from None


def _undecodable(problem: str) -> ConversionRefused:
    return ConversionRefused(Reason.UNDECODABLE, f"compressed frame: {problem}")


def _word(data: bytes, at: int) -> int:
    return data[at] << 8 | data[at + 1]


def _long(data: bytes, at: int) -> int:
    return _word(data, at) << 16 | _word(data, at + 2)


def _read_jpeg(data: bytes) -> Codestream:
    segments = dict(reversed(list(jpeg_segments(data))))  # the first one of each kind counts
    kind = next((marker for marker in segments if marker in _SOF), None)
    scan = segments[_SOS]
    if kind is None:
        raise _undecodable("there is no frame header")
    if data.rfind(_END) < scan:
        raise _undecodable("truncated: the end-of-image marker is missing")
    at = segments[kind]
    samples = data[at + 5]
    near = data[scan + 1 + 2 * data[scan]]
    return Codestream(
        rows=_word(data, at + 1),
        columns=_word(data, at + 3),
        samples=samples,
        precision=data[at],
        lossy=near > 0 if kind == _JPEG_LS_SOF else kind not in _LOSSLESS_SOF,
        colour_space=_colour_space(data, segments, at) if samples == 3 else "",
    )


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield each marker and the offset of its parameters, up to and including the first start of scan."""
    at, marker = 2, 0
    while marker != _SOS:
        if data[at] != 0xFF:
            raise _undecodable(f"a marker was expected at byte {at}")
        marker = data[at + 1]
        if marker == 0xFF or marker in _STANDALONE:
            at += 1 if marker == 0xFF else 2
            continue
        yield marker, at + 4
        at += 2 + max(_word(data, at + 2), 2)


def _colour_space(data: bytes, segments: dict[int, int], frame: int) -> str:
    """Return the colour space of three components, in libjpeg's order of trust: JFIF, Adobe, component names."""
    jfif, adobe = segments.get(_APP0), segments.get(_APP14)
    if jfif and data[jfif : jfif + 4] == b"JFIF":
        return "YBR"
    if adobe and data[adobe : adobe + 5] == b"Adobe" and _word(data, adobe - 2) >= 14:
        return "YBR" if data[adobe + 11] else "RGB"
    return "RGB" if data[frame + 6 : frame + 15 : 3] == b"RGB" else ""


def _read_jpeg_2000(data: bytes) -> Codestream:
    at = jpeg_2000_start(data)
    if _word(data, at + 2) != _SIZ:
        raise _undecodable("not a JPEG, JPEG-LS or JPEG 2000 codestream")
    size = at + 6  # after marker and length
    right, bottom, left, top = (_long(data, size + 2 + 4 * index) for index in range(4))
    samples = _word(data, size + 34)
    components = [data[size + 36 + 3 * index : size + 39 + 3 * index] for index in range(samples)]
    if not components or len(set(components)) != 1 or components[0][1:] != b"\x01\x01":
        raise _undecodable("the components differ in depth or sampling")
    tile_width, tile_height, tiles_left, tiles_top = (_long(data, size + 18 + 4 * index) for index in range(4))
    if not tile_width or not tile_height:
        raise _undecodable("the tiles have no size")
    tiles = -(-(right - tiles_left) // tile_width) * -(-(bottom - tiles_top) // tile_height)
    lossy, transformed, first_tile = _read_main_header(data, at + 2)
    _check_tiles(data, first_tile, tiles)
    depth = components[0][0]
    return Codestream(
        rows=bottom - top,
        columns=right - left,
        samples=samples,
        precision=(depth & 0x7F) + 1,
        signed=bool(depth & 0x80),
        lossy=lossy,
        transformed=transformed,
    )


def jpeg_2000_start(data: bytes) -> int:
    """Return the offset of the codestream, which follows the boxes of a JP2 file if the sender ignored PS3.5 A.4.4."""
    at = 0
    while data[at : at + 2] != _SOC:
        length, kind = _long(data, at), data[at + 4 : at + 8]
        if kind == b"jp2c":
            at += 16 if length == 1 else 8
        elif length < 8:
            raise _undecodable("not a JPEG, JPEG-LS or JPEG 2000 codestream")
        else:
            at += length
    return at


def _read_main_header(data: bytes, at: int) -> tuple[bool, bool, int]:
    """Return whether the wavelet is irreversible, whether components are transformed, and where tile-parts begin."""
    lossy = transformed = False
    while (marker := _word(data, at)) != _SOT:
        if marker < 0xFF00:
            raise _undecodable(f"a marker was expected at byte {at}")
        if marker == _COD:
            lossy, transformed = data[at + 13] == 0, data[at + 8] == 1
        at += 2 + _word(data, at + 2)
    return lossy, transformed, at


def _check_tiles(data: bytes, at: int, tiles: int) -> None:
    """Walk the tile-parts by their lengths; refuse a codestream that ends before the last tile-part."""
    end, seen = len(data), set()
    while at + 12 <= end and _word(data, at) == _SOT:
        length = _long(data, at + 6)
        seen.add(_word(data, at + 4))
        if length == 0:  # the last one, up to the end of codestream marker
            if data.rfind(_END) < at:
                raise _undecodable("truncated: the end-of-codestream marker is missing")
            break
        if length < 14:
            raise _undecodable(f"the tile-part at byte {at} gives an impossible length, {length}")
        at += length
    if at > end:
        raise _undecodable(f"truncated: {at - end} bytes are missing")
    if len(seen) < tiles:
        raise _undecodable(f"the header announces {tiles} tiles, but there are {len(seen)}")
