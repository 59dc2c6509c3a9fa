"""When the times of a stack began, how long they took, and the step from one to the next."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from node.volume.model import Float, Frame

Planes = Sequence[Sequence[Frame]]
"""Frames by time, then by slice."""

DAY_S = 86400.0

MICROSECONDS = 6
"""Digits of a second that a time (TM, PS3.5 6.2) holds."""

STEADY = 0.05
"""Part of the usual step by which the steps of one series in time may differ: clocks of scanners are coarse."""

SEVERAL_REPETITIONS = 1.5
"""Repetitions from which on a volume takes several: those of a plane, a line of k-space or a package of slices."""

OTHER_PHASES = 0.1
"""Part of a repetition by which the step of cardiac phases must differ from it to be told from rounded numbers."""


def go_past_midnight(frames: Sequence[Frame]) -> None:
    """Put the times of the frames of one series on one scale, where its clock went through midnight.

    A time of day without a date begins anew then, as does one with the date that an anonymiser gave to all
    (PS3.15 E.1-1 removes Acquisition Date). No series takes half a day: of times of one day that are farther apart, the
    early ones are of the next.
    """
    for name in ("acquisition_time", "content_time"):
        for frame, time in zip(frames, _on([frame.time_key.get(name) for frame in frames]), strict=True):
            frame.time_key[name] = time
    for frame, time in zip(frames, _on([frame.acquisition_time_s for frame in frames]), strict=True):
        frame.acquisition_time_s = time


def _on(times: list[float | None]) -> list[float | None]:
    """Times in seconds that may go on after midnight."""
    known = [time for time in times if time is not None]
    last = max(known, default=0.0)
    if last - min(known, default=0.0) <= DAY_S / 2 or last // DAY_S != min(known) // DAY_S:
        return times
    return [time + DAY_S if time is not None and time < last - DAY_S / 2 else time for time in times]


def starts_s(planes: Planes) -> tuple[float, ...] | None:
    """Return the start of each time in seconds after the first; None where it is not known or does not ascend."""
    for starts in (_starts(planes, lambda frame: frame.time_key.get("frame_time")), _starts(planes, _acquired)):
        if starts is not None:
            return tuple(starts.tolist())
    return None


def durations_s(planes: Planes) -> tuple[float, ...] | None:
    """Return how long each time was acquired; None where it is not known, or differs between its slices."""
    durations = [{frame.duration_s for frame in time} for time in planes]
    if any(len(each) != 1 for each in durations):
        return None
    single = [duration for (duration,) in durations if duration is not None]
    return tuple(single) if len(single) == len(planes) else None


def step_s(planes: Planes, starts: tuple[float, ...] | None, repetition_s: float | None) -> float | None:
    """Return the seconds from each time to the next; None where there is one time, or no fixed step.

    Parameters
    ----------
    planes : sequence of sequence of Frame
        Frames by time, then by slice.
    starts : tuple of float or None
        What `starts_s` returned.
    repetition_s : float or None
        Repetition Time (0018,0080), where all times share one.

    Notes
    -----
    The Frame Time of a cine, and trigger times of cardiac phases, are the step themselves. A repetition is the one of
    volumes only where it excites all slices once (PS3.3 C.8.3.1): it is kept unless the clock tells that a volume takes
    several. No volume takes less.
    """
    if len(planes) == 1:
        return None
    if planes[0][0].time_key.get("frame_time") is not None:
        return _steady(starts)
    phases = _steady(_starts(planes, _triggered))
    if repetition_s is None:
        return phases if starts is None else _steady(starts)
    if phases is not None and abs(phases - repetition_s) > OTHER_PHASES * repetition_s:
        return phases
    if starts is not None and float(np.median(np.diff(starts))) > SEVERAL_REPETITIONS * repetition_s:
        return _steady(starts)
    return repetition_s


def _steady(starts: Sequence[float] | Float | None) -> float | None:
    """The usual step between starts, where none of them departs from it; a clock's noise does not add up."""
    if starts is None:
        return None
    steps = np.diff(starts)
    usual = float(np.median(steps))
    return round(usual, MICROSECONDS) if np.abs(steps - usual).max() <= STEADY * usual else None


def _starts(planes: Planes, of: Callable[[Frame], float | None]) -> Float | None:
    """The earliest of each of several times in seconds after the first, if every frame has one and they ascend."""
    table = [[of(frame) for frame in time] for time in planes]
    if len(planes) < 2 or any(value is None for row in table for value in row):
        return None
    earliest: Float = np.array(table, float).min(axis=1)
    return np.round(earliest - earliest[0], MICROSECONDS) if (np.diff(earliest) > 0).all() else None


def _acquired(frame: Frame) -> float | None:
    """When a frame was acquired, with its date where that is known."""
    found: float | None = frame.time_key.get("acquisition_time")
    return found


def _triggered(frame: Frame) -> float | None:
    """Seconds from the trigger to a frame; Trigger Time (0018,1060) is in ms."""
    found: float | None = frame.time_key.get("trigger_time")
    return None if found is None else found / 1000
