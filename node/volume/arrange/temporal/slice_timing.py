"""When each slice of a volume was acquired, from the times of its planes or from what the protocol planned."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydicom.dataset import Dataset

from node.volume.model import Frame
from node.volume.vendors import planned_slice_times_s

SAME_POSITION_MM = 0.01
"""Planes nearer than this share a position."""


MOST_APART = 0.1
"""Times of slices that were excited at once differ by less than this part of a slice's share of the repetition."""


def slice_timing(
    ds: Dataset, frames: Sequence[Frame], repetition_time_s: float | None, bands: int = 1
) -> list[float] | None:
    """Return BIDS' SliceTiming of a stack: seconds from the first excited slice to each, in the order of the slices.

    None where it is not known, and where the times are those of slices one by one though several were excited at
    once: some software of Siemens XA writes what it would have done without.

    Parameters
    ----------
    ds : Dataset
        The first data set of the stack.
    frames : sequence of Frame
        All planes of the stack in their order: slices of the first time first.
    repetition_time_s : float or None
        From one volume to the next, a pause between them included.
    bands : int
        How many slices were excited at once.
    """
    found = told_timing(frames, repetition_time_s) or _planned_timing(ds, frames, repetition_time_s)
    if found is None or repetition_time_s is None or bands == 1:
        return found
    apart_s = MOST_APART * repetition_time_s / len(found)
    excitations = 1 + int((np.diff(np.sort(found)) > apart_s).sum())
    return found if excitations * bands <= len(found) else None


def told_timing(frames: Sequence[Frame], repetition_time_s: float | None) -> list[float] | None:
    """Return when each slice of the first volume was acquired, as its planes tell, in seconds after the first of them.

    None where the times are not known, are all one, or span more than a repetition: then they tell when volumes or
    whole passes were taken, not slices.
    """
    slices = _first_volume(frames)
    times = [frame.acquisition_time_s for frame in slices if frame.acquisition_time_s is not None]
    if len(times) != len(slices) or len(times) < 2 or repetition_time_s is None:
        return None
    since_first = np.array(times) - min(times)
    if not 0 < since_first.max() < repetition_time_s:
        return None
    return [round(float(each), 6) for each in since_first]


def _planned_timing(ds: Dataset, frames: Sequence[Frame], repetition_time_s: float | None) -> list[float] | None:
    """Return the slice timing that the protocol plans, where the images of a volume carry one time for all slices."""
    slices = _first_volume(frames)
    numbers = [frame.instance_number for frame in slices if frame.instance_number is not None]
    if repetition_time_s is None or len(slices) < 2 or len(set(numbers)) != len(slices) or len(slices) == len(frames):
        return None
    planned = planned_slice_times_s(ds, len(slices), repetition_time_s)
    if planned is None:
        return None
    order = np.argsort(np.argsort(numbers))
    return [round(planned[each], 6) for each in order]


def _first_volume(frames: Sequence[Frame]) -> Sequence[Frame]:
    """Return the frames before the first position comes again."""
    if not frames or frames[0].position is None:
        return ()
    for index, frame in enumerate(frames[1:], start=1):
        if frame.position is None:
            return ()
        if np.abs(frame.position - frames[0].position).max() < SAME_POSITION_MM:
            return frames[:index]
    return frames
