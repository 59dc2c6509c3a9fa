"""The instances of a volume by time and slice, with their headers, and what their Instance Numbers say about both."""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

import numpy as np
from pydicom import Dataset

from node.completeness import Evidence
from node.dicom import values
from node.dicom.counts import InstanceCounts
from node.dicom.values import once_per_series
from node.errors import spans
from node.volume.arrange.timing import is_of_labelling
from node.volume.geometry import median
from node.volume.model import Float, Geometry, Volume

DISTANCE_TOLERANCE = 0.03
"""Relative deviation of a distance between slices from a multiple of Spacing Between Slices (0018,0088)."""

MAX_SHOWN = 20
"""Numbers, or places, that a reason names."""


@dataclass(frozen=True, slots=True)
class InstanceHeader:
    """Attributes of one instance that announce its neighbours; None if the data set lacks one."""

    position: tuple[float, ...] | None
    is_derived: bool
    counts: InstanceCounts


def header_of(ds: Dataset, counts: InstanceCounts) -> InstanceHeader:
    """Return the header of an instance with these counts."""
    return InstanceHeader(values.numbers(ds, "ImagePositionPatient", 3), _is_derived(ds), counts)


@once_per_series("ImageType")
def _is_derived(ds: Dataset) -> bool:
    return (values.text(ds, "ImageType") or "").upper().startswith("DERIVED")


class Grid:
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
        return median(np.diff(starts)) / float(repetition_s)


def originals_of(grids: Sequence[Grid]) -> list[Grid]:
    """Return the volumes that counts in headers are about: those of acquired instances with one frame each."""
    return [
        grid
        for grid in grids
        if grid.placed
        and grid.first is not None
        and not grid.first.is_derived
        and not (grid.is_one_instance and (grid.first.counts.number_of_frames or 1) > 1)
    ]


CONTIGUOUS = 1.5
"""Slices (or times) that lie no farther apart than this many stated distances are neighbours."""

FAR_SHARE = 6
"""Instance Numbers that are far from the others count nothing if all instances are at least this many times as many."""


def holes_in(headers: Mapping[str, InstanceHeader], grids: Sequence[Grid], *, refused: bool) -> Iterator[Evidence]:
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
            shown = spans([range(far[0], far[-1] + 1)], MAX_SHOWN)
            fact = f"Instance Number {shown} is far from the others, {min(places)}-{max(places)}"
            yield Evidence("instance-numbers", fact, "", doubtful=True)
        holes = set(_missing_in(places, own, refused=refused))
        if _size(holes) > len(without):  # else those that a whole stack has under other numbers
            missing |= holes
    if missing:
        ordered = sorted(missing, key=lambda numbers: numbers[0])
        shown = f"Instance Number{'' if _size(ordered) == 1 else 's'} {spans(ordered, MAX_SHOWN)}"
        verb = "is" if _size(ordered) == 1 else "are"
        yield Evidence("instance-numbers", f"{shown} {verb} missing", shown, _size(ordered))


def _size(missing: Iterable[range]) -> int:
    return sum(map(len, missing))


def _numbered_groups(headers: Mapping[str, InstanceHeader], grids: Sequence[Grid]) -> Iterator[list[str]]:
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
    """Return the few first or last numbers if the gap beside them is longer than their run; else nothing.

    Such numbers, like 99 of a screen shot, count nothing. Where slices were lost, their positions show it.
    """
    gaps = [high - low - 1 for low, high in pairwise(numbers)]
    gap = max(gaps, default=0)
    after = gaps.index(gap) + 1 if gaps else 0
    few, rest = sorted((numbers[:after], numbers[after:]), key=len)
    is_far = gap > len(numbers) and len(few) * FAR_SHARE <= len(numbers) and _missing_count(rest, 1) < len(rest)
    return few if is_far else ()


def _missing_in(places: Mapping[int, str], grids: Sequence[Grid], *, refused: bool) -> Iterator[range]:
    """Yield the missing numbers of one count, without those that the geometry explains.

    `refused`: a stack was refused for planes that share positions: the numbers may show why.
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


def _skips(numbers: Sequence[int], stride: int, grids: Sequence[Grid]) -> bool:
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


def _explains(grid: Grid, low: str, high: str, difference: int, step: int) -> bool:
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
