"""GE: diffusion, kind of image, and the protocol block."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from types import MappingProxyType

from pydicom.dataset import Dataset

from node.dicom.private import PrivateTag, private_bytes, private_numbers
from node.dicom.values import numbers, text
from node.volume.vendors.gradients import Gradient, along_encoding

_ACQUISITION = "GEMS_ACQU_01"
_PARAMETERS = "GEMS_PARM_01"
_B_VALUE = PrivateTag(0x0043, _PARAMETERS, 0x39, "IS")
_IMAGE_KIND = PrivateTag(0x0043, _PARAMETERS, 0x2F, "SS")
_DIRECTION = tuple(PrivateTag(0x0019, _ACQUISITION, offset, "DS") for offset in (0xBB, 0xBC, 0xBD))
_PROTOCOL = PrivateTag(0x0025, "GEMS_SERS_01", 0x1B, "OB")
_KINDS = {0: "magnitude", 1: "phase", 2: "real", 3: "imaginary"}
_MOST_PROTOCOL_BYTES = 1 << 20
_GZIP = b"\x1f\x8b"
_SETTING = re.compile(rb'^set +(\w+) +"(.*?)"', re.MULTILINE)

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


def gradient(ds: Dataset) -> Gradient | None:
    """Return the diffusion weighting of (0043,xx39) and (0019,xxBB) to BD; None where it has no b-value.

    The direction is given along frequency, phase and slice encoding. Which of rows and columns is which, In-plane
    Phase Encoding Direction (0018,1312) tells; without it the direction stays unknown.
    """
    found = private_numbers(ds, _B_VALUE)
    if not found or found[0] < 0:
        return None
    b_value = found[0] % B_VALUE_FLAG
    parts = [private_numbers(ds, tag, 1) for tag in _DIRECTION]
    encoded = tuple(part[0] for part in parts if part)
    orientation = numbers(ds, "ImageOrientationPatient", 6)
    phase = text(ds, "InPlanePhaseEncodingDirection")
    if len(encoded) != 3 or orientation is None or phase not in ("ROW", "COL"):
        return Gradient(b_value)
    return Gradient(b_value, along_encoding(*encoded, orientation, phase == "ROW"))
