"""Make the volumes of one arranged stack: voxels, place, time, display, and the upright one beside where it helps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from pydicom import Dataset

from node.volume.arrange.temporal.positions import Arrangement
from node.volume.arrange.temporal.timing import durations_s, starts_s, step_s
from node.volume.describe.emission import emission_facts
from node.volume.describe.parameters import PARAMETER_TOLERANCE, differ, of_each_time, varying
from node.volume.describe.sidecar_fields import describe
from node.volume.display import display_of
from node.volume.geometry import Placement, place, stack_axes, unevenness, usual_step
from node.volume.intensities import fill
from node.volume.model import Diffusion, Display, Float, Frame, Geometry, Kind, Source, Volume
from node.volume.read.planes import is_distance
from node.volume.reasons import Warn, Warning
from node.volume.resample import upright

UNKNOWN_SPACING_MM = 1.0
"""Taken where nothing says how far pixels or slices lie apart."""

UNWEIGHTED_B_VALUE = 50
"""Weighting in s/mm2 up to which an image counts as unweighted: imaging gradients alone reach some of it."""

DatasetOf = Callable[[str], Dataset]
"""From SOP Instance UID to data set."""


def volumes_of(
    arrangement: Arrangement, stack: int, suffix: str, dataset_of: DatasetOf, warnings: Sequence[Warning]
) -> list[Volume]:
    """Return the volume of a stack, and an upright one beside it where planes are tilted or uneven.

    Raises
    ------
    FrameRefused
        A frame cannot be decoded.
    """
    planes = arrangement.planes
    first = planes[0][0]
    placement = _placement(planes[0])
    voxels, slope, intercept = fill(planes)
    ds = dataset_of(first.sop_instance_uid)
    attributes = describe(ds, arrangement.frames)
    if attributes.get("Modality") == "PT":
        attributes |= emission_facts(planes, dataset_of)
    changing = of_each_time(planes)
    if changing:
        attributes["of_each_time"] = changing
    times_s = starts_s(planes)
    middle = planes[len(planes) // 2][len(planes[0]) // 2]
    volume = Volume(
        voxels=voxels,
        affine_lps=None if placement is None else placement.affine_lps,
        spacing_mm=_flat_spacing(planes[0]) if placement is None else placement.spacing_mm,
        geometry=Geometry.NONE if placement is None else placement.geometry,
        kind=Kind.VOLUME,
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
        time_step_s=step_s(planes, times_s, _repetition_s(planes, attributes)),
        times_s=times_s,
        durations_s=durations_s(planes),
        diffusion=_diffusion(planes, attributes),
        display=_display(dataset_of(middle.sop_instance_uid), middle, arrangement.frames),
        warnings=(*warnings, *arrangement.warnings, *_warnings(planes, placement)),
        attributes=attributes,
    )
    if placement is None or placement.geometry not in (Geometry.SHEARED, Geometry.IRREGULAR):
        return [volume]
    return [volume, *_upright(volume, placement)]


# Place


def _placement(frames: Sequence[Frame]) -> Placement | None:
    """How the planes of one time lie; None where they have no place in the patient."""
    first = frames[0]
    if first.position is None:
        return None
    axes = stack_axes(np.array([frame.orientation for frame in frames]))
    positions = np.array([frame.position for frame in frames])
    single = _told_spacing(first) or UNKNOWN_SPACING_MM
    spacing = first.pixel_spacing or (UNKNOWN_SPACING_MM, UNKNOWN_SPACING_MM)
    return place(positions, axes, spacing, single, equally_thick=_equally_thick(frames))


def _told_spacing(frame: Frame) -> float | None:
    """Spacing Between Slices (0018,0088) in mm, or else Slice Thickness (0018,0050), for what no position tells."""
    told = (frame.spacing_between_slices_mm, frame.slice_thickness_mm)
    return next((abs(value) for value in told if value is not None and is_distance(value)), None)


def _equally_thick(frames: Sequence[Frame]) -> bool:
    thick = [frame.slice_thickness_mm for frame in frames if frame.slice_thickness_mm is not None]
    return not thick or max(thick) - min(thick) <= PARAMETER_TOLERANCE * max(thick)


def _locations(frames: Sequence[Frame]) -> Float | None:
    """Slice Locations (0020,1041) of two or more planes without a place in mm, ascending; None if one lacks it."""
    found = [frame.time_key.get("slice_location") for frame in frames]
    if frames[0].position is not None or None in found or len(set(found)) < 2:
        return None
    return np.array(found, float)


def _flat_spacing(frames: Sequence[Frame]) -> tuple[float, float, float]:
    """Spacing of planes without a place: between columns, rows and slices."""
    rows_mm, columns_mm = frames[0].pixel_spacing or (UNKNOWN_SPACING_MM, UNKNOWN_SPACING_MM)
    locations = _locations(frames)
    if locations is not None:
        return columns_mm, rows_mm, usual_step(locations, equally_thick=_equally_thick(frames))
    return columns_mm, rows_mm, _told_spacing(frames[0]) or UNKNOWN_SPACING_MM


def _upright(volume: Volume, placement: Placement) -> list[Volume]:
    """The volume interpolated onto an even grid that stands upright on its planes; none if it would be too large."""
    fill_value = volume.display.padding[0] if volume.display.padding else float(volume.voxels.min())
    made = upright(volume.voxels, placement, _held(fill_value, volume.voxels.dtype))
    if made is None:
        return []
    voxels, affine, step_mm = made
    nearest = np.rint(placement.along / step_mm).astype(int)
    return [
        replace(
            volume,
            voxels=voxels,
            affine_lps=affine,
            spacing_mm=(*volume.spacing_mm[:2], step_mm),
            geometry=Geometry.REGULAR,
            kind=Kind.RESAMPLED,
            sources=tuple(replace(source, slice_index=int(nearest[source.slice_index])) for source in volume.sources),
        )
    ]


def _held(value: float, dtype: np.dtype[Any]) -> float:
    """A value within the range of an integer type."""
    return value if dtype.kind == "f" else float(np.clip(value, np.iinfo(dtype).min, np.iinfo(dtype).max))


# Time


def _repetition_s(planes: Sequence[Sequence[Frame]], attributes: Mapping[str, Any]) -> float | None:
    """The Repetition Time (0018,0080) of all times in seconds; None where a gated scan measures one for each."""
    gated = differ([time for plane in planes for frame in plane if (time := frame.variant_key.get("repetition_time"))])
    return None if gated or not attributes.get("RepetitionTime") else float(attributes["RepetitionTime"])


def _diffusion(planes: Sequence[Sequence[Frame]], attributes: Mapping[str, Any]) -> tuple[Diffusion, ...] | None:
    """The gradient table: one entry for each time, None where no frame is weighted.

    Some scanners write a b-value of 0 into every image: it says that there is diffusion where Image Type does too.
    """
    table = [time[0].diffusion for time in planes]
    weighted = any(entry is not None and entry.b_value > 0 for entry in table)
    if not weighted and ("DIFFUSION" not in attributes.get("ImageType", ()) or not any(table)):
        return None
    return tuple(entry if entry is not None else Diffusion(0.0) for entry in table)


# What a user should know


def _display(ds: Dataset, frame: Frame, frames: Sequence[Frame]) -> Display:
    """The display of the middle frame; windows are in rescaled units, padding in stored ones."""
    display = display_of(ds, frame.frame_number)
    varies = len({(each.slope, each.intercept) for each in frames}) > 1
    return replace(display, padding=None) if varies else display


def _warnings(planes: Sequence[Sequence[Frame]], placement: Placement | None) -> list[Warning]:
    """What is to be told of the frames of one volume, beyond how they were arranged."""
    frames = [frame for time in planes for frame in time]
    found = [] if placement is None else list(placement.warnings)
    if placement is None:
        found.append(Warning(Warn.NO_GEOMETRY, "no position or orientation in the patient; voxel axes only"))
    found += _of_spacing(planes[0], placed=placement is not None)
    scalings = len({(frame.slope, frame.intercept) for frame in frames})
    if scalings > 1:
        found.append(Warning(Warn.SLOPE_VARIES, f"{scalings} slopes and intercepts; they are applied to the voxels"))
    found += varying(frames)
    if any(frame.lossy for frame in frames):
        found.append(Warning(Warn.LOSSY, "pixels went through a lossy codec"))
    if _lacks_directions(frames):
        found.append(
            Warning(
                Warn.NO_DIFFUSION_DIRECTIONS, "diffusion weighted, but the directions of the gradients are not known"
            )
        )
    return found


def _of_spacing(frames: Sequence[Frame], *, placed: bool) -> list[Warning]:
    """Warnings of distances that only Slice Location tells, or nothing; a single picture needs none between slices."""
    found = []
    if frames[0].pixel_spacing is None:
        found.append(Warning(Warn.SPACING_ASSUMED, f"no pixel spacing; {UNKNOWN_SPACING_MM:g} mm is taken"))
    locations = _locations(frames)
    if locations is not None:
        found += unevenness(locations, equally_thick=_equally_thick(frames))
    elif placed == (len(frames) == 1) and _told_spacing(frames[0]) is None:
        found.append(Warning(Warn.SPACING_ASSUMED, f"no spacing of slices; {UNKNOWN_SPACING_MM:g} mm is taken"))
    return found


def _lacks_directions(frames: Sequence[Frame]) -> bool:
    """Whether a frame is diffusion weighted in a direction that nothing tells."""
    return any(
        frame.diffusion is not None
        and frame.diffusion.b_value > UNWEIGHTED_B_VALUE
        and frame.diffusion.direction_lps is None
        and not frame.diffusion.derived
        for frame in frames
    )
