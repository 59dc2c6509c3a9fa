"""Siemens: mosaics, CSA headers, diffusion."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from node.dicom.private import PrivateTag, private_bytes, private_numbers, private_text, private_texts
from node.dicom.values import number, numbers, texts, whole
from node.errors import ConversionRefused
from node.volume.model import Float
from node.volume.reasons import Reason
from node.volume.tiling import Tiling
from node.volume.vendors.csa import CsaHeader, csa_numbers, parse_csa, parse_protocol
from node.volume.vendors.gradients import Gradient, gradient_of_matrix

_HEADER = "SIEMENS MR HEADER"
_CSA = "SIEMENS CSA HEADER"
_HEADER_KIND = PrivateTag(0x0019, _HEADER, 0x08, "CS")
_IMAGES_IN_MOSAIC = PrivateTag(0x0019, _HEADER, 0x0A, "US")
_B_VALUE = PrivateTag(0x0019, _HEADER, 0x0C, "IS")
_DIRECTIONALITY = PrivateTag(0x0019, _HEADER, 0x0D, "CS")
_DIRECTION = PrivateTag(0x0019, _HEADER, 0x0E, "FD")
_B_MATRIX = PrivateTag(0x0019, _HEADER, 0x27, "FD")
_REFERENCE_TIMES = PrivateTag(0x0019, _HEADER, 0x29, "FD")
_CSA_IMAGE = PrivateTag(0x0029, _CSA, 0x10, "OB")
_CSA_SERIES = PrivateTag(0x0029, _CSA, 0x20, "OB")
_DWELL_TIME = PrivateTag(0x0019, _HEADER, 0x18, "IS")
_COILS = PrivateTag(0x0051, _HEADER, 0x0F, "LO")
XA_SERIES = PrivateTag(0x0021, "SIEMENS MR SDS 01", 0xFE, "SQ")
"""What XA knows of all frames, in the Shared Functional Groups."""
_XA_PROTOCOL = PrivateTag(0x0021, "SIEMENS MR SDS 01", 0x19, "OB")
_XA_DWELL_TIME = PrivateTag(0x0021, "SIEMENS MR SDI 02", 0x42, "IS")
_XA_IMAGE_TYPE = PrivateTag(0x0021, "SIEMENS MR SDI 02", 0x75, "CS")
_XA_SEQUENCE = {
    "ScanningSequence": PrivateTag(0x0021, "SIEMENS MR SDS 01", 0x5A, "CS"),
    "SequenceVariant": PrivateTag(0x0021, "SIEMENS MR SDS 01", 0x5B, "CS"),
    "ScanOptions": PrivateTag(0x0021, "SIEMENS MR SDS 01", 0x5C, "CS"),
}
_XA_COILS = PrivateTag(0x0021, "SIEMENS MR SDI 02", 0x4F, "LO")

PLACE_TOLERANCE = 0.25
"""Largest distance of a mosaic's plane from the slice of the protocol that it is taken for, in slice distances."""

_MAX_TILES = 4096
_ASCENDING, _DESCENDING, _INTERLEAVED = 1, 2, 4
_WITHOUT_TIMES = re.compile(r"V(A2\d|B1[0-3])")
"""Software from before mosaics listed the times of their slices."""
_ACCELERATIONS = {
    "ParallelReductionFactorInPlane": "sPat.lAccelFactPE",
    "ParallelReductionFactorOutOfPlane": "sPat.lAccelFact3D",
}
_GRAPPA = 2
_RECEIVE_COIL = re.compile(
    r"(asCoilSelectMeas|sCoilSelectMeas\.aRxCoilSelectData)\[0\]\.asList\[\d+\]\.sCoilElementID\.tCoilID"
)
_PARTIAL_FOURIER = {1: 0.5, 2: 0.625, 4: 0.75, 8: 0.875, 16: 1.0}
_FIELD_MAPPING = "\\gre_field_mapping"
"""The sequence whose phase images are the difference of two echoes."""
_PROTOCOL_AXES = ("dSag", "dCor", "dTra")
_MILLISECONDS_PER_DAY = 86_400_000


def csa_image(ds: Dataset) -> CsaHeader:
    """Return the elements of the CSA image header (0029,xx10); empty where it was stripped."""
    return parse_csa(private_bytes(ds, _CSA_IMAGE) or b"")


def protocol(ds: Dataset) -> Mapping[str, str]:
    """Return the measurement protocol of the CSA series header (0029,xx20) or of XA's (0021,xx19); empty without."""
    for tag in (_CSA_SERIES, _XA_PROTOCOL):
        found = parse_protocol(private_bytes(ds, tag) or b"")
        if found:
            return found
    return {}


def tiling(ds: Dataset) -> Tiling | None:
    """Return the layout of a mosaic; None where the instance is none.

    Image Position (Patient) of a mosaic is that of a single image of the mosaic's size around the same centre; the
    first tile is half of what lies around it further in. The slices go along SliceNormalVector of the CSA header;
    where that was stripped, as the protocol's list of slices does, if the first or the last of them is in place.

    Raises
    ------
    ConversionRefused
        ``unproven-layout``: count, place or order of the tiles cannot be known.
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
        raise _unproven("Image Position, Image Orientation (Patient) or Pixel Spacing is missing")
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
        rows_of_tiles=across,
        columns_of_tiles=across,
        positions=first + steps,
        orientation=np.array(orientation),
        slice_times_s=_slice_times(ds, csa, count) or _planned_times(ds, text, count, steps),
    )


def _is_mosaic(ds: Dataset) -> bool:
    """Whether Image Type (0008,0008) says so, or, where that was taken away, the number of images in the mosaic."""
    kinds = texts(ds, "ImageType")
    if kinds:
        return "MOSAIC" in kinds
    count = private_numbers(ds, _IMAGES_IN_MOSAIC, 1) or csa_numbers(csa_image(ds), "NumberOfImagesInMosaic", 1)
    return bool(count and count[0] > 1)


def _unproven(what: str) -> ConversionRefused:
    return ConversionRefused(Reason.UNPROVEN_LAYOUT, f"Siemens mosaic: {what}")


def _count(ds: Dataset, csa: CsaHeader, text: Mapping[str, str]) -> int:
    found = private_numbers(ds, _IMAGES_IN_MOSAIC, 1) or csa_numbers(csa, "NumberOfImagesInMosaic", 1)
    if not found and text.get("sSliceArray.lSize", "").isdecimal():
        found = (float(text["sSliceArray.lSize"]),)
    if not found or not 1 <= found[0] <= _MAX_TILES or found[0] != int(found[0]):
        raise _unproven("the number of its images is neither in (0019,xx0A), the CSA header nor the protocol")
    return int(found[0])


def _steps(
    ds: Dataset,
    csa: CsaHeader,
    text: Mapping[str, str],
    count: int,
    across_plane: Float,
    centre: Float,
) -> Float:
    """Return the (count, 3) ways from the first tile to each."""
    distance = number(ds, "SpacingBetweenSlices")
    normal = csa_numbers(csa, "SliceNormalVector", 3)
    planned = _planned_slices(text, count)
    if normal and (distance or count == 1):
        forward = math.copysign(1.0, float(np.dot(normal, across_plane)))
        return np.outer(np.arange(count) * abs(distance or 0.0), forward * across_plane)
    if planned is None:
        raise _unproven("neither the CSA header nor the slices of the protocol tell the order of the tiles")
    depth = planned @ across_plane
    tolerance = PLACE_TOLERANCE * (abs(distance) if distance else np.ptp(depth) / max(count - 1, 1))
    here = float(centre @ across_plane)
    if abs(depth[0] - here) <= tolerance:
        ordered = planned
    elif abs(depth[-1] - here) <= tolerance:
        ordered = planned[::-1]
    else:
        raise _unproven("its plane is neither where the first nor where the last slice of the protocol lies")
    return np.outer(ordered @ across_plane - ordered[0] @ across_plane, across_plane)


def _planned_slices(text: Mapping[str, str], count: int) -> Float | None:
    """Return the (count, 3) centres of the protocol's slices in mm LPS; zero coordinates are not written."""
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
    return tuple((each - min(times)) / 1000 for each in times)


def _planned_times(ds: Dataset, text: Mapping[str, str], count: int, steps: Float) -> tuple[float, ...] | None:
    """Return when each tile was to be acquired, of software that lists no times; None where the protocol is in doubt.

    Slices follow each other up, down, or first every other one: the odd ones of an odd number, the even ones of an
    even one. A pause comes after the last.
    """
    planned, repetition_ms = _planned_slices(text, count), number(ds, "RepetitionTime")
    mode, passes = _whole_number(text, "sSliceArray.ucMode"), _whole_number(text, "sSliceArray.lConc")
    if planned is None or not repetition_ms or passes != 1 or mode not in (_ASCENDING, _DESCENDING, _INTERLEAVED):
        return None
    if not _WITHOUT_TIMES.search(" ".join(texts(ds, "SoftwareVersions"))):
        return None
    slices = np.arange(count)
    if mode == _INTERLEAVED:
        first = 1 - count % 2
        turns = np.argsort(np.concatenate((slices[first::2], slices[1 - first :: 2])))
    else:
        turns = slices if mode == _ASCENDING else slices[::-1]
    if float((planned[-1] - planned[0]) @ (steps[-1] - steps[0])) < 0:
        turns = turns[::-1]
    step_s = (repetition_ms / 1000 - (_whole_number(text, "lDelayTimeInTR") or 0) / 1_000_000) / count
    return tuple((turns * step_s).tolist())


def gradient(ds: Dataset) -> Gradient | None:
    """Return the diffusion weighting of the private header (0019,xx0C), (0019,xx0E) or of the CSA header."""
    b_value = private_numbers(ds, _B_VALUE, 1)
    if b_value and b_value[0] >= 0:
        matrix = private_numbers(ds, _B_MATRIX, 6)
        return _gradient(b_value[0], private_text(ds, _DIRECTIONALITY), private_numbers(ds, _DIRECTION, 3), matrix)
    if private_text(ds, _HEADER_KIND):
        return None  # software that writes this group writes the b-value there; reading the CSA header takes longer
    csa = csa_image(ds)
    b_value = csa_numbers(csa, "B_value", 1)
    if not b_value or b_value[0] < 0:
        return None
    directionality = csa.get("DiffusionDirectionality", ("",))[0]
    direction = csa_numbers(csa, "DiffusionGradientDirection", 3)
    return _gradient(b_value[0], directionality, direction, csa_numbers(csa, "B_matrix", 6))


def _gradient(
    b_value: float, directionality: str, direction: tuple[float, ...] | None, matrix: tuple[float, ...] | None
) -> Gradient:
    isotropic = directionality.upper() == "ISOTROPIC"
    if direction is None and matrix is not None and not isotropic:
        direction = gradient_of_matrix(matrix).direction_lps
    return Gradient(b_value, direction, isotropic)


def acquisition_fields(ds: Dataset) -> dict[str, Any]:
    """Return readout, coils, acceleration and echo times by BIDS' names: of private elements, CSA header and protocol.

    Parameters
    ----------
    ds : Dataset
        An image of the V series, or the private item of a frame or of all frames of an enhanced one of XA.
    """
    csa, planned = csa_image(ds), protocol(ds)
    facts: dict[str, Any] = {}
    dwell_ns = (
        private_numbers(ds, _DWELL_TIME, 1)
        or private_numbers(ds, _XA_DWELL_TIME, 1)
        or csa_numbers(csa, "RealDwellTime", 1)
    )
    if dwell_ns and dwell_ns[0] > 0:
        facts["DwellTime"] = float(f"{dwell_ns[0] * 1e-9:.9g}")
    coils = private_text(ds, _COILS) or private_text(ds, _XA_COILS) or csa.get("ImaCoilString", ("",))[0]
    if coils:
        facts["ReceiveCoilActiveElements"] = coils
    facts |= {name: list(told) for name, tag in _XA_SEQUENCE.items() if (told := private_texts(ds, tag))}
    kinds = (*texts(ds, "ImageType"), *private_texts(ds, _XA_IMAGE_TYPE))
    if {"ND", "DIS2D", "DIS3D"}.intersection(kinds):
        facts["NonlinearGradientCorrection"] = "ND" not in kinds
    if "P" in kinds and planned.get("tSequenceFileName", "").endswith(_FIELD_MAPPING):
        times_us = [_whole_number(planned, f"alTE[{echo}]") for echo in range(2)]
        facts |= {f"EchoTime{echo}": each / 1_000_000 for echo, each in enumerate(times_us, start=1) if each}
    return facts | _planned_facts(planned)


def _planned_facts(planned: Mapping[str, str]) -> dict[str, Any]:
    """Return what the protocol says of acceleration, coil and a pause in the repetition time, by BIDS' names."""
    facts: dict[str, Any] = {}
    for name, factor in _ACCELERATIONS.items():
        if (_whole_number(planned, factor) or 0) > 0:
            facts[name] = _whole_number(planned, factor)
    if _whole_number(planned, "sPat.ucPATMode") == _GRAPPA:
        facts["ParallelAcquisitionTechnique"] = "GRAPPA"
    part = _PARTIAL_FOURIER.get(_whole_number(planned, "sKSpace.ucPhasePartialFourier") or 0)
    if part is not None:
        facts["PartialFourier"] = part
    names = {value for name, value in planned.items() if _RECEIVE_COIL.fullmatch(name)}
    if len(names) == 1:
        facts["ReceiveCoilName"] = names.pop()
    bands, delay_us = (
        _whole_number(planned, "sSliceAcceleration.lMultiBandFactor"),
        _whole_number(planned, "lDelayTimeInTR"),
    )
    if bands and bands > 1:  # sequences that are not of Siemens leave a 1 there whatever they do
        facts["MultibandAccelerationFactor"] = bands
    if delay_us and delay_us > 0:
        facts["DelayTime"] = delay_us / 1_000_000
    return facts


def _whole_number(planned: Mapping[str, str], name: str) -> int | None:
    """Return an integer of the protocol, which older software writes in hexadecimal."""
    try:
        return int(planned[name], 0)
    except (KeyError, ValueError):
        return None
