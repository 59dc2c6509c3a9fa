"""The echo-planar readout for distortion correction: phase direction, echo spacing, total readout time.

The standard states the axis of phase encoding; only vendors state its sign and the bandwidth.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pydicom.dataset import Dataset

from node.dicom.values import PrivateTag, numbers, private_numbers, text, texts, whole
from node.volume.vendors import echo_train_s, is_encoded_upwards
from node.volume.vendors.siemens import csa_image, csa_numbers

SIEMENS_BANDWIDTH = PrivateTag(0x0019, "SIEMENS MR HEADER", 0x28, "FD")
"""BandwidthPerPixelPhaseEncode in hertz."""

XA_BANDWIDTH = PrivateTag(0x0021, "SIEMENS MR SDI 02", 0x53, "FD")
XA_POSITIVE = PrivateTag(0x0021, "SIEMENS MR SDI 02", 0x1C, "IS")
"""PhaseEncodingDirectionPositive: 1 along increasing index of the stored pixels, 0 against it."""

GE_ECHO_SPACING = PrivateTag(0x0043, "GEMS_PARM_01", 0x2C, "SS")
"""Effective echo spacing in microseconds: of the lines that are read, so that acceleration is not in it."""

GE_ASSET = PrivateTag(0x0043, "GEMS_PARM_01", 0x83, "DS")
"""Acquired shares of k-space in phase and slice direction; 0.5 is an acceleration of 2."""

PARTIAL_FOURIER = frozenset(("PFF", "PFP"))
"""Scan Options (0018,0022) of partial Fourier: in frequency, in phase. GE writes the former for both."""

PHILIPS_EPI_FACTOR = PrivateTag(0x2001, "Philips Imaging DD 001", 0x13, "SL")
WATER_FAT_SHIFT_PPM = 3.4


def phase_encoding(sources: Sequence[Dataset], rows: int, columns: int, stated: Mapping[str, Any]) -> dict[str, Any]:
    """Return the BIDS fields about phase encoding that can be derived.

    `PhaseEncodingDirection` has i along the rows of the stored pixels and j down their columns, as the volume has them.
    If the sign is unknown, the field is `PhaseEncodingAxis`. Times are in seconds.

    `sources`: searched in this order: the data set, its functional groups, the vendor's private items of a frame.
    `rows`, `columns`: size of one plane, which is a tile in a mosaic. `stated`: the other fields of the stack.
    """
    fields: dict[str, Any] = {}
    acquired = _acquired_lines(sources)
    if acquired:
        fields["AcquisitionMatrixPE"] = acquired
    along = next(filter(None, (text(source, "InPlanePhaseEncodingDirection") for source in sources)), "")
    if along not in ("ROW", "COL", "COLUMN"):  # PS3.3 C.8.3.1 and, of enhanced objects, C.8.13.5.3
        return fields | ({"ReconMatrixPE": rows} if 0 < rows == columns else {})
    axis, matrix = ("i", columns) if along == "ROW" else ("j", rows)
    positive = _positive(sources)
    fields |= {"InPlanePhaseEncodingDirectionDICOM": "ROW" if axis == "i" else "COL", "ReconMatrixPE": matrix}
    fields |= (
        {"PhaseEncodingAxis": axis} if positive is None else {"PhaseEncodingDirection": axis + "-" * (not positive)}
    )
    if matrix < 2 or not _is_echo_planar(sources):
        return fields
    spacing_s = _echo_spacing_s(sources, matrix)
    if spacing_s is not None:
        fields["EffectiveEchoSpacing"] = float(f"{spacing_s:.9g}")
        fields["TotalReadoutTime"] = float(f"{spacing_s * (matrix - 1):.9g}")
    fields |= _bandwidth_fields(sources, matrix, stated) | _estimates(sources, matrix, stated)
    return {
        name: content for name, content in fields.items() if not isinstance(content, float) or math.isfinite(content)
    }


def _acquired_lines(sources: Sequence[Dataset]) -> int | None:
    """Return the lines of the acquisition matrix in phase direction, with those that partial Fourier leaves out."""
    for source in sources:
        size = numbers(source, "AcquisitionMatrix", 4)  # frequency rows, frequency columns, phase rows, phase columns
        lines = int(max(size[2:])) if size is not None else whole(source, "MRAcquisitionPhaseEncodingStepsInPlane")
        if lines:
            return lines
    return None


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
        upwards = is_encoded_upwards(source)
        if upwards is not None:
            return upwards
    return None


def _echo_spacing_s(sources: Sequence[Dataset], matrix: int) -> float | None:
    """Return BIDS' EffectiveEchoSpacing: the seconds between two lines of the image, as if all of them were read."""
    for source in sources:
        bandwidth_hz = _bandwidth(source)
        if bandwidth_hz is not None and bandwidth_hz[0] > 0:
            return 1 / (bandwidth_hz[0] * matrix)
        spacing_us = private_numbers(source, GE_ECHO_SPACING, 1)
        if spacing_us is not None and spacing_us[0] > 0:
            share = _ge_share(source, matrix)
            return None if share is None else share * spacing_us[0] * 1e-6
        train_s = echo_train_s(source)
        if train_s is not None:
            return train_s / (matrix - 1)
    return None


def _bandwidth(source: Dataset) -> tuple[float, ...] | None:
    """Return Siemens' bandwidth of one pixel in phase direction, in hertz."""
    return (
        private_numbers(source, SIEMENS_BANDWIDTH, 1)
        or private_numbers(source, XA_BANDWIDTH, 1)
        or csa_numbers(csa_image(source), "BandwidthPerPixelPhaseEncode", 1)
    )


def _ge_share(ds: Dataset, matrix: int) -> float | None:
    """Return the share of GE's echo spacing that falls on one line of the image; None if it is unknown.

    The lines that are read are even in number; with partial Fourier, their number is a multiple of four. The interval
    between lines of the image is that between lines of the acquisition matrix even if the image has more lines:
    TOPUP and field maps agree on it (https://github.com/rordenlab/dcm2niix/pull/725). An image with fewer lines was
    cropped or reduced later, and it is unknown which.
    """
    acquired = _acquired_lines([ds]) or matrix
    if acquired > matrix or acquired < 2:
        return None
    share = (private_numbers(ds, GE_ASSET) or (1.0,))[0]
    multiple = 4 if PARTIAL_FOURIER.intersection(texts(ds, "ScanOptions")) else 2
    read = math.ceil(acquired * (share if 0 < share <= 1 else 1.0) / multiple) * multiple
    return (read - 1) / (acquired - 1)


def _bandwidth_fields(sources: Sequence[Dataset], matrix: int, stated: Mapping[str, Any]) -> dict[str, Any]:
    """Return Siemens' bandwidth in phase direction, and the interval between the echoes that it follows from.

    The bandwidth is that of a fully sampled image: acceleration and oversampling are taken out again.
    """
    bandwidth_hz = next((found[0] for source in sources if (found := _bandwidth(source)) and found[0] > 0), None)
    if bandwidth_hz is None:
        return {}
    acceleration = max(float(stated.get("ParallelReductionFactorInPlane", 1)), 1.0)
    oversampling = 1 + float(stated.get("PhaseOversampling", 0))
    return {
        "BandwidthPerPixelPhaseEncode": bandwidth_hz,
        "DerivedVendorReportedEchoSpacing": float(f"{acceleration / (bandwidth_hz * oversampling * matrix):.9g}"),
    }


def _estimates(sources: Sequence[Dataset], matrix: int, stated: Mapping[str, Any]) -> dict[str, Any]:
    """Return echo spacing and readout time of Philips' echo-planar images, as estimates under their own names.

    They follow from the shift between water and fat: https://github.com/rordenlab/dcm2niix/issues/377.
    """
    shift, frequency_mhz = stated.get("WaterFatShift"), stated.get("ImagingFrequency")
    factors = (private_numbers(source, PHILIPS_EPI_FACTOR, 1) for source in sources)
    echoes = next((int(factor[0]) for factor in factors if factor), None) or stated.get("EchoTrainLength")
    if not shift or not frequency_mhz or not echoes or echoes < 2:
        return {}
    readout_s = shift / (frequency_mhz * WATER_FAT_SHIFT_PPM * (echoes + 1)) * echoes
    return {
        "EstimatedEffectiveEchoSpacing": float(f"{readout_s / (matrix - 1):.6g}"),
        "EstimatedTotalReadoutTime": float(f"{readout_s:.6g}"),
    }
