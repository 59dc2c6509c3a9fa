"""The outline of the body in each slice of a CT, as closed polygons in the patient's millimetres."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import numpy as np

from node.volume.model import Array, Float, Geometry, Volume, VolumeKind
from node.writers.base import WrittenFile, grid_of, write_file

STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))
"""Directions along the edges of pixels (column, row); each next one turns right, as rows point down."""

DECIMALS = 3
"""Decimals of a coordinate in mm."""


def has_exact_affine(volume: Volume) -> bool:
    """Return whether the affine gives the position of every slice, so that outlines can be in mm."""
    return volume.affine_lps is not None and volume.geometry is not Geometry.IRREGULAR


def write_contours(mask: Volume, folder: Path, stem: str, threshold_hu: float) -> WrittenFile:
    """Write ``STEM_contours.json``: the outlines of a mask that has an exact affine."""
    assert mask.affine_lps is not None
    instances = {(source.time_index, source.slice_index): source.sop_instance_uid for source in mask.sources}
    lines = [
        json.dumps(
            {
                "time": time,
                "slice": index,
                "sop_instance_uid": instances.get((time, index)),
                "points_lps_mm": points_lps(outline, index, mask.affine_lps).tolist(),
            }
        )
        for time, slices in enumerate(mask.voxels)
        for index, plane in enumerate(slices)
        for outline in outlines(plane)
    ]
    head = {name: mask.attributes.get(name) for name in ("SeriesInstanceUID", "FrameOfReferenceUID")}
    head["threshold_hu"] = threshold_hu
    text = json.dumps(head)[:-1] + ', "contours": [\n' + ",\n".join(lines) + "\n]}\n"
    grid = grid_of(mask, np.dtype(np.float64))  # that of the slices which the corners lie in
    return write_file(folder / f"{stem}_contours.json", text.encode("utf-8")).written(VolumeKind.CONTOURS, "json", grid)


def points_lps(corners: Array, index: int, affine_lps: Float) -> Float:
    """Return corners of pixels (column, row), whose centres have whole numbers, in LPS and mm."""
    voxels = np.column_stack((corners - 0.5, np.full(len(corners), index), np.ones(len(corners))))
    points: Float = np.round(voxels @ affine_lps.T[:, :3] + 0.0, DECIMALS)
    return points


def outlines(plane: Array) -> list[Array]:
    """Return the outlines of a mask along the edges of its pixels.

    Pixels that touch only at a corner have outlines of their own.

    `plane`: (rows, columns) array; a mask: not 0 inside.

    Result: list of (corners, 2) integer array; column and row of each corner where the outline turns; pixel (0, 0) lies
    between corners (0, 0) and (1, 1). The inside is on the right, so outlines are clockwise as displayed, and those of
    holes are counterclockwise.
    """
    leaving = _edges(plane)
    found = []
    while leaving:
        start = next(iter(leaving))
        first = direction = leaving[start][0]
        at, corners = start, [start]
        while True:
            leaving[at].remove(direction)
            if not leaving[at]:
                del leaving[at]
            at = (at[0] + STEPS[direction][0], at[1] + STEPS[direction][1])
            right = (direction + 1) % 4
            if at == start and (right == first or at not in leaving):
                break
            onward = right if right in leaving[at] else leaving[at][0]
            if onward != direction:
                corners.append(at)
            direction = onward
        found.append(np.array(corners))
    return found


def _edges(plane: Array) -> dict[tuple[int, int], list[int]]:
    """Return, by corner (column, row), the directions of the edges that leave it with the inside on their right."""
    inside = np.pad(plane != 0, 1)
    here = inside[1:-1, 1:-1]
    outside = (
        ~inside[:-2, 1:-1],
        ~inside[1:-1, 2:],
        ~inside[2:, 1:-1],
        ~inside[1:-1, :-2],
    )  # above, right, below, left
    first_corner = ((0, 0), (1, 0), (1, 1), (0, 1))  # of the edge above, right, below, left; (column, row)
    leaving: dict[tuple[int, int], list[int]] = defaultdict(list)
    for direction, (beyond, (column, row)) in enumerate(zip(outside, first_corner, strict=True)):
        for at_row, at_column in np.argwhere(here & beyond).tolist():
            leaving[at_column + column, at_row + row].append(direction)
    return leaving
