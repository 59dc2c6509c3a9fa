"""Evidence in the instances and volumes of a series that something of it was not received.

The geometry of what is left often looks whole: of an even stack without every second slice, of a time series without
one time. Instance Numbers, stated distances and announced counts then tell. Each finding is one fact, with what it says
is missing; `node.completeness` weighs them.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

import numpy as np
from pydicom import Dataset

from node.completeness import (
    IMAGES_IN_ACQUISITION,
    IMAGES_OF_ALL_TIMES,
    SLICES,
    SLICES_OF_ALL_TIMES,
    Evidence,
    InstanceCounts,
)
from node.dicom import values
from node.dicom.per_series import once_per_series
from node.volume.arrange.timing import is_of_labelling
from node.volume.geometry import NOISE_SHARE, POSITION_TOLERANCE_MM, ROUNDING, is_even, missing_slices
from node.volume.model import Assembly, Float, Geometry, Kind, Volume
from node.volume.reasons import Reason, WarningKind
from node.volume.series import WITHOUT_EXCITATION, find_shortages, has_all_times

CONTIGUOUS = 1.5
"""Slices (or times) that lie no farther apart than this many stated distances are neighbours."""

FAR_SHARE = 6
"""Instance Numbers that are far from the others count nothing if all instances are at least this many times as many."""

DISTANCE_TOLERANCE = 0.03
"""Relative deviation of a distance between slices from a multiple of Spacing Between Slices (0018,0088)."""

TEMPORAL_POSITIONS = "Number of Temporal Positions (0020,0105)"

CROWDED = 0.2
"""Planes that lie closer than this share of their thickness may be of several times; overlapping slices rarely do. Nor
is a whole stack of several that thin."""

MIN_CROWDED = 1 / 3
"""Least share of the distances of a stack of which that is true: two times make more than half."""

IMPLAUSIBLE = 0.05
"""No slices are planned closer than this share of their thickness, not even those of slabs."""

MOVED_SHARE = 0.5
"""Equal volumes closer than this share of the distance between slices were not planned apart."""

MAX_SHOWN = 20

GAPS: dict[str, str] = {
    WarningKind.MISSING_SLICE: "slices between others",
    WarningKind.INCOMPLETE_VOLUME: "parts of a volume",
    WarningKind.MISSING_TIME: "times",
    Reason.INCOMPLETE: "parts of a volume",
}
"""Warnings and refusals that show a gap, and what is missing then."""


@dataclass(frozen=True, slots=True)
class InstanceHeader:
    """Attributes of one instance that say what should lie beside it; None if the data set lacks one."""

    position: tuple[float, ...] | None
    is_derived: bool
    counts: InstanceCounts


def header_of(ds: Dataset, counts: InstanceCounts) -> InstanceHeader:
    """Return the header of an instance with these counts."""
    return InstanceHeader(values.numbers(ds, "ImagePositionPatient", 3), _is_derived(ds), counts)


@once_per_series("ImageType")
def _is_derived(ds: Dataset) -> bool:
    return (values.text(ds, "ImageType") or "").upper().startswith("DERIVED")


def find_evidence(headers: Mapping[str, InstanceHeader], assembly: Assembly) -> list[Evidence]:
    """Return the facts that speak against completeness, the strongest first.

    `headers`: all readable instances of the series. `assembly`: its volumes.
    """
    grids = [_Grid(volume, headers) for volume in assembly.volumes if volume.kind is Kind.VOLUME and volume.sources]
    refused = any(refusal.reason in (Reason.INCOMPLETE, Reason.SAME_POSITION_TWICE) for refusal in assembly.refusals)
    in_numbers = list(_holes(headers, grids, refused=refused))
    return [
        *_gaps(assembly, grids, headers, numbered=bool(in_numbers)),
        *in_numbers,
        *_unequal_stacks(assembly.volumes),
        *_announced_times(grids),
        *_declared_grid(headers, grids),
        *_counts_that_do_not_fit(headers, grids),
        *_declared_directions(grids),
        *_crossed_echoes(grids),
        *_missing_echoes(grids),
        *_wide_spacing(grids),
        *_crowded(grids),
        *_moved_parts(grids),
    ]


class _Grid:
    """The instances of one volume by time and slice."""

    def __init__(self, volume: Volume, headers: Mapping[str, InstanceHeader]) -> None:
        self.volume = volume
        self.headers = headers
        slices = volume.shape[2]
        self.uids = [[""] * slices for _ in range(volume.times)]
        for source in volume.sources:
            self.uids[source.time_index][source.slice_index] = source.sop_instance_uid
        self.placed = volume.geometry is not Geometry.NONE
        self.times = [list(dict.fromkeys(time)) for time in self.uids]
        self.of_time = len(self.times[0])
        self.places: dict[str, tuple[int, int]] = {}
        for time, uids in enumerate(self.times):
            for index, uid in enumerate(uids):
                self.places.setdefault(uid, (time, index))
        self.is_one_instance = len(self.places) == 1

    def holds_all(self, uids: Collection[str]) -> bool:
        """Return whether instances, fewer than a time has, are in a stack without a gap."""
        is_even = self.volume.geometry in (Geometry.REGULAR, Geometry.SHEARED)
        return is_even and len(uids) < self.of_time and self.places.keys() >= set(uids)

    @property
    def step_mm(self) -> float:
        return self.volume.spacing_mm[2]

    @property
    def step_along_normal_mm(self) -> float:
        """The distance between slices, which is less than the step between them if that is oblique."""
        if self.volume.affine_lps is None:
            return self.step_mm
        row, column, step = self.volume.affine_lps[:3, :3].T
        normal = np.cross(row, column)
        return float(abs(step @ normal) / np.linalg.norm(normal))

    def stated_mm(self, name: str) -> float:
        """Return a distance that the first instance, or a functional group of its first frame, states; 0 if none."""
        return abs(float(self.volume.attributes.get(name) or 0.0))

    @property
    def interleaves_instances(self) -> bool:
        """Whether slices of an instance with several lie between those of another one."""
        return sum(1 for _ in groupby(self.uids[0])) > len(self.times[0])

    @property
    def is_made_of_pairs(self) -> bool:
        """Whether each time is the difference of labelled and unlabelled images."""
        return is_of_labelling(self.volume.attributes) and self.first is not None and self.first.is_derived

    @property
    def first(self) -> InstanceHeader | None:
        return self.headers.get(self.uids[0][0])

    def numbers(self, time: int) -> list[int | None]:
        """Return the Instance Numbers of a time, one for each instance, by slice."""
        return [self.headers[uid].counts.instance_number if uid in self.headers else None for uid in self.times[time]]

    def along(self) -> Float | None:
        """Return the distances in mm of the slices of the first time from the first; None if they are not known."""
        positions = [None if uid not in self.headers else self.headers[uid].position for uid in self.uids[0]]
        if self.volume.affine_lps is None or self.of_time < 2 or None in positions:
            return None
        columns = self.volume.affine_lps[:3, :3]
        normal = np.cross(columns[:, 0], columns[:, 1])
        away = (np.array(positions, float) - np.array(positions[0], float)) @ (normal / np.linalg.norm(normal))
        return np.sort(np.abs(away))

    def spacing_ratio(self) -> float | None:
        """Return the distance between slices over the one that the headers state; None if they state none.

        Some senders write the gap between slices into Spacing Between Slices (0018,0088): then it is less than their
        thickness, and the reading that fits is taken.
        """
        if self.first is None or len(self.uids[0]) < 2:
            return None
        spacing, thickness = self.stated_mm("SpacingBetweenSlices"), self.stated_mm("SliceThickness")
        if not spacing:
            return None if not thickness else self.step_mm / thickness
        ratio = self.step_mm / spacing
        if thickness and spacing < thickness * (1 - DISTANCE_TOLERANCE):
            with_gap = self.step_mm / (spacing + thickness)
            return min((ratio, with_gap), key=lambda value: abs(value - 1))
        return ratio

    @property
    def divides_stated_spacing(self) -> bool:
        """Whether two or more slices lie where Spacing Between Slices (0018,0088), no less than a slice, has one."""
        spacing = self.stated_mm("SpacingBetweenSlices")
        ratio = spacing / self.step_along_normal_mm
        is_whole = round(ratio) >= 2 and abs(ratio - round(ratio)) <= DISTANCE_TOLERANCE
        return is_whole and spacing >= self.stated_mm("SliceThickness") * (1 - DISTANCE_TOLERANCE)

    def clock_ratio(self) -> float | None:
        """Return the step between the starts of the times over Repetition Time (0018,0080); None if unknown."""
        starts, repetition_s = self.volume.times_s, self.volume.attributes.get("RepetitionTime")
        if starts is None or len(starts) < 2 or not repetition_s:
            return None
        return float(np.median(np.diff(starts))) / float(repetition_s)


# Gaps in space and time


def _gaps(
    assembly: Assembly, grids: Sequence[_Grid], headers: Mapping[str, InstanceHeader], *, numbered: bool
) -> Iterator[Evidence]:
    """Yield the gaps that the volumes warn of, each kind once."""
    facts: dict[str, dict[str, None]] = defaultdict(dict)
    for volume in assembly.volumes:
        for warning in volume.warnings:
            if warning.name in GAPS:
                facts[warning.name][warning.detail] = None
    for refusal in assembly.refusals:
        if refusal.reason in GAPS:
            facts[refusal.reason][refusal.detail] = None
    only_clock = facts.keys() == {WarningKind.MISSING_TIME} and not numbered and _count_without_hole(headers)
    for name, details in facts.items():
        fact, missing, count = f"{name}: {'; '.join(details)}", GAPS[name], None
        if name == WarningKind.MISSING_SLICE:
            missing, count = _missing_positions(grids)
        if name == WarningKind.MISSING_TIME:
            missing += ": " + "; ".join(detail.partition(": ")[2] for detail in details)
            fact += "; but Instance Numbers have no hole" if only_clock else ""
            yield Evidence("times", fact, missing, count, doubtful=only_clock)
        else:
            yield Evidence("geometry", fact, missing, count)


def _missing_positions(grids: Sequence[_Grid]) -> tuple[str, int | None]:
    """Return where slices are missing between others, in words, and how many instances that makes; None if unknown."""
    words, count = [], 0
    for grid in grids:
        along = grid.along()
        found = None if along is None else missing_slices(along, noise_share=NOISE_SHARE)
        if along is None or found is None:
            continue
        step_mm, missing = found
        count += int(missing.sum()) * len(grid.times)
        places = [
            along[index] + step_mm * (rank + 1) for index in np.flatnonzero(missing) for rank in range(missing[index])
        ]
        shown = ", ".join(f"{place:.4g}" for place in places[:MAX_SHOWN]) + (", ..." if len(places) > MAX_SHOWN else "")
        words.append(f"slices {shown} mm from the first{f' of {grid.volume.suffix}' if grid.volume.suffix else ''}")
    return "; ".join(words) or GAPS[WarningKind.MISSING_SLICE], count or None


def _count_without_hole(headers: Mapping[str, InstanceHeader]) -> bool:
    """Return whether Instance Numbers count the instances one by one."""
    numbers = {header.counts.instance_number for header in headers.values()} - {None}
    known = [number for number in numbers if number is not None]
    return len(known) == len(headers) > 0 and max(known) - min(known) + 1 == len(known)


# Instance Numbers


def _holes(headers: Mapping[str, InstanceHeader], grids: Sequence[_Grid], *, refused: bool) -> Iterator[Evidence]:
    """Yield the Instance Numbers that are missing between others, as one finding."""
    missing: set[range] = set()
    for uids in _numbered_groups(headers, grids):
        places = {number: uid for uid in uids if (number := headers[uid].counts.instance_number) is not None}
        own = [grid for grid in grids if not grid.places.keys().isdisjoint(uids)]
        far = () if refused else _far_numbers(sorted(places))
        if any(len(far) >= grid.of_time for grid in own if len(grid.times) > 1):
            far = ()  # whole times
        without = {places.pop(number) for number in far}
        if far and not any(grid.holds_all(without) for grid in own):
            shown = _ranges([range(far[0], far[-1] + 1)])
            fact = f"Instance Number {shown} is far from the others, {min(places)}-{max(places)}"
            yield Evidence("instance-numbers", fact, "", doubtful=True)
        holes = set(_missing_in(places, own, refused=refused))
        if _size(holes) > len(without):  # else those that a whole stack has under other numbers
            missing |= holes
    if missing:
        ordered = sorted(missing, key=lambda numbers: numbers[0])
        shown = f"Instance Number{'' if _size(ordered) == 1 else 's'} {_ranges(ordered)}"
        verb = "is" if _size(ordered) == 1 else "are"
        yield Evidence("instance-numbers", f"{shown} {verb} missing", shown, _size(ordered))


def _size(missing: Iterable[range]) -> int:
    return sum(map(len, missing))


def _ranges(missing: Sequence[range]) -> str:
    """Return missing numbers in words, such as ``4, 7-9``."""
    shown = [
        str(numbers[0])
        if len(numbers) == 1
        else f"{numbers[0]}-{numbers[-1]}"
        if numbers.step == 1
        else ", ".join(map(str, numbers[:MAX_SHOWN]))
        for numbers in missing
    ]
    return ", ".join(shown[:MAX_SHOWN]) + (", ..." if len(shown) > MAX_SHOWN else "")


def _numbered_groups(headers: Mapping[str, InstanceHeader], grids: Sequence[_Grid]) -> Iterator[list[str]]:
    """Yield the instances that one count numbers: all, else those of each volume, else those of each of its times."""
    if _are_distinct(headers, headers):
        yield list(headers)
        return
    for grid in grids:
        of_volume = [uid for time in grid.times for uid in time if uid in headers]
        if _are_distinct(of_volume, headers):
            yield of_volume
        else:
            yield from (
                time for time in grid.times if all(uid in headers for uid in time) and _are_distinct(time, headers)
            )


def _are_distinct(uids: Iterable[str], headers: Mapping[str, InstanceHeader]) -> bool:
    counts = Counter(headers[uid].counts.instance_number for uid in dict.fromkeys(uids))
    counts.pop(None, None)
    return bool(counts) and max(counts.values()) == 1


def _far_numbers(numbers: Sequence[int]) -> Sequence[int]:
    """Return the few first or last of ascending numbers if more are missing beside them than there are; else none.

    Such numbers, like 99 of a screen shot, count nothing. Where slices were lost, their positions show it.
    """
    gaps = [high - low - 1 for low, high in pairwise(numbers)]
    gap = max(gaps, default=0)
    after = gaps.index(gap) + 1 if gaps else 0
    few, rest = sorted((numbers[:after], numbers[after:]), key=len)
    is_far = gap > len(numbers) and len(few) * FAR_SHARE <= len(numbers) and _missing_count(rest, 1) < len(rest)
    return few if is_far else ()


def _missing_in(places: Mapping[int, str], grids: Sequence[_Grid], *, refused: bool) -> Iterator[range]:
    """Yield the missing numbers of one count, without those that the geometry explains.

    `refused`: a stack was refused for planes that share positions: the numbers may tell why.
    """
    numbers = sorted(places)
    if len(numbers) < 2:
        return
    stride = math.gcd(*(number - numbers[0] for number in numbers[1:]))
    step = 1 if stride == 1 or _skips(numbers, stride, grids) else stride
    gaps = [(low, high) for low, high in pairwise(numbers) if high - low > step]
    count_something_else = _missing_count(numbers, step) >= len(numbers)
    unplaced = not any(grid.placed for grid in grids)
    if not refused and (_is_excerpt(numbers, step) or (count_something_else and unplaced)):
        return
    trusted = [grid for grid in grids if len(grid.times) == 1 or not count_something_else]
    for low, high in gaps:
        if not any(_explains(grid, places[low], places[high], high - low, step) for grid in trusted):
            yield range(low + step, high, step)


def _is_excerpt(numbers: Sequence[int], step: int) -> bool:
    """Return whether more numbers are missing than present, between runs of equal length with equal gaps.

    Such a series is a part that someone chose: some slices of each time. Lost instances leave no such order.
    """
    breaks = [index + 1 for index, (low, high) in enumerate(pairwise(numbers)) if high - low > step]
    bounds = [0, *breaks, len(numbers)]
    lengths = {high - low for low, high in pairwise(bounds)}
    gaps = {numbers[index] - numbers[index - 1] for index in breaks}
    return max(len(lengths), len(gaps)) == 1 and lengths != {1} and _missing_count(numbers, step) > len(numbers)


def _missing_count(numbers: Sequence[int], step: int) -> int:
    return (numbers[-1] - numbers[0]) // step + 1 - len(numbers)


def _skips(numbers: Sequence[int], stride: int, grids: Sequence[_Grid]) -> bool:
    """Return whether numbers with a common difference are what is left of a series that was numbered one by one.

    Distances in space or time decide: neighbours that lie as close as stated lack nothing between them. Without any,
    many numbers that are multiples of their difference count by it. Instances of as many slices as their numbers are
    apart count slices, such as the mosaics of Siemens 3-D ASL. Images of perfusion have the numbers, and the steps, of
    the pairs of labelled and unlabelled ones from which they were made.
    """
    if stride > 2 and all(grid.of_time == 1 and len(grid.uids[0]) == stride for grid in grids):
        return False
    if all(grid.is_made_of_pairs for grid in grids):
        return False
    ratios = []
    for grid in grids:
        ratio = grid.spacing_ratio() if grid.of_time > 1 else None
        if ratio is None and grid.of_time == 1 and len(grid.times) > 1:
            ratio = grid.clock_ratio()
        if ratio is not None and grid.placed:
            ratios.append(ratio)
    if ratios:
        return max(ratios) > CONTIGUOUS
    if not any(grid.placed for grid in grids):
        return False
    return stride == 2 or len(numbers) == 2 or numbers[0] % stride != 0


def _explains(grid: _Grid, low: str, high: str, difference: int, step: int) -> bool:
    """Return whether a volume shows that no number is missing between those of two instances.

    None is if the two are neighbours in space at the usual distance, in a stack whose numbers follow its positions:
    there is no room between them. Nor if they end and begin a time. But as many missing numbers as one or more times
    have may be the end of one time and the beginning of another, wherever they are. Their numbers differ by
    `difference`, and numbers count by `step`.
    """
    if not grid.placed or low not in grid.places or high not in grid.places:
        return False
    (time_low, slice_low), (time_high, slice_high) = grid.places[low], grid.places[high]
    if grid.volume.geometry is Geometry.IRREGULAR or grid.of_time < 2:
        return False
    whole_times = (difference // step - 1) % grid.of_time == 0
    if time_low == time_high:
        return not whole_times and abs(slice_low - slice_high) == 1 and _follows_positions(grid.numbers(time_low), step)
    before, after = grid.numbers(time_low), grid.numbers(time_high)
    if None in before or None in after:
        return False
    ends = max(number for number in before if number is not None) == grid.headers[low].counts.instance_number
    begins = min(number for number in after if number is not None) == grid.headers[high].counts.instance_number
    return ends and begins and not whole_times


def _follows_positions(numbers: Sequence[int | None], step: int) -> bool:
    """Return whether numbers ascend or descend with the position, and two neighbours differ by the usual step."""
    steps = [high - low for low, high in pairwise(numbers) if low is not None and high is not None]
    return len(steps) == len(numbers) - 1 and len({step > 0 for step in steps}) == 1 and min(map(abs, steps)) == step


# Stacks of one series


def _unequal_stacks(volumes: Sequence[Volume]) -> Iterator[Evidence]:
    """Yield a finding if echoes or components of one stack have unequal numbers of slices, or echoes of times."""
    for shortage in find_shortages(volumes):
        if shortage.is_doubtful:
            yield Evidence("geometry", shortage.detail, "slices of a part", shortage.instances, doubtful=True)
        elif shortage.of_times:
            yield Evidence("times", shortage.detail, "times of an echo", shortage.instances)
        else:
            yield Evidence("geometry", shortage.detail, "slices of an echo or component", shortage.instances)


def _originals(grids: Sequence[_Grid]) -> list[_Grid]:
    """Return the volumes that counts in headers are about: those of acquired instances with one frame each."""
    return [
        grid
        for grid in grids
        if grid.placed
        and grid.first is not None
        and not grid.first.is_derived
        and not (grid.is_one_instance and (grid.first.counts.number_of_frames or 1) > 1)
    ]


def _announced_times(grids: Sequence[_Grid]) -> Iterator[Evidence]:
    """Yield a finding if volumes have fewer times than Number of Temporal Positions (0020,0105) announces, or more.

    Times may be announced of one phase, or of one label, so that there may be a multiple of them.
    """
    originals = _originals(grids)
    divided = any(WITHOUT_EXCITATION in grid.volume.suffix.split("-") for grid in originals)
    for grid in originals:
        announced = grid.first.counts.number_of_temporal_positions or 0 if grid.first is not None else 0
        whole = has_all_times(grid.volume) and not divided
        times = grid.volume.times if whole else sum(other.volume.times for other in originals)
        if times < announced:
            fact = f"{times} of {announced} times that {TEMPORAL_POSITIONS} announces"
            yield Evidence("headers", fact, f"{announced - times} times", (announced - times) * grid.of_time)
            return
        fact = ""
        if announced > 1 and times % announced and grid.volume.diffusion is None:
            fact = f"{times} times, but {TEMPORAL_POSITIONS} announces {announced}"
        elif grid.volume.times < announced == times and _are_apart(originals):
            fact = (
                f"{len(originals)} volumes at several positions, but {TEMPORAL_POSITIONS} announces {announced} times"
            )
        if fact:
            yield Evidence("headers", fact, "", doubtful=True)
            return


def _are_apart(grids: Sequence[_Grid]) -> bool:
    """Return whether volumes lie at different positions: they do not divide the times of one."""
    corners = [grid.volume.affine_lps[:3, 3] for grid in grids if grid.volume.affine_lps is not None]
    return bool(corners) and float(np.ptp(corners, axis=0).max()) > POSITION_TOLERANCE_MM


def _declared_grid(headers: Mapping[str, InstanceHeader], grids: Sequence[_Grid]) -> Iterator[Evidence]:
    """Yield a finding if as many instances were received as times and slices are declared, but volumes have others.

    The counts of instances then agree, and yet slices of several times may be one stack, or times several volumes.
    Volumes at one position may divide the times: of several inversion times, flip angles and the like.
    """
    originals = _originals(grids)
    declared = _declared_times_and_slices(headers, {grid.volume.modality for grid in originals})
    if declared is None or not originals:
        return
    times, slices, source = declared
    written = [(grid.volume.times, grid.volume.shape[2]) for grid in originals]
    divided = not _are_apart(originals) and sum(own for own, _ in written) == times
    if any(own_slices != slices for _, own_slices in written) or not (
        divided or all(own_times == times for own_times, _ in written)
    ):
        shown = ", ".join(f"{own_times} x {own_slices}" for own_times, own_slices in written[:MAX_SHOWN])
        fact = f"volumes of {shown} times and slices, but {source} declare {times} x {slices}"
        yield Evidence("headers", fact, "", doubtful=True)


def _declared_times_and_slices(
    headers: Mapping[str, InstanceHeader], modalities: set[str]
) -> tuple[int, int, str] | None:
    """Return the numbers of times and slices that all instances declare, and the names of these counts.

    None if they declare none, or another number of instances than there are. Some senders put all times into Images in
    Acquisition; in other modalities than PET, some put other counts into Number of Slices (0054,0081).
    """
    declared = {
        (own.images_in_acquisition, own.number_of_temporal_positions, own.number_of_slices, own.number_of_time_slices)
        for own in (header.counts for header in headers.values())
    }
    if len(declared) != 1 or any((header.counts.number_of_frames or 1) > 1 for header in headers.values()):
        return None
    [(images, positions, slices, time_slices)] = declared
    if modalities == {"PT"} and slices and slices * (time_slices or 1) == len(headers):
        return time_slices or 1, slices, SLICES_OF_ALL_TIMES if time_slices else SLICES
    if images and positions and positions > 1:
        of_time = images // positions if images == len(headers) and images % positions == 0 else images
        if of_time > 1 and of_time * positions == len(headers):
            return positions, of_time, IMAGES_OF_ALL_TIMES
    return None


def _counts_that_do_not_fit(headers: Mapping[str, InstanceHeader], grids: Sequence[_Grid]) -> Iterator[Evidence]:
    """Yield a finding if all instances declare numbers of slices or times that volumes, or all of them, do not have.

    Fewer instances than declared are a finding of their own (`node.completeness`).
    """
    originals, received = _originals(grids), len(headers)
    counts = [header.counts for header in headers.values()]
    declared = {(own.images_in_acquisition, own.number_of_slices, own.number_of_time_slices) for own in counts}
    if len(declared) != 1 or not originals or any((own.number_of_frames or 1) > 1 for own in counts):
        return
    [(images, slices, times)] = declared
    fact = ""
    if any(grid.volume.modality != "PT" for grid in originals):
        if images and 1 < images < received and received % images:
            fact = f"{received} instances are no multiple of {images}, which {IMAGES_IN_ACQUISITION} declares"
    elif slices and received > slices * (times or 1) and any(grid.volume.shape[2] != slices for grid in originals):
        fact = f"volumes of {originals[0].volume.shape[2]} slices, but {SLICES} declares {slices}"
    elif times and not slices and sum(grid.volume.times for grid in originals) != times:
        fact = f"Number of Time Slices (0054,0101) declares {times} times, which the volumes do not have"
    if fact:
        yield Evidence("headers", fact, "", doubtful=True)


def _declared_directions(grids: Sequence[_Grid]) -> Iterator[Evidence]:
    """Yield a finding if fewer weighted images have a direction than the protocol of GE declares."""
    for grid in _originals(grids):
        declared = int(grid.volume.attributes.get("NumberOfDiffusionDirectionGE", 0))
        directed = [
            entry for entry in grid.volume.diffusion or () if entry.direction_lps is not None and not entry.derived
        ]
        if 0 < len(directed) < declared and has_all_times(grid.volume):
            fact = f"{len(directed)} of {declared} diffusion directions that (0019,xxE0) declares"
            yield Evidence("headers", fact, f"{declared - len(directed)} directions", doubtful=True)
            return


def _crossed_echoes(grids: Sequence[_Grid]) -> Iterator[Evidence]:
    """Yield a finding if each of several Echo Numbers has all of several Echo Times: one of the two is false."""
    stated = [(grid.volume.attributes.get("EchoNumber"), grid.volume.attributes.get("EchoTime")) for grid in grids]
    echoes = {echo for echo in stated if None not in echo}
    numbers, times = ({echo[part] for echo in echoes} for part in (0, 1))
    if min(len(numbers), len(times)) > 1 and len(echoes) == len(numbers) * len(times):
        fact = f"each of {len(numbers)} Echo Numbers (0018,0086) has all of {len(times)} Echo Times (0018,0081)"
        yield Evidence("headers", fact, "", doubtful=True)


def _missing_echoes(grids: Sequence[_Grid]) -> Iterator[Evidence]:
    """Yield a finding if Echo Numbers (0018,0086) of several echoes have a hole; one alone may be a whole series."""
    echoes = {int(grid.volume.attributes.get("EchoNumber") or 0) for grid in _originals(grids)}
    missing = sorted({*range(1, max(echoes, default=0))} - echoes)
    if missing and len(echoes) > 1 and 0 not in echoes:
        shown = f"Echo Number{'s' * (len(missing) > 1)} (0018,0086) {', '.join(map(str, missing[:MAX_SHOWN]))}"
        yield Evidence("headers", f"no image has {shown}", f"echoes: {shown}", doubtful=True)


def _wide_spacing(grids: Sequence[_Grid]) -> Iterator[Evidence]:
    """Yield a finding if slices lie a whole number of stated distances apart.

    Spacing Between Slices (0018,0088) below the thickness may be a gap, derived images keep that of their source, and
    a localizer may state it for one of its orientations.
    """
    for grid in grids:
        header = grid.first
        oriented = any(warning.name is WarningKind.SEVERAL_ORIENTATIONS for warning in grid.volume.warnings)
        slices = grid.volume.shape[2]
        if header is None or not grid.placed or slices < 2 or header.is_derived or oriented:
            continue
        spacing, thickness = grid.stated_mm("SpacingBetweenSlices"), grid.stated_mm("SliceThickness")
        if not spacing or (thickness and spacing < thickness * (1 - DISTANCE_TOLERANCE)):
            continue
        ratio = grid.step_mm / spacing
        if round(ratio) >= 2 and abs(ratio - round(ratio)) <= DISTANCE_TOLERANCE * ratio:
            fact = f"slices lie {grid.step_mm:.4g} mm apart, but Spacing Between Slices (0018,0088) is {spacing:.4g} mm"
            count = (round(ratio) - 1) * (slices - 1) * len(grid.times) if grid.of_time == slices else None
            yield Evidence("spacing", fact, f"{round(ratio) - 1} of {round(ratio)} slices", count, doubtful=True)
            return


def _crowded(grids: Sequence[_Grid]) -> Iterator[Evidence]:
    """Yield a finding if planes lie so close that several times may have become one stack.

    So they are if they divide the stated distance of slices, but out of order. An even stack whose Instance Numbers
    follow the positions is one, unless it is an impossible one. Two planes always
    are even and in order: a stack no thicker than a share of one slice is impossible too.
    """
    for grid in grids:
        along, header = grid.along(), grid.first
        known_along = along is not None
        if along is None and grid.volume.shape[2] > 1:  # positions are in functional groups
            along = np.arange(grid.volume.shape[2], dtype=np.float64) * grid.step_along_normal_mm
        if along is None or header is None or not grid.placed:
            continue
        thickness_mm = grid.stated_mm("SliceThickness")
        steps = np.diff(along)
        numbers = grid.numbers(0)
        known = [number for number in numbers if number is not None]
        in_order = known in (sorted(known), sorted(known, reverse=True)) and not grid.interleaves_instances
        follow = in_order and len(set(known)) == len(numbers)
        share, limit = (1.0, IMPLAUSIBLE) if follow and is_even(along) else (MIN_CROWDED, CROWDED)
        crowded = (steps < limit * thickness_mm).mean() >= share or 0 < np.ptp(along) < CROWDED * thickness_mm
        least_mm = grid.volume.least_step_mm
        if not known_along and least_mm is not None and least_mm < CROWDED * thickness_mm:
            crowded, steps = True, np.array([least_mm])
        is_gapped = known_along and missing_slices(along) is not None
        uneven = not follow and grid.volume.geometry is Geometry.IRREGULAR and not is_gapped
        is_unordered = not follow or (grid.is_one_instance and not header.is_derived)
        if crowded or uneven or (is_unordered and grid.divides_stated_spacing):
            thick = f", but are {thickness_mm:.4g} mm thick" if thickness_mm else ""
            order = "" if follow else ", and Instance Numbers do not follow them"
            distances = " to ".join(dict.fromkeys((f"{steps.min():.4g}", f"{steps.max():.4g}")))
            fact = f"slices lie {distances} mm apart{thick}{order}: several times may be mixed"
            yield Evidence("spacing", fact, "", doubtful=True)
            return


def _moved_parts(grids: Sequence[_Grid]) -> Iterator[Evidence]:
    """Yield a finding if parts of a divided stack are equal and lie less than half a slice apart.

    Nobody plans volumes so close: they are times that moved, but nothing shows which planes are of one time.
    """
    parts: dict[Hashable, list[_Grid]] = defaultdict(list)
    for grid in grids:
        *names, number = grid.volume.suffix.split("-")
        if number.isdigit() and grid.volume.affine_lps is not None:
            parts[(*names, *grid.volume.voxels.shape[1:4])].append(grid)
    for own in parts.values():
        affines = np.array([grid.volume.affine_lps for grid in own])
        apart_mm = float(np.linalg.norm(affines[:, :3, 3] - affines[0, :3, 3], axis=1).max())
        if POSITION_TOLERANCE_MM < apart_mm <= MOVED_SHARE * own[0].step_mm * ROUNDING:
            fact = f"{len(own)} volumes lie up to {apart_mm:.4g} mm apart: they may be times of one series"
            yield Evidence("spacing", fact, "", doubtful=True)
            return
