"""Is a quiet series whole? Pure: what its instances announce, how they came and what their geometry shows -> a verdict.

An answer of the sender to C-FIND counts as knowledge. What headers announce are hints: senders fill them in with
different meanings, so that agreement speaks for a series and disagreement is told, but nothing waits for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

State = Literal["complete", "incomplete"]
Rule = Literal["c-find", "geometry", "headers", "forced", "association", "instance-numbers", "quiet"]
"""What decided: the count that the sender told; gaps in space; counts in headers; a wait that was cut short; an
association that was not released; holes in Instance Number; nothing but that no more came."""

C_FIND = "C-FIND"
SERIES_RELATED_INSTANCES = "Number of Series Related Instances (0020,1209)"
IMAGES_IN_ACQUISITION = "Images in Acquisition (0020,1002)"
IMAGES_OF_ALL_TIMES = "(0020,1002) x Number of Temporal Positions (0020,0105)"
SLICES_OF_ALL_TIMES = "(0054,0081) x Number of Time Slices (0054,0101)"


@dataclass(frozen=True, slots=True)
class InstanceCounts:
    """Numbers of one instance that say something of its series; None where the data set does not tell."""

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
"""Where a data set holds them, in the order of the fields."""


@dataclass(frozen=True, slots=True)
class Expectation:
    """What is known of a series before its pixels are looked at.

    Attributes
    ----------
    received : int
        Instances.
    announced : tuple of (int, str)
        Counts that headers announce, each with where it says so; the likeliest first.
    holes : int
        Instance Numbers that are missing between the least and the greatest.
    confirmed : int or None
        Instances that the sender has, as it answered to C-FIND twice.
    aborted : bool
        The association that brought the last of them did not end by release, and nothing came after it.
    forced : bool
        Instances still come; the longest wait is over.
    """

    received: int
    announced: tuple[tuple[int, str], ...] = ()
    holes: int = 0
    confirmed: int | None = None
    aborted: bool = False
    forced: bool = False


@dataclass(frozen=True, slots=True)
class Completeness:
    """Whether a series is whole, which rule says so, and in `reason` a sentence for a person.

    `missing` is None where no count is known, or nobody can tell.
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
    """Return what the numbers of the instances of a series say together."""
    return Expectation(len(instances), tuple(_announced(instances)), _holes(instances), confirmed, aborted, forced)


def _announced(instances: Sequence[InstanceCounts]) -> list[tuple[int, str]]:
    """Counts with their sources, without those that cannot be meant.

    Notes
    -----
    *Images in Acquisition* (0020,1002) counts one acquisition (PS3.3 C.7.6.1); some senders put the count of the
    series into it, others that of one time. *Number of Slices* (0054,0081) and *Number of Time Slices* (0054,0101):
    PS3.3 C.8.9.1.  (0020,1209) is of the query model (PS3.4 C.3.4) and stands in data sets that came by way of it.
    Images are instances only where each has one frame.
    """
    told: list[tuple[int, str]] = []
    related = _greatest(one.number_of_series_related_instances for one in instances)
    if related:
        told.append((related, SERIES_RELATED_INSTANCES))
    if any((one.number_of_frames or 1) > 1 for one in instances):
        return told
    slices = _greatest(one.number_of_slices for one in instances)
    time_slices = _greatest(one.number_of_time_slices for one in instances)
    if slices and time_slices:
        told.append((slices * time_slices, SLICES_OF_ALL_TIMES))
    acquisitions: dict[int | None, int] = {}
    for one in instances:
        if one.images_in_acquisition:
            known = acquisitions.get(one.acquisition_number, 0)
            acquisitions[one.acquisition_number] = max(known, one.images_in_acquisition)
    if acquisitions:
        one_acquisition, all_of_them = max(acquisitions.values()), sum(acquisitions.values())
        told.append((one_acquisition, IMAGES_IN_ACQUISITION))
        if all_of_them != one_acquisition:
            told.append((all_of_them, IMAGES_IN_ACQUISITION))
        times = _greatest(one.number_of_temporal_positions for one in instances)
        if times > 1:
            told.append((one_acquisition * times, IMAGES_OF_ALL_TIMES))
    return told


def _greatest(values: Iterable[int | None]) -> int:
    return max((value for value in values if value), default=0)


def _holes(instances: Sequence[InstanceCounts]) -> int:
    """Numbers that no instance has; 0 where more are missing than there are: they are not counted one by one then."""
    numbers = {one.instance_number for one in instances if one.instance_number is not None}
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
        Names of what its geometry lacks, such as ``missing-slice``.
    placed : bool
        Its planes have places in the patient, so that a gap would have been seen.
    times : int
        Most planes that one place has; 0 when nobody looked.
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
    """The count to compare with: what the sender told, else the one that fits, else the least that is not reached."""
    if known.confirmed is not None:
        return known.confirmed, C_FIND
    announced = known.announced
    if times == 1 and any(source == IMAGES_OF_ALL_TIMES for _, source in announced):
        announced = tuple(one for one in announced if one[1] != IMAGES_IN_ACQUISITION)  # that is one time of several
    if not announced:
        return None
    fitting = [one for one in announced if one[0] == known.received]
    above = sorted(one for one in announced if one[0] > known.received)
    return (*fitting, *above, max(announced))[0]


def _and_count(count: tuple[int, str] | None) -> str:
    return "" if count is None else f"; {count[1]} announces {count[0]}"


def _without_count(known: Expectation, placed: bool) -> tuple[bool, Rule, str]:
    received = f"{known.received} instance{'' if known.received == 1 else 's'}"
    if known.forced:
        return False, "forced", f"instances keep coming; {received} received when the longest wait was over"
    if known.aborted:
        return (
            False,
            "association",
            f"the sender did not release its association after {received}; nothing came since",
        )
    if known.holes and not placed:
        return False, "instance-numbers", f"{known.holes} Instance Numbers are missing among {received}"
    if placed:
        return True, "geometry", f"{received} without a gap; the sender did not announce a count"
    return True, "quiet", f"{received} received; the sender did not announce a count"
