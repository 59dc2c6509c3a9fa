"""The DICOM JSON Model, PS3.18 Annex F: data sets as metadata, with URIs in place of long values.

pydicom's `to_json_dict` is the oracle of the tests, and converts the unusual elements. It is not used for all elements
because it takes eight times as long (6.5 ms instead of 0.8 ms for a header), fails or writes invalid JSON for numbers
that JSON cannot represent, and does not pass the sequence item of a value to its bulk data handler.
"""

from __future__ import annotations

import base64
import datetime as dt
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from pydicom import Dataset
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.tag import BaseTag

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
_WORDS = {"US": "H", "SS": "h", "UL": "L", "SL": "l", "UV": "Q", "SV": "q", "FL": "f", "FD": "d"}


def json_model(ds: Dataset, bulk_data_uri: Callable[[str], str | None]) -> Json:
    """Return a data set in the DICOM JSON Model, without group 0002 and group lengths.

    Parameters
    ----------
    ds : Dataset
        As `node.dicom.reading` or pydicom reads it.
    bulk_data_uri : callable (path) -> str or None
        Returns the URI of a long value. `path` is the tag of the value, after the tags of the enclosing sequences
        and the numbers (from 1) of their items, such as ``7FE00010`` or ``54000100.1.54001010``. None: the value is
        omitted.

    Returns
    -------
    dict
        Values that are invalid for their VR are omitted; NaN and infinities are strings (PS3.18 F.2.3, table F.2.3-1).
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
            continue
    return dict(sorted(model.items()))


def _element(
    ds: Dataset, tag: BaseTag, vr: str | None, little: bool, bulk_data_uri: Callable[[str], str | None], path: str
) -> Json:
    element = held_elements(ds)[tag]
    if tag in PIXEL_TAGS or _is_long(vr, element.value):
        uri = bulk_data_uri(path)
        shown = vr if vr is not None and len(vr) == 2 else "OW"
        return {"vr": shown, "BulkDataURI": uri} if uri else {"vr": shown}
    if isinstance(element, RawDataElement) and vr and isinstance(element.value, bytes):
        simple = _from_bytes(vr, element.value, little)
        if simple is not None:
            return simple
    return _converted(ds[tag], bulk_data_uri, path)


def _is_long(vr: str | None, value: Any) -> bool:
    if not isinstance(value, bytes | str):
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
    if vr in _WORDS:
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

    Numbers, which may be of US as well, are decimal text; others than numbers are omitted.
    """
    parts = text.split("\\") if text else []
    if vr == "PN":
        return _with_values(vr, [name_groups(part.rstrip(" \0")) or None for part in parts])
    if vr in ("DS", "IS", "US"):
        try:
            return _with_values(vr, [_number(vr, part.strip(" \0")) for part in parts])
        except ValueError:
            return {"vr": vr}
    return _with_values(vr, [part.strip(" \0") or None for part in parts])


def name_groups(name: str) -> dict[str, str]:
    """Return the component groups of a name that are not empty, by the names of the groups (PS3.18 F.2.2)."""
    return {group: text for group, text in zip(NAME_GROUPS, name.split("="), strict=False) if text}


def elements(attributes: Mapping[str, Any]) -> Json:
    """Return attributes by keyword as a data set in the DICOM JSON Model; None and empty text are an empty value.

    A list has the items of a sequence, each a mapping like this one. A name is text with its component groups; moments
    are in UTC.
    """
    model: Json = {}
    for keyword, value in attributes.items():
        tag = standard_tag(keyword)
        element: Json = {"vr": dictionary_VR(tag)}
        if isinstance(value, list):
            values = [elements(item) for item in value]
        else:
            values = [] if value in (None, "") else [_value_of(element["vr"], value)]
        model[f"{tag:08X}"] = element | ({"Value": values} if values else {})
    return dict(sorted(model.items()))


def _value_of(vr: str, value: Any) -> Any:
    if vr == "PN":
        return name_groups(str(value))
    if isinstance(value, dt.datetime):
        return f"{value.astimezone(dt.UTC):%Y%m%d%H%M%S}.{value.microsecond:06d}+0000"
    if isinstance(value, dt.date):
        return f"{value:%Y%m%d}"
    return value


def _number(vr: str, text: str) -> float | int | str | None:
    if not text:
        return None
    return finite(float(text)) if vr == "DS" else int(float(text))


def _words(vr: str, value: bytes, little: bool) -> tuple[Any, ...]:
    code = _WORDS[vr]
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
