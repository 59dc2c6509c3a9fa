"""Which frames of a stack share a position along its normal."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from node.volume.arrange.whole_times import Bin
from node.volume.geometry import position_numbers, position_tolerance, stack_axes
from node.volume.model import Float, Frame


def labelled(frames: Sequence[Frame]) -> tuple[Float, NDArray[np.intp]]:
    """Return the distance of each frame along the stack's normal in mm, and the number of its position, ascending."""
    axes = stack_axes(np.array([frame.orientation for frame in frames]))
    distances: Float = np.array([frame.position for frame in frames]) @ axes.normal
    return distances, position_numbers(distances, position_tolerance(frames[0].pixel_spacing or (1.0, 1.0)))


def ascending(distances: Float, labels: NDArray[np.intp] | None = None) -> Float:
    """Return ascending distances, one for each position; without `labels`, all of them."""
    if labels is None:
        return np.sort(distances)
    return np.asarray(np.bincount(labels, distances) / np.bincount(labels))


def bins_of(frames: Sequence[Frame]) -> list[Bin]:
    """Return frames by position, ascending along the normal."""
    _, labels = labelled(frames)
    bins: list[Bin] = [[] for _ in range(int(labels.max()) + 1)]
    for frame, label in zip(frames, labels, strict=True):
        bins[label].append(frame)
    return bins
