"""The grid of a source volume, from the headers of its images, and masks on it.

Everything is in LPS+ millimetres. A mask may have its axes in another order or direction than the volume, as tools
leave them that prefer one orientation: it is on the grid if its voxels are those of the grid, one for one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from node.errors import ResultRefused
from node.volume.geometry import (
    ORIENTATION_TOLERANCE,
    place_planes,
    position_numbers,
    position_tolerance,
    stack_axes,
)
from node.volume.model import Array, Float, Frame, Geometry

GRID_TOLERANCE_VOXELS = 0.05
"""Largest distance of a voxel of a mask from one of the grid, in voxels. The 32 bits of an affine in NIfTI cost a
thousandth of a voxel; a mask that was resampled to another grid is off by half of one."""


@dataclass(frozen=True, slots=True, eq=False)
class Lattice:
    """The grid of a stack.

    Attributes
    ----------
    affine_lps : (4, 4) float64, mm
        From voxel index (column, row, slice) to LPS+.
    shape : (int, int, int)
        Columns, rows, slices.
    geometry : Geometry
    frames : tuple of Frame
        One for each slice, in ascending order along the normal: of several times, the first that is stored.
    """

    affine_lps: Float
    shape: tuple[int, int, int]
    geometry: Geometry
    frames: tuple[Frame, ...]


def lattice_of(frames: Sequence[Frame]) -> Lattice:
    """Return the grid of the frames of a stack.

    Raises ResultRefused if they have no position in the patient, or differ in orientation, size or pixel spacing.
    """
    if not frames:
        raise ResultRefused("no image of the volume can be read")
    first = frames[0]
    positions = [frame.position for frame in frames]
    orientations = [frame.orientation for frame in frames]
    spacing = first.pixel_spacing
    if spacing is None or any(vector is None for vector in (*positions, *orientations)):
        raise ResultRefused("the images of the volume have no position in the patient, so a mask has no place in it")
    turned = np.array(orientations, dtype=np.float64)
    sizes = {(frame.rows, frame.columns, frame.pixel_spacing) for frame in frames}
    if len(sizes) > 1 or np.abs(turned - turned[0]).max() > ORIENTATION_TOLERANCE:
        raise ResultRefused("the images of the volume differ in orientation, size or pixel spacing")
    axes = stack_axes(turned)
    placed = np.array(positions, dtype=np.float64)
    numbers = position_numbers((placed - placed[0]) @ axes.normal, position_tolerance(spacing))
    chosen = [int(np.flatnonzero(numbers == number)[0]) for number in range(int(numbers.max()) + 1)]
    placement = place_planes(placed[chosen], axes, spacing, first.slice_thickness_mm or 1.0)
    shape = (first.columns, first.rows, len(chosen))
    return Lattice(placement.affine_lps, shape, placement.geometry, tuple(frames[index] for index in chosen))


def on_lattice(voxels: Array, affine_lps: Float, lattice: Lattice) -> Array:
    """Return a mask in the order of a lattice, (slices, rows, columns), without interpolation.

    `voxels` is (i, j, k); `affine_lps`, (4, 4) in mm, leads from its voxel index to LPS+. Raises ResultRefused if the
    voxels of the mask are not those of the lattice.
    """
    between = np.linalg.inv(lattice.affine_lps) @ affine_lps
    steps = between[:3, :3]
    largest = np.abs(steps).max(axis=0)
    turn = np.rint(steps / np.where(largest > 0, largest, 1.0))
    if (np.abs(turn).sum(axis=0) != 1).any() or (np.abs(turn).sum(axis=1) != 1).any():
        raise ResultRefused(f"the axes of the mask are not those of the volume; {_REMEDY}")
    axis_of = [int(np.flatnonzero(turn[axis])[0]) for axis in range(3)]  # axis of the mask for each of the lattice
    if tuple(voxels.shape[axis] for axis in axis_of) != lattice.shape:
        raise ResultRefused(
            f"the mask has {_times(voxels.shape)} voxels, the volume {_times(lattice.shape)} (columns, rows, slices); "
            f"{_REMEDY}"
        )
    flipped = [turn[axis, axis_of[axis]] < 0 for axis in range(3)]
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(voxels.shape) - 1)
    there = corners @ steps.T + between[:3, 3]
    here = corners[:, axis_of]
    expected = np.where(flipped, np.array(lattice.shape) - 1 - here, here)
    off = np.abs(there - expected).max()
    if not off <= GRID_TOLERANCE_VOXELS:
        raise ResultRefused(
            f"the mask is up to {off:.3g} voxels away from the volume, in position, spacing or direction; {_REMEDY}"
        )
    arranged = np.transpose(voxels, axis_of)
    arranged = arranged[tuple(slice(None, None, -1) if flip else slice(None) for flip in flipped)]
    return np.ascontiguousarray(arranged.transpose(2, 1, 0))


_REMEDY = "a mask must have the grid of the volume that the message names: resample it there, by nearest neighbour"


def _times(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
