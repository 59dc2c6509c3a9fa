"""The instances of a volume by time and slice, with their headers, in which evidence is looked for."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from pydicom import Dataset

from node.completeness import InstanceCounts
from node.dicom import values
from node.dicom.per_series import once_per_series
from node.volume.arrange.timing import is_of_labelling
from node.volume.model import Float, Geometry, Volume

DISTANCE_TOLERANCE = 0.03
"""Relative deviation of a distance between slices from a multiple of Spacing Between Slices (0018,0088)."""

MAX_SHOWN = 20
"""Numbers, or places, that a reason names."""


@dataclass(frozen=True, slots=True)
class InstanceHeader:
    """Attributes of one instance that announce its neighbours; None if the data set lacks one."""

    position: tuple[float, ...] | None
    is_derived: bool
    counts: InstanceCounts


def header_of(ds: Dataset, counts: InstanceCounts) -> InstanceHeader:
    """Return the header of an instance with these counts."""
    return InstanceHeader(values.numbers(ds, "ImagePositionPatient", 3), _is_derived(ds), counts)


@once_per_series("ImageType")
def _is_derived(ds: Dataset) -> bool:
    return (values.text(ds, "ImageType") or "").upper().startswith("DERIVED")


class Grid:
    """The instances of one volume by time and slice."""

    def __init__(self, volume: Volume, headers: Mapping[str, InstanceHeader]) -> None:
        self.volume = volume
        self.headers = headers
        slices = volume.shape[2]
        self.uids = [[""] * slices for _ in range(volume.times)]
        for source in volume.sources:
            self.uids[source.time_index][source.slice_index] = source.sop_instance_uid
        self.placed = volume.geometry is not Geometry.NONE
        self.times = [list(dict.fromkeys(time)) for time in self.uids]
        self.of_time = len(self.times[0])
        self.places: dict[str, tuple[int, int]] = {}
        for time, uids in enumerate(self.times):
            for index, uid in enumerate(uids):
                self.places.setdefault(uid, (time, index))
        self.is_one_instance = len(self.places) == 1

    def holds_all(self, uids: Collection[str]) -> bool:
        """Return whether instances, fewer than a time has, are in a stack without a gap."""
        is_even = self.volume.geometry in (Geometry.REGULAR, Geometry.SHEARED)
        return is_even and len(uids) < self.of_time and self.places.keys() >= set(uids)

    @property
    def step_mm(self) -> float:
        return self.volume.spacing_mm[2]

    @property
    def step_along_normal_mm(self) -> float:
        """The distance between slices, which is less than the step between them if that is oblique."""
        if self.volume.affine_lps is None:
            return self.step_mm
        row, column, step = self.volume.affine_lps[:3, :3].T
        normal = np.cross(row, column)
        return float(abs(step @ normal) / np.linalg.norm(normal))

    def stated_mm(self, name: str) -> float:
        """Return a distance that the first instance, or a functional group of its first frame, states; 0 if none."""
        return abs(float(self.volume.attributes.get(name) or 0.0))

    @property
    def interleaves_instances(self) -> bool:
        """Whether slices of an instance with several lie between those of another one."""
        return sum(1 for _ in groupby(self.uids[0])) > len(self.times[0])

    @property
    def is_made_of_pairs(self) -> bool:
        """Whether each time is the difference of labelled and unlabelled images."""
        return is_of_labelling(self.volume.attributes) and self.first is not None and self.first.is_derived

    @property
    def first(self) -> InstanceHeader | None:
        return self.headers.get(self.uids[0][0])

    def numbers(self, time: int) -> list[int | None]:
        """Return the Instance Numbers of a time, one for each instance, by slice."""
        return [self.headers[uid].counts.instance_number if uid in self.headers else None for uid in self.times[time]]

    def along(self) -> Float | None:
        """Return the distances in mm of the slices of the first time from the first; None if they are not known."""
        positions = [None if uid not in self.headers else self.headers[uid].position for uid in self.uids[0]]
        if self.volume.affine_lps is None or self.of_time < 2 or None in positions:
            return None
        columns = self.volume.affine_lps[:3, :3]
        normal = np.cross(columns[:, 0], columns[:, 1])
        away = (np.array(positions, float) - np.array(positions[0], float)) @ (normal / np.linalg.norm(normal))
        return np.sort(np.abs(away))

    def spacing_ratio(self) -> float | None:
        """Return the distance between slices over the one that the headers state; None if they state none.

        Some senders write the gap between slices into Spacing Between Slices (0018,0088): then it is less than their
        thickness, and the reading that fits is taken.
        """
        if self.first is None or len(self.uids[0]) < 2:
            return None
        spacing, thickness = self.stated_mm("SpacingBetweenSlices"), self.stated_mm("SliceThickness")
        if not spacing:
            return None if not thickness else self.step_mm / thickness
        ratio = self.step_mm / spacing
        if thickness and spacing < thickness * (1 - DISTANCE_TOLERANCE):
            with_gap = self.step_mm / (spacing + thickness)
            return min((ratio, with_gap), key=lambda value: abs(value - 1))
        return ratio

    @property
    def divides_stated_spacing(self) -> bool:
        """Whether two or more slices lie where Spacing Between Slices (0018,0088), no less than a slice, has one."""
        spacing = self.stated_mm("SpacingBetweenSlices")
        ratio = spacing / self.step_along_normal_mm
        is_whole = round(ratio) >= 2 and abs(ratio - round(ratio)) <= DISTANCE_TOLERANCE
        return is_whole and spacing >= self.stated_mm("SliceThickness") * (1 - DISTANCE_TOLERANCE)

    def clock_ratio(self) -> float | None:
        """Return the step between the starts of the times over Repetition Time (0018,0080); None if unknown."""
        starts, repetition_s = self.volume.times_s, self.volume.attributes.get("RepetitionTime")
        if starts is None or len(starts) < 2 or not repetition_s:
            return None
        return float(np.median(np.diff(starts))) / float(repetition_s)


def originals_of(grids: Sequence[Grid]) -> list[Grid]:
    """Return the volumes that counts in headers are about: those of acquired instances with one frame each."""
    return [
        grid
        for grid in grids
        if grid.placed
        and grid.first is not None
        and not grid.first.is_derived
        and not (grid.is_one_instance and (grid.first.counts.number_of_frames or 1) > 1)
    ]
