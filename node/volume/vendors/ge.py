"""GE: diffusion, kind of image, and the protocol block."""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from node.dicom.private import PrivateTag, private_bytes, private_numbers, private_text
from node.dicom.values import number, numbers, text
from node.volume.vendors.gradients import Gradient, along_encoding

_ACQUISITION = "GEMS_ACQU_01"
_PARAMETERS = "GEMS_PARM_01"
_B_VALUE = PrivateTag(0x0043, _PARAMETERS, 0x39, "IS")
_IMAGE_KIND = PrivateTag(0x0043, _PARAMETERS, 0x2F, "SS")
_DIRECTION = tuple(PrivateTag(0x0019, _ACQUISITION, offset, "DS") for offset in (0xBB, 0xBC, 0xBD))
_RAW_DATA_RUN = PrivateTag(0x0019, _ACQUISITION, 0xA2, "SL")
_ECHOES = PrivateTag(0x0019, _ACQUISITION, 0xA9, "DS")
_PROTOCOL = PrivateTag(0x0025, "GEMS_SERS_01", 0x1B, "OB")
_SEQUENCE = PrivateTag(0x0019, _ACQUISITION, 0x9E, "LO")
_SLICE_TIMER = PrivateTag(0x0021, "GEMS_RELA_01", 0x5E, "DS")
_MULTIBAND = PrivateTag(0x0043, _PARAMETERS, 0xB6, "LO")
_GROUP_DELAY = PrivateTag(0x0043, _PARAMETERS, 0x7C, "FL")
_ACQUIRED_PARTS = PrivateTag(0x0043, _PARAMETERS, 0x83, "DS")
_LABELING = PrivateTag(0x0043, _PARAMETERS, 0xA3, "CS")
_LABELING_DURATION = PrivateTag(0x0043, _PARAMETERS, 0xA5, "IS")
_SEQUENTIAL, _INTERLEAVED = "0", "1"
_KINDS = {0: "magnitude", 1: "phase", 2: "real", 3: "imaginary"}
_MAX_PROTOCOL_BYTES = 1 << 20
_GZIP = b"\x1f\x8b"
_SETTING = re.compile(rb'^(\w+) +"(.*?)"', re.MULTILINE)

B_VALUE_FLAG = 100_000
"""(0043,xx39) holds the b-value below this; multiples of it flag how the image was made."""

SCALED_LENGTHS = (0.03, 0.97)
"""Directions between these lengths are shorter on purpose: neither rounded unit vectors nor the noise of none."""


def component(ds: Dataset) -> str | None:
    """Return what (0043,xx2F) says a pixel is."""
    found = private_numbers(ds, _IMAGE_KIND, 1)
    return _KINDS.get(int(found[0])) if found else None


def raw_data_run(ds: Dataset) -> tuple[int, int] | None:
    """Return the number of echoes, (0019,xxA9), and the run of raw data, (0019,xxA2), where the echoes are several.

    The former is a variable of the sequence, in which multi-echo ones count echoes.
    """
    echoes, run = private_numbers(ds, _ECHOES, 1), private_numbers(ds, _RAW_DATA_RUN, 1)
    return (int(echoes[0]), int(run[0])) if echoes and run and echoes[0] > 1 else None


def protocol(ds: Dataset) -> Mapping[str, str]:
    """Return the settings of the protocol block (0025,xx1B), compressed by gzip behind a length; empty without."""
    data = private_bytes(ds, _PROTOCOL) or b""
    start = data.find(_GZIP, 0, 16)
    if start < 0:
        return MappingProxyType({})
    try:
        block = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(data[start:], _MAX_PROTOCOL_BYTES)
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
    or first the odd ones come. None where it does not say so, or where slices were excited together.

    Parameters
    ----------
    repetition_time_s : float
        From one volume to the next, the pause between them included.
    """
    order = protocol(ds).get("SLICEORDER")
    if not private_text(ds, _SEQUENCE).startswith("EPI") or order not in (_SEQUENTIAL, _INTERLEAVED):
        return None
    if _bands(ds) != 1:
        return None
    turns = np.arange(slices)
    if order == _INTERLEAVED:
        turns = np.argsort(np.concatenate((turns[::2], turns[1::2])))
    return tuple((turns * ((repetition_time_s - pause_s(ds)) / slices)).tolist())


def _bands(ds: Dataset) -> int | None:
    """Return how many slices are excited together, of (0043,xxB6) or the protocol block; None where that is no number.

    Software before that element tells it in the protocol alone.
    """
    told = [told for told in (private_text(ds, _MULTIBAND), protocol(ds).get("MBACCEL", "")) if told]
    return max([1, *map(int, told)]) if all(each.isdecimal() for each in told) else None


def pause_s(ds: Dataset) -> float:
    """Return the group delay (0043,xx7C): seconds between volumes, which Repetition Time (0018,0080) leaves out."""
    found = private_numbers(ds, _GROUP_DELAY, 1)
    return found[0] if found and found[0] > 0 else 0.0


def acquisition_fields(ds: Dataset) -> dict[str, Any]:
    """Return acceleration, pause and labelling by BIDS' names.

    Inversion Time (0018,0082) of pseudo-continuous labelling is the delay after it (BIDS: PostLabelingDelay).
    """
    facts: dict[str, Any] = {}
    parts = private_numbers(ds, _ACQUIRED_PARTS) or ()
    names = ("ParallelReductionFactorInPlane", "ParallelReductionFactorOutOfPlane")
    facts |= {name: round(1 / part, 3) for name, part in zip(names, parts, strict=False) if 0 < part <= 1}
    bands = _bands(ds)
    if bands is not None and bands > 1:
        facts["MultibandAccelerationFactor"] = bands
    if pause_s(ds):
        facts["DelayTime"] = float(f"{pause_s(ds):.6g}")
    duration, delay = private_numbers(ds, _LABELING_DURATION, 1), number(ds, "InversionTime")
    if private_text(ds, _LABELING) == "PSEUDOCONTINUOUS" and duration and duration[0] > 0:
        facts |= {"ArterialSpinLabelingType": "PCASL", "LabelingDuration": duration[0] / 1000}
        facts |= {"PostLabelingDelay": delay / 1000} if delay else {}
    return facts


def gradient(ds: Dataset) -> Gradient | None:
    """Return the diffusion weighting of (0043,xx39) and (0019,xxBB) to BD; None where it has no b-value.

    The direction is given along frequency, phase and slice encoding. Which of rows and columns is which, In-plane
    Phase Encoding Direction (0018,1312) tells; without it the direction stays unknown. Of several shells all images
    carry the largest b-value, and the directions of the others are shorter: gradients were, and b goes with their
    square.
    """
    found = private_numbers(ds, _B_VALUE)
    if not found or found[0] < 0:
        return None
    b_value = found[0] % B_VALUE_FLAG
    if not b_value:
        return Gradient(0.0)
    parts = [private_numbers(ds, tag, 1) for tag in _DIRECTION]
    encoded = tuple(part[0] for part in parts if part)
    length = math.hypot(*encoded)
    if len(encoded) == 3 and SCALED_LENGTHS[0] < length < SCALED_LENGTHS[1]:
        b_value = float(round(b_value * length**2))
    orientation = numbers(ds, "ImageOrientationPatient", 6)
    phase = text(ds, "InPlanePhaseEncodingDirection")
    if len(encoded) != 3 or orientation is None or phase not in ("ROW", "COL"):
        return Gradient(b_value)
    return Gradient(b_value, along_encoding(*encoded, orientation, phase == "ROW"))
