"""Siemens: CSA headers, protocol, diffusion, and acquisition fields of the V series and of XA."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydicom.dataset import Dataset

from node.dicom.private import PrivateTag, private_bytes, private_numbers, private_text, private_texts
from node.dicom.values import texts
from node.volume.vendors.csa import CsaHeader, csa_numbers, parse_csa, parse_protocol, protocol_integer
from node.volume.vendors.gradients import Gradient, gradient_of_matrix

HEADER = "SIEMENS MR HEADER"
_CSA = "SIEMENS CSA HEADER"
_HEADER_KIND = PrivateTag(0x0019, HEADER, 0x08, "CS")
_B_VALUE = PrivateTag(0x0019, HEADER, 0x0C, "IS")
_DIRECTIONALITY = PrivateTag(0x0019, HEADER, 0x0D, "CS")
_DIRECTION = PrivateTag(0x0019, HEADER, 0x0E, "FD")
_B_MATRIX = PrivateTag(0x0019, HEADER, 0x27, "FD")
_CSA_IMAGE = PrivateTag(0x0029, _CSA, 0x10, "OB")
_CSA_SERIES = PrivateTag(0x0029, _CSA, 0x20, "OB")
_DWELL_TIME = PrivateTag(0x0019, HEADER, 0x18, "IS")
_COILS = PrivateTag(0x0051, HEADER, 0x0F, "LO")
XA_SERIES = PrivateTag(0x0021, "SIEMENS MR SDS 01", 0xFE, "SQ")
"""Private item of XA about all frames, in the Shared Functional Groups."""
_XA_PROTOCOL = PrivateTag(0x0021, "SIEMENS MR SDS 01", 0x19, "OB")
_XA_DWELL_TIME = PrivateTag(0x0021, "SIEMENS MR SDI 02", 0x42, "IS")
_XA_IMAGE_TYPE = PrivateTag(0x0021, "SIEMENS MR SDI 02", 0x75, "CS")
_XA_SEQUENCE = {
    "ScanningSequence": PrivateTag(0x0021, "SIEMENS MR SDS 01", 0x5A, "CS"),
    "SequenceVariant": PrivateTag(0x0021, "SIEMENS MR SDS 01", 0x5B, "CS"),
    "ScanOptions": PrivateTag(0x0021, "SIEMENS MR SDS 01", 0x5C, "CS"),
}
_XA_COILS = PrivateTag(0x0021, "SIEMENS MR SDI 02", 0x4F, "LO")

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


def csa_image(ds: Dataset) -> CsaHeader:
    """Return the elements of the CSA image header (0029,xx10); empty if it was stripped."""
    return parse_csa(private_bytes(ds, _CSA_IMAGE) or b"")


def protocol(ds: Dataset) -> Mapping[str, str]:
    """Return the measurement protocol from the CSA series header (0029,xx20) or, for XA, from (0021,xx19), or empty."""
    for tag in (_CSA_SERIES, _XA_PROTOCOL):
        assignments = parse_protocol(private_bytes(ds, tag) or b"")
        if assignments:
            return assignments
    return {}


def gradient(ds: Dataset) -> Gradient | None:
    """Return the diffusion weighting of the private header (0019,xx0C), (0019,xx0E), or of the CSA header."""
    b_value = private_numbers(ds, _B_VALUE, 1)
    if b_value and b_value[0] >= 0:
        matrix = private_numbers(ds, _B_MATRIX, 6)
        return _gradient(b_value[0], private_text(ds, _DIRECTIONALITY), private_numbers(ds, _DIRECTION, 3), matrix)
    if private_text(ds, _HEADER_KIND):
        return None  # software that writes this group has the b-value in it; the CSA header is slower to read
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
    """Return readout, coils, acceleration and echo times by BIDS' names.

    They come from private elements, the CSA header and the protocol.

    Parameters
    ----------
    ds : Dataset
        An image of the V series, or the private item of one or all frames of an enhanced image of XA.
    """
    csa, planned = csa_image(ds), protocol(ds)
    fields: dict[str, Any] = {}
    dwell_ns = (
        private_numbers(ds, _DWELL_TIME, 1)
        or private_numbers(ds, _XA_DWELL_TIME, 1)
        or csa_numbers(csa, "RealDwellTime", 1)
    )
    if dwell_ns and dwell_ns[0] > 0:
        fields["DwellTime"] = float(f"{dwell_ns[0] * 1e-9:.9g}")
    coils = private_text(ds, _COILS) or private_text(ds, _XA_COILS) or csa.get("ImaCoilString", ("",))[0]
    if coils:
        fields["ReceiveCoilActiveElements"] = coils
    fields |= {name: list(stated) for name, tag in _XA_SEQUENCE.items() if (stated := private_texts(ds, tag))}
    kinds = (*texts(ds, "ImageType"), *private_texts(ds, _XA_IMAGE_TYPE))
    if {"ND", "DIS2D", "DIS3D"}.intersection(kinds):
        fields["NonlinearGradientCorrection"] = "ND" not in kinds
    if "P" in kinds and planned.get("tSequenceFileName", "").endswith(_FIELD_MAPPING):
        times_us = [protocol_integer(planned, f"alTE[{echo}]") for echo in range(2)]
        fields |= {f"EchoTime{echo}": time_us / 1_000_000 for echo, time_us in enumerate(times_us, start=1) if time_us}
    return fields | _planned_fields(planned)


def _planned_fields(planned: Mapping[str, str]) -> dict[str, Any]:
    """Return acceleration, coil and pause in the repetition time, as the protocol plans them, by BIDS' names."""
    fields: dict[str, Any] = {}
    for name, factor in _ACCELERATIONS.items():
        if (protocol_integer(planned, factor) or 0) > 0:
            fields[name] = protocol_integer(planned, factor)
    if protocol_integer(planned, "sPat.ucPATMode") == _GRAPPA:
        fields["ParallelAcquisitionTechnique"] = "GRAPPA"
    part = _PARTIAL_FOURIER.get(protocol_integer(planned, "sKSpace.ucPhasePartialFourier") or 0)
    if part is not None:
        fields["PartialFourier"] = part
    names = {value for name, value in planned.items() if _RECEIVE_COIL.fullmatch(name)}
    if len(names) == 1:
        fields["ReceiveCoilName"] = names.pop()
    bands, delay_us = (
        protocol_integer(planned, "sSliceAcceleration.lMultiBandFactor"),
        protocol_integer(planned, "lDelayTimeInTR"),
    )
    if bands and bands > 1:  # third-party sequences leave a 1 here, even if they use it
        fields["MultibandAccelerationFactor"] = bands
    if delay_us and delay_us > 0:
        fields["DelayTime"] = delay_us / 1_000_000
    return fields
