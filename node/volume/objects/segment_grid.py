"""The grid of the planes of a segmentation: highdicom's where it is upright, ours where the planes are sheared."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from node.dicom.values import held_elements, items, number, numbers, text
from node.errors import ConversionRefused
from node.extras import lacking
from node.volume.geometry import Placement, is_shifted, missing_slices, place_planes, position_tolerance, stack_axes
from node.volume.model import Float, Geometry
from node.volume.reasons import Reason

PIXEL_DATA = 0x7FE00010

MIN_SPACING_MM = 1e-3
"""A smaller Spacing Between Slices is not taken for one."""


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """An even grid of planes.

    Attributes
    ----------
    geometry : Geometry
        Single, regular or sheared.
    affine_lps : (4, 4) float64, mm
        From voxel index (column, row, slice) to LPS+.
    spacing_mm : (float, float, float)
        Between columns, between rows, between slices.
    slices : int
    """

    geometry: Geometry
    affine_lps: Float
    spacing_mm: tuple[float, float, float]
    slices: int


def grid_of(ds: Dataset, frames: int) -> Grid:
    """Return the grid of the planes of a segmentation; planes that were left out because they are empty count.

    Raises ConversionRefused: ``bad-geometry`` if no even grid has all planes, ``contradictory`` if they have no place,
    ``undecodable`` if highdicom is not installed.
    """
    for sentence in lacking("a segmentation", "results"):
        raise ConversionRefused(Reason.UNDECODABLE, sentence)
    header = Dataset({tag: element for tag, element in held_elements(ds).items() if tag != PIXEL_DATA})
    header.file_meta = FileMetaDataset()  # highdicom refuses transfer syntaxes that pydicom does not name
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    if "FrameOfReferenceUID" not in header:  # some anonymisers remove it; highdicom has no geometry without it
        header.FrameOfReferenceUID = generate_uid(entropy_srcs=[text(ds, "SOPInstanceUID")])
    try:
        grid = _upright(header, trusted=True) or _upright(header, trusted=False)
    except MemoryError:
        raise
    except Exception as error:  # a missing attribute makes highdicom raise anything
        detail = f"highdicom cannot read the segmentation ({type(error).__name__})"
        raise ConversionRefused(Reason.CONTRADICTORY, detail) from error
    grid = grid or _sheared(ds, frames)
    if grid is None:
        raise ConversionRefused(Reason.BAD_GEOMETRY, "the planes of the segmentation must be evenly spaced")
    return grid


def frame_group(ds: Dataset, index: int, keyword: str) -> Sequence[Dataset]:
    """Return a functional group of a frame: its own, else the shared one (PS3.3 C.7.6.16)."""
    own = items(ds, "PerFrameFunctionalGroupsSequence")[index : index + 1]
    for groups in (own, items(ds, "SharedFunctionalGroupsSequence")[:1]):
        for group in groups:
            if macro := items(group, keyword):
                return macro
    return ()


def position_of(ds: Dataset, index: int) -> tuple[float, ...] | None:
    """Return Image Position (Patient) of a frame in mm, if it has one."""
    macro = frame_group(ds, index, "PlanePositionSequence")
    return numbers(macro[0], "ImagePositionPatient", 3) if macro else None


def _upright(header: Dataset, *, trusted: bool) -> Grid | None:
    """Return the even upright grid of the planes, if there is one; `trusted`: Spacing Between Slices tells of gaps."""
    from highdicom.seg import Segmentation  # here: its import takes longer than the conversion of most series

    header = deepcopy(header)
    for keyword in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        for measures in (one for group in items(header, keyword) for one in items(group, "PixelMeasuresSequence")):
            if not (trusted and number(measures, "SpacingBetweenSlices")):
                measures.pop("SpacingBetweenSlices", None)
    found = Segmentation.from_dataset(header, copy=False).get_volume_geometry(allow_missing_positions=True)
    if found is None:
        return None
    slices = int(found.spatial_shape[0])
    between_slices, between_rows, between_columns = map(float, found.spacing)
    geometry = Geometry.SINGLE if slices == 1 else Geometry.REGULAR
    return Grid(geometry, found.affine[:, [2, 1, 0, 3]], (between_columns, between_rows, between_slices), slices)


def _sheared(ds: Dataset, frames: int) -> Grid | None:
    """Return the even grid of planes that are shifted within themselves, as by a tilted gantry; None without one."""
    positions = [position_of(ds, index) for index in range(frames)]
    planes = {_plane(ds, index) for index in range(frames)}
    plane = planes.pop()
    if planes or plane is None or None in positions:
        return None
    orientation, pixel_spacing, stated_mm = plane
    axes = stack_axes(np.array([orientation]))
    tolerance = position_tolerance(pixel_spacing)
    places = np.array(positions, dtype=float)
    along = places @ axes.normal
    order = np.argsort(along, kind="stable")
    distinct = order[np.append(True, np.diff(along[order]) > tolerance)]  # segments share planes
    if len(distinct) < 2 or not np.isfinite(along).all():
        return None
    placement = place_planes(places[distinct], axes, pixel_spacing, 1.0)
    if not is_shifted(placement.offsets, pixel_spacing):
        return None
    for counted in _numbers(placement, stated_mm):
        step = (places[distinct[-1]] - places[distinct[0]]) / counted[-1]
        on_grid = places[distinct[0]] + counted[:, None] * step
        if np.abs(on_grid - places[distinct]).max() <= tolerance:
            affine = placement.affine_lps.copy()
            affine[:3, 2] = step
            spacing = (*placement.spacing_mm[:2], float(np.linalg.norm(step)))
            return Grid(Geometry.SHEARED, affine, spacing, int(counted[-1]) + 1)
    return None


def _plane(ds: Dataset, index: int) -> tuple[tuple[float, ...], tuple[float, float], float | None] | None:
    """Return orientation, pixel spacing and Spacing Between Slices of a frame; None without the first two."""
    for orientation in frame_group(ds, index, "PlaneOrientationSequence")[:1]:
        for measures in frame_group(ds, index, "PixelMeasuresSequence")[:1]:
            cosines, spacing = numbers(orientation, "ImageOrientationPatient", 6), numbers(measures, "PixelSpacing", 2)
            if cosines is not None and spacing is not None and min(spacing) > 0:
                return cosines, (spacing[0], spacing[1]), number(measures, "SpacingBetweenSlices")
    return None


def _numbers(placement: Placement, stated_mm: float | None) -> list[Float]:
    """Return which numbers the planes may have on an even grid: by the stated spacing, or by their gaps."""
    found = [np.rint(placement.along / stated_mm)] if stated_mm and stated_mm > MIN_SPACING_MM else []
    gaps = missing_slices(placement.along)
    found.append(np.cumsum(np.append(0, gaps[1] + 1)) if gaps else np.arange(len(placement.along)))
    return [one for one in found if one[-1] > 0 and (np.diff(one) > 0).all()]
