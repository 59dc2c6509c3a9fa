"""Data sets that are one or seem so: copies under one SOP Instance UID or two, and two pictures under one."""

from __future__ import annotations

import numpy as np
from pydicom import DataElement, Dataset
from pydicom.datadict import tag_for_keyword

from node.dicom.values import CONVERSION_ERRORS
from node.errors import ConversionRefused
from node.volume.read.pixel_layout import PIXELS
from node.volume.read.pixels import frame_reader

MAY_DIFFER_IN_COPIES = frozenset(
    map(
        tag_for_keyword,
        (
            *("InstanceNumber", "InstanceCreationDate", "InstanceCreationTime", "ContentDate", "ContentTime"),
            *("SeriesDate", "SeriesTime", "SeriesNumber", "TimezoneOffsetFromUTC"),
        ),
    )
)
"""Attributes that a second export of the same object changes, beside its unique identifiers."""


def is_copy(one: Dataset, other: Dataset) -> bool:
    """Return whether two data sets are one object under two SOP Instance UIDs, alike but for those and for times."""
    return _same_bytes(one, other) and _alike(one, other)


def _same_bytes(one: Dataset, other: Dataset) -> bool:
    return all(one.get(keyword) == other.get(keyword) for keyword in PIXELS)


def _alike(one: Dataset, other: Dataset) -> bool:
    """Whether all that two data sets say is the same, unique identifiers and `MAY_DIFFER_IN_COPIES` aside."""
    said, heard = (
        {element.tag: element for element in ds if element.VR != "UI" and element.tag not in MAY_DIFFER_IN_COPIES}
        for ds in (one, other)
    )
    return said.keys() == heard.keys() and all(_same(element, heard[tag]) for tag, element in said.items())


def _same(one: DataElement, other: DataElement) -> bool:
    if one.VR != "SQ" or other.VR != "SQ":
        return bool(one.VR == other.VR and one.value == other.value)
    return len(one.value) == len(other.value) and all(map(_alike, one.value, other.value))


def same_pixels(one: Dataset, other: Dataset) -> bool:
    """Return whether two data sets hold the same pixels: the same bytes, or the same values in another encoding.

    Lossless compression and another byte order leave an instance what it is, under the same SOP Instance UID: archives
    give it out in several transfer syntaxes (PS3.5 10).
    """
    if _same_bytes(one, other):
        return True
    try:
        ours, theirs = frame_reader(one), frame_reader(other)
        return ours.frames == theirs.frames and all(
            np.array_equal(ours(index), theirs(index)) for index in range(ours.frames)
        )
    except (ConversionRefused, *CONVERSION_ERRORS, ArithmeticError):
        return False  # what cannot be decoded is no copy
