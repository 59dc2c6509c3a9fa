"""Parts with pixel data: their transfer syntax if the client did not say it, and the description of their pixels.

PS3.18 10.5.2 lets clients send compressed frames as they have them, and leave the Image Pixel Description Macro out.
Only what the bytes say for certain is derived.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from pydicom.uid import MPEGTransferSyntaxes

from node.dicom.encoding import EXPLICIT_LITTLE_ENDIAN
from node.dicom.json_model import BulkData, Json, NotEncodable
from node.errors import ConversionRefused
from node.extensions.dicomweb.media_types import JPEG
from node.volume.read.transfer_syntaxes import (
    CODESTREAM_SYNTAXES,
    Codestream,
    jpeg_2000_start,
    jpeg_segments,
    read_codestream,
)

SAMPLES, PHOTOMETRIC, PLANAR, FRAMES = "00280002", "00280004", "00280006", "00280008"
ROWS, COLUMNS = "00280010", "00280011"
ALLOCATED, STORED, HIGH_BIT, SIGNED = "00280100", "00280101", "00280102", "00280103"
_DESCRIPTION = (SAMPLES, PHOTOMETRIC, ROWS, COLUMNS, ALLOCATED, STORED, HIGH_BIT, SIGNED)
"""The Image Pixel Description Macro (PS3.3 table C.7-11c)."""

_LOSSY, _RATIO, _METHOD = "00282110", "00282112", "00282114"

DERIVED = (*_DESCRIPTION, PLANAR, FRAMES, _LOSSY, _RATIO, _METHOD)
"""Attributes that pixels say, if the metadata do not."""

_WITH_CODESTREAM = {
    "1.2.840.10008.1.2.4.50": (0xC0,),
    "1.2.840.10008.1.2.4.51": (0xC0, 0xC1),
    "1.2.840.10008.1.2.4.57": (0xC3,),
    "1.2.840.10008.1.2.4.70": (0xC3,),
    "1.2.840.10008.1.2.4.80": (0xF7,),
    "1.2.840.10008.1.2.4.81": (0xF7,),
}
"""Start of frame markers of the transfer syntaxes of JPEG and JPEG-LS (PS3.5 A.4.1 and A.4.3)."""

_JP2_SIGNATURE = b"\x00\x00\x00\x0cjP  "
_METHODS = {JPEG: "ISO_10918_1", "image/jls": "ISO_14495_1", "image/jp2": "ISO_15444_1", "image/jphc": "ISO_15444_15"}
"""Lossy Image Compression Method (0028,2114) by media type."""

_LOSSY_SYNTAXES = {
    "image/jls": "1.2.840.10008.1.2.4.81",
    "image/jp2": "1.2.840.10008.1.2.4.91",
    "image/jphc": "1.2.840.10008.1.2.4.203",
}
"""Transfer syntax of a codestream with loss, by media type."""


class PixelPart(BulkData, Protocol):
    """A part with pixel data, its media type and its transfer syntax, which the client gave or its type implies."""

    media_type: str
    transfer_syntax_uid: str
    is_assumed: bool


@dataclass(frozen=True, slots=True)
class Bytes:
    """Bytes in memory; a `BulkData`."""

    data: bytes

    @property
    def length(self) -> int:
        """Their number."""
        return len(self.data)

    def read(self) -> bytes:
        """Return them."""
        return self.data

    def copy_to(self, out: BinaryIO) -> None:
        """Write them."""
        out.write(self.data)


@dataclass(frozen=True, slots=True)
class Pixels:
    """The pixel data of an instance: the metadata with their description, and the parts or what they became."""

    model: Json
    parts: Sequence[BulkData]
    transfer_syntax_uid: str

    @property
    def is_native(self) -> bool:
        """Whether the pixel data are uncompressed."""
        return self.transfer_syntax_uid == EXPLICIT_LITTLE_ENDIAN


def pixels_of(model: Json, parts: Sequence[PixelPart]) -> Pixels:
    """Return the pixel data of an instance; without parts, they are in the metadata, or there are none.

    Raises NotEncodable: they contradict the metadata, or nobody says how they are to be shown.
    """
    if not parts:
        return Pixels(model, parts, EXPLICIT_LITTLE_ENDIAN)
    syntaxes = {_syntax(part) for part in parts}
    if len(syntaxes) > 1:
        raise NotEncodable("7FE00010: the parts of the pixel data have different transfer syntaxes")
    syntax = syntaxes.pop()
    if syntax == EXPLICIT_LITTLE_ENDIAN:
        return Pixels(model, parts, syntax)
    if syntax in MPEGTransferSyntaxes:
        return _of_video(model, parts, syntax)
    if syntax not in CODESTREAM_SYNTAXES:
        _ = number_of(model, ROWS), number_of(model, COLUMNS)
        _check_count(model, len(parts))
        return Pixels(model, parts, syntax)
    bare: Sequence[BulkData] = [_without_boxes(part) if part.is_assumed else part for part in parts]
    model = _described(model, bare, parts[0], syntax)
    _check_count(model, len(parts))
    rows, columns, samples = number_of(model, ROWS), number_of(model, COLUMNS), number_of(model, SAMPLES, 1)
    for part in bare:
        codestream = _codestream(part.read(), syntax)
        if (codestream.rows, codestream.columns) != (rows, columns):
            raise NotEncodable("7FE00010: Rows and Columns are not those of the compressed frames")
        if codestream.samples != samples:
            raise NotEncodable("7FE00010: Samples per Pixel is not that of the compressed frames")
    return Pixels(model, bare, syntax)


def number_of(model: Json, tag: str, default: int | None = None) -> int:
    """Return the number in an element of the metadata. Raises NotEncodable: there is none, and no default."""
    element = model.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    try:
        return int(values[0]) if values else int(default)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise NotEncodable(f"{tag}: pixel data need this attribute in the metadata (PS3.3 C.7.6.3)") from None


def _check_count(model: Json, count: int) -> None:
    expected = number_of(model, FRAMES, 1)
    if count != expected:
        raise NotEncodable(f"7FE00010: {count} parts for {expected} frames; each compressed frame is a part of its own")


def _syntax(part: PixelPart) -> str:
    """Return the transfer syntax of a part: that of its bytes, if the client gave only a media type.

    Many clients send files of cameras and browsers as ``image/jpeg``, whose default is lossless (PS3.18 table 8.7.3-2).
    """
    if not part.is_assumed or part.transfer_syntax_uid == EXPLICIT_LITTLE_ENDIAN:
        return part.transfer_syntax_uid
    if part.transfer_syntax_uid not in CODESTREAM_SYNTAXES:
        return part.transfer_syntax_uid
    data = part.read()
    try:
        codestream = read_codestream(data)
    except ConversionRefused as error:
        raise NotEncodable(f"7FE00010: {error.detail}") from error
    if part.media_type == JPEG:
        return _syntax_of_jpeg(data) or part.transfer_syntax_uid
    lossy = _LOSSY_SYNTAXES.get(part.media_type) if codestream.lossy else None
    return lossy or part.transfer_syntax_uid


def _syntax_of_jpeg(data: bytes) -> str:
    """Return the transfer syntax of a JPEG by its process; empty if it is another codestream (T.81 table B.1)."""
    kind = _start_of_frame(data)
    if kind == 0xC2:
        raise NotEncodable("7FE00010: progressive JPEG, for which DICOM has no transfer syntax: send baseline")
    if kind == 0xC3:
        return f"1.2.840.10008.1.2.4.{70 if _is_first_order(data) else 57}"
    return {0xC0: "1.2.840.10008.1.2.4.50", 0xC1: "1.2.840.10008.1.2.4.51"}.get(kind, "")


def _is_first_order(data: bytes) -> bool:
    """Return whether a lossless JPEG has the predictor of Selection Value 1 (T.81 table H.1)."""
    scan = next(at for marker, at in jpeg_segments(data) if marker == 0xDA)
    return data[scan + 1 + 2 * data[scan]] == 1


def _without_boxes(part: PixelPart) -> BulkData:
    """Return the codestream of a JP2 file, whose boxes DICOM does not have (PS3.5 A.4.4)."""
    if part.media_type not in ("image/jp2", "image/jpx", "image/jphc"):
        return part
    data = part.read()
    if not data.startswith(_JP2_SIGNATURE):
        return part
    return Bytes(data[jpeg_2000_start(data) : data.rfind(b"\xff\xd9") + 2])


def _codestream(data: bytes, syntax: str) -> Codestream:
    """Return the header of a compressed frame.

    Raises NotEncodable: it cannot be read, or is not one of the transfer syntax.
    """
    try:
        codestream = read_codestream(data)
    except ConversionRefused as error:
        raise NotEncodable(f"7FE00010: {error.detail}") from error
    markers = _WITH_CODESTREAM.get(syntax)
    if (markers is None) == data.startswith(b"\xff\xd8") or (markers and _start_of_frame(data) not in markers):
        raise NotEncodable(f"7FE00010: a frame is not encoded in the transfer syntax of its part, {syntax}")
    return codestream


def _start_of_frame(data: bytes) -> int:
    """Return the marker of the frame header of a JPEG or JPEG-LS codestream (ITU-T T.81 B.2.2), or 0."""
    if not data.startswith(b"\xff\xd8"):
        return 0
    kinds = {0xF7, *range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
    return next((marker for marker, _ in jpeg_segments(data) if marker in kinds), 0)


def _described(model: Json, frames: Sequence[BulkData], part: PixelPart, syntax: str) -> Json:
    """Return the metadata with what they leave out of the Image Pixel Description Macro.

    JPEG and JPEG-LS of 8 bits are unsigned by convention, and JPEG 2000 says whether it is signed. Of three components,
    JPEG 2000 says whether it transformed them, which it does with RGB.

    Raises NotEncodable: the metadata say nothing of the pixels, and the frames not everything.
    """
    missing = [tag for tag in _DESCRIPTION if tag not in model]
    if not missing:
        return model
    data = frames[0].read()
    codestream = _codestream(data, syntax)
    known: dict[str, int] = {SAMPLES: codestream.samples, ROWS: codestream.rows, COLUMNS: codestream.columns}
    if not {ALLOCATED, STORED, HIGH_BIT} & model.keys():
        precision = codestream.precision
        known |= {ALLOCATED: 8 if precision <= 8 else 16, STORED: precision, HIGH_BIT: precision - 1}
    if codestream.signed is not None or codestream.precision == 8:
        known[SIGNED] = int(codestream.signed or 0)
    if codestream.samples == 3:
        known[PLANAR] = 0
    photometric = _photometric(codestream, data)
    if len(missing) == len(_DESCRIPTION) and (not photometric or SIGNED not in known):
        raise NotEncodable("00280010: these frames need Rows, Columns and so on in the metadata (PS3.3 C.7.6.3)")
    described = {tag: {"vr": "US", "Value": [number]} for tag, number in known.items()}
    if photometric:
        described[PHOTOMETRIC] = {"vr": "CS", "Value": [photometric]}
    if codestream.lossy and _LOSSY not in model:
        native = codestream.rows * codestream.columns * codestream.samples * (1 + (codestream.precision > 8))
        ratio = native * len(frames) / max(1, sum(frame.length for frame in frames))
        described |= {_LOSSY: {"vr": "CS", "Value": ["01"]}, _RATIO: {"vr": "DS", "Value": [f"{ratio:.2f}"]}}
        if method := _METHODS.get(part.media_type):
            described[_METHOD] = {"vr": "CS", "Value": [method]}
    return described | model


def _photometric(codestream: Codestream, data: bytes) -> str:
    """Return the Photometric Interpretation that a compressed frame implies; empty if it does not say its colours."""
    if codestream.samples == 1:
        return "MONOCHROME2"
    if codestream.samples != 3:
        return ""
    if data.startswith(b"\xff\xd8"):
        return "YBR_FULL_422" if codestream.lossy and codestream.colour_space != "RGB" else "RGB"
    if codestream.transformed:
        return "YBR_ICT" if codestream.lossy else "YBR_RCT"
    return ""


def _of_video(model: Json, parts: Sequence[PixelPart], syntax: str) -> Pixels:
    if len(parts) != 1:
        raise NotEncodable(f"7FE00010: {len(parts)} parts for a video, which is one part")
    if any(tag not in model for tag in (*_DESCRIPTION, FRAMES)):
        raise NotEncodable("00280010: a video needs Rows, Columns, Number of Frames and so on in the metadata")
    return Pixels(model, parts, syntax)
