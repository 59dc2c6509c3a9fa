"""Make the volumes of one arranged stack: voxels, place, time, display, and the upright one beside where it helps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from pydicom import Dataset

from node.volume.description import describe
from node.volume.display import display_of
from node.volume.geometry import Placement, place, stack_axes
from node.volume.intensities import fill
from node.volume.model import Diffusion, Display, Float, Frame, Geometry, Kind, Source, Volume
from node.volume.reasons import Warn, Warning
from node.volume.resample import upright
from node.volume.times import Arrangement

UNKNOWN_SPACING_MM = 1.0
"""Taken where nothing says how far pixels or slices lie apart."""

UNWEIGHTED_B_VALUE = 50
"""Weighting in s/mm2 up to which an image counts as unweighted: imaging gradients alone reach some of it."""

OF_A_VOLUME = {
    "echo_time": "echo time (0018,0081) in ms",
    "inversion_time": "inversion time (0018,0082) in ms",
    "flip_angle": "flip angle (0018,1314) in degrees",
    "kvp": "KVP (0018,0060)",
    "kernel": "convolution kernel (0018,1210)",
    "slice_thickness": "slice thickness (0018,0050) in mm",
}
"""What the slices of a volume are expected to share, and is told where they do not."""

PARAMETER_TOLERANCE = 0.01
"""Part by which such a number may differ: scanners write measured and rounded values."""

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
    times_s = _times(planes)
    middle = planes[len(planes) // 2][len(planes[0]) // 2]
    volume = Volume(
        voxels=voxels,
        affine_lps=None if placement is None else placement.affine_lps,
        spacing_mm=_flat_spacing(first) if placement is None else placement.spacing_mm,
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
        time_step_s=_time_step(planes, times_s, attributes),
        times_s=times_s,
        durations_s=_durations(planes),
        diffusion=_diffusion(planes),
        display=_display(dataset_of(middle.sop_instance_uid), middle, arrangement.frames),
        warnings=(*warnings, *arrangement.warnings, *_warnings(arrangement.frames, placement)),
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
    single = next(
        (abs(value) for value in (first.spacing_between_slices_mm, first.slice_thickness_mm) if value),
        UNKNOWN_SPACING_MM,
    )
    spacing = first.pixel_spacing or (UNKNOWN_SPACING_MM, UNKNOWN_SPACING_MM)
    thick = [frame.slice_thickness_mm for frame in frames if frame.slice_thickness_mm is not None]
    equally_thick = not thick or max(thick) - min(thick) <= PARAMETER_TOLERANCE * max(thick)
    return place(positions, axes, spacing, single, equally_thick=equally_thick)


def _flat_spacing(frame: Frame) -> tuple[float, float, float]:
    """Spacing of planes without a place: between columns, rows and slices."""
    rows_mm, columns_mm = frame.pixel_spacing or (UNKNOWN_SPACING_MM, UNKNOWN_SPACING_MM)
    between = frame.spacing_between_slices_mm or frame.slice_thickness_mm
    return columns_mm, rows_mm, abs(between) if between else UNKNOWN_SPACING_MM


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


def _times(planes: Sequence[Sequence[Frame]]) -> tuple[float, ...] | None:
    """Start of each time in seconds after the first; None where it is not known or does not ascend."""
    for starts in (_starts(planes, lambda frame: frame.time_key.get("frame_time")), _starts(planes, _acquired)):
        if starts is not None and len(starts) > 1 and (np.diff(starts) > 0).all():
            return tuple(float(start) for start in starts - starts[0])
    return None


def _durations(planes: Sequence[Sequence[Frame]]) -> tuple[float, ...] | None:
    """How long each time was acquired; None where it is not known, or differs between its slices."""
    durations = [{frame.duration_s for frame in time} for time in planes]
    if any(len(each) != 1 for each in durations):
        return None
    single = [duration for (duration,) in durations if duration is not None]
    return tuple(single) if len(single) == len(planes) else None


def _acquired(frame: Frame) -> float | None:
    """When a frame was acquired, with its date where that is known."""
    found: float | None = frame.time_key.get("acquisition_time")
    return found


def _starts(planes: Sequence[Sequence[Frame]], of: Callable[[Frame], float | None]) -> Float | None:
    """The earliest of each time, if every frame has one."""
    table = [[of(frame) for frame in time] for time in planes]
    if any(value is None for row in table for value in row):
        return None
    earliest: Float = np.array(table, float).min(axis=1)
    return earliest


def _time_step(
    planes: Sequence[Sequence[Frame]], times_s: tuple[float, ...] | None, attributes: Mapping[str, Any]
) -> float | None:
    """Seconds between times: Frame Time of a cine, Repetition Time of MR, else the usual difference of the starts."""
    if len(planes) == 1:
        return None
    cine = planes[0][0].time_key.get("frame_time") is not None
    if not cine and attributes.get("RepetitionTime"):
        return float(attributes["RepetitionTime"])
    return None if times_s is None else float(np.median(np.diff(times_s)))


def _diffusion(planes: Sequence[Sequence[Frame]]) -> tuple[Diffusion, ...] | None:
    """The gradient table: one entry for each time, None where no frame is weighted."""
    table = [time[0].diffusion for time in planes]
    if all(entry is None for entry in table):
        return None
    return tuple(entry if entry is not None else Diffusion(0.0) for entry in table)


# What a user should know


def _display(ds: Dataset, frame: Frame, frames: Sequence[Frame]) -> Display:
    """The display of the middle frame; windows are in rescaled units, padding in stored ones."""
    display = display_of(ds, frame.frame_number)
    varies = len({(each.slope, each.intercept) for each in frames}) > 1
    return replace(display, padding=None) if varies else display


def _warnings(frames: Sequence[Frame], placement: Placement | None) -> list[Warning]:
    """What is to be told of the frames of one volume, beyond how they were arranged."""
    first = frames[0]
    found = [] if placement is None else list(placement.warnings)
    if placement is None:
        found.append(Warning(Warn.NO_GEOMETRY, "no position or orientation in the patient; voxel axes only"))
    if first.pixel_spacing is None:
        found.append(Warning(Warn.SPACING_ASSUMED, f"no pixel spacing; {UNKNOWN_SPACING_MM:g} mm is taken"))
    scalings = len({(frame.slope, frame.intercept) for frame in frames})
    if scalings > 1:
        found.append(Warning(Warn.SLOPE_VARIES, f"{scalings} slopes and intercepts; they are applied to the voxels"))
    found += _varying(frames)
    if any(frame.lossy for frame in frames):
        found.append(Warning(Warn.LOSSY, "pixels went through a lossy codec"))
    if _lacks_directions(frames):
        found.append(
            Warning(
                Warn.NO_DIFFUSION_DIRECTIONS, "diffusion weighted, but the directions of the gradients are not known"
            )
        )
    return found


def _varying(frames: Sequence[Frame]) -> list[Warning]:
    """Warnings of what differs between the slices of one volume and is no dimension of it."""
    found = []
    for name, called in OF_A_VOLUME.items():
        keys = ({**frame.variant_key, **frame.split_key}.get(name) for frame in frames)
        values = {key for key in keys if key not in (None, ())}
        numeric = [value for value in values if isinstance(value, float)]
        if len(values) < 2 or (numeric and max(numeric) - min(numeric) <= PARAMETER_TOLERANCE * max(map(abs, numeric))):
            continue
        told = f"from {min(numeric):.6g} to {max(numeric):.6g}" if numeric else f"{len(values)} values"
        found.append(Warning(Warn.PARAMETER_VARIES, f"{called} differs within the volume: {told}"))
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
