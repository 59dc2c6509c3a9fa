"""The objects of a conversion: frame, volume, assembly.

Everything is in DICOM's patient frame (LPS+) and in millimetres; only the NIfTI writer converts to RAS+.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from node.volume.reasons import Exclusion, Refusal, VolumeWarning
from node.volume.widths import Widths

Array = NDArray[Any]
Float = NDArray[np.float64]
Member = TypeVar("Member")


MIN_ORIENTATION_COSINE = 0.866
"""Least cosine between the normal of slices and an axis of the patient that gives them the name of a plane: 30 degrees,
since a tilted brain or heart is still called axial."""


def grouped(members: Sequence[Member], trait: Callable[[Member], Hashable]) -> dict[Any, list[Member]]:
    """Return frames, times or volumes by a trait, in order of first appearance."""
    groups = defaultdict(list)
    for member in members:
        groups[trait(member)].append(member)
    return groups


class Geometry(StrEnum):
    """The regularity of the planes of a stack."""

    REGULAR = "regular"  # even and orthogonal: one affine describes it
    SHEARED = "sheared"  # even, but the step is not along the normal (gantry tilt): a sheared affine describes it
    IRREGULAR = "irregular"  # uneven: no affine can describe it; the position of the first plane is correct
    SINGLE = "single"  # one plane
    NONE = "none"  # no position in the patient (US, SC, XA, ...)


class VolumeKind(StrEnum):
    """The kind of an output, as in `v_volumes` and conversion.json: at most 16 characters."""

    VOLUME = "volume"
    RESAMPLED = "resampled"  # interpolated onto an even upright grid, always in addition to its source volume
    SUV = "suv"  # uptake: the voxels of a PET volume with another slope, always in addition to it
    THUMBNAIL = "thumbnail"
    PREVIEW = "preview"  # three orthogonal planes
    PROJECTION = "projection"  # MIP or MinIP
    MONTAGE = "montage"
    SLICE = "slice"
    MASK = "mask"  # of the body, or of a region of a structure set: a label volume
    MASKED = "masked"  # the volume with air outside of its body mask
    CONTOURS = "contours"  # the outlines of the body mask
    MEASUREMENTS = "measurements"  # of a structured report, without voxels
    KEY_OBJECTS = "key-objects"  # a selection of instances, without voxels
    SPECTRA = "spectra"  # signals in time of MR spectroscopy, as NIfTI-MRS
    PHYSIOLOGY = "physio"  # recordings of heart beat and breathing, as a table


@dataclass(slots=True, eq=False)
class Frame:
    """One plane of one instance, before it becomes part of a volume.

    A classic instance has one frame, an enhanced one as many as it has functional groups, a mosaic one per tile. Values
    are None if the data set does not state them.

    `frame_number`: from 1, as in DICOM; for a tile of a mosaic, the number of the frame that holds it.
    `read`: decodes and returns the stored values: masked to Bits Stored, sign-extended, colour as RGB, palettes
        expanded, Modality LUT applied (`slope` is then 1 and `intercept` 0); never rescaled, never inverted.
    `dtype`: type of the values that `read` returns.
    `position`, (3,) float, mm, LPS: Image Position (Patient): centre of the first voxel of this plane (of this tile).
    `orientation`, (6,) float: Image Orientation (Patient): unit vectors along a row, then down a column.
    `pixel_spacing`, (float, float), mm: between rows, then between columns.
    `split_key`: traits by name (echo, component, ...). Frames that differ in one belong to different stacks.
    `variant_key`: traits by name (image type, kernel, flip angle, ...). Frames that differ in one belong to different
        stacks only if each part is whole.
    `meaning`: values by path of the attributes that say what the values of the frame mean (`node.volume.read.meaning`);
        a volume whose frames differ in one has a warning.
    `told`: the same of other attributes that fields of the sidecar are read from.
    `private`: what fields of the sidecar that private elements state are, by name.
    `time_key`: values by name that order the planes that share a position.
    `acquisition_time_s`: seconds since midnight, for slice timing.
    `duration_s`: duration of the acquisition.
    `overlays`: number of overlays of the instance that show something (PS3.3 C.9); no volume has them.
    `acquired`: the frame where its header places it, if its motion was undone.
    `notes`: warnings about the volume that the frame is in.
    `widths`: what the samples that were read say of the width and the sign that their header states.
    """

    sop_instance_uid: str
    frame_number: int
    read: Callable[[], Array]
    rows: int
    columns: int
    dtype: np.dtype[Any] = field(default_factory=lambda: np.dtype(np.int16))
    colour: bool = False
    lossy: bool = False
    position: Float | None = None
    orientation: Float | None = None
    pixel_spacing: tuple[float, float] | None = None
    slope: float = 1.0
    intercept: float = 0.0
    slice_thickness_mm: float | None = None
    spacing_between_slices_mm: float | None = None
    instance_number: int | None = None
    diffusion: Diffusion | None = None
    split_key: Mapping[str, Any] = field(default_factory=dict)
    variant_key: Mapping[str, Any] = field(default_factory=dict)
    meaning: Mapping[tuple[int, ...], Any] = field(default_factory=dict)
    told: Mapping[tuple[int, ...], Any] = field(default_factory=dict)
    private: Mapping[str, Any] = field(default_factory=dict)
    time_key: dict[str, Any] = field(default_factory=dict)
    acquisition_time_s: float | None = None
    duration_s: float | None = None
    overlays: int = 0
    acquired: Frame | None = None
    notes: tuple[VolumeWarning, ...] = ()
    widths: Widths | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Diffusion:
    """Diffusion weighting of one frame or volume.

    `direction_lps` is a (3,) unit vector in the patient frame, None if unweighted or unknown; zeros if the data set
    states that a weighted image has no direction. `derived` marks trace, ADC, FA and isotropic images; of these,
    `trace` marks trace and isotropic images, which are weighted in all directions. `repaired` says by which values a
    direction was recovered from a wrong header; empty if it is as stated. `is_unknown`: the image is weighted, but no
    attribute states the b-value, which is 0 here. `is_nominal`: the header states the b-value of the scan. `denied_by`:
    the b-value in s/mm2 by the name of the sequence, if it contradicts the stated one.
    """

    b_value: float  # s/mm2
    direction_lps: Float | None = None
    derived: bool = False
    trace: bool = False
    repaired: str = ""
    is_unknown: bool = False
    is_nominal: bool = False
    denied_by: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Display:
    """Display settings for pictures of a volume. They never change the voxels.

    `windows` are (centre, width) pairs in rescaled units, as the data set gives them; `voi_lut` is
    (first input value, table) of VOI LUT Sequence. `inverted`: MONOCHROME1.
    """

    windows: tuple[tuple[float, float], ...] = ()
    function: str = "LINEAR"  # VOI LUT Function (0028,1056): LINEAR, LINEAR_EXACT, SIGMOID
    voi_lut: tuple[int, Array] | None = None
    inverted: bool = False
    padding: tuple[float, float] | None = None  # range of voxels that are not data, both ends included
    pixel_aspect: float = 1.0  # height of a pixel over its width, if there is no pixel spacing


@dataclass(frozen=True, slots=True)
class Source:
    """The instance and frame of one plane of a volume."""

    sop_instance_uid: str
    frame_number: int
    slice_index: int
    time_index: int


@dataclass(frozen=True, slots=True, eq=False)
class Volume:
    """Voxels with their position in the patient, and their sources.

    `voxels`, (times, slices, rows, columns) or (times, slices, rows, columns, 3) array, C order; real values are
        ``voxels * slope + intercept``. A last axis of 3 is RGB of 8 bits.
    `affine_lps`, (4, 4) float64 or None, mm: from voxel index (column, row, slice) to LPS+; index (0, 0, 0) is the
        centre of the first voxel. None if the data set gives no position in the patient; `spacing_mm` is valid even
        then.
    `spacing_mm`, (3,) float: between columns, between rows, between slices.
    `stack`: number of the stack in its series, from 0.
    `suffix`: distinguishes this volume from the others of its series in file names: ``""``, ``"e2"``, ``"ph"``,
        ``"i1"`` ... ASCII letters, digits and ``-`` only.
    `least_step_mm`: the smallest distance along the normal between two slices, if they lie unevenly.
    `time_step_s`: between volumes of a 4-D array.
    `times_s`: start of each volume after the first, if known; empty for one of several times whose start is unknown.
    `durations_s`: acquisition duration of each volume, if known and equal for all its slices.
    `attributes`: BIDS-like fields for the sidecar, from an allow-list without patient data.
    """

    voxels: Array
    affine_lps: Float | None
    spacing_mm: tuple[float, float, float]
    geometry: Geometry
    stack: int
    modality: str
    sources: tuple[Source, ...]
    kind: VolumeKind = VolumeKind.VOLUME
    suffix: str = ""
    slope: float = 1.0
    intercept: float = 0.0
    least_step_mm: float | None = None
    time_step_s: float | None = None
    times_s: tuple[float, ...] | None = None
    durations_s: tuple[float, ...] | None = None
    diffusion: tuple[Diffusion, ...] | None = None
    display: Display = field(default_factory=Display)
    warnings: tuple[VolumeWarning, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def colour(self) -> bool:
        """Whether the last axis of `voxels` is red, green, blue."""
        return self.voxels.ndim == 5

    @property
    def times(self) -> int:
        return int(self.voxels.shape[0])

    @property
    def orientation(self) -> Literal["axial", "coronal", "sagittal", "oblique"] | None:
        """Orientation of the slices: the plane whose normal is within 30 degrees of theirs; None without affine."""
        if self.affine_lps is None:
            return None
        normal = np.cross(self.affine_lps[:3, 0], self.affine_lps[:3, 1])
        cosines = np.abs(normal) / np.linalg.norm(normal)
        names: tuple[Literal["sagittal"], Literal["coronal"], Literal["axial"]] = ("sagittal", "coronal", "axial")
        return names[int(cosines.argmax())] if cosines.max() >= MIN_ORIENTATION_COSINE else "oblique"

    @property
    def shape(self) -> tuple[int, ...]:
        """(columns, rows, slices), with a fourth number if there are several times."""
        times, slices, rows, columns = self.voxels.shape[:4]
        return (columns, rows, slices, times) if times > 1 else (columns, rows, slices)


@dataclass(frozen=True, slots=True)
class Assembly:
    """The volumes of one series. Every instance is in the sources of a volume, in an exclusion or in a refusal.

    `versions`: number of data sets that have the SOP Instance UID of another one, and not its content.
    `unusable`: number of these that have no pixels, or pixels that cannot be decoded.
    """

    volumes: tuple[Volume, ...]
    refusals: tuple[Refusal, ...] = ()
    exclusions: tuple[Exclusion, ...] = ()
    versions: int = 0
    unusable: int = 0

    def unaccounted(self, sop_instance_uids: set[str]) -> set[str]:
        """Return the instances that are in no volume, exclusion or refusal: none, unless a slice was lost."""
        seen = {source.sop_instance_uid for volume in self.volumes for source in volume.sources}
        seen |= {uid for refusal in self.refusals for uid in refusal.sop_instance_uids}
        seen |= {exclusion.sop_instance_uid for exclusion in self.exclusions}
        return sop_instance_uids - seen


@dataclass(frozen=True, slots=True, eq=False)
class Tiling:
    """The tiles of one frame, counted row by row from the top left; only the first `count` of them hold a plane.

    `positions`: (count, 3) float, mm, LPS, or None; centre of the first pixel of each tile. `orientation`: (6,) float,
    or None; unit vectors along a row, then down a column; the same for all tiles. `slice_times_s`: (count,) or None;
    when each plane was acquired, in seconds from the beginning of the volume.
    """

    count: int
    tile_rows: int
    tile_columns: int
    columns_of_tiles: int
    positions: Float | None = None
    orientation: Float | None = None
    slice_times_s: tuple[float, ...] | None = None

    def cut(self, frame: Array, tile: int) -> Array:
        """Return the pixels of one tile, `tile` from 0: a view of (tile_rows, tile_columns) into the frame."""
        row, column = divmod(tile, self.columns_of_tiles)
        top, left = row * self.tile_rows, column * self.tile_columns
        return frame[top : top + self.tile_rows, left : left + self.tile_columns]
