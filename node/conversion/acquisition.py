"""Find the series that are one acquisition: some scanners give each volume, or each slice, a UID of a series.

Siemens' XA systems do so with volumes when they export classic images, Canon's with slices. Nothing is joined because
it looks alike: headers must prove that nothing else can be the case, and the proof stands in the sidecar.
"""

from __future__ import annotations

import datetime as dt
import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from statistics import median
from typing import Generic, NamedTuple, TypeVar

from pydicom.datadict import tag_for_keyword
from pydicom.uid import MRImageStorage

SAME = (
    *("SOPClassUID", "StudyInstanceUID", "PatientID", "FrameOfReferenceUID", "ProtocolName", "SeriesDescription"),
    *("Manufacturer", "ManufacturerModelName", "DeviceSerialNumber", "SoftwareVersions", "ImageType"),
    *("ScanningSequence", "SequenceVariant", "SequenceName", "MRAcquisitionType", "EchoTime", "EchoNumbers"),
    *("RepetitionTime", "InversionTime", "FlipAngle", "Rows", "Columns", "PixelSpacing", "SliceThickness"),
    *("ImageOrientationPatient", "ReceiveCoilName", "BitsStored", "PixelRepresentation"),
)
"""Attributes that all instances of one acquisition have in common."""

OWN = (
    *("SeriesNumber", "InstanceNumber", "AcquisitionNumber", "ImagePositionPatient"),
    *("AcquisitionDateTime", "AcquisitionDate", "AcquisitionTime"),
)
"""Attributes that tell its series and instances apart."""

POSITION_TOLERANCE_MM = 0.05

STEP_SHARE = 0.5
"""Largest deviation of a step between two volumes from the usual one, as a share of it: none was lost between them."""

LONE_STEP_SHARE = 0.1
"""The same, of the only step between two volumes, from Repetition Time (0018,0080)."""

Position = tuple[float, float, float]
Key = TypeVar("Key", bound=Hashable)


class Header(NamedTuple):
    """What one instance says; None where it says nothing. `start` in s, on one clock for all."""

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


def _tag(keyword: str) -> int:
    tag = tag_for_keyword(keyword)
    assert tag is not None, keyword
    return int(tag)


TAGS = {keyword: _tag(keyword) for keyword in (*SAME, *OWN)}


def header_of(elements: Mapping[int, bytes]) -> Header | None:
    """Return the header of an instance from the values of `TAGS`; None if it is not a classic MR image in a place."""
    raw = {keyword: elements.get(tag, b"").strip(b" \0") for keyword, tag in TAGS.items()}
    if raw["SOPClassUID"] != MRImageStorage.encode() or not raw["FrameOfReferenceUID"] or not raw["ProtocolName"]:
        return None
    repetition_ms = _numbers(raw["RepetitionTime"])
    position = _numbers(raw["ImagePositionPatient"])
    return Header(
        tuple(raw[keyword] for keyword in SAME),
        _whole(raw["SeriesNumber"]),
        _whole(raw["InstanceNumber"]),
        _whole(raw["AcquisitionNumber"]),
        (position[0], position[1], position[2]) if len(position) == 3 else None,
        _start(raw),
        repetition_ms[0] / 1000 if len(repetition_ms) == 1 else None,
    )


def _numbers(value: bytes) -> tuple[float, ...]:
    try:
        found = tuple(map(float, value.split(b"\\"))) if value else ()
    except ValueError:
        return ()
    return found if all(map(math.isfinite, found)) else ()


def _whole(value: bytes) -> int | None:
    try:
        return int(value)
    except ValueError:
        return None


def _start(raw: Mapping[str, bytes]) -> float | None:
    """Return when an instance was acquired, in s; without a date, midnight is not noticed."""
    digits = raw["AcquisitionDateTime"] or (raw["AcquisitionDate"] or b"20000101") + raw["AcquisitionTime"]
    text = digits.decode("ascii", "replace").partition("+")[0].partition("-")[0]
    for pattern in ("%Y%m%d%H%M%S.%f", "%Y%m%d%H%M%S"):
        try:
            return dt.datetime.strptime(text, pattern).replace(tzinfo=dt.UTC).timestamp()
        except ValueError:
            continue
    return None


def find_acquisitions(series: Mapping[Key, Sequence[Header | None]]) -> list[Acquisition[Key]]:
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


def _order(headers: Iterable[Header | None]) -> tuple[float, ...]:
    """Return by what series are ordered: their numbers, then the first number and the first time of their instances."""
    return min(
        tuple(math.inf if value is None else value for value in (own.series_number, own.instance_number, own.start))
        for own in headers
        if own is not None
    )


def _runs(keys: Sequence[Key], series: Mapping[Key, Sequence[Header | None]]) -> list[list[Key]]:
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


def _proof(parts: Sequence[Sequence[Header]]) -> str | None:
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


def _count(every: Sequence[Header]) -> str:
    """Return in words that one count numbers all instances; empty if none does."""
    numbers = [header.instance_number for header in every if header.instance_number is not None]
    if len(set(numbers)) < len(every) or max(numbers) - min(numbers) + 1 != len(numbers):
        return ""
    return f"Instance Numbers (0020,0013) count {min(numbers)}-{max(numbers)} through them"


def _own_acquisitions(parts: Sequence[Sequence[Header]]) -> str:
    """Return in words that no two series share an Acquisition Number, and that these follow each other; else empty."""
    own = [{header.acquisition_number for header in headers} for headers in parts]
    numbers = sorted(number for numbers in own for number in numbers if number is not None)
    if None in set().union(*own) or len(set(numbers)) < len(numbers) or numbers[-1] - numbers[0] + 1 != len(numbers):
        return ""
    return f"Acquisition Numbers (0020,0012) {numbers[0]}-{numbers[-1]} are each in one of them only"


def _places(headers: Iterable[Header]) -> Counter[Position]:
    return Counter(header.position for header in headers if header.position is not None)


def _along(positions: Iterable[Position]) -> list[Position]:
    """Return positions in their order along the axis on which they extend farthest: the others may jitter."""
    known = list(positions)
    extents = [max(own) - min(own) for own in zip(*known, strict=True)]
    axis = extents.index(max(extents))
    return sorted(known, key=lambda position: position[axis])


def _as_volumes(parts: Sequence[Sequence[Header]]) -> str | None:
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


def _as_slices(parts: Sequence[Sequence[Header]]) -> str | None:
    """Return `_SLICES` if each series has one position, as often as the others, and the positions make an even line."""
    places = [_places(headers) for headers in parts]
    if len(parts) < 3 or any(len(own) != 1 for own in places) or len({own.total() for own in places}) != 1:
        return None
    positions = _along(next(iter(own)) for own in places)
    steps = [tuple(b - a for a, b in zip(one, other, strict=True)) for one, other in pairwise(positions)]
    is_even = all(math.dist(step, steps[0]) <= POSITION_TOLERANCE_MM for step in steps)
    return _SLICES if is_even and math.hypot(*steps[0]) > POSITION_TOLERANCE_MM else None


def _steps(parts: Sequence[Sequence[Header]]) -> str | None:
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
