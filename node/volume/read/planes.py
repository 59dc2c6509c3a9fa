"""Read position, pixel spacing, rescaling and time of one plane. Impossible geometry is refused here."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.tag import BaseTag

from node.dicom.values import Element, held, held_elements, items, number, standard_tag, stated_numbers
from node.errors import ConversionRefused
from node.volume.elements import text
from node.volume.read.lookup_tables import instead_of_rescale
from node.volume.reasons import Reason, VolumeWarning, WarningKind

COSINE_TOLERANCE = 0.01
"""Largest deviation of a direction cosine vector from length 1, and of row and column from a right angle."""

MAX_COORDINATE_MM = 1e6
SPACING_LIMITS_MM = (1e-6, 1e4)
"""Positions and pixel spacings beyond these limits cannot be those of a patient, and their sums would overflow."""

SECONDARY_CAPTURES = frozenset(f"1.2.840.10008.5.1.4.1.1.7{kind}" for kind in ("", ".1", ".2", ".3", ".4"))
"""SOP classes of pictures of anything (PS3.3 A.8): they need no place in the patient."""

IMPOSSIBLE_PLACE = (
    "Image Position (Patient) (0020,0032) or Image Orientation (Patient) (0020,0037) is impossible (PS3.3 "
    "C.7.6.2.1.1): the secondary captures are pictures without a place"
)

_SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "ImagePlanePixelSpacing")
_REGIONS = "SequenceOfUltrasoundRegions"
SPACING_KEYWORDS = (*_SPACINGS, _REGIONS)
"""Keywords of the elements that `pixel_spacing` reads."""

CENTIMETRES = 3  # Physical Units X and Y Direction (0018,6024), (0018,6026), PS3.3 C.8.5.5.1.15
REGION_TOLERANCE = 1e-3
"""Relative rounding of the spacing between ultrasound regions of one magnification."""


_OVERLAYS = tuple(
    tuple(BaseTag(group << 16 | number) for number in (0x0010, 0x3000, 0x0102)) for group in range(0x6000, 0x6020, 2)
)
"""Overlay Rows, Overlay Data and Overlay Bit Position of each group that overlays may have (PS3.5 7.6)."""


def rescale(ds: Dataset) -> tuple[float, float]:
    """Return Rescale Slope (0028,1053) and Intercept (0028,1052).

    1 and 0 if they are absent or empty; a slope of 0 counts as absent. A plane of dose has Dose Grid Scaling
    (3004,000E) instead, an MR image of Philips possibly a real world value mapping.

    Raises ConversionRefused ``contradictory``: the value is not a number (PS3.3 C.11.1), or a dose has no Dose Grid
    Scaling, without which its values mean nothing (PS3.3 C.8.8.3).
    """
    if text(ds, "Modality") == "RTDOSE":
        scaling = number(ds, "DoseGridScaling")
        if not scaling:
            raise ConversionRefused(Reason.CONTRADICTORY, "(3004,000E) Dose Grid Scaling is missing or 0")
        return scaling, 0.0
    if held(ds, standard_tag("RescaleSlope")) is None and (mappings := items(ds, "RealWorldValueMappingSequence")):
        mapped = instead_of_rescale(ds, mappings)
        if mapped is not None:
            return mapped
    slope, intercept = number(ds, "RescaleSlope"), number(ds, "RescaleIntercept")
    for keyword, value in (("RescaleSlope", slope), ("RescaleIntercept", intercept)):
        if value is None and stated_numbers(ds, keyword):
            raise ConversionRefused(Reason.CONTRADICTORY, f"{keyword} is not a number (PS3.3 C.11.1)")
    return (slope or 1.0), (0.0 if intercept is None else intercept)


def is_rescaled(ds: Dataset, mappings: Sequence[Dataset]) -> bool:
    """Return whether Rescale Slope, other than 0, and Rescale Intercept are there, or a mapping in place of them."""
    slope = number(ds, "RescaleSlope")
    if slope is None:
        return instead_of_rescale(ds, mappings) is not None
    return slope != 0 and number(ds, "RescaleIntercept") is not None


def overlays_of(ds: Dataset) -> int:
    """Return the number of overlays that show something: in Overlay Data (60xx,3000), or in spare bits of the pixels.

    The bits of the pixels (PS3.5 8.1.2, retired) are not looked at.
    """
    elements = held_elements(ds)
    return sum(_shows_something(elements, tags) for tags in _OVERLAYS if tags[0] in elements)


def _shows_something(elements: Mapping[BaseTag, Element], tags: Sequence[BaseTag]) -> bool:
    _, tag_of_data, tag_of_bit = tags
    if tag_of_data not in elements:
        return tag_of_bit in elements
    data = elements[tag_of_data].value
    return not isinstance(data, bytes) or any(data)


def is_distance(value: float | None, min_mm: float = SPACING_LIMITS_MM[0]) -> bool:
    """Return whether a number, of either sign, can be a slice distance or slice thickness in mm."""
    return value is not None and min_mm <= abs(value) <= SPACING_LIMITS_MM[1]


def image_plane(ds: Dataset) -> tuple[Any, Any]:
    """Return position (3,) in mm LPS and orientation (6,) of a classic instance, or None and None.

    Raises ConversionRefused ``bad-geometry``: see `checked_plane`.
    """
    return checked_plane(stated_numbers(ds, "ImagePositionPatient"), stated_numbers(ds, "ImageOrientationPatient"))


def false_place(ds: Dataset, plane_of: Callable[[Dataset], tuple[Any, Any]] = image_plane) -> tuple[VolumeWarning, ...]:
    """Return a warning if the place of a secondary capture is impossible: it is a picture without a place then.

    Empty for all other images: an impossible place refuses them. `plane_of` reads the place from the data set.
    """
    if text(ds, "SOPClassUID") not in SECONDARY_CAPTURES:
        return ()
    try:
        plane_of(ds)
    except ConversionRefused:
        return (VolumeWarning(WarningKind.NO_GEOMETRY, IMPOSSIBLE_PLACE),)
    return ()


def checked_plane(position: tuple[float, ...] | None, orientation: tuple[float, ...] | None) -> tuple[Any, Any]:
    """Return position, (3,) in mm, LPS, and orientation, (6,), as float64; both None if either is absent.

    `position`, 3 floats or None: *Image Position (Patient)* (0020,0032) in mm, LPS.
    `orientation`, 6 floats or None: *Image Orientation (Patient)* (0020,0037): along a row, then down a column.

    Raises ConversionRefused: ``bad-geometry``: a number is missing, not finite or too large, or the direction cosines
        are not two unit vectors at a right angle within `COSINE_TOLERANCE` (PS3.3 C.7.6.2.1.1).
    """
    if position is None or orientation is None:
        return None, None
    if len(position) != 3 or not all(abs(value) <= MAX_COORDINATE_MM for value in position):
        raise _bad("Image Position (Patient) (0020,0032) must be three numbers, none beyond 1 km")
    return np.array(position, float), _checked_orientation(orientation)


@lru_cache(maxsize=64)
def _checked_orientation(orientation: tuple[float, ...]) -> Any:
    """Return direction cosines as an array that all planes with the same ones share."""
    if len(orientation) != 6 or not all(map(math.isfinite, orientation)):
        raise _bad("Image Orientation (Patient) (0020,0037) must be six finite numbers")
    a, b, c, d, e, f = orientation
    lengths = math.hypot(a, b, c), math.hypot(d, e, f)
    if max(abs(length - 1) for length in lengths) > COSINE_TOLERANCE or abs(a * d + b * e + c * f) > COSINE_TOLERANCE:
        raise _bad(
            "Image Orientation (Patient) (0020,0037) must be two unit vectors at a right angle (PS3.3 C.7.6.2.1.1): "
            f"their lengths are {lengths[0]:.4g} and {lengths[1]:.4g}, their dot product is {a * d + b * e + c * f:.4g}"
        )
    array = np.array(orientation, float)
    array.setflags(write=False)
    return array


def pixel_spacing(ds: Dataset, placed: bool) -> tuple[float, float] | None:
    """Return the distances between rows and between columns in mm, from the first attribute that gives them; else None.

    `placed`: whether the plane has a position. If so, an impossible spacing is refused; otherwise it is ignored.

    Raises ConversionRefused ``bad-geometry``: the spacing of a plane with a position is not two distances above zero
    (PS3.3 10.7).
    """
    for keyword in _SPACINGS:
        spacing = stated_numbers(ds, keyword)
        if spacing is None:
            continue
        if len(spacing) == 2 and all(SPACING_LIMITS_MM[0] <= value <= SPACING_LIMITS_MM[1] for value in spacing):
            return spacing[0], spacing[1]
        if placed:
            raise _bad(f"{keyword} must be two distances above 0 mm (PS3.3 10.7)")
    return _ultrasound_spacing(ds)


def _ultrasound_spacing(ds: Dataset) -> tuple[float, float] | None:
    """Return the distances between rows and columns in mm, if all images in an ultrasound picture agree on them.

    Regions in other units, such as spectra, do not count (PS3.3 C.8.5.5).
    """
    spacings: list[tuple[float, float]] = []
    for region in items(ds, _REGIONS):
        across, down = number(region, "PhysicalDeltaX"), number(region, "PhysicalDeltaY")
        units = number(region, "PhysicalUnitsXDirection"), number(region, "PhysicalUnitsYDirection")
        if across and down and all(unit == CENTIMETRES for unit in units):
            spacings.append((abs(down) * 10, abs(across) * 10))
    return spacings[0] if spacings and np.allclose(spacings, spacings[0], rtol=REGION_TOLERANCE, atol=0) else None


def _bad(detail: str) -> ConversionRefused:
    return ConversionRefused(Reason.BAD_GEOMETRY, detail)
