"""Geometry of planes: orientation clusters, positions along the normal, frames by position, and the affine of a stack.

Everything is in LPS+ millimetres (PS3.3 C.7.6.2.1.1); positions are centres of the first voxel of a plane.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from node.volume.model import Float, Frame, Geometry
from node.volume.reasons import VolumeWarning, WarningKind

ORIENTATION_TOLERANCE = 5e-4
"""Largest difference of a direction cosine within one orientation: 0.03 degrees, which is a tenth of a millimetre over
the widest field of view. Scanners jitter by 1e-7, files with few digits by 1e-4; no two scans are planned so close."""

POSITION_TOLERANCE_MM = 0.01
"""Planes nearer than this share a position, as in 3D Slicer. For pixels below 0.1 mm it is a tenth of a pixel."""

JITTER_TOLERANCE_MM = 0.05
"""Largest distance at which planes of several times still share a position: five times the tolerance of positions, even
if that is a fraction of a pixel. It applies only if it makes an even stack with equally many planes at each
position."""

SPACING_TOLERANCE = 0.01
"""Largest relative deviation of a slice distance from the median (as highdicom), or 0.01 mm if that is more."""

NOISE_SHARE = 0.015
"""Largest distance of a plane from the even grid that fits a stack best, as a share of its step, in a regular stack. It
is more than `SPACING_TOLERANCE`, because the noise of two planes adds up in their distance."""

FINE_SHARE = 0.1
"""Those 0.01 mm must not exceed this share of a slice distance, because slices of microscopic scans are closer."""

ROUNDING = 1 + 1e-6
"""Factor for distances with few digits, which may be exactly at the tolerance."""

JITTER_SHARE = 0.2
"""Planes jitter around an even grid if they are closer to it than this share of its step, and their distances differ by
no more. No slice is then missing."""

DRIFT_TOLERANCE_PIXELS = 0.1
"""Largest shift of planes within themselves over the whole stack; above it the stack is sheared."""

SHEARED_ADVICE = (
    "; programs of ITK (3D Slicer, ITK-SNAP, ANTs) open no sheared NIfTI: give them the resampled volume, or the "
    "formats mhd or nrrd"
)
"""The end of the warning about a tilted gantry; its resampled copy is not sheared."""


@dataclass(frozen=True, slots=True, eq=False)
class Axes:
    """Unit vectors (3,) of a stack in LPS: along a row, down a column, and the normal along which distances count."""

    row: Float
    column: Float
    normal: Float


@dataclass(frozen=True, slots=True, eq=False)
class Placement:
    """The placement of the planes of a stack.

    `affine_lps`, (4, 4) float64, mm: from voxel index (column, row, slice) to LPS+.
    `spacing_mm`, (float, float, float): between columns, between rows, between slices.
    `step_mm`: the usual distance along the normal between neighbouring planes.
    `along`, (N,) float, mm: distances of the planes from the first, along the normal.
    `offsets`, (N, 2) float, mm: shift of each plane along its rows and columns.
    """

    geometry: Geometry
    affine_lps: Float
    spacing_mm: tuple[float, float, float]
    step_mm: float
    axes: Axes
    along: Float
    offsets: Float
    warnings: tuple[VolumeWarning, ...]


def cluster_orientations(orientations: Float) -> NDArray[np.intp]:
    """Return a cluster number for each of (N, 6) orientations, in order of first appearance.

    Orientations of one cluster differ by at most `ORIENTATION_TOLERANCE` from its first.
    """
    labels = np.full(len(orientations), -1, np.intp)
    remaining = np.arange(len(orientations))
    cluster = 0
    while len(remaining):
        same = np.abs(orientations[remaining] - orientations[remaining[0]]).max(axis=1) <= ORIENTATION_TOLERANCE
        labels[remaining[same]] = cluster
        remaining = remaining[~same]
        cluster += 1
    return labels


def cluster_numbers(values: Float, tolerance: float) -> NDArray[np.intp]:
    """Return a cluster number for each value, ascending; gaps above `tolerance` divide clusters.

    `values`: (N,) float. `tolerance`: in the unit of `values`.

    Result: (N,) int; numbers from 0.
    """
    order = np.argsort(values, kind="stable")
    labels = np.empty(len(values), np.intp)
    labels[order] = np.concatenate(([0], np.cumsum(np.diff(values[order]) > tolerance)))
    return labels


def position_numbers(distances: Float, tolerance: float) -> NDArray[np.intp]:
    """Return a position number for each distance along the normal, (N,) int from 0, ascending with the distance.

    Distances within `tolerance` share a number. Distances that jitter by up to five times as much share one too, if
    only that makes an even stack with equally many planes at each position.

    `distances`, (N,) float, mm: distances of planes from a common origin; planes may share positions.
    `tolerance`: see `position_tolerance`.
    """
    near = cluster_numbers(distances, tolerance)
    if _is_whole(distances, near):
        return near
    jitter = tolerance * JITTER_TOLERANCE_MM / POSITION_TOLERANCE_MM
    loose = cluster_numbers(distances, jitter)
    if loose.max() == near.max() or not _is_whole(distances, loose):
        return near
    order = np.argsort(loose, kind="stable")
    starts = np.flatnonzero(np.diff(loose[order], prepend=-1))
    spread = np.maximum.reduceat(distances[order], starts) - np.minimum.reduceat(distances[order], starts)
    return loose if spread.max() <= jitter else near


def _is_whole(distances: Float, labels: NDArray[np.intp]) -> bool:
    """Return whether there are equally many planes at each of several evenly spaced positions."""
    counts = np.bincount(labels)
    return bool((counts == counts[0]).all()) and is_even(np.bincount(labels, distances) / counts)


def stack_axes(orientations: Float) -> Axes:
    """Return the orthonormal axes nearest to the mean of (N, 6) orientations of one cluster.

    Polar decomposition: the nearest orthonormal pair of vectors rotates neither of the two alone.
    """
    mean = orientations.mean(axis=0).reshape(2, 3)
    left, _, right = np.linalg.svd(mean, full_matrices=False)
    row, column = left @ right
    return Axes(row, column, np.cross(row, column))


def position_tolerance(pixel_spacing: tuple[float, float]) -> float:
    """Return the largest distance in mm at which planes with this pixel spacing (mm) share a position."""
    return min(POSITION_TOLERANCE_MM, 0.1 * min(pixel_spacing))


def place_planes(
    positions: Float,
    axes: Axes,
    pixel_spacing: tuple[float, float],
    single_spacing_mm: float,
    *,
    equally_thick: bool = True,
) -> Placement:
    """Return the placement of planes at distinct positions.

    `positions`, (N, 3) float, mm, LPS: *Image Position (Patient)* in ascending order along the normal.
    `pixel_spacing`, (float, float), mm: between rows, then between columns.
    `single_spacing_mm`: slice distance to use if there is only one plane.
    `equally_thick`: all slices have one thickness, so that a distance of several steps is a gap.

    The slice column of the affine is measured from the first to the last position. If distances are uneven, it is the
    median step, or the step of a stack with missing slices, so that nothing is stretched; the first plane is then at
    its true position. For planes that only jitter around an even grid, that grid is used.

    PS3.3 C.7.6.2.1.1.
    """
    relative = positions - positions[0]
    along = relative @ axes.normal
    offsets = np.stack([relative @ axes.row, relative @ axes.column], axis=1)
    count = len(positions)
    warnings: tuple[VolumeWarning, ...] = ()
    if count == 1:
        step, step_mm, geometry = axes.normal * single_spacing_mm, single_spacing_mm, Geometry.SINGLE
    else:
        geometry, warnings = _classify(along, offsets, pixel_spacing, equally_thick)
        step_mm = usual_step(along, equally_thick=equally_thick)
        step = relative[-1] / along[-1] * step_mm
        if step_mm < 0.2 * min(pixel_spacing):  # no scanner's slices are: the noise of two planes looks like them
            detail = f"slices lie {step_mm:.3g} mm apart, much less than pixels: they may be one position, and noise"
            warnings = *warnings, VolumeWarning(WarningKind.POSITIONS_DOUBTFUL, detail)
    between_rows, between_columns = pixel_spacing
    affine = np.eye(4)
    affine[:3, 0] = axes.row * between_columns
    affine[:3, 1] = axes.column * between_rows
    affine[:3, 2] = step
    affine[:3, 3] = positions[0]
    spacing = (float(between_columns), float(between_rows), float(np.linalg.norm(step)))
    return Placement(geometry, affine, spacing, step_mm, axes, along, offsets, warnings)


def median(values: Float) -> float:
    """Return what NumPy's function of this name does, which loads masked arrays: 15 ms of each conversion."""
    return float(np.sort(values)[(len(values) - 1) // 2 : len(values) // 2 + 1].mean())


def is_even(along: Float) -> bool:
    """Return whether ascending distances (mm) are even within tolerance."""
    if len(along) < 3:
        return True
    steps = np.diff(along)
    usual = median(steps)
    minimum = min(POSITION_TOLERANCE_MM, FINE_SHARE * usual)
    tolerance = max(SPACING_TOLERANCE * usual, minimum)
    return bool(np.abs(steps - usual).max() <= tolerance or off_grid(along) <= minimum * ROUNDING)


def missing_slices(along: Float, *, noise_share: float = 0.0) -> tuple[float, NDArray[np.intp]] | None:
    """Return the step of an even stack with gaps of whole slices, and how many are missing after each slice.

    The step is the median distance. It is the smallest distance if all others are multiples of it and fewer slices are
    missing than present.

    `along`, (N,) float, mm: ascending distances of planes along the normal, N >= 2.
    `noise_share`: largest distance of a plane from the even grid that fits them best, as a share of its step, if
        distances are no multiples of the step.

    The step is in mm, the numbers are (N - 1,) int; None if the distances are not multiples of a step, or if nothing is
    missing.
    """
    steps = np.diff(along)
    for step_mm in (median(steps), float(steps.min())):
        times = np.maximum(np.rint(steps / step_mm), 1).astype(np.intp)
        tolerance = max(SPACING_TOLERANCE * step_mm, min(POSITION_TOLERANCE_MM, FINE_SHARE * step_mm))
        missing = int((times - 1).sum())
        if missing == 0:
            continue
        is_uneven = (np.abs(steps - times * step_mm) > tolerance * times).any()
        if is_uneven and off_fitted_grid(along, np.cumsum([0, *times])) > noise_share * step_mm:
            continue
        if step_mm == median(steps) or missing < len(along):
            return step_mm, times - 1
    return None


def usual_step(along: Float, *, equally_thick: bool = True) -> float:
    """Return the usual distance in mm between neighbouring planes; see `place_planes`.

    `along`: (N,) float, mm; ascending distances of planes along the normal, N >= 2. `equally_thick`: all slices have
    one thickness, so that a distance of several steps is a gap.
    """
    step_mm = median(np.diff(along))
    if is_even(along) or _jitters(along, step_mm):
        return float((along[-1] - along[0]) / (len(along) - 1))
    gaps = missing_slices(along, noise_share=NOISE_SHARE) if equally_thick else None
    return step_mm if gaps is None else gaps[0]


def spacing_warnings(along: Float, *, equally_thick: bool = True) -> list[VolumeWarning]:
    """Return warnings about the distances between planes, or none if they are even.

    Either slices are missing (distances are multiples of the usual distance), or distances are irregular, or both are
    possible.
    The parameters are those of `usual_step`.
    """
    steps = np.diff(along)
    step_mm = median(steps)
    if is_even(along) and off_grid(along) <= JITTER_SHARE * step_mm:
        return []
    if off_fitted_grid(along, np.arange(len(along))) <= NOISE_SHARE * step_mm:
        return []
    uneven = VolumeWarning(
        WarningKind.IRREGULAR_SPACING,
        f"distances between slices range from {steps.min():.4g} to {steps.max():.4g} mm, with a median of "
        f"{step_mm:.4g} mm",
    )
    gaps = missing_slices(along, noise_share=NOISE_SHARE) if equally_thick else None
    if gaps is None:
        return [uneven]
    spacing_mm, missing = gaps
    before = ", ".join(str(index + 1) for index in np.flatnonzero(missing)[:20])
    count = int(missing.sum())
    what = "1 slice between others is missing" if count == 1 else f"{count} slices between others are missing"
    detail = f"{what} at {spacing_mm:.4g} mm spacing, after slice{'s' * (',' in before)} {before}"
    gap = VolumeWarning(WarningKind.MISSING_SLICE, detail)
    return [gap] if spacing_mm == step_mm else [gap, uneven]


def off_grid(along: Float) -> float:
    """Return the largest deviation in mm of ascending distances from the even grid between the first and the last."""
    return float(np.abs(along - np.linspace(along[0], along[-1], len(along))).max())


def off_fitted_grid(along: Float, numbers: NDArray[np.intp]) -> float:
    """Return the largest deviation in mm of distances from the even grid that fits them best.

    `numbers` are those of the planes on this grid.
    """
    centred = numbers - numbers.mean()
    step_mm = (centred @ along) / (centred @ centred)
    return float(np.ptp(along - step_mm * centred)) / 2


def _jitters(along: Float, step_mm: float) -> bool:
    """Return whether ascending distances are those of an even grid, except for noise that does not accumulate."""
    within = JITTER_SHARE * step_mm
    return bool(np.abs(np.diff(along) - step_mm).max() <= within and off_grid(along) <= within)


def _classify(
    along: Float, offsets: Float, pixel_spacing: tuple[float, float], equally_thick: bool
) -> tuple[Geometry, tuple[VolumeWarning, ...]]:
    """Return the geometry of two or more planes, and its warnings."""
    pixel = np.array([pixel_spacing[1], pixel_spacing[0]])
    share = (along / along[-1])[:, None]
    straight = np.abs((offsets - share * offsets[-1]) / pixel).max() <= DRIFT_TOLERANCE_PIXELS
    sheared = is_shifted(offsets, pixel_spacing)
    warnings = []
    if sheared and straight:
        degrees = np.degrees(np.arctan2(np.linalg.norm(offsets[-1]), along[-1]))
        detail = f"the gantry is tilted by {degrees:.2f} degrees"
        warnings.append(VolumeWarning(WarningKind.GANTRY_TILT, detail + SHEARED_ADVICE))
    uneven = spacing_warnings(along, equally_thick=equally_thick)
    if sheared:
        # The spacing of the volume is longer: it is that along the table.
        across = "; distances are at right angles to the slices"
        uneven = [replace(warning, detail=warning.detail + across) for warning in uneven]
    if not uneven and not straight:
        uneven = [
            VolumeWarning(WarningKind.IRREGULAR_SPACING, "the planes are shifted unevenly along their rows and columns")
        ]
    warnings += uneven
    if uneven:
        return Geometry.IRREGULAR, tuple(warnings)
    return (Geometry.SHEARED if sheared else Geometry.REGULAR), tuple(warnings)


def is_shifted(offsets: Float, pixel_spacing: tuple[float, float]) -> bool:
    """Return whether the last plane is shifted within itself: (N, 2) mm along rows and columns, from the first one.

    `pixel_spacing`: between rows, then between columns, in mm.
    """
    return bool(np.abs(offsets[-1] / np.array([pixel_spacing[1], pixel_spacing[0]])).max() > DRIFT_TOLERANCE_PIXELS)


def position_labels(frames: Sequence[Frame]) -> tuple[Float, NDArray[np.intp]]:
    """Return the distance of each frame along the stack's normal, and the number of its position.

    `frames`: N frames with position and orientation.

    Distances, (N,) float, mm, are from the origin of LPS. Numbers, (N,) int, ascend with the distance; frames of one
    number share a position.
    """
    axes = stack_axes(np.array([frame.orientation for frame in frames]))
    distances: Float = np.array([frame.position for frame in frames]) @ axes.normal
    return distances, position_numbers(distances, position_tolerance(frames[0].pixel_spacing or (1.0, 1.0)))


def distinct_distances(distances: Float, labels: NDArray[np.intp] | None = None) -> Float:
    """Return ascending distances, one for each position.

    `distances`: (N,) float, mm; distances of planes along the normal. `labels`: (N,) int; position numbers; without
    them every distance is a position.

    Result: (positions,) float, mm; the mean distance of each position.
    """
    if labels is None:
        return np.sort(distances)
    return np.asarray(np.bincount(labels, distances) / np.bincount(labels))


def group_by_position(frames: Sequence[Frame]) -> list[list[Frame]]:
    """Return the frames of each position, ascending along the normal."""
    _, labels = position_labels(frames)
    bins: list[list[Frame]] = [[] for _ in range(int(labels.max()) + 1)]
    for frame, label in zip(frames, labels, strict=True):
        bins[label].append(frame)
    return bins
