"""Appearance of a volume: grey values by the display rules of PS3.3 C.11, planes as radiologists see them, projections.

Pure arithmetic on arrays; nothing here changes the volume. Pictures are (height, width) or (height, width, 3) uint8,
together with the size of one of their pixels.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum, StrEnum

import numpy as np
from numpy.typing import NDArray

from node.volume.model import Array, Float, Volume
from node.volume.planes import Window

Grey = NDArray[np.uint8]

SAMPLE = 1_000_000
"""Approximate number of voxels from which the range of a volume is estimated."""

PIECE = 1 << 15
"""Number of pixels of which grey values are looked up at once: their indices stay in the cache of a processor."""

MAX_WINDOW_RATIO = 20
"""A window this many times as wide as the range of the data would show a single grey level."""

CT_WINDOW = (40.0, 400.0)
"""Centre and width for soft tissue in Hounsfield units, for a CT without a window."""


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
    """Pixels of a picture, and height and width of one pixel (mm, or any unit if the volume has no position)."""

    pixels: Grey
    pixel_size: tuple[float, float]


@dataclass(frozen=True, slots=True, eq=False)
class Oriented:
    """One time of a volume in anatomical order: a view from inferior to superior, anterior to posterior, right to left.

    Increasing indices go along LPS+ z, y and x, as nearly as the axes of the volume allow; nothing is interpolated.

    `voxels`: (z, y, x) or (z, y, x, 3) array of stored values. `spacing_mm`: (3,) float; along z, y and x. `stacked`:
    the plane nearest to the slices of the volume.
    """

    voxels: Array
    spacing_mm: tuple[float, float, float]
    stacked: Plane


def oriented(volume: Volume, time: int | None = None) -> Oriented:
    """Return one time of a volume in anatomical order; by default the middle one.

    The slices of a volume without a position in the patient are treated as axial.
    """
    voxels = volume.voxels[volume.times // 2 if time is None else time]
    affine = np.eye(4) if volume.affine_lps is None else volume.affine_lps
    patient_axis = nearest_axes(affine[:3, :3])
    order = [2 - patient_axis.index(axis) for axis in (2, 1, 0)]  # array axes run (slice, row, column)
    signs = [affine[axis, patient_axis.index(axis)] for axis in (2, 1, 0)]
    z, y, x = (volume.spacing_mm[2 - axis] for axis in order)
    return Oriented(rearranged(voxels, order, signs), (z, y, x), Plane(patient_axis[2]))


def rearranged(array: Array, order: Sequence[int], signs: Iterable[float]) -> Array:
    """Return a view with the first axes in another order, and then those reversed whose sign is negative."""
    moved = array.transpose(*order, *range(len(order), array.ndim))
    return moved[tuple(slice(None, None, -1 if sign < 0 else 1) for sign in signs)]


def nearest_axes(directions: Float) -> list[int]:
    """Return for each voxel axis the nearest patient axis (0 x, 1 y, 2 z); each patient axis occurs once.

    `directions`, (3, 3) float: directions of the voxel axes in LPS, as columns.
    """
    cosines = np.abs(directions / np.linalg.norm(directions, axis=0))
    nearest = [-1, -1, -1]
    for _ in range(3):
        patient, voxel = np.unravel_index(cosines.argmax(), cosines.shape)
        nearest[voxel] = int(patient)
        cosines[patient, :] = cosines[:, voxel] = -1
    return nearest


class Shades:
    """Convert stored values to grey, in the same way for all pictures of a volume.

    The first applicable rule is used: VOI LUT; the first window of the data set that shows anything; the modality's
    usual window; the 1st to the 99th percentile. Padding is excluded from every estimate and shown as the darkest
    value.

    `window`: is used instead, even if it shows nothing.
    """

    def __init__(self, volume: Volume, window: Window | None = None) -> None:
        self._volume = volume
        self._inverted = volume.display.inverted
        self._to_unit = self._choose() if window is None else _by(window)

    def __call__(self, stored: Array) -> Grey:
        """Return the grey values of an array of stored values; colour is unchanged."""
        if self._volume.colour:
            return stored.astype(np.uint8, copy=False)
        if stored.dtype.kind not in "iu" or not stored.size:
            return self._grey(stored)
        low, high = int(stored.min()), int(stored.max())
        if high - low >= stored.size:
            return self._grey(stored)
        of_each_value = self._grey(np.arange(low, high + 1).astype(stored.dtype))
        grey = np.empty(stored.shape, np.uint8)
        step = max(1, PIECE * len(stored) // stored.size)
        for start in range(0, len(stored), step):
            index = np.subtract(stored[start : start + step], low, dtype=np.intp, casting="unsafe")
            of_each_value.take(index, out=grey[start : start + step], mode="clip")  # none is outside
        return grey

    def _grey(self, stored: Array) -> Grey:
        unit = np.nan_to_num(self._to_unit(real(self._volume, stored)), nan=0.0)
        unit[padded(self._volume, stored)] = 0
        grey: Grey = np.rint(unit * 255).astype(np.uint8)
        return 255 - grey if self._inverted else grey

    def over(self, stored: Array, found: NDArray[np.bool_]) -> Grey:
        """Return the grey values of a projection, from its own 1st to 99.5th percentile, since its values are high.

        `found`, array of bool: where the line of sight met a value; elsewhere the picture is darkest.
        """
        values = real(self._volume, stored)
        visible = values[found & np.isfinite(values)]
        low, high = _percentiles(visible, 1, 99.5) if visible.size else (0.0, 1.0)
        unit = np.where(found, np.nan_to_num(linear_exact(values, (low + high) / 2, high - low), nan=0.0), 0.0)
        grey: Grey = np.rint(unit * 255).astype(np.uint8)
        return 255 - grey if self._inverted or self._volume.modality == "PT" else grey

    def _choose(self) -> Callable[[Array], Array]:
        volume, display = self._volume, self._volume.display
        if volume.colour:
            return lambda values: values
        if display.voi_lut is not None and len(display.voi_lut[1]):
            first, table = display.voi_lut
            return lambda values: voi_lut(values, first, table)
        ends = sample(volume, only_ends=True)
        lowest, highest = (float(ends.min()), float(ends.max())) if ends.size else (0.0, 1.0)
        for centre, width in display.windows:
            if is_sane(centre, width, lowest, highest):
                return _by(Window(centre, width, display.function))
        if volume.modality == "CT" and is_sane(*CT_WINDOW, lowest, highest):
            return lambda values: linear(values, *CT_WINDOW)
        visible = sample(volume)
        if volume.modality == "PT" and highest > 0:
            self._inverted = True  # activity is shown black on white by convention
            return _between(0.0, float(np.percentile(visible, 99.5)) or highest)
        return _between(*(_percentiles(visible, 1, 99) if visible.size else (0.0, 1.0)))


def _by(window: Window) -> Callable[[Array], Array]:
    function = FUNCTIONS.get(window.function, linear)
    return lambda values: function(values, window.centre, window.width)


def _between(low: float, high: float) -> Callable[[Array], Array]:
    return lambda values: linear_exact(values, (low + high) / 2, high - low)


def _percentiles(values: Array, low: float, high: float) -> tuple[float, float]:
    """Return two percentiles; the whole range if they are equal, as in sparse labels."""
    below, above = map(float, np.percentile(values, (low, high)))
    return (below, above) if above > below else (float(values.min()), float(values.max()))


def real(volume: Volume, stored: Array) -> Array:
    """Return the real values of stored ones, at least float32."""
    values = stored.astype(np.result_type(stored.dtype, np.float32))
    if (volume.slope, volume.intercept) != (1, 0):
        values *= volume.slope
        values += volume.intercept
    return values


def padded(volume: Volume, stored: Array) -> NDArray[np.bool_]:
    """Return where stored values are padding: Pixel Padding Value (0028,0120) or its range, PS3.3 C.7.5.1.1.2."""
    if volume.display.padding is None:
        return np.zeros(stored.shape, bool)
    low, high = sorted(volume.display.padding)
    return (stored >= low) & (stored <= high)


def sample(volume: Volume, *, only_ends: bool = False) -> Array:
    """Return finite, unpadded real values from all parts of the middle time of a volume, in no order.

    `only_ends`: of whole numbers, the values of the least and the largest are enough.
    """
    voxels = volume.voxels[volume.times // 2]
    step = max(1, int(np.ceil((voxels.size / SAMPLE) ** (1 / 3))))
    stored = voxels if step == 1 else voxels[step // 2 % len(voxels) :: step, ::step, ::step]
    if only_ends and stored.dtype.kind in "iu" and stored.size and volume.display.padding is None:
        stored = np.array([stored.min(), stored.max()])
    values = real(volume, stored)
    visible = np.isfinite(values)
    if volume.display.padding is not None:
        visible &= ~padded(volume, stored)
    return values.ravel() if visible.all() else values[visible]


def is_sane(centre: float, width: float, lowest: float, highest: float) -> bool:
    """Return whether a window shows anything of data that range from `lowest` to `highest`.

    Some senders give windows for stored values, or placeholders.
    """
    if not (np.isfinite(centre) and np.isfinite(width) and width > 0):
        return False
    touches = centre - width / 2 < highest and centre + width / 2 > lowest
    return touches and width <= MAX_WINDOW_RATIO * max(highest - lowest, np.finfo(float).tiny)


def linear(values: Array, centre: float, width: float) -> Array:
    """Return 0..1 by the function LINEAR, PS3.3 C.11.2.1.2.1.

    The standard forbids a width below 1 here; senders of small real values mean LINEAR_EXACT by it.
    """
    if width < 1:
        return linear_exact(values, centre, width)
    if width == 1:
        return np.where(values > centre - 0.5, 1.0, 0.0)
    return np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)


def linear_exact(values: Array, centre: float, width: float) -> Array:
    """Return 0..1 by the function LINEAR_EXACT, PS3.3 C.11.2.1.3.2; a width of 0 is a step."""
    if width <= 0:
        return np.where(values > centre, 1.0, 0.0)
    return np.clip((values - centre) / width + 0.5, 0, 1)


def sigmoid(values: Array, centre: float, width: float) -> Array:
    """Return 0..1 by the function SIGMOID, PS3.3 C.11.2.1.3.1."""
    exponent = np.clip(-4 * (values - centre) / width, -80, 80)  # beyond, exp leaves float32
    return 1 / (1 + np.exp(exponent))


FUNCTIONS: dict[str, Callable[[Array, float, float], Array]] = {
    "LINEAR": linear,
    "LINEAR_EXACT": linear_exact,
    "SIGMOID": sigmoid,
}
"""Functions by VOI LUT Function (0028,1056)."""


def voi_lut(values: Array, first: int, table: Array) -> Array:
    """Return 0..1 by a VOI LUT, PS3.3 C.11.2.1.1; values outside the table take its first or last entry."""
    index = np.clip(np.nan_to_num(values) - first, 0, len(table) - 1).astype(np.intp)
    full = 2 ** int(np.ceil(np.log2(max(int(np.max(table)), 1) + 1))) - 1  # its bits, by the largest entry
    unit: Array = table[index] / full
    return unit


def thumbnail(volume: Volume, shades: Shades) -> Picture:
    """Return the middle slice of the middle time, oriented as radiologists view its plane.

    A single slice, and a volume without a position in the patient, are shown as stored.
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
    """Yield every `step`-th slice of the middle time, starting from inferior, anterior or right."""
    for _, picture in slices(volume, shades, None, step):
        yield picture


def slices(volume: Volume, shades: Shades, plane: Plane | None, step: int) -> Iterator[tuple[int, Picture]]:
    """Yield every `step`-th slice of a plane (None: that of the stack) as `montage`, each with its number from 1.

    Raises ValueError: a step is less than 1.
    """
    if step < 1:
        raise ValueError(f"step = {step}: a step is at least 1")
    whole = oriented(volume)
    plane = whole.stacked if plane is None else plane
    count = whole.voxels.shape[2 - plane]
    for index in range(0, count, step):
        yield index + 1, cut(whole, plane, index, shades)


def each_slice(volume: Volume, shades: Shades) -> Iterator[Picture]:
    """Yield every slice of the middle time, as `montage`; of a single slice, every time."""
    if volume.shape[2] > 1:
        yield from montage(volume, shades, 1)
    else:
        for time in range(volume.times):
            yield thumbnail(replace(volume, voxels=volume.voxels[time : time + 1]), shades)


def cut(whole: Oriented, plane: Plane, index: int, shades: Shades) -> Picture:
    """Return one plane as radiologists view it."""
    return _hang(shades(np.take(whole.voxels, index, axis=2 - plane)), whole, plane)


def project(
    volume: Volume, shades: Shades, projection: Projection, plane: Plane, inside: Array | None = None
) -> Picture:
    """Return the largest or smallest unpadded values of the middle time, seen at right angles to `plane`.

    Works slice by slice, so that no copy of the volume is held.

    `inside`, (slices, rows, columns) array, optional: not 0 where voxels count: without it, the smallest values of a
        patient are those of the air around.
    """
    whole = oriented(volume)
    axis = 2 - plane
    counted = None if inside is None else oriented(replace(volume, voxels=inside[None])).voxels
    better = np.greater if (projection is Projection.MIP) == (volume.slope > 0) else np.less
    seen = np.take(whole.voxels, 0, axis=axis)
    found = np.zeros(seen.shape, bool)
    for index in range(whole.voxels.shape[axis]):
        stored = np.take(whole.voxels, index, axis=axis)
        valid = ~padded(volume, stored) & ~np.isnan(stored)
        if counted is not None:
            valid &= np.take(counted, index, axis=axis) != 0
        nearer = valid & (~found | better(stored, seen))
        seen = np.where(nearer, stored, seen)
        found |= valid
    return _hang(shades.over(seen, found), whole, plane)


def _hang(pixels: Grey, whole: Oriented, plane: Plane) -> Picture:
    """Flip a plane of an oriented volume as radiologists view it.

    Axial: right at the left, anterior up. Coronal: right at the left, superior up. Sagittal: anterior at the left,
    superior up. The arrays run along LPS+, so axial planes need no flip; in the others, z must point down.
    """
    z, y, x = whole.spacing_mm
    if plane is Plane.AXIAL:
        return Picture(pixels, (y, x))
    return Picture(pixels[::-1], (z, x if plane is Plane.CORONAL else y))
