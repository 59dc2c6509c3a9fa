"""What functional groups say of the frames of an enhanced instance (PS3.3 C.7.6.16.2): a frame's own, else shared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from pydicom import Dataset

from node.dicom.values import items
from node.errors import ConversionRefused
from node.volume import vendors
from node.volume.elements import instant_of, item, number, numbers, seconds_of_day, text, texts
from node.volume.read.diffusion import diffusion_of
from node.volume.read.planes import acquired_at, checked_place, is_map, pixel_spacing, rescale
from node.volume.reasons import Reason

PLACE_POINTERS = frozenset({0x00200032, 0x00200037, 0x00209056, 0x00209057, 0x00209113, 0x00209116, 0x0020930E})
"""Dimension Index Pointers that say where a frame lies, and so do not tell the frames of one place apart."""

FRAME_TYPES = (
    "MRImageFrameTypeSequence",
    "CTImageFrameTypeSequence",
    "PETFrameTypeSequence",
    "XRay3DFrameTypeSequence",
    "ParametricMapFrameTypeSequence",
)

_CONVERTED = {
    "temporal_position": "TemporalPositionIdentifier",
    "trigger_time": "TriggerTime",
    "acquisition_number": "AcquisitionNumber",
    "frame_reference_time": "FrameReferenceTime",
}
"""Attributes of classic instances that order frames in time, by what this converter calls them."""

Common = dict[str, Any]
"""Arguments of `Frame`."""


def of_each_frame(ds: Dataset, frames: int, common: Common, modality_lut: bool) -> list[Common] | None:
    """Return what the functional groups say of each frame of an instance; None where there are none.

    Parameters
    ----------
    ds : Dataset
    frames : int
        As many as the pixels hold.
    common : mapping
        Arguments of `Frame` that all frames share.
    modality_lut : bool
        A Modality LUT is applied to the pixels: rescaling is not asked for.

    Raises
    ------
    ConversionRefused
        ``contradictory``: groups do not count the frames; ``bad-geometry``.
    """
    per_frame: Sequence[Dataset] = items(ds, "PerFrameFunctionalGroupsSequence")
    shared = item(ds, "SharedFunctionalGroupsSequence")
    if not per_frame and shared is None:
        return None
    if per_frame and len(per_frame) != frames:
        raise ConversionRefused(
            Reason.CONTRADICTORY,
            f"Number of Frames (0028,0008) is {frames}, but Per-Frame Functional Groups Sequence (5200,9230) has "
            f"{len(per_frame)} items (PS3.3 C.7.6.16)",
        )
    pointers = [int(number(entry, "DimensionIndexPointer") or 0) for entry in items(ds, "DimensionIndexSequence")]
    dimensions = [index for index, pointer in enumerate(pointers) if pointer not in PLACE_POINTERS]
    whole = _Group(Dataset() if shared is None else shared, ds)
    return [
        _grouped(_Group(groups, ds, whole), common, modality_lut, dimensions)
        for groups in per_frame or [Dataset()] * frames
    ]


class _Group:
    """Macros of one frame: its own functional groups, then the shared ones."""

    def __init__(self, groups: Dataset, ds: Dataset, shared: _Group | None = None) -> None:
        self.groups, self.ds, self.shared = groups, ds, shared
        self._kept: dict[str, Dataset | None] = {}

    def macro(self, keyword: str) -> Dataset | None:
        """The item of a functional group's sequence."""
        if keyword not in self._kept:
            found = item(self.groups, keyword)
            self._kept[keyword] = found if found is not None or self.shared is None else self.shared.macro(keyword)
        return self._kept[keyword]

    def converted(self, keyword: str) -> Dataset:
        """Where a legacy converted instance keeps an attribute of the classic one (PS3.3 C.7.6.16.2.25.1, .2)."""
        macros = ("UnassignedPerFrameConvertedAttributesSequence", "UnassignedSharedConvertedAttributesSequence")
        found = [place for place in map(self.macro, macros) if place is not None and keyword in place]
        return found[0] if found else Dataset()

    def number(self, macro: str, keyword: str) -> float | None:
        found = self.macro(macro)
        return None if found is None else number(found, keyword)

    def texts(self, macro: str, keyword: str) -> tuple[str, ...]:
        found = self.macro(macro)
        return () if found is None else texts(found, keyword)

    @property
    def frame_type(self) -> tuple[str, ...]:
        """Frame Type (0008,9007), of whichever kind of image."""
        return next(filter(None, (self.texts(macro, "FrameType") for macro in FRAME_TYPES)), ())


def _grouped(group: _Group, common: Common, modality_lut: bool, dimensions: Sequence[int]) -> Common:
    """What the functional groups say of one frame, as arguments of `Frame`."""
    content = group.macro("FrameContentSequence") or Dataset()
    position, orientation = _place_of_group(group)
    own: Common = {"position": position, "orientation": orientation}
    measures = group.macro("PixelMeasuresSequence")
    if measures is not None:
        own["pixel_spacing"] = pixel_spacing(measures, placed=position is not None) or common["pixel_spacing"]
        own["slice_thickness_mm"] = number(measures, "SliceThickness")
        own["spacing_between_slices_mm"] = number(measures, "SpacingBetweenSlices")
    transformation = group.macro("PixelValueTransformationSequence")
    if transformation is not None and not modality_lut:
        own["slope"], own["intercept"] = rescale(transformation)
    if common["split_key"]["component"] is not None:  # magnetic resonance
        own["diffusion"] = diffusion_of(group.ds, None if group.shared is None else group.shared.groups, group.groups)
    acquired = text(content, "FrameAcquisitionDateTime") or text(content, "FrameReferenceDateTime")
    own["acquisition_time_s"] = seconds_of_day((acquired or "")[8:].split("+")[0].split("-")[0] or None)
    duration_ms = number(content, "FrameAcquisitionDuration")
    own["duration_s"] = duration_ms / 1000 if duration_ms and duration_ms > 0 else None
    own["split_key"] = _enhanced_split_key(group, common, own.get("diffusion"))
    own["variant_key"] = {
        "image_type": (
            *(group.frame_type or texts(group.converted("ImageType"), "ImageType")),
            *vendors.frame_image_type(group.ds, group.groups),
        ),
        "flip_angle": group.number("MRTimingAndRelatedParametersSequence", "FlipAngle"),
        "repetition_time": group.number("MRTimingAndRelatedParametersSequence", "RepetitionTime"),
        "stack": text(content, "StackID"),
        "velocity": _velocity_direction(group),
        "slice_thickness": own.get("slice_thickness_mm"),
    }
    own["time_key"] = _time_key(group, content, dimensions, instant_of(acquired))
    if position is None:
        own["time_key"]["slice"] = _slice_without_place(group, content)
    return own


def _velocity_direction(group: _Group) -> tuple[float, ...] | None:
    """Along which direction velocities are encoded (PS3.3 C.8.13.5.13); each is an image of its own."""
    encoding = group.macro("MRVelocityEncodingSequence")
    return None if encoding is None else numbers(encoding, "VelocityEncodingDirection")


def _time_key(group: _Group, content: Dataset, dimensions: Sequence[int], acquired: float | None) -> Common:
    """What orders the frames that share a position; without what the instance says for all of its frames."""
    indices = numbers(content, "DimensionIndexValues") or ()
    found = {
        "temporal_position": number(content, "TemporalPositionIndex"),
        "dimensions": tuple(indices[index] for index in dimensions if index < len(indices)) or None,
        "trigger_time": group.number("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime"),
        "cardiac_phase": group.number("CardiacSynchronizationSequence", "NominalPercentageOfCardiacPhase"),
        "acquisition_number": number(content, "FrameAcquisitionNumber"),
        "acquisition_time": acquired,
    }
    for name, keyword in _CONVERTED.items():
        if found.get(name) is None:
            found[name] = number(group.converted(keyword), keyword)
    if found["acquisition_time"] is None:
        found["acquisition_time"] = acquired_at(group.converted("AcquisitionTime"))
    return {name: value for name, value in found.items() if value is not None}


def _slice_without_place(group: _Group, content: Dataset) -> float | None:
    """What orders the slices of a volume that has no place in the patient.

    The position in the volume's own frame of reference (PS3.3 C.7.6.16.2.21), else In-Stack Position Number.
    """
    plane, turned = group.macro("PlanePositionVolumeSequence"), group.macro("PlaneOrientationVolumeSequence")
    if plane is not None and turned is not None:
        position, orientation = checked_place(
            numbers(plane, "ImagePositionVolume"), numbers(turned, "ImageOrientationVolume")
        )
        if position is not None:
            return round(float(position @ np.cross(orientation[:3], orientation[3:])), 3)
    return number(content, "InStackPositionNumber")


def _enhanced_split_key(group: _Group, common: Common, diffusion: Any) -> Common:
    """What puts a frame of an enhanced instance into another stack."""
    own: Common = {"map": is_map(diffusion)}
    if group.frame_type:
        own["derived"] = group.frame_type[0] == "DERIVED"
        own["localizer"] = group.frame_type[2:3] == ("LOCALIZER",)
    component = group.texts("MRImageFrameTypeSequence", "ComplexImageComponent")
    if component and component[0] not in ("", "MIXED"):
        own["component"] = component[0].lower()
    echo_time = group.number("MREchoSequence", "EffectiveEchoTime") or number(group.converted("EchoTime"), "EchoTime")
    if echo_time:
        own["echo_time"] = echo_time
    modifier = group.macro("MRModifierSequence")
    inversion = numbers(modifier, "InversionTimes") if modifier is not None else None
    if inversion and math.isfinite(inversion[0]):
        own["inversion_time"] = inversion[0]
    return own


def _place_of_group(group: _Group) -> tuple[Any, Any]:
    """Position and orientation of a frame; some converters leave the orientation at the top of the data set."""
    plane, turned = group.macro("PlanePositionSequence"), group.macro("PlaneOrientationSequence")
    if plane is None:
        return None, None
    orientation = numbers(group.ds if turned is None else turned, "ImageOrientationPatient")
    return checked_place(numbers(plane, "ImagePositionPatient"), orientation)
