"""Where the volumes of two converters differ: how many, their shapes, places, values, times, and what analysis reads.

Both are compared in RAS, the axes of NIfTI, along the axes of the patient that are closest: which way rows and slices
run in a file is no difference. So are slice times, phase encoding and gradients, which a file states along its own
axes.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from node.extensions.second_opinion.evidence import decided_by

TOLERANCE_MM = 0.01
TOLERANCE_OF_RANGE = 1e-4
"""Of the largest value: slopes are rounded to single precision in a header."""

TOLERANCE_COLOUR = 8
"""Of 255: inverse transforms of lossy JPEG and of YBR are rounded differently."""

TOLERANCE_SECONDS = 0.016
"""Siemens states slice times in steps of 2.5 ms, and a time of the day in single precision has steps of 8 ms."""

TOLERANCE_DEGREES = 0.5

SECONDS = ("RepetitionTime", "EchoTime", "EffectiveEchoSpacing", "TotalReadoutTime")

Row = dict[str, Any]


@dataclass(frozen=True)
class Written:
    """A volume in NIfTI, with its sidecar and its gradient table."""

    path: Path
    image: Any

    @cached_property
    def name(self) -> str:
        name = self.path.name
        return name[: -len(".nii.gz")] if name.endswith(".nii.gz") else self.path.stem

    @cached_property
    def sidecar(self) -> dict[str, Any]:
        try:
            content = json.loads(self.path.with_name(f"{self.name}.json").read_bytes())
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    @cached_property
    def turn(self) -> NDArray[np.float64]:
        """How to turn its axes so that they run to the right, to the front and up, as `nibabel.orientations` has it."""
        return np.asarray(nib.io_orientation(self.image.affine))

    @cached_property
    def affine(self) -> NDArray[np.float64]:
        """From the turned voxel index to RAS+ in mm."""
        shape = self.image.shape[:3]
        return np.asarray(self.image.affine @ nib.orientations.inv_ornt_aff(self.turn, shape))

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Size of the turned axes, times, and samples of a voxel."""
        turned = [0, 0, 0]
        for axis, (to, _) in enumerate(self.turn):
            turned[int(to)] = self.image.shape[axis]
        times = int(np.prod(self.image.shape[3:], dtype=int))
        return (*turned, times, len(self.image.get_data_dtype().fields or ()) or 1)

    def at(self, time: int) -> NDArray[np.float64]:
        """Return the values of one time, turned."""
        index = np.unravel_index(time, self.image.shape[3:] or (1,))
        values = _samples(self._values((..., *index) if self.image.ndim > 3 else (...,)))
        return np.asarray(nib.orientations.apply_orientation(values, self.turn))

    def direction(self, axis: int) -> NDArray[np.float64]:
        """Return in RAS where an axis of the file leads, of length 1."""
        column = self.image.affine[:3, axis]
        return np.asarray(column / (np.linalg.norm(column) or 1))

    @property
    def is_copy(self) -> bool:
        """Whether dcm2niix interpolated it onto an even upright grid, beside the volume as it was measured."""
        return re.search(r"_(Eq|Tilt)(_\d+)?[a-z]?$", self.name) is not None

    @property
    def has_place(self) -> bool:
        """Whether the file says where it lies; pictures without a place are compared frame by frame."""
        return bool(self.image.header["sform_code"] or self.image.header["qform_code"])

    def frame(self, number: int) -> NDArray[np.float64]:
        """Return a plane, slices of the first time first: (columns, rows[, samples])."""
        slices = self.image.shape[2]
        index = np.unravel_index(number // slices, self.image.shape[3:] or (1,))
        return _samples(self._values((..., number % slices, *index) if self.image.ndim > 3 else (..., number)))

    def _values(self, index: tuple[Any, ...]) -> Any:
        """Return rescaled values; those of colours as they are stored, whatever slope the header has."""
        stored = self.image.dataobj
        return stored.get_unscaled()[index] if self.image.get_data_dtype().fields else stored[index]

    @cached_property
    def gradients(self) -> list[tuple[float, NDArray[np.float64]]]:
        """b-values in s/mm², and directions in RAS; FSL's first axis runs against an image that is not mirrored."""
        try:
            values = np.loadtxt(self.path.with_name(f"{self.name}.bval"), ndmin=1)
            vectors = np.loadtxt(self.path.with_name(f"{self.name}.bvec"), ndmin=2).T
        except (OSError, ValueError):
            return []
        axes = np.stack([self.direction(axis) for axis in range(3)], axis=1)
        if np.linalg.det(axes) > 0:
            vectors = vectors * (-1, 1, 1)
        return list(zip(map(float, values), vectors @ axes.T, strict=False))


def _samples(values: Any) -> NDArray[np.float64]:
    """Return the values of an array, with colours along a last axis."""
    values = np.asanyarray(values)
    if values.dtype.fields:
        values = np.stack([values[name] for name in values.dtype.fields], axis=-1)
    return np.asarray(values, dtype=np.float64)


def volumes_in(paths: Iterable[Path]) -> list[Written]:
    """Return the volumes in NIfTI files; what nibabel cannot load is none."""
    found = []
    for path in sorted(paths):
        try:
            image: Any = nib.load(path)
        except (OSError, ValueError, nib.filebasedimages.ImageFileError):
            continue
        if len(image.shape) >= 3:
            found.append(Written(path, image))
    return found


def differences(ours: Sequence[Written], theirs: Sequence[Written], files: Sequence[Path]) -> list[Row]:
    """Return a row for each difference between the volumes of one series.

    Returns
    -------
    list of dict
        ``what`` differs, the ``volume`` of ours (None: it is about the series), what ``ours`` and ``theirs`` have,
        and ``decided_by``: the values in the headers of `files` that decide it.
    """
    rows: list[Row] = []
    left = [other for other in theirs if not other.is_copy]
    for volume in ours:
        left.sort(key=lambda other: _unlike(volume, other))
        compared = []
        for other in left:
            compared.append((list(_between(volume, other)), other))
            if not compared[-1][0]:
                break
        if compared:
            found, other = compared[-1] if not compared[-1][0] else compared[0]
            left.remove(other)
            rows += [{"volume": volume.name, **row} for row in found]
        else:
            rows.append(_row("volumes", _described(volume), None) | {"volume": volume.name})
    rows += [_row("volumes", None, _described(other)) | {"volume": None} for other in left]
    evidence = decided_by({row["what"] for row in rows}, files)
    return [row | {"decided_by": evidence[row["what"]]} for row in rows]


def _row(what: str, ours: Any, theirs: Any) -> Row:
    return {"what": what, "ours": ours, "theirs": theirs}


def _described(volume: Written) -> str:
    return " x ".join(map(str, volume.image.shape))


def _unlike(one: Written, other: Written) -> tuple[bool, bool, float]:
    """Sort the likeliest counterpart first, by headers alone."""
    echoes = one.sidecar.get("EchoTime"), other.sidecar.get("EchoTime")
    kinds = [set(map(str, volume.sidecar.get("ImageType", ()))) for volume in (one, other)]
    apart = _apart(one, other) if one.shape == other.shape else 0.0
    return one.shape != other.shape, echoes[0] != echoes[1] and None not in echoes, apart + len(kinds[0] ^ kinds[1])


def _apart(one: Written, other: Written) -> float:
    """Return the largest distance in mm between the same corners of two volumes of one shape."""
    corners = np.array(list(itertools.product(*[(0, size - 1) for size in one.shape[:3]])))
    away = nib.affines.apply_affine(one.affine, corners) - nib.affines.apply_affine(other.affine, corners)
    return float(np.linalg.norm(away, axis=1).max())


def _between(one: Written, other: Written) -> Iterator[Row]:
    """Yield how two volumes differ; the values are compared only where each has its counterpart."""
    if not one.has_place:
        yield from _frames(one, other)
        return
    if one.shape != other.shape:
        yield _row("shape", _described(one), _described(other))
    else:
        if (apart := _apart(one, other)) > TOLERANCE_MM:
            places = [
                [round(float(length), 4) for length in volume.image.header.get_zooms()[:3]] for volume in (one, other)
            ]
            yield _row("place", f"spacing {places[0]} mm", f"spacing {places[1]} mm, a corner {apart:.3g} mm away")
        yield from _values(one, other)
    yield from _stated(one, other)


def _frames(one: Written, other: Written) -> Iterator[Row]:
    """Compare pictures without a place: frames may be slices or times, and the last row may come first."""
    shapes = [(*volume.image.shape[:2], int(np.prod(volume.image.shape[2:]))) for volume in (one, other)]
    samples = one.shape[4], other.shape[4]
    if shapes[0] != shapes[1] or samples[0] != samples[1]:
        yield _row("shape", *(f"{_described(volume)}, {volume.shape[4]} samples" for volume in (one, other)))
        return
    worst = [0.0, 0.0]
    largest = 1.0
    for number in range(shapes[0][2]):
        first, second = one.frame(number), other.frame(number)
        largest = max(largest, float(np.nanmax(np.abs(first), initial=0)))
        for way, turned in enumerate((second, second[:, ::-1])):
            worst[way] = max(worst[way], float(np.nanmax(np.abs(first - turned), initial=0)))
    if min(worst) > (TOLERANCE_COLOUR if samples[0] > 1 else TOLERANCE_OF_RANGE * largest):
        yield _row("values", f"up to {largest:g}", f"away by up to {min(worst):g}")


def _values(one: Written, other: Written) -> Iterator[Row]:
    """Compare time by time, so that only one of them is in memory."""
    largest = worst = 0.0
    unlike = 0
    ours: list[float] = []
    theirs: list[float] = []
    for time in range(one.shape[3]):
        first, second = one.at(time), other.at(time)
        ours.append(_sum(first))
        theirs.append(_sum(second))
        largest = max(largest, float(np.nanmax(np.abs(first), initial=0)))
        tolerance = TOLERANCE_COLOUR if one.shape[4] > 1 else TOLERANCE_OF_RANGE * max(1.0, largest)
        away = np.abs(first - second)
        unlike += int((~(away <= tolerance) & ~(np.isnan(first) & np.isnan(second))).sum())
        worst = max(worst, float(np.nanmax(away, initial=0)))
    if not unlike:
        return
    if len(ours) > 1 and np.allclose(sorted(ours), sorted(theirs), rtol=1e-6):
        yield _row("order of times", "its own", "the same times in another order")
    else:
        yield _row("values", f"up to {largest:g}", f"{unlike} voxels differ, by up to {worst:g}")


def _sum(values: NDArray[np.float64]) -> float:
    """Return a number that tells one time from another, also if two voxels changed places."""
    flat = values.ravel()
    return float(flat @ np.linspace(1, 2, flat.size))


def _stated(one: Written, other: Written) -> Iterator[Row]:
    """Compare what an analysis reads beside the voxels; a gradient table is compared if both have one."""
    for field in SECONDS:
        ours, theirs = one.sidecar.get(field), other.sidecar.get(field)
        if not _close(ours, theirs, 1e-5 if field == "EffectiveEchoSpacing" else 1e-3):
            yield _row(field, ours, theirs)
    same_way = float(one.direction(2) @ other.direction(2)) >= 0
    ours, theirs = one.sidecar.get("SliceTiming"), other.sidecar.get("SliceTiming")
    if not same_way and isinstance(theirs, list):
        theirs = theirs[::-1]
    if not _close(ours, theirs, TOLERANCE_SECONDS):
        yield _row("SliceTiming", ours, theirs)
    axes = [_encoding(volume) for volume in (one, other)]
    if (axes[0] is None) != (axes[1] is None) or (
        axes[0] is not None and axes[1] is not None and float(axes[0] @ axes[1]) < 0.99
    ):
        yield _row("PhaseEncodingDirection", *(volume.sidecar.get("PhaseEncodingDirection") for volume in (one, other)))
    if one.gradients and other.gradients and not _same_gradients(one, other):
        b_values = [[round(value) for value, _ in volume.gradients] for volume in (one, other)]
        if b_values[0] == b_values[1]:
            yield _row("gradients", "directions of its own", f"more than {TOLERANCE_DEGREES} degrees away")
        else:
            yield _row("gradients", b_values[0], b_values[1])


def _close(one: Any, other: Any, tolerance: float) -> bool:
    if one is None or other is None:
        return one is other
    first, second = np.atleast_1d(np.asarray(one, float)), np.atleast_1d(np.asarray(other, float))
    return first.shape == second.shape and bool(np.abs(first - second).max(initial=0) <= tolerance)


def _encoding(volume: Written) -> NDArray[np.float64] | None:
    """Return in RAS where the phase encoding of a file leads; None: it does not say."""
    text = str(volume.sidecar.get("PhaseEncodingDirection") or "")
    if text[:1] not in tuple("ijk"):
        return None
    return volume.direction("ijk".index(text[0])) * (-1 if text.endswith("-") else 1)


def _same_gradients(one: Written, other: Written) -> bool:
    """Return whether two tables have the same b-values, and the same directions but for their signs."""
    if len(one.gradients) != len(other.gradients):
        return False
    least = np.cos(np.radians(TOLERANCE_DEGREES))
    for (b_value, direction), (their_value, their_direction) in zip(one.gradients, other.gradients, strict=True):
        if abs(b_value - their_value) > max(1.0, 0.01 * b_value):
            return False
        both = np.linalg.norm(direction) * np.linalg.norm(their_direction)
        if b_value > 0 and both > 0 and abs(float(direction @ their_direction)) < least * both:
            return False
    return True
