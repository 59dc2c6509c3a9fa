"""Sizes by which uptake is standardised: weight, lean body mass, body surface."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from pydicom.dataset import Dataset

from node.dicom.values import number, text
from node.errors import VoxelnodeError

BODY_WEIGHT = "BW"
BODY_SURFACE = "BSA"

HEIGHTS_CM = (30.0, 250.0)
"""Patient's Size (0010,1020) outside this range is not a height in metres; some writers use centimetres."""


class SizeUnknown(VoxelnodeError):
    """The data set does not state the size of the patient, or states an impossible one."""


def size_of(ds: Dataset, suv_type: str) -> float:
    """Return what the dose per activity is multiplied by: g of body weight or lean body mass, cm2 of body surface.

    Parameters
    ----------
    ds : Dataset
    suv_type : str
        A value of SUV Type (0054,1006): one of `SUV_TYPES`.

    Raises
    ------
    SizeUnknown
        An attribute is missing or impossible; the message names it.

    Notes
    -----
    PS3.16, codes (DCM) 126401 BW, 126402 LBM, 126405 LBMJAMES128 and 126403 BSA.
    """
    return SUV_TYPES[suv_type](ds)


def weight_kg(ds: Dataset) -> float:
    """Return Patient's Weight (0010,1030) in kg."""
    weight = number(ds, "PatientWeight")
    if not weight or weight <= 0:
        raise SizeUnknown("(0010,1030) Patient's Weight is missing")
    return weight


def _height_cm(ds: Dataset) -> float:
    height = 100 * (number(ds, "PatientSize") or 0.0)
    if not HEIGHTS_CM[0] <= height <= HEIGHTS_CM[1]:
        raise SizeUnknown("(0010,1020) Patient's Size is missing, or not a height in metres")
    return height


def _body_weight_g(ds: Dataset) -> float:
    return 1000 * weight_kg(ds)


def _lean_body_mass_g(ds: Dataset, quadratic_of_men: float) -> float:
    """Return the lean body mass by James' formula; men's quadratic term has been published with 120 and with 128."""
    terms = {"M": (1.10, quadratic_of_men), "F": (1.07, 148.0)}.get(text(ds, "PatientSex"))
    if terms is None:
        raise SizeUnknown("(0010,0040) Patient's Sex is neither M nor F, which the formula for lean body mass needs")
    weight = weight_kg(ds)
    lean_kg = terms[0] * weight - terms[1] * (weight / _height_cm(ds)) ** 2
    if lean_kg <= 0:
        raise SizeUnknown("(0010,1030) Patient's Weight and (0010,1020) Patient's Size give no lean body mass above 0")
    return 1000 * lean_kg


def _body_surface_cm2(ds: Dataset) -> float:
    """Return the body surface by the formula of Du Bois, whose factor gives m2."""
    square_metres: float = weight_kg(ds) ** 0.425 * _height_cm(ds) ** 0.725 * 0.007184
    return 1e4 * square_metres


SUV_TYPES: Mapping[str, Callable[[Dataset], float]] = MappingProxyType(
    {
        BODY_WEIGHT: _body_weight_g,
        "LBM": lambda ds: _lean_body_mass_g(ds, 120.0),
        "LBMJAMES128": lambda ds: _lean_body_mass_g(ds, 128.0),
        BODY_SURFACE: _body_surface_cm2,
    }
)
"""The size of the patient for each SUV Type (0054,1006) that can be computed."""
