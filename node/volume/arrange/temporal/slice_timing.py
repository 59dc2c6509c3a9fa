"""The acquisition time of each slice of a volume, from its planes or from the planned protocol."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydicom.dataset import Dataset

from node.volume.model import Frame
from node.volume.vendors import planned_slice_times_s, trigger_times_are_of_slices

SAME_POSITION_MM = 0.01
"""Planes closer than this share a position."""


MS = 0.001
SIMULTANEOUS_SHARE = 0.1
"""Acquisition times of slices excited together differ by less than this share of the repetition time per slice."""


def slice_timing(
    ds: Dataset, frames: Sequence[Frame], repetition_time_s: float | None, bands: int = 1
) -> list[float] | None:
    """Return BIDS' SliceTiming of a stack: seconds from the first excited slice to each, in the order of the slices.

    None if it is unknown, or if the times are those of single slices although several were excited together: some
    versions of Siemens XA write the times of a scan without multiband.

    Parameters
    ----------
    ds : Dataset
        The first data set of the stack.
    frames : sequence of Frame
        All planes of the stack in order: slices of the first time first.
    repetition_time_s : float or None
        Time from one volume to the next, including any pause.
    bands : int
        Number of slices that were excited together.
    """
    timing = acquired_timing(frames, repetition_time_s)
    if timing is None and trigger_times_are_of_slices(ds):
        timing = _relative(
            [frame.time_key.get("trigger_time") for frame in _first_volume(frames)], repetition_time_s, MS
        )
    timing = timing or _planned_timing(ds, frames, repetition_time_s)
    if timing is None or repetition_time_s is None or bands == 1:
        return timing
    apart_s = SIMULTANEOUS_SHARE * repetition_time_s / len(timing)
    excitations = 1 + int((np.diff(np.sort(timing)) > apart_s).sum())
    return timing if excitations * bands <= len(timing) else None


def acquired_timing(frames: Sequence[Frame], repetition_time_s: float | None) -> list[float] | None:
    """Return the acquisition times of the slices of the first volume, from its planes, in seconds after the first one.

    None if a time is unknown, if all are equal, or if they span more than a repetition, and so are times of volumes or
    of whole passes, not of slices.
    """
    return _relative([frame.acquisition_time_s for frame in _first_volume(frames)], repetition_time_s)


def _relative(
    times: Sequence[float | None], repetition_time_s: float | None, unit_s: float = 1.0
) -> list[float] | None:
    """Return the times of the slices of one volume in seconds after the first one; None as of `acquired_timing`."""
    known = [time * unit_s for time in times if time is not None]
    if len(known) != len(times) or len(known) < 2 or repetition_time_s is None:
        return None
    since_first = np.array(known) - min(known)
    if not 0 < since_first.max() < repetition_time_s:
        return None
    return [round(float(seconds), 6) for seconds in since_first]


def _planned_timing(ds: Dataset, frames: Sequence[Frame], repetition_time_s: float | None) -> list[float] | None:
    """Return the planned slice timing, if the images of a volume carry one time for all slices; else None."""
    slices = _first_volume(frames)
    numbers = [frame.instance_number for frame in slices if frame.instance_number is not None]
    if repetition_time_s is None or len(slices) < 2 or len(set(numbers)) != len(slices) or len(slices) == len(frames):
        return None
    planned = planned_slice_times_s(ds, len(slices), repetition_time_s)
    if planned is None:
        return None
    order = np.argsort(np.argsort(numbers))
    return [round(planned[rank], 6) for rank in order]


def _first_volume(frames: Sequence[Frame]) -> Sequence[Frame]:
    """Return the frames before the first repeated position."""
    if not frames or frames[0].position is None:
        return ()
    for index, frame in enumerate(frames[1:], start=1):
        if frame.position is None:
            return ()
        if np.abs(frame.position - frames[0].position).max() < SAME_POSITION_MM:
            return frames[:index]
    return frames
