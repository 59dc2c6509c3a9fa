"""United Imaging: grids of planes, diffusion, and fields of the sidecar."""

import math
import re
from collections.abc import Sequence

import numpy as np
from pydicom.dataset import Dataset

from node.dicom.values import (
    PrivateTag,
    number,
    numbers,
    private_items,
    private_numbers,
    private_text,
    text,
    texts,
    whole,
)
from node.errors import ConversionRefused
from node.volume.elements import Instant, stated_instant
from node.volume.model import Tiling
from node.volume.reasons import Reason
from node.volume.vendors.fields import Gradient, VendorField, along_image, notation, rounded, text_field

_CREATOR = "Image Private Header"
_PLANES = PrivateTag(0x0065, _CREATOR, 0x50, "DS")
_PLANE_SEQUENCE = PrivateTag(0x0065, _CREATOR, 0x51, "SQ")
_B_VALUE = PrivateTag(0x0065, _CREATOR, 0x09, "FD")
_DIRECTION = PrivateTag(0x0065, _CREATOR, 0x37, "FD")
_MAX_TILES = 4096

_PARALLEL = PrivateTag(0x0065, _CREATOR, 0x0D, "SH")
_ACCELERATION = re.compile(r"F:\s*(\d+(?:\.\d+)?)")
_TIME = re.compile(r"(\d\d)(\d\d)(\d\d(?:\.\d+)?)")
ECHO_SPACINGS_MS = (0.2, 2.0)
"""Echo spacings of echo-planar readouts. A duration that gives another one is not that of a readout: newer software
states the duration of the scan in the same element."""


def tiling(ds: Dataset) -> Tiling | None:
    """Return the layout of a grid (``VFRAME`` in Image Type); None for any other image.

    Each plane has an item of (0065,xx51) with its own Image Position (Patient).

    Raises ConversionRefused ``unproven-layout``: count or positions are missing, or do not match the matrix.
    """
    kinds = texts(ds, "ImageType")
    if kinds and "VFRAME" not in kinds:
        return None
    planes = private_numbers(ds, _PLANES, 1)
    if not kinds and (planes or (0.0,))[0] <= 1:  # without Image Type the count decides
        return None
    if not planes or not 1 <= planes[0] <= _MAX_TILES or planes[0] != int(planes[0]):
        raise _unproven("the number of planes (0065,xx50) is missing or impossible")
    count = int(planes[0])
    across = math.ceil(math.sqrt(count))
    down = math.ceil(count / across)
    rows, columns = whole(ds, "Rows"), whole(ds, "Columns")
    if not rows or not columns or rows % down or columns % across:
        raise _unproven(f"{rows} x {columns} pixels do not divide into {down} x {across} tiles")
    orientation = numbers(ds, "ImageOrientationPatient", 6)
    positions = [numbers(item, "ImagePositionPatient", 3) for item in private_items(ds, _PLANE_SEQUENCE)]
    if orientation is None or len(positions) != count or None in positions:
        raise _unproven(f"(0065,xx51) must have the positions of all {count} planes")
    times = [started and started.clock_s for started, _ in _plane_starts(ds)]
    return Tiling(
        count=count,
        tile_rows=rows // down,
        tile_columns=columns // across,
        columns_of_tiles=across,
        positions=np.array(positions, float),
        orientation=np.array(orientation),
        slice_times_s=_since_first(times),
    )


def _since_first(times_s: Sequence[float | None]) -> tuple[float, ...] | None:
    """Return times in seconds after the earliest, rounded to 0.1 ms; None if one is unknown."""
    known = [time for time in times_s if time is not None]
    return tuple(round(time - min(known), 4) for time in known) if len(known) == len(times_s) else None


def _unproven(problem: str) -> ConversionRefused:
    return ConversionRefused(Reason.UNPROVEN_LAYOUT, f"UIH grid: {problem}")


def gradient(ds: Dataset) -> Gradient | None:
    """Return the diffusion weighting of (0065,xx09) and (0065,xx37); the latter is along row, column, normal."""
    b_value = private_numbers(ds, _B_VALUE, 1)
    if not b_value or b_value[0] < 0:
        return None
    encoded = private_numbers(ds, _DIRECTION, 3)
    orientation = numbers(ds, "ImageOrientationPatient", 6)
    if encoded is None or orientation is None:
        return Gradient(b_value[0])
    return Gradient(b_value[0], along_image(encoded, orientation))


def _acceleration(ds: Dataset) -> float | None:
    match = _ACCELERATION.search(private_text(ds, _PARALLEL))
    return float(match[1]) if match and float(match[1]) > 0 else None


def readout_s(ds: Dataset) -> float | None:
    """Return the seconds of one echo train, from Acquisition Duration (0018,9073) of a plane; None if unknown."""
    durations = (number(source, "AcquisitionDuration") for source in (*private_items(ds, _PLANE_SEQUENCE)[:1], ds))
    duration_ms = next((duration for duration in durations if duration), None)
    echoes = whole(ds, "EchoTrainLength")
    if "EP" not in texts(ds, "ScanningSequence") or not duration_ms or not echoes or echoes < 2:
        return None
    least, most = ECHO_SPACINGS_MS
    return rounded(duration_ms / 1000, 9) if least <= duration_ms / echoes <= most else None


def _plane_starts(ds: Dataset) -> list[tuple[Instant | None, str]]:
    """Return when each plane of a grid was acquired, and its Acquisition Time (0008,0032) as it is stated."""
    planes = private_items(ds, _PLANE_SEQUENCE)
    return [
        (stated_instant(plane, "", "AcquisitionDate", "AcquisitionTime", of=ds), text(plane, "AcquisitionTime"))
        for plane in planes
    ]


def _earliest_time(ds: Dataset) -> str:
    """Return the time of day of the plane of a grid that was acquired first."""
    starts = [(started.clock_s, shown) for started, shown in _plane_starts(ds) if started is not None]
    match = _TIME.fullmatch(min(starts)[1]) if starts else None
    return f"{match[1]}:{match[2]}:{match[3]}" if match else ""


FIELDS = (
    VendorField("AcquisitionTime", f"{notation(_PLANE_SEQUENCE)}, earliest", _earliest_time),
    VendorField("ParallelReductionFactorInPlane", f"{notation(_PARALLEL)}: F:2", _acceleration),
    text_field("PhaseEncodingDirectionDisplayed", PrivateTag(0x0065, _CREATOR, 0x05, "SH")),
)
"""What United Imaging's images state about an MR acquisition."""
