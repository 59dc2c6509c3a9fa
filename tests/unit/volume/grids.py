"""Which frames of a series lie where in the volumes that it gave, and what parts of one series share."""

from collections.abc import Sequence
from typing import Any, TypeVar

from pydicom import Dataset
from pydicom.uid import generate_uid

from node.volume import vendors
from node.volume.model import Assembly, Diffusion, Tiling, VolumeKind
from node.volume.read.diffusion import diffusion_of
from node.volume.reasons import WarningKind
from tests import make

Plane = tuple[str, int]
Placed = TypeVar("Placed", bound=Dataset)


def grids(assembly: Assembly) -> list[list[list[Plane]]]:
    """Of each volume the (SOP Instance UID, frame number) of each slice of each time."""
    found = []
    for volume in assembly.volumes:
        if volume.kind is VolumeKind.VOLUME:
            grid: list[list[Plane]] = [[("", 0)] * volume.voxels.shape[1] for _ in range(volume.times)]
            for source in volume.sources:
                grid[source.time_index][source.slice_index] = (source.sop_instance_uid, source.frame_number)
            found.append(grid)
    return found


def planes(datasets: Sequence[Dataset]) -> list[Plane]:
    return [(str(ds.SOPInstanceUID), 1) for ds in datasets]


def in_turn(datasets: Sequence[Dataset], slices: int) -> list[list[Plane]]:
    """The times that so many instances each are, one after the other."""
    return [planes(datasets[first : first + slices]) for first in range(0, len(datasets), slices)]


def warned(assembly: Assembly) -> set[WarningKind]:
    """What any volume warns of."""
    return {warning.name for volume in assembly.volumes for warning in volume.warnings}


def numbered(*parts: Sequence[Placed]) -> list[Placed]:
    """The instances of all parts, with Instance Numbers that go on from one part to the next."""
    series = [ds for part in parts for ds in part]
    for number, ds in enumerate(series, start=1):
        ds.InstanceNumber = number
    return series


def frames(ds: Dataset, times: int, slices: int) -> list[list[Plane]]:
    return [[(str(ds.SOPInstanceUID), time * slices + index + 1) for index in range(slices)] for time in range(times)]


def one_item(**values: Any) -> list[Dataset]:
    """A sequence of one item with these elements."""
    return [make.dataset(**values)]


def of_one_series(**attributes: Any) -> dict[str, Any]:
    """UIDs that two parts of a series share."""
    uids = {name: generate_uid() for name in ("study_uid", "series_uid", "FrameOfReferenceUID")}
    return uids | attributes


def tiled(ds: Dataset) -> Tiling:
    tiling = vendors.tiling(ds)
    assert tiling is not None
    return tiling


def weighted(ds: Dataset, *groups: Dataset) -> Diffusion:
    diffusion = diffusion_of(ds, *groups)
    assert diffusion is not None
    return diffusion
