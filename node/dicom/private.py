"""Private elements by who reserved them: group, private creator and offset within the creator's block.

Blocks are numbered anew by archives and anonymisers, so that (0019,100C) of one file is (0019,120C) of another; and
where the value representation was lost (UN after a re-encoding as implicit VR, PS3.5 6.2.2) the bytes are read as the
vendor says.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from io import BytesIO
from typing import Any, NamedTuple

from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_sequence
from pydicom.multival import MultiValue

from node.dicom.values import as_numbers

_BINARY = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d"}
_UNTYPED = frozenset((None, "UN", "OB", "OW"))
_ITEM = b"\xfe\xff\x00\xe0"


class PrivateTag(NamedTuple):
    """What a vendor documents: (gggg,xxee) of a private creator, and its value representation."""

    group: int
    creator: str
    offset: int
    vr: str


def private_bytes(ds: Dataset, tag: PrivateTag) -> bytes | None:
    """Return the bytes of a private element; None where it is absent or pydicom holds no bytes of it."""
    found = _element(ds, tag)
    return found.value if found is not None and isinstance(found.value, bytes) else None


def private_numbers(ds: Dataset, tag: PrivateTag, count: int | None = None) -> tuple[float, ...] | None:
    """Return finite numbers of a private element, of which there must be `count` if it is given; else None."""
    found = _element(ds, tag)
    if found is None:
        return None
    if not isinstance(found.value, bytes):
        return as_numbers(found.value, count)
    vr = tag.vr if found.VR in _UNTYPED else str(found.VR)
    if vr not in _BINARY:
        return as_numbers(_text(found.value).split("\\"), count) if found.value else None
    order = ">" if isinstance(found, RawDataElement) and not found.is_little_endian else "<"
    size = struct.calcsize(_BINARY[vr])
    several = len(found.value) // size
    return as_numbers(struct.unpack_from(f"{order}{several}{_BINARY[vr]}", found.value), count) if several else None


def private_text(ds: Dataset, tag: PrivateTag) -> str:
    """Return the (first) text of a private element without padding; empty where there is none."""
    found = _element(ds, tag)
    if found is None:
        return ""
    value: Any = found.value
    if isinstance(value, bytes):
        return _text(value).split("\\")[0].strip(" \0")
    if not isinstance(value, str) and hasattr(value, "__getitem__") and len(value):
        value = value[0]
    return value.strip(" \0") if isinstance(value, str) else ""


def private_texts(ds: Dataset, tag: PrivateTag) -> tuple[str, ...]:
    """Return all texts of a private element without padding; empty where there is none."""
    found = _element(ds, tag)
    if found is None:
        return ()
    if isinstance(found.value, bytes):
        several: Sequence[Any] = _text(found.value).split("\\")
    else:
        several = found.value if isinstance(found.value, MultiValue) else [found.value]
    return tuple(each.strip(" \0") for each in several if isinstance(each, str))


def private_items(ds: Dataset, tag: PrivateTag) -> list[Dataset]:
    """Return the items of a private sequence; empty where there is none.

    Where its value representation was lost its bytes are items in implicit VR little endian (PS3.5 6.2.2).
    """
    found = _element(ds, tag)
    if found is None:
        return []
    try:
        several = ds[found.tag].value
        if isinstance(several, bytes) and several.startswith(_ITEM):
            several = read_sequence(BytesIO(several), True, True, len(several), "iso8859")
    except Exception:  # a broken item makes pydicom raise whatever it meets
        return []
    return [each for each in several if isinstance(each, Dataset)] if isinstance(several, Sequence) else []


def _text(value: bytes) -> str:
    return value.decode("latin-1").strip(" \0")


def _element(ds: Dataset, tag: PrivateTag) -> DataElement | RawDataElement | None:
    """Return the element from whichever block the creator has reserved (PS3.5 7.8.1).

    Where no element of the group names a creator, they were stripped: the block is then the first, 10, where
    modalities put it. The caller judges whether the value is credible.
    """
    keys = ds.keys()
    reserved = False
    for block in _blocks(ds, tag.group):
        reserved = True
        if _creator(ds, tag.group << 16 | block) == tag.creator:
            place = tag.group << 16 | block << 8 | tag.offset
            if place in keys:
                return ds.get_item(place)
    place = tag.group << 16 | 0x1000 | tag.offset
    return ds.get_item(place) if not reserved and place in keys else None


def _blocks(ds: Dataset, group: int) -> Iterator[int]:
    keys = ds.keys()
    first = group << 16
    return (block for block in range(0x10, 0x100) if first | block in keys)


def _creator(ds: Dataset, tag: int) -> str:
    value: Any = ds.get_item(tag).value
    return (value.decode("latin-1") if isinstance(value, bytes) else str(value)).strip(" \0")
