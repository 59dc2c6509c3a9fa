"""Find times that were lost as a whole: the rest of the series is then even, but its clock is not.

A lost time leaves a gap in Instance Number or Temporal Position Identifier that is a whole number of times, or a step
between starts that is longer than the others.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Sequence
from itertools import pairwise

import numpy as np

from node.volume.arrange.temporal.timing import STEP_TOLERANCE, Planes, durations_s, starts_s
from node.volume.model import Float
from node.volume.reasons import VolumeWarning, WarningKind

LONG_STEP = 1.5
"""A step of this many usual ones is not noise of the clock."""

WHOLE_TOLERANCE = 0.1
"""Share of a step by which a long one may differ from a whole number of steps if times were lost in it."""

MIN_STEPS = 3
"""Number of steps between starts that say which one is usual."""

MAX_SHOWN = 20

Gaps = dict[int, int]
"""Number of lost times by the index of the time before them."""


def missing_time_warnings(
    planes: Planes, numbers: Collection[int] = (), repetition_s: float | None = None
) -> list[VolumeWarning]:
    """Return a warning if times are missing between others, or if the steps between them are uneven; else none.

    Parameters
    ----------
    planes : sequence of sequence of Frame
        Frames by time, then by slice.
    numbers : collection of int
        Instance Numbers that are not missing: those of other stacks of the series.
    repetition_s : float or None
        Repetition Time (0018,0080), if all times share one.

    Notes
    -----
    A scan whose step is the repetition, such as an fMRI, makes no pause. Others do, such as a dynamic scan before the
    contrast agent: if their Instance Numbers have no hole, a long step is no lost time.
    """
    if len(planes) < 2 or len({frame.sop_instance_uid for time in planes for frame in time}) < 2:
        return []
    found: dict[str, Gaps] = {
        "by Instance Number (0020,0013)": _gaps_in_numbers(planes, set(numbers)),
        "by Temporal Position Identifier (0020,0100)": _gaps_in_positions(planes),
    }
    starts = starts_s(planes)
    units = _steps_in_units(planes, starts)
    if _numbers_by_time(planes) is None or any(found.values()) or _is_continuous(starts, repetition_s):
        found["by their starts"] = _whole_steps(units)
    details = [f"{_told(gaps)} {source}" for source, gaps in found.items() if gaps]
    if details:
        return [VolumeWarning(WarningKind.MISSING_TIME, "times seem to be missing: " + "; ".join(details))]
    if units is not None and (units > LONG_STEP).any():
        detail = "longer steps than usual follow times " + _shown(np.flatnonzero(units > LONG_STEP) + 1)
        return [VolumeWarning(WarningKind.IRREGULAR_TIME_STEPS, detail)]
    return []


def _told(gaps: Gaps) -> str:
    return f"{sum(gaps.values())} after time{'' if len(gaps) == 1 else 's'} {_shown(index + 1 for index in gaps)}"


def _shown(values: Iterable[int]) -> str:
    shown = [str(value) for value in values]
    return ", ".join(shown[:MAX_SHOWN]) + (", ..." if len(shown) > MAX_SHOWN else "")


def _gaps_in_numbers(planes: Planes, taken: set[int]) -> Gaps:
    """Return the gaps in Instance Number that are whole times, whether numbers go time by time or slice by slice.

    Nothing is known if more numbers are missing than present: the numbers then count something else.
    """
    times = _numbers_by_time(planes)
    if times is None:
        return {}
    present = sorted(taken.union(*times))
    order = sorted(range(len(times)), key=lambda time: min(times[time]))
    gaps = {}
    missing = 0
    for before, after in pairwise(order):
        lost = _lost_between(times[before], times[after], present)
        if lost:
            gaps[before] = lost
            missing += lost
    even = len(times) > 2 and len(gaps) == len(times) - 1 and len(set(gaps.values())) == 1
    return {} if even or missing > len(times) else gaps


def _numbers_by_time(planes: Planes) -> list[list[int]] | None:
    """Return the Instance Numbers of each time, by slice; None unless each belongs to one instance of one time."""
    times = []
    for frames in planes:
        instances = {frame.sop_instance_uid: frame.instance_number for frame in frames}
        if None in instances.values():
            return None
        times.append([number for number in instances.values() if number is not None])
    numbers = [number for time in times for number in time]
    return times if len(set(numbers)) == len(numbers) and len(set(map(len, times))) == 1 else None


def _lost_between(before: list[int], after: list[int], present: list[int]) -> int:
    """Return how many whole times the missing numbers between two times make; 0 if they make none."""

    def missing(low: int, high: int) -> int:
        return high - low - 1 - (bisect_left(present, high) - bisect_left(present, low + 1))

    if max(before) < min(after):
        times, others = divmod(missing(max(before), min(after)), len(before))
        return times if others == 0 else 0
    lost = {missing(low, high) for low, high in zip(before, after, strict=True) if low < high}
    return lost.pop() if len(lost) == 1 and all(low < high for low, high in zip(before, after, strict=True)) else 0


def _gaps_in_positions(planes: Planes) -> Gaps:
    """Return the gaps in the temporal positions, if each time has one and they ascend one by one elsewhere."""
    positions = [{frame.time_key.get("temporal_position") for frame in time} for time in planes]
    if any(len(own) != 1 or None in own for own in positions):
        return {}
    ascending = [position for (position,) in positions if position is not None]
    steps = np.diff(ascending)
    if not ((steps >= 1).all() and (steps == np.rint(steps)).all() and (len(steps) == 1 or steps.min() == 1)):
        return {}
    return {int(index): int(steps[index]) - 1 for index in np.flatnonzero(steps > 1)}


def _steps_in_units(planes: Planes, starts: Sequence[float] | None) -> Float | None:
    """Return the steps between the times in units of the usual one, if all are steady but those longer than that.

    Frames of different durations, as in a dynamic PET, have uneven steps by design. So have scans whose steps only grow
    or only shrink, such as a perfusion that is sampled ever more slowly.
    """
    if starts is None or len(starts) <= MIN_STEPS:
        return None
    durations = durations_s(planes)
    if durations is not None and len(set(durations)) > 1:
        return None
    steps: Float = np.diff(starts)
    growth = np.diff(steps) / steps.min()
    planned = (growth > -STEP_TOLERANCE).all() or (growth < STEP_TOLERANCE).all()
    short = steps[steps <= LONG_STEP * np.median(steps)]
    if planned and len(short) < len(steps) - 1:
        return None
    units: Float = steps / np.median(short)
    return units if np.abs(units[units <= LONG_STEP] - 1).max() <= 2 * STEP_TOLERANCE else None


def _is_continuous(starts: Sequence[float] | None, repetition_s: float | None) -> bool:
    """Return whether the usual step is one repetition."""
    if starts is None or repetition_s is None:
        return False
    return bool(abs(np.median(np.diff(starts)) - repetition_s) <= STEP_TOLERANCE * repetition_s)


def _whole_steps(units: Float | None) -> Gaps:
    """Return how many usual steps too many the long ones take, if all of these are whole numbers of steps."""
    if units is None:
        return {}
    is_long = units > LONG_STEP
    if (np.abs(units - np.rint(units))[is_long] > WHOLE_TOLERANCE).any():
        return {}
    return {int(index): round(units[index]) - 1 for index in np.flatnonzero(is_long)}
