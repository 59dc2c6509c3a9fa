"""Content negotiation: media types with their parameters (RFC 9110 12.5.1, PS3.18 8.7)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from fastapi import HTTPException, Request
from pydicom.uid import MPEGTransferSyntaxes
from python_multipart.multipart import parse_options_header

from node.dicom.encoding import EXPLICIT_BIG_ENDIAN, EXPLICIT_LITTLE_ENDIAN, IMPLICIT_LITTLE_ENDIAN
from node.extensions.dicomweb.decoding import ENCODERS
from node.volume.read.transfer_syntaxes import can_decode

UNCOMPRESSED = frozenset((EXPLICIT_LITTLE_ENDIAN, IMPLICIT_LITTLE_ENDIAN, EXPLICIT_BIG_ENDIAN))

ANY = "*"
"""As a transfer syntax: the one in which the instance is stored."""

DICOM, DICOM_JSON, JSON = "application/dicom", "application/dicom+json", "application/json"
DICOM_XML, WADL = "application/dicom+xml", "application/vnd.sun.wadl+xml"
OCTETS, MULTIPART, ZIP, PDF = "application/octet-stream", "multipart/related", "application/zip", "application/pdf"
JPEG, PNG, GIF = "image/jpeg", "image/png", "image/gif"
HTML = "text/html"

MAX_ACCEPT_LENGTH = 8192

FRAME_TYPES = {
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 57, 70)), JPEG),
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{n}" for n in (80, 81)), "image/jls"),
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{n}" for n in (90, 91)), "image/jp2"),
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{n}" for n in (92, 93)), "image/jpx"),
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{n}" for n in (110, 111, 112)), "image/jxl"),
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{n}" for n in (201, 202, 203)), "image/jphc"),
    **{str(uid): "video/mpeg" if "MPEG2" in uid.name else "video/mp4" for uid in MPEGTransferSyntaxes},
    "1.2.840.10008.1.2.5": "image/dicom-rle",
}
"""Media types of compressed frames by transfer syntax, PS3.18 tables 8.7.3-2 to 8.7.3-5."""

_OLD_NAMES = {"image/x-jls": "image/jls", "image/x-dicom-rle": "image/dicom-rle", "image/jpeg2000": "image/jp2"}

_ELEMENT = re.compile(r'(?:[^,"]|"(?:\\.|[^"\\])*")+')


@dataclass(frozen=True, slots=True)
class MediaRange:
    """An acceptable media type; with `multipart` it is the type of the parts of ``multipart/related``.

    `apart`: more specific ranges of the list: what they match has their quality (RFC 9110 12.5.1), 0 included.
    """

    type: str
    parameters: Mapping[str, str]
    quality: float
    multipart: bool
    apart: tuple[MediaRange, ...] = ()

    @property
    def transfer_syntax(self) -> str | None:
        """The ``transfer-syntax`` parameter."""
        return self.parameters.get("transfer-syntax")

    def covers(self, media_type: str) -> bool:
        """Return whether this range includes a media type, by itself or in parts."""
        return self.covers_single(media_type) or self.covers_parts(media_type)

    def covers_single(self, media_type: str) -> bool:
        """Return whether this range includes a media type by itself."""
        return not self.multipart and self._is_first_for(media_type, multipart=False)

    def covers_parts(self, media_type: str) -> bool:
        """Return whether this range includes ``multipart/related`` with parts of a media type."""
        return (self.multipart or self.type == "*/*") and self._is_first_for(media_type, multipart=True)

    def _is_first_for(self, media_type: str, *, multipart: bool) -> bool:
        return self._matches(media_type) and not any(
            other.multipart == multipart and other._matches(media_type) for other in self.apart
        )

    def _matches(self, media_type: str) -> bool:
        return self.type in ("*/*", media_type) or (self.type.endswith("/*") and media_type.startswith(self.type[:-1]))

    @property
    def breadth(self) -> int:
        """How many parts of the type are wild cards."""
        return self.type.count("*")


class NotAcceptable(HTTPException):
    """406, with the available alternatives, and the reason if it is not obvious."""

    def __init__(self, offered: str, reason: str = "none of the accepted media types is available") -> None:
        super().__init__(406, f"{reason}; available: {offered} (PS3.18 8.7)")


def accepted(request: Request) -> tuple[MediaRange, ...]:
    """Return the accepted media types, best first: those of the ``accept`` query parameter, else of the Accept header.

    Without either, everything is accepted (PS3.18 8.3.3.1, 8.7.5).
    """
    query = request.query_params.get("accept", "").replace("dicom json", "dicom+json")  # an unescaped plus sign
    accept = query or request.headers.get("accept") or "*/*"
    if len(accept) > MAX_ACCEPT_LENGTH:
        raise HTTPException(400, "the list of accepted media types is too long")
    return media_ranges(accept)


# Parsed here, because werkzeug.http returns each element as text that must be parsed again for its transfer syntax, and
# python-mimeparse splits at commas within quotes and raises for broken elements.
@lru_cache(maxsize=128)  # a viewer sends the same one with each request
def media_ranges(accept: str) -> tuple[MediaRange, ...]:
    """Return the media types of a list in the format of an Accept header, best first."""
    ascii_only = accept.encode("ascii", "replace").decode("ascii")  # like all media type names (RFC 6838 4.2)
    ranges = [_media_range(element) for element in _ELEMENT.findall(ascii_only)]
    named = [one for one in ranges if one.transfer_syntax is None and one.breadth < 2]
    wanted = sorted((one for one in ranges if one.quality > 0), key=lambda one: -one.quality)
    return tuple(
        replace(one, apart=tuple(other for other in named if other.breadth < one.breadth)) if one.breadth else one
        for one in wanted
    )


def _media_range(element: str) -> MediaRange:
    raw_type, raw_parameters = parse_options_header(element.strip())
    parameters = {
        name.decode("latin-1").lower(): value.decode("latin-1").strip() for name, value in raw_parameters.items()
    }
    kind = raw_type.decode("latin-1").strip().lower()
    try:
        quality = float(parameters.get("q", "1"))
    except ValueError:
        quality = 1.0
    multipart = kind in (MULTIPART, "multipart/*")
    if multipart:
        kind = parameters.get("type", "*/*").lower()
    return MediaRange(_OLD_NAMES.get(kind, kind), parameters, quality, multipart)


@dataclass(frozen=True, slots=True)
class DicomForm:
    """The accepted form of instances: `multipart` or single, in these transfer syntaxes; `ANY`: as stored."""

    transfer_syntaxes: frozenset[str]
    multipart: bool


def dicom_form(ranges: Sequence[MediaRange]) -> DicomForm | None:
    """Return the accepted form of instances, or None if ``application/dicom`` is not accepted.

    The default transfer syntax is Explicit VR Little Endian (PS3.18 8.7.3.2).
    """
    fitting = [media_range for media_range in ranges if media_range.covers(DICOM)]
    if not fitting:
        return None
    syntaxes = frozenset(media_range.transfer_syntax or EXPLICIT_LITTLE_ENDIAN for media_range in fitting)
    return DicomForm(syntaxes, any(media_range.covers_parts(DICOM) for media_range in fitting))


def names(ranges: Sequence[MediaRange], *media_types: str) -> str | None:
    """Return the first of `media_types` covered by the best matching range, or None if no range matches."""
    for media_range in ranges:
        covered = next((media_type for media_type in media_types if media_range.covers_single(media_type)), None)
        if covered is not None:
            return covered
    return None


@dataclass(frozen=True, slots=True)
class DocumentForm:
    """The accepted form of data sets without bulk data: JSON, or XML with one data set in each part.

    `media_type` is `DICOM_JSON`, `JSON` or `DICOM_XML`. XML that is not `multipart` is the document of a single data
    set.
    """

    media_type: str
    multipart: bool


DOCUMENTS = f'{DICOM_JSON} and {MULTIPART}; type="{DICOM_XML}"'
"""The forms of `DocumentForm`, for messages."""


def document_form(ranges: Sequence[MediaRange], *, is_single: bool = False) -> DocumentForm:
    """Return the accepted form of data sets; JSON is the default (PS3.18 table 8.7.3-3).

    With `is_single`, the answer is always one data set, which may be XML by itself.
    """
    for media_range in ranges:
        media_type = next((name for name in (DICOM_JSON, JSON) if media_range.covers_single(name)), None)
        if media_type is not None:
            return DocumentForm(media_type, False)
        if is_single and media_range.covers_single(DICOM_XML):
            return DocumentForm(DICOM_XML, False)
        if media_range.covers_parts(DICOM_XML):
            return DocumentForm(DICOM_XML, True)
    raise NotAcceptable(DOCUMENTS)


@dataclass(frozen=True, slots=True)
class FrameForm:
    """The form in which frames or bulk data are sent: media type of each frame, as stored or not.

    What is not sent `as_stored` is decompressed, or compressed for the answer if the transfer syntax says so.
    """

    media_type: str
    transfer_syntax: str
    multipart: bool
    as_stored: bool

    @property
    def content_type(self) -> str:
        """The value of the Content-Type header."""
        return f"{self.media_type}; transfer-syntax={self.transfer_syntax}"

    @property
    def is_compressed_now(self) -> bool:
        """Whether frames are compressed for the answer."""
        return not self.as_stored and self.transfer_syntax not in UNCOMPRESSED


def frame_media_type(transfer_syntax_uid: str) -> str:
    """Return the media type of a frame of encapsulated pixel data."""
    return FRAME_TYPES.get(transfer_syntax_uid, OCTETS)


def frame_forms(ranges: Sequence[MediaRange], stored: str, encapsulated: bool) -> list[FrameForm]:
    """Return the forms in which a client accepts the frames of an instance, the best one first.

    `stored` is the transfer syntax of the instance, whose frames are compressed if `encapsulated` (PS3.18 8.7.3.3).
    ``application/octet-stream; transfer-syntax=*`` means as stored, following common use in viewers. Frames are
    compressed only for who names the media type, and only without loss: wild cards give what there is.
    """
    forms = []
    for media_range in ranges:
        if encapsulated and _takes_stored(media_range, stored):
            media_type = frame_media_type(stored)
            in_parts = media_range.multipart or media_range.covers_parts(media_type)
            forms.append(FrameForm(media_type, stored, in_parts, True))
        wanted = media_range.transfer_syntax or EXPLICIT_LITTLE_ENDIAN
        if media_range.covers(OCTETS) and media_range.type != "image/*" and (wanted in UNCOMPRESSED or wanted == ANY):
            forms.append(FrameForm(OCTETS, EXPLICIT_LITTLE_ENDIAN, media_range.covers_parts(OCTETS), not encapsulated))
        forms += [
            FrameForm(media_range.type, syntax, media_range.multipart, False)
            for syntax in ENCODERS
            if FRAME_TYPES[syntax] == media_range.type and media_range.transfer_syntax in (None, ANY, syntax)
        ]
    return forms


def _takes_stored(accepted_range: MediaRange, stored: str) -> bool:
    wanted = accepted_range.transfer_syntax
    media_type = frame_media_type(stored)
    is_all_there_is = accepted_range.type == "*/*" and not can_decode(stored)
    if is_all_there_is or accepted_range.type in (media_type, f"{media_type.partition('/')[0]}/*"):
        return media_type != OCTETS and accepted_range.covers(media_type) and wanted in (None, ANY, stored)
    return accepted_range.covers(OCTETS) and wanted in (ANY, stored)


def shown(media_type: str) -> str:
    """Return a media type from the network in a form that an answer or a row may have."""
    return "".join(c if (c.isalnum() and c.isascii()) or c in "/+-._;= " else "?" for c in media_type[:60])
