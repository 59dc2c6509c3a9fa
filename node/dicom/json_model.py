"""The DICOM JSON Model, PS3.18 Annex F: data sets as metadata, with URIs in place of long values; and back to bytes.

pydicom's `to_json_dict` is the oracle of the tests, and converts the unusual elements. It is not used for all elements
because it takes eight times as long (6.5 ms instead of 0.8 ms for a header), fails or writes invalid JSON for numbers
that JSON cannot represent, and does not pass the sequence item of a value to its bulk data handler.

`write_model` writes a model in Explicit VR Little Endian (PS3.5 A.2), text in UTF-8. These models come from strangers:
what cannot be written as it was meant is refused, with the element and the rule.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, BinaryIO, Protocol

from pydicom import Dataset
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement, convert_raw_data_element
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag
from pydicom.valuerep import format_number_as_ds

from node.dicom.encoding import (
    EXPLICIT_LITTLE_ENDIAN,
    ITEM,
    ITEM_END,
    MAX_LONG_LENGTH,
    NUMBER_CODES,
    SEQUENCE_END,
    UNDEFINED_LENGTH,
    encoding_of,
    max_length,
)
from node.dicom.values import CONVERSION_ERRORS, held_elements, little_endian, standard_tag

Json = dict[str, Any]
"""Elements by tag, ``ggggeeee`` in upper case."""

INLINE_BYTES = 1024
"""Longer binary values are replaced by a URI."""

INLINE_TEXT_BYTES = 65536
"""Longer texts are replaced by a URI."""

SHORT_BYTES = 64
"""Values up to this length usually repeat between the instances of a series."""

PIXEL_TAGS = frozenset((0x7FE00008, 0x7FE00009, 0x7FE00010))
"""Float, Double Float and Pixel Data: always replaced by a URI."""

NAME_GROUPS = ("Alphabetic", "Ideographic", "Phonetic")
"""The component groups of a name (PS3.18 F.2.2), in the order of PS3.5 6.2."""

_BINARY = frozenset(("OB", "OD", "OF", "OL", "OV", "OW", "UN"))
_STRINGS = frozenset(("AE", "AS", "CS", "DA", "DT", "LO", "SH", "TM", "UI"))

MAX_DEPTH = 32
"""Deepest nesting of sequences; those that are read may be deeper if they are short."""

CHARACTER_SET, PIXEL_DATA = "00080005", "7FE00010"
UTF_8 = "ISO_IR 192"

_TAG = re.compile(r"[0-9A-F]{8}")
_SINGLE_TEXTS = frozenset(("LT", "ST", "UR", "UT"))
_TEXTS = _STRINGS | _SINGLE_TEXTS | {"UC"}

_head_writer = encoding_of(EXPLICIT_LITTLE_ENDIAN).head_writer
_item, _item_end, _sequence_end = map(_head_writer, (ITEM, ITEM_END, SEQUENCE_END))

_INFINITIES = {"INF": math.inf, "inf": math.inf, "-INF": -math.inf, "-inf": -math.inf, "NaN": math.nan}


def json_model(ds: Dataset, bulk_data_uri: Callable[[str], str | None]) -> Json:
    """Return a data set in the DICOM JSON Model, without group 0002 and group lengths.

    `ds`: as `node.dicom.reading` or pydicom reads it.
    `bulk_data_uri`: returns the URI of a long value. `path` is the tag of the value, after the tags of the enclosing
        sequences and the numbers (from 1) of their items, such as ``7FE00010`` or ``54000100.1.54001010``. None: the
        value is omitted.

    Nothing is left out: a value that cannot be read in its VR has its bytes, as UN, and a DS or IS that is no number of
    JSON is text; NaN and infinities of other VRs are strings (PS3.18 F.2.3, table F.2.3-1).
    """
    return _data_set(ds, bulk_data_uri, "")


def _data_set(ds: Dataset, bulk_data_uri: Callable[[str], str | None], path: str) -> Json:
    little = ds.original_encoding[1] is not False
    model: Json = {}
    for tag, element in held_elements(ds).items():
        if tag >> 16 == 0x0002 or not tag & 0xFFFF:
            continue
        name = f"{tag:08X}"
        vr = element.VR
        if vr is None or vr == "UN":  # implicit, or lost in transfer (PS3.5 6.2.2)
            vr = _dictionary_vr(tag) or vr
        if type(element) is RawDataElement and vr and element.value is not None and len(element.value) <= SHORT_BYTES:
            simple = _from_short_bytes(vr, element.value, little)
            if simple is not None and tag not in PIXEL_TAGS:
                model[name] = simple
                continue
        try:
            model[name] = _element(ds, tag, vr, little, bulk_data_uri, path + name)
        except (*CONVERSION_ERRORS, AssertionError):
            if not isinstance(element.value, bytes):
                raise
            model[name] = _as_unknown(element.value, bulk_data_uri, path + name)
    return dict(sorted(model.items()))


def _element(
    ds: Dataset, tag: BaseTag, vr: str | None, little: bool, bulk_data_uri: Callable[[str], str | None], path: str
) -> Json:
    element = held_elements(ds)[tag]
    if vr is None and isinstance(element, RawDataElement) and _is_long(vr, element.value):
        # of no value: pydicom makes an object of each number
        vr = convert_raw_data_element(element._replace(value=None, length=0), ds=ds).VR
    has_pixels = tag in PIXEL_TAGS and bool(element.value or getattr(element, "length", 0))  # perhaps still in the file
    if has_pixels or _is_long(vr, element.value):
        # Fragments within a sequence have no media type of their own (PS3.18 8.7.3); those of the image have frames.
        uri = None if "." in path and has_fragments(element) else bulk_data_uri(path)
        shown = vr if vr is not None and len(vr) == 2 else "OW"
        return {"vr": shown, "BulkDataURI": uri} if uri else {"vr": shown}
    if isinstance(element, RawDataElement) and vr and isinstance(element.value, bytes):
        if vr == "SQ" and len(element.value) > INLINE_TEXT_BYTES and path.count(".") >= 2 * MAX_DEPTH:
            raise RecursionError  # each depth of a sequence holds its bytes
        simple = _from_bytes(vr, element.value, little)
        if simple is not None:
            return simple
    return _converted(ds[tag], bulk_data_uri, path)


def has_fragments(element: DataElement | RawDataElement) -> bool:
    """Return whether an element has an undefined length, as compressed pixels have (PS3.5 A.4)."""
    if isinstance(element, RawDataElement):
        return element.length == UNDEFINED_LENGTH
    return bool(element.is_undefined_length)


def _as_unknown(value: bytes, bulk_data_uri: Callable[[str], str | None], path: str) -> Json:
    """Return an element whose bytes are no value of its VR (PS3.5 6.2.2)."""
    if len(value) > INLINE_BYTES:
        uri = bulk_data_uri(path)
        return {"vr": "UN", "BulkDataURI": uri} if uri else {"vr": "UN"}
    return {"vr": "UN", "InlineBinary": base64.b64encode(value).decode("ascii")}


def _is_long(vr: str | None, value: Any) -> bool:
    if vr == "SQ" or not isinstance(value, bytes | str):  # a sequence is its items (PS3.18 F.2.2)
        return False
    return len(value) > (INLINE_BYTES if vr in _BINARY else INLINE_TEXT_BYTES)


def _from_bytes(vr: str, value: bytes, little: bool) -> Json | None:
    """Return an element with a simple VR, or None if pydicom must convert it."""
    if not value:
        return {"vr": vr} if len(vr) == 2 else None
    if vr in _STRINGS or vr == "PN":
        if not value.isascii() or b"\x1b" in value:
            return None
        return text_element(vr, value.decode("ascii"))
    if vr in NUMBER_CODES:
        return _with_values(vr, [finite(word) for word in _words(vr, value, little)])
    if vr in ("DS", "IS"):
        return text_element(vr, value.decode("ascii", "replace"))
    if vr in _BINARY:
        data = value if little else little_endian(vr, value)
        return {"vr": vr, "InlineBinary": base64.b64encode(data).decode("ascii")}
    return None


@lru_cache(maxsize=32768)
def _from_short_bytes(vr: str, value: bytes, little: bool) -> Json | None:
    """Like `_from_bytes`, with a cache for values that repeat; the result is shared and must not be changed."""
    try:
        return _from_bytes(vr, value, little)
    except CONVERSION_ERRORS:
        return None


def text_element(vr: str, text: str) -> Json:
    """Return an element of text that is decoded, with backslashes between several values.

    Numbers, which may be of US as well, are decimal text. A DS or IS that is no number of JSON stays text.
    """
    parts = text.split("\\") if text else []
    if vr == "PN":
        return _with_values(vr, [name_groups(part.rstrip(" \0")) or None for part in parts])
    if vr in ("DS", "IS", "US"):
        return _with_values(vr, [_number(vr, part.strip(" \0")) for part in parts])
    return _with_values(vr, [part.strip(" \0") or None for part in parts])


def name_groups(name: str) -> dict[str, str]:
    """Return the component groups of a name that are not empty, by the names of the groups (PS3.18 F.2.2)."""
    return {group: text for group, text in zip(NAME_GROUPS, name.split("="), strict=False) if text}


def _number(vr: str, text: str) -> float | int | str | None:
    if not text:
        return None
    try:
        number = float(text)
    except ValueError:
        return text
    if vr == "DS":
        return number if math.isfinite(number) else text
    return int(number) if number.is_integer() else text


def _words(vr: str, value: bytes, little: bool) -> tuple[Any, ...]:
    code = NUMBER_CODES[vr]
    return struct.unpack(f"{'<' if little else '>'}{len(value) // struct.calcsize('<' + code)}{code}", value)


def _with_values(vr: str, values: Sequence[Any]) -> Json:
    return {"vr": vr} if all(value is None for value in values) else {"vr": vr, "Value": list(values)}


def finite(value: Any) -> Any:
    """Return a number that JSON can represent; NaN and infinities become strings (PS3.18 F.2.3)."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "inf" if value > 0 else "-inf"
    return value


def _converted(element: DataElement, bulk_data_uri: Callable[[str], str | None], path: str) -> Json:
    """Return an element as pydicom converts it; items of sequences are walked here again."""
    if element.VR == "SQ":
        items = [
            _data_set(item, bulk_data_uri, f"{path}.{number}.") for number, item in enumerate(element.value, start=1)
        ]
        return {"vr": "SQ", "Value": items} if items else {"vr": "SQ"}
    if element.VR == "PN":
        names = element.value if isinstance(element.value, MultiValue) else [element.value]
        return _with_values("PN", [name_groups(str(name).rstrip(" \0")) or None for name in names])
    converted: Json = element.to_json_dict(None, 0)
    if "Value" in converted:
        converted["Value"] = [finite(part) for part in converted["Value"]]
    return converted


@lru_cache(maxsize=8192)
def _dictionary_vr(tag: int) -> str | None:
    """Return the VR of a tag in PS3.6, or None (pydicom decides) if it depends on other elements or is unknown."""
    if tag >> 16 & 1:
        return "LO" if 0x10 <= tag & 0xFFFF <= 0xFF else None  # a private creator, PS3.5 7.8.1
    try:
        vr = dictionary_VR(tag)
    except KeyError:
        return None
    return vr if len(vr) == 2 else None


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

    Group 0002 and group lengths are left out. If any text is not ASCII, Specific Character Set (0008,0005) becomes
    ``ISO_IR 192``.

    `model`: see `node.dicom.json_model`; numbers of DS, IS, SV and UV may be text.
    `bulk_data`: returns the bytes of a ``BulkDataURI``, in little endian; text in UTF-8. None: there are none.
    `frames`: fragments of encapsulated Pixel Data, which replace those of the model (PS3.5 A.4); None: native Pixel
        Data.

    Raises NotEncodable.
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
            if tag.startswith("0002") or tag.endswith("0000"):
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
        if not isinstance(vr, str) or vr not in _TEXTS | _BINARY | {"AT", "DS", "IS", "PN", "SQ", *NUMBER_CODES}:
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
    if vr in NUMBER_CODES:
        numbers = [_float(value) if vr in ("FL", "FD") else _whole(value) for value in values]
        return struct.pack(f"<{len(numbers)}{NUMBER_CODES[vr]}", *numbers)
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


def entry_text(model: Json, keyword: str) -> str | None:
    """Return the first value of an attribute of a data set, or of an item, as text; None if it has none."""
    values = model.get(f"{standard_tag(keyword):08X}", {}).get("Value", [])
    return (value_text(values[0]) or None) if values else None


def value_text(value: Any) -> str:
    """Return a value of the DICOM JSON Model as text; a PN is an object of its component groups (PS3.18 F.2.2)."""
    if isinstance(value, dict):
        return "=".join(str(value.get(group, "")) for group in NAME_GROUPS).rstrip("=")
    return "" if value is None else str(value)
