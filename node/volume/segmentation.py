"""Segmentations as label volumes."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from node.dicom.values import held_elements, items, number, numbers, text, whole
from node.errors import ConversionRefused
from node.volume.describe.sidecar_fields import describe, identifying_words, repeats
from node.volume.geometry import Placement, is_shifted, missing_slices, place_planes, position_tolerance, stack_axes
from node.volume.model import Array, Float, Geometry, Source, Volume
from node.volume.read.pixels import FrameReader, frame_reader
from node.volume.reasons import Reason

SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
LABEL_MAP = "1.2.840.10008.5.1.4.1.1.66.7"
SOP_CLASSES = frozenset((SEGMENTATION, LABEL_MAP))

D50_TO_SRGB = np.array(
    [[3.1338561, -1.6168667, -0.4906146], [-0.9787684, 1.9161415, 0.0334540], [0.0719453, -0.2289914, 1.4052427]]
)
"""CIE XYZ with white D50 to linear sRGB, adapted by Bradford's method."""

MAX_DESCRIBED = 1000
"""Largest number of segments that the sidecar describes."""

MAX_VOXELS = 1 << 31
"""Largest label volume: a few distant planes can span a grid of any size."""


def volumes(ds: Dataset, stack: int) -> tuple[Volume, ...]:
    """Return the segments of a segmentation.

    Segments that do not overlap, and label maps, become one volume whose values are the segment numbers. Overlapping
    segments become one volume each, of 0 and the segment number. Fractional segments become one volume each, of 0 to
    Maximum Fractional Value (0062,000E), which `slope` scales to the range 0 to 1. Empty planes that the sender left
    out between others are restored.

    Raises ConversionRefused: ``bad-geometry``: the planes have no position; ``uneven-segmentation``: they are unevenly
        spaced; ``contradictory`` or ``too-large``; or the pixels are refused.

    PS3.3 C.8.20 and A.51.
    """
    reader = frame_reader(ds, as_labels=True)
    if not any(position_of(ds, index) for index in range(reader.frames)):
        raise ConversionRefused(
            Reason.BAD_GEOMETRY,
            "the segmentation is of a projection, or lost its geometry: no frame has an Image Position (Patient) "
            "(0020,0032)",
        )
    grid = grid_of(ds, reader.frames)
    if grid.slices * reader.rows * reader.columns > MAX_VOXELS:
        raise ConversionRefused(
            Reason.TOO_LARGE,
            f"the segments span {grid.slices} planes of {reader.rows} x {reader.columns} voxels; the limit is "
            f"{MAX_VOXELS} voxels",
        )
    planes = _planes(ds, reader.frames, grid)
    if text(ds, "SOPClassUID") == LABEL_MAP:
        return (_volume(ds, stack, "", grid, reader, planes, [None] * reader.frames),)
    numbers_of_frames = [_segment_number(ds, index) for index in range(reader.frames)]
    fractional = text(ds, "SegmentationType") == "FRACTIONAL"
    if not fractional and not _overlap(reader, planes):
        return (_volume(ds, stack, "", grid, reader, planes, numbers_of_frames),)
    scale = 1.0
    if fractional:
        largest = whole(ds, "MaximumFractionalValue")
        if not largest or largest < 0:
            raise ConversionRefused(Reason.CONTRADICTORY, "(0062,000E) Maximum Fractional Value is missing or 0")
        scale = 1.0 / largest
    label_volumes = []
    for segment in sorted(set(numbers_of_frames)):
        chosen = [number if number == segment else 0 for number in numbers_of_frames]
        stored: list[int | None] = [None if number and fractional else number for number in chosen]
        label_volumes.append(_volume(ds, stack, f"seg{segment}", grid, reader, planes, stored, scale))
    return tuple(label_volumes)


@dataclass(frozen=True, slots=True, eq=False)
class PlaneGrid:
    """An even grid of planes.

    `geometry`: single, regular or sheared.
    `affine_lps`, (4, 4) float64, mm: from voxel index (column, row, slice) to LPS+.
    `spacing_mm`, (float, float, float): between columns, between rows, between slices.
    """

    geometry: Geometry
    affine_lps: Float
    spacing_mm: tuple[float, float, float]
    slices: int


def _planes(ds: Dataset, frames: int, grid: PlaneGrid) -> list[int]:
    """Return the slice index of each frame."""
    to_index = np.linalg.inv(grid.affine_lps)
    planes = []
    for index in range(frames):
        position = position_of(ds, index)
        if position is None:
            detail = f"frame {index + 1} of the segmentation has no Image Position (Patient) (0020,0032)"
            raise ConversionRefused(Reason.BAD_GEOMETRY, detail)
        plane = round(float((to_index @ np.array([*position, 1.0]))[2]))
        if not 0 <= plane < grid.slices:
            raise ConversionRefused(Reason.BAD_GEOMETRY, f"frame {index + 1} of the segmentation is outside its grid")
        planes.append(plane)
    return planes


def _segment_number(ds: Dataset, index: int) -> int:
    for item in frame_group(ds, index, "SegmentIdentificationSequence"):
        segment = number(item, "ReferencedSegmentNumber")
        if segment and segment == int(segment) and 0 < segment < 65536:
            return int(segment)
    detail = f"frame {index + 1} of the segmentation has no (0062,000B) Referenced Segment Number"
    raise ConversionRefused(Reason.CONTRADICTORY, detail)


def _overlap(reader: FrameReader, planes: list[int]) -> bool:
    """Return whether two segments claim one voxel."""
    taken: dict[int, Array] = {}
    for index in np.argsort(planes, kind="stable"):
        mask = reader(int(index)) != 0
        plane = planes[index]
        if plane not in taken:
            taken = {plane: mask}
        elif bool((taken[plane] & mask).any()):
            return True
        else:
            taken[plane] = taken[plane] | mask
    return False


def _volume(
    ds: Dataset,
    stack: int,
    suffix: str,
    grid: PlaneGrid,
    reader: FrameReader,
    planes: list[int],
    values: Sequence[int | None],
    slope: float = 1.0,
) -> Volume:
    """Return a volume of the frames whose value is not 0: that value where they are set, or, for None, as stored."""
    highest = max((value for value in values if value is not None), default=0)
    dtype: np.dtype[Any] = np.promote_types(reader.dtype, np.min_scalar_type(highest))
    voxels = np.zeros((1, grid.slices, reader.rows, reader.columns), dtype)
    uid = text(ds, "SOPInstanceUID")
    sources = []
    for index, value in enumerate(values):
        if value == 0:
            continue
        stored = reader(index)
        plane = voxels[0, planes[index]]
        plane[...] = stored if value is None else np.where(stored != 0, dtype.type(value), plane)
        sources.append(Source(uid, index + 1, planes[index], 0))
    return Volume(
        voxels=voxels,
        affine_lps=grid.affine_lps,
        spacing_mm=grid.spacing_mm,
        geometry=grid.geometry,
        stack=stack,
        suffix=suffix,
        modality=text(ds, "Modality"),
        sources=tuple(sources),
        slope=slope,
        attributes={**describe(ds, ()), "segments": segments_of(ds)},
    )


def segments_of(ds: Dataset) -> list[dict[str, Any]]:
    """Return what the sidecar tells of each segment: ``number``, ``label``, ``type`` and ``colour``, where stated.

    A label that repeats a word of the patient's names or identifiers is left out. Numbers are values of the label
    volume. Colours are red, green and blue, 0 to 255.

    PS3.3 C.8.20.4.
    """
    identifying, segments = identifying_words(ds), []
    for item in items(ds, "SegmentSequence")[:MAX_DESCRIBED]:
        label = text(item, "SegmentLabel")[:64]
        kind = [text(code, "CodeMeaning")[:64] for code in items(item, "SegmentedPropertyTypeCodeSequence")[:1]]
        fields = {
            "number": whole(item, "SegmentNumber"),
            "label": None if repeats(label, identifying) else label,
            "type": None if repeats(kind, identifying) else "".join(kind),
            "colour": _colour(numbers(item, "RecommendedDisplayCIELabValue", 3)),
        }
        segments.append({key: content for key, content in fields.items() if content not in (None, "")})
    return segments


def _colour(encoded: tuple[float, ...] | None) -> list[int] | None:
    """Return a CIELab value, 16 bits for each component (PS3.3 C.10.7.1.1), as sRGB."""
    if encoded is None or not all(0 <= component <= 65535 for component in encoded):
        return None
    lightness, red_green, blue_yellow = np.array(encoded) / 65535 * (100, 255, 255) - (0, 128, 128)
    middle = (lightness + 16) / 116
    ratios = np.array([middle + red_green / 500, middle, middle - blue_yellow / 200])
    white = (0.9642, 1.0, 0.8249)  # D50, as of ICC profiles
    xyz = np.where(ratios > 6 / 29, ratios**3, (ratios - 4 / 29) * 3 * (6 / 29) ** 2) * white
    linear = np.clip(D50_TO_SRGB @ xyz, 0, 1)
    srgb = np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)
    return [int(component) for component in np.rint(srgb * 255)]


PIXEL_DATA = 0x7FE00010

MIN_SPACING_MM = 1e-3
"""A smaller Spacing Between Slices is not taken for one."""


def grid_of(ds: Dataset, frames: int) -> PlaneGrid:
    """Return the grid of the planes of a segmentation; planes that were left out because they are empty count.

    Raises ConversionRefused: ``uneven-segmentation`` if no even grid has all planes, ``contradictory`` if they have no
        place.
    """
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
        detail = "the planes of the segmentation are unevenly spaced, as those of its images may be: no volume has them"
        raise ConversionRefused(Reason.UNEVEN_SEGMENTATION, detail)
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


def _upright(header: Dataset, *, trusted: bool) -> PlaneGrid | None:
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
    affine = found.affine[:, [2, 1, 0, 3]]
    if np.linalg.det(affine[:3, :3]) < 0:  # as in other volumes, slices ascend along the normal of rows and columns
        affine[:3, 3] += (slices - 1) * affine[:3, 2]
        affine[:3, 2] = 0.0 - affine[:3, 2]  # no zero is negative
    return PlaneGrid(geometry, affine, (between_columns, between_rows, between_slices), slices)


def _sheared(ds: Dataset, frames: int) -> PlaneGrid | None:
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
            return PlaneGrid(Geometry.SHEARED, affine, spacing, int(counted[-1]) + 1)
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
