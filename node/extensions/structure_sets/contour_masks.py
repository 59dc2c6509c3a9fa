"""Masks of the regions of a structure set, on the slices of the image series that they were drawn on.

Contours are matched to slices by position along the normal of the slices. Nothing is interpolated: a slice without a
contour is empty, and a region whose contours lie between slices, or are oblique to them, has no mask. A pixel is inside
a contour if its centre is, by the even-odd rule.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from node.api import (
    Array,
    Assembly,
    ConversionRefused,
    Exclusion,
    Float,
    Geometry,
    Reason,
    Source,
    Volume,
    VolumeKind,
    VolumeWarning,
    WarningKind,
    frames_of,
    text,
)
from node.extensions.structure_sets.structure_set import Reference, RegionOfInterest, StructureSet

PLANE_TOLERANCE = 0.1
"""Largest distance of a point from the slice that its contour lies on, in steps between slices; treatment planning
systems write coordinates with two decimals or fewer."""

MAX_PLANE_TOLERANCE_MM = 0.25
"""Largest such distance if slices are thick."""

GAP = 1.5
"""Neighbouring slices with a larger distance, in usual steps, have a gap between them: slices are missing there."""

MAX_WORK = 1 << 34
"""Pixels that the contours of one structure set may span together; filling that many takes minutes."""

MAX_SHOWN = 20
"""Slices that a warning lists."""

OF_THE_GRID = frozenset(
    (
        WarningKind.GANTRY_TILT,
        WarningKind.MISSING_SLICE,
        WarningKind.IRREGULAR_SPACING,
        WarningKind.SPACING_ASSUMED,
        WarningKind.POSITIONS_VARY_IN_TIME,
    )
)
"""Warnings about an image volume that hold for masks on its slices."""

DECIMALS = 6
"""Corners are rounded to this many decimals of a pixel. Without that, the rounding errors of a conversion to
millimetres and back would decide whether a centre that lies exactly on an edge is inside."""

MAX_CROSSINGS_AT_ONCE = 1 << 20
"""Crossings of edges and rows that are held in memory at the same time."""

Window = tuple[slice, slice]
"""Rows and columns of a plane."""


@dataclass(frozen=True, slots=True, eq=False)
class ImageGrid:
    """The slices of an image volume, without its voxels.

    `volume`: the image volume, of which `voxels` has been replaced by an empty array.
    `shape`, (int, int, int): slices, rows, columns.
    `origins`, (slices, 3) float, mm, LPS: centre of the first voxel of each slice.
    `axes`, (3, 2) float, mm, LPS: from a voxel to the next one in its row, and in its column.
    `normal`, (3,) float: unit vector across the slices.
    `along`, (slices,) float, mm: ascending distances of the slices from the first, along the normal.
    `step_mm`: the usual distance between slices.
    """

    volume: Volume
    series_instance_uid: str
    frame_of_reference_uid: str
    shape: tuple[int, int, int]
    origins: Float
    axes: Float
    normal: Float
    along: Float
    step_mm: float
    slices_of: Mapping[str, frozenset[int]]

    def to_pixels(self, points: Float, index: int) -> Float:
        """Return (N, 3) points in mm, LPS, as columns and rows of a slice: (N, 2)."""
        pixels: Float = (points - self.origins[index]) @ self.axes / (self.axes**2).sum(axis=0)
        return pixels


@dataclass(frozen=True, slots=True)
class ReferencedImages:
    """The volumes of an image series to which a structure set refers, or the reason why they cannot be used."""

    grids: tuple[ImageGrid, ...] = ()
    problem: tuple[Reason, str] | None = None


def grids_of(series_instance_uid: str, assembly: Assembly, dataset_of: Callable[[str], Dataset]) -> list[ImageGrid]:
    """Return the grids of the volumes of a series whose slices have known positions in the patient, in order."""
    grids = [
        _grid(series_instance_uid, volume, dataset_of)
        for volume in assembly.volumes
        if volume.kind is VolumeKind.VOLUME and volume.affine_lps is not None
    ]
    return [grid for grid in grids if bool((np.diff(grid.along) > 0).all())]


def _grid(series_instance_uid: str, volume: Volume, dataset_of: Callable[[str], Dataset]) -> ImageGrid:
    assert volume.affine_lps is not None
    slices = defaultdict(set)
    for source in volume.sources:
        slices[source.sop_instance_uid].add(source.slice_index)
    _, count, rows, columns = volume.voxels.shape[:4]
    origins = volume.affine_lps[:3, 3] + np.arange(count)[:, None] * volume.affine_lps[:3, 2]
    if volume.geometry is Geometry.IRREGULAR:
        origins = _stated_origins(volume, count, dataset_of)
    axes = volume.affine_lps[:3, :2]
    normal = np.cross(axes[:, 0], axes[:, 1])
    normal /= np.linalg.norm(normal)
    along = (origins - origins[0]) @ normal
    return ImageGrid(
        volume=replace(volume, voxels=np.empty((0, 0, 0, 0), volume.voxels.dtype)),
        series_instance_uid=series_instance_uid,
        frame_of_reference_uid=text(dataset_of(volume.sources[0].sop_instance_uid), "FrameOfReferenceUID"),
        shape=(count, rows, columns),
        origins=origins,
        axes=axes,
        normal=normal,
        along=along,
        step_mm=float(np.median(np.diff(along))) if count > 1 else volume.spacing_mm[2],
        slices_of={uid: frozenset(indices) for uid, indices in slices.items()},
    )


def _stated_origins(volume: Volume, count: int, dataset_of: Callable[[str], Dataset]) -> Float:
    """Return the positions of uneven slices, which the affine does not give: (count, 3) mm, LPS; NaN if unknown."""
    origins = np.full((count, 3), np.nan)
    for source in volume.sources:
        if source.time_index == 0:
            frames = frames_of(dataset_of(source.sop_instance_uid))
            places = [frame.position for frame in frames if frame.frame_number == source.frame_number]
            if len(places) == 1 and places[0] is not None:  # a frame of tiles has several
                origins[source.slice_index] = places[0]
    return origins


def masks_of(
    structure_set: StructureSet, images: Mapping[tuple[str, str], ReferencedImages], stack: int, suffix: str = ""
) -> Iterator[Volume | Exclusion]:
    """Yield a mask for each region of a structure set, or the reason why it has none.

    A mask has the grid of the image volume that the region was drawn on: 1 where the centre of a voxel is inside an odd
    number of contours of its slice, else 0. Each is made when it is requested, because a hundred of them do not fit
    into memory.

    `images`: every series to which the structure set refers.
    `stack`: number of the masks' stack in their series.
    `suffix`: distinguishes the masks from those of other structure sets of the series.

    PS3.3 C.8.8.6. Contours that enclose others make holes, whether a keyhole joins them or not.
    """
    work = MAX_WORK
    for region in structure_set.regions:
        try:
            if region.problem is not None:
                raise ConversionRefused(*region.problem)
            grid, slices = _place(region, _grids_for(region, structure_set.references, images))
            work -= _work(region, grid, slices)
            if work < 0:
                detail = f"the contours of the structure set span more than {MAX_WORK} pixels"
                raise ConversionRefused(Reason.TOO_LARGE, detail)
            name = "-".join(filter(None, (f"roi{region.number}", suffix)))
            yield _mask(structure_set, region, grid, slices, stack, name)
        except ConversionRefused as refused:
            yield Exclusion(structure_set.sop_instance_uid, 0, Reason(refused.reason), refused.detail)
            continue
        for kind, count in sorted(region.without_area.items()):
            detail = f"{count} contours of ROI {region.number} are of type {kind}, which has no area"
            yield Exclusion(structure_set.sop_instance_uid, 0, Reason.NOT_AN_IMAGE, detail)


def _grids_for(
    region: RegionOfInterest, references: Sequence[Reference], images: Mapping[tuple[str, str], ReferencedImages]
) -> list[ImageGrid]:
    """Return the image volumes in the frame of reference of a region."""
    frame = region.frame_of_reference_uid
    own = [reference for reference in references if reference.frame_of_reference_uid == frame and frame]
    if not own:
        detail = (
            f"ROI {region.number}: the structure set names no other series in its frame of reference, (3006,0024) "
            "Referenced Frame of Reference UID; they are in (3006,0014) RT Referenced Series Sequence"
        )
        raise ConversionRefused(Reason.CONTRADICTORY, detail)
    usable = [images[reference.key] for reference in own]
    grids = [grid for found in usable for grid in found.grids if grid.frame_of_reference_uid == frame]
    problem = next((found.problem for found in usable if found.problem is not None), None)
    if not grids and problem is not None:
        raise ConversionRefused(*problem)
    if not grids:
        uid = own[0].series_instance_uid
        detail = f"ROI {region.number}: series {uid} has another frame of reference (0020,0052) than the region"
        if not any(found.grids for found in usable):
            detail = f"refers to series {uid}, which has no volume with a position in the patient"
        raise ConversionRefused(Reason.CONTRADICTORY, detail)
    return grids


Slices = list[int | None]
"""The slice that each contour of a region lies on; None: where the volume has no slice."""


def _place(region: RegionOfInterest, grids: Sequence[ImageGrid]) -> tuple[ImageGrid, Slices]:
    """Return the volume on which all contours of a region lie: with the most images that they name, else the first.

    Raises ConversionRefused ``bad-geometry``: contours lie between the slices of every volume, or oblique to them.
    """
    best: tuple[tuple[int, int], ImageGrid, Slices] | None = None
    problem = None
    for grid in grids:
        try:
            slices = [_slice_of(points, region.number, grid) for points in (each.points for each in region.contours)]
            named = _count_named(region, grid, slices)
        except ConversionRefused as refused:
            problem = problem or refused
            continue
        rank = (named, sum(index is not None for index in slices))
        if rank[1] and (best is None or rank > best[0]):
            best = rank, grid, slices
    if best is not None:
        return best[1], best[2]
    uid = grids[0].series_instance_uid
    detail = f"ROI {region.number}: no contour lies on a slice of series {uid}"
    raise problem or ConversionRefused(Reason.BAD_GEOMETRY, detail)


def _slice_of(points: Float, roi: int, grid: ImageGrid) -> int | None:
    """Return the slice that a contour lies on; None if it is beyond the ends of the volume, or in a gap."""
    along, step_mm = grid.along, grid.step_mm
    tolerance = min(PLANE_TOLERANCE * step_mm, MAX_PLANE_TOLERANCE_MM)
    distances = (points - grid.origins[0]) @ grid.normal
    low, high = float(distances.min()), float(distances.max())
    if high - low > 2 * tolerance:
        detail = f"ROI {roi}: a contour is oblique to the slices of series {grid.series_instance_uid}"
        raise ConversionRefused(Reason.BAD_GEOMETRY, detail)
    nearest = int(np.abs(along - (low + high) / 2).argmin())
    if max(high - along[nearest], along[nearest] - low) <= tolerance:
        return nearest
    after = int(np.searchsorted(along, (low + high) / 2))
    if 0 < after < len(along) and along[after] - along[after - 1] <= GAP * step_mm:
        detail = (
            f"ROI {roi}: a contour lies between slices of series {grid.series_instance_uid}, "
            f"{abs(along[nearest] - (low + high) / 2):.4g} mm from the nearest; nothing is interpolated"
        )
        raise ConversionRefused(Reason.BAD_GEOMETRY, detail)
    return None


def _count_named(region: RegionOfInterest, grid: ImageGrid, slices: Slices) -> int:
    """Count the contours that lie on the image that they name, (3006,0016) Contour Image Sequence."""
    count = 0
    for contour, index in zip(region.contours, slices, strict=True):
        named = frozenset[int]().union(*(grid.slices_of.get(uid, ()) for uid in contour.sop_instance_uids))
        if named and index is not None and index not in named:
            detail = f"ROI {region.number}: a contour lies on another slice than the image that it names"
            raise ConversionRefused(Reason.CONTRADICTORY, detail)
        count += bool(named)
    return count


def _work(region: RegionOfInterest, grid: ImageGrid, slices: Slices) -> int:
    """Return the number of pixels that the contours of a region span."""
    _, rows, columns = grid.shape
    spanned = 0
    for contour, index in zip(region.contours, slices, strict=True):
        if index is not None:
            window = window_of(grid.to_pixels(contour.points, index), rows, columns)
            spanned += len(contour.points) + _area(window)
    return spanned


def _area(window: Window) -> int:
    rows, columns = window
    return len(range(rows.start, rows.stop)) * len(range(columns.start, columns.stop))


def _mask(
    structure_set: StructureSet, region: RegionOfInterest, grid: ImageGrid, slices: Slices, stack: int, suffix: str
) -> Volume:
    """Return the mask of a region.

    Raises ConversionRefused ``contradictory``: a contour is there twice; ``bad-geometry``: the mask would be empty.
    """
    voxels = np.zeros((1, *grid.shape), np.uint8)
    on_slice = defaultdict(list)
    for contour, index in zip(region.contours, slices, strict=True):
        if index is not None:
            on_slice[index].append(grid.to_pixels(contour.points, index))
    crossing = [index for index, polygons in on_slice.items() if _fill(voxels[0, index], polygons, region.number)]
    if not voxels.any():
        detail = f"ROI {region.number}: no centre of a voxel of series {grid.series_instance_uid} is inside a contour"
        raise ConversionRefused(Reason.BAD_GEOMETRY, detail)
    lost = sum(index is None for index in slices)
    fields = {
        **region.fields,
        "contours": len(slices) - lost,
        "contours_without_slice": lost,
        "image_series_instance_uid": grid.series_instance_uid,
        "image_stack": grid.volume.stack,
        "image_suffix": grid.volume.suffix,
    }
    return Volume(
        voxels=voxels,
        affine_lps=grid.volume.affine_lps,
        spacing_mm=grid.volume.spacing_mm,
        geometry=grid.volume.geometry,
        kind=VolumeKind.MASK,
        stack=stack,
        suffix=suffix,
        modality="RTSTRUCT",
        sources=tuple(Source(structure_set.sop_instance_uid, 1, index, 0) for index in sorted(on_slice)),
        warnings=(
            *(warning for warning in grid.volume.warnings if warning.name in OF_THE_GRID),
            *_contour_warnings(sorted(on_slice), sorted(crossing), lost, len(slices)),
        ),
        attributes={**structure_set.attributes, "roi": fields},
    )


def _fill(plane: Array, polygons: Sequence[Float], roi: int) -> bool:
    """Set the pixels of a slice that are inside an odd number of polygons; return whether polygons cross each other.

    Larger polygons come first. A smaller one is then either inside what they cover, as a hole or an island, or beside
    it; otherwise they cross.
    """
    corners = {np.unique(np.round(polygon, DECIMALS), axis=0).tobytes() for polygon in polygons}  # in any direction
    if len(corners) < len(polygons):
        detail = f"ROI {roi}: a contour is there twice; by the rule of holes, neither of the two would count"
        raise ConversionRefused(Reason.CONTRADICTORY, detail)
    covered = np.zeros(plane.shape, bool)
    crossing = False
    for polygon in sorted(polygons, key=_enclosed_area, reverse=True):
        window = window_of(polygon, *plane.shape)
        inside, under = fill_polygon(polygon, window), covered[window]
        overlap = inside & under
        crossing |= bool(overlap.any()) and not np.array_equal(overlap, inside)
        under |= inside
        plane[window] ^= inside
    return crossing


def _enclosed_area(polygon: Float) -> float:
    column, row = (polygon - polygon[0]).T
    return abs(float(column @ np.roll(row, -1) - row @ np.roll(column, -1)))


def _contour_warnings(on_slices: Sequence[int], crossing: Sequence[int], lost: int, total: int) -> list[VolumeWarning]:
    warnings = []
    if lost:
        detail = f"{lost} of {total} contours lie where the image volume has no slice; the mask lacks them"
        warnings.append(VolumeWarning(WarningKind.CONTOURS_WITHOUT_SLICE, detail))
    skipped = sorted(set(range(on_slices[0], on_slices[-1])).difference(on_slices))
    if skipped:
        detail = (
            f"{len(skipped)} slices between others have no contour and are empty, because nothing is interpolated: "
            f"slices {_slice_numbers(skipped)}"
        )
        warnings.append(VolumeWarning(WarningKind.SLICES_WITHOUT_CONTOUR, detail))
    if crossing:
        detail = (
            f"contours cross each other on {len(crossing)} slices: {_slice_numbers(crossing)}; "
            "what two of them enclose is outside"
        )
        warnings.append(VolumeWarning(WarningKind.CONTOURS_CROSS, detail))
    return warnings


def _slice_numbers(indices: Sequence[int]) -> str:
    shown = ", ".join(str(index + 1) for index in indices[:MAX_SHOWN])
    return shown + (", ..." if len(indices) > MAX_SHOWN else "")


def window_of(corners: Float, rows: int, columns: int) -> Window:
    """Return the rows and columns of a plane in which a polygon can have pixels.

    `corners`: (N, 2) float; column and row of each corner; the centres of pixels have whole numbers.
    """
    low, high = np.ceil(np.round(np.array([corners.min(axis=0), corners.max(axis=0)]), DECIMALS))
    left, right = np.clip([low[0], high[0]], 0, columns).astype(int).tolist()
    top, bottom = np.clip([low[1], high[1]], 0, rows).astype(int).tolist()
    return slice(top, bottom), slice(left, right)


def fill_polygon(corners: Float, window: Window) -> NDArray[np.bool_]:
    """Return the pixels of a window whose centres are inside a polygon, by the even-odd rule.

    A centre on a left or upper edge is inside, one on a right or lower edge is outside: polygons that share an edge
    neither overlap nor leave a gap.

    `corners`: (N, 2) float; column and row of each corner, in order; the last one is joined to the first. `window`:
    that of `window_of`.

    Result: (rows, columns) bool; of the window.
    """
    rows, columns = window
    height, width = rows.stop - rows.start, columns.stop - columns.start
    if not height or not width:
        return np.zeros((height, width), bool)
    start = np.round(corners, DECIMALS)
    end = np.roll(start, -1, axis=0)
    upwards = start[:, 1] > end[:, 1]
    # From the upper to the lower end, so that an edge that two polygons share crosses a row at one place.
    upper, lower = np.where(upwards[:, None], end, start), np.where(upwards[:, None], start, end)
    first, after = (np.clip(np.ceil(ends[:, 1]), rows.start, rows.stop).astype(np.int64) for ends in (upper, lower))
    crossing = after > first
    upper, lower, first, counts = upper[crossing], lower[crossing], first[crossing], (after - first)[crossing]
    slopes = (lower[:, 0] - upper[:, 0]) / (lower[:, 1] - upper[:, 1])
    crossings = np.zeros(height * (width + 1), np.int64)
    begin, totals = 0, np.cumsum(counts)
    while begin < len(counts):
        done = totals[begin] - counts[begin]
        stop = max(begin + 1, int(np.searchsorted(totals, done + MAX_CROSSINGS_AT_ONCE, "right")))
        some = counts[begin:stop]
        edge = np.repeat(np.arange(begin, stop), some)
        row = first[edge] + np.arange(len(edge)) - np.repeat(np.cumsum(some) - some, some)
        at = np.ceil(np.round(upper[edge, 0] + (row - upper[edge, 1]) * slopes[edge], DECIMALS))
        column = np.clip(at, columns.start, columns.stop).astype(np.int64) - columns.start
        crossings += np.bincount((row - rows.start) * (width + 1) + column, minlength=len(crossings))
        begin = stop
    # A centre is inside if an odd number of edges cross its row at it or left of it.
    inside: NDArray[np.bool_] = np.cumsum(crossings.reshape(height, width + 1), axis=1)[:, :width] % 2 == 1
    return inside
