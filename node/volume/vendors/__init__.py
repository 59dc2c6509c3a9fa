"""What vendors say in elements of their own: one module each, asked through the functions here."""

from __future__ import annotations

from collections.abc import Callable

from pydicom.dataset import Dataset

from node.dicom.values import text, texts
from node.volume.tiling import Tiling
from node.volume.vendors import canon, ge, philips, siemens, uih
from node.volume.vendors.gradients import Gradient

_COMPLEX_COMPONENTS = {
    "MAGNITUDE": "magnitude",
    "PHASE": "phase",
    "REAL": "real",
    "IMAGINARY": "imaginary",
}
_IMAGE_TYPES = {
    "M": "magnitude",
    "MAGNITUDE": "magnitude",
    "P": "phase",
    "PHASE": "phase",
    "PHASE MAP": "phase",
    "R": "real",
    "REAL": "real",
    "I": "imaginary",
    "IMAGINARY": "imaginary",
    "B0": "fieldmap",
    "B0 MAP": "fieldmap",
    "FIELD MAP": "fieldmap",
}
_PHILIPS_PREFIXES = {"M_": "magnitude", "P_": "phase", "R_": "real", "I_": "imaginary"}

_GRADIENTS: dict[str, Callable[[Dataset], Gradient | None]] = {
    "SIEMENS": siemens.gradient,
    "GE": ge.gradient,
    "PHILIPS": philips.gradient,
    "UIH": uih.gradient,
    "CANON": canon.gradient,
    "TOSHIBA": canon.gradient,
}


def tiling(ds: Dataset) -> Tiling | None:
    """Return how the planes of a volume lie in one frame (Siemens mosaic, UIH grid); None where each has its own.

    Raises
    ------
    ConversionRefused
        ``unproven-layout``: count, place or order of the planes cannot be known.
    """
    return siemens.tiling(ds) or uih.tiling(ds)


def component(ds: Dataset) -> str | None:
    """Return what a pixel of an MR image is: magnitude, phase, real, imaginary or fieldmap; None where nothing tells.

    From Complex Image Component (0008,9208), then Image Type (0008,0008) or Frame Type (0008,9007) from its third
    value on, then GE's and Philips' own elements. `ds` may be an item of MR Image Frame Type Sequence (0018,9226).
    """
    stated = _COMPLEX_COMPONENTS.get(text(ds, "ComplexImageComponent").upper())
    if stated:
        return stated
    for kind in (*texts(ds, "FrameType")[2:], *texts(ds, "ImageType")[2:]):
        found = _IMAGE_TYPES.get(kind.upper()) or _PHILIPS_PREFIXES.get(kind[:2].upper())
        if found:
            return found
    return ge.component(ds) or philips.component(ds)


def slice_time_s(ds: Dataset) -> float | None:
    """Return when the slice was acquired, in seconds from the beginning of its scan; None but for GE."""
    return ge.slice_time_s(ds) if text(ds, "Manufacturer").upper().startswith("GE") else None


def planned_slice_times_s(ds: Dataset, slices: int, repetition_time_s: float) -> tuple[float, ...] | None:
    """Return when each slice of a volume was to be acquired, in the order of Instance Number; None but for GE."""
    if not text(ds, "Manufacturer").upper().startswith("GE"):
        return None
    return ge.planned_slice_times_s(ds, slices, repetition_time_s)


def gradient(ds: Dataset) -> Gradient | None:
    """Return the diffusion weighting of the manufacturer's own elements; of all of them where he is not named."""
    name = text(ds, "Manufacturer").upper()
    known = [read for vendor, read in _GRADIENTS.items() if name.startswith(vendor)]
    for read in known or ([] if name else dict.fromkeys(_GRADIENTS.values())):
        found = read(ds)
        if found is not None:
            return found
    return None
