"""Read private elements by their creator: group, private creator, and offset within the creator's block.

Archives and anonymisers renumber blocks, so that (0019,100C) of one file is (0019,120C) of another. If the value
representation was lost (UN after re-encoding as implicit VR, PS3.5 6.2.2), the bytes are read as the vendor documents.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from io import BytesIO
from typing import Any, NamedTuple

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_sequence
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag

from node.dicom.values import Element, as_numbers, held_elements, tag_read

_BINARY = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d"}
_UNTYPED = frozenset((None, "UN", "OB", "OW"))
_ITEM = b"\xfe\xff\x00\xe0"


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
    yield from sorted(filter(others.__contains__, elements))


@cache
def _creator_tags(group: int) -> tuple[BaseTag, frozenset[int]]:
    """Return the tag that may reserve the first block of a group, and those of the others."""
    return tag_read(group << 16 | 0x10), frozenset(group << 16 | block for block in range(0x11, 0x100))


def _name(creator: Element) -> str:
    name: Any = creator.value
    return (name.decode("latin-1") if isinstance(name, bytes) else str(name)).strip(" \0")
