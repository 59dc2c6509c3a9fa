"""What vectors say of the frames of one instance: views that are apart, moments of one view, slices.

PS3.3 C.8.4.8: Frame Increment Pointer (0028,0009) names vectors, and each vector counts the frames by something else.
Energy windows, detectors, rotations and R-R intervals are images of their own; time slots and time slices are times;
angular views are projections, from which slices are yet to be reconstructed.

Frames of CT, MR or PET are no projections, and a distance between slices belongs to slices, also if no attribute places
each of them, as of cone beam CT. Nothing says in which direction the slices follow each other: the normal of the image
is assumed.
"""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
from pydicom import Dataset
from pydicom.datadict import keyword_for_tag

from node.dicom.values import items, number, numbers, once_per_series, stated_numbers, text, texts
from node.errors import ConversionRefused
from node.volume import elements
from node.volume.geometry import POSITION_TOLERANCE_MM
from node.volume.model import Array
from node.volume.read.functional_groups import ANGLES, TURNED_MODALITIES
from node.volume.read.planes import image_plane, is_distance
from node.volume.reasons import Reason, VolumeWarning, WarningKind

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

SECTIONAL_MODALITIES = frozenset({"CT", "MR", "PT"})
"""Modalities whose instances are slices of a body, even if they carry no position."""

_COUNTS_OF_TIMES = ("NumberOfTemporalPositions", "NumberOfTimeSlices", "NumberOfTimeSlots", "NumberOfRRIntervals")
_STEPS_OF_ANGLES = tuple(f"Positioner{axis}AngleIncrement" for axis in ANGLES)


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


def slice_step_mm(ds: Dataset, *, is_placed: bool) -> float | None:
    """Return Spacing Between Slices (0018,0088) in mm, if the frames of an instance are slices; else None.

    0 for CT, MR and PET that state neither it nor a position. `is_placed`: the instance has one position, that of its
    first frame.
    """
    modality, step_mm = text(ds, "Modality"), number(ds, "SpacingBetweenSlices")
    is_sectional = modality == "CT" or (modality in SECTIONAL_MODALITIES and not is_placed)
    if not is_sectional and modality not in TURNED_MODALITIES:
        return None
    if any(number(ds, keyword) for keyword in CINE_KEYWORDS) or _counts_otherwise(ds):
        return None
    if step_mm is not None and is_distance(step_mm):
        return step_mm
    return 0.0 if modality in SECTIONAL_MODALITIES and not is_placed else None


def assumption(step_mm: float, *, is_placed: bool) -> VolumeWarning:
    """Return the warning about slices of which nothing but their order is stated."""
    stated = f"Spacing Between Slices (0018,0088) of {step_mm:.4g} mm" if step_mm else "Modality (0008,0060)"
    direction = ", along the normal of the image" if is_placed else ""
    detail = (
        f"by {stated} alone, the frames of the instance are taken for slices in the order of their numbers{direction}: "
        "look at them before use, or have them sent as single images, with the position of each"
    )
    return VolumeWarning(WarningKind.SLICES_ASSUMED, detail)


def _counts_otherwise(ds: Dataset) -> bool:
    """Return whether the frames have several times or angles, or a vector of which nobody here knows the meaning."""
    named = (keyword_for_tag(int(tag)) for tag in numbers(ds, "FrameIncrementPointer") or ())
    vectors = (numbers(ds, keyword) or () for keyword in (*named, *_STEPS_OF_ANGLES) if keyword)
    return any((number(ds, keyword) or 1) > 1 for keyword in _COUNTS_OF_TIMES) or any(len(one) > 1 for one in vectors)


@once_per_series(
    *("Modality", "SliceLocationVector", "PositionerPrimaryAngleIncrement", "PositionerSecondaryAngleIncrement"),
    *VIEWS_AND_TIMES,
)
def counted_frames(
    ds: Dataset, frames: int, duration_s: float | None
) -> tuple[Sequence[Timing], Sequence[float | None], Sequence[Counts], Sequence[Counts | None]]:
    """Return what the vectors of an instance say of each frame: its timing, its slice, its view, and its time."""
    return frame_timing(ds, frames, duration_s), _slice_numbers(ds, frames), *views_and_times(ds, frames)


def views_and_times(ds: Dataset, frames: int) -> tuple[list[Counts], list[Counts | None]]:
    """Return the view and the number of the time of each frame of an NM image; of any other image, none."""
    if text(ds, "Modality") != "NM":
        return [()] * frames, [None] * frames
    return views_of(ds, frames), times_of(ds, frames)


def _slice_numbers(ds: Dataset, frames: int) -> list[float | None]:
    """Return the numbers that order slices without a position: Slice Vector (0054,0080) or Slice Location Vector."""
    increments = [stated_numbers(ds, f"Positioner{axis}AngleIncrement") or () for axis in ANGLES]
    if text(ds, "Modality") in TURNED_MODALITIES and any(len(set(steps)) > 1 for steps in increments):
        return [None] * frames  # projections from several angles
    for keyword in ("SliceVector", "SliceLocationVector"):
        vector = stated_numbers(ds, keyword)
        if vector is not None and len(vector) == frames and all(map(math.isfinite, vector)):
            return list(vector)
    return [None] * frames


def frame_timing(ds: Dataset, frames: int, duration_s: float | None) -> list[Timing]:
    """Return start and duration of each frame: those of nuclear medicine, or of a cine."""
    return timing_of(ds, frames) or [(start, duration_s) for start in _frame_times(ds, frames)]


def _frame_times(ds: Dataset, frames: int) -> list[float | None]:
    """Return the start of each frame of a cine in seconds (PS3.3 C.7.6.5).

    Frame Time Vector (0018,1065) or Frame Time (0018,1063), both in ms; else Cine Rate (0018,0040), frames per second.
    """
    vector = stated_numbers(ds, "FrameTimeVector")
    if vector is not None and len(vector) == frames and all(map(math.isfinite, vector)):
        return [float(value) / 1000 for value in np.cumsum(vector)]
    step_ms, rate = number(ds, "FrameTime"), number(ds, "CineRate")
    if not step_ms and rate:
        step_ms = 1000 / rate
    if not step_ms or step_ms < 0 or frames == 1:
        return [None] * frames
    return [index * step_ms / 1000 for index in range(frames)]


def reconstructed_positions(ds: Dataset, frames: int) -> tuple[Array, Array, tuple[VolumeWarning, ...]] | None:
    """Return positions (frames, 3) in mm LPS and the orientation of a reconstructed NM image; None for any other image.

    The position belongs to the detector (PS3.3 C.8.4.15); some writers put it at the top level of the data set instead.
    Without a distance between slices, that is their thickness, or 1 mm, with a warning.
    """
    detector = elements.item(ds, "DetectorInformationSequence")
    slices, spacing = stated_numbers(ds, "SliceVector"), number(ds, "SpacingBetweenSlices")
    if slices is None and detector is not None and number(ds, "NumberOfSlices") == frames:
        slices = tuple(range(1, frames + 1))
    if slices is None or len(slices) != frames:
        return None
    notes: tuple[VolumeWarning, ...] = ()
    if spacing is None or not is_distance(spacing, POSITION_TOLERANCE_MM):
        thickness = number(ds, "SliceThickness")
        has_thickness = thickness is not None and is_distance(thickness, POSITION_TOLERANCE_MM)
        spacing = abs(thickness) if thickness is not None and has_thickness else 1.0
        stated = "there is no possible Spacing Between Slices (0018,0088)"
        detail = f"{stated}; {'Slice Thickness (0018,0050), ' if has_thickness else ''}{spacing:.4g} mm is assumed"
        notes = (VolumeWarning(WarningKind.SPACING_ASSUMED, detail),)
    planes = [image_plane(source) for source in (detector, ds) if source is not None]
    position, orientation = next((plane for plane in planes if plane[0] is not None), (None, None))
    if position is None or orientation is None:
        return None
    normal = np.cross(orientation[:3], orientation[3:])
    return position + (np.asarray(slices) - 1)[:, None] * spacing * normal, orientation, notes if frames > 1 else ()
