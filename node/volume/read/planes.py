"""Attributes of one plane: its place, pixel spacing, scaling and time; impossible geometry is refused here."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from pydicom import Dataset

from node.dicom.values import items
from node.errors import ConversionRefused
from node.volume.elements import Numbers, instant, instant_of, number, numbers, text
from node.volume.reasons import Reason

COSINE_TOLERANCE = 0.01
"""Largest departure of a direction cosine vector from length 1, and of row and column from a right angle."""

FARTHEST_MM = 1e6
SPACINGS_MM = (1e-6, 1e4)
"""Places and pixel spacings beyond these are no measures of a patient; sums of them would overflow."""

CENTIMETRES = 3  # Physical Units X and Y Direction (0018,6024), (0018,6026), PS3.3 C.8.5.5.1.15
REGION_TOLERANCE = 1e-3  # as a part of the spacing: what scanners round between regions of one magnification


def acquired_at(ds: Dataset) -> float | None:
    """When the acquisition of the data started, in seconds on one scale."""
    whole = instant_of(text(ds, "AcquisitionDateTime"))
    return instant(text(ds, "AcquisitionDate"), text(ds, "AcquisitionTime")) if whole is None else whole


def is_map(diffusion: Any) -> bool:
    """Whether a frame is made from diffusion images: trace, ADC, FA, isotropic."""
    return diffusion is not None and diffusion.derived


def rescale(ds: Dataset) -> tuple[float, float]:
    """Rescale Slope (0028,1053) and Intercept (0028,1052); 1 and 0 where they are absent, empty or a slope of 0.

    Of a plane of dose Dose Grid Scaling (3004,000E), without which its values mean nothing (PS3.3 C.8.8.3).
    """
    if text(ds, "Modality") == "RTDOSE":
        scaling = number(ds, "DoseGridScaling")
        if not scaling:
            raise ConversionRefused(Reason.CONTRADICTORY, "(3004,000E) Dose Grid Scaling is missing or 0")
        return scaling, 0.0
    slope, intercept = number(ds, "RescaleSlope"), number(ds, "RescaleIntercept")
    for keyword, found in (("RescaleSlope", slope), ("RescaleIntercept", intercept)):
        if found is None and numbers(ds, keyword):
            raise ConversionRefused(Reason.CONTRADICTORY, f"{keyword} is not a number (PS3.3 C.11.1)")
    return (slope or 1.0), (0.0 if intercept is None else intercept)


def is_distance(value: float | None, least_mm: float = SPACINGS_MM[0]) -> bool:
    """Return whether a number, of either sign, can be how far slices lie apart or how thick they are, in mm."""
    return value is not None and least_mm <= abs(value) <= SPACINGS_MM[1]


def place(ds: Dataset) -> tuple[Any, Any]:
    """Position and orientation of a classic instance, or None and None."""
    return checked_place(numbers(ds, "ImagePositionPatient"), numbers(ds, "ImageOrientationPatient"))


def checked_place(position: Numbers | None, orientation: Numbers | None) -> tuple[Any, Any]:
    """Position (3,) and orientation (6,) as arrays, both None where either is absent."""
    if position is None or orientation is None:
        return None, None
    if len(position) != 3 or not all(abs(value) <= FARTHEST_MM for value in position):
        raise _bad("Image Position (Patient) (0020,0032) is not three numbers within a kilometre")
    if len(orientation) != 6 or not all(map(math.isfinite, orientation)):
        raise _bad("Image Orientation (Patient) (0020,0037) is not six finite numbers")
    a, b, c, d, e, f = orientation
    lengths = math.hypot(a, b, c), math.hypot(d, e, f)
    if max(abs(length - 1) for length in lengths) > COSINE_TOLERANCE or abs(a * d + b * e + c * f) > COSINE_TOLERANCE:
        raise _bad(
            "Image Orientation (Patient) (0020,0037) is not two unit vectors at a right angle (PS3.3 C.7.6.2.1.1): "
            f"lengths {lengths[0]:.4g} and {lengths[1]:.4g}, product {a * d + b * e + c * f:.4g}"
        )
    return np.array(position, float), np.array(orientation, float)


def pixel_spacing(ds: Dataset, placed: bool) -> tuple[float, float] | None:
    """Distances between rows and between columns in mm, from the first attribute that gives them.

    An impossible one is refused where planes are placed by it, and passed over where there is no place anyway.
    """
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "ImagePlanePixelSpacing"):
        found = numbers(ds, keyword)
        if found is None:
            continue
        if len(found) == 2 and all(SPACINGS_MM[0] <= value <= SPACINGS_MM[1] for value in found):
            return found[0], found[1]
        if placed:
            raise _bad(f"{keyword} is not two distances above zero (PS3.3 10.7)")
    return _ultrasound_spacing(ds)


def _ultrasound_spacing(ds: Dataset) -> tuple[float, float] | None:
    """Distances between rows and between columns in mm, if all images in an ultrasound picture agree on them.

    Regions in other units, such as spectra, say nothing of them (PS3.3 C.8.5.5).
    """
    found: list[tuple[float, float]] = []
    for region in items(ds, "SequenceOfUltrasoundRegions"):
        across, down = number(region, "PhysicalDeltaX"), number(region, "PhysicalDeltaY")
        one, other = number(region, "PhysicalUnitsXDirection"), number(region, "PhysicalUnitsYDirection")
        if across and down and one == other == CENTIMETRES:
            found.append((abs(down) * 10, abs(across) * 10))
    return found[0] if found and np.allclose(found, found[0], rtol=REGION_TOLERANCE, atol=0) else None


def _bad(detail: str) -> ConversionRefused:
    return ConversionRefused(Reason.BAD_GEOMETRY, detail)
