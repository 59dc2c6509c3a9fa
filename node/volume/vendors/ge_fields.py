"""GE: fields of the sidecar from private elements."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydicom.dataset import Dataset

from node.dicom.private import PrivateTag, private_numbers, private_text, private_texts
from node.dicom.values import as_numbers, number
from node.volume.vendors.fields import VendorField, count_field, notation, number_field, rounded, text_field
from node.volume.vendors.ge import GROUP_DELAY, MULTIBAND, bands, is_encoded_upwards, pause_s

_ACQUISITION, _PARAMETERS, _IMAGE = "GEMS_ACQU_01", "GEMS_PARM_01", "GEMS_IMAG_01"
_ACQUIRED_PARTS = PrivateTag(0x0043, _PARAMETERS, 0x83, "DS")
_LABELING = PrivateTag(0x0043, _PARAMETERS, 0xA3, "CS")
_LABELING_DURATION = PrivateTag(0x0043, _PARAMETERS, 0xA5, "IS")
_TABLE = PrivateTag(0x0043, _PARAMETERS, 0xB2, "LO")
_SHIMS = tuple(PrivateTag(0x0043, _PARAMETERS, offset, "SS") for offset in (0x02, 0x03, 0x04))
_INTERNAL_NAME = PrivateTag(0x0019, _ACQUISITION, 0x9E, "LO")
_DIRECTIONS = PrivateTag(0x0019, _ACQUISITION, 0xE0, "DS")
_UNWEIGHTED = PrivateTag(0x0019, _ACQUISITION, 0xDF, "DS")
_POINTS_PER_ARM, _ARMS, _EXCITATIONS = (PrivateTag(0x0027, _IMAGE, offset, "FL") for offset in (0x60, 0x61, 0x62))
_DIFFUSION_SEQUENCE = "EPI2"
_KINDS_OF_LABELLING = {"PSEUDOCONTINUOUS": "PCASL", "PULSED": "PASL"}
"""``CONTINUOUS`` are the proton density images beside perfusion images, which are not labelled."""

_MICRO, _MILLI = 1e-6, 1e-3


def _acceleration(place: int) -> Callable[[Dataset], float | None]:
    """Return the reader of an acceleration, which is stated as the acquired part: 0.5 is an acceleration of 2."""

    def read(ds: Dataset) -> float | None:
        parts = (private_numbers(ds, _ACQUIRED_PARTS) or ())[place : place + 1]
        return round(1 / parts[0], 3) if parts and 0 < parts[0] <= 1 else None

    return read


def _bands(ds: Dataset) -> int | None:
    together = bands(ds)
    return together if together is not None and together > 1 else None


def _polarity(ds: Dataset) -> str | None:
    return {True: "Unflipped", False: "Flipped", None: None}[is_encoded_upwards(ds)]


def _shims(ds: Dataset) -> list[int] | None:
    offsets = [private_numbers(ds, tag, 1) for tag in _SHIMS]
    return [int(offset[0]) for offset in offsets if offset] if None not in offsets else None


def _table_position(ds: Dataset) -> list[float] | None:
    """Return the position of the table along the bore; the other two do not move."""
    along = as_numbers(private_texts(ds, _TABLE)[2:3], 1)
    return [0.0, 0.0, *along] if along else None


def _labelling(ds: Dataset) -> str:
    return _KINDS_OF_LABELLING.get(private_text(ds, _LABELING), "")


def _of_labelling(read: Callable[[Dataset], Any]) -> Callable[[Dataset], Any]:
    return lambda ds: read(ds) if _labelling(ds) else None


def _delay_after_labelling(ds: Dataset) -> float | None:
    """Return Inversion Time, which is the delay of the perfusion images; proton density images have none."""
    delay_ms = number(ds, "InversionTime") if _labelling(ds) == "PCASL" else None
    return delay_ms / 1000 if delay_ms else None


def _of_diffusion(tag: PrivateTag) -> Callable[[Dataset], int | None]:
    """Return the reader of a variable of the diffusion sequence; other sequences use it otherwise."""

    def read(ds: Dataset) -> int | None:
        count = private_numbers(ds, tag, 1)
        is_diffusion = private_text(ds, _INTERNAL_NAME).upper() == _DIFFUSION_SEQUENCE
        return int(count[0]) if count and count[0] > 0 and is_diffusion else None

    return read


FIELDS = (
    VendorField("ParallelReductionFactorInPlane", f"{notation(_ACQUIRED_PARTS)}, first", _acceleration(0)),
    VendorField("ParallelReductionFactorOutOfPlane", f"{notation(_ACQUIRED_PARTS)}, second", _acceleration(1)),
    VendorField("MultibandAccelerationFactor", f"{notation(MULTIBAND)}, protocol MBACCEL", _bands),
    VendorField("DelayTime", notation(GROUP_DELAY), lambda ds: rounded(pause_s(ds), 6) or None),
    VendorField("PhaseEncodingPolarityGE", "(0018,9034), (0043,xx2A)", _polarity),
    VendorField("ShimSetting", f"{notation(_SHIMS[0])} to {notation(_SHIMS[2])}", _shims),
    text_field("InternalPulseSequenceName", _INTERNAL_NAME),
    text_field("PrescanReuseString", PrivateTag(0x0043, _PARAMETERS, 0x95, "LO")),
    number_field("AcquisitionDuration", PrivateTag(0x0019, _ACQUISITION, 0x5A, "FL"), _MICRO, digits=6),
    VendorField("TablePosition", f"{notation(_TABLE)}, third", _table_position),
    VendorField("NumberOfDiffusionDirectionGE", f"{notation(_DIRECTIONS)} of EPI2", _of_diffusion(_DIRECTIONS)),
    VendorField("NumberOfDiffusionT2GE", f"{notation(_UNWEIGHTED)} of EPI2", _of_diffusion(_UNWEIGHTED)),
    VendorField("ArterialSpinLabelingType", notation(_LABELING), _labelling),
    VendorField(
        "LabelingDuration",
        notation(_LABELING_DURATION),
        _of_labelling(number_field("", _LABELING_DURATION, _MILLI).read),
    ),
    VendorField(
        "PostLabelingDelay", "InversionTime (0018,0082) of pseudo-continuous labelling", _delay_after_labelling
    ),
    *(
        VendorField(name, f"{notation(tag)} of labelling", _of_labelling(count_field(name, tag).read))
        for name, tag in (
            ("NumberOfPointsPerArm", _POINTS_PER_ARM),
            ("NumberOfArms", _ARMS),
            ("NumberOfExcitations", _EXCITATIONS),
        )
    ),
)
"""What GE's images state about an MR acquisition."""
