"""Metadata and bulk data of a STOW request as DICOM files (PS3.18 10.5.2), in a child of `node.children.decoder`.

Metadata come from strangers and may be anything, so the node itself never parses them. A part that is missing, or bulk
data that contradict the metadata, refuse their instance; the others are stored.
"""

from __future__ import annotations

import json
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from node.dicom.encoding import EXPLICIT_LITTLE_ENDIAN
from node.dicom.json_model import PIXEL_DATA, PIXEL_TAGS, BulkData, Json, NotEncodable, text_of, write_model
from node.dicom.part10 import file_head
from node.dicom.xml_model import NotNative, json_from_native
from node.errors import ConversionRefused
from node.volume.read.transfer_syntaxes import CODESTREAM_SYNTAXES

if TYPE_CHECKING:
    from node.volume.read.codestreams import Codestream

COPY_BYTES = 1 << 20
MAX_INSTANCES = 50_000

_CLASS, _INSTANCE = "00080016", "00080018"
_ROWS, _COLUMNS, _SAMPLES, _ALLOCATED, _FRAMES = "00280010", "00280011", "00280002", "00280100", "00280008"
_PHOTOMETRIC = "00280004"
_DESCRIPTION = (_SAMPLES, _PHOTOMETRIC, _ROWS, _COLUMNS, _ALLOCATED, "00280101", "00280102", "00280103")
"""The Image Pixel Description Macro (PS3.3 table C.7-11c)."""

_WITH_CODESTREAM = {
    "1.2.840.10008.1.2.4.50": (0xC0,),
    "1.2.840.10008.1.2.4.51": (0xC0, 0xC1),
    "1.2.840.10008.1.2.4.57": (0xC3,),
    "1.2.840.10008.1.2.4.70": (0xC3,),
    "1.2.840.10008.1.2.4.80": (0xF7,),
    "1.2.840.10008.1.2.4.81": (0xF7,),
}
"""Start of frame markers of the transfer syntaxes of JPEG and JPEG-LS (PS3.5 A.4.1 and A.4.3)."""

_UID = re.compile(r"[0-9.]{1,64}")
_VIDEO_PREFIX = "1.2.840.10008.1.2.4.10"


@dataclass(frozen=True, slots=True)
class SpooledPart:
    """A part of a request: its bytes in the spool file, and what its headers say.

    Attributes
    ----------
    transfer_syntax_uid : str
        Encoding of a bulk data part; empty for metadata.
    """

    media_type: str
    location: str
    offset: int
    length: int
    transfer_syntax_uid: str = ""


@dataclass(frozen=True, slots=True)
class Assembled:
    """One instance of the metadata: the length of its file, or the reason why there is none."""

    sop_class_uid: str
    sop_instance_uid: str
    length: int
    refusal: str = ""


def assemble(
    spool: Path, metadata: Sequence[SpooledPart], bulk_data: Sequence[SpooledPart], into: Path
) -> list[Assembled]:
    """Write the files of all instances, one behind the other.

    `spool`: the file that holds the parts; `metadata`: of the media type ``application/dicom+json``, an array, or
    ``application/dicom+xml``, one data set; `bulk_data`: several parts with one location are the frames of one value,
    in order; `into`: the file to write. Returns in the order of the metadata; `length` 0 if there is a refusal.
    """
    with spool.open("rb") as source, into.open("wb") as out:
        located: dict[str, list[_Spooled]] = defaultdict(list)
        for part in bulk_data:
            located[part.location].append(_Spooled(source, part))
        return [
            _assembled(model, located, out) if isinstance(model, dict) else Assembled("", "", 0, model)
            for part in metadata
            for model in _models(_Spooled(source, part).read(), part.media_type)
        ]


def assemble_file(spool: Path, metadata: Sequence[SpooledPart], bulk_data: Sequence[SpooledPart], into: Path) -> bytes:
    """Run `assemble`; return its result for `read_assembled`."""
    return json.dumps([asdict(one) for one in assemble(spool, metadata, bulk_data, into)]).encode()


def read_assembled(content: bytes) -> list[Assembled]:
    """Return what a child process says that it assembled; what it wrote is checked like any received instance.

    Raises
    ------
    ValueError
        It is no such list.
    """
    try:
        found = [Assembled(**one) for one in json.loads(content)]
    except (TypeError, RecursionError) as error:
        raise ValueError("not a list of instances") from error
    for one in found:
        texts = one.sop_class_uid, one.sop_instance_uid, one.refusal
        if not all(isinstance(text, str) for text in texts) or not isinstance(one.length, int) or one.length < 0:
            raise ValueError("not an instance")
    return found


def _models(document: bytes, media_type: str) -> Iterator[Json | str]:
    """Yield the data sets of a part, or the reason why it has none."""
    try:
        if media_type.endswith("xml"):
            yield json_from_native(document)
            return
        models = json.loads(document)
    except NotNative as error:
        yield f"the metadata are not in the Native DICOM Model: {error}"
        return
    except (ValueError, RecursionError):
        yield "the metadata are not JSON"
        return
    models = models if isinstance(models, list) else [models]
    for model in models[:MAX_INSTANCES]:
        yield model if isinstance(model, dict) else "an entry of the metadata is not a data set"
    if len(models) > MAX_INSTANCES:
        yield f"more than {MAX_INSTANCES} instances in one request: send several requests"


def _assembled(model: Json, located: dict[str, list[_Spooled]], out: BinaryIO) -> Assembled:
    count = len(model)
    model = {tag.upper(): element for tag, element in model.items()}
    uids = text_of(model, _CLASS), text_of(model, _INSTANCE)
    began = out.tell()
    try:
        if len(model) < count:
            raise NotEncodable("a tag occurs twice")
        if not all(_UID.fullmatch(uid) for uid in uids):
            raise NotEncodable("SOP Class UID and SOP Instance UID (0008,0016), (0008,0018) must be in the metadata")
        pixels = _pixel_parts(model, located)
        syntaxes = {part.part.transfer_syntax_uid for part in pixels} or {EXPLICIT_LITTLE_ENDIAN}
        if len(syntaxes) > 1:
            raise NotEncodable("7FE00010: the parts of the pixel data have different transfer syntaxes")
        syntax = syntaxes.pop()
        is_native = syntax == EXPLICIT_LITTLE_ENDIAN
        if not is_native:
            model = _with_description(model, pixels[0], syntax)
            _check_frames(model, pixels, syntax)
        out.write(file_head(*uids, syntax))
        write_model(out, model, lambda uri: _bulk_data(model, located, uri), None if is_native else pixels)
        if is_native:
            _check_native(model, pixels)
    except NotEncodable as error:
        out.seek(began)
        out.truncate()
        return Assembled(*uids, 0, str(error))
    return Assembled(*uids, out.tell() - began)


def _bulk_data(model: Json, located: dict[str, list[_Spooled]], uri: str) -> BulkData | None:
    """Return the bytes of a URI; frames of uncompressed pixel data may be in parts of their own."""
    if uri == _uri_of(model, PIXEL_DATA):
        parts = _pixel_parts(model, located)
        return _Joined(parts) if parts else None
    parts = located.get(uri, [])
    if len(parts) > 1:
        raise NotEncodable("several parts have one Content-Location, which only frames may share")
    if parts and parts[0].part.transfer_syntax_uid != EXPLICIT_LITTLE_ENDIAN:
        raise NotEncodable("only pixel data may be compressed; other bulk data are application/octet-stream")
    return parts[0] if parts else None


def _uri_of(model: Json, tag: str) -> str | None:
    element = model.get(tag)
    uri = element.get("BulkDataURI") if isinstance(element, dict) else None
    return uri if isinstance(uri, str) else None


def _pixel_parts(model: Json, located: dict[str, list[_Spooled]]) -> list[_Spooled]:
    """Return the parts of Pixel Data: those of its location, or one for each frame, at ``.../frames/{number}``."""
    uri = _uri_of(model, PIXEL_DATA)
    if uri is None:
        return []
    if uri in located:
        return located[uri]
    parts: list[_Spooled] = []
    while f"{uri}/frames/{len(parts) + 1}" in located:
        parts += located[f"{uri}/frames/{len(parts) + 1}"]
    return parts


def _number(model: Json, tag: str, default: int | None = None) -> int:
    element = model.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    try:
        return int(values[0]) if values else int(default)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise NotEncodable(f"{tag}: pixel data need this attribute in the metadata (PS3.3 C.7.6.3)") from None


def _check_frames(model: Json, parts: Sequence[_Spooled], syntax: str) -> None:
    """Compare compressed frames with the metadata.

    Raises NotEncodable: other codestreams than those of the transfer syntax, or frames of another number or size.
    """
    rows, columns, frames = _number(model, _ROWS), _number(model, _COLUMNS), _number(model, _FRAMES, 1)
    if syntax.startswith(_VIDEO_PREFIX) and len(syntax) > len(_VIDEO_PREFIX):
        return _check_count(len(parts), 1)
    _check_count(len(parts), frames)
    if syntax in CODESTREAM_SYNTAXES:
        for part in parts:
            _check_size(_codestream(part.read(), syntax), rows, columns)
    return None


def _with_description(model: Json, frame: _Spooled, syntax: str) -> Json:
    """Return the metadata with the Image Pixel Description Macro of a compressed frame, if they have nothing of it.

    PS3.18 10.5.2 lets clients leave it out. Only what the codestream says for certain is derived: JPEG and JPEG-LS of 8
    bits, which are unsigned by convention, and JPEG 2000 of one component, which says whether it is signed.
    """
    if any(tag in model for tag in _DESCRIPTION) or syntax not in CODESTREAM_SYNTAXES:
        return model
    data = frame.read()
    codestream = _codestream(data, syntax)
    is_jpeg = codestream.signed is None
    photometric = "MONOCHROME2" if codestream.samples == 1 else ""
    if is_jpeg and codestream.samples == 3:
        photometric = "YBR_FULL_422" if codestream.lossy and codestream.colour_space != "RGB" else "RGB"
    if not photometric or (is_jpeg and codestream.precision != 8):
        raise NotEncodable("00280010: these frames need Rows, Columns and so on in the metadata (PS3.3 C.7.6.3)")
    numbers = {
        _SAMPLES: codestream.samples,
        _ROWS: codestream.rows,
        _COLUMNS: codestream.columns,
        _ALLOCATED: 8 if codestream.precision <= 8 else 16,
        "00280101": codestream.precision,
        "00280102": codestream.precision - 1,
        "00280103": int(codestream.signed or 0),
        **({"00280006": 0} if codestream.samples == 3 else {}),
    }
    described = {tag: {"vr": "US", "Value": [number]} for tag, number in numbers.items()}
    return model | described | {_PHOTOMETRIC: {"vr": "CS", "Value": [photometric]}}


def _check_count(count: int, expected: int) -> None:
    if count != expected:
        raise NotEncodable(f"7FE00010: {count} parts for {expected} frames; each compressed frame is a part of its own")


def _codestream(data: bytes, syntax: str) -> Codestream:
    """Return the header of a compressed frame.

    Raises NotEncodable: it cannot be read, or is not one of the transfer syntax.
    """
    from node.volume.read.codestreams import read_codestream

    try:
        codestream = read_codestream(data)
    except ConversionRefused as error:
        raise NotEncodable(f"7FE00010: {error.detail}") from error
    markers = _WITH_CODESTREAM.get(syntax)
    if (markers is None) == data.startswith(b"\xff\xd8") or (markers and _start_of_frame(data) not in markers):
        raise NotEncodable(f"7FE00010: a frame is not encoded in the transfer syntax of its part, {syntax}")
    return codestream


def _check_size(codestream: Codestream, rows: int, columns: int) -> None:
    if (codestream.rows, codestream.columns) != (rows, columns):
        raise NotEncodable("7FE00010: Rows and Columns are not those of the compressed frames")


def _start_of_frame(data: bytes) -> int:
    """Return the marker of the frame header of a JPEG or JPEG-LS codestream (ITU-T T.81 B.2.2), or 0."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            return marker
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return 0


def _check_native(model: Json, parts: Sequence[_Spooled]) -> None:
    """Raise `NotEncodable` if uncompressed pixel data are not as long as the metadata say."""
    for tag in (f"{tag:08X}" for tag in PIXEL_TAGS):
        element: Any = model.get(tag)
        inline = element.get("InlineBinary") if isinstance(element, dict) else None
        if isinstance(inline, str):
            length = len(inline.rstrip("=")) * 3 // 4
        elif tag == PIXEL_DATA and parts:
            length = _Joined(parts).length
        elif tag not in model or _uri_of(model, tag) is not None:
            continue
        else:
            raise NotEncodable(f"{tag}: the metadata have neither BulkDataURI nor InlineBinary for the pixel data")
        samples = _number(model, _SAMPLES, 1)
        if text_of(model, _PHOTOMETRIC) in ("YBR_FULL_422", "YBR_PARTIAL_422"):
            samples = 2
        bits = _number(model, _ROWS) * _number(model, _COLUMNS) * samples * _number(model, _ALLOCATED)
        expected = -(-bits * _number(model, _FRAMES, 1) // 8)
        if not expected <= length <= expected + 1:  # one byte of padding
            raise NotEncodable(f"{tag}: {length} bytes of pixel data, but the metadata describe {expected}")


class _Spooled:
    """The bytes of a part in the spool file; it is a `node.dicom.json_model.BulkData`."""

    def __init__(self, source: BinaryIO, part: SpooledPart) -> None:
        self._source, self.part = source, part

    @property
    def length(self) -> int:
        return self.part.length

    def read(self) -> bytes:
        return os.pread(self._source.fileno(), self.part.length, self.part.offset)

    def copy_to(self, out: BinaryIO) -> None:
        at, end = self.part.offset, self.part.offset + self.part.length
        while at < end:
            data = os.pread(self._source.fileno(), min(COPY_BYTES, end - at), at)
            if not data:
                raise OSError("the spool file is too short")
            out.write(data)
            at += len(data)


class _Joined:
    """Parts one behind the other, as one `node.dicom.json_model.BulkData`."""

    def __init__(self, parts: Sequence[_Spooled]) -> None:
        self._parts = parts

    @property
    def length(self) -> int:
        return sum(part.length for part in self._parts)

    def read(self) -> bytes:
        return b"".join(part.read() for part in self._parts)

    def copy_to(self, out: BinaryIO) -> None:
        for part in self._parts:
            part.copy_to(out)
