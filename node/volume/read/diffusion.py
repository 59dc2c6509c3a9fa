"""Diffusion weighting of a frame: the standard's attributes first, then the manufacturer's own."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from pydicom.dataset import Dataset

from node.dicom.values import items, number, numbers, text, texts
from node.volume import vendors
from node.volume.model import Diffusion
from node.volume.vendors.gradients import Gradient, gradient_of_matrix

UNWEIGHTED_B_VALUE = 1e-6
"""Below it an image is not diffusion weighted, whatever direction stands beside, in s/mm2."""

MOST_B_VALUE = 1e6
"""No gradient system comes near it, in s/mm2; archives fill absent numbers in with 7e75."""

_DERIVED_TYPES = frozenset(
    ("ADC", "AVDC", "EADC", "EXPONENTIAL", "FA", "COLFA", "FAC", "TRACE", "TRACEW", "ISO", "ISOTROPIC", "TENSOR")
)
_MATRIX = (
    "DiffusionBValueXX",
    "DiffusionBValueXY",
    "DiffusionBValueXZ",
    "DiffusionBValueYY",
    "DiffusionBValueYZ",
    "DiffusionBValueZZ",
)


def diffusion_of(ds: Dataset, shared: Dataset | None = None, per_frame: Dataset | None = None) -> Diffusion | None:
    """Return the diffusion weighting of one frame; None where nothing says that there is any.

    Parameters
    ----------
    ds : Dataset
        The instance.
    shared, per_frame : Dataset, optional
        Items of the Shared and of the frame's Per-Frame Functional Groups Sequence of an enhanced instance.

    Returns
    -------
    Diffusion or None
        Its direction is a unit vector in the patient frame, None where the image is unweighted or the direction is
        not known. Trace, ADC, FA and isotropic images are marked as derived.

    Notes
    -----
    MR Diffusion macro, PS3.3 C.8.13.5.9; classic images carry the same attributes at the top (0018,9087), (0018,9089).
    """
    derived = _is_derived(ds, shared, per_frame)
    found = _possible(vendors.gradient_before_standard(ds)) or _possible(_standard(ds, shared, per_frame))
    if found is None or (found.direction_lps is None and not found.isotropic):
        found = _better(found, _possible(vendors.gradient(ds)))
    if found is None:
        return Diffusion(0.0, derived=True) if derived else None
    if derived or found.isotropic:
        return Diffusion(found.b_value, derived=True)
    return Diffusion(found.b_value, _unit(found) if found.b_value > UNWEIGHTED_B_VALUE else None)


def _possible(found: Gradient | None) -> Gradient | None:
    """The gradient, unless some program filled its b-value in."""
    return found if found is not None and found.b_value <= MOST_B_VALUE else None


def _better(standard: Gradient | None, vendor: Gradient | None) -> Gradient | None:
    """The standard's b-value stays; the vendor's direction fills what it left out."""
    if standard is None or vendor is None:
        return standard or vendor
    return Gradient(standard.b_value, vendor.direction_lps, vendor.isotropic)


def _unit(gradient: Gradient) -> np.ndarray | None:
    if gradient.direction_lps is None:
        return None
    vector = np.array(gradient.direction_lps, float)
    largest = float(np.abs(vector).max())
    if not 0 < largest < np.inf:
        return None
    vector = vector / largest  # so that no square overflows
    return vector / float(np.linalg.norm(vector))


def _is_derived(*places: Dataset | None) -> bool:
    """Whether Image Type or Frame Type names a map that was computed from weighted images."""
    for place in places:
        if place is None:
            continue
        kinds = [*texts(place, "ImageType")[2:]]
        for item in items(place, "MRImageFrameTypeSequence"):
            kinds += texts(item, "FrameType")[2:]
        if _DERIVED_TYPES.intersection(kind.upper() for kind in kinds):
            return True
    return False


def _standard(ds: Dataset, shared: Dataset | None, per_frame: Dataset | None) -> Gradient | None:
    for place in _places(ds, shared, per_frame):
        directionality = text(place, "DiffusionDirectionality").upper()
        b_value = number(place, "DiffusionBValue")
        matrix = _matrix(place)
        if b_value is None and matrix is not None:
            return gradient_of_matrix(matrix)
        if b_value is None and directionality == "NONE":
            return Gradient(0.0)
        if b_value is None or b_value < 0:
            continue
        direction = _direction(place)
        if direction is None and matrix is not None:
            direction = gradient_of_matrix(matrix).direction_lps
        return Gradient(b_value, direction, directionality == "ISOTROPIC" and b_value > UNWEIGHTED_B_VALUE)
    return None


def _places(ds: Dataset, shared: Dataset | None, per_frame: Dataset | None) -> Iterator[Dataset]:
    for group in (per_frame, shared):
        if group is not None:
            yield from items(group, "MRDiffusionSequence")
    yield ds


def _direction(place: Dataset) -> tuple[float, ...] | None:
    for item in items(place, "DiffusionGradientDirectionSequence"):
        return numbers(item, "DiffusionGradientOrientation", 3)
    return numbers(place, "DiffusionGradientOrientation", 3)


def _matrix(place: Dataset) -> tuple[float, ...] | None:
    for item in items(place, "DiffusionBMatrixSequence"):
        found = [number(item, keyword) for keyword in _MATRIX]
        if None not in found:
            return tuple(each for each in found if each is not None)
    return None
