"""The starts and durations of the times of a stack, the step between them, and times that were lost as a whole.

A lost time leaves a gap in Instance Number or Temporal Position Identifier that is a whole number of times, or a step
between starts that is longer than the others.
"""

from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import islice, pairwise
from typing import Any

import numpy as np

from node.errors import counted
from node.volume.arrange.sources import RUNNING_KEYS, TIME_KEYS
from node.volume.elements import DAY_S
from node.volume.model import Float, Frame
from node.volume.reasons import VolumeWarning, WarningKind

MAX_BANDS = 16
"""More slices are not excited together; many sequences do not state how many."""

Planes = Sequence[Sequence[Frame]]
"""Frames by time, then by slice."""

MICROSECONDS = 6
"""Decimals of a second in a time (TM, PS3.5 6.2)."""

STEP_TOLERANCE = 0.05
"""Allowed relative difference between the steps of a time series; the clocks of scanners are coarse."""

MIN_SEVERAL_REPETITIONS = 1.5
"""A volume that lasts this many repetitions takes several: one per plane, line of k-space or package of slices."""

LONG_STEP = 1.5
"""A step of this many usual ones is not noise of the clock."""

WHOLE_TOLERANCE = 0.1
"""Share of a step by which a long one may differ from a whole number of steps if times were lost in it."""

MIN_STEPS = 3
"""Number of steps between starts that say which one is usual."""

MAX_SHOWN = 20

Gaps = dict[int, int]
"""Number of lost times by the index of the time before them."""


def on_one_clock(frames: Sequence[Frame]) -> None:
    """Put the times of the frames of one series on one scale, that of the clock of the first: it may have been set.

    The clock changes with summer time: offsets from UTC tell by how much. Times without one are of the first clock.

    At midnight, a time of day without a date starts again, and so does one with a constant date, as anonymisers write
    (PS3.15 E.1-1 removes Acquisition Date). No series takes half a day: if times of one day are farther apart, the
    early ones belong to the next day.
    """
    _without_offsets(frames)
    for name in ("acquisition_time", "content_time"):
        for frame, time in zip(frames, _unwrapped([frame.time_key.get(name) for frame in frames]), strict=True):
            frame.time_key[name] = time
    for frame, time in zip(frames, _unwrapped([frame.acquisition_time_s for frame in frames]), strict=True):
        frame.acquisition_time_s = time


def _without_offsets(frames: Sequence[Frame]) -> None:
    """Move the times of frames to the clock of the earliest if their offsets from UTC differ; all get its offset."""
    for name in ("acquisition", "content"):
        offsets = [frame.time_key.pop(f"{name}_offset", None) for frame in frames]
        stated = {offset for offset in offsets if offset is not None}
        if len(stated) < 2:
            for frame in frames:
                frame.time_key[f"{name}_offset"] = next(iter(stated), None)
            continue
        times = [frame.time_key.get(f"{name}_time") for frame in frames]
        known = [
            (time - offset, offset)
            for time, offset in zip(times, offsets, strict=True)
            if time is not None and offset is not None
        ]
        first = min(known, default=(0.0, 0.0))[1]
        for frame, time, offset in zip(frames, times, offsets, strict=True):
            frame.time_key[f"{name}_offset"] = first
            moved = 0.0 if offset is None else first - offset
            if time is not None:
                frame.time_key[f"{name}_time"] = time + moved
            if name == "acquisition" and frame.acquisition_time_s is not None:
                frame.acquisition_time_s += moved


def _unwrapped(times: list[float | None]) -> list[float | None]:
    """Return times in seconds, which may continue after midnight. If some have no date, all are times of day."""
    days = {time // DAY_S for time in times if time is not None}
    of_day = times if len(days) < 2 else [time and time % DAY_S for time in times]
    last = max(filter(None, of_day), default=0.0)
    if len(days) > 1 and 0 not in days:
        return times
    return [time + DAY_S if time is not None and time < last - DAY_S / 2 else time for time in of_day]


def starts_s(planes: Planes) -> tuple[float, ...] | None:
    """Return the start of each time in seconds after the first; None if unknown, or if starts do not ascend.

    Times that share a moment of the clock, such as the phases after a label, start apart by their triggers.
    """
    clock = _earliest(planes, _acquired)
    sources = _earliest(planes, lambda frame: frame.time_key.get("frame_time")), clock, _after(clock, planes)
    return next((tuple(starts.tolist()) for starts in map(_since_first, sources) if starts is not None), None)


def durations_s(planes: Planes) -> tuple[float, ...] | None:
    """Return the duration of each time in seconds; None if one is unknown, or differs between slices."""
    durations = [{frame.duration_s for frame in time} for time in planes]
    if any(len(distinct) != 1 for distinct in durations):
        return None
    single = [duration for (duration,) in durations if duration is not None]
    return tuple(single) if len(single) == len(planes) else None


def is_of_excitations(fields: Mapping[str, Any], slices: int) -> bool:
    """Return whether Repetition Time is that of single excitations, or may be: then it is not the step of volumes.

    A three-dimensional volume takes several excitations. So does one of slices, if each excitation acquires one line,
    or if it would have to excite more slices at once than any sequence does to leave time for each echo.

    `fields`: fields of the stack by BIDS' names, times in seconds.
    `slices`: number of slices of a volume.
    """
    repetition_s, echo_s = fields.get("RepetitionTime"), fields.get("EchoTime")
    if fields.get("MRAcquisitionType") == "3D":
        return True
    sequence = fields.get("ScanningSequence", ())
    if sequence and "EP" not in sequence and fields.get("EchoTrainLength") == 1:
        return True  # of one line of k-space
    return bool(repetition_s and echo_s and slices * echo_s > MAX_BANDS * repetition_s)


def is_of_labelling(fields: Mapping[str, Any]) -> bool:
    """Return whether a stack with these fields, by BIDS' names, is of arterial spin labelling."""
    return "ArterialSpinLabelingType" in fields or "ASL" in fields.get("ImageType", ())


def step_s(planes: Planes, starts: tuple[float, ...] | None, repetition_s: float | None) -> float | None:
    """Return the seconds from each time to the next; None for a single time, or if the step is not fixed.

    `planes`: frames by time, then by slice. `starts`: the result of `starts_s`. `repetition_s`: Repetition Time
    (0018,0080), if all times share one, and if starts are known or it is not of excitations.

    The Frame Time of a cine, and trigger times of cardiac phases, are the step itself, or deny a fixed one. A
    repetition is the step of volumes only if it excites all slices once (PS3.3 C.8.3.1): it is used unless the clock
    shows that a volume takes several, and only if the starts of all times follow it. What starts together,
    and only numbers call times, follows nothing: maps of one scan, for example.
    """
    if len(planes) == 1 or _start_together(planes):
        return None
    if planes[0][0].time_key.get("frame_time") is not None:
        return _steady(starts)
    triggers = _starts(planes, _triggered)
    phases = _steady(triggers)
    if repetition_s is None:
        return phases if starts is None else _steady(starts)
    if triggers is not None:  # a small difference is rounding
        step = repetition_s if phases and abs(phases - repetition_s) <= STEP_TOLERANCE * repetition_s else phases
        return step if step is None or starts is None or _are_along(np.array(starts), step) else None
    if starts is None and _starts(planes, lambda frame: frame.time_key.get("cardiac_phase")) is not None:
        return None  # a repetition has several phases
    if starts is not None and float(np.median(np.diff(starts))) > MIN_SEVERAL_REPETITIONS * repetition_s:
        return _steady(starts)
    return repetition_s if _follow(planes, repetition_s) else None


def _follow(planes: Planes, step_s: float) -> bool:
    """Return whether all times start at even steps, as far as the clock, or else their triggers, tell them apart."""
    sources = starts_s(planes), _earliest(planes, _acquired), _earliest(planes, _triggered)
    known = (np.array(moments) for moments in sources if moments is not None and np.ptp(moments) > 0)
    return all(_are_along(moments, step_s) for moments in islice(known, 1))


def _are_along(moments: Float, step_s: float) -> bool:
    """Return whether moments in seconds follow even steps: each of them, and what they add up to.

    Of times that share a moment, it is that of the first.
    """
    at = np.flatnonzero(np.diff(moments, prepend=np.nan) != 0)
    units = [unit for unit in (1, 0.1, 0.01) if np.abs(moments / unit - np.rint(moments / unit)).max() < STEP_TOLERANCE]
    moved = np.stack((np.diff(moments[at]), moments[at][1:] - moments[0]))
    expected = step_s * np.stack((np.diff(at), at[1:]))
    # A clock is off by less than its unit.
    return bool(
        (np.abs(moved - expected) <= np.maximum(STEP_TOLERANCE * expected, 0.999 * max(units, default=0))).all()
    )


def _start_together(planes: Planes) -> bool:
    """Return whether all times start at one moment of the clock, and only their numbers tell them apart.

    A clock that stands still for times that something else counts is that of the series.
    """
    earliest = _earliest(planes, _acquired)
    if earliest is None or np.ptp(earliest) > 0 or any(time[0].diffusion is not None for time in planes):
        return False
    named = (key for key in TIME_KEYS if key not in RUNNING_KEYS)
    return all(len({time[0].time_key.get(key) for time in planes}) == 1 for key in named)


def _steady(starts: Sequence[float] | Float | None) -> float | None:
    """Return the usual step between starts, if no step deviates from it; the noise of a clock does not accumulate."""
    if starts is None:
        return None
    steps = np.diff(starts)
    usual = float(np.median(steps))
    return round(usual, MICROSECONDS) if np.abs(steps - usual).max() <= STEP_TOLERANCE * usual else None


def _starts(planes: Planes, time_of: Callable[[Frame], float | None]) -> Float | None:
    """Return the earliest moment of each time in seconds after the first, if every frame has one and they ascend."""
    return _since_first(_earliest(planes, time_of))


def _since_first(moments: Float | None) -> Float | None:
    """Return ascending moments in seconds after the first; None if they are unknown or do not ascend."""
    if moments is None or not (np.diff(moments) > 0).all():
        return None
    since_first: Float = np.round(moments - moments[0], MICROSECONDS)
    return since_first


def _after(clock: Float | None, planes: Planes) -> Float | None:
    """Return moments of times, apart by triggers where they share one of the clock; None if triggers only ascend."""
    triggers = _earliest(planes, _triggered)
    if clock is None or triggers is None or _since_first(triggers) is not None:
        return None
    first = dict(zip(clock[::-1], triggers[::-1], strict=True))
    return np.asarray(clock + triggers - [first[moment] for moment in clock])


def _earliest(planes: Planes, time_of: Callable[[Frame], float | None]) -> Float | None:
    """Return the earliest moment of each of several times in seconds, by the slices that have one in all of them."""
    table = np.array([[time_of(frame) for frame in time] for time in planes], float)  # NaN if a frame has none
    known = table[:, ~np.isnan(table).any(axis=0)]
    earliest: Float | None = known.min(axis=1) if len(planes) > 1 and known.size else None
    return earliest


def _acquired(frame: Frame) -> float | None:
    """Return the acquisition time of a frame in seconds, with its date if that is known."""
    acquired_s: float | None = frame.time_key.get("acquisition_time")
    return acquired_s


def _triggered(frame: Frame) -> float | None:
    """Return the seconds from the trigger to a frame; Trigger Time (0018,1060) is in ms."""
    trigger_ms: float | None = frame.time_key.get("trigger_time")
    return None if trigger_ms is None else trigger_ms / 1000


def missing_time_warnings(
    planes: Planes, numbers: Collection[int] = (), repetition_s: float | None = None, *, is_labelled: bool = False
) -> list[VolumeWarning]:
    """Return a warning if times are missing between others, or if the step between them is not fixed; else none.

    `planes`: frames by time, then by slice. `numbers`: Instance Numbers that are not missing: those of other stacks of
    the series. `repetition_s`: Repetition Time (0018,0080), if all times share one. `is_labelled`: the images are of
    arterial spin labelling.

    A scan whose step is the repetition, such as an fMRI, makes no pause. Others do, such as a dynamic scan before the
    contrast agent, or labelling after its calibration: if their Instance Numbers have no hole, a long step is no lost
    time. Neither is one after which triggers start again.
    """
    if len(planes) < 2 or len({frame.sop_instance_uid for time in planes for frame in time}) < 2:
        return []
    found: dict[str, Gaps] = {
        "by Instance Number (0020,0013)": _gaps_in_numbers(planes, set(numbers)),
        "by Temporal Position Identifier (0020,0100)": _gaps_in_labels(planes, "temporal_position"),
    }
    is_numbered = _numbers_by_time(planes) is not None
    if not is_numbered:
        found["by Acquisition Number (0020,0012)"] = _gaps_in_labels(planes, "acquisition_number")
    starts, triggers = starts_s(planes), _starts(planes, _triggered)
    clock = starts if starts is not None else triggers
    is_even = repetition_s is not None and clock is not None and _are_along(np.array(clock), repetition_s)
    units = None if is_even else _steps_in_units(planes, clock, repetition_s)
    is_continuous = not is_labelled and _is_continuous(clock, repetition_s)
    if not _start_again(planes, units) and (not is_numbered or any(found.values()) or is_continuous):
        found["by their starts"] = _whole_steps(units)
    details = [f"{_worded(gaps)} {source}" for source, gaps in found.items() if gaps]
    if details:
        return [VolumeWarning(WarningKind.MISSING_TIME, "times seem to be missing: " + "; ".join(details))]
    if units is not None and (units > LONG_STEP).any():
        detail = "longer steps than usual follow times " + _shown(np.flatnonzero(units > LONG_STEP) + 1)
        return [VolumeWarning(WarningKind.IRREGULAR_TIME_STEPS, detail)]
    if starts is not None and repetition_s is not None and _is_one_pause(planes, starts, repetition_s):
        detail = (
            f"the two times start {starts[1]:g} s apart, but their slices take one Repetition Time (0018,0080), "
            f"{repetition_s:g} s: there is a pause, or a false clock, and no third time that shows the step"
        )
        return [VolumeWarning(WarningKind.IRREGULAR_TIME_STEPS, detail)]
    return []


def _start_again(planes: Planes, units: Float | None) -> bool:
    """Return whether triggers ascend in all steps but the long ones, as those of phases that start again after each."""
    triggers = _earliest(planes, _triggered)
    return units is not None and triggers is not None and bool(((np.diff(triggers) > 0) == (units <= LONG_STEP)).all())


def unsteady_warnings(planes: Planes, repetition_s: float | None = None) -> list[VolumeWarning]:
    """Return a warning about times without a step that start together, or contradict the repetition; else none.

    Philips gives label and control of a pair one Acquisition Time. One for all times is that of the series, unless
    nothing but numbers says that they are times. A regular clock that has another step than the repetition, and not
    several of them, contradicts it, and so do triggers that start again.

    `planes`: frames by time, then by slice. `repetition_s`: Repetition Time (0018,0080), which would be their step.
    """
    earliest, starts = _earliest(planes, _acquired), starts_s(planes)
    is_told = _starts(planes, _triggered) is not None or (starts is not None and _steady(starts) is None)
    if repetition_s is not None and not is_told and not _follow(planes, repetition_s):
        detail = (
            f"Repetition Time (0018,0080), {repetition_s:g} s, is not the step by clock or triggers: it is left out"
        )
        kind = WarningKind.IRREGULAR_TIME_STEPS if starts is None else WarningKind.SLICE_TIMING_DOUBTFUL
        return [VolumeWarning(kind, detail)]
    if earliest is None or not (np.diff(earliest) >= 0).all():
        return []
    moments = len(np.unique(earliest))
    if moments == len(planes) or (moments == 1 and (repetition_s is None or not _start_together(planes))):
        return []
    detail = (
        f"the clock has {counted(moments, 'start', 'starts')} for {len(planes)} times, such as one for label and "
        "control: nothing states the step between those that start together"
    )
    return [VolumeWarning(WarningKind.IRREGULAR_TIME_STEPS, detail)]


def _is_one_pause(planes: Planes, starts: Sequence[float], repetition_s: float) -> bool:
    """Return whether the only step takes several repetitions, although the clocks of slices say that a volume does not.

    One volume is enough: the clocks of the first one of an fMRI may be false. Images of diffusion are often averages of
    several repetitions.
    """
    is_averaged = planes[0][0].diffusion is not None
    if is_averaged or len(starts) != 2 or starts[1] <= MIN_SEVERAL_REPETITIONS * repetition_s:
        return False
    clocks = np.array([[frame.acquisition_time_s for frame in time] for time in planes], float)
    spans = np.ptp(clocks, axis=1)  # NaN if a slice has no time
    return bool(((spans > 0) & (spans < repetition_s)).any())


def _worded(gaps: Gaps) -> str:
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
    lost = {before: _lost_between(times[before], times[after], present) for before, after in pairwise(order)}
    gaps = {before: count for before, count in lost.items() if count}
    even = len(times) > 2 and len(gaps) == len(times) - 1 and len(set(gaps.values())) == 1
    return {} if even or sum(gaps.values()) > len(times) else gaps


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


def _gaps_in_labels(planes: Planes, name: str) -> Gaps:
    """Return the gaps in a count of times, by its time key, if each has a number and they ascend by one elsewhere."""
    labels = [{frame.time_key.get(name) for frame in time} for time in planes]
    if any(len(own) != 1 or None in own for own in labels):
        return {}
    ascending = [label for (label,) in labels if label is not None]
    steps = np.diff(ascending)
    if not ((steps >= 1).all() and (steps == np.rint(steps)).all() and (len(steps) == 1 or steps.min() == 1)):
        return {}
    return {int(index): int(steps[index]) - 1 for index in np.flatnonzero(steps > 1)}


def _steps_in_units(planes: Planes, starts: Sequence[float] | Float | None, repetition_s: float | None) -> Float | None:
    """Return the steps between the times in units of the usual one, if all are steady but those longer than that.

    Frames of different durations, as in a dynamic PET, have uneven steps by design. So have scans whose steps only grow
    or only shrink, such as a perfusion that is sampled ever more slowly. Of few steps, the repetition is the usual one
    if the shortest takes as long.
    """
    if starts is None:
        return None
    if len(starts) <= MIN_STEPS:
        few = np.diff(starts) / (repetition_s or np.inf)
        return few if abs(few.min() - 1) <= STEP_TOLERANCE else None
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


def _is_continuous(starts: Sequence[float] | Float | None, repetition_s: float | None) -> bool:
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
