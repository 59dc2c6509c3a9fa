"""Find the attribute that orders the frames that share positions, and the complete times after frames were lost.

The first attribute that separates the frames of every position can give an order. That does not prove that the first
frame of one position and the first frame of another belong to one time; `is_time_order` checks that.

A missing frame moves all later frames at its position forward by one, so ordering the frames of each position on its
own would mix times. Attributes that label times are therefore tried first, then numbers. What losses left of two times
may look like one: a gap as long as a whole time between its slices shows that.
"""

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from itertools import groupby, pairwise, product
from typing import Any

import numpy as np

from node.volume.arrange.sources import COUNTING_KEYS, EVENT_KEYS, RUNNING_KEYS, SHARED_TIME_KEYS, TIME_KEYS
from node.volume.model import Frame

Bin = list[Frame]
"""Frames that share a position."""

Labels = Mapping[int, Hashable]
"""The time that a frame belongs to, by the frame's `id`."""

COUNTED = frozenset({"acquisition_time", "content_time", "instance"})
"""Attributes that may have another value in each slice of a time."""

LONG_PAUSE = 1.5
"""A pause of this many of the longest other ones is not one of the scan."""

B_VALUE_TOLERANCE = 0.01  # relative, or 5 s/mm2 if that is more: scanners write measured values
DIRECTION_TOLERANCE = 0.01

MAX_VALUES_PER_TIME = 1.5
"""The values of an attribute can name shared times only if they are at most this many times as many as the frames per
position."""


def instance_order(frame: Frame) -> tuple[int, int]:
    """Return Instance Number and frame number of a frame."""
    order: tuple[int, int] = frame.time_key["instance"]
    return order


def labels_by_attribute(bins: Sequence[Bin], name: str) -> Labels | None:
    """Return the values of an attribute as labels, if positions share values; else None.

    If the attribute counts the times, two positions must share a value. Clocks may agree by chance: there, all
    positions must share a value. Instances are numbered by "instance"; each of several frames may be a time.
    """
    if name == "instance":
        return {id(frame): frame.sop_instance_uid for own in bins for frame in own} if are_instances(bins) else None
    values = [{frame.time_key[name] for frame in frames} for frames in bins]
    shared = any(a & b for a, b in pairwise(values)) if name in COUNTING_KEYS else bool(set.intersection(*values))
    return {id(frame): frame.time_key[name] for frames in bins for frame in frames} if shared else None


def are_instances(bins: Sequence[Bin]) -> bool:
    """Return whether times are instances: each has a position once at most, and one of them has all positions."""
    uids = [[frame.sop_instance_uid for frame in frames] for frames in bins]
    return len(bins) > 1 and bool(set.intersection(*map(set, uids))) and all(len(set(own)) == len(own) for own in uids)


def labels_by_number(bins: Sequence[Bin]) -> Labels | None:
    """Return labels by Instance Number, if the numbers count the times of each slice, or the slices of each time.

    Lost instances leave gaps in the numbers, so the remaining ones keep their time. None if the numbers follow neither
    rule, or if it is unknown which slice came first in a time.
    """
    numbers = _numbers(bins)
    if numbers is None:
        return None
    labels = _labels_time_by_time(numbers) or _labels_slice_by_slice(numbers)
    return None if labels is None else _of_frames(bins, labels)


def labels_by_each_number(bins: Sequence[Bin]) -> Labels | None:
    """Return the times of frames by Instance Numbers that count one by one, if frames of one rank belong to several.

    If the numbers have a step, such as every second one, `labels_by_number` holds that the numbers between belong to
    other stacks. But if each position has its place in every time by the numbers as they are, the instances between may
    have been lost, and the frames of one rank are then of several times. None if the numbers have no such order, or
    both ways to count give the same times.

    `bins`: frames by position; within a bin by Instance Number.
    """
    numbers = _numbers(bins, step=1)
    counted = None if numbers is None else _labels_time_by_time(numbers)
    labels = None if counted is None else _of_frames(bins, counted)
    return labels if labels is not None and are_mixed(bins, labels) else None


def are_mixed(bins: Sequence[Bin], labels: Labels) -> bool:
    """Return whether frames of one rank have several labels."""
    return any(len({labels[id(frame)] for frame in rank}) > 1 for rank in zip(*bins, strict=True))


def _of_frames(bins: Sequence[Bin], labels: list[list[int]]) -> Labels:
    return {
        id(frame): label
        for frames, bin_labels in zip(bins, labels, strict=True)
        for frame, label in zip(frames, bin_labels, strict=True)
    }


def _numbers(bins: Sequence[Bin], step: int = 0) -> list[list[int]] | None:
    """Return running numbers from 0 for the frames of each position; None if two frames have the same number.

    `step`: from one number to the next; 0: the largest that all have.
    """
    instances = {frame.sop_instance_uid for frames in bins for frame in frames}
    part = 1 if len(instances) == 1 else 0  # of one instance, frame numbers count
    numbers = [[instance_order(frame)[part] for frame in frames] for frames in bins]
    known = sorted(number for own in numbers for number in own)
    if len(set(known)) < len(known):
        return None
    stride = step or math.gcd(*(later - known[0] for later in known)) or 1
    # Numbering begins at 1; it begins at 0 too rarely to matter.
    first = 1 if known[0] >= 1 and (known[0] - 1) % stride == 0 else known[0]
    return [[(number - first) // stride for number in own] for own in numbers]


def _labels_time_by_time(numbers: list[list[int]]) -> list[list[int]] | None:
    """Return labels if all slices of a time were numbered before those of the next, in one order of positions."""
    slices = len(numbers)
    ranks = [{number % slices for number in own} for own in numbers]
    if any(len(rank) != 1 for rank in ranks) or len(set.union(*ranks)) != slices:
        return None
    least = min(number for own in numbers for number in own)
    labels = [[number // slices for number in own] for own in numbers]
    if least % slices == 0:
        return labels
    # The first number is not that of a first slice: earlier slices were lost, or the numbering has another origin.
    from_first = [[(number - least) // slices for number in own] for own in numbers]
    complete = len({*map(frozenset, from_first)}) == 1
    in_order = _is_monotonic([(rank - least) % slices for (rank,) in ranks])
    if complete and in_order:
        return from_first
    anchored = _is_monotonic([rank for (rank,) in ranks])
    if least < slices and anchored:
        return labels
    return from_first if complete or (in_order and not anchored) else None


def _is_monotonic(order: list[int]) -> bool:
    return order in (sorted(order), sorted(order, reverse=True))


def _labels_slice_by_slice(numbers: list[list[int]]) -> list[list[int]] | None:
    """Return labels if all times of a slice were numbered before those of the next slice; some may have been lost."""
    most = max(map(len, numbers))
    ranges = [(min(own), max(own)) for own in numbers]
    least = min(low for low, _ in ranges)
    for times, first in product(range(most, 2 * most), sorted({0, least})):
        blocks = {(low - first) // times for low, high in ranges if (low - first) // times == (high - first) // times}
        if len(blocks) == len(numbers):
            return [[(number - first) % times for number in own] for own in numbers]
    return None


def whole_times(
    bins: Sequence[Bin], labels: Labels, *, are_times: bool = False
) -> tuple[list[Bin], list[Frame]] | None:
    """Return the bins of the times that every position has exactly once, and all other frames.

    None if no time is whole, or all are. If labels may agree by chance, the result is also None if less than half of
    the times are whole, or if a single frame is left over at a position with only one other frame, since that is not a
    time.

    `bins`: frames that share a position. `labels`: the time of each frame, by the frame's `id`. `are_times`: the labels
    are known to be times.
    """
    per_bin = [Counter(labels[id(frame)] for frame in frames) for frames in bins]
    whole = {label for label in per_bin[0] if all(own[label] == 1 for own in per_bin)}
    dropped = [frame for frames in bins for frame in frames if labels[id(frame)] not in whole]
    least = min(map(len, bins))
    if not whole or not dropped:
        return None
    if not are_times and ((len(dropped) == 1 and least == 1) or 2 * len(whole) < least):
        return None
    order = {labels[id(frame)]: rank for rank, frame in enumerate(bins[0])}
    grid = [
        sorted((frame for frame in frames if labels[id(frame)] in whole), key=lambda frame: order[labels[id(frame)]])
        for frames in bins
    ]
    return grid, dropped


def labels_of_remains(name: str, bins: Sequence[Bin]) -> Labels | None:
    """Return labels of times that divide those which losses made of two; None if there are none.

    Numbers, or clocks, of slices that follow each other within a time are closer to each other than the beginnings of
    two times, and about as far apart as in other times. If a time holds a gap that is longer by the span of a whole
    time, it is the beginning of one time and the end of another. A clock may pause: it counts only without numbers.

    `name`: the attribute that orders the frames. `bins`: frames by position; within a bin in the order of the
    attribute. All bins have equally many frames.
    """
    frames = [frame for own in bins for frame in own]
    if name not in COUNTED or len(bins) == 1:
        return None
    for values in (_distinct_numbers(frames), _clock(frames) if name == "acquisition_time" else None):
        if values is None:
            continue
        times = sorted(sorted(values[id(frame)] for frame in time) for time in zip(*bins, strict=True))
        if all(before[-1] < after[0] for before, after in pairwise(times)):  # else slice or package by package
            return _labels_of_remains(bins, values, times)
    return None


def _labels_of_remains(bins: Sequence[Bin], values: dict[int, float], times: list[list[float]]) -> Labels | None:
    """Return such labels by numbers or clocks that run time by time: of each frame by its `id`, and those of times."""
    step = min(after[0] - before[0] for before, after in pairwise(times))
    span = min(time[-1] - time[0] for time in times)
    usual = np.diff(np.array(times), axis=1).min(axis=0)
    ends: list[float] = []
    for time in times:
        jumps = np.diff(time)
        apart = (jumps >= step) | ((jumps - usual > span) & (span > 0))
        ends += [time[index] for index in np.flatnonzero(apart)]
    if not ends and _are_all_remains(times):
        ends = [before for time in times for before, after in pairwise(time) if after - before > len(bins)]
    if not ends:
        return None
    return {
        id(frame): (time, bisect_left(ends, values[id(frame)]))
        for time, frames in enumerate(zip(*bins, strict=True))
        for frame in frames
    }


def _distinct_numbers(frames: Sequence[Frame]) -> dict[int, float] | None:
    """Return Instance Numbers, of a single instance frame numbers, by the frame's `id`; None if some are equal."""
    part = 0 if len({frame.sop_instance_uid for frame in frames}) > 1 else 1
    numbers = {id(frame): float(instance_order(frame)[part]) for frame in frames}
    return numbers if len(set(numbers.values())) == len(frames) else None


def _clock(frames: Sequence[Frame]) -> dict[int, float] | None:
    """Return the acquisition times in seconds by the frame's `id`; None if one is unknown."""
    times = {id(frame): frame.time_key.get("acquisition_time") for frame in frames}
    return None if None in times.values() else {frame: time for frame, time in times.items() if time is not None}


def _are_all_remains(times: Sequence[Sequence[float]]) -> bool:
    """Return whether each time lacks as many numbers within it as a time has slices, or more, at one place."""
    slices = len(times[0])
    return slices > 2 and all(
        (np.diff(time) > slices).sum() == 1 and (np.diff(time) == 1).sum() == slices - 2 for time in times
    )


def are_of_one_instance(frames: Sequence[Frame]) -> bool:
    """Return whether frames came together in one instance: whatever their order, none was lost between them."""
    return len({frame.sop_instance_uid for frame in frames}) == 1


def times_by_slice_numbers(frames: Sequence[Frame]) -> int:
    """Return the number of times that the slices of a volume belong to, by Instance Numbers that count one by one.

    If losses left each position one frame, of any time, its number tells by its remainder which slice of a time it is:
    the remainders follow the positions, and the numbers do not. In another numbering, they do so by chance alone.

    `frames`: one for each position, ascending along the normal.
    """
    numbers = _numbers([[frame] for frame in frames], step=1)
    if numbers is None:
        return 1
    counted = [number for (number,) in numbers]
    ranks = [number % len(frames) for number in counted]
    if len(set(ranks)) < len(ranks) or not _is_monotonic(ranks) or _is_monotonic(counted):
        return 1
    return len({number // len(frames) for number in counted})


def may_be_shifted(bins: Sequence[Bin]) -> bool:
    """Return whether numbers count the times of each slice, but have holes that differ from slice to slice.

    Other times may then have been lost of one slice than of the next, so that the slices of one rank are of two times.
    Holes between slices that are as long as the times of one hold the numbers of another stack.

    `bins`: frames by position; within a bin by Instance Number. All bins have equally many frames.
    """
    numbers = sorted([instance_order(frame)[0] for frame in frames] for frames in bins)
    steps = {tuple(after - before for before, after in pairwise(own)) for own in numbers}
    between = {after[0] - before[-1] for before, after in pairwise(numbers)}
    if not between or min(between) <= 0:
        return False
    if len(steps) > 1 or len(between) > 1:
        return True
    (of_slice,) = map(set, steps)
    return len(of_slice) == 1 and (between.pop() - min(of_slice)) % (min(of_slice) * len(bins[0])) != 0


def pauses_of_times(bins: Sequence[Bin]) -> tuple[float, float] | None:
    """Return a pause that each time has within, and the longest one between two, in s, if the former is longer.

    The first times of some slices and the last ones of the others may then have been lost: slices of one rank are of
    two times. None otherwise, or if the clocks do not run time by time.

    `bins`: frames by position; within a bin in order of time. All bins have equally many frames, more than one.
    """
    clocks = _clock([frame for frames in bins for frame in frames])
    if clocks is None or len(bins) == 1:
        return None
    times = np.sort([[clocks[id(frame)] for frame in time] for time in zip(*bins, strict=True)], axis=1)
    between = times[1:, 0] - times[:-1, -1]
    within = float(np.diff(times, axis=1).max(axis=1).min())
    if between.min() <= 0 or within <= LONG_PAUSE * between.max():
        return None
    return within, float(between.max())


def lost_between_slices(frames: Sequence[Frame]) -> int:
    """Return how many Instance Numbers are missing between two parts of a volume that seem to be of two times; else 0.

    They are if exactly as many numbers as one or more volumes have are missing in a single hole, and the clock shows a
    pause there that is longer than all others.
    """
    ordered = sorted(frames, key=instance_order)
    numbers = [instance_order(frame)[0] for frame in ordered]
    acquired = [frame.acquisition_time_s for frame in ordered]
    gaps = [after - before - 1 for before, after in pairwise(numbers)]
    holes = [index for index, gap in enumerate(gaps) if gap]
    if len(holes) != 1 or min(gaps) < 0 or gaps[holes[0]] % len(frames):
        return 0
    pauses = [after - before for before, after in pairwise(acquired) if before is not None and after is not None]
    if len(pauses) < len(gaps):
        return 0
    longest = max((abs(pause) for index, pause in enumerate(pauses) if index != holes[0]), default=0.0)
    return gaps[holes[0]] if abs(pauses[holes[0]]) > LONG_PAUSE * longest else 0


def time_orders(bins: list[Bin]) -> Iterator[tuple[str, list[Bin]]]:
    """Yield the name of each attribute that can order the frames in time, and the bins in that order."""
    for name in TIME_KEYS:
        ordered = ordered_by(bins, name)
        if ordered is None or not same_diffusion(ordered):
            continue
        if name != "trigger_time" or is_cardiac_order(ordered):
            yield name, ordered


def is_cardiac_order(bins: list[Bin]) -> bool:
    """Return whether trigger times count phases.

    If one frame is acquired per heart beat, trigger times scatter while beats ascend.
    """
    beats = ordered_by(bins, "acquisition_time")
    return beats is None or beats == bins or ordered_by(bins, "instance") != beats


def ordered_by(bins: list[Bin], name: str) -> list[Bin] | None:
    """Return the bins in order of an attribute; None unless it separates the frames of every bin.

    An instance without a number has no place among those that have one.
    """
    for frames in bins:
        values = [frame.time_key.get(name) for frame in frames]
        numbers = {frame.instance_number for frame in frames} if name == "instance" else set()
        if None in values or len(set(values)) < len(values) or (None in numbers and len(numbers) > 1):
            return None
    ranks = _ranks(bins, name)
    return [sorted(frames, key=lambda frame: ranks[frame.time_key[name]]) for frames in bins]


def _ranks(bins: list[Bin], name: str) -> dict[Any, int]:
    """Return the rank of each value of an attribute."""
    frames = [frame for own in bins for frame in own]
    if name not in ("acquisition_number", "labelling"):
        return {value: rank for rank, value in enumerate(sorted({frame.time_key[name] for frame in frames}))}
    # Acquisition Number names acquisitions (PS3.3 C.7.6.1), it does not count, and label or control may be first:
    # Instance Numbers tell their order, unless they tell another one at each position.
    orders = {tuple(frame.time_key[name] for frame in sorted(own, key=instance_order)) for own in bins}
    if len(orders) > 1 and len({frozenset(order) for order in orders}) == 1:
        return {number: rank for rank, number in enumerate(sorted(set(next(iter(orders)))))}
    first: dict[Any, tuple[int, int]] = {}
    for frame in frames:
        number = frame.time_key[name]
        first[number] = min(first.get(number, instance_order(frame)), instance_order(frame))
    return {number: rank for rank, number in enumerate(sorted(first, key=lambda number: (first[number], number)))}


def is_time_order(bins: list[Bin], name: str) -> bool:
    """Return whether frames of one rank in an attribute, one at each position, belong to one time.

    They do if every position has the same values. If each frame has a different value, as from a clock or a counter,
    the frames of one time must follow each other: time by time, slice by slice, or package by package. Phases are
    counted anew from each trigger, for each slice separately; a phase that most positions share must have one rank in
    all of them. Instances with exactly one frame at every position are a time each. A number puts no frames into one
    time that attributes of the acquisition tell apart.

    `bins`: frames by position; within a bin in order of the attribute. All bins have equally many frames. `name`: one
    of `TIME_KEYS`.
    """
    if _are_whole_instances(bins) or (name == "instance" and are_instances(bins)):
        return all(len({frame.sop_instance_uid for frame in time}) == 1 for time in zip(*bins, strict=True))
    if name in RUNNING_KEYS and distinguishing(bins) is not None:
        return False
    values = [{frame.time_key[name] for frame in frames} for frames in bins]
    if all(own == values[0] for own in values[1:]):
        return True
    if name == "frame_time" and any(a & b for a, b in pairwise(values)):
        return False  # offsets of times: some lack slices
    are_names = len(set.union(*values)) <= MAX_VALUES_PER_TIME * len(bins[0])  # names of times; some lack slices
    if name in EVENT_KEYS:
        return not are_names or _have_one_rank(bins, name)
    return not are_names and follow_each_other(bins, name)


def follow_each_other(bins: list[Bin], name: str) -> bool:
    """Return whether values that differ in each frame run time by time, slice by slice, or package by package."""
    ranks = _ranks(bins, name)
    sequence = sorted(
        (ranks[frame.time_key[name]], time, position)
        for position, frames in enumerate(bins)
        for time, frame in enumerate(frames)
    )
    package: list[int] = []
    for index, (time, run) in enumerate(groupby(sequence, key=lambda entry: entry[1])):
        slices = [position for _, _, position in run]
        slices = slices if name == "instance" else sorted(slices)  # numbers go through the slices in one order
        package = package if time else slices
        if time != index % len(bins[0]) or slices != package:
            return False
    return True


def distinguishing(bins: list[Bin]) -> str | None:
    """Return the attribute that tells frames of one rank apart; None if none does.

    Its values name times, although several may share one, if every position has the same ones equally often: as those
    of two acquisitions do, each from its start.
    """
    for key, attribute in SHARED_TIME_KEYS.items():
        values = [[frame.time_key.get(key) for frame in frames] for frames in bins]
        if any(own != values[0] for own in values) and all(Counter(own) == Counter(values[0]) for own in values):
            return attribute
    return None


def _are_whole_instances(bins: list[Bin]) -> bool:
    """Return whether every instance has exactly one frame at each position."""
    uids = [{frame.sop_instance_uid for frame in frames} for frames in bins]
    return all(own == uids[0] and len(own) == len(frames) for own, frames in zip(uids, bins, strict=True))


def _have_one_rank(bins: list[Bin], name: str) -> bool:
    """Return whether each value of an attribute has the same rank at all positions that have the value."""
    ranks: dict[Any, int] = {}
    return all(
        ranks.setdefault(frame.time_key[name], rank) == rank for frames in bins for rank, frame in enumerate(frames)
    )


def same_diffusion(bins: list[Bin]) -> bool:
    """Return whether the frames of each time have one diffusion weighting."""
    if all(frame.diffusion is None for frames in bins for frame in frames):
        return True
    table = np.full((len(bins), max(map(len, bins)), 4), np.nan)
    for position, frames in enumerate(bins):
        for time, frame in enumerate(frames):
            table[position, time] = weighting(frame)
    b_values, directions = table[..., 0], table[..., 1:]
    with np.errstate(invalid="ignore"):
        near = np.abs(b_values - b_values[:1]) <= np.maximum(B_VALUE_TOLERANCE * np.abs(b_values[:1]), 5)
        # A direction and its opposite give the same weighting.
        aligned = np.abs((directions * directions[:1]).sum(axis=-1)) > 1 - DIRECTION_TOLERANCE
    unweighted = np.linalg.norm(directions, axis=-1) < 0.5
    same = near & (aligned | (unweighted & unweighted[:1]))
    return bool((same | np.isnan(b_values) | np.isnan(b_values[:1])).all())


def weighting(frame: Frame) -> tuple[float, float, float, float]:
    """Return b-value in s/mm2 and direction (LPS); (0, 0, 0) stands for no direction."""
    if frame.diffusion is None:
        return (0.0, 0.0, 0.0, 0.0)
    direction = frame.diffusion.direction_lps
    x, y, z = (0.0, 0.0, 0.0) if direction is None else map(float, direction)
    return (frame.diffusion.b_value, x, y, z)
