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
from typing import Any, BinaryIO

from node.dicom.encoding import EXPLICIT_LITTLE_ENDIAN, file_head
from node.dicom.json_model import (
    AVAILABLE_TRANSFER_SYNTAX,
    PIXEL_DATA,
    PIXEL_TAGS,
    BulkData,
    Json,
    NotEncodable,
    text_of,
    write_model,
)
from node.extensions.dicomweb.media_types import DOCUMENTS_IN_PARTS, PDF
from node.extensions.dicomweb.pixel_parts import (
    ALLOCATED,
    COLUMNS,
    DERIVED,
    FRAMES,
    PHOTOMETRIC,
    ROWS,
    SAMPLES,
    Pixels,
    number_of,
    pixels_of,
)
from node.extensions.dicomweb.xml_model import NotNative, json_from_native

COPY_BYTES = 1 << 20
MAX_INSTANCES = 50_000

_CLASS, _INSTANCE = "00080016", "00080018"
_DOCUMENT, _DOCUMENT_TYPE, _DOCUMENT_LENGTH = "00420011", "00420012", "00420015"

ADDED = (*DERIVED, _DOCUMENT_TYPE, _DOCUMENT_LENGTH)
"""Attributes that an instance may have beyond its metadata."""

_UID = re.compile(r"[0-9.]{1,64}")


@dataclass(frozen=True, slots=True)
class SpooledPart:
    """A part of a request: its bytes in the spool file, and what its headers say.

    `transfer_syntax_uid`: encoding of a bulk data part; empty for metadata.
    `is_assumed`: whether the client did not give it: it is the default of the media type.
    """

    media_type: str
    location: str
    offset: int
    length: int
    transfer_syntax_uid: str = ""
    is_assumed: bool = False


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
    in order; `into`: the file to write. Returns in the order of the metadata; `length` 0 if there is a refusal. If all
    instances are whole and a part belongs to none of them, a refusal without UIDs is the last one.
    """
    with spool.open("rb") as source, into.open("wb") as out:
        located: dict[str, list[_Spooled]] = defaultdict(list)
        for part in bulk_data:
            located[part.location].append(_Spooled(source, part))
        assembled = [
            _assembled(model, located, out) if isinstance(model, dict) else Assembled("", "", 0, model)
            for part in metadata
            for model in _models(_Spooled(source, part).read(), part.media_type)
        ]
    is_named = any(one.refusal for one in assembled) or all(
        part.is_used for parts in located.values() for part in parts
    )
    return assembled if is_named else [*assembled, Assembled("", "", 0, "no BulkDataURI names a part of bulk data")]


def assemble_file(spool: Path, metadata: Sequence[SpooledPart], bulk_data: Sequence[SpooledPart], into: Path) -> bytes:
    """Run `assemble`; return its result for `read_assembled`."""
    return json.dumps([asdict(one) for one in assemble(spool, metadata, bulk_data, into)]).encode()


def read_assembled(content: bytes) -> list[Assembled]:
    """Return what a child process says that it assembled; what it wrote is checked like any received instance.

    Raises ValueError: it is no such list.
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
        pixels = pixels_of(model, _pixel_parts(model, located))
        model = _with_document(pixels.model, located)
        out.write(file_head(*uids, pixels.transfer_syntax_uid))
        frames = None if pixels.is_native else pixels.parts
        model.pop(AVAILABLE_TRANSFER_SYNTAX, None)  # metadata have it in addition (PS3.18 10.4.1.1.2)
        write_model(out, model, lambda uri: _bulk_data(model, located, uri, pixels), frames)
        if pixels.is_native:
            _check_native(model, pixels.parts)
    except NotEncodable as error:
        out.seek(began)
        out.truncate()
        return Assembled(*uids, 0, str(error))
    return Assembled(*uids, out.tell() - began)


def _bulk_data(model: Json, located: dict[str, list[_Spooled]], uri: str, pixels: Pixels) -> BulkData | None:
    """Return the bytes of a URI; frames of uncompressed pixel data may be in parts of their own."""
    if uri == _uri_of(model, PIXEL_DATA):
        return _Joined(pixels.parts) if pixels.parts else None
    parts = located.get(uri, [])
    if len(parts) > 1:
        raise NotEncodable("several parts have one Content-Location, which only frames may share")
    if parts and parts[0].transfer_syntax_uid != EXPLICIT_LITTLE_ENDIAN:
        raise NotEncodable("only pixel data may be compressed; other bulk data are application/octet-stream")
    return parts[0] if parts else None


def _with_document(model: Json, located: dict[str, list[_Spooled]]) -> Json:
    """Return the metadata with media type and length of an encapsulated document, if they leave them out.

    Raises NotEncodable: a part that is called PDF is none.
    """
    parts = located.get(_uri_of(model, _DOCUMENT) or "", [])
    if len(parts) != 1:
        return model
    (part,) = parts
    if part.media_type == PDF and b"%PDF-" not in part.read_at(0, 1024):
        raise NotEncodable(f"{_DOCUMENT}: the part is called {PDF}, and is no PDF file")
    added: Json = {_DOCUMENT_LENGTH: {"vr": "UL", "Value": [part.length]}}
    if name := DOCUMENTS_IN_PARTS.get(part.media_type):
        added[_DOCUMENT_TYPE] = {"vr": "LO", "Value": [name]}
    return added | {tag: element for tag, element in model.items() if tag not in added or text_of(model, tag)}


def _uri_of(model: Json, tag: str) -> str | None:
    element = model.get(tag)
    uri = element.get("BulkDataURI") if isinstance(element, dict) else None
    return uri if isinstance(uri, str) else None


def _pixel_parts(model: Json, located: dict[str, list[_Spooled]]) -> list[_Spooled]:
    """Return the parts of Pixel Data: those of its location, or one for each frame, at ``.../frames/{number}``."""
    uri = _uri_of(model, PIXEL_DATA)
    if uri is None:
        return []
    parts: list[_Spooled] = list(located.get(uri, ()))
    while f"{uri}/frames/{len(parts) + 1}" in located:
        parts += located[f"{uri}/frames/{len(parts) + 1}"]
    for part in parts:
        if part.media_type in DOCUMENTS_IN_PARTS:
            raise NotEncodable(f"7FE00010: a part of the type {part.media_type} is a document, not pixel data")
    return parts


def _check_native(model: Json, parts: Sequence[BulkData]) -> None:
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
        samples = number_of(model, SAMPLES, 1)
        if text_of(model, PHOTOMETRIC) in ("YBR_FULL_422", "YBR_PARTIAL_422"):
            samples = 2
        bits = number_of(model, ROWS) * number_of(model, COLUMNS) * samples * number_of(model, ALLOCATED)
        expected = -(-bits * number_of(model, FRAMES, 1) // 8)
        if not expected <= length <= expected + 1:  # one byte of padding
            raise NotEncodable(f"{tag}: {length} bytes of pixel data, but the metadata describe {expected}")


class _Spooled:
    """The bytes of a part in the spool file; it is a `node.extensions.dicomweb.pixel_parts.PixelPart`."""

    def __init__(self, source: BinaryIO, part: SpooledPart) -> None:
        self._source, self.part = source, part
        self.media_type, self.transfer_syntax_uid = part.media_type, part.transfer_syntax_uid
        self.is_assumed = part.is_assumed
        self.is_used = False

    @property
    def length(self) -> int:
        return self.part.length

    def read(self) -> bytes:
        return self.read_at(0, self.part.length)

    def read_at(self, offset: int, length: int) -> bytes:
        """Return bytes from an offset, at most to the end of the part."""
        self.is_used = True
        return os.pread(self._source.fileno(), min(length, self.part.length - offset), self.part.offset + offset)

    def copy_to(self, out: BinaryIO) -> None:
        self.is_used = True
        at, end = self.part.offset, self.part.offset + self.part.length
        while at < end:
            data = os.pread(self._source.fileno(), min(COPY_BYTES, end - at), at)
            if not data:
                raise OSError("the spool file is too short")
            out.write(data)
            at += len(data)


class _Joined:
    """Parts one behind the other, as one `node.dicom.json_model.BulkData`."""

    def __init__(self, parts: Sequence[BulkData]) -> None:
        self._parts = parts

    @property
    def length(self) -> int:
        return sum(part.length for part in self._parts)

    def read(self) -> bytes:
        return b"".join(part.read() for part in self._parts)

    def copy_to(self, out: BinaryIO) -> None:
        for part in self._parts:
            part.copy_to(out)
