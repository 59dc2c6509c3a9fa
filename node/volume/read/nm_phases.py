"""Timing of a dynamic nuclear medicine image: start and duration of each frame."""

from __future__ import annotations

from pydicom import Dataset

from node.dicom.values import items, number, numbers

Timing = tuple[float | None, float | None]
"""Start relative to the first frame, and duration, both in seconds."""


def phase_timing(ds: Dataset, frames: int) -> list[Timing] | None:
    """Return start and duration in seconds of each frame of a dynamic NM image.

    None for any other image, or if the timing is not stated.

    Notes
    -----
    PS3.3 C.8.4.14: each item of Phase Information Sequence (0054,0032) gives the delay before the phase, the duration
    of its frames, which is the same for all of them, and the pause between them, all in ms. Phase Vector (0054,0030)
    and Time Slice Vector (0054,0100), both from 1, assign each frame to a phase and to its number within that phase.
    Detectors and energy windows share one timing.
    """
    phase_of, slice_of = numbers(ds, "PhaseVector"), numbers(ds, "TimeSliceVector")
    phases = _phases(ds)
    if phase_of is None or slice_of is None or not len(phase_of) == len(slice_of) == frames:
        return None
    if not phases or not set(phase_of) <= set(range(1, len(phases) + 1)):
        return None
    timing: list[Timing] = []
    for phase, number_in_phase in zip(phase_of, slice_of, strict=True):
        start_ms, duration_ms, step_ms = phases[int(phase) - 1]
        timing.append(((start_ms + (number_in_phase - 1) * step_ms) / 1000, duration_ms / 1000))
    return timing


def _phases(ds: Dataset) -> list[tuple[float, float, float]] | None:
    """Return start, frame duration and step to the next frame of each phase, in ms; None if a value is missing."""
    phases = []
    at_ms = 0.0
    for item in items(ds, "PhaseInformationSequence"):
        duration_ms, count = number(item, "ActualFrameDuration"), number(item, "NumberOfFramesInPhase")
        if duration_ms is None or duration_ms <= 0 or count is None:
            return None
        at_ms += number(item, "PhaseDelay") or 0.0
        step_ms = duration_ms + (number(item, "PauseBetweenFrames") or 0.0)
        phases.append((at_ms, duration_ms, step_ms))
        at_ms += count * step_ms
    return phases
