"""Read values out of a data set that anyone may have sent: what cannot be read is absent, never an exception.

pydicom converts an element when it is first touched, and raises whatever a broken value makes it raise.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException
from pydicom.tag import BaseTag

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
"""What pydicom raises when it converts a value that cannot be what its header says."""

STANDARD_TAGS: dict[int, BaseTag] = {}
"""The tags that were asked for by keyword, one object for each.

Elements that are put into a data set under these very objects are found at a tenth of the cost: pydicom compares two
objects of one tag in Python.
"""

_NUMBER_VRS: dict[str, Callable[[bytes], float]] = {"DS": float, "IS": int}
_TEXT_VRS = frozenset(("CS", "DA", "DT", "LO", "SH", "TM", "UI"))


def value(ds: Dataset, keyword: str) -> Any:
    """Return the value of an element as pydicom converts it; None where it is absent, empty or unreadable."""
    tag = standard_tag(keyword)
    if held(ds, tag) is None:  # asking pydicom for what is absent costs ten times as much
        return None
    try:
        found = ds[tag].value
    except CONVERSION_ERRORS:
        return None
    return None if found is None or (hasattr(found, "__len__") and len(found) == 0) else found


def held(ds: Dataset, tag: BaseTag) -> Any:
    """Return the element that a data set holds, as pydicom has it: converted, raw, or left in its file; else None.

    `Dataset.get_item` does the same at five times the cost, and a series in time asks two million times.
    """
    return ds._dict.get(tag)


@lru_cache(maxsize=1024)
def standard_tag(keyword: str) -> BaseTag:
    """Return the tag of a keyword of the standard, one object of `STANDARD_TAGS`."""
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise KeyError(f"{keyword} is no keyword of PS3.6")
    return STANDARD_TAGS.setdefault(tag, BaseTag(tag))


def numbers(ds: Dataset, keyword: str, count: int | None = None) -> tuple[float, ...] | None:
    """Return finite numbers, of which there must be `count` if it is given; else None."""
    plain = _plain_numbers(ds, keyword)
    return as_numbers(value(ds, keyword) if plain is None else plain, count)


def _plain_numbers(ds: Dataset, keyword: str) -> tuple[float, ...] | None:
    """Numbers in the text of an element that pydicom has not converted yet; None where it should look at them."""
    tag = standard_tag(keyword)
    raw = held(ds, tag)
    if not isinstance(raw, RawDataElement) or not raw.value or (raw.VR or dictionary_VR(tag)) not in _NUMBER_VRS:
        return None
    try:
        return tuple(map(_NUMBER_VRS[raw.VR or dictionary_VR(tag)], raw.value.rstrip(b" \0").split(b"\\")))
    except ValueError:
        return None


def as_numbers(found: Any, count: int | None = None) -> tuple[float, ...] | None:
    """Return a value as finite numbers, of which there must be `count` if it is given; else None."""
    if found is None or isinstance(found, bytes):
        return None
    several = found if isinstance(found, Sequence) and not isinstance(found, str) else [found]
    try:
        result = tuple(float(each) for each in several)
    except (ValueError, TypeError, OverflowError):
        return None
    if not all(map(math.isfinite, result)) or (count is not None and len(result) != count):
        return None
    return result


def number(ds: Dataset, keyword: str) -> float | None:
    """Return the first number of an element; None where there is no finite one."""
    found = numbers(ds, keyword)
    return found[0] if found else None


def whole(ds: Dataset, keyword: str) -> int | None:
    """Return the first number of an element if it is a whole one; else None."""
    found = number(ds, keyword)
    return int(found) if found is not None and found == int(found) else None


def text(ds: Dataset, keyword: str) -> str:
    """Return the (first) text of an element without padding; empty where there is none."""
    plain = _plain_texts(ds, keyword)
    if plain is not None:
        return plain[0]
    found = value(ds, keyword)
    if isinstance(found, Sequence) and not isinstance(found, (str, bytes)):
        found = found[0]
    return found.strip(" \0") if isinstance(found, str) else ""


def texts(ds: Dataset, keyword: str) -> tuple[str, ...]:
    """Return all texts of an element without padding."""
    plain = _plain_texts(ds, keyword)
    if plain is not None:
        return plain
    found = value(ds, keyword)
    several = found if isinstance(found, Sequence) and not isinstance(found, (str, bytes)) else [found]
    return tuple(each.strip(" \0") for each in several if isinstance(each, str))


def _plain_texts(ds: Dataset, keyword: str) -> tuple[str, ...] | None:
    """Texts of an element that pydicom has not converted yet, which costs ten times as much; None of any but ASCII."""
    tag = standard_tag(keyword)
    raw = held(ds, tag)
    if not isinstance(raw, RawDataElement) or not isinstance(raw.value, bytes) or not raw.value:
        return None
    if (raw.VR or dictionary_VR(tag)) not in _TEXT_VRS or not raw.value.isascii() or b"\x1b" in raw.value:
        return None
    return tuple(part.strip(" \0") for part in raw.value.decode("ascii").split("\\"))


def items(ds: Dataset, keyword: str) -> Sequence[Dataset]:
    """Return the items of a sequence; empty where there is none."""
    found = value(ds, keyword)
    if found is None or isinstance(found, (str, bytes)) or not isinstance(found, Sequence):
        return ()
    return [each for each in found if isinstance(each, Dataset)]
