"""Series whose voxels tell their own time, slice and echo, and a check of what volumes make of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import FileDataset
from pydicom.uid import CTImageStorage, MRImageStorage, PositronEmissionTomographyImageStorage, generate_uid

from node.volume.model import Assembly, Volume, VolumeKind
from tests import make

ROWS, COLUMNS = 8, 6
SPACING_MM = 2.5
PIXEL_SPACING_MM = (2.0, 1.5)
ORIGIN_MM = (-20.0, -30.0, 40.0)
STEP_S = 2.0

MAX_TIMES, MAX_SLICES = 64, 64

SOP_CLASSES = {"MR": MRImageStorage, "CT": CTImageStorage, "PT": PositronEmissionTomographyImageStorage}
RESCALED = {"RescaleSlope": "1", "RescaleIntercept": "0"}
OF_MODALITY: dict[str, dict[str, Any]] = {
    "MR": {"ImageType": r"ORIGINAL\PRIMARY\M\ND", "RepetitionTime": "2000", "EchoTime": "30"},
    "CT": RESCALED | {"ImageType": r"ORIGINAL\PRIMARY\AXIAL", "KVP": "80"},
    "PT": RESCALED | {"ImageType": r"ORIGINAL\PRIMARY", "Units": "BQML"},
}


@dataclass(frozen=True)
class Truth:
    """A series, time by time and slice by slice, and where each slice of each time is: (times, slices, 3) mm, LPS."""

    datasets: list[FileDataset]
    positions: NDArray[np.float64]

    @property
    def times(self) -> int:
        return len(self.positions)

    @property
    def slices(self) -> int:
        return self.positions.shape[1]

    def edited(self, edit: Callable[[FileDataset, int, int], None]) -> Truth:
        """Return the same series after ``edit(instance, time, slice)`` of each instance, in place."""
        for index, ds in enumerate(self.datasets):
            edit(ds, *divmod(index, self.slices))
        return self


def plane(time: int, slice_: int, echo: int = 0) -> NDArray[np.uint16]:
    """Return the pixels of one plane, each of which tells its time, slice, echo and something of its place."""
    rows, columns = np.mgrid[:ROWS, :COLUMNS]
    return (time << 10 | slice_ << 4 | echo << 2 | (rows + 2 * columns) % 4).astype(np.uint16)


def series(
    times: int,
    slices: int,
    *,
    offsets_mm: NDArray[Any] | None = None,
    modality: str = "MR",
    orientation: make.Numbers = make.AXIAL,
    spacing: float = SPACING_MM,
    clock: bool = False,
    echo: int = 0,
    **attributes: Any,
) -> Truth:
    """Return a series in time of classic instances, numbered time by time.

    `offsets_mm`, (times, 3) or (times, slices, 3) array: where the slices are, relative to an even stack that stays in
        its place.
    `clock`: Acquisition Time tells the times. Without it nothing does but positions and numbers.
    `attributes`: of all instances.
    """
    assert times <= MAX_TIMES
    assert slices <= MAX_SLICES
    uids = {"study_uid": generate_uid(), "series_uid": generate_uid()}
    shared = {"FrameOfReferenceUID": generate_uid(), "SliceThickness": make.decimal(spacing)}
    still = make.stack_positions(slices, spacing, ORIGIN_MM, orientation)
    moved = np.zeros((times, 1, 3)) if offsets_mm is None else offsets_mm.reshape(times, -1, 3)
    positions = still[None] + moved
    datasets = []
    for time in range(times):
        own = {"AcquisitionTime": f"{101500 + int(STEP_S * time):06}.0000"} if clock else {}
        datasets += make.image_series(
            slices,
            sop_class_uid=SOP_CLASSES[modality],
            modality=modality,
            orientation=orientation,
            spacing=spacing,
            pixel_spacing=PIXEL_SPACING_MM,
            positions=positions[time],
            pixels=np.stack([plane(time, slice_, echo) for slice_ in range(slices)]),
            **uids,
            **(OF_MODALITY[modality] | shared | own | attributes),
        )
    for number, ds in enumerate(datasets, start=1):
        ds.InstanceNumber = number
    return Truth(datasets, positions)


def lies(assembly: Assembly, truth: Truth, tolerance_mm: float = 0.05) -> Iterator[str]:
    """Yield what volumes say wrongly about the time, the slice, the echo or the place of their voxels.

    The place of a slice is that of its time, or of the first time of its volume: a volume has one place.
    """
    for volume in assembly.volumes:
        if volume.kind is VolumeKind.VOLUME:
            reported = [[_told(voxels) for voxels in time] for time in volume.voxels]
            yield from _lies_in_time(reported)
            yield from _lies_in_place(volume, reported[0], truth, tolerance_mm)


def _told(voxels: NDArray[Any]) -> tuple[int, int, int]:
    """Return the time, the slice and the echo that the voxels of one slice tell."""
    [code] = np.unique(np.asarray(voxels, int) >> 2)  # a slice is one plane, whatever becomes of the others
    return int(code) >> 8, int(code) >> 2 & 63, int(code) & 3


def _lies_in_time(reported: list[list[tuple[int, int, int]]]) -> Iterator[str]:
    last = -1
    for number, planes in enumerate(reported):
        times, slices, echoes = zip(*planes, strict=True)
        if len(set(times)) > 1:
            yield f"time {number} has slices of times {sorted(set(times))}"
        elif min(times) <= last:
            yield f"time {min(times)} comes after time {last}"
        last = max(times)
        if slices != tuple(slice_ for _, slice_, _ in reported[0]):
            yield f"slices {slices} of time {number} are not those of the first time"
        if len(set(echoes)) > 1:
            yield f"time {number} mixes echoes"


def _lies_in_place(
    volume: Volume, reported: list[tuple[int, int, int]], truth: Truth, tolerance_mm: float
) -> Iterator[str]:
    if volume.affine_lps is None:
        yield "the volume has no place"
        return
    places = volume.affine_lps[:3, 3] + np.arange(len(reported))[:, None] * volume.affine_lps[:3, 2]
    true = np.array([truth.positions[time, slice_] for time, slice_, _ in reported])
    away_mm = np.linalg.norm(places - true, axis=1).max()
    if away_mm > tolerance_mm:
        yield f"slices are up to {away_mm:.3f} mm away from their place"


def whole(assembly: Assembly, truth: Truth) -> Volume:
    """Return the one volume of a series, after a check that it has all times and slices and that they are true."""
    assert list(lies(assembly, truth)) == []
    [volume] = [volume for volume in assembly.volumes if volume.kind is VolumeKind.VOLUME]
    assert volume.voxels.shape[:2] == (truth.times, truth.slices)
    assert not assembly.exclusions
    assert not assembly.refusals
    return volume
