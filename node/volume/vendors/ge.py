"""GE: diffusion, kind of image, and the protocol block."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from pydicom.dataset import Dataset

from node.dicom.private import PrivateTag, private_bytes, private_numbers, private_text
from node.dicom.values import numbers, text
from node.volume.vendors.gradients import Gradient, along_encoding

_ACQUISITION = "GEMS_ACQU_01"
_PARAMETERS = "GEMS_PARM_01"
_B_VALUE = PrivateTag(0x0043, _PARAMETERS, 0x39, "IS")
_IMAGE_KIND = PrivateTag(0x0043, _PARAMETERS, 0x2F, "SS")
_DIRECTION = tuple(PrivateTag(0x0019, _ACQUISITION, offset, "DS") for offset in (0xBB, 0xBC, 0xBD))
_PROTOCOL = PrivateTag(0x0025, "GEMS_SERS_01", 0x1B, "OB")
_SEQUENCE = PrivateTag(0x0019, _ACQUISITION, 0x9E, "LO")
_SLICE_TIMER = PrivateTag(0x0021, "GEMS_RELA_01", 0x5E, "DS")
_MULTIBAND = PrivateTag(0x0043, _PARAMETERS, 0xB6, "LO")
_GROUP_DELAY = PrivateTag(0x0043, _PARAMETERS, 0x7C, "FL")
_SEQUENTIAL, _INTERLEAVED = "0", "1"
_KINDS = {0: "magnitude", 1: "phase", 2: "real", 3: "imaginary"}
_MOST_PROTOCOL_BYTES = 1 << 20
_GZIP = b"\x1f\x8b"
_SETTING = re.compile(rb'^(\w+) +"(.*?)"', re.MULTILINE)

B_VALUE_FLAG = 100_000
"""(0043,xx39) holds the b-value below this; multiples of it flag how the image was made."""


def component(ds: Dataset) -> str | None:
    """Return what (0043,xx2F) says a pixel is."""
    found = private_numbers(ds, _IMAGE_KIND, 1)
    return _KINDS.get(int(found[0])) if found else None


def protocol(ds: Dataset) -> Mapping[str, str]:
    """Return the settings of the protocol block (0025,xx1B), compressed by gzip behind a length; empty without."""
    data = private_bytes(ds, _PROTOCOL) or b""
    start = data.find(_GZIP, 0, 16)
    if start < 0:
        return MappingProxyType({})
    try:
        block = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(data[start:], _MOST_PROTOCOL_BYTES)
    except zlib.error:
        return MappingProxyType({})
    settings = _SETTING.findall(block)
    return MappingProxyType({name.decode("latin-1"): value.decode("latin-1") for name, value in settings})


def slice_time_s(ds: Dataset) -> float | None:
    """Return the real-time timer (0021,xx5E): seconds from the beginning of the scan to this slice."""
    found = private_numbers(ds, _SLICE_TIMER, 1)
    return found[0] if found else None


def planned_slice_times_s(ds: Dataset, slices: int, repetition_time_s: float) -> tuple[float, ...] | None:
    """Return when each slice of an echo-planar volume was to be acquired, in the order of Instance Number.

    Images carry one Acquisition Time for all slices, but the protocol block says whether slices follow each other
    or first the odd ones come. None where it does not say so, or where slices were excited together or with a pause.
    """
    order = protocol(ds).get("SLICEORDER")
    bands, pause = private_text(ds, _MULTIBAND), private_numbers(ds, _GROUP_DELAY, 1)
    if not private_text(ds, _SEQUENCE).startswith("EPI") or order not in (_SEQUENTIAL, _INTERLEAVED):
        return None
    if bands not in ("", "0", "1") or (pause and pause[0]):
        return None
    turns = np.arange(slices)
    if order == _INTERLEAVED:
        turns = np.argsort(np.concatenate((turns[::2], turns[1::2])))
    return tuple((turns * (repetition_time_s / slices)).tolist())


def gradient(ds: Dataset) -> Gradient | None:
    """Return the diffusion weighting of (0043,xx39) and (0019,xxBB) to BD; None where it has no b-value.

    The direction is given along frequency, phase and slice encoding. Which of rows and columns is which, In-plane
    Phase Encoding Direction (0018,1312) tells; without it the direction stays unknown.
    """
    found = private_numbers(ds, _B_VALUE)
    if not found or found[0] < 0:
        return None
    b_value = found[0] % B_VALUE_FLAG
    if not b_value:
        return Gradient(0.0)
    parts = [private_numbers(ds, tag, 1) for tag in _DIRECTION]
    encoded = tuple(part[0] for part in parts if part)
    orientation = numbers(ds, "ImageOrientationPatient", 6)
    phase = text(ds, "InPlanePhaseEncodingDirection")
    if len(encoded) != 3 or orientation is None or phase not in ("ROW", "COL"):
        return Gradient(b_value)
    return Gradient(b_value, along_encoding(*encoded, orientation, phase == "ROW"))
