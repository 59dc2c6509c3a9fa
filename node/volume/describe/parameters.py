"""Parameters of the sequence or the tube that change within one volume, or from time to time of it."""

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
"""What the slices of a volume are expected to share, and is told where they do not."""

PARAMETER_TOLERANCE = 0.01
"""Part by which such a number may differ: scanners write measured and rounded values."""

TIME_PARAMETERS = {
    "echo_time": ("EchoTime", 0.001),
    "inversion_time": ("InversionTime", 0.001),
    "flip_angle": ("FlipAngle", 1.0),
    "repetition_time": ("RepetitionTime", 0.001),
    "trigger_time": ("TriggerTime", 0.001),
}
"""What BIDS or the standard calls a parameter that may change from time to time, and its unit in s or degrees."""


def parameters_by_time(planes: Sequence[Sequence[Frame]]) -> dict[str, list[float]]:
    """Return, by name, the value at the first slice of each time; of those parameters that change with time.

    Parameters
    ----------
    planes : sequence of times, each a sequence of Frame

    Returns
    -------
    dict of lists
        As long as there are times; in seconds and degrees.
    """
    found = {}
    for key, (name, unit) in TIME_PARAMETERS.items():
        values = [_parameters(time[0]).get(key) for time in planes]
        known = [value for value in values if isinstance(value, float)]
        if len(known) == len(planes) and is_varying(known):
            found[name] = [float(f"{value * unit:.9g}") for value in known]
    return found


def _parameters(frame: Frame) -> dict[str, Any]:
    return {**frame.time_key, **frame.variant_key, **frame.split_key}


def varying_parameters(frames: Sequence[Frame]) -> list[VolumeWarning]:
    """Warnings of what differs between the slices of one volume and is no dimension of it."""
    found = []
    for name, called in CONSTANT_PARAMETERS.items():
        keys = (_parameters(frame).get(name) for frame in frames)
        values = {key for key in keys if key not in (None, ())}
        numeric = [value for value in values if isinstance(value, float)]
        if len(values) < 2 or (numeric and not is_varying(numeric)):
            continue
        told = f"from {min(numeric):.6g} to {max(numeric):.6g}" if numeric else f"{len(values)} values"
        found.append(VolumeWarning(WarningKind.PARAMETER_VARIES, f"{called} differs within the volume: {told}"))
    return found


def is_varying(numbers: Sequence[float]) -> bool:
    """Whether numbers differ by more than scanners measure and round."""
    return bool(numbers) and max(numbers) - min(numbers) > PARAMETER_TOLERANCE * max(map(abs, numbers))
