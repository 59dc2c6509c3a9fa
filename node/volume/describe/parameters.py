"""Acquisition parameters that vary within one volume, or from time to time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from node.volume.model import Frame
from node.volume.reasons import VolumeWarning, WarningKind

CONSTANT_PARAMETERS = {
    "echo_time": "echo time (0018,0081) in ms",
    "inversion_time": "inversion time (0018,0082) in ms",
    "flip_angle": "flip angle (0018,1314) in degrees",
    "repetition_time": "repetition time (0018,0080) in ms",
    "kvp": "KVP (0018,0060)",
    "kernel": "convolution kernel (0018,1210)",
    "slice_thickness": "slice thickness (0018,0050) in mm",
}
"""Parameters that the slices of a volume should share; a volume whose slices differ gets a warning."""

PARAMETER_TOLERANCE = 0.01
"""Allowed relative difference, since scanners write measured and rounded values."""

TIME_PARAMETERS = {
    "echo_time": ("EchoTime", 0.001),
    "inversion_time": ("InversionTime", 0.001),
    "flip_angle": ("FlipAngle", 1.0),
    "repetition_time": ("RepetitionTime", 0.001),
    "trigger_time": ("TriggerTime", 0.001),
}
"""Parameters that may vary from time to time: the name in BIDS or the standard, and the factor to s or degrees."""


def parameters_by_time(planes: Sequence[Sequence[Frame]]) -> dict[str, list[float]]:
    """Return, by name, the value at the first slice of each time, for parameters that vary with time.

    Parameters
    ----------
    planes : sequence of times, each a sequence of Frame

    Returns
    -------
    dict of lists
        One value for each time, in seconds or degrees.
    """
    fields = {}
    for key, (name, unit) in TIME_PARAMETERS.items():
        values = [_parameter(time[0], key) for time in planes]
        known = [value for value in values if isinstance(value, float)]
        if len(known) == len(planes) and is_varying(known):
            fields[name] = [float(f"{value * unit:.9g}") for value in known]
    return fields


def _parameter(frame: Frame, name: str) -> Any:
    """Return a frame's value of a split, variant or time key; None if it has none."""
    return next((key[name] for key in (frame.split_key, frame.variant_key, frame.time_key) if name in key), None)


def varying_parameters(frames: Sequence[Frame]) -> list[VolumeWarning]:
    """Return warnings about parameters that differ between the slices of one volume."""
    unlike = {(id(frame.split_key), id(frame.variant_key)): frame for frame in frames}.values()  # equal ones share keys
    warnings = []
    for name, label in CONSTANT_PARAMETERS.items():
        values = {_parameter(frame, name) for frame in unlike} - {None, ()}
        numeric = [value for value in values if isinstance(value, float)]
        if len(values) < 2 or (numeric and not is_varying(numeric)):
            continue
        shown = f"from {min(numeric):.6g} to {max(numeric):.6g}" if numeric else f"{len(values)} values"
        warnings.append(VolumeWarning(WarningKind.PARAMETER_VARIES, f"{label} differs within the volume: {shown}"))
    return warnings


def is_varying(numbers: Sequence[float]) -> bool:
    """Return whether numbers differ by more than measurement and rounding explain."""
    return bool(numbers) and max(numbers) - min(numbers) > PARAMETER_TOLERANCE * max(map(abs, numbers))
