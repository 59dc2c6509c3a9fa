"""United Imaging: fields of the sidecar from private elements."""

from __future__ import annotations

import re

from pydicom.dataset import Dataset

from node.dicom.private import PrivateTag, private_items, private_text
from node.dicom.values import number, text, texts, whole
from node.volume.elements import instant
from node.volume.vendors.fields import VendorField, notation, rounded, text_field

_CREATOR = "Image Private Header"
_PARALLEL = PrivateTag(0x0065, _CREATOR, 0x0D, "SH")
_PLANES = PrivateTag(0x0065, _CREATOR, 0x51, "SQ")
_ACCELERATION = re.compile(r"F:\s*(\d+(?:\.\d+)?)")
_TIME = re.compile(r"(\d\d)(\d\d)(\d\d(?:\.\d+)?)")
ECHO_SPACINGS_MS = (0.2, 2.0)
"""Echo spacings of echo-planar readouts. A duration that gives another one is not that of a readout: newer software
states the duration of the scan in the same element."""


def _acceleration(ds: Dataset) -> float | None:
    match = _ACCELERATION.search(private_text(ds, _PARALLEL))
    return float(match[1]) if match and float(match[1]) > 0 else None


def readout_s(ds: Dataset) -> float | None:
    """Return the seconds of one echo train, from Acquisition Duration (0018,9073) of a plane; None if unknown."""
    durations = (number(source, "AcquisitionDuration") for source in (*private_items(ds, _PLANES)[:1], ds))
    duration_ms = next((duration for duration in durations if duration), None)
    echoes = whole(ds, "EchoTrainLength")
    if "EP" not in texts(ds, "ScanningSequence") or not duration_ms or not echoes or echoes < 2:
        return None
    least, most = ECHO_SPACINGS_MS
    return rounded(duration_ms / 1000, 9) if least <= duration_ms / echoes <= most else None


def _earliest_time(ds: Dataset) -> str:
    """Return the time of day of the plane of a grid that was acquired first."""
    starts = [
        (started, text(plane, "AcquisitionTime"))
        for plane in private_items(ds, _PLANES)
        if (started := instant(text(plane, "AcquisitionDate"), text(plane, "AcquisitionTime"))) is not None
    ]
    match = _TIME.fullmatch(min(starts)[1]) if starts else None
    return f"{match[1]}:{match[2]}:{match[3]}" if match else ""


FIELDS = (
    VendorField("AcquisitionTime", f"{notation(_PLANES)}, earliest", _earliest_time),
    VendorField("ParallelReductionFactorInPlane", f"{notation(_PARALLEL)}: F:2", _acceleration),
    text_field("PhaseEncodingDirectionDisplayed", PrivateTag(0x0065, _CREATOR, 0x05, "SH")),
)
"""What United Imaging's images state about an MR acquisition."""
