"""Fill polygons on a grid of pixels: a pixel is inside if its centre is, by the even-odd rule."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from node.volume.model import Float

DECIMALS = 6
"""Corners are rounded to this many decimals of a pixel. Without that, the rounding errors of a conversion to
millimetres and back would decide whether a centre that lies exactly on an edge is inside."""

MAX_CROSSINGS_AT_ONCE = 1 << 20
"""Crossings of edges and rows that are held in memory at the same time."""

Window = tuple[slice, slice]
"""Rows and columns of a plane."""


def window_of(corners: Float, rows: int, columns: int) -> Window:
    """Return the rows and columns of a plane in which a polygon can have pixels.

    Parameters
    ----------
    corners : (N, 2) float
        Column and row of each corner; the centres of pixels have whole numbers.
    """
    low, high = np.ceil(np.round(np.array([corners.min(axis=0), corners.max(axis=0)]), DECIMALS))
    left, right = np.clip([low[0], high[0]], 0, columns).astype(int).tolist()
    top, bottom = np.clip([low[1], high[1]], 0, rows).astype(int).tolist()
    return slice(top, bottom), slice(left, right)


def fill_polygon(corners: Float, window: Window) -> NDArray[np.bool_]:
    """Return the pixels of a window whose centres are inside a polygon, by the even-odd rule.

    A centre on a left or upper edge is inside, one on a right or lower edge is outside: polygons that share an edge
    neither overlap nor leave a gap.

    Parameters
    ----------
    corners : (N, 2) float
        Column and row of each corner, in order; the last one is joined to the first.
    window : Window
        That of `window_of`.

    Returns
    -------
    (rows, columns) bool
        Of the window.
    """
    rows, columns = window
    height, width = rows.stop - rows.start, columns.stop - columns.start
    if not height or not width:
        return np.zeros((height, width), bool)
    start = np.round(corners, DECIMALS)
    end = np.roll(start, -1, axis=0)
    upwards = start[:, 1] > end[:, 1]
    # From the upper to the lower end, so that an edge that two polygons share crosses a row at one place.
    upper, lower = np.where(upwards[:, None], end, start), np.where(upwards[:, None], start, end)
    first, after = (np.clip(np.ceil(ends[:, 1]), rows.start, rows.stop).astype(np.int64) for ends in (upper, lower))
    crossing = after > first
    upper, lower, first, counts = upper[crossing], lower[crossing], first[crossing], (after - first)[crossing]
    slopes = (lower[:, 0] - upper[:, 0]) / (lower[:, 1] - upper[:, 1])
    crossings = np.zeros(height * (width + 1), np.int64)
    begin, totals = 0, np.cumsum(counts)
    while begin < len(counts):
        done = totals[begin] - counts[begin]
        stop = max(begin + 1, int(np.searchsorted(totals, done + MAX_CROSSINGS_AT_ONCE, "right")))
        some = counts[begin:stop]
        edge = np.repeat(np.arange(begin, stop), some)
        row = first[edge] + np.arange(len(edge)) - np.repeat(np.cumsum(some) - some, some)
        at = np.ceil(np.round(upper[edge, 0] + (row - upper[edge, 1]) * slopes[edge], DECIMALS))
        column = np.clip(at, columns.start, columns.stop).astype(np.int64) - columns.start
        crossings += np.bincount((row - rows.start) * (width + 1) + column, minlength=len(crossings))
        begin = stop
    # A centre is inside if an odd number of edges cross its row at it or left of it.
    inside: NDArray[np.bool_] = np.cumsum(crossings.reshape(height, width + 1), axis=1)[:, :width] % 2 == 1
    return inside
