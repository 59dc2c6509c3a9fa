"""What one instance of spectroscopy holds, whoever wrote it, and the checks that its header and its data must pass."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from node.errors import ConversionRefused
from node.extensions.spectroscopy.geometry import VoxelPlace
from node.volume.reasons import Reason

Complex = NDArray[np.complex64]

GYROMAGNETIC_RATIOS = {
    "1H": 42.577, "2H": 6.536, "3HE": 32.434, "7LI": 16.546, "13C": 10.708, "19F": 40.052, "23NA": 11.262,
    "31P": 17.235, "129XE": 11.777,
}  # fmt: skip
"""MHz for each tesla, of the nuclei of Resonant Nucleus (0018,9100)."""

FREQUENCY_TOLERANCE = 0.05
"""Scanners of 3 T have 2.89 T; the frequencies of 1H and 19F differ by 6 %."""

_NUCLEUS = re.compile(r"[1-9]\d{0,2}[A-Z]{1,2}")


@dataclass(slots=True, eq=False)
class Signals:
    """The free induction decays of one instance that belong together.

    `voxels`, (columns, rows, slices, points, transients) complex64: in the convention of NIfTI-MRS: the complex
        conjugate of that of PS3.3 C.8.14.4.1.
    `frames`: the numbers of the frames, from 1.
    `dwell_s`: between two points.
    `facts`: names and values of NIfTI-MRS that the header states, in its units.
    `fields`: fields of the sidecar.
    `coil`: receive coil, or its element if each has data of its own.
    `role`: ``"ref"`` for a reference without water suppression; else empty.
    `conditions`: ``"ON"`` or ``"OFF"`` for each transient of an edited acquisition; else empty.
    `averages`: how many acquisitions each transient is the mean of.
    `planned_averages`: how many the protocol plans.
    `doubts`: sentences about what was left out.
    """

    sop_instance_uid: str
    number: int | None
    voxels: Complex
    frames: tuple[int, ...]
    dwell_s: float
    frequency_mhz: float
    nucleus: str
    place: VoxelPlace
    facts: Mapping[str, Any] = field(default_factory=dict)
    fields: Mapping[str, Any] = field(default_factory=dict)
    coil: str = ""
    role: str = ""
    conditions: tuple[str, ...] = ()
    averages: float | None = None
    planned_averages: int | None = None
    doubts: tuple[str, ...] = ()


def complex_points(data: bytes, counts: Mapping[str, int], name: str, *, big_endian: bool = False) -> Complex:
    """Return the points of a data stream of pairs of 32 bits, without change of their sign.

    `counts`: what the header says of the number of points: their product.

    Raises ConversionRefused: the data are of another length, or hold numbers that are none.
    """
    expected = 8 * int(np.prod([int(count) for count in counts.values()], dtype=object))
    if expected <= 0 or len(data) not in (expected, expected + len(data) % 2):
        stated = ", ".join(f"{label} {count}" for label, count in counts.items())
        detail = f"{name} has {len(data)} bytes, but the header announces {expected} ({stated}, 8 bytes a point)"
        raise ConversionRefused(Reason.CONTRADICTORY, detail)
    parts = np.frombuffer(data, ">f4" if big_endian else "<f4", expected // 4).astype(np.float32)
    if not np.isfinite(parts).all():
        raise ConversionRefused(Reason.CONTRADICTORY, f"{name} has values that are not finite numbers")
    return parts.view(np.complex64)


def checked_nucleus(nucleus: str, frequency_mhz: float | None, field_t: float | None) -> str:
    """Return a nucleus in capitals, as NIfTI-MRS has it.

    Raises ConversionRefused: it is missing, or does not resonate at this frequency in this field.
    """
    code = nucleus.upper().strip()
    if not _NUCLEUS.fullmatch(code):
        raise ConversionRefused(Reason.INCOMPLETE, "Resonant Nucleus (0018,9100) is missing, or is not a nucleus")
    ratio = GYROMAGNETIC_RATIOS.get(code)
    if ratio and field_t and frequency_mhz:
        usual = ratio * field_t
        if abs(frequency_mhz - usual) > FREQUENCY_TOLERANCE * usual:
            detail = (
                f"{code} resonates at {usual:.1f} MHz in {field_t:g} T, but the frequency is {frequency_mhz:.1f} MHz"
            )
            raise ConversionRefused(Reason.CONTRADICTORY, detail)
    return code


def positive(number: float | None, name: str) -> float:
    """Return a number; raise `ConversionRefused` if it is missing or not positive."""
    if number is None:
        raise ConversionRefused(Reason.INCOMPLETE, f"{name} is missing")
    if number <= 0:
        raise ConversionRefused(Reason.CONTRADICTORY, f"{name} is {number:g}")
    return number


def require_time_domain(representation: str, *domains: str) -> None:
    """Raise `ConversionRefused` unless the data are complex and in the time domain, as NIfTI-MRS has them."""
    if representation != "COMPLEX":
        detail = f"Data Representation (0028,9108) is {representation or 'missing'}; NIfTI-MRS holds COMPLEX data only"
        raise ConversionRefused(Reason.UNPROVEN_LAYOUT, detail)
    if any(domain != "TIME" for domain in domains):
        detail = "Signal Domain Columns (0028,9003) is not TIME; NIfTI-MRS holds signals in time only"
        raise ConversionRefused(Reason.UNPROVEN_LAYOUT, detail)
