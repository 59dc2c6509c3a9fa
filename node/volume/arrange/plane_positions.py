"""Group the frames of a stack by their position along its normal."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from node.volume.arrange.whole_times import Bin
from node.volume.geometry import position_numbers, position_tolerance, stack_axes
from node.volume.model import Float, Frame


def position_labels(frames: Sequence[Frame]) -> tuple[Float, NDArray[np.intp]]:
    """Return the distance of each frame along the stack's normal, and the number of its position.

    Parameters
    ----------
    frames : N frames with position and orientation

    Returns
    -------
    (N,) float, mm
        Distances from the origin of LPS.
    (N,) int
        Position numbers, ascending with the distance; frames of one number share a position.
    """
    axes = stack_axes(np.array([frame.orientation for frame in frames]))
    distances: Float = np.array([frame.position for frame in frames]) @ axes.normal
    return distances, position_numbers(distances, position_tolerance(frames[0].pixel_spacing or (1.0, 1.0)))


def distinct_distances(distances: Float, labels: NDArray[np.intp] | None = None) -> Float:
    """Return ascending distances, one for each position.

    Parameters
    ----------
    distances : (N,) float, mm
        Distances of planes along the normal.
    labels : (N,) int, optional
        Position numbers; without them every distance is a position.

    Returns
    -------
    (positions,) float, mm
        The mean distance of each position.
    """
    if labels is None:
        return np.sort(distances)
    return np.asarray(np.bincount(labels, distances) / np.bincount(labels))


def group_by_position(frames: Sequence[Frame]) -> list[Bin]:
    """Return the frames of each position, ascending along the normal."""
    _, labels = position_labels(frames)
    bins: list[Bin] = [[] for _ in range(int(labels.max()) + 1)]
    for frame, label in zip(frames, labels, strict=True):
        bins[label].append(frame)
    return bins
