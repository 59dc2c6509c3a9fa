"""Readers of values for the sidecar: each takes a data set and a keyword, and returns nothing if it is unknown."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from pydicom.dataset import Dataset

from node.dicom.values import items, number, numbers, text, texts, value, whole

DATE_CHARACTERS = 8
"""Characters of a Date Time (DT) before its time of day, PS3.5 6.2."""

_WIDTH = re.compile(r"(?<=[A-Za-z])\s*(\d+(?:\.\d+)?)$", re.ASCII)

MAX_MEGAHERTZ = 1000.0
"""Larger values (above 23 tesla) are frequencies in hertz."""


def joined_texts(ds: Dataset, keyword: str) -> str:
    return " ".join(part for part in texts(ds, keyword) if part)


def time_of_day(ds: Dataset, keyword: str) -> str:
    """Return HH:MM:SS.FFFFFF of a complete Time (TM) or Date Time (DT), PS3.5 6.2.

    A time without its date identifies nobody.
    """
    time = str(value(ds, keyword) or "")
    if keyword.endswith("DateTime"):
        time = re.sub(r"[+-]\d{4}$", "", time)[DATE_CHARACTERS:]
    match = re.fullmatch(r"(\d\d)(\d\d)(\d\d)(\.\d{1,6})?", time, re.ASCII)
    return "{}:{}:{}{}".format(*match.groups("")) if match else ""


def positive(ds: Dataset, keyword: str) -> float | None:
    """Return a number above zero; zero means that the value is unknown."""
    first = number(ds, keyword)
    return first if first is not None and first > 0 else None


def count(ds: Dataset, keyword: str) -> int | None:
    """Return a whole number above zero."""
    first = whole(ds, keyword)
    return first if first and first > 0 else None


def megahertz(ds: Dataset, keyword: str) -> float | None:
    frequency = positive(ds, keyword)
    return frequency if frequency is not None and frequency <= MAX_MEGAHERTZ else None


def flag(ds: Dataset, keyword: str) -> bool | None:
    return {"YES": True, "Y": True, "NO": False, "N": False}.get(text(ds, keyword))


def applied(ds: Dataset, keyword: str) -> bool | None:
    """Return whether a technique is applied: its attribute is not NONE (PS3.3 C.8.13.5.4 to C.8.13.5.6)."""
    return text(ds, keyword) != "NONE" if text(ds, keyword) else None


def raw(ds: Dataset, keyword: str) -> bool | None:
    """Return false for an image that was derived from others (PS3.3 C.7.6.1.1.2)."""
    return False if texts(ds, keyword)[:1] == ("DERIVED",) else None


def reconstruction(labels: bool) -> Callable[[Dataset, str], tuple[Any, ...]]:
    """Return the reader of subsets and iterations in a method such as ``PSF+TOF3i21s``, or of their names."""

    def read(ds: Dataset, keyword: str) -> tuple[Any, ...]:
        method = text(ds, keyword)
        match = re.search(r"(?P<iterations>\d+)i(?P<subsets>\d+)s|i(?P<i>\d+)s(?P<s>\d+)", method)
        if not match:
            return ()
        found = {"subsets": match["subsets"] or match["s"], "iterations": match["iterations"] or match["i"]}
        return tuple(found) if labels else tuple(map(int, found.values()))

    return read


def unit_of_activity(ds: Dataset, keyword: str) -> str:
    """Return the unit of a specific activity, which PS3.3 C.8.9.2 gives per micromole."""
    return "Bq/umol" if positive(ds, keyword) else ""


def filter_of_emission(ds: Dataset, keyword: str) -> tuple[str, ...]:
    """Return the kernel of PET without its width, which is a filter after reconstruction (PS3.3 C.8.9.1)."""
    if text(ds, "Modality") != "PT":
        return ()
    return tuple(_WIDTH.sub("", kernel).strip() or kernel for kernel in texts(ds, keyword))


def time_of_emission(ds: Dataset, keyword: str) -> str:
    """Return the time of day of a series of PET, to which decay correction may refer."""
    return time_of_day(ds, keyword) if text(ds, "Modality") == "PT" else ""


def filter_size(ds: Dataset, keyword: str) -> float | None:
    """Return the width in mm at the end of the kernel of PET, such as ``XYZ Gauss4.00``."""
    match = _WIDTH.search(text(ds, keyword)) if text(ds, "Modality") == "PT" else None
    return float(match[1]) if match and float(match[1]) > 0 else None


def of_bolus(ds: Dataset, keyword: str) -> Any:
    """Return a value of the first item of ASL Bolus Cutoff Timing Sequence (0018,925D)."""
    item = next(iter(items(ds, "ASLBolusCutoffTimingSequence")), Dataset())
    return text(item, keyword) if keyword == "ASLBolusCutoffTechnique" else positive(item, keyword)


def of_slab(ds: Dataset, keyword: str) -> Any:
    """Return a value of the labelled slab, the first item of ASL Slab Sequence (0018,9260)."""
    item = next(iter(items(ds, "ASLSlabSequence")), Dataset())
    return numbers(item, keyword, 3) if keyword == "ASLSlabOrientation" else positive(item, keyword)
