"""Canon (formerly Toshiba): diffusion directions in Image Comments."""

from __future__ import annotations

import re

from pydicom.dataset import Dataset

from node.dicom.values import numbers, text
from node.volume.vendors.gradients import Gradient, along_encoding

_NUMBER = r"([-+]?\d+(?:\.\d+)?)"
_COMMENT = re.compile(rf"b={_NUMBER}\({_NUMBER},{_NUMBER},{_NUMBER}\)")


def gradient(ds: Dataset) -> Gradient | None:
    """Return the diffusion weighting that images of version 6 have in Image Comments (0020,4000).

    Frames of enhanced images have it in Frame Comments (0020,9158).

    ``b=1500(0.445,0.000,0.895)``: the direction along phase, frequency and slice encoding. Without In-plane Phase
    Encoding Direction (0018,1312) it is unknown.
    """
    match = _COMMENT.match(text(ds, "ImageComments") or text(ds, "FrameComments"))
    orientation = numbers(ds, "ImageOrientationPatient", 6)
    if not match:
        return None
    b_value, along_phase, along_frequency, along_slice = map(float, match.groups())
    phase = text(ds, "InPlanePhaseEncodingDirection")
    if orientation is None or phase not in ("ROW", "COL"):
        return Gradient(b_value)
    return Gradient(b_value, along_encoding(along_frequency, along_phase, along_slice, orientation, phase == "ROW"))
