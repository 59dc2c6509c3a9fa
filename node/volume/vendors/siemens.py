"""Siemens: CSA headers, protocol, and diffusion of the V series and of XA."""

from __future__ import annotations

from collections.abc import Mapping

from pydicom.dataset import Dataset

from node.dicom.private import PrivateTag, private_bytes, private_numbers, private_text, private_texts
from node.volume.vendors.csa import CsaHeader, csa_numbers, parse_csa, parse_protocol
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
XA_SERIES = PrivateTag(0x0021, "SIEMENS MR SDS 01", 0xFE, "SQ")
"""Private item of XA about all frames, in the Shared Functional Groups."""
XA_FRAME = PrivateTag(0x0021, "SIEMENS MR SDI 02", 0xFE, "SQ")
"""Private item of XA about one frame, in its functional groups."""
IMAGE_TYPE = PrivateTag(0x0021, "SIEMENS MR SDI 02", 0x75, "CS")
_XA_PROTOCOL = PrivateTag(0x0021, "SIEMENS MR SDS 01", 0x19, "OB")


def is_noise(ds: Dataset) -> bool:
    """Return whether an image, or the frame that this private item is about, was acquired without excitation."""
    return "NOISE" in private_texts(ds, IMAGE_TYPE)


def csa_image(ds: Dataset) -> CsaHeader:
    """Return the elements of the CSA image header (0029,xx10); empty if it was stripped."""
    return parse_csa(private_bytes(ds, _CSA_IMAGE) or b"")


def csa_series(ds: Dataset) -> CsaHeader:
    """Return the elements of the CSA series header (0029,xx20); empty if it was stripped, and for XA."""
    return parse_csa(private_bytes(ds, _CSA_SERIES) or b"")


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
