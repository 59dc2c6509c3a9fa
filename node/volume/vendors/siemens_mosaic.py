"""Siemens mosaics: position, order and acquisition time of the tiles of one frame."""

import math
import re
from collections.abc import Mapping

import numpy as np
from pydicom.dataset import Dataset

from node.dicom.values import PrivateTag, number, numbers, private_numbers, texts, whole
from node.errors import ConversionRefused
from node.volume.model import Float, Tiling
from node.volume.reasons import Reason
from node.volume.vendors.siemens import HEADER, CsaHeader, csa_image, csa_numbers, protocol, protocol_integer

_IMAGES_IN_MOSAIC = PrivateTag(0x0019, HEADER, 0x0A, "US")
_REFERENCE_TIMES = PrivateTag(0x0019, HEADER, 0x29, "FD")

POSITION_TOLERANCE = 0.25
"""Largest distance of a mosaic's plane from the matching slice of the protocol, relative to the slice distance."""

_MAX_TILES = 4096
_ASCENDING, _DESCENDING, _INTERLEAVED = 1, 2, 4
_WITHOUT_TIMES = re.compile(r"V(A2\d|B1[0-3])")
"""Software versions whose mosaics do not list the times of their slices."""
_PROTOCOL_AXES = ("dSag", "dCor", "dTra")
_MILLISECONDS_PER_DAY = 86_400_000


def tiling(ds: Dataset) -> Tiling | None:
    """Return the layout of a mosaic; None for any other image.

    Image Position (Patient) of a mosaic is that of a single image of the mosaic's size with the same centre, so the
    first tile is offset by half of the surrounding area. The slices follow SliceNormalVector of the CSA header. If that
    was stripped, they follow the protocol's list of slices, provided that its first or last slice matches.

    Positions in mm, LPS; times in seconds.

    Raises ConversionRefused ``unproven-layout``: count, position or order of the tiles is unknown.
    """
    if not _is_mosaic(ds):
        return None
    csa, text = csa_image(ds), protocol(ds)
    count = _count(ds, csa, text)
    rows, columns = whole(ds, "Rows"), whole(ds, "Columns")
    across = math.ceil(math.sqrt(count))
    if not rows or not columns or rows % across or columns % across:
        raise _unproven(f"{rows} x {columns} pixels do not divide into {across} x {across} tiles")
    tile_rows, tile_columns = rows // across, columns // across
    orientation = numbers(ds, "ImageOrientationPatient", 6)
    corner, spacing = numbers(ds, "ImagePositionPatient", 3), numbers(ds, "PixelSpacing", 2)
    if not orientation or not corner or not spacing:
        raise _unproven(
            "Image Position (Patient) (0020,0032), Image Orientation (Patient) (0020,0037) or Pixel Spacing "
            "(0028,0030) is missing"
        )
    along_row, along_column = np.array(orientation[:3]), np.array(orientation[3:])
    first = (
        np.array(corner)
        + along_row * spacing[1] * (columns - tile_columns) / 2
        + along_column * spacing[0] * (rows - tile_rows) / 2
    )
    centre = first + along_row * spacing[1] * tile_columns / 2 + along_column * spacing[0] * tile_rows / 2
    steps = _steps(ds, csa, text, count, np.cross(along_row, along_column), centre)
    return Tiling(
        count=count,
        tile_rows=tile_rows,
        tile_columns=tile_columns,
        columns_of_tiles=across,
        positions=first + steps,
        orientation=np.array(orientation),
        slice_times_s=_slice_times(ds, csa, count) or _planned_times(ds, text, count, steps),
    )


def _is_mosaic(ds: Dataset) -> bool:
    """Return whether Image Type (0008,0008), or if that was removed the number of images, says that it is a mosaic."""
    kinds = texts(ds, "ImageType")
    if kinds:
        return "MOSAIC" in kinds
    count = private_numbers(ds, _IMAGES_IN_MOSAIC, 1) or csa_numbers(csa_image(ds), "NumberOfImagesInMosaic", 1)
    return bool(count and count[0] > 1)


def _unproven(problem: str) -> ConversionRefused:
    return ConversionRefused(Reason.UNPROVEN_LAYOUT, f"Siemens mosaic: {problem}")


def _count(ds: Dataset, csa: CsaHeader, text: Mapping[str, str]) -> int:
    count = private_numbers(ds, _IMAGES_IN_MOSAIC, 1) or csa_numbers(csa, "NumberOfImagesInMosaic", 1)
    if not count and text.get("sSliceArray.lSize", "").isdecimal():
        count = (float(text["sSliceArray.lSize"]),)
    if not count or not 1 <= count[0] <= _MAX_TILES or count[0] != int(count[0]):
        raise _unproven("the number of images is neither in (0019,xx0A), nor in the CSA header, nor in the protocol")
    return int(count[0])


def _steps(
    ds: Dataset, csa: CsaHeader, text: Mapping[str, str], count: int, across_plane: Float, centre: Float
) -> Float:
    """Return the offsets (count, 3) in mm LPS from the first tile to each tile."""
    distance = number(ds, "SpacingBetweenSlices")
    normal = csa_numbers(csa, "SliceNormalVector", 3)
    planned = _planned_slices(text, count)
    if normal and (distance or count == 1):
        forward = math.copysign(1.0, float(np.dot(normal, across_plane)))
        return np.outer(np.arange(count) * abs(distance or 0.0), forward * across_plane)
    if planned is None:
        raise _unproven(
            "the order of the tiles is neither in the CSA header (0029,xx10) nor in the protocol (0029,xx20); send the "
            "series with these private elements"
        )
    depth = planned @ across_plane
    tolerance = POSITION_TOLERANCE * (abs(distance) if distance else np.ptp(depth) / max(count - 1, 1))
    here = float(centre @ across_plane)
    if abs(depth[0] - here) <= tolerance:
        ordered = planned
    elif abs(depth[-1] - here) <= tolerance:
        ordered = planned[::-1]
    else:
        raise _unproven("the plane is at the position of neither the first nor the last slice of the protocol")
    return np.outer(ordered @ across_plane - ordered[0] @ across_plane, across_plane)


def _planned_slices(text: Mapping[str, str], count: int) -> Float | None:
    """Return the centres (count, 3) of the protocol's slices in mm LPS; the protocol leaves out zero coordinates."""
    if text.get("sSliceArray.lSize") != str(count):
        return None
    try:
        centres = np.array(
            [
                [float(text.get(f"sSliceArray.asSlice[{slice_}].sPosition.{axis}", 0.0)) for axis in _PROTOCOL_AXES]
                for slice_ in range(count)
            ]
        )
    except ValueError:
        return None
    return centres if np.isfinite(centres).all() else None


def _slice_times(ds: Dataset, csa: CsaHeader, count: int) -> tuple[float, ...] | None:
    times = csa_numbers(csa, "MosaicRefAcqTimes", count) or private_numbers(ds, _REFERENCE_TIMES, count)
    if not times or min(times) < 0 or max(times) >= _MILLISECONDS_PER_DAY:
        return None
    return tuple((time_ms - min(times)) / 1000 for time_ms in times)


def _planned_times(ds: Dataset, text: Mapping[str, str], count: int, steps: Float) -> tuple[float, ...] | None:
    """Return the planned acquisition time of each tile in seconds, for software that lists no times; None if in doubt.

    Slices follow each other upwards, downwards, or interleaved: first the odd ones if their number is odd, the even
    ones if it is even. A pause follows the last slice.
    """
    planned, repetition_ms = _planned_slices(text, count), number(ds, "RepetitionTime")
    mode, passes = protocol_integer(text, "sSliceArray.ucMode"), protocol_integer(text, "sSliceArray.lConc")
    if planned is None or not repetition_ms or passes != 1 or mode not in (_ASCENDING, _DESCENDING, _INTERLEAVED):
        return None
    if not _WITHOUT_TIMES.search(" ".join(texts(ds, "SoftwareVersions"))):
        return None
    slices = np.arange(count)
    if mode == _INTERLEAVED:
        first = 1 - count % 2
        ranks = np.argsort(np.concatenate((slices[first::2], slices[1 - first :: 2])))
    else:
        ranks = slices if mode == _ASCENDING else slices[::-1]
    if float((planned[-1] - planned[0]) @ (steps[-1] - steps[0])) < 0:
        ranks = ranks[::-1]
    step_s = (repetition_ms / 1000 - (protocol_integer(text, "lDelayTimeInTR") or 0) / 1_000_000) / count
    return tuple((ranks * step_s).tolist())
