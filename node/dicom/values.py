"""Read values from a data set of unknown origin: an unreadable value is absent, never an exception.

pydicom converts an element on first access, and may raise any exception for a broken value.

Private elements are found by their creator: group, private creator, and offset within the creator's block. Archives and
anonymisers renumber blocks, so that (0019,100C) of one file is (0019,120C) of another. If the value representation was
lost (UN after re-encoding as implicit VR, PS3.5 6.2.2), the bytes are read as the vendor documents.

Facts that the instances of a series share are found once, and again only if one of the declared elements differs
(`once_per_series`). A time series has 20,000 instances. Most of their elements have the same bytes, and
`node.dicom.reading` lets data sets share such elements. To see that twenty elements are those of the data set before
takes a tenth of the time of reading their values. A function sees the elements that it declares and no others. An
element that was forgotten is absent in every data set: a test of the function fails, and no instance gets a fact that
comes from another one.
"""

from __future__ import annotations

import math
import struct
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, lru_cache, wraps
from io import BytesIO
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException
from pydicom.filereader import read_sequence
from pydicom.multival import MultiValue
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

Fact = TypeVar("Fact")
Arguments = ParamSpec("Arguments")

Function = Callable[Concatenate[Dataset, Arguments], Fact]

_UNTYPED = frozenset((None, "UN", "OB", "OW"))
_ITEM = b"\xfe\xff\x00\xe0"


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


def one_item(several: Sequence[Dataset]) -> Dataset:
    """Return what the items of a sequence have in common: all of a single one."""
    first = several[0] if several else Dataset()
    if len(several) < 2:
        return first
    keywords = filter(None, map(keyword_for_tag, list(held_elements(first))))
    alike = [keyword for keyword in keywords if all(value(own, keyword) == value(first, keyword) for own in several)]
    common = Dataset({tag: held(first, tag) for tag in map(standard_tag, alike)})
    copy_encoding(first, common)
    return common


def little_endian(vr: str | None, data: bytes) -> bytes:
    """Return a binary value of a data set in big endian in little endian (PS3.5 7.3); OB and UN have no words."""
    word = {"OW": 2, "OF": 4, "OL": 4, "OD": 8, "OV": 8}.get(vr or "", 1)
    whole_words = len(data) // word * word
    if word == 1:
        return data
    words = array({2: "H", 4: "I", 8: "Q"}[word], data[:whole_words])
    words.byteswap()
    return words.tobytes() + data[whole_words:]


def once_per_series(*keywords: str) -> Callable[[Function[Arguments, Fact]], Function[Arguments, Fact]]:
    """Let a function give its last result again while the elements that it declares, and its arguments, are the same.

    `*keywords`: keywords of the elements. The function is called with a data set that consists of these and of Specific
        Character Set (0008,0005), which decides what others mean; it has no File Meta Information. Nobody may change
        the result.

    A result is not kept if pydicom has converted an element, because a converted element can be changed.
    Threads may call the function at the same time.
    """
    tags = tuple(map(standard_tag, ("SpecificCharacterSet", *keywords)))

    def decorate(function: Function[Arguments, Fact]) -> Function[Arguments, Fact]:
        last: _Last | None = None

        @wraps(function)
        def call(ds: Dataset, /, *arguments: Arguments.args, **named: Arguments.kwargs) -> Fact:
            nonlocal last
            found: tuple[Element | None, ...] = tuple(map(held_elements(ds).get, tags))
            if last is not None and last.found == found and last.arguments == (arguments, named):
                known: Fact = last.fact
                return known
            elements = [element for element in found if element is not None]
            given = Dataset({element.tag: element for element in elements})
            copy_encoding(ds, given)
            fact = function(given, *arguments, **named)
            if all(map(_is_fixed, elements)):
                last = _Last(found, (arguments, named), fact)
            return fact

        return call

    return decorate


def _is_fixed(element: Element) -> bool:
    """Return whether an element is here as it was read; pydicom has neither converted it nor left it in its file."""
    return isinstance(element, RawDataElement) and (element.value is not None or not element.length)


class _Last(NamedTuple):
    """A result, the elements that it came from (None: absent), and the arguments."""

    found: tuple[Element | None, ...]
    arguments: tuple[Any, Any]
    fact: Any


class PrivateTag(NamedTuple):
    """A private element as its vendor documents it: (gggg,xxee) of a private creator, and its value representation."""

    group: int
    creator: str
    offset: int
    vr: str


def private_bytes(ds: Dataset, tag: PrivateTag) -> bytes | None:
    """Return the bytes of a private element; None if it is absent or pydicom has converted it."""
    element = _element(ds, tag)
    return element.value if element is not None and isinstance(element.value, bytes) else None


def private_numbers(ds: Dataset, tag: PrivateTag, count: int | None = None) -> tuple[float, ...] | None:
    """Return the finite numbers of a private element; None unless there are `count` of them (if given)."""
    element = _element(ds, tag)
    if element is None:
        return None
    data: Any = element.value
    if not isinstance(data, bytes):
        return as_numbers(data, count)
    vr = tag.vr if element.VR in _UNTYPED else str(element.VR)
    if vr not in _BINARY:
        return as_numbers(_text(data).split("\\"), count) if data else None
    order = ">" if isinstance(element, RawDataElement) and not element.is_little_endian else "<"
    words = len(data) // struct.calcsize(_BINARY[vr])
    return as_numbers(struct.unpack_from(f"{order}{words}{_BINARY[vr]}", data), count) if words else None


def private_text(ds: Dataset, tag: PrivateTag) -> str:
    """Return the (first) text of a private element without padding; empty if it is absent."""
    element = _element(ds, tag)
    if element is None:
        return ""
    value: Any = element.value
    if isinstance(value, bytes):
        return _text(value).split("\\")[0].strip(" \0")
    if not isinstance(value, str) and hasattr(value, "__getitem__") and len(value):
        value = value[0]
    return value.strip(" \0") if isinstance(value, str) else ""


def private_texts(ds: Dataset, tag: PrivateTag) -> tuple[str, ...]:
    """Return all texts of a private element without padding; empty if it is absent."""
    element = _element(ds, tag)
    if element is None:
        return ()
    if isinstance(element.value, bytes):
        parts: Sequence[Any] = _text(element.value).split("\\")
    else:
        parts = element.value if isinstance(element.value, MultiValue) else [element.value]
    return tuple(part.strip(" \0") for part in parts if isinstance(part, str))


def private_items(ds: Dataset, tag: PrivateTag) -> list[Dataset]:
    """Return the items of a private sequence; empty if it is absent.

    If its value representation was lost, its bytes are items in implicit VR little endian (PS3.5 6.2.2).
    """
    element = _element(ds, tag)
    if element is None:
        return []
    try:
        items = ds[element.tag].value
        if isinstance(items, bytes) and items.startswith(_ITEM):
            items = read_sequence(BytesIO(items), True, True, len(items), "iso8859")
    except Exception:  # a broken item makes pydicom raise anything
        return []
    return [item for item in items if isinstance(item, Dataset)] if isinstance(items, Sequence) else []


def private_sequences(ds: Dataset) -> Iterator[Dataset]:
    """Yield the first item of every private sequence of a data set."""
    for key in tuple(ds.keys()):
        if key.is_private and not key.is_private_creator:
            element = ds.get_item(key)
            if element is not None and element.VR == "SQ":
                try:
                    yield from ds[key].value[:1]
                except Exception:  # a broken item makes pydicom raise anything
                    continue


def _text(value: bytes) -> str:
    return value.decode("latin-1").strip(" \0")


def has_private_elements(ds: Dataset) -> bool:
    """Return whether a data set has any private element, in less time than it takes to look for one."""
    return any(tag >> 16 & 1 for tag in held_elements(ds))


def _element(ds: Dataset, tag: PrivateTag) -> Element | None:
    """Return the element from any block that the creator has reserved (PS3.5 7.8.1).

    If no element of the group names a creator, the creators were stripped; the block is then assumed to be the first
    one, 10, which modalities use. The caller checks whether the value is plausible.
    """
    element = _held_element(held_elements(ds), tag)
    return ds[element.tag] if isinstance(element, RawDataElement) and element.value is None else element


def _held_element(elements: Mapping[BaseTag, Element], tag: PrivateTag) -> Element | None:
    has_creators = False
    for creator in _creators(elements, tag.group):
        has_creators = True
        element = elements.get(tag_read(tag.group << 16 | (creator & 0xFF) << 8 | tag.offset))
        if element is not None and _name(elements[creator]) == tag.creator:
            return element
    return None if has_creators else elements.get(tag_read(tag.group << 16 | 0x1000 | tag.offset))


def _creators(elements: Mapping[BaseTag, Element], group: int) -> Iterator[BaseTag]:
    """Yield the tags that reserve a block of a group; the first is often the only one, and found without a search."""
    first, others = _creator_tags(group)
    if first in elements:
        yield first
    yield from sorted(others.intersection(elements))


@cache
def _creator_tags(group: int) -> tuple[BaseTag, frozenset[BaseTag]]:
    """Return the tag that may reserve the first block of a group, and those of the others."""
    return tag_read(group << 16 | 0x10), frozenset(BaseTag(group << 16 | block) for block in range(0x11, 0x100))


def _name(creator: Element) -> str:
    name: Any = creator.value
    return (name.decode("latin-1") if isinstance(name, bytes) else str(name)).strip(" \0")
