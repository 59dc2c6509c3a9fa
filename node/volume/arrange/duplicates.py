"""Recognise duplicates: copies of one object under one or two SOP Instance UIDs, and two pictures under one UID."""

from __future__ import annotations

import hashlib

import numpy as np
from pydicom import DataElement, Dataset
from pydicom.datadict import tag_for_keyword
from pydicom.multival import MultiValue

from node.dicom.values import CONVERSION_ERRORS
from node.errors import ConversionRefused
from node.volume.elements import numbers, text
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

_PLACE_AND_TIME = (
    *("ImagePositionPatient", "ImageOrientationPatient", "SliceLocation", "EchoTime", "TriggerTime"),
    *("InstanceNumber", "AcquisitionNumber", "TemporalPositionIdentifier", "FrameReferenceTime"),
)
_CLOCKS = ("AcquisitionDateTime", "AcquisitionDate", "AcquisitionTime")

_PIXEL_TAGS = frozenset(map(tag_for_keyword, PIXELS))


def is_copy(first: Dataset, second: Dataset) -> bool:
    """Return whether two data sets are one object under two SOP Instance UIDs.

    They are if they agree in everything but unique identifiers and `MAY_DIFFER_IN_COPIES`.
    """
    return _have_same_pixel_bytes(first, second) and header_digest(first) == header_digest(second)


def _have_same_pixel_bytes(first: Dataset, second: Dataset) -> bool:
    return all(first.get(keyword) == second.get(keyword) for keyword in PIXELS)


def header_digest(ds: Dataset) -> bytes:
    """Return a digest of all elements but pixels, unique identifiers and `MAY_DIFFER_IN_COPIES`."""
    digest = hashlib.sha256()
    for tag in sorted(ds.keys() - MAY_DIFFER_IN_COPIES - _PIXEL_TAGS):
        if ds[tag].VR != "UI":
            digest.update(_element_digest(ds[tag]))
    return digest.digest()


def _element_digest(element: DataElement) -> bytes:
    own = hashlib.sha256(f"{element.tag} {element.VR} ".encode())
    if element.VR == "SQ":
        for item in element.value or ():
            own.update(header_digest(item))
    elif isinstance(element.value, bytes):
        own.update(element.value)
    else:
        values = element.value if isinstance(element.value, (list, MultiValue)) else [element.value]
        own.update(repr([float(value) if isinstance(value, (int, float)) else str(value) for value in values]).encode())
    return own.digest()


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


def states_another_place(first: Dataset, second: Dataset) -> bool:
    """Return whether two data sets state different positions, numbers or times, so that equal pixels prove nothing.

    Blank and masked slices have equal pixels; a sender that gives them one SOP Instance UID loses one of them.
    """
    stated = [(numbers(first, keyword), numbers(second, keyword)) for keyword in _PLACE_AND_TIME]
    clocks = [(text(first, keyword), text(second, keyword)) for keyword in _CLOCKS]
    return any(None not in pair and pair[0] != pair[1] for pair in (*stated, *clocks))
