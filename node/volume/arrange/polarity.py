"""Separate the two polarities of GE's sequence ``epi_pepolar``, and turn mirrored images back.

The sequence encodes every second volume against the phase direction that all headers state. It stores these volumes
with the rows in reverse order, but with the position and orientation of the others. User Data 12 (0019,xxB3) says which
they are; the pixels must confirm it, since a lost volume moves all later ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
from pydicom import Dataset

from node.dicom.values import text
from node.volume.arrange.times import Arrangement
from node.volume.model import Array, Float, Frame
from node.volume.reasons import VolumeWarning, WarningKind
from node.volume.vendors import first_reversed_volume, is_encoded_upwards

MIN_GAIN = 0.05
"""Least gain of the correlation of two neighbouring volumes if one of them is turned."""

_NAMES = (("RL", "LR"), ("AP", "PA"), ("IS", "SI"))
"""Names of directions along and against each axis of the patient, as BIDS has them in ``dir-AP``."""


def split_by_polarity(grid: Arrangement, voxels: Array, ds: Dataset) -> list[Arrangement]:
    """Return the volumes of each polarity, mirrored ones turned back; empty unless header and pixels prove them.

    `voxels`, (times, slices, rows, columns) array: the stored values of its frames.
    `ds`: the data set of its first frame.
    """
    first, forward = first_reversed_volume(ds), is_encoded_upwards(ds)
    frame = grid.planes[0][0]
    if first is None or forward is None or len(grid.planes) < 2 or voxels.ndim > 4 or frame.orientation is None:
        return []
    if text(ds, "InPlanePhaseEncodingDirection") not in ("COL", "COLUMN") or "polarity" in frame.variant_key:
        return []
    gains = _gains(voxels)
    if min(gains) < MIN_GAIN:
        return []
    along: Float = frame.orientation[3:] * (1 if forward else -1)
    axis = int(np.abs(along).argmax())
    names = _NAMES[axis] if along[axis] > 0 else _NAMES[axis][::-1]
    detail = (
        f"User Data 12 (0019,xxB3) of epi_pepolar is {first + 2}: every second volume from volume {first + 1} on was "
        "encoded with reversed polarity and stored mirrored. Each correlates better with its neighbours once turned, "
        f"by at least {min(gains):.2f}. They were turned back, and are volumes of their own"
    )
    warning = VolumeWarning(WarningKind.REPAIRED, detail)
    parts = []
    for is_reversed, name in zip((False, True), names, strict=True):
        planes = [time for index, time in enumerate(grid.planes) if (index % 2 == first) == is_reversed]
        parts.append(
            replace(
                grid,
                planes=[[_marked(frame, is_reversed=is_reversed) for frame in time] for time in planes],
                left_out=[] if is_reversed else grid.left_out,
                warnings=(*grid.warnings, warning),
                variant="-".join(filter(None, (grid.variant, f"dir{name}"))),
            )
        )
    return parts


def _gains(voxels: Array) -> Sequence[float]:
    """Return how much better each volume correlates with the next one if that is mirrored."""
    return [_correlation(one, next_[:, ::-1]) - _correlation(one, next_) for one, next_ in pairwise(voxels)]


def _correlation(one: Array, other: Array) -> float:
    if min(np.ptp(one), np.ptp(other)) == 0:
        return 0.0
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


def _marked(frame: Frame, *, is_reversed: bool) -> Frame:
    """Return a frame with its polarity; a reversed one with its rows in the order that its position means."""
    variant = {**frame.variant_key, "polarity": "reversed" if is_reversed else "forward"}
    return replace(frame, read=partial(_reversed, frame) if is_reversed else frame.read, variant_key=variant)


def _reversed(frame: Frame) -> Array:
    return np.ascontiguousarray(frame.read()[::-1])
