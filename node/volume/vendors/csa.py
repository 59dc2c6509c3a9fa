"""Siemens' CSA header and the protocol text inside it: (0029,xx10), (0029,xx20) of ``SIEMENS CSA HEADER``."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType

_MAX_ELEMENTS = 1000
_MAX_ITEMS = 10000
_ELEMENT = struct.Struct("<64si4siii")
_ITEM = struct.Struct("<4i")
_PROTOCOL = re.compile(rb"### ASCCONV BEGIN.*?###(.*?)### ASCCONV END", re.DOTALL)
_ASSIGNMENT = re.compile(r"^\s*([A-Za-z_][\w.\[\]]*)\s*=\s*(.*?)\s*$", re.MULTILINE)


CsaHeader = Mapping[str, tuple[str, ...]]
"""Texts by the name of their element."""


@lru_cache(maxsize=8)
def parse_csa(data: bytes) -> CsaHeader:
    """Return the elements of a CSA header, of version 1 or 2, as text by name; elements without a value are left out.

    A broken element ends the parsing; the elements before it are returned.

    Siemens documents neither version. Both are a list of elements of 84 bytes (name, multiplicity, value
    representation, type, number of items, check), each followed by its items: four integers with the length, then the
    text, padded to four bytes. Version 2 begins with ``SV10``. Version 1 adds a constant to its lengths: the number of
    items of the first element.
    """
    second = data.startswith(b"SV10")
    at = 8 if second else 0
    if len(data) < at + 8:
        return MappingProxyType({})
    count = int.from_bytes(data[at : at + 4], "little")
    at += 8
    elements: dict[str, tuple[str, ...]] = {}
    if not 0 < count <= _MAX_ELEMENTS:
        return MappingProxyType({})
    origin: int | None = None
    for _ in range(count):
        if at + _ELEMENT.size > len(data):
            break
        name, _vm, _vr, _type, items, _check = _ELEMENT.unpack_from(data, at)
        at += _ELEMENT.size
        origin = items if origin is None else origin
        read = _items(data, at, items, 0 if second else origin, second)
        if read is None:
            break
        values, at = read
        if values:
            elements[name.split(b"\0")[0].decode("latin-1")] = values
    return MappingProxyType(elements)


def _items(data: bytes, at: int, count: int, origin: int, second: bool) -> tuple[tuple[str, ...], int] | None:
    """Return the texts of an element's items and the offset after them, or None if they run past the end."""
    if not 0 <= count <= _MAX_ITEMS:
        return None
    values = []
    for _ in range(count):
        if at + _ITEM.size > len(data):
            return None
        lengths = _ITEM.unpack_from(data, at)
        at += _ITEM.size
        length = lengths[1] if second else lengths[0] - origin
        if length < 0 or at + length > len(data):
            return None
        value = data[at : at + length].split(b"\0")[0].decode("latin-1").strip()
        if value:
            values.append(value)
        at += -(-length // 4) * 4
    return tuple(values), at


def csa_numbers(
    elements: Mapping[str, tuple[str, ...]], name: str, count: int | None = None
) -> tuple[float, ...] | None:
    """Return the finite numbers of a CSA element; None unless there are `count` of them (if given)."""
    try:
        numbers = tuple(map(float, elements.get(name, ())))
    except ValueError:
        return None
    is_valid = numbers and all(map(math.isfinite, numbers)) and (count is None or len(numbers) == count)
    return numbers if is_valid else None


@lru_cache(maxsize=8)
def parse_protocol(data: bytes) -> Mapping[str, str]:
    """Return the assignments of the protocol (``### ASCCONV BEGIN ### name = value``) inside a header or a text.

    Names are as written, ``sSliceArray.asSlice[3].sPosition.dTra``; values have no quotes. The last protocol counts.
    """
    protocols = _PROTOCOL.findall(data)
    if not protocols:
        return MappingProxyType({})
    text = protocols[-1].decode("latin-1")
    return MappingProxyType({name: value.strip('"') for name, value in _ASSIGNMENT.findall(text)})


def protocol_integer(protocol: Mapping[str, str], name: str) -> int | None:
    """Return an integer of the protocol, which older software writes in hexadecimal; None if it is absent."""
    try:
        return int(protocol[name], 0)
    except (KeyError, ValueError):
        return None
