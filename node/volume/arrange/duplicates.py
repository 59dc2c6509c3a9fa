"""Recognise duplicates: copies of one object under one or two SOP Instance UIDs, and two pictures under one UID.

Equal pixels alone prove nothing: times may be blank, masked or repeated. A copy has the whole data set of its original.
"""

import hashlib
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from pydicom import DataElement, Dataset
from pydicom.datadict import tag_for_keyword
from pydicom.multival import MultiValue

from node.dicom.values import CONVERSION_ERRORS, stated_numbers
from node.errors import ConversionRefused, counted
from node.volume.arrange.whole_times import (
    Bin,
    Labels,
    instance_order,
    is_time_order,
    labels_by_number,
    time_orders,
    weighting,
)
from node.volume.elements import text
from node.volume.intensities import read_frame
from node.volume.model import Array, Frame, Member, grouped
from node.volume.read.pixel_layout import PIXELS
from node.volume.read.pixels import frame_reader
from node.volume.reasons import VolumeWarning, WarningKind

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

_RESCALING = {"RescaleSlope": 1.0, "RescaleIntercept": 0.0}
"""What values mean, with what they mean without the attribute (PS3.3 C.7.6.16.2.9, C.11.1)."""

_FRAMES = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")

_PIXEL_TAGS = frozenset(map(tag_for_keyword, PIXELS))

COPY_TIME_KEYS = frozenset({"content_time", "instance"})
"""Time keys that a second export of the same object changes."""

COPY_DETAIL = "the instance is a copy of another one, under a different SOP Instance UID (0008,0018)"


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


def stated_difference(first: Dataset, second: Dataset) -> str | None:
    """Return in words in which statements two data sets with equal pixels differ; None if they have the same content.

    Blank and masked slices have equal pixels; a sender that gives them one SOP Instance UID loses one of them. Equal
    pixels of another patient, size or scale are other values.
    """

    def differ(read: Callable[[Dataset, str], Any], *keywords: str) -> bool:
        pairs = ((read(first, keyword), read(second, keyword)) for keyword in keywords)
        return any(None not in pair and pair[0] != pair[1] for pair in pairs)

    if differ(stated_numbers, *_PLACE_AND_TIME) or differ(text, *_CLOCKS):
        return "position, number or time"
    if differ(text, "PatientID"):
        return "patient"
    scales = [[stated_numbers(ds, name) or (usual,) for name, usual in _RESCALING.items()] for ds in (first, second)]
    inverted = [text(ds, "PhotometricInterpretation") == "MONOCHROME1" for ds in (first, second)]
    frames = [[_element_digest(ds[name]) for name in _FRAMES if name in ds] for ds in (first, second)]
    if differ(stated_numbers, "PixelSpacing") or any(one[0] != one[1] for one in (scales, inverted, frames)):
        return "spacing or scale"
    return None


class Copy(NamedTuple):
    """A frame, and the earlier one that it repeats."""

    frame: Frame
    original: Frame


def find_copies(frames: Sequence[Frame], dataset_of: Callable[[str], Dataset]) -> list[Copy]:
    """Return the frames of a stack that repeat another one under a second SOP Instance UID.

    A copy has the pixels of its original, and all attributes but those that a second export changes. Times whose pixels
    are equal may have equal attributes too if an anonymiser removed every clock: they are no copies if Instance Numbers
    count them as whole times. If all copies are blank, Instance Number and Content Time must agree as well.

    `frames`: frames of one stack. `dataset_of`: called only for frames whose pixels and times are equal.

    Raises FrameRefused if a frame cannot be decoded.
    """
    places = _places(frames)
    likely = [group for place, own in places.items() if place is not None for group in _by_clock(own)]
    bins = list(places.values())
    if not likely or _are_numbered_times(bins):
        return []
    groups = [group for own in likely for group in _several(own, _facts)]
    whole = _whole_times_by_number(bins)
    header_of = cache(lambda uid: _header_digest(uid, dataset_of))
    copies = [copy for group in groups for copy in _copies_among(sorted(group, key=_export_order), whole, header_of)]
    if all(float(np.ptp(read_frame(copy.original))) == 0 for copy in copies):
        copies = [copy for copy in copies if _export(copy.frame) == _export(copy.original)]
    return copies


def copy_warnings(frames: Sequence[Frame], copies: Sequence[Copy]) -> tuple[VolumeWarning, ...]:
    """Return a warning if some of these frames have copies, which were left out."""
    originals = set(map(id, frames))
    count = sum(id(copy.original) in originals for copy in copies)
    detail = counted(count, "frame was left out, a copy", "frames were left out, copies")
    detail += " of others under another SOP Instance UID (0008,0018)"
    return (VolumeWarning(WarningKind.DUPLICATE_SLICE, detail),) if count else ()


def equal_times_warnings(planes: Sequence[Sequence[Frame]], voxels: Array) -> tuple[VolumeWarning, ...]:
    """Return a warning if all slices of a time have the voxels of earlier ones, and only numbers tell them apart.

    The earlier slices may be of several times.

    `planes`: (times, slices) sequences of Frame. `voxels`: (times, slices, rows, columns[, 3]) array.
    """
    time_of = {id(frames[0]): time for time, frames in enumerate(planes)}
    equal = 0
    for firsts in _grouped([frames[0] for frames in planes], _facts_of_time):
        earlier: set[Hashable] = set()
        for time in (time_of[id(first)] for first in firsts):
            digests = (hashlib.sha256(np.ascontiguousarray(plane).data).digest() for plane in voxels[time])
            own = {*zip(range(voxels.shape[1]), map(_facts_of_time, planes[time]), digests, strict=True)}
            equal += own <= earlier
            earlier |= own
    if not equal:
        return ()
    detail = (
        f"{equal} times have the same voxels as earlier ones, and only the numbers of instances or frames, or Content "
        "Time (0008,0033), separate them: they may be copies; all were kept"
    )
    return (VolumeWarning(WarningKind.EQUAL_TIMES, detail),)


def _header_digest(uid: str, dataset_of: Callable[[str], Dataset]) -> bytes:
    """Return a digest of the attributes that a copy shares; of an instance with unreadable values, its UID."""
    try:
        return header_digest(dataset_of(uid))
    except CONVERSION_ERRORS:
        return uid.encode()


def _export(frame: Frame) -> Hashable:
    """Return the attributes of a frame that a second export may change or keep."""
    return frame.instance_number, frame.time_key.get("content_time")


def _export_order(frame: Frame) -> tuple[int, int, str]:
    return (*instance_order(frame), frame.sop_instance_uid)


def _by_clock(frames: Bin) -> list[Bin]:
    """Return the frames at one place that share their acquisition time: few do, and the rest need no other look."""
    return _several(frames, lambda frame: frame.time_key.get("acquisition_time")) if len(frames) > 1 else []


def _several(frames: Bin, trait: Callable[[Frame], Hashable]) -> list[Bin]:
    """Return the frames grouped by a trait, without groups of a single instance."""
    return [group for group in _grouped(frames, trait) if len({frame.sop_instance_uid for frame in group}) > 1]


def _grouped(members: Sequence[Member], trait: Callable[[Member], Hashable]) -> list[list[Member]]:
    """Return frames, or times, grouped by a trait, without groups of one."""
    return [group for group in grouped(members, trait).values() if len(group) > 1]


def _places(frames: Sequence[Frame]) -> dict[Hashable, Bin]:
    """Return the frames by position, else by the number of their slice; a copy has exactly that of its original."""
    return grouped(
        frames, lambda frame: frame.time_key.get("slice") if frame.position is None else frame.position.tobytes()
    )


def _facts(frame: Frame) -> Hashable:
    """Return the attributes of a frame that are known without its data set, and that a copy shares."""
    return frame.frame_number, _facts_of_time(frame)


def _facts_of_time(frame: Frame) -> Hashable:
    """Return what tells a frame of one time from one of another, except numbers and Content Time."""
    times = tuple((name, value) for name, value in frame.time_key.items() if name not in COPY_TIME_KEYS)
    variant = tuple(frame.variant_key.items())
    scaling = frame.slope, frame.intercept
    return times, variant, weighting(frame), scaling, frame.acquisition_time_s, frame.duration_s


def _are_numbered_times(bins: list[Bin]) -> bool:
    """Return whether Instance Numbers go through the frames of all positions time by time or slice by slice."""
    if len(set(map(len, bins))) > 1:
        return False
    ordered = next((ordered for name, ordered in time_orders(bins) if name == "instance"), None)
    return ordered is not None and is_time_order(ordered, "instance")


def _whole_times_by_number(bins: list[Bin]) -> Labels:
    """Return the times, by the frame's `id`, that Instance Numbers count and that are whole."""
    labels = labels_by_number(bins) or {}
    times = grouped(list(labels), labels.__getitem__)
    return {frame: label for label, own in times.items() if len(own) == len(bins) for frame in own}


def _copies_among(group: Sequence[Frame], whole: Labels, header_of: Callable[[str], bytes]) -> Iterator[Copy]:
    """Yield the frames of a group that are copies of earlier ones.

    `group`: frames that may be copies, in the order of their export. `whole`: the whole times that Instance Numbers
    count, by the frame's `id`. `header_of`: digest of the attributes that a copy shares.
    """
    for own in grouped(group, _pixel_digest).values():
        if len({frame.sop_instance_uid for frame in own}) < 2:
            continue
        counted = [header_of(frame.sop_instance_uid) for frame in group if id(frame) in whole]
        if len(set(counted)) < len(counted):  # attributes do not tell one time from another
            continue
        originals: dict[bytes, Frame] = {}
        for frame in own:
            original = originals.setdefault(header_of(frame.sop_instance_uid), frame)
            if original.sop_instance_uid != frame.sop_instance_uid:
                yield Copy(frame, original)


def _pixel_digest(frame: Frame) -> bytes:
    pixels = np.ascontiguousarray(read_frame(frame))
    return hashlib.sha256(f"{pixels.shape} {pixels.dtype}".encode() + pixels.tobytes()).digest()
