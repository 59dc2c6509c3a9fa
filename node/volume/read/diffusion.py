"""Diffusion weighting of a frame: from the standard's attributes first, then from the manufacturer's private ones."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from pydicom.dataset import Dataset

from node.dicom.values import items, number, numbers, text, texts
from node.volume import vendors
from node.volume.model import Diffusion
from node.volume.vendors.gradients import Gradient, gradient_of_matrix

UNWEIGHTED_B_VALUE = 1e-6
"""b-value in s/mm2 below which an image is unweighted, even if it carries a direction."""

MAX_B_VALUE = 1e6
"""Largest possible b-value in s/mm2, far above any gradient system. Archives fill in 7e75 for absent numbers."""

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
    """Return the diffusion weighting of one frame; None if no attribute states one.

    Parameters
    ----------
    ds : Dataset
        The instance.
    shared, per_frame : Dataset, optional
        Items of the Shared, and of the frame's Per-Frame, Functional Groups Sequence of an enhanced instance.

    Returns
    -------
    Diffusion or None
        b-value in s/mm2. The direction is a unit vector in the patient frame (LPS), None if the image is unweighted or
        the direction is unknown. Trace, ADC, FA and isotropic images are marked as derived.

    Notes
    -----
    MR Diffusion macro, PS3.3 C.8.13.5.9. Classic images carry the same attributes at the top level: (0018,9087),
    (0018,9089).
    """
    derived = _is_derived(ds, shared, per_frame)
    gradient = _possible(vendors.gradient_before_standard(ds)) or _possible(_standard(ds, shared, per_frame))
    if gradient is None or (gradient.direction_lps is None and not gradient.isotropic):
        gradient = _completed(gradient, _possible(vendors.gradient(ds)))
    if gradient is None:
        return Diffusion(0.0, derived=True) if derived else None
    if derived or gradient.isotropic:
        return Diffusion(gradient.b_value, derived=True)
    return Diffusion(gradient.b_value, _unit(gradient) if gradient.b_value > UNWEIGHTED_B_VALUE else None)


def _possible(gradient: Gradient | None) -> Gradient | None:
    """Return the gradient unless its b-value is a placeholder."""
    return gradient if gradient is not None and gradient.b_value <= MAX_B_VALUE else None


def _completed(standard: Gradient | None, vendor: Gradient | None) -> Gradient | None:
    """Return the standard's b-value with the vendor's direction."""
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


def _is_derived(*datasets: Dataset | None) -> bool:
    """Return whether Image Type or Frame Type names a map that is computed from weighted images."""
    for ds in datasets:
        if ds is None:
            continue
        kinds = [*texts(ds, "ImageType")[2:]]
        for item in items(ds, "MRImageFrameTypeSequence"):
            kinds += texts(item, "FrameType")[2:]
        if _DERIVED_TYPES.intersection(kind.upper() for kind in kinds):
            return True
    return False


def _standard(ds: Dataset, shared: Dataset | None, per_frame: Dataset | None) -> Gradient | None:
    for macro in _diffusion_macros(ds, shared, per_frame):
        directionality = text(macro, "DiffusionDirectionality").upper()
        b_value = number(macro, "DiffusionBValue")
        matrix = _matrix(macro)
        if b_value is None and matrix is not None:
            return gradient_of_matrix(matrix)
        if b_value is None and directionality == "NONE":
            return Gradient(0.0)
        if b_value is None or b_value < 0:
            continue
        direction = _direction(macro)
        if direction is None and matrix is not None:
            direction = gradient_of_matrix(matrix).direction_lps
        return Gradient(b_value, direction, directionality == "ISOTROPIC" and b_value > UNWEIGHTED_B_VALUE)
    return None


def _diffusion_macros(ds: Dataset, shared: Dataset | None, per_frame: Dataset | None) -> Iterator[Dataset]:
    for group in (per_frame, shared):
        if group is not None:
            yield from items(group, "MRDiffusionSequence")
    yield ds


def _direction(macro: Dataset) -> tuple[float, ...] | None:
    for item in items(macro, "DiffusionGradientDirectionSequence"):
        return numbers(item, "DiffusionGradientOrientation", 3)
    return numbers(macro, "DiffusionGradientOrientation", 3)


def _matrix(macro: Dataset) -> tuple[float, ...] | None:
    for item in items(macro, "DiffusionBMatrixSequence"):
        components = [number(item, keyword) for keyword in _MATRIX]
        if None not in components:
            return tuple(component for component in components if component is not None)
    return None
