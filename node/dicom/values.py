"""Read values from a data set of unknown origin: an unreadable value is absent, never an exception.

pydicom converts an element on first access, and may raise any exception for a broken value.
"""

from __future__ import annotations

import math
import struct
from array import array
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException
from pydicom.tag import BaseTag

from node.dicom.character_sets import complete_pydicom

complete_pydicom()  # every module that reads values of pydicom's data sets imports this one

Element = DataElement | RawDataElement

CONVERSION_ERRORS = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    OverflowError,
    NotImplementedError,
    OSError,  # a sequence that ends too early
    EOFError,
    RecursionError,
    struct.error,
    BytesLengthException,
)
"""Exceptions that pydicom raises when it converts a value that contradicts its header."""

TAGS: dict[int, BaseTag] = {}
"""One object for each tag that was requested by its keyword, and for the first `MAX_TAGS` that were read.

An element stored in a data set under one of these objects is found at a tenth of the cost, because pydicom compares
different objects of the same tag in Python."""

MAX_TAGS = 4096

CACHED_VALUES, MAX_CACHED_BYTES = 4096, 256
"""Number and maximum size of cached values: most values are the same in all instances of a series."""

_BINARY = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d"}
_TEXT_VRS = frozenset(("CS", "DA", "DT", "LO", "SH", "TM", "UI"))


def value(ds: Dataset, keyword: str) -> Any:
    """Return the value of an element as pydicom converts it; None if it is absent, empty or unreadable."""
    tag = standard_tag(keyword)
    if held(ds, tag) is None:  # pydicom takes ten times as long to detect that an element is absent
        return None
    try:
        converted = ds[tag].value
    except CONVERSION_ERRORS:
        return None
    return None if converted is None or (hasattr(converted, "__len__") and len(converted) == 0) else converted


def held(ds: Dataset, tag: BaseTag) -> Any:
    """Return an element of a data set in its current form (converted, raw or deferred to its file), or None.

    `Dataset.get_item` does the same at twice the cost, and a time series needs it half a million times.
    """
    return ds.keys().mapping.get(tag)  # type: ignore[attr-defined]  # see `held_elements`


def held_elements(ds: Dataset) -> Mapping[BaseTag, Element]:
    """Return the elements of a data set by tag, without converting them, as iterating over a data set does."""
    elements: Mapping[BaseTag, Element] = ds.keys().mapping  # type: ignore[attr-defined]  # `keys` are those of a dict
    return elements


def copy_encoding(ds: Dataset, new: Dataset) -> None:
    """Let pydicom read and write the raw elements of `new` as those of `ds`."""
    new.set_original_encoding(ds.original_encoding[0], ds.original_encoding[1], ds.original_character_set)


@lru_cache(maxsize=1024)
def standard_tag(keyword: str) -> BaseTag:
    """Return the tag of a keyword of the standard, one object of `TAGS`."""
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise KeyError(f"{keyword} is not a keyword of PS3.6")
    return TAGS.setdefault(tag, BaseTag(tag))


@lru_cache(maxsize=1024)
def _tag(keyword: str) -> tuple[BaseTag, str]:
    """Return tag and value representation of a keyword of the standard."""
    tag = standard_tag(keyword)
    return tag, dictionary_VR(tag)


def tag_read(tag: int) -> BaseTag:
    """Return a tag that was read from a data set, an object of `TAGS` if there is room."""
    return TAGS.get(tag) or (TAGS.setdefault(tag, BaseTag(tag)) if len(TAGS) < MAX_TAGS else BaseTag(tag))


def numbers(ds: Dataset, keyword: str, count: int | None = None) -> tuple[float, ...] | None:
    """Return the finite numbers of an element; None unless there are `count` of them (if given)."""
    return as_numbers(stated_numbers(ds, keyword), count)


def stated_numbers(ds: Dataset, keyword: str) -> tuple[float, ...] | None:
    """Return the numbers of an element, NaN for unreadable ones; None if it is absent or empty.

    They are read from its bytes unless pydicom has converted it: a `DataElement` costs twenty times as much, and a time
    series has 20,000 instances with thirty such elements each.
    """
    tag, vr = _tag(keyword)
    raw = ds.keys().mapping.get(tag)  # type: ignore[attr-defined]  # `held`, without the cost of a call
    if raw is None:
        return None
    if isinstance(raw, RawDataElement) and isinstance(raw.value, bytes):
        vr = raw.VR or vr
        if vr in ("DS", "IS") or vr in _BINARY:
            parse = parsed if len(raw.value) <= MAX_CACHED_BYTES else parsed.__wrapped__
            return parse(raw.value, vr, raw.is_little_endian)
    return _converted(value(ds, keyword))


@lru_cache(maxsize=CACHED_VALUES)
def parsed(value: bytes, vr: str, is_little_endian: bool = True) -> tuple[float, ...] | None:
    """Return the numbers in the bytes of an element, NaN for unreadable ones; None if there are none.

    `vr`: DS, IS or a binary one. The same object for the same bytes.
    """
    if vr in ("DS", "IS"):
        parts = value.strip(b" \0").split(b"\\")
        return tuple(map(_float, parts)) if parts != [b""] else None
    order, count = "<" if is_little_endian else ">", len(value) // struct.calcsize(_BINARY[vr])
    return tuple(map(float, struct.unpack_from(f"{order}{count}{_BINARY[vr]}", value))) or None


def _float(part: bytes) -> float:
    """Return a Decimal or Integer String as a number; NaN if invalid (PS3.5 6.2 allows no underscores)."""
    try:
        return math.nan if b"_" in part else float(part.strip(b" \0"))
    except ValueError:
        return math.nan


def _converted(value: Any) -> tuple[float, ...] | None:
    """Return the numbers in a value that pydicom has converted."""
    if value is None or isinstance(value, (bytes, str)):
        return None
    several = list(value) if hasattr(value, "__iter__") else [value]
    converted = []
    for part in several:
        try:
            converted.append(float(part))
        except (ValueError, TypeError, OverflowError):
            converted.append(math.nan)
    return tuple(converted) or None


def as_numbers(value: Any, count: int | None = None) -> tuple[float, ...] | None:
    """Return a value as finite numbers; None unless there are `count` of them (if given)."""
    if value is None or isinstance(value, bytes):
        return None
    parts = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    try:
        result = tuple(map(float, parts))
    except (ValueError, TypeError, OverflowError):
        return None
    if not all(map(math.isfinite, result)) or (count is not None and len(result) != count):
        return None
    return result


def number(ds: Dataset, keyword: str) -> float | None:
    """Return the first number of an element; None unless it is finite."""
    several = stated_numbers(ds, keyword)
    return several[0] if several and math.isfinite(several[0]) else None


def whole(ds: Dataset, keyword: str) -> int | None:
    """Return the first number of an element if it is a whole number; else None.

    Also None from 2**53 on, where a float is no more exact. IS and UL of PS3.5 6.2 have 32 bits.
    """
    first = number(ds, keyword)
    return int(first) if first is not None and abs(first) < 1 << 53 and first == int(first) else None


def text(ds: Dataset, keyword: str) -> str:
    """Return the (first) text of an element without padding; empty if it is absent."""
    plain = _plain_texts(ds, keyword)
    if plain is not None:
        return plain[0] if plain else ""
    content = value(ds, keyword)
    if isinstance(content, Sequence) and not isinstance(content, (str, bytes)):
        content = content[0]
    return content.strip(" \0") if isinstance(content, str) else ""


def texts(ds: Dataset, keyword: str) -> tuple[str, ...]:
    """Return all texts of an element without padding; empty if it is absent."""
    plain = _plain_texts(ds, keyword)
    if plain is not None:
        return plain
    content = value(ds, keyword)
    parts = content if isinstance(content, Sequence) and not isinstance(content, (str, bytes)) else [content]
    return tuple(part.strip(" \0") for part in parts if isinstance(part, str))


def _plain_texts(ds: Dataset, keyword: str) -> tuple[str, ...] | None:
    """Return the ASCII texts of an element that pydicom has not converted, at a tenth of pydicom's cost; else None."""
    tag, vr = _tag(keyword)
    raw = ds.keys().mapping.get(tag)  # type: ignore[attr-defined]  # `held`, without the cost of a call
    if raw is None:
        return ()
    if not isinstance(raw, RawDataElement) or not isinstance(raw.value, bytes) or (raw.VR or vr) not in _TEXT_VRS:
        return None
    return (_split if len(raw.value) <= MAX_CACHED_BYTES else _split.__wrapped__)(raw.value)


@lru_cache(maxsize=CACHED_VALUES)
def _split(value: bytes) -> tuple[str, ...] | None:
    """Return the ASCII texts in the bytes of an element; None if pydicom must decode them."""
    if not value.isascii() or b"\x1b" in value:
        return None
    if not value:
        return ()
    return tuple(part.strip(" \0") for part in value.decode("ascii").split("\\"))


def items(ds: Dataset, keyword: str) -> Sequence[Dataset]:
    """Return the items of a sequence; empty if it is absent."""
    content = value(ds, keyword)
    if content is None or isinstance(content, (str, bytes)) or not isinstance(content, Sequence):
        return ()
    return [item for item in content if isinstance(item, Dataset)]


def little_endian(vr: str | None, data: bytes) -> bytes:
    """Return a binary value of a data set in big endian in little endian (PS3.5 7.3); OB and UN have no words."""
    word = {"OW": 2, "OF": 4, "OL": 4, "OD": 8, "OV": 8}.get(vr or "", 1)
    whole_words = len(data) // word * word
    if word == 1:
        return data
    words = array({2: "H", 4: "I", 8: "Q"}[word], data[:whole_words])
    words.byteswap()
    return words.tobytes() + data[whole_words:]
