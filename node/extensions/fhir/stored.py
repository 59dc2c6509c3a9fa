"""Stored studies, read from the index for resources."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pydicom.dataset import Dataset

from node.dicom.answers import Found
from node.dicom.keys import Level
from node.dicom.matching import Options, read_query
from node.extensions.dicomweb.searches import attribute_path, put_key
from node.extensions.fhir.imaging_study import OF_INSTANCE, OF_SERIES, OF_STUDY, Json, imaging_study
from node.index.database.index import Index


@dataclass(frozen=True, slots=True)
class StoredStudy:
    """A study with its series and instances, as the index has them."""

    study: Found
    series: Sequence[Found]
    instances: Mapping[str, Sequence[Found]]

    @property
    def patient_id(self) -> str:
        """The Patient ID, or empty text."""
        return str(self.study.get("PatientID", ""))

    def resource(self, dicomweb: str) -> Json:
        """Return its `ImagingStudy`; `dicomweb`: see `imaging_study`."""
        return imaging_study(self.study, self.series, self.instances, dicomweb)


def stored_study(index: Index, study_instance_uid: str) -> StoredStudy | None:
    """Return a study; None if nothing of it is stored."""
    keys = {"StudyInstanceUID": [study_instance_uid]}
    found = matching(index, Level.STUDY, OF_STUDY, keys, 1)
    if not found:
        return None
    instances: dict[str, list[Found]] = defaultdict(list)
    for one in matching(index, Level.IMAGE, OF_INSTANCE, keys):
        instances[str(one["SeriesInstanceUID"])].append(one)
    return StoredStudy(found[0], series_of(index, study_instance_uid), instances)


def series_of(index: Index, study_instance_uid: str) -> list[Found]:
    """Return the series of a study."""
    return matching(index, Level.SERIES, OF_SERIES, {"StudyInstanceUID": [study_instance_uid]})


def matching(
    index: Index,
    level: Level,
    returned: Iterable[str],
    keys: Mapping[str, list[str]],
    limit: int | None = None,
    offset: int = 0,
) -> list[Found]:
    """Return what matches keys at a level, with the attributes `returned`. Raises InvalidQuery."""
    identifier = Dataset()
    identifier.QueryRetrieveLevel = level.name
    for keyword in returned:
        put_key(identifier, attribute_path(keyword) or (), [])
    for keyword, values in keys.items():
        put_key(identifier, attribute_path(keyword) or (), values, replace=True)
    query = read_query(identifier, options=Options(relational=True), limit=limit, offset=offset)
    return list(index.find(query, limit))
