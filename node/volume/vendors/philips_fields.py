"""Philips: fields of the sidecar from private elements."""

from __future__ import annotations

from node.dicom.private import PrivateTag
from node.dicom.values import number
from node.volume.vendors.fields import VendorField, number_field
from node.volume.vendors.philips import scale_slope

_IMAGING = "Philips Imaging DD 001"
_WATER_FAT_SHIFT = PrivateTag(0x2001, _IMAGING, 0x22, "FL")
_FREQUENCY = PrivateTag(0x2001, _IMAGING, 0x83, "DS")


FIELDS = (
    number_field("WaterFatShift", _WATER_FAT_SHIFT, digits=6),
    number_field("ImagingFrequency", _FREQUENCY),
    VendorField("PhilipsRescaleSlope", "RescaleSlope (0028,1053)", lambda ds: number(ds, "RescaleSlope")),
    VendorField("PhilipsRescaleIntercept", "RescaleIntercept (0028,1052)", lambda ds: number(ds, "RescaleIntercept")),
    VendorField(
        "UsePhilipsFloatNotDisplayScaling",
        "0: volumes hold the values on the display",
        lambda ds: None if scale_slope(ds) is None else 0,
    ),
)
"""What Philips' images state about an MR acquisition."""
