"""The echo-planar readout, as distortion correction asks for it: phase direction, echo spacing, total readout time.

The standard tells the axis of phase encoding; sign and bandwidth are told by vendors alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from pydicom.dataset import Dataset

from node.dicom.private import PrivateTag, private_numbers
from node.dicom.values import numbers, text, texts
from node.volume.vendors.csa import csa_numbers
from node.volume.vendors.siemens import csa_image

SIEMENS_BANDWIDTH = PrivateTag(0x0019, "SIEMENS MR HEADER", 0x28, "FD")
"""BandwidthPerPixelPhaseEncode, hertz."""

XA_FRAME = PrivateTag(0x0021, "SIEMENS MR SDI 02", 0xFE, "SQ")
XA_BANDWIDTH = PrivateTag(0x0021, "SIEMENS MR SDI 02", 0x53, "FD")
XA_POSITIVE = PrivateTag(0x0021, "SIEMENS MR SDI 02", 0x1C, "IS")
"""PhaseEncodingDirectionPositive: 1 along increasing index of the stored pixels, 0 against it."""

GE_ECHO_SPACING = PrivateTag(0x0043, "GEMS_PARM_01", 0x2C, "SS")
"""Effective echo spacing, microseconds."""

GE_ASSET = PrivateTag(0x0043, "GEMS_PARM_01", 0x83, "DS")
"""Parts of k-space that were acquired, in phase and slice: 0.5 is an acceleration of 2."""

GE_POLARITY = {"LINEAR": True, "REVERSE_LINEAR": False}
"""How GE uses Rectilinear Phase Encode Reordering (0018,9034)."""


def phase_encoding(places: Sequence[Dataset], rows: int, columns: int) -> dict[str, Any]:
    """Return BIDS' facts about phase encoding, those that can be derived.

    `PhaseEncodingDirection` has i along the rows of the stored pixels and j down their columns, as the volume has
    them; where the sign is not known it is called `PhaseEncodingAxis`. Times are in seconds.

    Parameters
    ----------
    places : sequence of Dataset
        Where to look, in this order: the data set, its functional groups, what vendors keep of a frame.
    rows, columns : int
        Of one plane, which in a mosaic is a tile.
    """
    along = next(filter(None, (text(place, "InPlanePhaseEncodingDirection") for place in places)), "")
    if along not in ("ROW", "COL", "COLUMN"):  # PS3.3 C.8.3.1 and, of enhanced objects, C.8.13.5.3
        return {}
    axis, matrix = ("i", columns) if along == "ROW" else ("j", rows)
    positive = _positive(places)
    facts: dict[str, Any] = {"ReconMatrixPE": matrix}
    facts |= (
        {"PhaseEncodingAxis": axis} if positive is None else {"PhaseEncodingDirection": axis + "-" * (not positive)}
    )
    readout_s = _total_readout_time(places, matrix) if _is_echo_planar(places) else None
    if readout_s is not None and matrix > 1:
        facts["EffectiveEchoSpacing"] = float(f"{readout_s / (matrix - 1):.9g}")
        facts["TotalReadoutTime"] = float(f"{readout_s:.9g}")
    return facts


def _is_echo_planar(places: Sequence[Dataset]) -> bool:
    return any(
        "EP" in texts(place, "ScanningSequence") or text(place, "EchoPlanarPulseSequence") == "YES" for place in places
    )


def _positive(places: Sequence[Dataset]) -> bool | None:
    """Whether phase encoding goes along increasing index; None where nobody tells."""
    for place in places:
        told = private_numbers(place, XA_POSITIVE, 1) or csa_numbers(
            csa_image(place), "PhaseEncodingDirectionPositive", 1
        )
        if told in ((0.0,), (1.0,)):
            return told == (1.0,)
        if text(place, "Manufacturer").upper().startswith("GE "):
            return GE_POLARITY.get(text(place, "RectilinearPhaseEncodeReordering"))
    return None


def _total_readout_time(places: Sequence[Dataset], matrix: int) -> float | None:
    """Return seconds from the centre of the first to that of the last echo, as if all lines of the image were read."""
    for place in places:
        bandwidth_hz = _bandwidth(place)
        if bandwidth_hz is not None and bandwidth_hz[0] > 0:
            return (matrix - 1) / (bandwidth_hz[0] * matrix)
        spacing_us = private_numbers(place, GE_ECHO_SPACING, 1)
        if spacing_us is not None and spacing_us[0] > 0:
            lines = _ge_lines(place, matrix)
            return None if lines is None else lines * spacing_us[0] * 1e-6
    return None


def _bandwidth(place: Dataset) -> tuple[float, ...] | None:
    """Return Siemens' bandwidth of one pixel in phase, hertz."""
    return (
        private_numbers(place, SIEMENS_BANDWIDTH, 1)
        or private_numbers(place, XA_BANDWIDTH, 1)
        or csa_numbers(csa_image(place), "BandwidthPerPixelPhaseEncode", 1)
    )


def _ge_lines(ds: Dataset, matrix: int) -> int | None:
    """Intervals between the lines that GE reads: an even number of them, of four with partial Fourier in phase.

    None of an image with fewer lines than were acquired: it was cut or reduced since, and nothing tells which.
    """
    told = numbers(ds, "AcquisitionMatrix", 4)  # frequency rows, frequency columns, phase rows, phase columns
    acquired = max(told[2:]) if told is not None else 0
    if acquired > matrix:
        return None
    part = (private_numbers(ds, GE_ASSET) or (1.0,))[0]
    multiple = 4 if "PFP" in texts(ds, "ScanOptions") else 2
    return math.ceil((acquired or matrix) * (part if 0 < part <= 1 else 1.0) / multiple) * multiple - 1
