"""Parameters of a scan as columns of the index: those by which people look for volumes."""

import re
from collections.abc import Mapping
from typing import Any

from node.selector.fields import FIELDS
from node.volume.model import Volume

STATED = "stated"
"""The contrast agent of an image whose header names one by a text that is not among those known."""

MAX_TEXT = 64

MIN_T2_STAR_ECHO_MS = 15.0
"""Shortest echo of a gradient echo that is called T2* weighted."""

WEIGHTINGS = {
    "T1": "T1",
    "T2": "T2",
    "T2_STAR": "T2*",
    "PROTON_DENSITY": "PD",
    "FLUID_ATTENUATED": "FLAIR",
    "DIFFUSION": "DWI",
}
"""Acquisition Contrast (0008,9209), PS3.3 C.8.13.3.1, by the words that people use."""

MAPS = frozenset(
    {
        *("ADC", "APPARENT DIFFUSION COEFFICIENT", "EADC", "FA"),
        *("T1 MAP", "T2 MAP", "T2_STAR MAP", "R2 MAP", "R2_STAR MAP", "PD MAP", "FIELD_MAP"),
        *("CBF", "RELCBF", "REG_CBF", "CBV", "RELCBV", "REG_CBV", "MTT", "TTP", "TMAX"),
    }
)
"""Values of Image Type (0008,0008) that name an estimated parameter: the standard's (PS3.3 C.8.13.3.1) and vendors'."""

_PLAIN = re.compile(rf"[ -~]{{1,{MAX_TEXT}}}")
_NO_MAGNITUDES = frozenset(
    {*("P", "PHASE", "PHASE MAP", "I", "IMAGINARY", "R", "REAL", "B0 MAP", "B1 MAP", "VELOCITY"), *("T_MAP", "TTEST")}
)
"""Values of Image Type for phases, parts of complex numbers, fields, velocities and statistics of functional series."""


def scan_parameters(volume: Volume) -> dict[str, Any]:
    """Return the columns of `ConvertedFile` that describe how a volume was acquired.

    Times are in ms, lengths in mm, angles in degrees, field strengths in tesla; None is unknown, or differs
    between the planes of a stack.
    """
    fields = volume.attributes
    agent = fields.get("ContrastBolusIngredient") or (STATED if fields.get("contrast_agent_stated") else None)
    values = {
        name: _number(fields, name) if field.type == "number" else _text(fields, field.sidecar)
        for name, field in FIELDS.items()
        if field.sidecar
    }
    return {**values, "weighting": weighting(volume), "contrast_agent": agent}


def weighting(volume: Volume) -> str | None:
    """Return what the contrast of an MR image is weighted by: T1, T2, T2*, PD, FLAIR or DWI; None if it is not clear.

    The header's own word counts first. Without one, only parameters in the middle of the usual ranges decide: a spin
    echo between short and long times, or a gradient echo that nothing prepares, may have any weighting. Maps, phase
    images and labelled images have none.
    """
    fields = volume.attributes
    if volume.modality != "MR" or _is_map(volume) or "ArterialSpinLabelingType" in fields:
        return None
    if any(weighted.b_value > 0 for weighted in volume.diffusion or ()):
        return "DWI"
    repetition, echo, inversion, flip = (
        _number(fields, name)
        for name in ("repetition_time_ms", "echo_time_ms", "inversion_time_ms", "flip_angle_degrees")
    )
    is_gradient = "GR" in fields.get("ScanningSequence", ()) or fields.get("EchoPulseSequence") == "GRADIENT"
    stated = fields.get("AcquisitionContrast", "UNKNOWN")
    if stated != "UNKNOWN":
        return _stated(stated, is_gradient, echo)
    sequence = fields.get("PulseSequenceType", "")
    if not sequence or repetition is None or echo is None:
        return None
    if is_gradient:
        return _of_gradient_echo(sequence, echo, inversion, flip)
    return _of_spin_echo(repetition, echo, inversion) if sequence.endswith("Spin Echo") else None


def _stated(contrast: str, is_gradient: bool, echo_ms: float | None) -> str | None:
    """Return the weighting that a header states; Philips says T2 of gradient echoes, which never are."""
    if contrast == "T2" and is_gradient:
        return "T2*" if echo_ms is not None and echo_ms >= MIN_T2_STAR_ECHO_MS else None
    return WEIGHTINGS.get(contrast)


def _of_gradient_echo(sequence: str, echo_ms: float, inversion_ms: float | None, flip: float | None) -> str | None:
    if inversion_ms is not None:
        return "T1" if 300 <= inversion_ms <= 1400 and echo_ms <= 10 and "EPI" not in sequence else None
    if "EPI" in sequence or (echo_ms >= MIN_T2_STAR_ECHO_MS and flip is not None and flip <= 35):
        return "T2*"
    return None


def _of_spin_echo(repetition_ms: float, echo_ms: float, inversion_ms: float | None) -> str | None:
    if inversion_ms is not None:
        if inversion_ms >= 1500:
            return "FLAIR" if echo_ms >= 70 and repetition_ms >= 4000 else None
        return "T1" if 400 <= inversion_ms <= 1300 and echo_ms <= 30 and repetition_ms <= 3500 else None
    if echo_ms <= 30:
        return "T1" if repetition_ms <= 1000 else "PD" if repetition_ms >= 2000 else None
    return "T2" if echo_ms >= 70 and repetition_ms >= 2000 else None


def _is_map(volume: Volume) -> bool:
    kinds = volume.attributes.get("ImageType", ())
    if any(weighted.derived for weighted in volume.diffusion or ()):
        return True
    component = volume.attributes.get("ComplexImageComponent", "MAGNITUDE")
    return component not in ("MAGNITUDE", "MIXED") or not (MAPS | _NO_MAGNITUDES).isdisjoint(kinds)


def _number(fields: Mapping[str, Any], name: str) -> float | None:
    """Return the number of a column, from the fields of a sidecar."""
    value: float | None = FIELDS[name].of_sidecar(fields.get(FIELDS[name].sidecar))
    return value


def _text(fields: Mapping[str, Any], name: str) -> str | None:
    value = fields.get(name)
    value = "\\".join(value) if isinstance(value, list | tuple) else value
    return value if isinstance(value, str) and _PLAIN.fullmatch(value) else None
