"""Recognise what losses left of several times: a gap as long as a whole time between slices that seem to be of one."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from node.volume.arrange.whole_times import Bin, Labels, instance_order
from node.volume.model import Frame

COUNTED = frozenset({"acquisition_time", "content_time", "instance"})
"""Attributes that may have another value in each slice of a time."""

LONG_PAUSE = 1.5
"""A pause of this many of the longest other ones is not one of the scan."""


def labels_of_remains(name: str, bins: Sequence[Bin]) -> Labels | None:
    """Return labels of times that divide those which losses made of two; None if there are none.

    Numbers, or clocks, of slices that follow each other within a time are closer to each other than the beginnings of
    two times, and about as far apart as in other times. If a time holds a gap that is longer by the span of a whole
    time, it is the beginning of one time and the end of another. A clock may pause: it counts only without numbers.

    Parameters
    ----------
    name : str
        The attribute that orders the frames.
    bins : sequence of list of Frame
        Frames by position; within a bin in the order of the attribute. All bins have equally many frames.
    """
    frames = [frame for own in bins for frame in own]
    values = _numbers(frames) or (_clock(frames) if name == "acquisition_time" else None)
    if name not in COUNTED or values is None or len(bins) == 1:
        return None
    times = sorted(sorted(values[id(frame)] for frame in time) for time in zip(*bins, strict=True))
    if any(before[-1] >= after[0] for before, after in pairwise(times)):
        return None  # slice by slice, or package by package
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


def _numbers(frames: Sequence[Frame]) -> dict[int, float] | None:
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


def may_be_shifted(bins: Sequence[Bin]) -> bool:
    """Return whether numbers count the times of each slice, but have holes that differ from slice to slice.

    Other times may then have been lost of one slice than of the next, so that the slices of one rank are of two times.
    Holes between slices that are as long as the times of one hold the numbers of another stack.

    Parameters
    ----------
    bins : sequence of list of Frame
        Frames by position; within a bin by Instance Number. All bins have equally many frames.
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
