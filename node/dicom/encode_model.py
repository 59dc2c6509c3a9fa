"""Write data sets of the DICOM JSON Model in Explicit VR Little Endian (PS3.5 A.2), text in UTF-8.

The models come from strangers: whatever cannot be written as it was meant is refused, with the element and the rule.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, BinaryIO, Protocol

from pydicom.valuerep import format_number_as_ds

from node.dicom.encoding import (
    EXPLICIT_LITTLE_ENDIAN,
    ITEM,
    ITEM_END,
    MAX_LONG_LENGTH,
    SEQUENCE_END,
    UNDEFINED_LENGTH,
    encoding_of,
    max_length,
)
from node.dicom.json_model import NAME_GROUPS, Json

MAX_DEPTH = 32
"""Deepest nesting of sequences."""

AVAILABLE_TRANSFER_SYNTAX, CHARACTER_SET, PIXEL_DATA = "00083002", "00080005", "7FE00010"
UTF_8 = "ISO_IR 192"

_TAG = re.compile(r"[0-9A-F]{8}")
_SHORT_TEXTS = frozenset(("AE", "AS", "CS", "DA", "DT", "LO", "SH", "TM", "UI"))
_SINGLE_TEXTS = frozenset(("LT", "ST", "UR", "UT"))
_TEXTS = _SHORT_TEXTS | _SINGLE_TEXTS | {"UC"}
_BINARY = frozenset(("OB", "OD", "OF", "OL", "OV", "OW", "UN"))
_NUMBERS = {"US": "H", "SS": "h", "UL": "L", "SL": "l", "UV": "Q", "SV": "q", "FL": "f", "FD": "d"}

_head_writer = encoding_of(EXPLICIT_LITTLE_ENDIAN).head_writer
_item, _item_end, _sequence_end = map(_head_writer, (ITEM, ITEM_END, SEQUENCE_END))

_INFINITIES = {"INF": math.inf, "inf": math.inf, "-INF": -math.inf, "-inf": -math.inf, "NaN": math.nan}


class NotEncodable(Exception):
    """An element cannot be written; the message names the element and the rule, without its value."""


class BulkData(Protocol):
    """Bytes outside of a model."""

    @property
    def length(self) -> int:
        """Their number."""

    def copy_to(self, out: BinaryIO) -> None:
        """Write them."""

    def read(self) -> bytes:
        """Return them."""


def write_model(
    out: BinaryIO, model: Json, bulk_data: Callable[[str], BulkData | None], frames: Sequence[BulkData] | None = None
) -> None:
    """Write a data set without preamble and File Meta Information.

    Group 0002, group lengths and Available Transfer Syntax UID (0008,3002), which metadata have in addition, are left
    out. If any text is not ASCII, Specific Character Set (0008,0005) becomes ``ISO_IR 192``.

    Parameters
    ----------
    out : binary file
    model : dict
        See `node.dicom.json_model`; numbers of DS, IS, SV and UV may be text.
    bulk_data : callable (uri) -> BulkData or None
        Returns the bytes of a ``BulkDataURI``, in little endian; text in UTF-8. None: there are none.
    frames : list of BulkData or None
        Fragments of encapsulated Pixel Data, which replace those of the model (PS3.5 A.4); None: native Pixel Data.

    Raises
    ------
    NotEncodable
    """
    _Writer(out, bulk_data, frames, _is_unicode(model)).write(model, 0)


def text_of(model: Json, tag: str) -> str:
    """Return the first value of an element as text; empty if there is none."""
    element = model.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return values[0].strip(" \0") if isinstance(values, list) and values and isinstance(values[0], str) else ""


def _is_unicode(value: Any) -> bool:
    if isinstance(value, str):
        return not value.isascii()
    if isinstance(value, Mapping):
        return any(_is_unicode(part) for part in value.values())
    return isinstance(value, list) and any(_is_unicode(part) for part in value)


class _Writer:
    def __init__(
        self,
        out: BinaryIO,
        bulk_data: Callable[[str], BulkData | None],
        frames: Sequence[BulkData] | None,
        is_unicode: bool,
    ) -> None:
        self._out, self._bulk_data, self._frames, self._is_unicode = out, bulk_data, frames, is_unicode

    def write(self, model: Json, depth: int) -> None:
        elements = {str(tag).upper(): element for tag, element in model.items()}
        if len(elements) < len(model):
            raise NotEncodable("a tag occurs twice")
        if depth == 0 and self._is_unicode:
            elements[CHARACTER_SET] = {"vr": "CS", "Value": [UTF_8]}
        for tag in sorted(elements):
            self._check(tag, elements[tag])
            if tag.startswith("0002") or tag.endswith("0000") or (depth == 0 and tag == AVAILABLE_TRANSFER_SYNTAX):
                continue
            element = elements[tag]
            if tag == CHARACTER_SET and self._is_unicode:
                element = {"vr": "CS", "Value": [UTF_8]}
            try:
                self._write_element(tag, element, depth)
            except (ValueError, TypeError, OverflowError, struct.error, binascii.Error) as error:
                raise NotEncodable(f"{tag}: a value is not valid for its VR, {element['vr']} (PS3.5 6.2)") from error

    def _check(self, tag: str, element: Any) -> None:
        if not _TAG.fullmatch(tag) or tag[:4] in ("0000", "FFFE", "FFFF"):
            raise NotEncodable("a tag must be eight hexadecimal digits, of a group that data sets have")
        vr = element.get("vr") if isinstance(element, dict) else None
        if not isinstance(vr, str) or vr not in _TEXTS | _BINARY | {"AT", "DS", "IS", "PN", "SQ", *_NUMBERS}:
            raise NotEncodable(f"{tag}: vr must be a value representation of PS3.5 6.2")

    def _write_element(self, tag: str, element: Json, depth: int) -> None:
        vr = element["vr"]
        values = element.get("Value")
        if values is None:  # also null, which dcmjs writes for an empty element
            values = []
        if not isinstance(values, list):
            raise NotEncodable(f"{tag}: Value must be a list (PS3.18 F.2.2)")
        if vr == "SQ":
            self._write_sequence(tag, values, depth)
        elif tag == PIXEL_DATA and depth == 0 and self._frames is not None:
            self._write_frames(self._frames)
        elif "BulkDataURI" in element:
            self._write_bulk_data(tag, vr, element["BulkDataURI"])
        elif vr in _BINARY:
            self._write_value(tag, vr, base64.b64decode(element.get("InlineBinary") or "", validate=True))
        else:
            self._write_value(tag, vr, _value(vr, values))

    def _write_sequence(self, tag: str, items: list[Any], depth: int) -> None:
        if depth >= MAX_DEPTH:
            raise NotEncodable("sequences are nested too deeply")
        if not items:
            self._write_value(tag, "SQ", b"")
            return
        self._write_head(tag, "SQ", UNDEFINED_LENGTH)
        for item in items:
            if not isinstance(item, dict | None):
                raise NotEncodable(f"{tag}: an item must be a data set")
            self._out.write(_item(UNDEFINED_LENGTH))
            self.write(item or {}, depth + 1)
            self._out.write(_item_end(0))
        self._out.write(_sequence_end(0))

    def _write_frames(self, frames: Sequence[BulkData]) -> None:
        """Write encapsulated Pixel Data, each frame in one fragment, with an empty Basic Offset Table (PS3.5 A.4)."""
        self._write_head(PIXEL_DATA, "OB", UNDEFINED_LENGTH)
        self._out.write(_item(0))
        for frame in frames:
            if frame.length > MAX_LONG_LENGTH:
                raise NotEncodable("7FE00010: a frame is longer than a fragment can be (PS3.5 A.4)")
            self._out.write(_item(frame.length + frame.length % 2))
            frame.copy_to(self._out)
            self._out.write(b"\0" * (frame.length % 2))
        self._out.write(_sequence_end(0))

    def _write_bulk_data(self, tag: str, vr: str, uri: Any) -> None:
        data = self._bulk_data(uri) if isinstance(uri, str) else None
        if data is None:
            raise NotEncodable(f"{tag}: no part has the Content-Location of its BulkDataURI")
        if vr in _BINARY:
            self._write_head(tag, vr, data.length + data.length % 2)
            data.copy_to(self._out)
            self._out.write(b"\0" * (data.length % 2))
            return
        value = data.read()
        if vr in _TEXTS and not (value.isascii() or (self._is_unicode and value.decode())):
            raise NotEncodable(f"{tag}: bulk data of text must be ASCII unless other text is not (0008,0005)")
        self._write_value(tag, vr, value)

    def _write_value(self, tag: str, vr: str, value: bytes) -> None:
        padding = b"\0" if vr in _BINARY or vr == "UI" else b" "
        value += padding * (len(value) % 2)
        self._write_head(tag, vr, len(value))
        self._out.write(value)

    def _write_head(self, tag: str, vr: str, length: int) -> None:
        limit = max_length(vr)
        if length > limit and length != UNDEFINED_LENGTH:
            raise NotEncodable(f"{tag}: the value is longer than {limit} bytes, the limit of {vr} (PS3.5 7.1)")
        self._out.write(_head_writer(int(tag, 16), vr)(length))


def _value(vr: str, values: list[Any]) -> bytes:
    """Return values as bytes; None among several is an empty one."""
    if vr in _NUMBERS:
        numbers = [_float(value) if vr in ("FL", "FD") else _whole(value) for value in values]
        return struct.pack(f"<{len(numbers)}{_NUMBERS[vr]}", *numbers)
    if vr == "AT":
        tags = [int(value, 16) for value in values if re.fullmatch("[0-9A-Fa-f]{8}", value) or _wrong()]
        return b"".join(struct.pack("<HH", tag >> 16, tag & 0xFFFF) for tag in tags)
    if vr in _SINGLE_TEXTS and len(values) > 1:
        raise ValueError
    texts = [_text(vr, value) for value in values]
    if vr not in _SINGLE_TEXTS and any("\\" in text for text in texts):
        raise ValueError
    return "\\".join(texts).encode()


def _text(vr: str, value: Any) -> str:
    if value is None:
        return ""
    if vr == "PN" and isinstance(value, Mapping):
        groups = [value.get(group) or "" for group in NAME_GROUPS]
        return "=".join(group if isinstance(group, str) and "=" not in group else _wrong() for group in groups).rstrip(
            "="
        )
    if isinstance(value, str):
        if vr in ("DS", "IS") and value.strip():
            _whole(value) if vr == "IS" else float(value)
        return value
    if isinstance(value, bool) or vr not in ("DS", "IS"):
        raise TypeError
    return str(_whole(value)) if vr == "IS" else _decimal(value)


def _decimal(value: float) -> str:
    """Return a number as text of at most 16 characters, exact if that is possible (PS3.5 6.2)."""
    text = repr(value)
    return text if len(text) <= 16 and math.isfinite(value) else format_number_as_ds(float(value))


def _whole(value: Any) -> int:
    number = int(value)
    if isinstance(value, bool) or (isinstance(value, float) and number != value):
        raise TypeError
    return number


def _float(value: Any) -> float:
    if isinstance(value, bool):
        raise TypeError
    return _INFINITIES[value] if isinstance(value, str) and value in _INFINITIES else float(value)


def _wrong() -> Any:
    raise ValueError
