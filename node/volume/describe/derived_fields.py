"""Fields of a stack that follow from several others: the kind of sequence, the earliest time, times of labelling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydicom.dataset import Dataset

from node.dicom.values import text
from node.volume.model import Frame

DAY_S = 86400
SAME_INSTANT_S = 0.001
"""Instants are seconds on a scale that began long ago, so that their last digits are lost."""


def derived_fields(sources: Sequence[Dataset], frames: Sequence[Frame], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields that follow from others, among them better values of those.

    Parameters
    ----------
    sources : sequence of Dataset
        The data set, its functional groups, the vendor's private items of a frame.
    frames : sequence of Frame
        All planes of the stack.
    fields : mapping
        The fields of the stack so far.
    """
    derived: dict[str, Any] = {}
    earliest = _earliest_time(frames)
    if earliest and "AcquisitionTime" in fields:
        derived["AcquisitionTime"] = earliest
    if fields.get("Modality") != "MR":
        return derived
    kind = pulse_sequence_type(sources, frames, fields)
    if kind:
        derived["PulseSequenceType"] = kind
    return derived | _partial_fourier(sources, fields) | _labelling(sources, fields)


def _earliest_time(frames: Sequence[Frame]) -> str:
    """Return the time of day of the plane that was acquired first, unless it is that of the first plane."""
    instants = [frame.time_key.get("acquisition_time") for frame in frames]
    known = [instant for instant in instants if isinstance(instant, float)]
    if not known or len(known) < len(instants) or known[0] - min(known) < SAME_INSTANT_S:
        return ""
    minutes, seconds = divmod(round(min(known) % DAY_S, 4), 60)
    return f"{int(minutes) // 60:02}:{int(minutes) % 60:02}:{seconds:09.6f}"


def pulse_sequence_type(sources: Sequence[Dataset], frames: Sequence[Frame], fields: Mapping[str, Any]) -> str:
    """Return a general description of the sequence in BIDS' words; empty if nothing is stated.

    Images of a diffusion sequence may state an echo-planar readout alone. Such a sequence refocuses, so that nothing is
    said of its echo; any other one is then a gradient echo.
    """
    kinds, variants = fields.get("ScanningSequence", ()), fields.get("SequenceVariant", ())
    echo = fields.get("EchoPulseSequence", "")
    spin = "SE" in kinds or (not kinds and echo in ("SPIN", "BOTH"))
    gradient = "GR" in kinds or (not kinds and echo in ("GRADIENT", "BOTH"))
    if "EP" in kinds or any(text(source, "EchoPlanarPulseSequence") == "YES" for source in sources):
        weighted = any(frame.diffusion is not None and frame.diffusion.b_value > 0 for frame in frames)
        name = "Spin Echo EPI" if spin else "EPI" if weighted and not gradient else "Gradient Echo EPI"
        return f"Multiband {name}" if fields.get("MultibandAccelerationFactor", 1) > 1 else name
    if gradient:
        if "MP" in variants and "IR" in kinds:
            return "MPRAGE"
        return "Spoiled Gradient Echo" if "SP" in variants or fields.get("SpoilingState") else "Gradient Echo"
    if spin:
        return "Inversion Recovery Spin Echo" if "IR" in kinds else "Spin Echo"
    return ""


def _partial_fourier(sources: Sequence[Dataset], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return what Philips states of partial Fourier: not the share, but that its number of steps is that without it."""
    is_philips = str(fields.get("Manufacturer", "")).upper().startswith("PHILIPS")
    if not is_philips or not any(text(source, "PartialFourier") == "YES" for source in sources):
        return {}
    steps = fields.get("PhaseEncodingSteps")
    return {"PartialFourierEnabled": "YES"} | ({"PhaseEncodingStepsNoPartialFourier": steps} if steps else {})


def _labelling(sources: Sequence[Dataset], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the times of arterial spin labelling that are those of the sequence.

    Preparation recurs with every repetition. If the standard's attribute says that spins are labelled, Inversion Time
    is the delay after labelling.
    """
    if "ArterialSpinLabelingType" not in fields:
        return {}
    times = {"RepetitionTimePreparation": fields.get("RepetitionTime")}
    if any(text(source, "ArterialSpinLabelingContrast") for source in sources) and "PostLabelingDelay" not in fields:
        times["PostLabelingDelay"] = fields.get("InversionTime")
    return {name: time for name, time in times.items() if time is not None}
