"""Transfer syntaxes of stored instances: which can be decoded, by which packages; headers of compressed frames.

This module loads no codec: the process that accepts associations and requests chooses transfer syntaxes, and children
decode. A decoder allocates memory by the numbers in the header of a codestream (JPEG, JPEG-LS, JPEG 2000), so they are
compared with the data set before it runs. Decoders also complete truncated codestreams silently, so the end of the
codestream is checked here.
"""

import importlib.metadata
import zlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from pydicom import uid

from node.errors import ConversionRefused, VoxelnodeError
from node.volume.reasons import Reason

TARGETS = (str(uid.ExplicitVRLittleEndian), str(uid.ImplicitVRLittleEndian))
"""Possible transfer syntaxes of a converted instance, the better one first: it keeps the value representations."""

NATIVE = frozenset((*TARGETS, uid.ExplicitVRBigEndian, uid.DeflatedExplicitVRLittleEndian))

DEFLATED_IMAGE_FRAME = "1.2.840.10008.1.2.8.1"
"""Deflated Image Frame Compression (PS3.5 A.4.13), which pydicom does not name yet."""

JPEG = (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLossless, uid.JPEGLosslessSV1)
JPEG_LS = (uid.JPEGLSLossless, uid.JPEGLSNearLossless)
JPEG_2000 = (uid.JPEG2000Lossless, uid.JPEG2000, uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.HTJ2K)

CODESTREAM_SYNTAXES = frozenset((*JPEG, *JPEG_LS, *JPEG_2000))
"""Transfer syntaxes whose frames carry a header of their own."""

JPEG_2000_SYNTAXES = frozenset(JPEG_2000)
EXACT_JPEG_SYNTAXES = frozenset(JPEG[2:])

LOCKING_SYNTAXES = frozenset((*JPEG[2:], *JPEG_LS, *JPEG_2000))
"""Transfer syntaxes whose decoders hold the interpreter's lock."""

HAS_PYJPEGLS = find_spec("jpeg_ls") is not None
"""pyjpegls has no wheels for Python 3.14."""

PACKAGES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(JPEG[:2], ("pillow", "python-gdcm")),
    **dict.fromkeys(JPEG[2:], ("python-gdcm",)),
    **dict.fromkeys(JPEG_LS, ("pyjpegls",) if HAS_PYJPEGLS else ("python-gdcm",)),
    **dict.fromkeys(JPEG_2000, ("pylibjpeg-openjpeg",)),
    uid.RLELossless: ("pylibjpeg-rle",),
    DEFLATED_IMAGE_FRAME: ("zlib",),
}
"""The packages that decode the frames of each compressed transfer syntax; see `node.volume.read.decoders`."""

_SOI, _SOC = b"\xff\xd8", b"\xff\x4f"
_JP2_SIGNATURE = b"\x00\x00\x00\x0cjP  "
_END = b"\xff\xd9"
_STANDALONE = frozenset((0x01, *range(0xD0, 0xD8)))
_SOF = frozenset((0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF, 0xF7))
_LOSSLESS_SOF = frozenset((0xC3, 0xC7, 0xCB, 0xCF))
_JPEG_LS_SOF = 0xF7
_SOS, _APP0, _APP14 = 0xDA, 0xE0, 0xEE
_SIZ, _COD, _SOT = 0xFF51, 0xFF52, 0xFF90


class NotTranscodable(VoxelnodeError):
    """An instance cannot be sent in any transfer syntax that its receiver accepts; the message gives the reason."""


def can_decode(transfer_syntax_uid: str) -> bool:
    """Return whether a decoder for this transfer syntax of compressed frames is installed."""
    return transfer_syntax_uid in PACKAGES


def choose_target(
    transfer_syntax_uid: str, accepted: Collection[str], preferred: Sequence[str] = TARGETS
) -> str | None:
    """Return the transfer syntax in which an instance is sent: its own if the receiver accepts it.

    Else one of `TARGETS`, by the order of `preferred`; None if the receiver accepts none of them.
    """
    if transfer_syntax_uid in accepted:
        return transfer_syntax_uid
    if transfer_syntax_uid not in NATIVE and not can_decode(transfer_syntax_uid):
        return None
    return next((target for target in preferred if target in TARGETS and target in accepted), None)


def decoders_by_transfer_syntax() -> dict[str, tuple[str, ...]]:
    """Return the packages that decode each transfer syntax UID, with their versions."""
    return {syntax: tuple(map(with_version, packages)) for syntax, packages in PACKAGES.items()}


def with_version(package: str) -> str:
    """Return the name of an installed package with its version."""
    version = zlib.ZLIB_RUNTIME_VERSION if package == "zlib" else importlib.metadata.version(package)
    return f"{package} {version}"


@dataclass(frozen=True, slots=True)
class Codestream:
    """The header of one compressed frame.

    `signed` is None if the format does not state it (JPEG, JPEG-LS). `colour_space` is ``"RGB"`` or ``"YBR"`` if the
    codestream states it (component names, Adobe or JFIF marker), else empty.
    """

    rows: int
    columns: int
    samples: int
    precision: int
    signed: bool | None = None
    lossy: bool = False
    colour_space: str = ""


def begins(data: bytes) -> bool:
    """Return whether a fragment is the first of a JPEG, JPEG-LS or JPEG 2000 frame."""
    return data.startswith((_SOI, _SOC, _JP2_SIGNATURE))


def read_codestream(data: bytes) -> Codestream:
    """Return the header of a JPEG, JPEG-LS or JPEG 2000 codestream.

    Raises ConversionRefused: ``undecodable``: not such a codestream, a broken header, or a missing end.

    ITU-T T.81 B.2 (JPEG), T.87 C.2 (JPEG-LS), T.800 A.4 and A.5 (JPEG 2000).
    """
    try:
        return _read_jpeg(data) if data.startswith(_SOI) else _read_jpeg_2000(data)
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
    lossy, first_tile = _read_main_header(data, at + 2)
    _check_tiles(data, first_tile, tiles)
    depth = components[0][0]
    return Codestream(
        rows=bottom - top,
        columns=right - left,
        samples=samples,
        precision=(depth & 0x7F) + 1,
        signed=bool(depth & 0x80),
        lossy=lossy,
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


def _read_main_header(data: bytes, at: int) -> tuple[bool, int]:
    """Return whether the wavelet is irreversible, and where tile-parts begin."""
    lossy = False
    while (marker := _word(data, at)) != _SOT:
        if marker < 0xFF00:
            raise _undecodable(f"a marker was expected at byte {at}")
        if marker == _COD:
            lossy = data[at + 13] == 0
        at += 2 + _word(data, at + 2)
    return lossy, at


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
