"""Recognise duplicates: copies of one object under one or two SOP Instance UIDs, and two pictures under one UID."""

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
"""Attributes that a second export of the same object changes, in addition to its unique identifiers."""


def is_copy(first: Dataset, second: Dataset) -> bool:
    """Return whether two data sets are one object under two SOP Instance UIDs.

    They are if they agree in everything but unique identifiers and `MAY_DIFFER_IN_COPIES`.
    """
    return _have_same_pixel_bytes(first, second) and _are_alike(first, second)


def _have_same_pixel_bytes(first: Dataset, second: Dataset) -> bool:
    return all(first.get(keyword) == second.get(keyword) for keyword in PIXELS)


def _are_alike(first: Dataset, second: Dataset) -> bool:
    """Return whether two data sets agree in all elements but unique identifiers and `MAY_DIFFER_IN_COPIES`."""
    first_elements, second_elements = (
        {element.tag: element for element in ds if element.VR != "UI" and element.tag not in MAY_DIFFER_IN_COPIES}
        for ds in (first, second)
    )
    return first_elements.keys() == second_elements.keys() and all(
        _is_same(element, second_elements[tag]) for tag, element in first_elements.items()
    )


def _is_same(first: DataElement, second: DataElement) -> bool:
    if first.VR != "SQ" or second.VR != "SQ":
        return bool(first.VR == second.VR and first.value == second.value)
    return len(first.value) == len(second.value) and all(map(_are_alike, first.value, second.value))


def has_same_pixels(first: Dataset, second: Dataset) -> bool:
    """Return whether two data sets hold the same pixels: the same bytes, or the same values in another encoding.

    Lossless compression or a different byte order does not change an instance or its SOP Instance UID: archives may
    send it in several transfer syntaxes (PS3.5 10).
    """
    if _have_same_pixel_bytes(first, second):
        return True
    try:
        first_frames, second_frames = frame_reader(first), frame_reader(second)
        return first_frames.frames == second_frames.frames and all(
            np.array_equal(first_frames(index), second_frames(index)) for index in range(first_frames.frames)
        )
    except (ConversionRefused, *CONVERSION_ERRORS, ArithmeticError):
        return False  # an instance that cannot be decoded is not a copy
