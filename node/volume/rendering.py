"""How a volume looks: grey values by the display rules of PS3.3 C.11, planes as radiologists see them, projections.

Pure arithmetic on arrays; nothing here changes the volume. Pictures come out as (height, width) or (height, width, 3)
uint8 together with the size of one of their pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from node.volume.model import Array, Float, Volume

Grey = NDArray[np.uint8]

SAMPLE = 1_000_000
"""Voxels, about, from which the range of a volume is estimated."""

WIDEST_WINDOW = 20
"""A window this many times as wide as the range of the data would show one grey."""

CT_WINDOW = (40.0, 400.0)
"""Soft tissue, Hounsfield units: of a CT that brings no window."""


class Plane(IntEnum):
    """Anatomical planes, by the LPS axis that they are perpendicular to."""

    SAGITTAL = 0
    CORONAL = 1
    AXIAL = 2


class Projection(StrEnum):
    """Largest or smallest value along a line of sight."""

    MIP = "mip"
    MINIP = "minip"


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """Pixels of a picture, and how high and wide one is (mm, or any unit where the volume has no place)."""

    pixels: Grey
    pixel_size: tuple[float, float]


@dataclass(frozen=True, slots=True, eq=False)
class Oriented:
    """One time of a volume in anatomical order: a view of (inferior to superior, anterior to posterior, right to left).

    Increasing indices go along LPS+ z, y and x: as near to them as the volume's axes lie, nothing is interpolated.

    Attributes
    ----------
    voxels : (z, y, x) or (z, y, x, 3) array of stored values
    spacing_mm : (3,) float
        Along z, y and x.
    stacked : Plane
        The plane nearest to the slices of the volume.
    """

    voxels: Array
    spacing_mm: tuple[float, float, float]
    stacked: Plane


def oriented(volume: Volume, time: int | None = None) -> Oriented:
    """Return one time of a volume in anatomical order; by default the middle one.

    A volume without a place in the patient is taken as if its slices were axial.
    """
    voxels = volume.voxels[volume.times // 2 if time is None else time]
    affine = np.eye(4) if volume.affine_lps is None else volume.affine_lps
    patient_axis = nearest_axes(affine[:3, :3])
    order = [2 - patient_axis.index(axis) for axis in (2, 1, 0)]  # array axes run (slice, row, column)
    turned = voxels.transpose(*order, *range(3, voxels.ndim))
    signs = [np.sign(affine[axis, patient_axis.index(axis)]) for axis in (2, 1, 0)]
    turned = turned[tuple(slice(None, None, -1 if sign < 0 else 1) for sign in signs)]
    z, y, x = (volume.spacing_mm[2 - axis] for axis in order)
    return Oriented(turned, (z, y, x), Plane(patient_axis[2]))


def nearest_axes(directions: Float) -> list[int]:
    """Return for each voxel axis the patient axis (0 x, 1 y, 2 z) that it runs nearest to, each once."""
    cosines = np.abs(directions / np.linalg.norm(directions, axis=0))
    nearest = [-1, -1, -1]
    for _ in range(3):
        patient, voxel = np.unravel_index(cosines.argmax(), cosines.shape)
        nearest[voxel] = int(patient)
        cosines[patient, :] = cosines[:, voxel] = -1
    return nearest


class Shades:
    """The way from stored values to grey, one for all pictures of a volume.

    In this order: VOI LUT; the first window that the data set gives and that shows anything; the modality's custom;
    the 1st to the 99th percentile. Padding is left out of every estimate and is shown as the darkest value.
    """

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._inverted = volume.display.inverted
        self._to_unit = self._choose()

    def __call__(self, stored: Array) -> Grey:
        """Return the grey values of an array of stored values; colour stays as it is."""
        if self._volume.colour:
            return stored.astype(np.uint8, copy=False)
        unit = np.nan_to_num(self._to_unit(real(self._volume, stored)), nan=0.0)
        unit[padded(self._volume, stored)] = 0
        grey: Grey = np.rint(unit * 255).astype(np.uint8)
        return 255 - grey if self._inverted else grey

    def over(self, stored: Array) -> Grey:
        """Return grey values of a projection: from its own 1st to its 99.5th percentile, as values pile up there."""
        values = real(self._volume, stored)
        visible = values[~padded(self._volume, stored) & np.isfinite(values)]
        low, high = _percentiles(visible, 1, 99.5) if visible.size else (0.0, 1.0)
        unit = np.nan_to_num(linear_exact(values, (low + high) / 2, high - low), nan=0.0)
        grey: Grey = np.rint(unit * 255).astype(np.uint8)
        return 255 - grey if self._inverted or self._volume.modality == "PT" else grey

    def _choose(self) -> Callable[[Array], Array]:
        volume, display = self._volume, self._volume.display
        if volume.colour:
            return lambda values: values
        if display.voi_lut is not None and len(display.voi_lut[1]):
            first, table = display.voi_lut
            return lambda values: voi_lut(values, first, table)
        visible = sample(volume)
        lowest, highest = (float(visible.min()), float(visible.max())) if visible.size else (0.0, 1.0)
        for centre, width in display.windows:
            if is_sane(centre, width, lowest, highest):
                function = FUNCTIONS.get(display.function, linear)
                return lambda values: function(values, centre, width)
        if volume.modality == "CT" and is_sane(*CT_WINDOW, lowest, highest):
            return lambda values: linear(values, *CT_WINDOW)
        if volume.modality == "PT" and highest > 0:
            self._inverted = True  # activity is black on white by custom
            return _between(0.0, float(np.percentile(visible, 99.5)) or highest)
        return _between(*(_percentiles(visible, 1, 99) if visible.size else (0.0, 1.0)))


def _between(low: float, high: float) -> Callable[[Array], Array]:
    return lambda values: linear_exact(values, (low + high) / 2, high - low)


def _percentiles(values: Array, low: float, high: float) -> tuple[float, float]:
    """Return two percentiles; the whole range where they fall together, as in sparse labels."""
    below, above = (float(each) for each in np.percentile(values, (low, high)))
    return (below, above) if above > below else (float(values.min()), float(values.max()))


def real(volume: Volume, stored: Array) -> Array:
    """Return real values, at least float32, of stored ones."""
    values = stored.astype(np.result_type(stored.dtype, np.float32))
    if (volume.slope, volume.intercept) != (1, 0):
        values *= volume.slope
        values += volume.intercept
    return values


def padded(volume: Volume, stored: Array) -> NDArray[np.bool_]:
    """Return where stored values are Pixel Padding Value (0028,0120) or in its range, PS3.3 C.7.5.1.1.2."""
    if volume.display.padding is None:
        return np.zeros(stored.shape, bool)
    low, high = sorted(volume.display.padding)
    inside: NDArray[np.bool_] = (stored >= low) & (stored <= high)
    return inside


def sample(volume: Volume) -> Array:
    """Return finite, unpadded real values from all over the middle time of a volume, in no order."""
    voxels = volume.voxels[volume.times // 2]
    step = max(1, int(np.ceil((voxels.size / SAMPLE) ** (1 / 3))))
    stored = voxels if step == 1 else voxels[step // 2 % len(voxels) :: step, ::step, ::step]
    values = real(volume, stored)
    visible: Array = values[~padded(volume, stored) & np.isfinite(values)]
    return visible


def is_sane(centre: float, width: float, lowest: float, highest: float) -> bool:
    """Return whether a window shows anything of data that range from `lowest` to `highest`.

    Some senders give windows for stored values, or none but a placeholder.
    """
    if not (np.isfinite(centre) and np.isfinite(width) and width > 0):
        return False
    touches = centre - width / 2 < highest and centre + width / 2 > lowest
    return touches and width <= WIDEST_WINDOW * max(highest - lowest, np.finfo(float).tiny)


def linear(values: Array, centre: float, width: float) -> Array:
    """Return 0..1 by the function LINEAR, PS3.3 C.11.2.1.2.1.

    A width below 1, which the standard forbids here, is what senders of small real values mean by LINEAR_EXACT.
    """
    if width < 1:
        return linear_exact(values, centre, width)
    if width == 1:
        return np.where(values > centre - 0.5, 1.0, 0.0)
    unit: Array = np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)
    return unit


def linear_exact(values: Array, centre: float, width: float) -> Array:
    """Return 0..1 by the function LINEAR_EXACT, PS3.3 C.11.2.1.3.2; a width of 0 is a step."""
    if width <= 0:
        return np.where(values > centre, 1.0, 0.0)
    unit: Array = np.clip((values - centre) / width + 0.5, 0, 1)
    return unit


def sigmoid(values: Array, centre: float, width: float) -> Array:
    """Return 0..1 by the function SIGMOID, PS3.3 C.11.2.1.3.1."""
    exponent = np.clip(-4 * (values - centre) / width, -80, 80)  # beyond, exp leaves float32
    unit: Array = 1 / (1 + np.exp(exponent))
    return unit


FUNCTIONS: dict[str, Callable[[Array, float, float], Array]] = {
    "LINEAR": linear,
    "LINEAR_EXACT": linear_exact,
    "SIGMOID": sigmoid,
}
"""By VOI LUT Function (0028,1056)."""


def voi_lut(values: Array, first: int, table: Array) -> Array:
    """Return 0..1 by a VOI LUT, PS3.3 C.11.2.1.1; values beyond the table take its ends."""
    index = np.clip(np.nan_to_num(values) - first, 0, len(table) - 1).astype(np.intp)
    full = 2 ** int(np.ceil(np.log2(max(int(np.max(table)), 1) + 1))) - 1  # its bits, which the table itself tells
    unit: Array = table[index] / full
    return unit


def thumbnail(volume: Volume, shades: Shades) -> Picture:
    """Return the middle slice of the middle time, turned as radiologists look at its plane.

    One slice alone, and a volume without a place in the patient, are shown as they are stored.
    """
    if volume.affine_lps is None or volume.shape[2] == 1:
        rows_mm = volume.spacing_mm[1] * volume.display.pixel_aspect
        stored = volume.voxels[volume.times // 2, volume.shape[2] // 2]
        return Picture(shades(stored), (rows_mm, volume.spacing_mm[0]))
    whole = oriented(volume)
    return cut(whole, whole.stacked, whole.voxels.shape[2 - whole.stacked] // 2, shades)


def preview(volume: Volume, shades: Shades) -> list[Picture]:
    """Return the middle axial, coronal and sagittal planes of the middle time."""
    whole = oriented(volume)
    return [cut(whole, plane, whole.voxels.shape[2 - plane] // 2, shades) for plane in reversed(Plane)]


def montage(volume: Volume, shades: Shades, step: int) -> Iterator[Picture]:
    """Yield every `step`-th slice of the middle time, from inferior, anterior or right on."""
    whole = oriented(volume)
    count = whole.voxels.shape[2 - whole.stacked]
    for index in range((count - 1) % step // 2, count, step):
        yield cut(whole, whole.stacked, index, shades)


def cut(whole: Oriented, plane: Plane, index: int, shades: Shades) -> Picture:
    """Return one plane as radiologists look at it."""
    return _hang(shades(np.take(whole.voxels, index, axis=2 - plane)), whole, plane)


def project(volume: Volume, shades: Shades, projection: Projection, plane: Plane) -> Picture:
    """Return the largest or smallest unpadded values of the middle time, seen at right angles to `plane`.

    Works slice by slice, so that nothing of the volume's size is held.
    """
    whole = oriented(volume)
    better = np.fmax if (projection is Projection.MIP) == (volume.slope > 0) else np.fmin  # f: NaN never wins

    def nearer(seen: Array, stored: Array) -> Array:
        unpadded = np.where(padded(volume, seen), stored, better(seen, stored))
        return np.where(padded(volume, stored), seen, unpadded)

    slices = (np.take(whole.voxels, index, axis=2 - plane) for index in range(whole.voxels.shape[2 - plane]))
    return _hang(shades.over(reduce(nearer, slices)), whole, plane)


def _hang(pixels: Grey, whole: Oriented, plane: Plane) -> Picture:
    """Turn a plane cut from an oriented volume: the patient's right at the left; anterior up, or superior up.

    Axial: right at the left, anterior up. Coronal: right at the left, superior up. Sagittal: anterior at the left,
    superior up. The arrays run along LPS+, so that axial planes are right already; in the others z must go down.
    """
    z, y, x = whole.spacing_mm
    if plane is Plane.AXIAL:
        return Picture(pixels, (y, x))
    return Picture(pixels[::-1], (z, x if plane is Plane.CORONAL else y))
