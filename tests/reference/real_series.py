"""Real series for tests that change them: what a whole series gives, and what may be left of it."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

import data_store
import numpy as np
import pydicom
import pydicom.data
from numpy.typing import NDArray
from pydicom import DataElement, Dataset, FileDataset
from pydicom.datadict import dictionary_VR
from pydicom.errors import InvalidDicomError
from pydicom.tag import Tag

from node.api import Assembly, Geometry, Volume, VolumeKind, WarningKind, assemble, whole
from node.completeness import Completeness, Evidence, Findings, expectation, verdict_of
from node.conversion.evidence import find_evidence
from node.conversion.grids import header_of
from node.dicom.counts import COUNT_KEYWORDS, InstanceCounts
from tests.make import PYDICOM_FILES

PYDICOM_DATA = Path(data_store.__file__).parent / "data"

REGULAR = (Geometry.REGULAR, Geometry.SHEARED)

PLACE_TOLERANCE_MM = 0.06
"""How far a slice may be from its place along the normal: position tolerance and jitter of one position."""

PLACE_TOLERANCE_SHARE = 0.03
"""The same, as a share of the distance between slices. A stack is even if some grid lies within the noise of all of its
planes; the grid of its volume goes through the first and the last one, which both may be off by that much."""

SAYS_MIXED = frozenset({WarningKind.PARAMETER_VARIES, WarningKind.INCOMPLETE_VOLUME, WarningKind.SAME_POSITION_TWICE})
"""Warnings by which a volume says that its slices may be of several times."""

Place = tuple[str, int, int]
"""Series, volume and time that a frame belongs to."""


def find_series(corpus: Path, max_bytes: int) -> dict[str, tuple[Path, ...]]:
    """Return the files of each series of the corpus, pydicom and pydicom-data with several instances, by name."""
    found: dict[str, list[Path]] = defaultdict(list)
    for root in (corpus, PYDICOM_FILES, PYDICOM_DATA):
        for path in sorted(root.rglob("*")):
            if not path.is_file() or "refs" in path.parts or path.suffix in (".md", ".json", ".py", ".txt"):
                continue
            try:
                header = pydicom.dcmread(path, specific_tags=["SeriesInstanceUID"])
            except (InvalidDicomError, AttributeError, NotImplementedError):
                continue
            if "SeriesInstanceUID" in header:
                found[f"{root.name}/{path.parent.relative_to(root)} {header.SeriesInstanceUID[-8:]}"].append(path)
    sizes = {name: sum(path.stat().st_size for path in paths) for name, paths in found.items()}
    return {name: tuple(paths) for name, paths in found.items() if len(paths) > 1 and sizes[name] <= max_bytes}


@dataclass(frozen=True)
class RealSeries:
    """A whole series, the volumes that it gives, and the place of each of its frames."""

    name: str
    datasets: tuple[FileDataset, ...]
    assembly: Assembly
    places: dict[tuple[str, int], Place] = field(default_factory=dict)

    @property
    def volumes(self) -> list[Volume]:
        return volumes_of(self.assembly)

    @property
    def usable(self) -> bool:
        """Whether every frame has a place in the patient and in a volume."""
        placed = all(volume.geometry is not Geometry.NONE for volume in self.volumes)
        return bool(self.volumes) and placed and not (self.assembly.refusals or self.assembly.exclusions)

    def instances_by_time(self, volume: Volume) -> list[set[str]]:
        """Return the instances of each time of a volume."""
        times: list[set[str]] = [set() for _ in range(volume.times)]
        for source in volume.sources:
            times[source.time_index].add(source.sop_instance_uid)
        return times


@lru_cache(maxsize=128)
def read(name: str, paths: tuple[Path, ...]) -> RealSeries:
    """Return a series in the order of its Instance Numbers, each SOP Instance UID once."""
    datasets = {str(ds.SOPInstanceUID): ds for ds in map(pydicom.dcmread, paths) if "Rows" in ds}
    ordered = sorted(datasets.values(), key=lambda ds: (whole(ds, "InstanceNumber") or 0, str(ds.SOPInstanceUID)))
    series = RealSeries(name, tuple(ordered), assemble(ordered))
    for number, volume in enumerate(series.volumes):
        for source in volume.sources:
            series.places[source.sop_instance_uid, source.frame_number] = (name, number, source.time_index)
    return series


def edited(ds: FileDataset, **values: Any) -> FileDataset:
    """Return an instance with other values at its top level; None removes one. The original stays as it is."""
    tags = list(ds.keys())  # a data set iterates over its elements, and converts them
    out = FileDataset("", {tag: ds.get_item(tag) for tag in tags}, file_meta=ds.file_meta, preamble=ds.preamble)
    for keyword, value in values.items():
        tag = Tag(keyword)
        if value is not None:  # a new element: the old one belongs to the original too
            out[tag] = DataElement(tag, "OW" if keyword == "PixelData" else dictionary_VR(tag), value)
        elif tag in out:
            del out[tag]
    return out


def volumes_of(assembly: Assembly) -> list[Volume]:
    return [volume for volume in assembly.volumes if volume.kind is VolumeKind.VOLUME]


def real_plane(volume: Volume, time: int, index: int) -> NDArray[Any]:
    """Return the rescaled values of a slice."""
    values: NDArray[Any] = volume.voxels[time, index] * np.float64(volume.slope) + volume.intercept
    return values


def judged(datasets: Sequence[Dataset], assembly: Assembly) -> Completeness:
    """Return the verdict on a series, as the pipeline reaches it."""
    return verdict_and_findings(datasets, assembly)[0]


def verdict_and_findings(datasets: Sequence[Dataset], assembly: Assembly) -> tuple[Completeness, list[Evidence]]:
    """Return the verdict on a series, and the facts in its instances and volumes that speak against completeness."""
    counts = {str(ds.SOPInstanceUID): InstanceCounts(*(whole(ds, each) for each in COUNT_KEYWORDS)) for ds in datasets}
    headers = {str(ds.SOPInstanceUID): header_of(ds, counts[str(ds.SOPInstanceUID)]) for ds in datasets}
    placed = [volume for volume in assembly.volumes if volume.geometry not in (Geometry.NONE, Geometry.SINGLE)]
    times = max((volume.times for volume in placed), default=0)
    known = expectation(list(counts.values()))
    findings = find_evidence(headers, assembly)
    return verdict_of(known, Findings(tuple(findings), bool(placed), times)), findings


def assert_sound(assembly: Assembly, datasets: Sequence[FileDataset], *origins: RealSeries) -> None:
    """Check that no time of a volume mixes frames of several times in silence, and that all slices are in their place.

    If losses left one frame at each position, of several times that only numbers separate, the verdict must say so.

    `datasets`: its instances.
    `origins`: the whole series that they are from.
    """
    places = {frame: place for origin in origins for frame, place in origin.places.items()}
    by_uid = {str(ds.SOPInstanceUID): ds for ds in datasets}
    assert assembly.unaccounted(set(by_uid)) == set()
    for volume in volumes_of(assembly):
        mixed: dict[int, list[Place | None]] = defaultdict(list)
        for source in sorted(volume.sources, key=lambda source: source.slice_index):
            mixed[source.time_index].append(places.get((source.sop_instance_uid, source.frame_number)))
            if volume.geometry in REGULAR:
                _assert_in_place(volume, source.slice_index, by_uid[source.sop_instance_uid])
        said = not SAYS_MIXED.isdisjoint(warning.name for warning in volume.warnings)
        if volume.times == 1:
            said = said or _is_side_by_side(mixed[0]) or judged(datasets, assembly).state != "complete"
        assert said or all(len(set(own)) == 1 for own in mixed.values()), mixed


def _is_side_by_side(places: Sequence[Place | None]) -> bool:
    """Return whether slices are parts of several series side by side: nothing tells them apart."""
    return len({place[0] for place in places if place}) == len(list(groupby(places))) > 1


def _assert_in_place(volume: Volume, index: int, ds: FileDataset) -> None:
    position = ds.get("ImagePositionPatient")
    if position is None or volume.affine_lps is None or len({source.sop_instance_uid for source in volume.sources}) < 2:
        return
    if (ds.Rows, ds.Columns) == volume.voxels.shape[2:4]:
        off_mm = np.linalg.norm(volume.affine_lps[:3, 3] + index * volume.affine_lps[:3, 2] - np.array(position, float))
        may_mm = max(PLACE_TOLERANCE_MM, PLACE_TOLERANCE_SHARE * volume.spacing_mm[2])
        assert off_mm <= may_mm, (volume.suffix, index, off_mm)
