"""Read values from a data set of unknown origin: an unreadable value is absent, never an exception.

pydicom converts an element on first access, and may raise any exception for a broken value.
"""

from __future__ import annotations

import math
import struct
from array import array
from collections.abc import Callable, Mapping, Sequence
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

_NUMBER_VRS: dict[str, Callable[[bytes], float]] = {"DS": float, "IS": int}
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


def tag_read(tag: int) -> BaseTag:
    """Return a tag that was read from a data set, an object of `TAGS` if there is room."""
    return TAGS.get(tag) or (TAGS.setdefault(tag, BaseTag(tag)) if len(TAGS) < MAX_TAGS else BaseTag(tag))


def numbers(ds: Dataset, keyword: str, count: int | None = None) -> tuple[float, ...] | None:
    """Return the finite numbers of an element; None unless there are `count` of them (if given)."""
    plain = _plain_numbers(ds, keyword)
    return as_numbers(value(ds, keyword) if plain is None else plain, count)


def _plain_numbers(ds: Dataset, keyword: str) -> tuple[float, ...] | None:
    """Return the numbers in the text of an element that pydicom has not converted; None if pydicom must parse it."""
    tag = standard_tag(keyword)
    raw = held(ds, tag)
    if not isinstance(raw, RawDataElement) or not raw.value:
        return None
    vr = raw.VR or dictionary_VR(tag)
    if vr not in _NUMBER_VRS:
        return None
    return (_parsed if len(raw.value) <= MAX_CACHED_BYTES else _parsed.__wrapped__)(raw.value, vr)


@lru_cache(maxsize=CACHED_VALUES)
def _parsed(value: bytes, vr: str) -> tuple[float, ...] | None:
    """Return the numbers in the bytes of an element; None if pydicom must parse them."""
    try:
        return tuple(map(_NUMBER_VRS[vr], value.rstrip(b" \0").split(b"\\")))
    except ValueError:
        return None


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
    several = numbers(ds, keyword)
    return several[0] if several else None


def whole(ds: Dataset, keyword: str) -> int | None:
    """Return the first number of an element if it is a whole number; else None."""
    first = number(ds, keyword)
    return int(first) if first is not None and first == int(first) else None


def text(ds: Dataset, keyword: str) -> str:
    """Return the (first) text of an element without padding; empty if it is absent."""
    plain = _plain_texts(ds, keyword)
    if plain is not None:
        return plain[0]
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
    tag = standard_tag(keyword)
    raw = held(ds, tag)
    if not isinstance(raw, RawDataElement) or not isinstance(raw.value, bytes) or not raw.value:
        return None
    if (raw.VR or dictionary_VR(tag)) not in _TEXT_VRS:
        return None
    return (_split if len(raw.value) <= MAX_CACHED_BYTES else _split.__wrapped__)(raw.value)


@lru_cache(maxsize=CACHED_VALUES)
def _split(value: bytes) -> tuple[str, ...] | None:
    """Return the ASCII texts in the bytes of an element; None if pydicom must decode them."""
    if not value.isascii() or b"\x1b" in value:
        return None
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
