"""The acquisition time of each slice of a volume: what the clocks of all times agree on, and what confirms it.

Programs that correct for slice timing believe it, so a time that is only stated is not enough. The clocks of the planes
must be confirmed: by the plan of the protocol, by an even order of excitations, or by the clocks of other times.
"""

from collections.abc import Sequence

import numpy as np
from pydicom.dataset import Dataset

from node.volume.model import Float, Frame
from node.volume.reasons import VolumeWarning, WarningKind
from node.volume.vendors import has_slice_timer, planned_slice_timings, trigger_times_are_of_slices

Planes = Sequence[Sequence[Frame]]
"""Frames by time, then by slice."""

MS = 0.001
DIGITS = 6
SIMULTANEOUS_SHARE = 0.1
"""Acquisition times of slices excited together differ by less than this share of the time from one excitation to the
next, if excitations fill the repetition time."""

EVEN_SHARE = 0.25
"""Largest deviation of a step between excitations from the usual one; clocks of scanners count in 2.5 ms."""

AGREEING_SHARE = 0.5
"""Two times of one slice agree if they are nearer than this share of the usual step between excitations."""


def slice_timing(
    ds: Dataset, planes: Planes, repetition_time_s: float | None, bands: int = 1
) -> tuple[list[float] | None, VolumeWarning | None]:
    """Return BIDS' SliceTiming of a stack: seconds from the first excited slice to each, in the order of the slices.

    `ds`: the first data set of the stack.
    `planes`: frames by time, then by slice.
    `repetition_time_s`: time from one volume to the next, including any pause.
    `bands`: number of slices that were excited together.

    None if it is unknown: no clock, one time for all slices, or times that span more than a repetition, and so are
    those of volumes or of whole passes; also if nothing confirms the clocks, or something contradicts them. The warning
    says what is doubtful.
    """
    if repetition_time_s is None or len(planes[0]) < 2 or planes[0][0].position is None:
        return None, None
    clock = _clock(ds, planes, bands)
    readings = _readings(clock, repetition_time_s)
    if not len(readings) and trigger_times_are_of_slices(ds):
        clock = MS * _table([[frame.time_key.get("trigger_time") for frame in time] for time in planes])
        readings = _readings(clock, repetition_time_s)
    plans = _plans(ds, planes, repetition_time_s)
    if not len(readings):
        return (_rounded(plans[0]) if len(plans) == 1 and len(planes) > 1 else None), None
    apart_s = SIMULTANEOUS_SHARE * repetition_time_s * bands / len(planes[0])
    timing = _consensus(readings, apart_s, bands)
    doubt = _doubt(timing, readings, plans, apart_s, bands)
    if timing is None or doubt:
        return None, VolumeWarning(WarningKind.SLICE_TIMING_DOUBTFUL, f"{doubt}; SliceTiming is left out")
    return _rounded(timing), _warning_about_first(clock[0], timing, apart_s)


def _clock(ds: Dataset, planes: Planes, bands: int) -> Float:
    """Return when each plane was acquired, (times, slices) in seconds; NaN if unknown.

    GE's timer is 0 for slices of the first time whose excitation was not recorded. It is a time only in a lone volume,
    and if no more slices have it than one excitation has.
    """
    clock = _table([[frame.acquisition_time_s for frame in time] for time in planes])
    if has_slice_timer(ds) and (len(planes) > 1 or np.count_nonzero(clock == 0) > bands):
        clock[clock == 0] = np.nan
    return clock


def _table(times: Sequence[Sequence[float | None]]) -> Float:
    return np.array([[np.nan if value is None else value for value in time] for time in times], float)


def _readings(clock: Float, repetition_time_s: float) -> Float:
    """Return the rows of a clock that tell the times of the slices, relative to their median, which one error leaves.

    A row with one time for all slices, or with times that span more than a repetition, does not.
    """
    span_s = np.ptp(clock, axis=1)  # NaN if a slice has no time
    with np.errstate(invalid="ignore"):
        whole = clock[(span_s > 0) & (span_s < repetition_time_s)]
    centred: Float = whole - np.median(whole, axis=1, keepdims=True)
    return centred


def _consensus(readings: Float, apart_s: float, bands: int) -> Float | None:
    """Return the times that most readings agree on, in seconds after the first; else those of all even readings."""
    timing = _from_first(np.median(readings, axis=0))
    agreeing = readings[[_agree(row, timing, apart_s) for row in readings]]
    if 2 * len(agreeing) > len(readings):
        return _from_first(np.median(agreeing, axis=0))
    even = [_from_first(row) for row in readings if _is_even(_from_first(row), apart_s, bands)]
    return even[0] if even and all(_agree(row, even[0], apart_s) for row in even) else None


def _doubt(timing: Float | None, readings: Float, plans: Sequence[Float], apart_s: float, bands: int) -> str:
    """Return what contradicts the times of slices, or that nothing confirms them; empty if they are confirmed."""
    if timing is None:
        return f"the times of the slices differ between {len(readings)} volumes, and none of them is even"
    excitations = len(_excitations(timing, apart_s)[0])
    if (excitations - 1) * bands > len(timing):  # GE may add one excitation, whose slices it discards
        return f"{len(timing)} slices have {excitations} times, although {bands} slices were excited together"
    if plans and not any(_agree(plan, timing, apart_s) for plan in plans):
        return "the times of the slices contradict the slice order of the protocol"
    confirmed = bool(plans) or _is_even(timing, apart_s, bands)
    if confirmed or sum(_agree(row, timing, apart_s) for row in readings) > 1:
        return ""
    return "the times of the slices are uneven, and neither a second volume nor the protocol confirms them"


def _warning_about_first(clock: Float, timing: Float, apart_s: float) -> VolumeWarning | None:
    """Return a warning if the clocks of the first volume say something else than the others."""
    if not np.ptp(clock) > 0 or _agree(clock, timing, apart_s):
        return None
    detail = "the times of the slices in the first volume differ from those in the others; SliceTiming is theirs"
    return VolumeWarning(WarningKind.SLICE_TIMING_DOUBTFUL, detail)


def _excitations(timing: Float, apart_s: float) -> tuple[Float, Float]:
    """Return the times of the excitations in ascending order, and how many slices each has."""
    ordered = np.sort(timing)
    numbers = np.cumsum(np.diff(ordered, prepend=ordered[0]) > apart_s)
    slices = np.bincount(numbers)
    return np.bincount(numbers, ordered) / slices, slices.astype(float)


def _is_even(timing: Float, apart_s: float, bands: int) -> bool:
    """Return whether excitations follow each other evenly, and each has as many slices.

    One excitation may be added whose slices are outside of the volume: GE does that to make their number odd.
    """
    times, slices = _excitations(timing, apart_s)
    if len(times) < 2:
        return False
    steps = np.diff(times)
    usual = float(np.median(steps))
    added = bands > 1 and len(times) * bands - len(timing) == bands and slices.min() >= bands - 1
    alike = bool((slices == slices[0]).all()) or (added and slices.max() == bands)
    return alike and bool(np.abs(steps - usual).max() <= EVEN_SHARE * usual)


def _agree(times: Float, timing: Float, apart_s: float) -> bool:
    """Return whether two lists of times put each slice into the same excitation."""
    excitations = _excitations(timing, apart_s)[0]
    if len(excitations) < 2:
        return False
    away = times - timing
    usual = float(np.median(np.diff(excitations)))
    return bool(np.abs(away - np.median(away)).max() < AGREEING_SHARE * usual)


def _plans(ds: Dataset, planes: Planes, repetition_time_s: float) -> list[Float]:
    """Return the timings that the protocol may have planned; they go by Instance Number."""
    slices = planes[0]
    numbers = [frame.instance_number for frame in slices if frame.instance_number is not None]
    if len(set(numbers)) != len(slices):
        return []
    order = np.argsort(np.argsort(numbers))
    return [np.array(plan)[order] for plan in planned_slice_timings(ds, len(slices), repetition_time_s)]


def _from_first(times: Float) -> Float:
    after: Float = times - times.min()
    return after


def _rounded(timing: Float) -> list[float]:
    return [round(float(seconds), DIGITS) for seconds in timing]
