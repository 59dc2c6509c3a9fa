"""The starts and durations of the times of a stack, and the step between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from node.volume.model import Float, Frame

MAX_BANDS = 16
"""More slices are not excited together; many sequences do not state how many."""

Planes = Sequence[Sequence[Frame]]
"""Frames by time, then by slice."""

DAY_S = 86400.0

MICROSECONDS = 6
"""Decimals of a second in a time (TM, PS3.5 6.2)."""

STEP_TOLERANCE = 0.05
"""Allowed relative difference between the steps of a time series; the clocks of scanners are coarse."""

MIN_SEVERAL_REPETITIONS = 1.5
"""A volume that lasts this many repetitions takes several: one per plane, line of k-space or package of slices."""

PHASE_STEP_TOLERANCE = 0.1
"""Share of a repetition by which the step of cardiac phases must differ from it; smaller differences are rounding."""


def unwrap_midnight(frames: Sequence[Frame]) -> None:
    """Put the times of the frames of one series on one scale if its clock passed midnight.

    At midnight, a time of day without a date starts again, and so does one with a constant date, as anonymisers write
    (PS3.15 E.1-1 removes Acquisition Date). No series takes half a day: if times of one day are farther apart, the
    early ones belong to the next day.
    """
    for name in ("acquisition_time", "content_time"):
        for frame, time in zip(frames, _unwrapped([frame.time_key.get(name) for frame in frames]), strict=True):
            frame.time_key[name] = time
    for frame, time in zip(frames, _unwrapped([frame.acquisition_time_s for frame in frames]), strict=True):
        frame.acquisition_time_s = time


def _unwrapped(times: list[float | None]) -> list[float | None]:
    """Return times in seconds, which may continue after midnight."""
    known = [time for time in times if time is not None]
    last = max(known, default=0.0)
    if last - min(known, default=0.0) <= DAY_S / 2 or last // DAY_S != min(known) // DAY_S:
        return times
    return [time + DAY_S if time is not None and time < last - DAY_S / 2 else time for time in times]


def starts_s(planes: Planes) -> tuple[float, ...] | None:
    """Return the start of each time in seconds after the first; None if unknown, or if starts do not ascend."""
    for starts in (_starts(planes, lambda frame: frame.time_key.get("frame_time")), _starts(planes, _acquired)):
        if starts is not None:
            return tuple(starts.tolist())
    return None


def durations_s(planes: Planes) -> tuple[float, ...] | None:
    """Return the duration of each time in seconds; None if one is unknown, or differs between slices."""
    durations = [{frame.duration_s for frame in time} for time in planes]
    if any(len(distinct) != 1 for distinct in durations):
        return None
    single = [duration for (duration,) in durations if duration is not None]
    return tuple(single) if len(single) == len(planes) else None


def is_of_excitations(fields: Mapping[str, Any], slices: int) -> bool:
    """Return whether Repetition Time is that of single excitations, or may be: then it is not the step of volumes.

    A three-dimensional volume takes several excitations. So does one of slices, if it would have to excite more of them
    at once than any sequence does to leave time for each echo.

    Parameters
    ----------
    fields : mapping
        Fields of the stack by BIDS' names, times in seconds.
    slices : int
        Number of slices of a volume.
    """
    repetition_s, echo_s = fields.get("RepetitionTime"), fields.get("EchoTime")
    if fields.get("MRAcquisitionType") == "3D":
        return True
    return bool(repetition_s and echo_s and slices * echo_s > MAX_BANDS * repetition_s)


def step_s(planes: Planes, starts: tuple[float, ...] | None, repetition_s: float | None) -> float | None:
    """Return the seconds from each time to the next; None for a single time, or if the step is not fixed.

    Parameters
    ----------
    planes : sequence of sequence of Frame
        Frames by time, then by slice.
    starts : tuple of float or None
        The result of `starts_s`.
    repetition_s : float or None
        Repetition Time (0018,0080), if all times share one, and if starts are known or it is not of excitations.

    Notes
    -----
    The Frame Time of a cine, and trigger times of cardiac phases, are the step itself. A repetition is the step of
    volumes only if it excites all slices once (PS3.3 C.8.3.1): it is used unless the clock shows that a volume takes
    several. No volume takes less.
    """
    if len(planes) == 1:
        return None
    if planes[0][0].time_key.get("frame_time") is not None:
        return _steady(starts)
    phases = _steady(_starts(planes, _triggered))
    if repetition_s is None:
        return phases if starts is None else _steady(starts)
    if phases is not None and abs(phases - repetition_s) > PHASE_STEP_TOLERANCE * repetition_s:
        return phases
    if starts is not None and float(np.median(np.diff(starts))) > MIN_SEVERAL_REPETITIONS * repetition_s:
        return _steady(starts)
    return repetition_s


def _steady(starts: Sequence[float] | Float | None) -> float | None:
    """Return the usual step between starts, if no step deviates from it; the noise of a clock does not accumulate."""
    if starts is None:
        return None
    steps = np.diff(starts)
    usual = float(np.median(steps))
    return round(usual, MICROSECONDS) if np.abs(steps - usual).max() <= STEP_TOLERANCE * usual else None


def _starts(planes: Planes, time_of: Callable[[Frame], float | None]) -> Float | None:
    """Return the earliest moment of each time in seconds after the first, if every frame has one and they ascend."""
    table = [[time_of(frame) for frame in time] for time in planes]
    if len(planes) < 2 or any(value is None for row in table for value in row):
        return None
    earliest: Float = np.array(table, float).min(axis=1)
    return np.round(earliest - earliest[0], MICROSECONDS) if (np.diff(earliest) > 0).all() else None


def _acquired(frame: Frame) -> float | None:
    """Return the acquisition time of a frame in seconds, with its date if that is known."""
    acquired_s: float | None = frame.time_key.get("acquisition_time")
    return acquired_s


def _triggered(frame: Frame) -> float | None:
    """Return the seconds from the trigger to a frame; Trigger Time (0018,1060) is in ms."""
    trigger_ms: float | None = frame.time_key.get("trigger_time")
    return None if trigger_ms is None else trigger_ms / 1000
