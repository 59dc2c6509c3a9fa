"""Where volumes come from: the index of a node."""

from __future__ import annotations

import datetime as dt
import json
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from node.archive.base import LocalFile
from node.conversion.volume_files import by_path
from node.extensions.bids.plan import Series, VolumeFile
from node.extensions.bids.subjects import Patient
from node.index.database.reading import ReadIndex
from node.selector import FIELDS

STILL_OPEN = "it is still being received or converted"
NO_NIFTI = "it has no NIfTI files: add nifti to [convert] formats and convert it again"


class Source(Protocol):
    """Patients and their series, by numbers of patients that hold for this source."""

    def patients(self, number: int | None = None) -> Mapping[int, Patient]:
        """Return every patient, or the one with a number."""

    def patient_of(self, study_instance_uid: str) -> int | None:
        """Return the patient of a study; None if there is no such study."""

    def series_of(self, patients: Sequence[int]) -> Iterator[Series]:
        """Yield every series of patients."""

    def series_keys(self) -> Collection[tuple[str, str]] | None:
        """Return study and series UID of all series; None if others may exist elsewhere."""


class IndexSource:
    """The index of a root, and the volumes in it.

    Parameters
    ----------
    index : ReadIndex
    local : LocalFile
        Gives those that are in an object store.
    """

    def __init__(self, index: ReadIndex, local: LocalFile) -> None:
        self._index, self._root = index, Path(index.root)
        self._by_path = by_path(self._root, index, local)

    def _local(self, file: Path) -> Path:
        return self._by_path(str(file.relative_to(self._root)))

    def patients(self, number: int | None = None) -> Mapping[int, Patient]:
        rows = self._index.exports.patients(number)
        return {row["id"]: Patient(row["identity"], row["patient_id"]) for row in rows}

    def patient_of(self, study_instance_uid: str) -> int | None:
        return self._index.exports.patient_of(study_instance_uid)

    def series_keys(self) -> Collection[tuple[str, str]]:
        return self._index.exports.series_keys()

    def series_of(self, patients: Sequence[int]) -> Iterator[Series]:
        rows = self._index.exports.series_of(patients)
        ids = [row["id"] for row in rows]
        facts = self._index.facts.of_rows(FIELDS, ids)
        volumes: dict[int, list[VolumeFile]] = defaultdict(list)
        for row in self._index.exports.nifti_of(ids):
            volumes[row["series_id"]].append(self._volume_file(row))
        for row in rows:
            yield Series(
                row["patient"],
                row["study_instance_uid"],
                row["series_instance_uid"],
                facts[row["id"]],
                moment(row["study_date"], row["study_time"]),
                moment(row["series_date"] or row["study_date"], row["series_time"] or row["study_time"]),
                _problem(row, bool(volumes[row["id"]])),
                row["verdict_reason"],
                tuple(volumes[row["id"]]),
            )

    def _volume_file(self, row: Mapping[str, Any]) -> VolumeFile:
        read = {name: json.loads(row[name]) for name in ("shape", "spacing_mm", "warnings")}
        geometry = geometry_of({**row, **read})
        return VolumeFile(row["stack"], row["suffix"], self._root / row["path"], row["sha256"], geometry, self._local)


def _problem(row: Mapping[str, Any], has_volumes: bool) -> str | None:
    """Return why a series has no volumes that may be exported; None if it has."""
    if row["state"] in ("receiving", "converting"):
        return STILL_OPEN
    if row["state"] == "not-an-image":
        return "it has no images"
    if row["state"] != "converted":
        return f"it has no volume: {row['error'] or row['failure'] or row['state']}"
    if row["failure"]:
        return f"a part of it has no volume: {row['failure']}"
    return None if has_volumes else NO_NIFTI


def geometry_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts of one volume by the names of selectors, from its row."""
    return {
        **dict(zip(("columns", "rows", "slices", "times"), (*row["shape"], 1), strict=False)),
        **dict(zip(("column_spacing", "row_spacing", "slice_spacing"), row["spacing_mm"], strict=False)),
        **{name: row[name] for name in ("geometry", "orientation", "warnings")},
    }


def moment(date: str | None, time: str | None) -> dt.datetime | None:
    """Return a date and a time in ISO 8601 as one moment; None without a date."""
    if date is None:
        return None
    return dt.datetime.combine(dt.date.fromisoformat(date), dt.time.fromisoformat(time) if time else dt.time())
