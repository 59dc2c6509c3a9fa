"""Fields of the sidecar that a vendor's own elements state: a table for each vendor, read by one function.

The tables are also the source of the list in docs/sidecar.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from pydicom.dataset import Dataset

from node.dicom.values import PrivateTag, private_numbers, private_text


class VendorField(NamedTuple):
    """A field: its name, the elements that it comes from, and the function that reads it, None where it is unknown."""

    name: str
    source: str
    read: Callable[[Dataset], Any]


def stated_fields(ds: Dataset, fields: Sequence[VendorField]) -> dict[str, Any]:
    """Return the values of the fields that a data set states; of several fields with one name the first counts.

    A number beyond all bounds is that of damaged bytes.
    """
    stated: dict[str, Any] = {}
    for field in fields:
        content = None if field.name in stated else field.read(ds)
        if content is None or content in ("", [], ()):
            continue
        if not isinstance(content, float) or math.isfinite(content):
            stated[field.name] = content
    return stated


def notation(tag: PrivateTag) -> str:
    """Return a private tag as the vendor documents it: (0043,xx2C)."""
    return f"({tag.group:04X},xx{tag.offset:02X})"


def text_field(name: str, tag: PrivateTag) -> VendorField:
    """Return a field that is the text of an element."""
    return VendorField(name, notation(tag), lambda ds: private_text(ds, tag))


def number_field(name: str, tag: PrivateTag, factor: float = 1.0, digits: int = 9) -> VendorField:
    """Return a field that is a number; see `positive`."""
    return VendorField(name, notation(tag), partial(positive, tag, factor, digits))


def positive(tag: PrivateTag, factor: float, digits: int, ds: Dataset) -> float | None:
    """Return a number above zero, times a factor, with so many significant digits."""
    first = (private_numbers(ds, tag) or (0.0,))[0]
    return rounded(first * factor, digits) if first > 0 else None


def counted(tag: PrivateTag, ds: Dataset) -> int | None:
    """Return a whole number above zero."""
    first = (private_numbers(ds, tag) or (0.0,))[0]
    return int(first) if first > 0 else None


def rounded(number: float, digits: int) -> float:
    """Return a number without the noise of binary fractions."""
    return float(f"{number:.{digits}g}")
