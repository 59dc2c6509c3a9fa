"""Find the series that are one acquisition: some scanners give each volume, or each slice, a UID of a series.

Siemens' XA systems do so with volumes, as classic or as enhanced images, Canon's with slices. Nothing is joined because
it looks alike: headers must prove that nothing else can be the case, and the proof stands in the sidecar. Each frame of
an enhanced image has a header like that of a classic image.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from statistics import median
from typing import Generic, NamedTuple, TypeVar

from pydicom.uid import EnhancedMRImageStorage, MRImageStorage

from node.dicom.values import as_numbers, parsed, standard_tag
from node.volume.elements import instant

SAME = (
    *("SOPClassUID", "StudyInstanceUID", "PatientID", "FrameOfReferenceUID", "ProtocolName", "SeriesDescription"),
    *("Manufacturer", "ManufacturerModelName", "DeviceSerialNumber", "SoftwareVersions", "ImageType"),
    *("ScanningSequence", "SequenceVariant", "SequenceName", "MRAcquisitionType", "EchoTime", "EchoNumbers"),
    *("RepetitionTime", "InversionTime", "FlipAngle", "Rows", "Columns", "PixelSpacing", "SliceThickness"),
    *("ImageOrientationPatient", "ReceiveCoilName", "BitsStored", "PixelRepresentation"),
)
"""Attributes that all instances of one acquisition have in common."""

SAME_IN_GROUPS = (
    *("FrameType", "PulseSequenceName", "EchoPulseSequence", "EffectiveEchoTime", "InversionTimes"),
    *("ComplexImageComponent", "AcquisitionContrast", "DimensionIndexPointer", "StackID", "NumberOfFrames"),
)
"""The same, of enhanced images alone; both are looked for in the functional groups, too."""

OWN = (
    *("SOPInstanceUID", "SeriesNumber", "InstanceNumber", "AcquisitionNumber", "ImagePositionPatient"),
    *("AcquisitionDateTime", "AcquisitionDate", "AcquisitionTime", "TimezoneOffsetFromUTC"),
)
"""Attributes that distinguish its series and instances."""

OWN_IN_GROUPS = ("FrameAcquisitionDateTime", "FrameAcquisitionNumber")
"""The same, of the frames of enhanced images."""

POSITION_TOLERANCE_MM = 0.05

STEP_SHARE = 0.5
"""Largest deviation of a step from the usual one, as a share of it, if no volume was lost between the two."""

LONE_STEP_SHARE = 0.1
"""The same, of the only step between two volumes, from Repetition Time (0018,0080)."""

Position = tuple[float, float, float]
Key = TypeVar("Key", bound=Hashable)


class FrameHeader(NamedTuple):
    """The header of one frame; None where it states nothing. `start` in s, on one clock for all."""

    instance: bytes
    same: tuple[bytes, ...]
    series_number: int | None
    instance_number: int | None
    acquisition_number: int | None
    position: Position | None
    start: float | None
    repetition_s: float | None


@dataclass(frozen=True, slots=True)
class Acquisition(Generic[Key]):
    """Series that are one acquisition, the first of them first, and the proof in a sentence without patient data."""

    series: tuple[Key, ...]
    proof: str


TAGS = {keyword: standard_tag(keyword) for keyword in (*SAME, *OWN)}
TAGS_IN_GROUPS = TAGS | {keyword: standard_tag(keyword) for keyword in (*SAME_IN_GROUPS, *OWN_IN_GROUPS)}


def header_of(elements: Mapping[int, bytes]) -> FrameHeader | None:
    """Return the header of an instance from the values of `TAGS`; None if it is not a classic MR image in a place."""
    raw = {keyword: elements.get(tag, b"").strip(b" \0") for keyword, tag in TAGS.items()}
    if not _is_placed(raw, MRImageStorage):
        return None
    return _header(raw, tuple(raw[keyword] for keyword in SAME))


def headers_of_frames(elements: Mapping[int, Sequence[bytes]]) -> list[FrameHeader] | None:
    """Return a header for each frame of an instance; None if it is not an enhanced MR image whose frames have a place.

    `elements`: all values of `TAGS_IN_GROUPS`, at the top and in all sequences. An attribute with several values says
    nothing, but for those that each frame has.
    """
    every = {keyword: elements.get(tag, ()) for keyword, tag in TAGS_IN_GROUPS.items()}
    raw = {keyword: values[0].strip(b" \0") if len(set(values)) == 1 else b"" for keyword, values in every.items()}
    positions = every["ImagePositionPatient"]
    if not _is_placed(raw, EnhancedMRImageStorage) or _whole(raw["NumberOfFrames"]) != len(positions):
        return None
    same = tuple(b"|".join(sorted(set(every[keyword]))) for keyword in (*SAME, *SAME_IN_GROUPS))
    own = {"ImagePositionPatient": positions}
    if times := every["FrameAcquisitionDateTime"]:
        own["AcquisitionDateTime"] = times
    if numbers := every["FrameAcquisitionNumber"]:
        own["AcquisitionNumber"] = [b"%d" % int.from_bytes(value, "little") for value in numbers]  # US
    if len(set(map(len, own.values()))) > 1:
        return None
    return [_header(raw | dict(zip(own, values, strict=True)), same) for values in zip(*own.values(), strict=True)]


def _is_placed(raw: Mapping[str, bytes], sop_class_uid: str) -> bool:
    return bool(raw["SOPClassUID"] == sop_class_uid.encode() and raw["FrameOfReferenceUID"] and raw["ProtocolName"])


def _header(raw: Mapping[str, bytes], same: tuple[bytes, ...]) -> FrameHeader:
    position, repetition_ms = (_numbers(raw["ImagePositionPatient"], 3), _numbers(raw["RepetitionTime"], 1))
    return FrameHeader(
        raw["SOPInstanceUID"],
        same,
        _whole(raw["SeriesNumber"]),
        _whole(raw["InstanceNumber"]),
        _whole(raw["AcquisitionNumber"]),
        None if position is None else (position[0], position[1], position[2]),
        _start(raw),
        None if repetition_ms is None else repetition_ms[0] / 1000,
    )


def _numbers(value: bytes, count: int) -> tuple[float, ...] | None:
    return as_numbers(parsed(value, "DS"), count)


def _whole(value: bytes) -> int | None:
    number = _numbers(value, 1)
    return int(number[0]) if number is not None and number[0].is_integer() else None


def _start(raw: Mapping[str, bytes]) -> float | None:
    """Return when an instance was acquired, in s, by UTC if that is known; without a date, midnight is not noticed."""
    names = ("AcquisitionDateTime", "AcquisitionDate", "AcquisitionTime", "TimezoneOffsetFromUTC")
    acquired = instant(*(raw[name].decode("ascii", "replace").strip(" \0") for name in names))
    return acquired and acquired.utc_s


def find_acquisitions(series: Mapping[Key, Sequence[FrameHeader | None]]) -> list[Acquisition[Key]]:
    """Return the acquisitions that have several of these series.

    `series`: the headers of all instances of each series, by whatever identifies it.
    """
    alike: dict[tuple[bytes, ...], list[Key]] = defaultdict(list)
    for key, headers in series.items():
        known = {header.same if header is not None else None for header in headers}
        if len(known) == 1 and (same := known.pop()) is not None:
            alike[same].append(key)
    found = []
    for keys in alike.values():
        for run in _runs(keys, series):
            ordered = sorted(run, key=lambda key: _order(series[key]))
            proof = _proof([[header for header in series[key] if header is not None] for key in ordered])
            if proof is not None:
                found.append(Acquisition(tuple(ordered), proof))
    return found


def _order(headers: Iterable[FrameHeader | None]) -> tuple[float, ...]:
    """Return the sort key of a series: its number, then the first number and the first time of its instances."""
    return min(
        tuple(math.inf if value is None else value for value in (own.series_number, own.instance_number, own.start))
        for own in headers
        if own is not None
    )


def _runs(keys: Sequence[Key], series: Mapping[Key, Sequence[FrameHeader | None]]) -> list[list[Key]]:
    """Split series that have the same headers by their numbers: one for all, or one after the other."""
    by_number: dict[int, list[Key]] = defaultdict(list)
    for key in keys:
        numbers = {header.series_number for header in series[key] if header is not None}
        if len(numbers) == 1 and (number := numbers.pop()) is not None:
            by_number[number].append(key)
    runs: list[list[Key]] = []
    last: int | None = None
    for number, own in sorted(by_number.items()):
        if len(own) > 1:
            runs.append(own)
            last = None
        elif last is not None and number == last + 1:
            runs[-1] += own
            last = number
        else:
            runs.append(own)
            last = number
    return [run for run in runs if len(run) > 1]


def _proof(parts: Sequence[Sequence[FrameHeader]]) -> str | None:
    """Return why these series are one acquisition; None if the headers do not prove it."""
    every = list(chain.from_iterable(parts))
    if any(header.position is None for header in every):
        return None
    numbers, acquisitions = _count(every), _own_acquisitions(parts)
    one_number = len({header.series_number for header in every}) == 1
    place = _as_volumes(parts) or _as_slices(parts)
    if place is None or not (numbers or acquisitions):
        return None
    clock = _steps(parts) if place == _VOLUMES else ""
    if clock is None or (place == _VOLUMES and not clock and not (one_number and numbers)):
        return None
    numbered = (
        "Series Number (0020,0011) is the same in all" if one_number else "their Series Numbers follow each other"
    )
    facts = (
        "Frame of Reference UID, protocol, sequence and matrix are the same in all",
        numbered,
        place,
        *filter(None, (numbers, acquisitions, clock)),
    )
    return f"{len(parts)} series are one acquisition and were joined: {'; '.join(facts)}"


_VOLUMES = "each has all slices, in the same places"
_SLICES = "each has one slice at all times, and these make an even stack"


def _count(every: Sequence[FrameHeader]) -> str:
    """Return in words that one count numbers all instances; empty if none does. Frames share that of their instance."""
    of_instances = {header.instance: header.instance_number for header in every}
    numbers = [number for number in of_instances.values() if number is not None]
    if len(set(numbers)) < len(of_instances) or max(numbers) - min(numbers) + 1 != len(numbers):
        return ""
    return f"Instance Numbers (0020,0013) count {min(numbers)}-{max(numbers)} through them"


def _own_acquisitions(parts: Sequence[Sequence[FrameHeader]]) -> str:
    """Return in words that no two series share an Acquisition Number, and that these follow each other; else empty."""
    own = [{header.acquisition_number for header in headers} for headers in parts]
    numbers = sorted(number for numbers in own for number in numbers if number is not None)
    if None in set().union(*own) or len(set(numbers)) < len(numbers) or numbers[-1] - numbers[0] + 1 != len(numbers):
        return ""
    return f"Acquisition Numbers (0020,0012) {numbers[0]}-{numbers[-1]} are each in one of them only"


def _places(headers: Iterable[FrameHeader]) -> Counter[Position]:
    return Counter(header.position for header in headers if header.position is not None)


def _along(positions: Iterable[Position]) -> list[Position]:
    """Return positions in their order along the axis on which they extend farthest: the others may jitter."""
    known = list(positions)
    extents = [max(own) - min(own) for own in zip(*known, strict=True)]
    axis = extents.index(max(extents))
    return sorted(known, key=lambda position: position[axis])


def _as_volumes(parts: Sequence[Sequence[FrameHeader]]) -> str | None:
    """Return `_VOLUMES` if each series has whole volumes at the same positions."""
    first = _along(_places(parts[0]))
    for headers in parts:
        places = _places(headers)
        own = _along(places)
        if len(set(places.values())) != 1 or len(own) != len(first) or len(own) < 2:
            return None
        if any(math.dist(one, other) > POSITION_TOLERANCE_MM for one, other in zip(first, own, strict=True)):
            return None
    return _VOLUMES


def _as_slices(parts: Sequence[Sequence[FrameHeader]]) -> str | None:
    """Return `_SLICES` if each series has one position, as often as the others, and the positions make an even line."""
    places = [_places(headers) for headers in parts]
    if len(parts) < 3 or any(len(own) != 1 for own in places) or len({own.total() for own in places}) != 1:
        return None
    positions = _along(next(iter(own)) for own in places)
    steps = [tuple(b - a for a, b in zip(one, other, strict=True)) for one, other in pairwise(positions)]
    is_even = all(math.dist(step, steps[0]) <= POSITION_TOLERANCE_MM for step in steps)
    return _SLICES if is_even and math.hypot(*steps[0]) > POSITION_TOLERANCE_MM else None


def _steps(parts: Sequence[Sequence[FrameHeader]]) -> str | None:
    """Return in words that volumes follow each other; empty if they have no times, None if they do not follow."""
    starts: list[float] = []
    longest = 0.0
    for headers in parts:
        at: dict[Position, list[float]] = defaultdict(list)
        for header in headers:
            if header.start is None:
                return ""
            if header.position is not None:
                at[header.position].append(header.start)
        volumes = list(zip(*(sorted(own) for own in at.values()), strict=True))
        starts += map(min, volumes)
        longest = max(longest, *(max(own) - min(own) for own in volumes))
    steps = [later - earlier for earlier, later in pairwise(sorted(starts))]
    usual = median(steps)
    if longest >= usual:
        return None
    allowed = STEP_SHARE
    if len(steps) == 1:
        repetition_s = parts[0][0].repetition_s
        if not repetition_s:
            return None
        usual, allowed = repetition_s, LONE_STEP_SHARE
    off = max(abs(step - usual) for step in steps)
    return f"volumes begin {usual:.4g} s after each other, at most {off:.2g} s off" if off <= allowed * usual else None
