"""Make the volumes of an arranged stack: voxels, position, time, display, and an upright copy if planes are tilted."""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    EnhancedPETImageStorage,
    PositronEmissionTomographyImageStorage,
)

from node.dicom.values import number, texts
from node.errors import counted
from node.volume.arrange.doubtful_places import place_warnings
from node.volume.arrange.duplicates import equal_times_warnings
from node.volume.arrange.slice_timing import slice_timing
from node.volume.arrange.times import FIELD_MAP, Arrangement
from node.volume.arrange.timing import (
    durations_s,
    is_of_excitations,
    is_of_labelling,
    missing_time_warnings,
    starts_s,
    step_s,
    unsteady_warnings,
)
from node.volume.derived import with_upright
from node.volume.describe.bids_fields import HERTZ
from node.volume.describe.emission import FRAME_FACTORS, emission_fields
from node.volume.describe.sidecar_fields import TOLERANCES, describe, several_items
from node.volume.display import display_of
from node.volume.geometry import (
    DRIFT_TOLERANCE_PIXELS,
    JITTER_TOLERANCE_MM,
    ROUNDING,
    Placement,
    place_planes,
    spacing_warnings,
    stack_axes,
    usual_step,
)
from node.volume.intensities import Filled
from node.volume.model import Diffusion, Display, Float, Frame, Geometry, Source, Volume, grouped
from node.volume.read.functional_groups import dataset_of_frame
from node.volume.read.meaning import PARAMETER_TOLERANCE, are_alike, differs, is_varying, name_of
from node.volume.read.planes import is_distance
from node.volume.reasons import VolumeWarning, WarningKind
from node.volume.rendering import padded
from node.volume.vendors import reverses_polarity
from node.volume.widths import width_warnings

_TELLING = ("ImageType", "Modality", "PhotometricInterpretation", "PixelPresentation")

_CODED_WORD = re.compile(
    r"(PHASE|WRAPPED)([ _-]?(MAP|IMAGE|DIFFERENCE))?"
    r"|(.*[^A-Z])?(ATLAS|BINARY|CLASS|LABEL|MASK|PARCELLATION|ROI|SEG|VELOCITY)"
    r"(S|ES|MENTED|MENTATIONS?|IFICATION)?([ _-]?MAPS?)?([^A-Z].*)?"
    r"|(UCUM )?([MU]?RAD|(MILLI|MICRO)?RADIA[NL]S?|DEG(REES?)?|\[?PI\]?\.?RAD|\xb0)|(PALETTE )?COLOR"
)
"""Kinds of images, and units, whose values are labels, numbers of colours or angles that wrap; not IN_PHASE."""

UNKNOWN_SPACING_MM = 1.0
"""Assumed distance between pixels or slices if the data set states none."""

_RESCALED = frozenset(
    {CTImageStorage, PositronEmissionTomographyImageStorage, EnhancedCTImageStorage, EnhancedPETImageStorage}
)
"""Classes whose images must state their rescaling."""

_OTHER_POLARITY = {"Flipped": "Unflipped", "Unflipped": "Flipped"}

UNWEIGHTED_B_VALUE = 50
"""Largest b-value in s/mm2 of an image that counts as unweighted: imaging gradients alone contribute to it."""

DatasetOf = Callable[[str], Dataset]
"""Returns the data set of a SOP Instance UID."""


MEASURED_PRIVATE = frozenset(
    {
        *("AcquisitionTime", "AcquisitionDuration", "TablePosition"),
        *("PhilipsRescaleSlope", "PhilipsRescaleIntercept", "PhilipsScaleSlope"),
    }
)
"""Private fields that may differ between the images of a volume: moments, places, what is rounded, and rescaling."""


def volumes_of(
    arrangement: Arrangement,
    filled: Filled,
    stack: int,
    suffix: str,
    dataset_of: DatasetOf,
    warnings: Sequence[VolumeWarning],
    numbers: Collection[int] = (),
) -> list[Volume]:
    """Return the volume of a stack, followed by an upright one if the planes are tilted or uneven.

    `arrangement`: frames by time and slice. `filled`: its voxels, and their slope and intercept
    (`node.volume.intensities.fill`). `stack`: number of the stack in its series. `suffix`: distinguishes the volumes
    from others of their series in file names. `warnings`: warnings that concern the whole series. `numbers`: Instance
    Numbers of all instances of the series.
    """
    planes = arrangement.planes
    first = planes[0][0]
    placement = _placement(planes[0])
    voxels, slope, intercept = filled
    ds = dataset_of(first.sop_instance_uid)
    attributes = describe(ds, arrangement.frames, planes)
    doubt = None
    if attributes.get("Modality") == "MR":
        bands = int(attributes.get("MultibandAccelerationFactor", 1))
        timing, doubt = slice_timing(ds, planes, attributes.get("RepetitionTime"), bands)
        if timing is not None:
            attributes["SliceTiming"] = timing
    if attributes.get("Modality") == "PT":
        attributes |= emission_fields(planes, dataset_of)
    if first.split_key.get("maps_field") and first.split_key.get("component") == FIELD_MAP:
        attributes.setdefault("Units", HERTZ)
    polarity = first.variant_key.get("polarity")
    if polarity == "reversed":
        attributes |= _reversed_fields(attributes)
    triggers: list[Any] = [time[0].time_key.get("trigger_time") for time in planes]
    if None not in triggers and is_varying(triggers):
        by_time = [float(f"{trigger * 0.001:.9g}") for trigger in triggers]
        attributes["of_each_time"] = attributes.get("of_each_time", {}) | {"TriggerTime": by_time}
    times_s = starts_s(planes)
    repetition_s = _repetition_s(planes, attributes)
    is_alone = polarity is None and not arrangement.in_turns
    is_proved = is_alone and (times_s is not None or not is_of_excitations(attributes, len(planes[0])))
    volume_repetition_s = repetition_s if is_proved else None
    others = set(numbers).difference(arrangement.numbers_left_out)
    is_labelled = is_of_labelling(attributes)
    # Each polarity has every second time.
    gaps = [] if polarity else missing_time_warnings(planes, others, repetition_s, is_labelled=is_labelled)
    time_step_s = None if gaps else step_s(planes, times_s, volume_repetition_s)
    if time_step_s is None and not gaps:
        gaps = unsteady_warnings(planes, volume_repetition_s)
    middle = planes[len(planes) // 2][len(planes[0]) // 2]
    volume = Volume(
        voxels=voxels,
        affine_lps=None if placement is None else placement.affine_lps,
        spacing_mm=_flat_spacing(planes[0]) if placement is None else placement.spacing_mm,
        geometry=Geometry.NONE if placement is None else placement.geometry,
        stack=stack,
        suffix=suffix,
        modality=str(attributes.get("Modality") or ds.get("Modality") or ""),
        sources=tuple(
            Source(frame.sop_instance_uid, frame.frame_number, slice_index, time_index)
            for time_index, time in enumerate(planes)
            for slice_index, frame in enumerate(time)
        ),
        slope=slope,
        intercept=intercept,
        least_step_mm=_least_step_mm(placement),
        time_step_s=time_step_s,
        times_s=times_s,
        durations_s=durations_s(planes),
        diffusion=_diffusion(planes, attributes),
        display=_display(dataset_of(middle.sop_instance_uid), middle, arrangement.frames, (slope, intercept)),
        warnings=(
            *warnings,
            *arrangement.warnings,
            *gaps,
            # Nobody corrects the slice timing of field maps and structural images.
            *([doubt] if doubt and len(planes) > 1 and not is_of_excitations(attributes, len(planes[0])) else []),
            *equal_times_warnings(planes, voxels),
            *_warnings(planes, placement, ds, several_items(ds, first, attributes)),
            *place_warnings(planes, placement),
            *_movement_warnings(planes, placement),
        ),
        attributes=attributes,
    )
    if placement is None or placement.geometry not in (Geometry.SHEARED, Geometry.IRREGULAR):
        return [volume]
    uncovered = volume.display.padding[0] if volume.display.padding else float(volume.voxels.min())
    return with_upright(volume, placement, _clipped(uncovered, volume.voxels.dtype), _codes(planes, volume, dataset_of))


def _codes(planes: Sequence[Sequence[Frame]], volume: Volume, dataset_of: DatasetOf) -> NDArray[np.bool_]:
    """Return which voxels are codes, by what each frame states: labels, phases, padding, and what is no number."""
    found = ~np.isfinite(volume.voxels)
    for source in volume.sources:
        frame, place = planes[source.time_index][source.slice_index], (source.time_index, source.slice_index)
        ds = dataset_of(source.sop_instance_uid)
        display = _display(ds, frame, [frame], (volume.slope, volume.intercept))
        found[place] |= padded(replace(volume, display=display), volume.voxels[place])
        found[place] |= _is_coded(frame, dataset_of_frame(ds, frame.frame_number))
    return found


def _is_coded(frame: Frame, ds: Dataset) -> bool:
    """Return whether a value between two voxels means something else than both: phases wrap, and codes are names."""
    traits, kinds = frame.split_key, [kind for keyword in _TELLING for kind in texts(ds, keyword)]
    kinds += map(str, (traits.get("units"), traits.get("rescale_type"), *(traits.get("real_world") or ())))
    kinds += (*(frame.variant_key.get("image_type") or ()), *(traits.get("data_type") or ()))
    return (
        traits.get("component") == "phase"
        or frame.variant_key.get("velocity") is not None
        or number(ds, "BitsAllocated") == 1
        or any(_CODED_WORD.fullmatch(kind.upper()) for kind in kinds)
    )


def _least_step_mm(placement: Placement | None) -> float | None:
    """Return the smallest distance between slices that lie unevenly."""
    if placement is None or placement.geometry is not Geometry.IRREGULAR:
        return None
    return float(np.diff(placement.along).min())


def _reversed_fields(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields about the direction of phase encoding, for a volume that was encoded against the stated one."""
    swapped = {"PhaseEncodingDirection": {"j": "j-", "j-": "j"}, "PhaseEncodingPolarityGE": _OTHER_POLARITY}
    return {name: other[attributes[name]] for name, other in swapped.items() if attributes.get(name) in other}


def _placement(frames: Sequence[Frame]) -> Placement | None:
    """Return the placement of the planes of one time; None if they have no position in the patient."""
    first = frames[0]
    if first.position is None:
        return None
    axes = stack_axes(np.array([frame.orientation for frame in frames]))
    positions = np.array([frame.position for frame in frames])
    single = _stated_spacing(first) or UNKNOWN_SPACING_MM
    spacing = first.pixel_spacing or (UNKNOWN_SPACING_MM, UNKNOWN_SPACING_MM)
    return place_planes(positions, axes, spacing, single, equally_thick=_equally_thick(frames))


def _stated_spacing(frame: Frame) -> float | None:
    """Return Spacing Between Slices (0018,0088) in mm, else Slice Thickness (0018,0050)."""
    stated = (frame.spacing_between_slices_mm, frame.slice_thickness_mm)
    return next((abs(value) for value in stated if value is not None and is_distance(value)), None)


def _equally_thick(frames: Sequence[Frame]) -> bool:
    known = [frame.slice_thickness_mm for frame in frames if frame.slice_thickness_mm is not None]
    return not known or max(known) - min(known) <= PARAMETER_TOLERANCE * max(known)


def _locations(frames: Sequence[Frame]) -> Float | None:
    """Return the ascending Slice Locations (0020,1041) in mm of two or more planes without a position; else None."""
    locations = [frame.time_key.get("slice_location") for frame in frames]
    if frames[0].position is not None or None in locations or len(set(locations)) < 2:
        return None
    return np.array(locations, float)


def _flat_spacing(frames: Sequence[Frame]) -> tuple[float, float, float]:
    """Return the spacing in mm of planes without a position: between columns, rows and slices."""
    rows_mm, columns_mm = frames[0].pixel_spacing or (UNKNOWN_SPACING_MM, UNKNOWN_SPACING_MM)
    locations = _locations(frames)
    if locations is not None:
        return columns_mm, rows_mm, usual_step(locations, equally_thick=_equally_thick(frames))
    return columns_mm, rows_mm, _stated_spacing(frames[0]) or UNKNOWN_SPACING_MM


def _clipped(value: float, dtype: np.dtype[Any]) -> float:
    """Return a value clipped to the range of an integer type."""
    return value if dtype.kind == "f" else float(np.clip(value, np.iinfo(dtype).min, np.iinfo(dtype).max))


def _repetition_s(planes: Sequence[Sequence[Frame]], attributes: Mapping[str, Any]) -> float | None:
    """Return the Repetition Time (0018,0080) of all times in seconds; None if it varies, as in a gated scan."""
    gated = is_varying(
        [time for plane in planes for frame in plane if (time := frame.variant_key.get("repetition_time"))]
    )
    return None if gated or not attributes.get("RepetitionTime") else float(attributes["RepetitionTime"])


def _diffusion(planes: Sequence[Sequence[Frame]], attributes: Mapping[str, Any]) -> tuple[Diffusion, ...] | None:
    """Return the gradient table, one entry for each time; None if no frame is weighted, or a b-value is unknown.

    Some scanners write a b-value of 0 into every image. It indicates diffusion only if Image Type does too.
    """
    table = [time[0].diffusion for time in planes]
    if any(entry is not None and entry.is_unknown for entry in table):
        return None
    weighted = any(entry is not None and entry.b_value > 0 for entry in table)
    if not weighted and ("DIFFUSION" not in attributes.get("ImageType", ()) or not any(table)):
        return None
    return tuple(entry if entry is not None else Diffusion(0.0) for entry in table)


def _display(ds: Dataset, frame: Frame, frames: Sequence[Frame], scaling: tuple[float, float]) -> Display:
    """Return the display of the middle frame; windows are in real values, padding in those of the voxels.

    `scaling`: slope and intercept of the voxels.
    """
    display = display_of(ds, frame.frame_number)
    if len({(frame.slope, frame.intercept) for frame in frames}) > 1:
        return replace(display, padding=None)
    if display.padding is None or scaling == (frame.slope, frame.intercept):
        return display
    low, high = (end * frame.slope + frame.intercept for end in display.padding)
    return replace(display, padding=(low, high))


def _warnings(
    planes: Sequence[Sequence[Frame]], placement: Placement | None, ds: Dataset, left_out: Sequence[str]
) -> list[VolumeWarning]:
    """Return the warnings about the frames of one volume, other than those of their arrangement.

    `left_out`: fields in which the items of a sequence differ.
    """
    frames = [frame for time in planes for frame in time]
    warnings = [] if placement is None else list(placement.warnings)
    notes = dict.fromkeys(note for frame in frames for note in frame.notes)
    if placement is None and WarningKind.NO_GEOMETRY not in {note.name for note in notes}:
        detail = "the images have no position or orientation in the patient; the volume has voxel axes only"
        warnings.append(VolumeWarning(WarningKind.NO_GEOMETRY, detail))
    warnings += _spacing_warnings(planes[0], placed=placement is not None)
    scalings = len({(frame.slope, frame.intercept) for frame in frames})
    if scalings > 1:
        detail = f"the slices have {scalings} different slopes and intercepts; the voxels are stored rescaled"
        warnings.append(VolumeWarning(WarningKind.SLOPE_VARIES, detail))
    if ds.get("SOPClassUID") in _RESCALED and not all(frame.split_key.get("scaled", True) for frame in frames):
        detail = (
            "Rescale Slope (0028,1053) is missing or 0, or Rescale Intercept (0028,1052) is missing (PS3.3 C.8.2.1, "
            "C.8.9.4): 1 and 0 stand for them, and the unit of the values is unknown"
        )
        warnings.append(VolumeWarning(WarningKind.VALUES_AS_STORED, detail))
    warnings += varying_parameters(frames)
    if left_out:
        detail = f"the items of a sequence differ in fields, which are left out: {', '.join(left_out)}"
        warnings.append(VolumeWarning(WarningKind.PARAMETER_VARIES, detail))
    if any(frame.lossy for frame in frames):
        warnings.append(VolumeWarning(WarningKind.LOSSY, "the pixels went through a lossy codec"))
    drawn_on = {frame.sop_instance_uid for frame in frames if frame.overlays}
    if drawn_on:
        detail = counted(len(drawn_on), "instance has", "instances have")
        detail += " overlays (60xx,3000), such as drawn regions or text; no file has them"
        warnings.append(VolumeWarning(WarningKind.OVERLAYS_LEFT_OUT, detail))
    is_phase = frames[0].split_key.get("component") == "phase"
    warnings += width_warnings((frame.widths for frame in frames), is_cyclic=is_phase)
    warnings += notes
    repairs = {frame.diffusion.repaired for frame in frames if frame.diffusion is not None} - {""}
    warnings += [VolumeWarning(WarningKind.REPAIRED, detail) for detail in sorted(repairs)]
    warnings += _weighting_warnings([frame.diffusion for frame in frames if frame.diffusion is not None], len(frames))
    if any(frame.diffusion is not None and frame.diffusion.is_unknown for frame in frames):
        detail = "images are diffusion weighted, but state no b-value (0018,9087): there is no gradient table"
        warnings.append(VolumeWarning(WarningKind.NO_DIFFUSION_DIRECTIONS, detail))
    elif detail := _missing_directions([time[0].diffusion for time in planes]):
        warnings.append(VolumeWarning(WarningKind.NO_DIFFUSION_DIRECTIONS, detail))
    if reverses_polarity(ds) and "polarity" not in frames[0].variant_key:
        detail = "images of reversed polarity may be mirrored along the phase encoding; it is not proved which"
        warnings.append(VolumeWarning(WarningKind.POLARITY_REVERSED, detail))
    return warnings


def _weighting_warnings(known: Sequence[Diffusion], frames: int) -> list[VolumeWarning]:
    """Return a warning if the names of sequences contradict b-values."""
    denied = [entry for entry in known if entry.denied_by is not None]
    if not denied:
        return []
    detail = (
        f"{len(denied)} of {counted(frames, 'image')} state b = {denied[0].b_value:g}, and "
        f"b = {denied[0].denied_by:g} by Sequence Name (0018,0024), or others as far apart: the stated b-value is used"
    )
    return [VolumeWarning(WarningKind.B_VALUES_DOUBTFUL, detail)]


def _movement_warnings(planes: Sequence[Sequence[Frame]], placement: Placement | None) -> list[VolumeWarning]:
    """Return a warning if slices lie farther from that of the first time than planes of one position may."""
    if placement is None or len(planes) < 2:
        return []
    away = np.array([[frame.position for frame in time] for time in planes], float)
    away -= away[0]
    columns = placement.affine_lps[:3, :3]
    normal = np.cross(columns[:, 0], columns[:, 1])
    along = away @ (normal / np.linalg.norm(normal))
    in_plane = np.sqrt(np.maximum((away**2).sum(axis=-1) - along**2, 0))
    limit_mm = DRIFT_TOLERANCE_PIXELS * min(np.linalg.norm(columns[:, :2], axis=0))
    if np.abs(along).max() <= JITTER_TOLERANCE_MM * ROUNDING and in_plane.max() <= limit_mm * ROUNDING:
        return []
    farthest_mm = float(np.linalg.norm(away, axis=-1).max())
    detail = f"slices lie up to {farthest_mm:.2f} mm from those of the first time; all times get its position"
    return [VolumeWarning(WarningKind.POSITIONS_VARY_IN_TIME, detail)]


def _spacing_warnings(frames: Sequence[Frame], *, placed: bool) -> list[VolumeWarning]:
    """Return warnings about assumed distances, and about distances that only Slice Location gives.

    A single picture needs no distance between slices.
    """
    warnings = []
    if frames[0].pixel_spacing is None:
        detail = f"the images state no pixel spacing; {UNKNOWN_SPACING_MM:g} mm is assumed"
        warnings.append(VolumeWarning(WarningKind.SPACING_ASSUMED, detail))
    locations = _locations(frames)
    if locations is not None:
        warnings += spacing_warnings(locations, equally_thick=_equally_thick(frames))
    elif placed == (len(frames) == 1) and _stated_spacing(frames[0]) is None:
        detail = f"the images state no distance between slices; {UNKNOWN_SPACING_MM:g} mm is assumed"
        warnings.append(VolumeWarning(WarningKind.SPACING_ASSUMED, detail))
    return warnings


def _missing_directions(table: Sequence[Diffusion | None]) -> str:
    """Return in words that weighted volumes have no direction, or zeros where others have one; empty if all have."""
    weighted = [
        entry for entry in table if entry is not None and entry.b_value > UNWEIGHTED_B_VALUE and not entry.derived
    ]
    directed = [entry for entry in weighted if entry.direction_lps is not None and entry.direction_lps.any()]
    if not directed:
        is_unknown = any(entry.direction_lps is None for entry in weighted)
        return "the volume is diffusion weighted, but no attribute states the gradient directions" if is_unknown else ""
    lacking = len(weighted) - len(directed)
    if not lacking:
        return ""
    return f"{lacking} of {len(weighted)} diffusion weighted times have no gradient direction: zeros stand for it"


def varying_parameters(frames: Sequence[Frame]) -> list[VolumeWarning]:
    """Return warnings about attributes of what the values mean that differ between the images of one volume.

    A private field has one if it differs between images that are alike in these attributes, which may decide it.
    """
    differing = differs(frames)
    found: dict[str, list[Any]] = {name_of(*path): values for path, values in differing.items()}
    alike = grouped(frames, lambda frame: tuple(map(frame.meaning.get, differing)))
    for name, values in (one for own in alike.values() for one in differs(own, "private").items()):
        if name not in MEASURED_PRIVATE and not are_alike(values, TOLERANCES.get(name, PARAMETER_TOLERANCE)):
            found[name] = values
    if len(velocities := {frame.variant_key.get("velocity") for frame in frames} - {None, ()}) > 1:
        found["velocity encoding"] = list(map(str, velocities))
    warnings = []
    for name, values in found.items():
        rows = [value if isinstance(value, (tuple, list)) else (value,) for value in values]
        numbers = [row[0] for row in rows if len(row) == 1 and isinstance(row[0], float)]
        are_numbers = len(numbers) == len(values)
        shown = f"from {min(numbers):.6g} to {max(numbers):.6g}" if are_numbers else f"{len(values)} values"
        detail = f"{name} differs within the volume: {shown}; compare its images before use"
        warnings.append(VolumeWarning(WarningKind.PARAMETER_VARIES, detail))
    return warnings


def times_of(volume: Volume) -> Iterator[Volume]:
    """Yield one volume for each time of `volume`, with a suffix such as ``t01``, in as many digits as needed."""
    digits = len(str(volume.times))
    for time in range(volume.times):
        yield replace(
            volume,
            voxels=volume.voxels[time : time + 1],
            suffix="-".join(filter(None, (volume.suffix, f"t{time + 1:0{digits}}"))),
            sources=tuple(replace(one, time_index=0) for one in volume.sources if one.time_index == time),
            time_step_s=None,
            times_s=() if volume.times_s is None else volume.times_s[time : time + 1],
            durations_s=None if volume.durations_s is None else volume.durations_s[time : time + 1],
            diffusion=None if volume.diffusion is None else volume.diffusion[time : time + 1],
            attributes=_at(volume, time),
        )


def _at(volume: Volume, time: int) -> dict[str, Any]:
    """Return the attributes of one time: of those that vary in time, its own values."""
    attributes = dict(volume.attributes)
    for name, values in attributes.pop("of_each_time", {}).items():
        attributes[name] = values[time]
    for name, _, _ in FRAME_FACTORS:
        if name in attributes:
            attributes[name] = attributes[name][time : time + 1]
    return {name: value for name, value in attributes.items() if value is not None}
