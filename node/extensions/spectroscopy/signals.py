"""What one instance of spectroscopy holds, whoever wrote it, and the checks that its header and its data must pass."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from node.errors import ConversionRefused
from node.volume.model import Float
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


@dataclass(frozen=True, slots=True, eq=False)
class VoxelPlace:
    """Where the voxels lie.

    `affine_lps`, (4, 4) float64 or None, mm: from voxel index (column, row, slice) to the centre of a voxel; None if
        the position is unknown.
    `spacing_mm`, (3,) float or None: sizes of a voxel along these axes; None if they are unknown.
    `doubt`: why the position is unknown or less certain than usual, in a sentence; empty if it is neither.
    """

    affine_lps: Float | None
    spacing_mm: tuple[float, float, float] | None
    doubt: str = ""


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


ALIGNED = 0.999
"""Least cosine between a slab's normal and the axis of the plane that it belongs to: 2.6 degrees."""

UNIT_TOLERANCE = 1e-3

POSITION_TOLERANCE_MM = 0.1
"""Positions are stated with at least two decimals."""

EVEN_TOLERANCE = 0.01
"""Largest deviation of a step from the usual one, as a share of it."""


@dataclass(frozen=True, slots=True, eq=False)
class Slab:
    """One slab of a localization (PS3.3 C.8.14.1): its normal, its thickness in mm, and its centre."""

    normal: Float
    thickness_mm: float
    centre: Float


def axes_of(orientation: Sequence[float] | None) -> Float | None:
    """Return unit vectors along a row, down a column and along the normal as columns; None if they are not such."""
    if orientation is None:
        return None
    row, column = np.array(orientation[:3], float), np.array(orientation[3:], float)
    if abs(row @ row - 1) > UNIT_TOLERANCE or abs(column @ column - 1) > UNIT_TOLERANCE:
        return None
    if abs(row @ column) > UNIT_TOLERANCE:
        return None
    row /= np.linalg.norm(row)
    column -= (column @ row) * row
    column /= np.linalg.norm(column)
    return np.column_stack((row, column, np.cross(row, column)))


def affine_of(axes: Float, spacing_mm: Sequence[float], first: Sequence[float] | Float) -> Float:
    """Return the affine of voxels along orthogonal axes from the centre of the first one."""
    affine = np.eye(4)
    affine[:3, :3] = axes * np.array(spacing_mm, float)
    affine[:3, 3] = first
    return affine


def box_of_slabs(slabs: Sequence[Slab], axes: Float | None) -> VoxelPlace | None:
    """Return the voxel that three orthogonal slabs share; None if they do not describe one.

    `axes`, (3, 3) float or None: axes of the image plane, which the axes of the voxel follow if they are parallel; else
        the patient's.
    """
    if len(slabs) != 3 or any(abs(slab.normal @ slab.normal - 1) > UNIT_TOLERANCE for slab in slabs):
        return None
    normals = np.column_stack([slab.normal / np.linalg.norm(slab.normal) for slab in slabs])
    if np.abs(normals.T @ normals - np.eye(3)).max() > 1 - ALIGNED:
        return None
    guide = axes if axes is not None and _order(normals, axes, ALIGNED) else np.eye(3)
    order = _order(normals, guide, 0.0)
    if order is None:
        return None
    own = normals[:, order] * np.sign(np.sum(normals[:, order] * guide, axis=0))
    if guide is axes:
        own = axes
    elif np.linalg.det(own) < 0:
        own[:, 2] *= -1
    sizes = [slabs[index].thickness_mm for index in order]
    if min(sizes) <= 0:
        return None
    centre = slabs[0].centre
    if max(float(np.abs(slab.centre - centre).max()) for slab in slabs) > POSITION_TOLERANCE_MM:
        # The slabs need not have one centre: that of each counts along its normal only.
        centre = np.linalg.solve(normals.T, [slab.normal @ slab.centre for slab in slabs])
    return VoxelPlace(affine_of(own, sizes, centre), (sizes[0], sizes[1], sizes[2]))


def _order(normals: Float, axes: Float, least: float) -> list[int] | None:
    """Return, for each axis, the index of the slab whose normal is along it; None if they do not pair."""
    cosines = np.abs(axes.T @ normals)
    order = [int(index) for index in cosines.argmax(axis=1)]
    return None if sorted(order) != [0, 1, 2] or cosines.max(axis=1).min() < least else order


def size_along(
    axes: Float, right_left_mm: float, front_back_mm: float, feet_head_mm: float
) -> tuple[float, ...] | None:
    """Return sizes along image axes that are stated along the nearest axes of the patient; None if two are as near."""
    nearest = [int(index) for index in np.abs(axes).argmax(axis=0)]
    if sorted(nearest) != [0, 1, 2]:
        return None
    sizes = (right_left_mm, front_back_mm, feet_head_mm)
    return tuple(sizes[index] for index in nearest)


def step_of(positions: Sequence[Sequence[float]], axes: Float) -> tuple[float, list[int]] | None:
    """Return the even distance of parallel planes along their normal and their order; None if they are not even."""
    along = np.array(positions, float) @ axes
    order = [int(index) for index in np.argsort(along[:, 2])]
    across = np.ptp(along[:, :2], axis=0).max() if len(along) > 1 else 0.0
    steps = np.diff(along[order, 2])
    if across > POSITION_TOLERANCE_MM or not steps.size or steps.min() <= POSITION_TOLERANCE_MM:
        return None
    usual = float(np.median(steps))
    return (usual, order) if np.abs(steps - usual).max() <= EVEN_TOLERANCE * usual else None
