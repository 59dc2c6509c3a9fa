"""Philips: diffusion, velocity, kind of image, scale slope of its "floating point" values, fields of the sidecar."""

from pydicom.dataset import Dataset

from node.dicom.values import PrivateTag, number, private_items, private_numbers, private_text, text, texts
from node.volume.vendors.fields import Gradient, VendorField, notation, number_field, rounded

_IMAGING = "Philips Imaging DD 001"
_MR_IMAGING = "Philips MR Imaging DD 001"
_B_VALUE = PrivateTag(0x2001, _IMAGING, 0x03, "FL")
_DIRECTIONALITY = PrivateTag(0x2001, _IMAGING, 0x04, "CS")
_DIRECTION = tuple(PrivateTag(0x2005, _MR_IMAGING, offset, "FL") for offset in (0xB0, 0xB1, 0xB2))
SCALE_SLOPE = PrivateTag(0x2005, _MR_IMAGING, 0x0E, "FL")
_IMAGE_KIND = PrivateTag(0x2005, _MR_IMAGING, 0x11, "CS")
FRAME = PrivateTag(0x2005, "Philips MR Imaging DD 005", 0x0F, "SQ")
"""Private item of an enhanced frame with the attributes of the classic image."""

_KINDS = {"M": "magnitude", "P": "phase", "R": "real", "I": "imaginary", "B0": "fieldmap"}

_VELOCITY = PrivateTag(0x2001, _IMAGING, 0x1A, "FL")
_PHASE = PrivateTag(0x2001, _IMAGING, 0x08, "IS")
_LABEL = PrivateTag(0x2005, "Philips MR Imaging DD 005", 0x29, "CS")
_WATER_FAT_SHIFT = PrivateTag(0x2001, _IMAGING, 0x22, "FL")
_FREQUENCY = PrivateTag(0x2001, _IMAGING, 0x83, "DS")


def scale_slope(ds: Dataset) -> float | None:
    """Return MR Scale Slope (2005,xx0E): a displayed value over rescale slope and this slope is "floating point"."""
    slope = private_numbers(ds, SCALE_SLOPE, 1)
    return slope[0] if slope and slope[0] else None


def image_type(group: Dataset) -> tuple[str, ...]:
    """Return Image Type (0008,0008) of the frame as a classic image; Frame Type does not separate water and fat."""
    return tuple(kind for private in private_items(group, FRAME) for kind in texts(private, "ImageType"))


def component(ds: Dataset) -> str | None:
    """Return the kind of pixel by (2005,xx11)."""
    return _KINDS.get(private_text(ds, _IMAGE_KIND))


def gradient(ds: Dataset) -> Gradient | None:
    """Return the diffusion weighting of (2001,xx03) and (2005,xxB0) to B2: right-left, anterior-posterior, feet-head.

    A trace image has a b-value and no direction; (2001,xx04) may then be ``I`` (isotropic).
    """
    b_value = private_numbers(ds, _B_VALUE, 1)
    if not b_value or b_value[0] < 0:
        return None
    if not b_value[0]:
        return Gradient(0.0)
    parts = [private_numbers(ds, tag, 1) for tag in _DIRECTION]
    direction = tuple(part[0] for part in parts if part)
    isotropic = private_text(ds, _DIRECTIONALITY).startswith("I") or (len(direction) == 3 and not any(direction))
    return Gradient(b_value[0], direction if len(direction) == 3 else None, isotropic)


def velocity(ds: Dataset) -> tuple[float, ...] | None:
    """Return PC Velocity (2001,xx1A): the encoding in cm/s along three directions; None if no velocity is encoded."""
    stated = private_numbers(ds, _VELOCITY)
    return stated if stated and any(stated) else None


def frame_velocity(group: Dataset) -> tuple[float, ...] | None:
    """Return PC Velocity of the frame as a classic image."""
    return next((stated for private in private_items(group, FRAME) if (stated := velocity(private))), None)


def labelling(ds: Dataset) -> tuple[float, str, float] | None:
    """Return what tells the times of spin labelling apart: repetition, label type (2005,xx29) and phase (2001,xx08)."""
    label, phase = private_text(ds, _LABEL), private_numbers(ds, _PHASE, 1)
    if label not in ("CONTROL", "LABEL"):
        return None
    return number(ds, "TemporalPositionIdentifier") or 0.0, label, phase[0] if phase else 0.0


def _velocity_encoding(ds: Dataset) -> float | None:
    """Return the encoded velocity, if it is the same along every direction along which there is one."""
    encoded = {abs(part) for part in velocity(ds) or () if part}
    return rounded(encoded.pop(), 6) if len(encoded) == 1 else None


FIELDS = (
    number_field("WaterFatShift", _WATER_FAT_SHIFT, digits=6),
    number_field("ImagingFrequency", _FREQUENCY),
    VendorField("VelocityEncodingMaximumValue", notation(_VELOCITY), _velocity_encoding),
    VendorField("PhilipsRescaleSlope", "RescaleSlope (0028,1053)", lambda ds: number(ds, "RescaleSlope")),
    VendorField("PhilipsRescaleIntercept", "RescaleIntercept (0028,1052)", lambda ds: number(ds, "RescaleIntercept")),
    # (stored * RS + RI) / (RS * SS) are comparable between series; the values of the volume, which are those on the
    # display, are stored * RS + RI
    VendorField("PhilipsScaleSlope", notation(SCALE_SLOPE), scale_slope),
    VendorField(
        "PartialFourierEnabled",
        "PartialFourier (0018,9081)",
        lambda ds: "YES" if text(ds, "PartialFourier") == "YES" else None,
    ),
    VendorField(
        "UsePhilipsFloatNotDisplayScaling",
        "0: volumes hold the values on the display",
        lambda ds: None if scale_slope(ds) is None else 0,
    ),
)
"""What Philips' images state about an MR acquisition."""
