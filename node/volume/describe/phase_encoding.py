"""The echo-planar readout for distortion correction: phase direction, echo spacing, total readout time.

The standard states the axis of phase encoding; only vendors state its sign and the bandwidth.
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
"""BandwidthPerPixelPhaseEncode in hertz."""

XA_FRAME = PrivateTag(0x0021, "SIEMENS MR SDI 02", 0xFE, "SQ")
XA_BANDWIDTH = PrivateTag(0x0021, "SIEMENS MR SDI 02", 0x53, "FD")
XA_POSITIVE = PrivateTag(0x0021, "SIEMENS MR SDI 02", 0x1C, "IS")
"""PhaseEncodingDirectionPositive: 1 along increasing index of the stored pixels, 0 against it."""

GE_ECHO_SPACING = PrivateTag(0x0043, "GEMS_PARM_01", 0x2C, "SS")
"""Effective echo spacing in microseconds."""

GE_ASSET = PrivateTag(0x0043, "GEMS_PARM_01", 0x83, "DS")
"""Acquired shares of k-space in phase and slice direction; 0.5 is an acceleration of 2."""

GE_POLARITY = {"LINEAR": True, "REVERSE_LINEAR": False}
"""GE's use of Rectilinear Phase Encode Reordering (0018,9034)."""


def phase_encoding(sources: Sequence[Dataset], rows: int, columns: int) -> dict[str, Any]:
    """Return the BIDS fields about phase encoding that can be derived.

    `PhaseEncodingDirection` has i along the rows of the stored pixels and j down their columns, as the volume has them.
    If the sign is unknown, the field is `PhaseEncodingAxis`. Times are in seconds.

    Parameters
    ----------
    sources : sequence of Dataset
        Searched in this order: the data set, its functional groups, the vendor's private items of a frame.
    rows, columns : int
        Size of one plane, which is a tile in a mosaic.
    """
    along = next(filter(None, (text(source, "InPlanePhaseEncodingDirection") for source in sources)), "")
    if along not in ("ROW", "COL", "COLUMN"):  # PS3.3 C.8.3.1 and, of enhanced objects, C.8.13.5.3
        return {}
    axis, matrix = ("i", columns) if along == "ROW" else ("j", rows)
    positive = _positive(sources)
    fields: dict[str, Any] = {"ReconMatrixPE": matrix}
    fields |= (
        {"PhaseEncodingAxis": axis} if positive is None else {"PhaseEncodingDirection": axis + "-" * (not positive)}
    )
    readout_s = _total_readout_time(sources, matrix) if _is_echo_planar(sources) else None
    if readout_s is not None and matrix > 1:
        fields["EffectiveEchoSpacing"] = float(f"{readout_s / (matrix - 1):.9g}")
        fields["TotalReadoutTime"] = float(f"{readout_s:.9g}")
    return fields


def _is_echo_planar(sources: Sequence[Dataset]) -> bool:
    return any(
        "EP" in texts(source, "ScanningSequence") or text(source, "EchoPlanarPulseSequence") == "YES"
        for source in sources
    )


def _positive(sources: Sequence[Dataset]) -> bool | None:
    """Return whether phase encoding goes along increasing index; None if it is unknown."""
    for source in sources:
        stated = private_numbers(source, XA_POSITIVE, 1) or csa_numbers(
            csa_image(source), "PhaseEncodingDirectionPositive", 1
        )
        if stated in ((0.0,), (1.0,)):
            return stated == (1.0,)
        if text(source, "Manufacturer").upper().startswith("GE "):
            return GE_POLARITY.get(text(source, "RectilinearPhaseEncodeReordering"))
    return None


def _total_readout_time(sources: Sequence[Dataset], matrix: int) -> float | None:
    """Return the seconds from the centre of the first echo to that of the last, as if all image lines were read."""
    for source in sources:
        bandwidth_hz = _bandwidth(source)
        if bandwidth_hz is not None and bandwidth_hz[0] > 0:
            return (matrix - 1) / (bandwidth_hz[0] * matrix)
        spacing_us = private_numbers(source, GE_ECHO_SPACING, 1)
        if spacing_us is not None and spacing_us[0] > 0:
            lines = _ge_lines(source, matrix)
            return None if lines is None else lines * spacing_us[0] * 1e-6
    return None


def _bandwidth(source: Dataset) -> tuple[float, ...] | None:
    """Return Siemens' bandwidth of one pixel in phase direction, in hertz."""
    return (
        private_numbers(source, SIEMENS_BANDWIDTH, 1)
        or private_numbers(source, XA_BANDWIDTH, 1)
        or csa_numbers(csa_image(source), "BandwidthPerPixelPhaseEncode", 1)
    )


def _ge_lines(ds: Dataset, matrix: int) -> int | None:
    """Return the number of intervals between the lines that GE reads.

    The number of lines is even; with partial Fourier in phase it is a multiple of four. None if the image has fewer
    lines than were acquired: it was cropped or reduced later, and it is unknown which.
    """
    size = numbers(ds, "AcquisitionMatrix", 4)  # frequency rows, frequency columns, phase rows, phase columns
    acquired = max(size[2:]) if size is not None else 0
    if acquired > matrix:
        return None
    share = (private_numbers(ds, GE_ASSET) or (1.0,))[0]
    multiple = 4 if "PFP" in texts(ds, "ScanOptions") else 2
    return math.ceil((acquired or matrix) * (share if 0 < share <= 1 else 1.0) / multiple) * multiple - 1
