"""Read the functional groups of an enhanced instance (PS3.3 C.7.6.16.2): a frame's own group, else the shared one.

The planes of enhanced ultrasound are placed in the volume's own frame of reference, not in the patient.
"""

import math
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from pydicom import Dataset

from node.dicom.values import copy_encoding, held_elements, items, number, one_item, standard_tag, stated_numbers, texts
from node.errors import ConversionRefused
from node.volume import vendors
from node.volume.elements import groups_of, item, stated_instant, text
from node.volume.geometry import ORIENTATION_TOLERANCE
from node.volume.read.diffusion import diffusion_of
from node.volume.read.lookup_tables import (
    PARAMETRIC_MAP,
    instead_of_rescale,
    real_world_mapping,
    units_of,
    with_mappings,
)
from node.volume.read.meaning import CONVERTED, meaning_of_frame, sequences_of, told_of
from node.volume.read.planes import checked_plane, false_place, is_rescaled, pixel_spacing, rescale
from node.volume.reasons import Reason

TURNED_MODALITIES = frozenset({"XA", "RF"})
"""Modalities whose images are projections, from an angle that the positioner has."""

ANGLES = ("Primary", "Secondary")
"""The axes of a positioner, in names of attributes."""

POSITION_POINTERS = frozenset({0x00200032, 0x00200037, 0x00209056, 0x00209057, 0x00209113, 0x00209116, 0x0020930E})
"""Dimension Index Pointers to a frame's position. They do not separate frames that share a position."""

TEMPORAL_POSITION_INDEX = 0x00209128

FRAME_TYPES = (
    "MRImageFrameTypeSequence",
    "CTImageFrameTypeSequence",
    "PETFrameTypeSequence",
    "XRay3DFrameTypeSequence",
    "ParametricMapFrameTypeSequence",
)

OF_INSTANCE = frozenset(map(standard_tag, ("SOPClassUID", "SOPInstanceUID", "InstanceNumber")))
"""Attributes of the converted instance itself, which those of the classic instances do not replace."""

FrameArguments = dict[str, Any]
"""Keyword arguments of `Frame`."""

MAX_SHIFT_MM = 0.01
"""Shift of a plane within itself, against the first one, that rounding explains."""

MICROMETRES = 3
"""Decimals of a distance in mm."""


def classic_datasets(ds: Dataset, frames: int) -> list[Dataset]:
    """Return the instance once for each frame, with the classic attributes that a legacy conversion left unassigned."""
    out = []
    for index in range(frames):
        groups = groups_of(ds, index + 1)[::-1]
        left = [own for group in groups for keyword in CONVERTED for own in items(group, keyword)[:1]]
        classic = ds
        if left:
            added = {tag: element for own in left for tag, element in held_elements(own).items()}
            classic = Dataset(
                {**held_elements(ds), **{tag: own for tag, own in added.items() if tag not in OF_INSTANCE}}
            )
            copy_encoding(ds, classic)
            for group in groups:
                for macro in (own for keyword in FRAME_TYPES for own in items(group, keyword)[:1]):
                    classic.ImageType = list(texts(macro, "FrameType"))  # so named by the conversion
        out.append(classic)
    return out


def dataset_of_frame(ds: Dataset, frame_number: int) -> Dataset:
    """Return what an instance states of one frame, its functional groups and their macros too, as one data set."""
    groups = groups_of(ds, frame_number)
    if not groups:
        return ds
    stated = dict(held_elements(ds))
    for own in reversed([*groups, *map(one_item, sequences_of(Dataset(), *groups))]):
        stated |= {tag: element for tag, element in held_elements(own).items() if tag not in OF_INSTANCE}
    of_frame = Dataset(stated)
    copy_encoding(ds, of_frame)
    return of_frame


class _Group:
    """The macros of one frame: those of its own functional groups, then the shared ones."""

    def __init__(self, groups: Dataset, ds: Dataset, shared: Self | None = None) -> None:
        self.groups, self.ds, self.shared = groups, ds, shared
        self._macros: dict[str, Dataset | None] = {}

    def macro(self, keyword: str) -> Dataset | None:
        """Return the item of a functional group's sequence."""
        if keyword not in self._macros:
            own = one_item(several) if (several := items(self.groups, keyword)) else None
            self._macros[keyword] = own if own is not None or self.shared is None else self.shared.macro(keyword)
        return self._macros[keyword]

    def macros(self, keyword: str) -> Sequence[Dataset]:
        """Return all items of a functional group's sequence."""
        own: Sequence[Dataset] = items(self.groups, keyword)
        return own if own or self.shared is None else self.shared.macros(keyword)

    def number(self, macro: str, keyword: str) -> float | None:
        macro_item = self.macro(macro)
        return None if macro_item is None else number(macro_item, keyword)

    def texts(self, macro: str, keyword: str) -> tuple[str, ...]:
        macro_item = self.macro(macro)
        return () if macro_item is None else texts(macro_item, keyword)

    @property
    def frame_type(self) -> tuple[str, ...]:
        """Frame Type (0008,9007), for any kind of image."""
        return next(filter(None, (self.texts(macro, "FrameType") for macro in FRAME_TYPES)), ())


def frame_arguments(
    ds: Dataset, classic: Sequence[Dataset], commons: Sequence[FrameArguments], modality_lut: bool
) -> list[FrameArguments] | None:
    """Return the arguments of `Frame` from the functional groups of an instance, or None without functional groups.

    `ds`: an enhanced instance. `classic`: the result of `classic_datasets`. `commons`: arguments of `Frame` of each
    of these. `modality_lut`: whether a Modality LUT is applied to the pixels; slope and intercept are not read
    then.

    One for each frame. Positions and spacings in mm (LPS), times in seconds.

    Raises ConversionRefused ``contradictory``: the groups do not match the number of frames, or a frame of a parametric
    map has several values. ``bad-geometry``: a position, orientation or spacing is impossible. ``unproven-layout``: the
    planes are no grid in the volume's own frame of reference.
    """
    per_frame: Sequence[Dataset] = items(ds, "PerFrameFunctionalGroupsSequence")
    shared = item(ds, "SharedFunctionalGroupsSequence")
    if not per_frame and shared is None:
        return None
    frames = len(classic)
    if per_frame and len(per_frame) != frames:
        raise ConversionRefused(
            Reason.CONTRADICTORY,
            f"Number of Frames (0028,0008) is {frames}, but Per-Frame Functional Groups Sequence (5200,9230) has "
            f"{len(per_frame)} items; they must be equal (PS3.3 C.7.6.16)",
        )
    pointers = [int(number(entry, "DimensionIndexPointer") or 0) for entry in items(ds, "DimensionIndexSequence")]
    dimensions = [index for index, pointer in enumerate(pointers) if pointer not in POSITION_POINTERS]
    whole = _Group(Dataset() if shared is None else shared, ds)
    own_groups = per_frame or [Dataset()] * frames
    groups = [_Group(own, of_frame, whole) for own, of_frame in zip(own_groups, classic, strict=True)]
    grouped = [_grouped(group, common, modality_lut, dimensions) for group, common in zip(groups, commons, strict=True)]
    if text(ds, "Modality") in TURNED_MODALITIES and len({_angles(group) for group in groups}) > 1:
        for own in grouped:  # projections from several angles are no slices, whatever place they state
            own["position"] = own["orientation"] = own["time_key"]["slice"] = None
        return grouped
    _place_in_volume(grouped, groups)
    _index_times(grouped, [pointers[index] for index in dimensions])
    return grouped


def _index_times(grouped: Sequence[FrameArguments], pointers: Sequence[int]) -> None:
    """Give frames the index of their temporal position, if that is a dimension and nothing else states it."""
    if TEMPORAL_POSITION_INDEX not in pointers:
        return
    place = pointers.index(TEMPORAL_POSITION_INDEX)
    for own in grouped:
        counted = own["time_key"].get("dimensions") or ()
        if place < len(counted) and "temporal_position" not in own["time_key"]:
            own["time_key"]["time_index"] = counted[place]


def _angles(group: _Group) -> tuple[float | None, ...]:
    """Return the angles of the positioner in degrees (PS3.3 C.8.19.6)."""
    return (
        *(group.number("PositionerPositionSequence", f"Positioner{axis}Angle") for axis in ANGLES),
        *(group.number("IsocenterReferenceSystemSequence", f"PositionerIsocenter{axis}Angle") for axis in ANGLES),
    )


def _place_in_volume(grouped: Sequence[FrameArguments], groups: Sequence[_Group]) -> None:
    """Number the frames without a position in the patient by their place in the volume's own frame of reference."""
    unplaced = [(own, group) for own, group in zip(grouped, groups, strict=True) if own["position"] is None]
    for (own, _), distance in zip(unplaced, distances_mm([_volume_plane(group) for _, group in unplaced]), strict=True):
        if distance is not None:
            own["time_key"] |= {"slice": distance, "slice_location": distance}


def _volume_plane(group: _Group) -> tuple[Any, Any]:
    """Return position and orientation of a frame in the volume's own frame of reference (PS3.3 C.7.6.16.2.21)."""
    plane, oriented = group.macro("PlanePositionVolumeSequence"), group.macro("PlaneOrientationVolumeSequence")
    if plane is None or oriented is None:
        return None, None
    return checked_plane(
        stated_numbers(plane, "ImagePositionVolume"), stated_numbers(oriented, "ImageOrientationVolume")
    )


def _grouped(group: _Group, common: FrameArguments, modality_lut: bool, dimensions: Sequence[int]) -> FrameArguments:
    """Return the arguments of `Frame` from the functional groups of one frame."""
    content = group.macro("FrameContentSequence") or Dataset()
    notes = false_place(group.ds, lambda _: _plane(group))
    position, orientation = (None, None) if notes else _plane(group)
    own: FrameArguments = {"position": position, "orientation": orientation, "notes": notes}
    measures = group.macro("PixelMeasuresSequence")
    if measures is not None:
        own["pixel_spacing"] = pixel_spacing(measures, placed=position is not None) or common["pixel_spacing"]
        own["slice_thickness_mm"] = number(measures, "SliceThickness")
        own["spacing_between_slices_mm"] = number(measures, "SpacingBetweenSlices")
    transformation, scaled = group.macro("PixelValueTransformationSequence"), common["split_key"]["scaled"]
    rescale_type = common["split_key"]["rescale_type"]
    if transformation is not None and not modality_lut:
        own["slope"], own["intercept"] = rescale(transformation)
        scaled, rescale_type = is_rescaled(transformation, ()), text(transformation, "RescaleType")
    elif not modality_lut and "RescaleSlope" not in group.ds:
        mapped = instead_of_rescale(group.ds, group.macros("RealWorldValueMappingSequence"))
        own["slope"], own["intercept"] = mapped or (common["slope"], common["intercept"])
        scaled = scaled or mapped is not None
    quantity = {}
    if text(group.ds, "SOPClassUID") == PARAMETRIC_MAP:
        mappings = group.macros("RealWorldValueMappingSequence")
        mapping, scaled = real_world_mapping(mappings), bool(mappings)
        own["slope"], own["intercept"], quantity = mapping.slope, mapping.intercept, {"quantity": mapping.quantity}
    of_frame = (*(() if group.shared is None else (group.shared.groups,)), group.groups)
    mappings = group.macros("RealWorldValueMappingSequence")
    rescaling: list[Any] = [own.get(name, common[name]) for name in ("slope", "intercept")]
    own["meaning"] = with_mappings(meaning_of_frame(common["meaning"], *of_frame), mappings, *rescaling)
    own["told"] = told_of(group.ds, *reversed(of_frame))
    if common["split_key"]["component"] is not None:  # magnetic resonance
        own["diffusion"] = diffusion_of(group.ds, None if group.shared is None else group.shared.groups, group.groups)
    stated = (stated_instant(content, f"Frame{name}DateTime", of=group.ds) for name in ("Acquisition", "Reference"))
    acquired = next(filter(None, stated), None)
    own["acquisition_time_s"] = acquired and acquired.second_s
    duration_ms = number(content, "FrameAcquisitionDuration")
    own["duration_s"] = duration_ms / 1000 if duration_ms and duration_ms > 0 else None
    variant = common["variant_key"]
    coil = vendors.frame_coil(group.ds, group.groups) or variant["coil"]
    own["split_key"] = {
        **_enhanced_split_key(group, common, own.get("diffusion")),
        **quantity,
        "scaled": scaled,
        "rescale_type": rescale_type,
        "real_world": units_of(mappings) or common["split_key"]["real_world"],
        "coil_element": vendors.coil_element(coil),
    }
    timing = "MRTimingAndRelatedParametersSequence"
    own["variant_key"] = {
        "image_type": (*(group.frame_type or variant["image_type"]), *vendors.frame_image_type(group.ds, group.groups)),
        "flip_angle": group.number(timing, "FlipAngle") or variant["flip_angle"],
        "repetition_time": group.number(timing, "RepetitionTime") or variant["repetition_time"],
        "stack": text(content, "StackID"),
        "kernel": group.texts("CTReconstructionSequence", "ConvolutionKernel") or variant["kernel"],
        "kvp": group.number("CTXRayDetailsSequence", "KVP") or variant["kvp"],
        "energy": group.number("MultienergyCTCharacteristicsSequence", "MonoenergeticEnergyEquivalent"),
        "velocity": _velocity(group),
        "coil": coil,
        "slice_thickness": own.get("slice_thickness_mm"),
    }
    own["time_key"] = _time_key(group, content, dimensions, acquired and acquired.clock_s)
    if acquired is not None:
        own["time_key"]["acquisition_offset"] = acquired.offset_s
    own["time_key"]["slice" if position is None else "in_stack"] = number(content, "InStackPositionNumber")
    return own


def _velocity(group: _Group) -> Any:
    """Return direction and step of velocity encoding (PS3.3 C.8.13.5.13); each of them is a separate image."""
    encoding = group.macro("MRVelocityEncodingSequence")
    if encoding is None:
        return vendors.frame_velocity(group.ds, group.groups)
    return (stated_numbers(encoding, "VelocityEncodingDirection"), number(encoding, "VelocityEncodingMaximumValue"))


def _time_key(group: _Group, content: Dataset, dimensions: Sequence[int], acquired: float | None) -> FrameArguments:
    """Return the values that order frames at one position, without those that the instance gives for all frames."""
    indices = stated_numbers(content, "DimensionIndexValues") or ()
    keys = {
        "temporal_position": number(content, "TemporalPositionIndex"),
        "dimensions": tuple(indices[index] for index in dimensions if index < len(indices)) or None,
        "trigger_time": group.number("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime"),
        "cardiac_phase": group.number("CardiacSynchronizationSequence", "NominalPercentageOfCardiacPhase"),
        "acquisition_number": number(content, "FrameAcquisitionNumber"),
        "acquisition_time": acquired,
        "frame_time": group.number("TemporalPositionSequence", "TemporalPositionTimeOffset"),
    }
    return {name: value for name, value in keys.items() if value is not None}


def _enhanced_split_key(group: _Group, common: FrameArguments, diffusion: Any) -> FrameArguments:
    """Return the traits that separate the frames of an enhanced instance into stacks."""
    own: FrameArguments = {
        "map": diffusion is not None and diffusion.derived,
        "data_type": group.texts("ImageDataTypeSequence", "DataType"),  # tissue, flow, ... of ultrasound
    }
    if group.frame_type:
        own["derived"] = group.frame_type[0] == "DERIVED"
        own["localizer"] = group.frame_type[2:3] == ("LOCALIZER",)
    if common["split_key"]["component"] is not None:  # magnetic resonance
        own["noise"] = "NOISE" in group.frame_type or vendors.is_noise_frame(group.ds, group.groups)
    component = group.texts("MRImageFrameTypeSequence", "ComplexImageComponent")
    if component and component[0] not in ("", "MIXED"):
        own["component"] = component[0].lower()
    echo_time = group.number("MREchoSequence", "EffectiveEchoTime") or common["split_key"]["echo_time"]
    if echo_time:
        own["echo_time"] = echo_time
    modifier = group.macro("MRModifierSequence")
    inversion = stated_numbers(modifier, "InversionTimes") if modifier is not None else None
    if inversion and math.isfinite(inversion[0]):
        own["inversion_time"] = inversion[0]
    return own


def _plane(group: _Group) -> tuple[Any, Any]:
    """Return position and orientation of a frame; some converters keep the orientation at the top of the data set."""
    plane, oriented = group.macro("PlanePositionSequence"), group.macro("PlaneOrientationSequence")
    if plane is None:
        return None, None
    orientation = stated_numbers(group.ds if oriented is None else oriented, "ImageOrientationPatient")
    return checked_plane(stated_numbers(plane, "ImagePositionPatient"), orientation)


def distances_mm(planes: Sequence[tuple[Any, Any]]) -> list[float | None]:
    """Return the distance of each plane along the normal of all of them; None for planes without a position.

    `planes`: sequence of (position, orientation); Image Position (Volume) (0020,9301) in mm, and Image Orientation
    (Volume) (0020,9302), or None and None.

    Raises ConversionRefused ``unproven-layout``: the planes are not parallel, or not above each other, so that they are
    no grid of voxels.

    PS3.3 C.7.6.16.2.21 and C.7.6.16.2.22.
    """
    placed = [(position, orientation) for position, orientation in planes if position is not None]
    if not placed:
        return [None] * len(planes)
    positions, orientations = (np.array(values) for values in zip(*placed, strict=True))
    if np.abs(orientations - orientations[0]).max() > ORIENTATION_TOLERANCE:
        raise _refused("are not parallel, as those of a probe that turns or tilts")
    row, column = orientations[0][:3], orientations[0][3:]
    moved = positions - positions[0]
    if max(np.abs(moved @ row).max(), np.abs(moved @ column).max()) > MAX_SHIFT_MM:
        raise _refused("shift within themselves")
    normal = np.cross(row, column)
    return [None if position is None else round(float(position @ normal), MICROMETRES) for position, _ in planes]


def _refused(what: str) -> ConversionRefused:
    return ConversionRefused(
        Reason.UNPROVEN_LAYOUT,
        f"the planes of the volume {what} (Plane Position (Volume) (0020,930E), Plane Orientation (Volume) "
        "(0020,930F)): they do not form a grid of voxels; send the volume that the scanner makes of them",
    )
