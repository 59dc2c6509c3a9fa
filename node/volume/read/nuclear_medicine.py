"""What the frames of a nuclear medicine image are: views that are apart, and moments of one view.

PS3.3 C.8.4.8: Frame Increment Pointer (0028,0009) names vectors, and each vector counts the frames by something else.
Energy windows, detectors, rotations and R-R intervals are images of their own; time slots and time slices are times;
angular views are projections, from which slices are yet to be reconstructed.
"""

from __future__ import annotations

from collections import Counter

from pydicom import Dataset

from node.dicom.values import items, number, numbers, texts
from node.errors import ConversionRefused
from node.volume.reasons import Reason

VIEW_VECTORS = ("EnergyWindowVector", "DetectorVector", "RotationVector", "RRIntervalVector")
TIME_VECTORS = ("PhaseVector", "TimeSliceVector", "TimeSlotVector")
SLICE_VECTOR = "SliceVector"
CINE_KEYWORDS = ("FrameTime", "FrameTimeVector", "CineRate")
ANGLE_VECTOR = "AngularViewVector"

VIEWS_AND_TIMES = (
    ANGLE_VECTOR,
    *VIEW_VECTORS,
    *TIME_VECTORS,
    SLICE_VECTOR,
    *CINE_KEYWORDS,
    "ImageType",
    "NumberOfSlices",
    "PhaseInformationSequence",
    "GatedInformationSequence",
)
"""Keywords of the elements that `views_of`, `times_of` and `timing_of` read."""

PROJECTION_TYPES = frozenset({"TOMO", "GATED TOMO"})
"""Values of Image Type (0008,0008), third, of images that are not reconstructed."""

Counts = tuple[float, ...]

Timing = tuple[float | None, float | None]
"""Start relative to the first frame, and duration, both in seconds."""


def views_of(ds: Dataset, frames: int) -> list[Counts]:
    """Return the view of each frame: energy window, detector, rotation and R-R interval, as far as they are stated.

    Raises ConversionRefused ``projections``: the frames are angular views; ``unproven-layout``: frames share a view,
    and nothing states whether they differ in time or in space.
    """
    angles = _vector(ds, ANGLE_VECTOR, frames)
    kind = texts(ds, "ImageType")[2:3]
    if (angles is not None and len(set(angles)) > 1) or (frames > 1 and PROJECTION_TYPES.intersection(kind)):
        raise ConversionRefused(
            Reason.PROJECTIONS,
            f"the {frames} frames are projections from several angles (nuclear tomography, PS3.3 C.8.4.12); send the "
            "reconstructed slices",
        )
    views = _table(ds, VIEW_VECTORS, frames)
    _refuse_unexplained(ds, views, frames)
    return views


def times_of(ds: Dataset, frames: int) -> list[Counts | None]:
    """Return the number of the time of each frame: phase and time slice, or time slot; None if they are not counted."""
    return [times or None for times in _table(ds, TIME_VECTORS, frames)]


def timing_of(ds: Dataset, frames: int) -> list[Timing] | None:
    """Return start and duration in seconds of each frame of a dynamic or gated image; None if they are not stated.

    The start of a time slot counts from the R wave. PS3.3 C.8.4.11: Frame Time (0018,1063) of an R-R interval, in ms,
    is the length of its slots. A slot has no duration of acquisition, because it is summed over many beats.
    """
    slots, intervals = _vector(ds, "TimeSlotVector", frames), _vector(ds, "RRIntervalVector", frames)
    if slots is None:
        return phase_timing(ds, frames)
    gated = next(iter(items(ds, "GatedInformationSequence")), Dataset())
    lengths_ms = [number(item, "FrameTime") for item in items(gated, "DataInformationSequence")]
    timing: list[Timing] = []
    for slot, interval in zip(slots, intervals or [1.0] * frames, strict=True):
        length_ms = lengths_ms[int(interval) - 1] if 1 <= interval <= len(lengths_ms) else None
        if length_ms is None or length_ms <= 0:
            return None
        timing.append(((slot - 1) * length_ms / 1000, None))
    return timing


def _refuse_unexplained(ds: Dataset, views: list[Counts], frames: int) -> None:
    """Raise if vectors count the frames, but leave several frames of one view that nothing calls times or slices."""
    if not any(views) or any(number(ds, keyword) for keyword in CINE_KEYWORDS):
        return
    others = _table(ds, (*TIME_VECTORS, SLICE_VECTOR), frames)
    alike = max(Counter(zip(views, others, strict=True)).values())
    slices = number(ds, "NumberOfSlices")
    if alike > 1 and slices != frames:
        raise ConversionRefused(
            Reason.UNPROVEN_LAYOUT,
            f"{alike} frames have one energy window, detector and time, and nothing states what they differ in: the "
            "vectors (0054,0010), (0054,0020), (0054,0070), (0054,0080), (0054,0100) must count every frame (PS3.3 "
            "C.8.4.8)",
        )


def _table(ds: Dataset, keywords: tuple[str, ...], frames: int) -> list[Counts]:
    vectors = [vector for vector in (_vector(ds, keyword, frames) for keyword in keywords) if vector is not None]
    return list(zip(*vectors, strict=True)) if vectors else [()] * frames


def _vector(ds: Dataset, keyword: str, frames: int) -> Counts | None:
    """Return a vector that counts the frames; None if it is missing or has another length."""
    vector = numbers(ds, keyword)
    return vector if vector is not None and len(vector) == frames else None


def phase_timing(ds: Dataset, frames: int) -> list[Timing] | None:
    """Return start and duration in seconds of each frame of a dynamic NM image.

    None for any other image, or if the timing is not stated.

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
