"""Fill the voxels of a volume: whole real values if they take no more bytes, else stored ones with slope and intercept.

If slope or intercept differ between planes, the voxels are exact real values.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from node.errors import ConversionRefused
from node.volume.model import Array, Frame
from node.volume.reasons import Reason

MAX_THREADS = 4
TASK_BYTES = 1 << 20
"""Approximate size of the batches of frames given to a thread. Scheduling small frames singly would cost more than
reading them."""


SCALING_TOLERANCE = 0.01
"""Largest rounding error of an intercept, in steps of the stored values (a step is the slope), in float32."""

Filled = tuple[Array, float, float]
"""Voxels of a grid of frames, their slope and their intercept."""


class FrameRefused(ConversionRefused):
    """One frame cannot be read; the others of its stack may be readable."""

    def __init__(self, frame: Frame, refused: ConversionRefused) -> None:
        super().__init__(refused.reason, refused.detail)
        self.frame = frame


def read_frame(frame: Frame) -> Array:
    """Return the stored values of a frame: (rows, columns) or (rows, columns, 3), as the frame announces.

    Raises FrameRefused if the pixels cannot be decoded, or have another shape.
    """
    try:
        plane = frame.read()
    except ConversionRefused as refused:
        raise FrameRefused(frame, refused) from refused
    expected = (frame.rows, frame.columns, 3) if frame.colour else (frame.rows, frame.columns)
    if plane.shape != expected:
        detail = (
            f"the decoded pixels have shape {plane.shape}, but Rows (0028,0010) and Columns (0028,0011) give {expected}"
        )
        raise FrameRefused(frame, ConversionRefused(Reason.CONTRADICTORY, detail))
    return plane


def fill(planes: Sequence[Sequence[Frame]]) -> Filled:
    """Return the voxels of a grid of frames, their slope and their intercept.

    `planes`: (times, slices) sequences of Frame.

    The voxels, (times, slices, rows, columns[, 3]), are allocated once; each frame is decoded into its place. Slope and
    intercept are for all voxels; 1 and 0 if these are real values: if planes differ in them, or if the real values are
    integers of as many bytes, as those of most CT are.

    Raises FrameRefused: a frame cannot be decoded.
    """
    frames = [frame for time in planes for frame in time]
    scalings = {(frame.slope, frame.intercept) for frame in frames}
    stored = np.result_type(*{frame.dtype for frame in frames})
    dtype = stored if len(scalings) == 1 else _exact_type(stored, scalings)
    first = frames[0]
    shape = (len(planes), len(planes[0]), first.rows, first.columns) + ((3,) if first.colour else ())
    voxels = None
    while voxels is None:
        try:
            voxels = _filled(frames, np.empty(shape, dtype), as_stored=len(scalings) == 1)
        except _DoesNotFit as misfit:  # the sign in the codestream may differ from that in the data set
            dtype = misfit.dtype
    return _rescaled(voxels, *scalings.pop()) if len(scalings) == 1 else (voxels, 1.0, 0.0)


def _rescaled(voxels: Array, slope: float, intercept: float) -> Filled:
    """Replace stored values by real ones in place, if these are integers of as many bytes.

    All formats then hold the same bytes, and no reader has to know of slope and intercept.
    """
    stored = voxels.dtype
    is_whole = stored.kind in "iu" and float(slope).is_integer() and float(intercept).is_integer()
    if not is_whole or (slope, intercept) == (1, 0):
        return voxels, slope, intercept
    ends = sorted(int(end) * int(slope) + int(intercept) for end in (voxels.min(), voxels.max()))
    for candidate in (stored, np.dtype(f"i{stored.itemsize}")):
        limits = np.iinfo(candidate)
        if limits.min <= ends[0] and ends[1] <= limits.max:
            modular = voxels.view(f"u{stored.itemsize}")  # the results fit, so they are exact modulo a power of 2
            if slope != 1:
                modular *= modular.dtype.type(int(slope) % 2 ** (8 * stored.itemsize))
            modular += modular.dtype.type(int(intercept) % 2 ** (8 * stored.itemsize))
            return voxels.view(candidate), 1.0, 0.0
    return voxels, slope, intercept


class _DoesNotFit(Exception):
    """A frame does not fit the type of the voxels; `dtype` can represent both."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        super().__init__()
        self.dtype = dtype


def _filled(frames: Sequence[Frame], voxels: Array, *, as_stored: bool) -> Array:
    """Copy the frames into place, several at once: reading, copying and some codecs release the interpreter lock."""
    flat = voxels.reshape(-1, *voxels.shape[2:])
    step = max(1, TASK_BYTES // flat[0].nbytes)
    put = _put_stored if as_stored else _put_scaled

    def task(start: int) -> None:
        for index in range(start, min(start + step, len(frames))):
            put(flat, index, frames[index])

    with ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1), "frames") as pool:
        try:
            for _ in pool.map(task, range(0, len(frames), step)):
                pass
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return voxels


def _put_stored(voxels: Array, index: int, frame: Frame) -> None:
    plane = read_frame(frame)
    if not np.can_cast(plane.dtype, voxels.dtype, "safe"):
        raise _DoesNotFit(np.result_type(plane.dtype, voxels.dtype))
    voxels[index] = plane


def _put_scaled(voxels: Array, index: int, frame: Frame) -> None:
    plane = read_frame(frame)
    if voxels.dtype.kind == "i":
        voxels[index] = plane.astype(np.int64) * int(frame.slope) + int(frame.intercept)
    else:
        voxels[index] = plane * np.float64(frame.slope) + np.float64(frame.intercept)


def _exact_type(stored: np.dtype, scalings: set[tuple[float, float]]) -> np.dtype:
    """Return the smallest type for all scaled values: an integer if every slope and intercept is one, else float."""
    if stored.kind == "f":
        return np.dtype(np.float64) if any(intercept for _, intercept in scalings) else stored
    whole = all(slope.is_integer() and intercept.is_integer() for slope, intercept in scalings)
    if not whole:
        least = min(abs(slope) for slope, _ in scalings)
        rounding = np.finfo(np.float32).eps / 2 * max(abs(intercept) for _, intercept in scalings)
        is_fine = stored.itemsize <= 2 and rounding <= SCALING_TOLERANCE * least
        return np.dtype(np.float32 if is_fine else np.float64)
    ends = [np.iinfo(stored).min, np.iinfo(stored).max]
    values = [end * int(slope) + int(intercept) for end in ends for slope, intercept in scalings]
    for candidate in (np.int16, np.int32):
        if min(values) >= np.iinfo(candidate).min and max(values) <= np.iinfo(candidate).max:
            return np.dtype(candidate)
    return np.dtype(np.float64)
