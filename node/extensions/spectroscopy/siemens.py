"""Siemens before XA: spectra as CSA Non-Image Storage, whose header is a CSA header; and where Siemens' grids begin."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydicom import Dataset

from node.dicom.values import PrivateTag, number, private_bytes, private_text, text, whole
from node.errors import ConversionRefused
from node.extensions.spectroscopy.signals import (
    POSITION_TOLERANCE_MM,
    Signals,
    VoxelPlace,
    affine_of,
    axes_of,
    checked_nucleus,
    complex_points,
    positive,
    require_time_domain,
)
from node.volume.model import Float
from node.volume.reasons import Reason
from node.volume.vendors.siemens import CsaHeader, csa_image, csa_numbers, parse_csa, protocol, protocol_integer

NON_IMAGE = "SIEMENS CSA NON-IMAGE"
CSA_DATA = PrivateTag(0x7FE1, NON_IMAGE, 0x10, "OB")
_DATA_TYPE = PrivateTag(0x0029, NON_IMAGE, 0x08, "CS")
_OLD_HEADER = PrivateTag(0x0029, NON_IMAGE, 0x10, "OB")

VOXEL_TOLERANCE = 0.05
"""Largest deviation, in voxels, of the start of a grid from where the field of view places it."""

TIME_TOLERANCE = 1e-3


def is_spectrum(ds: Dataset) -> bool:
    """Return whether a CSA Non-Image instance is a spectrum: other ones are recordings, reports and protocols."""
    return private_text(ds, _DATA_TYPE).upper().startswith("SPEC")


def read_classic(ds: Dataset) -> Signals:
    """Return the signals of an instance.

    Raises ConversionRefused.

    The data of (7FE1,xx10) are in the convention of NIfTI-MRS already: the conjugate of what XA writes.
    """
    data = private_bytes(ds, CSA_DATA)
    if not data:
        raise ConversionRefused(Reason.INCOMPLETE, "the spectrum has no data (7FE1,xx10) of SIEMENS CSA NON-IMAGE")
    csa = csa_image(ds) or parse_csa(private_bytes(ds, _OLD_HEADER) or b"")
    if not csa:
        detail = "the CSA header (0029,xx10), which says what the data are, is missing: it was removed as private"
        raise ConversionRefused(Reason.INCOMPLETE, detail)
    require_time_domain(_text(csa, "DataRepresentation"), _text(csa, "SignalDomainColumns"))
    if (_number(csa, "DataPointRows") or 1) > 1:
        detail = "DataPointRows of the CSA header says that the spectra have two dimensions, which are not converted"
        raise ConversionRefused(Reason.UNPROVEN_LAYOUT, detail)
    names = ("NumberOfFrames", "Rows", "Columns", "DataPointColumns")
    counts = {name: int(_number(csa, name) or 0) for name in names}
    stream = complex_points(data, counts, "the data (7FE1,xx10)")
    slices, rows, columns, points = counts.values()
    frequency_mhz = positive(_number(csa, "ImagingFrequency"), "ImagingFrequency of the CSA header")
    dwell_s = positive(_number(csa, "RealDwellTime"), "RealDwellTime of the CSA header") * 1e-9
    nucleus = _text(csa, "ResonantNucleus") or _text(csa, "ImagedNucleus")
    assignments = protocol(ds)
    facts, doubts = _facts(csa, assignments, dwell_s)
    return Signals(
        sop_instance_uid=text(ds, "SOPInstanceUID"),
        number=whole(ds, "InstanceNumber"),
        voxels=stream.reshape(slices, rows, columns, points).transpose(2, 1, 0, 3)[..., np.newaxis],
        frames=(1,),
        dwell_s=dwell_s,
        frequency_mhz=frequency_mhz,
        nucleus=checked_nucleus(
            nucleus, frequency_mhz, _number(csa, "MagneticFieldStrength") or number(ds, "MagneticFieldStrength")
        ),
        place=_place(csa, assignments, (columns, rows, slices)),
        facts=facts,
        coil=_text(csa, "ReceivingCoil") or _text(csa, "ImaCoilString"),
        averages=_number(csa, "NumberOfAverages"),
        planned_averages=protocol_integer(assignments, "lAverages"),
        doubts=doubts,
    )


def _number(csa: CsaHeader, name: str) -> float | None:
    found = csa_numbers(csa, name)
    return found[0] if found else None


def _text(csa: CsaHeader, name: str) -> str:
    return next(iter(csa.get(name, ())), "")


def _facts(csa: CsaHeader, assignments: Mapping[str, str], dwell_s: float) -> tuple[dict[str, Any], tuple[str, ...]]:
    facts: dict[str, Any] = {"SpectralWidth": 1 / dwell_s}
    for name in ("RepetitionTime", "InversionTime", "MixingTime"):
        if time_ms := _number(csa, name):
            facts[name] = time_ms / 1000
    flip_angle = _number(csa, "FlipAngle")
    if flip_angle is not None:
        facts["ExcitationFlipAngle"] = flip_angle
    if _text(csa, "TransmittingCoil"):
        facts["TxCoil"] = _text(csa, "TransmittingCoil")
    echo_ms, planned_ms = _number(csa, "EchoTime"), _planned_echo_ms(assignments)
    if echo_ms and planned_ms and abs(echo_ms - planned_ms) > TIME_TOLERANCE * planned_ms:
        stated = f"{echo_ms:g} ms in the CSA header, and {planned_ms:g} ms in the protocol"
        return facts, (f"the echo time is {stated}: it is left out",)
    if echo_ms:
        facts["EchoTime"] = echo_ms / 1000
    return facts, ()


def _planned_echo_ms(assignments: Mapping[str, str]) -> float | None:
    """Return the echo time of the protocol, which is the sum of its parts for sequences with several refocusings."""
    total_us = 0.0
    index = 0
    while (part := assignments.get(f"alTE[{index}]")) is not None:
        try:
            total_us += float(part)
        except ValueError:
            return None
        index += 1
    return total_us / 1000 if index else None


def _place(csa: CsaHeader, assignments: Mapping[str, str], counts: tuple[int, int, int]) -> VoxelPlace:
    axes = axes_of(csa_numbers(csa, "ImageOrientationPatient", 6))
    pixel, thickness_mm = csa_numbers(csa, "PixelSpacing", 2), _number(csa, "SliceThickness")
    columns, rows, slices = counts
    if counts == (1, 1, 1):
        return _box(csa, axes, pixel, thickness_mm)
    if pixel is None or min(pixel) <= 0 or not thickness_mm or thickness_mm <= 0:
        return VoxelPlace(None, None, "PixelSpacing or SliceThickness of the CSA header is missing")
    spacing_mm = (pixel[1], pixel[0], thickness_mm)
    position = csa_numbers(csa, "ImagePositionPatient", 3)
    if axes is None or position is None:
        return VoxelPlace(None, spacing_mm, "the CSA header states no position or orientation of the voxels")
    if slices > 1:
        return VoxelPlace(None, spacing_mm, "the CSA header does not say where the first of several slices is")
    return place_in_field(axes, spacing_mm, position, (columns, rows), assignments)


def _box(csa: CsaHeader, axes: Float | None, pixel: tuple[float, ...] | None, thickness_mm: float | None) -> VoxelPlace:
    """Return where a single voxel is; ImagePositionPatient of the CSA header is a corner of it in the plane."""
    names = ("VoiReadoutFoV", "VoiPhaseFoV", "VoiThickness")
    sizes = [_number(csa, name) or 0.0 for name in names]
    centre = csa_numbers(csa, "VoiPosition", 3)
    if axes is None or centre is None or min(sizes) <= 0:
        return VoxelPlace(None, None, "the CSA header states no volume of interest")
    spacing_mm = (sizes[0], sizes[1], sizes[2])
    stated = (pixel[1], pixel[0], thickness_mm) if pixel is not None and thickness_mm else spacing_mm
    if not np.allclose(stated, spacing_mm, atol=POSITION_TOLERANCE_MM):
        return VoxelPlace(None, None, "the volume of interest has another size than the voxel in the CSA header")
    return VoxelPlace(affine_of(axes, spacing_mm, centre), spacing_mm)


def place_in_field(
    axes: Float,
    spacing_mm: tuple[float, float, float],
    position: Sequence[float],
    counts: tuple[int, int],
    assignments: Mapping[str, str],
) -> VoxelPlace:
    """Return where the voxels of one slice of spectroscopic imaging are.

    Siemens' software before XA puts the corner of the field of view into Image Position (Patient), where PS3.3
    C.7.6.2.1.1 wants the centre of the first voxel. The protocol has the centre of the field of view, which tells.

    `counts`: columns and rows.
    """
    centre = _planned_centre(assignments)
    if centre is None:
        doubt = "without the protocol nothing tells whether the position is that of a voxel or of the field of view"
        return VoxelPlace(None, spacing_mm, doubt)
    offset = ((centre - np.array(position, float)) @ axes) / np.array(spacing_mm)
    half = np.array((*counts, 0), float) / 2
    for shift in (0.0, 0.5):
        # From the centre of the first voxel it is half a voxel less to the centre of the field than from its corner.
        if np.abs(offset[:2] - (half[:2] - 0.5 + shift)).max() <= VOXEL_TOLERANCE:
            first = np.array(position, float) + axes[:, :2] @ (shift * np.array(spacing_mm[:2]))
            return VoxelPlace(affine_of(axes, spacing_mm, first), spacing_mm)
    return VoxelPlace(None, spacing_mm, "the position of the voxels contradicts the field of view of the protocol")


def _planned_centre(assignments: Mapping[str, str]) -> Float | None:
    """Return the centre of the field of view, in mm; the protocol leaves out coordinates that are 0."""
    if "sSliceArray.asSlice[0].dReadoutFOV" not in assignments:
        return None
    try:
        return np.array([float(assignments.get(f"sSliceArray.asSlice[0].sPosition.{name}", 0)) for name in _AXES])
    except ValueError:
        return None


_AXES = ("dSag", "dCor", "dTra")
