"""Frames of one instance that are slices although no attribute places each of them, as of cone beam CT.

A frame of CT, MR or PET is no projection, and a distance between slices belongs to slices. Nothing says in which
direction the slices follow each other: the normal of the image is assumed.
"""

from __future__ import annotations

from pydicom import Dataset
from pydicom.datadict import keyword_for_tag

from node.dicom.values import number, numbers, text
from node.volume.read.functional_groups import ANGLES, TURNED_MODALITIES
from node.volume.read.nuclear_medicine import CINE_KEYWORDS
from node.volume.read.planes import is_distance
from node.volume.reasons import VolumeWarning, WarningKind

SECTIONAL_MODALITIES = frozenset({"CT", "MR", "PT"})
"""Modalities whose instances are slices of a body, even if they carry no position."""

_COUNTS_OF_TIMES = ("NumberOfTemporalPositions", "NumberOfTimeSlices", "NumberOfTimeSlots", "NumberOfRRIntervals")
_STEPS_OF_ANGLES = tuple(f"Positioner{axis}AngleIncrement" for axis in ANGLES)


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
