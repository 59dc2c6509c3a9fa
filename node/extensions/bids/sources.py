"""Where volumes come from: the index of a node, or DICOM files, which are converted for the export alone."""

import datetime as dt
import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

from node.archive.base import LocalFile
from node.conversion.found_series import KNOWN, Chosen, attributes_of_series, known_facts, require_told
from node.conversion.offline import Run, convert_folder
from node.conversion.volume_files import by_path
from node.errors import UsageError
from node.extensions.bids.planned import SeriesVolume, SubjectSeries
from node.extensions.bids.rules import VOLUME_FIELDS, Rules
from node.extensions.bids.subjects import SubjectPatient
from node.index.look.views import ReadIndex
from node.index.rows.view_rows import Row, ViewRows
from node.index.rules.people.identifiers import identity_of, same_person
from node.selector import Facts, Selector
from node.selector.fields import FIELDS, grid_fields
from node.writers.options import WriteOptions

STILL_OPEN = "it is still being received or converted"
NO_NIFTI = "it has no NIfTI files: add nifti to [convert] formats and convert it again"


class PatientSource(Protocol):
    """Patients and their series, by numbers of patients that hold for this source.

    `not_selected`: number of series that a selector has kept out of the source.
    """

    not_selected: int

    def patients(self, number: int | None = None) -> Mapping[int, SubjectPatient]:
        """Return every patient, or the one with a number and those of the same identity."""

    def patient_of(self, study_instance_uid: str) -> int | None:
        """Return the patient of a study; None if there is no such study."""

    def series_of(self, patients: Sequence[int]) -> Iterator[SubjectSeries]:
        """Yield every series of patients."""

    def series_keys(self) -> Collection[tuple[str, str]] | None:
        """Return study and series UID of all series; None if others may exist elsewhere."""


class ExportViews(ViewRows):
    """The patients, series and volumes of an index, by their ``id``."""

    def patients(self, patient: int | None = None) -> list[Row]:
        """Return ``id``, ``identity`` and ``patient_id`` of each patient with a series, by ``id``.

        `patient`: only this one and all of the same identity, as people with one issuer and Patient ID are.
        """
        query = (
            "SELECT p.id, p.identity, p.patient_id FROM patients p WHERE EXISTS "
            "(SELECT 1 FROM studies st JOIN series se ON se.study_id = st.id WHERE st.patient_id = p.id)"
        )
        if patient is None:
            return self._rows(f"{query} ORDER BY p.id")
        alike = "p.identity = (SELECT identity FROM patients WHERE id = :patient)"
        return self._rows(f"{query} AND {alike} ORDER BY p.id", patient=patient)

    def patient_of(self, study_instance_uid: str) -> int | None:
        """Return the ``id`` of the patient of a study, or None if there is no such study."""
        row = self._row("SELECT patient_id FROM studies WHERE study_instance_uid = :uid", uid=study_instance_uid)
        return None if row is None else int(row["patient_id"])

    def series_of(self, patients: Sequence[int]) -> list[Row]:
        """Return the series of patients, by their ``id``, with dates and times, state, verdict and failures."""
        return self._of_ids(
            "SELECT se.id, st.patient_id AS patient, st.study_instance_uid, se.series_instance_uid, st.study_date, "
            "st.study_time, se.series_date, se.series_time, se.state, se.verdict, se.verdict_reason, se.error, "
            "(SELECT f.detail FROM failures f WHERE f.series_id = se.id AND f.revision = se.revision LIMIT 1) "
            "AS failure FROM series se JOIN studies st ON st.id = se.study_id",
            "st.patient_id",
            patients,
            "ORDER BY se.id",
        )

    def nifti_of(self, series: Sequence[int]) -> list[Row]:
        """Return the current NIfTI volumes, spectra and recordings of series, by their ``id``.

        Paths are relative to the root.
        """
        return self._of_ids(
            "SELECT c.series_id, v.stack, v.suffix, v.path, v.sha256, v.shape, v.spacing_mm, v.geometry, "
            "v.orientation, v.warnings, v.weighting, v.contrast_agent "
            "FROM conversions c JOIN volumes v ON v.conversion_id = c.id",
            "c.series_id",
            series,
            "AND NOT c.superseded AND c.files_removed_at IS NULL "
            "AND (v.kind IN ('volume', 'spectra') AND v.format = 'nifti' OR v.kind = 'physio') "
            "ORDER BY v.stack, v.path",
        )


class IndexSource:
    """The index of a root, and the volumes in it.

    `local`: gives those that are in an object store.
    """

    not_selected = 0

    def __init__(self, index: ReadIndex, local: LocalFile) -> None:
        self._index, self._views, self._root = index, index.views(ExportViews), Path(index.root)
        self._by_path = by_path(self._root, index, local)

    def _local(self, file: Path) -> Path:
        return self._by_path(str(file.relative_to(self._root)))

    def patients(self, number: int | None = None) -> Mapping[int, SubjectPatient]:
        rows = self._views.patients(number)
        return {row["id"]: SubjectPatient(row["identity"], row["patient_id"]) for row in rows}

    def patient_of(self, study_instance_uid: str) -> int | None:
        return self._views.patient_of(study_instance_uid)

    def series_keys(self) -> Collection[tuple[str, str]]:
        return self._index.studies.series_keys()

    def series_of(self, patients: Sequence[int]) -> Iterator[SubjectSeries]:
        listed = self._views.series_of(patients)
        facts = self._index.facts.of_rows(FIELDS, [row["id"] for row in listed])
        rows = [row for row in listed if row["id"] in facts]  # copies are of a data set of their project
        ids = [row["id"] for row in rows]
        volumes: dict[int, list[SeriesVolume]] = defaultdict(list)
        for row in self._views.nifti_of(ids):
            volumes[row["series_id"]].append(self._volume_file(row))
        for row in rows:
            yield SubjectSeries(
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

    def _volume_file(self, row: Mapping[str, Any]) -> SeriesVolume:
        read = {name: json.loads(row[name]) for name in ("shape", "spacing_mm", "warnings")}
        geometry = geometry_of({**row, **read})
        return SeriesVolume(row["stack"], row["suffix"], self._root / row["path"], row["sha256"], geometry, self._local)


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
        **grid_fields(row["shape"], row["spacing_mm"], row["geometry"]),
        **{name: row[name] for name in ("geometry", "orientation", "warnings", "weighting", "contrast_agent")},
    }


def moment(date: str | None, time: str | None) -> dt.datetime | None:
    """Return a date and a time in ISO 8601 as one moment; None without a date."""
    if date is None:
        return None
    return dt.datetime.combine(dt.date.fromisoformat(date), dt.time.fromisoformat(time) if time else dt.time())


OF_VOLUMES = frozenset(name for name, field in FIELDS.items() if field.group == "volume")


class FolderSource:
    """The series in folders, files, zip files or DICOMDIRs.

    `work`: an empty folder for the volumes; `run, workers, chosen`: see `node.conversion.offline.convert_folder`.
    """

    def __init__(self, paths: Iterable[Path], work: Path, run: Run, workers: int, chosen: Chosen) -> None:
        paths = list(paths)
        options = WriteOptions(formats=("nifti",), thumbnails=False)
        listing = convert_folder(paths, work, options, run, workers, chosen=chosen)
        self.not_selected = len(listing["not_chosen"])
        self._work, self._rows = work, {row["series_instance_uid"]: row for row in listing["series"]}
        self._refusals = {row["series_instance_uid"]: row["detail"] for row in listing["refusals"]}
        self._volumes: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
        for row in listing["volumes"]:
            if (row["kind"] in ("volume", "spectra") and row["format"] == "nifti") or row["kind"] == "physio":
                self._volumes[row["series_instance_uid"]].append(row)
        self._attributes: dict[str, Mapping[str, Any]] = {}
        self._twice: set[str] = set()
        for found in attributes_of_series(paths):
            uid = found["series_instance_uid"]
            self._twice |= {uid} & self._attributes.keys()
            self._attributes |= {uid: found} if uid in self._rows else {}
        self._people: list[SimpleNamespace] = []
        self._of_study: dict[str, int] = {}
        for series in self._attributes.values():
            if (study := series["study_instance_uid"]) not in self._of_study:
                self._of_study[study] = self._person(series)

    def patients(self, number: int | None = None) -> Mapping[int, SubjectPatient]:
        return {
            each: SubjectPatient(person.identity, person.patient_id)
            for each, person in enumerate(self._people)
            if number is None or person.identity == self._people[number].identity
        }

    def patient_of(self, study_instance_uid: str) -> int | None:
        return self._of_study.get(study_instance_uid)

    def _person(self, study: Mapping[str, Any]) -> int:
        """Return the number of the person whom a study names; those who share a Patient ID are apart, as in a node."""
        new = {name: study.get(name) for name in ("patient_id", "patient_name", "patient_birth_date", "patient_sex")}
        identity = identity_of(study, study["study_instance_uid"])
        known = same_person([person for person in self._people if person.identity == identity], new)
        if known is None:
            known = SimpleNamespace(number=len(self._people), identity=identity, **new)
            self._people.append(known)
        for name, value in new.items():
            setattr(known, name, getattr(known, name) or value)
        return int(known.number)

    def series_keys(self) -> Collection[tuple[str, str]] | None:
        return None

    def series_of(self, patients: Sequence[int]) -> Iterator[SubjectSeries]:
        for uid, attributes in self._attributes.items():
            number = self._of_study[attributes["study_instance_uid"]]
            if number in patients:
                yield self._series(number, uid, attributes)

    def _series(self, patient: int, uid: str, attributes: Mapping[str, Any]) -> SubjectSeries:
        verdict = self._rows[uid]["verdict"] or {"state": None, "reason": None}
        facts: Facts = {
            **{name: [] if field.several else None for name, field in FIELDS.items()},
            **known_facts(attributes, attributes["instances"]),
            "verdict": verdict["state"],
        }
        volumes = [
            SeriesVolume(row["stack"], row["suffix"], self._work / row["path"], row["sha256"], geometry_of(row))
            for row in self._volumes[uid]
        ]
        problem = None if volumes else NO_NIFTI
        if uid in self._refusals:
            problem = f"a part of it has no volume: {self._refusals[uid]}"
        if uid in self._twice:
            problem = "series of two studies have its UID"
        days = {name: attributes.get(name) for name in ("study_date", "study_time", "series_date", "series_time")}
        texts = {name: None if value is None else str(value) for name, value in days.items()}
        return SubjectSeries(
            patient,
            attributes["study_instance_uid"],
            uid,
            facts,
            moment(texts["study_date"], texts["study_time"]),
            moment(texts["series_date"] or texts["study_date"], texts["series_time"] or texts["study_time"]),
            problem,
            verdict["reason"],
            tuple(volumes),
        )


def require_known(rules: Rules, where: Selector | None) -> None:
    """Refuse rules and a selector that compare what only a node knows."""
    known = KNOWN | OF_VOLUMES | VOLUME_FIELDS.keys() | {"verdict"}
    compared = {f'rule "{rule.name}"': selector.fields - known for rule, selector in rules.rules}
    for place, unknown in compared.items():
        if unknown:
            raise UsageError(f"{place}: {', '.join(sorted(unknown))} is known only to a node")
    if where is not None:
        require_told("--where", where)
