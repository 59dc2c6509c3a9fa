"""Fields of a NIfTI header beyond the grid: axes and order of the acquisition, display range, intent, extension.

A field is left at 0, which means unknown, unless the data set states it. Names and codes are those of ``nifti1.h``.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

from node.volume.describe.scan_parameters import MAPS
from node.volume.model import Kind, Volume
from node.volume.rendering import is_sane, sample
from node.writers.base import slice_timing_of
from node.writers.nifti_header import NiftiHeader

SLICE_TIME_TOLERANCE = 0.1
"""Largest deviation of a slice from an even order, in times per slice; scanners write rounded times."""

TRIGGER_TOLERANCE = 0.05
"""Allowed relative difference between the step of trigger times and the time step of the volume."""

COMMENT_CODE = 6
"""NIFTI_ECODE_COMMENT: plain text. No code is registered for JSON of any content, and readers skip comments."""

EXTENSION_ALIGNMENT = 16


def set_acquisition(head: NiftiHeader, volume: Volume) -> None:
    """Set the axes of an MR image (``dim_info``), the order of its slices, and the start of its time axis."""
    stated = volume.attributes.get("PhaseEncodingDirection") or volume.attributes.get("PhaseEncodingAxis") or ""
    phase = {"i": 0, "j": 1}.get(str(stated)[:1])
    if volume.modality == "MR" and volume.affine_lps is not None:
        head.set_axes(phase)
        order = slice_order(slice_timing_of(volume) or ())
        if order is not None:
            head["slice_code"], head["slice_duration"] = order
            head["slice_start"], head["slice_end"] = 0, volume.shape[2] - 1
    head["toffset"] = _first_trigger_s(volume)


def slice_order(timing: Sequence[float]) -> tuple[int, float] | None:
    """Return NIfTI's code of the order in which slices were acquired, and the seconds per slice.

    None if no code describes the times: slices excited together, an uneven step, or an order without a code.

    Parameters
    ----------
    timing : sequence of float
        Start of each slice in seconds, in the order of the slices.
    """
    count = len(timing)
    if count < 2:
        return None
    starts = np.array(timing) - min(timing)
    duration = float(starts.max()) / (count - 1)
    up = np.arange(count)
    even_first, odd_first = np.r_[up[::2], up[1::2]], np.r_[up[1::2], up[::2]]
    orders = (up, up[::-1], even_first, count - 1 - even_first, odd_first, count - 1 - odd_first)
    for code, order in enumerate(orders, start=1):  # NIFTI_SLICE_SEQ_INC to NIFTI_SLICE_ALT_DEC2
        if duration > 0 and np.abs(starts[order] - up * duration).max() <= SLICE_TIME_TOLERANCE * duration:
            return code, duration
    return None


def _first_trigger_s(volume: Volume) -> float:
    """Return the seconds from the trigger to the first time if trigger times are the time axis; else 0."""
    triggers = volume.attributes.get("of_each_time", {}).get("TriggerTime", ())
    if volume.time_step_s is None or len(triggers) != volume.times:
        return 0.0
    steps = np.diff(triggers)
    steady = np.abs(steps - volume.time_step_s).max() <= TRIGGER_TOLERANCE * volume.time_step_s
    return float(triggers[0]) if steady else 0.0


def set_display_range(head: NiftiHeader, volume: Volume) -> None:
    """Set ``cal_min`` and ``cal_max`` to the first window of the data set that shows anything of the volume."""
    windows = () if volume.colour else volume.display.windows
    visible = sample(volume) if windows else np.empty(0)
    for centre, width in windows:
        if visible.size and is_sane(centre, width, float(visible.min()), float(visible.max())):
            head["cal_min"], head["cal_max"] = centre - width / 2, centre + width / 2
            return


def set_intent(head: NiftiHeader, volume: Volume) -> None:
    """Set the intent of labels (``label``) and of maps (``estimate``: a parameter that was computed)."""
    intent = _intent(volume)
    if intent is not None:
        head.set_intent(*intent)


def _intent(volume: Volume) -> tuple[str, str] | None:
    """Return intent and name (at most 15 characters) of a label volume or of a map; None of other images."""
    attributes = volume.attributes
    if volume.kind is Kind.MASK:
        return "label", f"ROI {attributes['roi']['number']}" if "roi" in attributes else "body mask"
    if volume.modality == "SEG":
        return ("label", "segments") if volume.slope == 1 else ("estimate", "fraction")
    if volume.modality == "RTDOSE":
        return "estimate", "dose"
    if "SUVType" in attributes:
        return "estimate", f"SUV{str(attributes['SUVType']).lower()}"
    if volume.modality == "MR" and attributes.get("Units") == "Hz":
        return "estimate", "field map"
    named = next((word for word in attributes.get("ImageType", ()) if word in MAPS), None)
    return None if named is None else ("estimate", named)


def header_extension(text: bytes) -> bytes:
    """Return the bytes of a header extension that holds a text, for the place after the four extension flags."""
    size = -(-(8 + len(text)) // EXTENSION_ALIGNMENT) * EXTENSION_ALIGNMENT
    return struct.pack("<ii", size, COMMENT_CODE) + text.ljust(size - 8, b"\0")
