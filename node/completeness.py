"""Decide whether a quiet series is complete, from the counts in its headers, its reception and its geometry. Pure.

The count that the sender gives by C-FIND decides. Counts in headers are hints, because senders give them different
meanings: a matching count makes a series complete, a count that is not reached is reported, and no conversion waits for
it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

State = Literal["complete", "incomplete"]
Rule = Literal["c-find", "geometry", "headers", "forced", "association", "instance-numbers", "quiet"]
"""The rule that decided: the count of the sender; gaps in space; counts in headers; the end of the longest wait; an
association that was not released; missing Instance Numbers; only that no more instances were received."""

C_FIND = "C-FIND"
SERIES_RELATED_INSTANCES = "Number of Series Related Instances (0020,1209)"
IMAGES_IN_ACQUISITION = "Images in Acquisition (0020,1002)"
IMAGES_OF_ALL_TIMES = "(0020,1002) x Number of Temporal Positions (0020,0105)"
SLICES_OF_ALL_TIMES = "(0054,0081) x Number of Time Slices (0054,0101)"


@dataclass(frozen=True, slots=True)
class InstanceCounts:
    """Attributes of one instance that count instances of its series; None if the data set lacks one."""

    instance_number: int | None = None
    number_of_frames: int | None = None
    acquisition_number: int | None = None
    images_in_acquisition: int | None = None
    number_of_temporal_positions: int | None = None
    number_of_slices: int | None = None
    number_of_time_slices: int | None = None
    number_of_series_related_instances: int | None = None


COUNT_KEYWORDS = (
    "InstanceNumber",
    "NumberOfFrames",
    "AcquisitionNumber",
    "ImagesInAcquisition",
    "NumberOfTemporalPositions",
    "NumberOfSlices",
    "NumberOfTimeSlices",
    "NumberOfSeriesRelatedInstances",
)
"""The attributes of `InstanceCounts`, in the order of its fields."""


@dataclass(frozen=True, slots=True)
class Expectation:
    """The facts about a series that are known before its pixels are read.

    Attributes
    ----------
    received : int
        Number of stored instances.
    announced : tuple of (int, str)
        Counts that headers announce, each with its source, most likely first.
    holes : int
        Number of Instance Numbers missing between the smallest and the largest.
    confirmed : int or None
        Number of instances that the sender has, confirmed by two C-FIND answers.
    aborted : bool
        The association of the last instance did not end by release, and nothing was received after it.
    forced : bool
        Instances are still being received, but the longest wait is over.
    """

    received: int
    announced: tuple[tuple[int, str], ...] = ()
    holes: int = 0
    confirmed: int | None = None
    aborted: bool = False
    forced: bool = False


@dataclass(frozen=True, slots=True)
class Completeness:
    """Whether a series is complete, the rule that decided, and the reason as a sentence.

    `missing` is the number of missing instances, or None if unknown.
    """

    state: State
    rule: Rule
    expected: int | None
    expected_source: str | None
    received: int
    missing: int | None
    reason: str


def expectation(
    instances: Sequence[InstanceCounts], *, confirmed: int | None = None, aborted: bool = False, forced: bool = False
) -> Expectation:
    """Return the known facts about a series from the attributes of its instances."""
    return Expectation(len(instances), tuple(_announced(instances)), _holes(instances), confirmed, aborted, forced)


def _announced(instances: Sequence[InstanceCounts]) -> list[tuple[int, str]]:
    """Return the counts announced in headers with their sources, without implausible ones.

    Notes
    -----
    *Images in Acquisition* (0020,1002) counts one acquisition (PS3.3 C.7.6.1); some senders put the count of the
    series into it, others the count of one temporal position. *Number of Slices* (0054,0081) and *Number of Time
    Slices* (0054,0101): PS3.3 C.8.9.1. (0020,1209) belongs to the query model (PS3.4 C.3.4); some data sets contain
    it after a retrieve. Counts of images are counts of instances only if each instance has one frame.
    """
    announced: list[tuple[int, str]] = []
    related = _greatest(instance.number_of_series_related_instances for instance in instances)
    if related:
        announced.append((related, SERIES_RELATED_INSTANCES))
    if any((instance.number_of_frames or 1) > 1 for instance in instances):
        return announced
    slices = _greatest(instance.number_of_slices for instance in instances)
    time_slices = _greatest(instance.number_of_time_slices for instance in instances)
    if slices and time_slices:
        announced.append((slices * time_slices, SLICES_OF_ALL_TIMES))
    acquisitions: dict[int | None, int] = {}
    for instance in instances:
        if instance.images_in_acquisition:
            known = acquisitions.get(instance.acquisition_number, 0)
            acquisitions[instance.acquisition_number] = max(known, instance.images_in_acquisition)
    if acquisitions:
        largest, total = max(acquisitions.values()), sum(acquisitions.values())
        announced.append((largest, IMAGES_IN_ACQUISITION))
        if total != largest:
            announced.append((total, IMAGES_IN_ACQUISITION))
        times = _greatest(instance.number_of_temporal_positions for instance in instances)
        if times > 1:
            announced.append((largest * times, IMAGES_OF_ALL_TIMES))
    return announced


def _greatest(values: Iterable[int | None]) -> int:
    return max((value for value in values if value), default=0)


def _holes(instances: Sequence[InstanceCounts]) -> int:
    """Count the missing Instance Numbers; 0 if more are missing than present, since they are then no sequence."""
    numbers = {instance.instance_number for instance in instances if instance.instance_number is not None}
    if len(numbers) < len(instances) or len(numbers) < 2:
        return 0
    holes = max(numbers) - min(numbers) + 1 - len(numbers)
    return holes if holes < len(numbers) else 0


def completeness_of(
    known: Expectation, gaps: Sequence[str] = (), *, placed: bool = False, times: int = 0
) -> Completeness:
    """Return whether a series is complete.

    Parameters
    ----------
    known : Expectation
    gaps : sequence of str
        Gaps in the geometry by name, such as ``missing-slice``.
    placed : bool
        The planes have positions in the patient, so a gap would have been found.
    times : int
        Largest number of planes at one position; 0 if unknown.
    """
    count = _count(known, times)
    expected, source = count if count else (None, None)
    whole: bool
    rule: Rule
    if known.confirmed is not None:
        whole, rule = known.received >= known.confirmed, "c-find"
        reason = f"{known.received} of {known.confirmed} instances that the sender has (C-FIND)"
    elif gaps:
        whole, rule = False, "geometry"
        reason = f"{', '.join(gaps)} in {known.received} instances{_and_count(count)}"
    elif expected is not None:
        whole, rule = known.received >= expected, "headers"
        reason = f"{known.received} of {expected} instances that {source} announces"
    else:
        whole, rule, reason = _without_count(known, placed)
    missing = max(0, expected - known.received) if expected is not None else (0 if whole else None)
    if not whole and not missing:
        missing = known.holes or None
    state: State = "complete" if whole else "incomplete"
    return Completeness(state, rule, expected, source, known.received, missing, reason)


def _count(known: Expectation, times: int) -> tuple[int, str] | None:
    """Return the count to compare with: the sender's, else a matching one, else the smallest that is not reached."""
    if known.confirmed is not None:
        return known.confirmed, C_FIND
    announced = known.announced
    if times == 1 and any(source == IMAGES_OF_ALL_TIMES for _, source in announced):
        # (0020,1002) counts one temporal position of several here.
        announced = tuple(count for count in announced if count[1] != IMAGES_IN_ACQUISITION)
    if not announced:
        return None
    fitting = [count for count in announced if count[0] == known.received]
    above = sorted(count for count in announced if count[0] > known.received)
    return (*fitting, *above, max(announced))[0]


def _and_count(count: tuple[int, str] | None) -> str:
    return "" if count is None else f"; {count[1]} announces {count[0]}"


def _without_count(known: Expectation, placed: bool) -> tuple[bool, Rule, str]:
    received = f"{known.received} instance{'' if known.received == 1 else 's'}"
    if known.forced:
        return False, "forced", f"instances are still received; {received} received when the longest wait was over"
    if known.aborted:
        return (
            False,
            "association",
            f"the sender did not release its association after {received}; nothing was received since",
        )
    if known.holes and not placed:
        return False, "instance-numbers", f"{known.holes} Instance Numbers are missing among {received}"
    if placed:
        return True, "geometry", f"{received} without a gap; the sender did not announce a count"
    return True, "quiet", f"{received} received; the sender did not announce a count"
