"""The DICOM JSON Model, PS3.18 Annex F: data sets as metadata, with URIs in place of long values; and back to bytes.

pydicom's `to_json_dict` is the oracle of the tests, and converts the unusual elements. It is not used for all elements
because it takes eight times as long (6.5 ms instead of 0.8 ms for a header), fails or writes invalid JSON for numbers
that JSON cannot represent, and does not pass the sequence item of a value to its bulk data handler.

`write_model` writes a model that was made here in Explicit VR Little Endian (PS3.5 A.2), text in UTF-8.
"""

import base64
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from pydicom import Dataset
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement, convert_raw_data_element
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag
from pydicom.valuerep import format_number_as_ds

from node.dicom.encoding import EXPLICIT_LITTLE_ENDIAN, ITEM, NUMBER_CODES, UNDEFINED_LENGTH, encoding_of, max_length
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

BINARY = frozenset(("OB", "OD", "OF", "OL", "OV", "OW", "UN"))
_STRINGS = frozenset(("AE", "AS", "CS", "DA", "DT", "LO", "SH", "TM", "UI"))

MAX_DEPTH = 32
"""Deepest nesting of sequences; those that are read may be deeper if they are short."""

CHARACTER_SET = "00080005"
UTF_8 = "ISO_IR 192"

MAX_DECIMAL = 16
"""Most characters of a DS (PS3.5 6.2); an IS is shorter."""

_head_writer = encoding_of(EXPLICIT_LITTLE_ENDIAN).head_writer
_item = _head_writer(ITEM)


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
    return len(value) > (INLINE_BYTES if vr in BINARY else INLINE_TEXT_BYTES)


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
    if vr in BINARY:
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


def write_model(model: Json) -> bytes:
    """Return the data set of a model of this node in Explicit VR Little Endian (PS3.5 A.2).

    If any text is not ASCII, Specific Character Set (0008,0005) becomes ``ISO_IR 192``. Numbers may be text.
    """
    character_set = {CHARACTER_SET: {"vr": "CS", "Value": [UTF_8]}} if _is_unicode(model) else {}
    return _written(model | character_set, character_set)


def _is_unicode(value: Any) -> bool:
    if isinstance(value, str):
        return not value.isascii()
    if isinstance(value, Mapping):
        return any(_is_unicode(part) for part in value.values())
    return isinstance(value, list) and any(_is_unicode(part) for part in value)


def _written(model: Json, character_set: Json) -> bytes:
    chunks: list[bytes] = []
    for tag in sorted(model):
        element: Json = character_set.get(tag) or model[tag]
        vr, values = element["vr"], element.get("Value", ())
        if vr == "SQ":
            items = [_written(item or {}, character_set) for item in values]
            value = b"".join(_item(len(item)) + item for item in items)
        elif vr in BINARY:
            value = base64.b64decode(element.get("InlineBinary", ""))
        else:
            value = _value(vr, values)
        value += (b"\0" if vr in BINARY or vr == "UI" else b" ") * (len(value) % 2)
        head = _head_writer(int(tag, 16), vr if len(value) <= max_length(vr) else "UN")  # PS3.5 6.2.2
        chunks += (head(len(value)), value)
    return b"".join(chunks)


def _value(vr: str, values: Sequence[Any]) -> bytes:
    """Return values as bytes; None among several is an empty one."""
    if vr in NUMBER_CODES:
        number: Callable[[Any], Any] = float if vr in ("FL", "FD") else int
        return struct.pack(f"<{len(values)}{NUMBER_CODES[vr]}", *map(number, values))
    if vr == "AT":
        return b"".join(struct.pack("<HH", int(tag[:4], 16), int(tag[4:], 16)) for tag in values)
    return "\\".join(_text(vr, value) for value in values).encode()


def _text(vr: str, value: Any) -> str:
    if isinstance(value, float | int):
        text = str(int(value)) if vr == "IS" else repr(value)
        return text if len(text) <= MAX_DECIMAL else format_number_as_ds(float(value))
    return value_text(value)


def entry_text(model: Json, keyword: str) -> str | None:
    """Return the first value of an attribute of a data set, or of an item, as text; None if it has none."""
    values = model.get(f"{standard_tag(keyword):08X}", {}).get("Value", [])
    return (value_text(values[0]) or None) if values else None


def value_text(value: Any) -> str:
    """Return a value of the DICOM JSON Model as text; a PN is an object of its component groups (PS3.18 F.2.2)."""
    if isinstance(value, dict):
        return "=".join(str(value.get(group, "")) for group in NAME_GROUPS).rstrip("=")
    return "" if value is None else str(value)
