"""Private elements of the vendors: one module per vendor, called through the functions here."""

from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from pydicom.dataset import Dataset

from node.dicom.values import has_private_elements, once_per_series, private_items, text, texts
from node.volume.model import Tiling
from node.volume.vendors import ge, philips, siemens, siemens_mosaic, uih
from node.volume.vendors.fields import Gradient, VendorField, gradient_of_comments, stated_fields

_COMPLEX_COMPONENTS = {"MAGNITUDE": "magnitude", "PHASE": "phase", "REAL": "real", "IMAGINARY": "imaginary"}
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
    "CANON": gradient_of_comments,
    "TOSHIBA": gradient_of_comments,
}
VENDOR_FIELDS: dict[str, tuple[VendorField, ...]] = {
    "SIEMENS": siemens.FIELDS,
    "GE ": ge.FIELDS,
    "PHILIPS": philips.FIELDS,
    "UIH": uih.FIELDS,
}
"""Fields of the sidecar from private elements, by the beginning of Manufacturer (0008,0070) in capital letters."""


def _is_by(ds: Dataset, vendor: str) -> bool:
    """Return whether Manufacturer (0008,0070) begins with a name in capital letters."""
    return text(ds, "Manufacturer").upper().startswith(vendor)


def reverses_polarity(ds: Dataset) -> bool:
    """Return whether images of a sequence may be mirrored along their phase encoding (GE's epi_pepolar)."""
    return _is_by(ds, "GE ") and ge.reverses_polarity(ds)


def tiling(ds: Dataset) -> Tiling | None:
    """Return the layout of the planes of a volume in one frame (Siemens mosaic, UIH grid); None for any other image.

    Raises ConversionRefused ``unproven-layout``: count, position or order of the planes is unknown.
    """
    return siemens_mosaic.tiling(ds) or uih.tiling(ds)


def _stated_component(ds: Dataset) -> str | None:
    """Return the component by Complex Image Component (0008,9208), else by the types from their third value on."""
    stated = _COMPLEX_COMPONENTS.get(text(ds, "ComplexImageComponent").upper())
    if stated:
        return stated
    for kind in (*texts(ds, "FrameType")[2:], *texts(ds, "ImageType")[2:]):
        by_type = _IMAGE_TYPES.get(kind.upper()) or _PHILIPS_PREFIXES.get(kind[:2].upper())
        if by_type:
            return by_type
    return None


def acquisition_fields(sources: Sequence[Dataset]) -> dict[str, Any]:
    """Return the vendor's fields about an MR acquisition, by BIDS' names and in its units.

    `sources`: data set, functional groups, and the vendor's items of a frame or of all frames. Earlier ones take
    precedence.
    """
    name = text(sources[0], "Manufacturer").upper()
    fields: dict[str, Any] = {}
    for table in (table for vendor, table in VENDOR_FIELDS.items() if name.startswith(vendor)):
        for source in sources:
            fields = stated_fields(source, table) | fields
    return fields


def first_reversed_volume(ds: Dataset) -> int | None:
    """Return from which index every second volume has reversed polarity; None if none has, or not GE."""
    return ge.first_reversed_volume(ds) if _is_by(ds, "GE ") else None


def is_encoded_upwards(ds: Dataset) -> bool | None:
    """Return whether phase encoding goes along increasing index of the stored pixels; None if unknown, or not GE."""
    return ge.is_encoded_upwards(ds) if _is_by(ds, "GE ") else None


def echo_train_s(ds: Dataset) -> float | None:
    """Return the duration of one echo-planar readout in seconds; None except for United Imaging."""
    return uih.readout_s(ds) if _is_by(ds, "UIH") else None


def pause_s(ds: Dataset) -> float:
    """Return the pause in seconds between volumes that Repetition Time (0018,0080) leaves out; zero except for GE."""
    return ge.pause_s(ds) if _is_by(ds, "GE ") else 0.0


def slice_time_s(ds: Dataset) -> float | None:
    """Return when the slice was acquired, in seconds from the beginning of its scan; None except for GE."""
    return ge.slice_time_s(ds) if _is_by(ds, "GE") else None


def has_slice_timer(ds: Dataset) -> bool:
    """Return whether slices carry the timer of `slice_time_s`."""
    return slice_time_s(ds) is not None


def trigger_times_are_of_slices(ds: Dataset) -> bool:
    """Return whether Trigger Time (0018,1060) is that of a slice from the start of the scan: GE's multi-phase EPI."""
    return _is_by(ds, "GE") and ge.is_echo_planar(ds)


def planned_slice_timings(ds: Dataset, slices: int, repetition_time_s: float) -> list[tuple[float, ...]]:
    """Return the timings in seconds that the protocol of a volume may mean, by Instance Number; none except for GE."""
    is_ge = _is_by(ds, "GE")
    return ge.planned_slice_timings(ds, slices, repetition_time_s) if is_ge else []


def frame_image_type(ds: Dataset, groups: Dataset) -> tuple[str, ...]:
    """Return the Image Type that a vendor keeps in the functional groups of a frame; empty except for Philips."""
    return philips.image_type(groups) if _is_by(ds, "PHILIPS") else ()


def is_noise(ds: Dataset) -> bool:
    """Return whether an MR image was acquired without excitation: Siemens has NOISE in its Image Type or (0021,xx75).

    `ds` may be the item in which a frame of Siemens has that element.
    """
    return "NOISE" in texts(ds, "ImageType") or siemens.is_noise(ds)


def is_noise_frame(ds: Dataset, groups: Dataset) -> bool:
    """Return whether a frame was acquired without excitation, by the private item of its functional groups."""
    if not _is_by(ds, "SIEMENS"):
        return False
    return any(map(siemens.is_noise, private_items(groups, siemens.XA_FRAME)))


def frame_coil(ds: Dataset, groups: Dataset) -> str | None:
    """Return the name of the coil of a frame, by the private item of its functional groups; None except for Siemens."""
    own = private_items(groups, siemens.XA_FRAME) if _is_by(ds, "SIEMENS") else ()
    return next(filter(None, map(siemens.coil, own)), None)


def coil_element(name: str | None) -> tuple[str, int] | None:
    """Return the coil element that a name is of, in the order of elements; None if it is of several: combined."""
    return siemens.coil_element(name)


class MRKind(NamedTuple):
    """What vendors say of the kind of an MR image; three of it only GE, one only Siemens.

    `component`: magnitude, phase, real, imaginary or fieldmap, by the standard, else by private elements of GE and
    Philips; None if it is unknown.
    `noise`: see `is_noise`.
    `maps_field`: the sequence maps the field in hertz.
    `collapse_flag`: the flag that separates kinds of images of one series.
    `raw_data_run`: the number of echoes, if above one, and the run of raw data.
    `velocity`: what tells directions and steps of velocity encoding apart; of GE, Philips and Siemens.
    `coil`: the name of the receive coil.
    """

    component: str | None = None
    noise: bool = False
    maps_field: bool = False
    collapse_flag: int | None = None
    raw_data_run: tuple[int, int] | None = None
    velocity: Hashable = None
    coil: str | None = None


def mr_kind(ds: Dataset) -> MRKind:
    """Return the kind of an MR image."""
    stated, vendor, velocity = _stated_kind(ds)
    kind = stated or ge.component(ds) or philips.component(ds)
    if vendor == "GE":
        flag, run = ge.collapse_flag(ds), ge.raw_data_run(ds)
        return MRKind(kind, False, ge.maps_field(ds), flag, run, ge.velocity(ds))
    coil = siemens.coil(ds) if vendor == "SIEMENS" else None
    return MRKind(kind, is_noise(ds), velocity=philips.velocity(ds) if vendor == "PHILIPS" else velocity, coil=coil)


@once_per_series("Manufacturer", "ComplexImageComponent", "FrameType", "ImageType", "SequenceName")
def _stated_kind(ds: Dataset) -> tuple[str | None, str, Hashable]:
    """Return what a classic image states by the standard: component, one of three vendors, velocity by its sequence."""
    vendor = next((name for name in ("GE", "PHILIPS", "SIEMENS") if _is_by(ds, name)), "")
    return _stated_component(ds), vendor, siemens.velocity(text(ds, "SequenceName")) if vendor == "SIEMENS" else None


def frame_velocity(ds: Dataset, groups: Dataset) -> Hashable:
    """Return what tells the velocity encodings of frames apart that do not state them by the standard; Philips only."""
    return philips.frame_velocity(groups) if _is_by(ds, "PHILIPS") else None


def labelling(ds: Dataset) -> tuple[float, str, float] | None:
    """Return repetition, label type and phase of a classic image of arterial spin labelling; Philips only."""
    return philips.labelling(ds) if _is_by(ds, "PHILIPS") else None


def gradient_before_standard(ds: Dataset, manufacturer: str) -> Gradient | None:
    """Return the diffusion weighting of private elements that take precedence over the standard's; None except for UIH.

    UIH writes Diffusion Gradient Orientation (0018,9089) without the rotation of the planes, as users of dcm2niix
    found.
    """
    private = uih.gradient(ds) if manufacturer.upper().startswith("UIH") else None
    return private if private is not None and private.direction_lps is not None else None


def gradient(ds: Dataset, manufacturer: str) -> Gradient | None:
    """Return the diffusion weighting from private elements: the manufacturer's, or any vendor's if none is named.

    `manufacturer` is that of the instance; `ds` may be only a part of it.
    """
    name = manufacturer or text(ds, "Manufacturer")
    for read in _gradients(name) if name or has_private_elements(ds) else (gradient_of_comments,):
        private = read(ds)
        if private is not None:
            return private
    return None


def named_b_value(ds: Dataset, manufacturer: str) -> float | None:
    """Return the nominal b-value in s/mm2 by the name of the sequence; None except for Siemens."""
    return siemens.named_b_value(ds) if manufacturer.upper().startswith("SIEMENS") else None


def with_scaled_b_value(gradient: Gradient | None, manufacturer: str) -> Gradient | None:
    """Return a weighting of the standard's attributes; GE states the b-value of the scan there, too."""
    if gradient is None or gradient.direction_lps is None or not manufacturer.upper().startswith("GE"):
        return gradient
    b_value = ge.scaled_b_value(gradient.b_value, gradient.direction_lps)
    return gradient._replace(b_value=b_value, nominal=gradient.b_value)


@lru_cache(maxsize=64)
def _gradients(manufacturer: str) -> tuple[Callable[[Dataset], Gradient | None], ...]:
    """Return the functions that read the weighting of a manufacturer's images, or of anybody's if none is named."""
    name = manufacturer.upper()
    return tuple(dict.fromkeys(read for vendor, read in _GRADIENTS.items() if not name or name.startswith(vendor)))
