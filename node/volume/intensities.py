"""Fill the voxels of a volume: stored values where one slope and intercept hold for all planes, exact values else."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from node.errors import ConversionRefused
from node.volume.model import Array, Frame
from node.volume.reasons import Reason

FRAMES_AHEAD = 3


class FrameRefused(ConversionRefused):
    """One frame cannot be read; the others of its stack may be."""

    def __init__(self, frame: Frame, refused: ConversionRefused) -> None:
        super().__init__(refused.reason, refused.detail)
        self.frame = frame


def read(frame: Frame) -> Array:
    """Return the stored values of a frame, in the shape that it announces.

    Raises
    ------
    FrameRefused
        The pixels cannot be decoded, or are not of that shape.
    """
    try:
        plane = frame.read()
    except ConversionRefused as refused:
        raise FrameRefused(frame, refused) from refused
    expected = (frame.rows, frame.columns, 3) if frame.colour else (frame.rows, frame.columns)
    if plane.shape != expected:
        detail = f"decoded pixels have shape {plane.shape}, not {expected} as Rows and Columns say"
        raise FrameRefused(frame, ConversionRefused(Reason.CONTRADICTORY, detail))
    return plane


def fill(planes: Sequence[Sequence[Frame]]) -> tuple[Array, float, float]:
    """Return the voxels of a grid of frames, their slope and their intercept.

    Parameters
    ----------
    planes : (times, slices) sequences of Frame

    Returns
    -------
    (times, slices, rows, columns[, 3]) array
        Allocated once; each frame is decoded straight into it.
    float, float
        Slope and intercept for all voxels: 1 and 0 where they differ between planes and are applied already.

    Raises
    ------
    FrameRefused
    """
    frames = [frame for time in planes for frame in time]
    scalings = {(frame.slope, frame.intercept) for frame in frames}
    stored = np.result_type(*{frame.dtype for frame in frames})
    dtype = stored if len(scalings) == 1 else _exact_type(stored, scalings)
    first = frames[0]
    shape = (len(planes), len(planes[0]), first.rows, first.columns) + ((3,) if first.colour else ())
    voxels = np.empty(shape, dtype)
    for place, frame, plane in zip(np.ndindex(shape[:2]), frames, _read_ahead(frames), strict=True):
        if len(scalings) == 1:
            if not np.can_cast(plane.dtype, voxels.dtype, "safe"):  # a codestream may know its sign better
                voxels = voxels.astype(np.result_type(plane.dtype, voxels.dtype))
            voxels[place] = plane
        elif dtype.kind == "i":
            voxels[place] = plane.astype(np.int64) * int(frame.slope) + int(frame.intercept)
        else:
            voxels[place] = plane * np.float64(frame.slope) + np.float64(frame.intercept)
    slope, intercept = scalings.pop() if len(scalings) == 1 else (1.0, 0.0)
    return voxels, slope, intercept


def _read_ahead(frames: Sequence[Frame]) -> Iterator[Array]:
    """The stored values of each frame, read by another thread while the last one is put in its place."""
    with ThreadPoolExecutor(1, "frames") as reader:
        coming: deque[Future[Array]] = deque()
        try:
            for frame in frames:
                coming.append(reader.submit(read, frame))
                if len(coming) > FRAMES_AHEAD:
                    yield coming.popleft().result()
            while coming:
                yield coming.popleft().result()
        finally:
            for one in coming:
                one.cancel()


def _exact_type(stored: np.dtype, scalings: set[tuple[float, float]]) -> np.dtype:
    """The smallest type that holds all scaled values: integers if every slope and intercept is one, else float."""
    if stored.kind == "f":
        return stored
    whole = all(slope.is_integer() and intercept.is_integer() for slope, intercept in scalings)
    if not whole:
        return np.dtype(np.float32 if stored.itemsize <= 2 else np.float64)
    ends = [np.iinfo(stored).min, np.iinfo(stored).max]
    values = [end * int(slope) + int(intercept) for end in ends for slope, intercept in scalings]
    for candidate in (np.int16, np.int32):
        if min(values) >= np.iinfo(candidate).min and max(values) <= np.iinfo(candidate).max:
            return np.dtype(candidate)
    return np.dtype(np.float64)
