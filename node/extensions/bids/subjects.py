"""Who is who: labels of subjects and sessions, from a table that people keep or by pseudonyms."""

import csv
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from node.children.pseudonyms import PATIENT_CHARACTERS, PseudonymKey, passing_key
from node.children.pseudonyms import Patient as KeyedPatient
from node.errors import UsageError
from node.extensions.bids.names import LABEL, label
from node.extensions.bids.rules import NotExported, SubjectsTable

STUDY_COLUMNS = ("study_instance_uid", "accession_number", "study_date")
"""Columns that restrict a row of the map to a study."""

OF_STUDIES = f"{', '.join(STUDY_COLUMNS[:-1])} or {STUDY_COLUMNS[-1]}"

COLUMNS = ("patient_id", *STUDY_COLUMNS, "subject", "session")


@dataclass(frozen=True, slots=True)
class SubjectPatient:
    """A patient of the index; `identity` has the issuer and the ID, or the study if there is no ID."""

    identity: str
    patient_id: str | None


class SubjectMap:
    """A table with a row for each patient, or for each study of a patient.

    A Patient ID may be of several people. A row names one of them by a study alone.
    """

    def __init__(self, rows: list[dict[str, str]]) -> None:
        self._by_patient: dict[str, list[dict[str, str]]] = defaultdict(list)
        for row in rows:
            self._by_patient[row["patient_id"]].append(row)

    def subject(self, patient_id: str | None) -> str | None:
        """Return the label of all rows of a Patient ID; None without a row, or if the rows have several labels."""
        labels = {row["subject"] for row in self._by_patient.get(patient_id or "", ())}
        return labels.pop() if len(labels) == 1 else None

    def has(self, patient_id: str | None) -> bool:
        """Return whether a row has a Patient ID."""
        return (patient_id or "") in self._by_patient

    def subjects(self, patient_id: str | None, studies: Mapping[int, Sequence[Mapping[str, Any]]]) -> dict[int, str]:
        """Return the labels of the patients with one Patient ID by the rows for their `studies`.

        A patient is missing if no row is for one of the studies, if the rows have several labels, or if one of the rows
        is for another patient, too.
        """
        labels: dict[int, set[str | None]] = defaultdict(set)
        for row in self._by_patient.get(patient_id or "", ()):
            named = [patient for patient, found in studies.items() if any(_is_for(row, study) for study in found)]
            for patient in named:
                labels[patient].add(row["subject"] if len(named) == 1 else None)
        return {patient: label for patient, found in labels.items() if len(found) == 1 for label in found if label}

    def session(self, study: Mapping[str, Any]) -> str | None:
        """Return the label of a study, or None if no row for it has one."""
        for row in self._by_patient.get(study.get("patient_id") or "", ()):
            if row["session"] and (_is_for(row, study) or not any(row[column] for column in STUDY_COLUMNS)):
                return row["session"]
        return None


def _is_for(row: Mapping[str, str], study: Mapping[str, Any]) -> bool:
    """Return whether a row names a study."""
    stated = {column: row[column] for column in STUDY_COLUMNS if row[column]}
    return bool(stated) and all(str(study.get(column)) == value for column, value in stated.items())


def read_map(file: Path) -> SubjectMap:
    """Read a table of subjects: CSV, or text separated by tabs if its name ends in ``.tsv``.

    Raises UsageError: a column is missing or unknown, a label is wrong, or a Patient ID has two labels and a row
    without a study; the message gives the line.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, delimiter="\t" if file.suffix == ".tsv" else ",", restval="")
            columns = list(reader.fieldnames or ())
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{file}: {getattr(error, 'strerror', None) or error}") from error
    if wrong := sorted({"patient_id", "subject"} - set(columns)) or sorted(set(columns) - set(COLUMNS)):
        raise UsageError(f"{file}: column {wrong[0]!r} is missing or unknown; the columns are {', '.join(COLUMNS)}")
    found = []
    for line, given in rows:
        row = {column: (given.get(column) or "").strip() for column in COLUMNS}
        row["subject"], row["session"] = row["subject"].removeprefix("sub-"), row["session"].removeprefix("ses-")
        for column in ("subject", "session"):
            if (row[column] or column == "subject") and not LABEL.fullmatch(row[column]):
                raise UsageError(f"{file}, line {line}: {column} has letters and digits only, not {row[column]!r}")
        if not row["patient_id"]:
            raise UsageError(f"{file}, line {line}: patient_id is empty")
        found.append(row)
    everywhere = {row["patient_id"] for row in found if not any(row[column] for column in STUDY_COLUMNS)}
    subjects: dict[str, str] = {}
    spelled: dict[str, str] = {}
    for (line, _), row in zip(rows, found, strict=True):
        if spelled.setdefault(row["subject"].casefold(), row["subject"]) != row["subject"]:
            raise UsageError(f"{file}, line {line}: {row['subject']!r} differs from a label above in case alone")
        above = subjects.setdefault(row["patient_id"], row["subject"])
        if above != row["subject"] and row["patient_id"] in everywhere:
            raise UsageError(
                f"{file}, line {line}: the patient has the subject {above!r} above. For two people with one "
                f"Patient ID, each row needs {OF_STUDIES}"
            )
    return SubjectMap(found)


class Pseudonyms:
    """Pseudonyms by one key of de-identification: labels of subjects and sessions, shifts of dates.

    A subject has as its label what de-identification by the same key gives as Patient ID, in lower case.
    """

    def __init__(self, key: PseudonymKey) -> None:
        self._key = key

    @property
    def key_name(self) -> str:
        """Name of the key, which may be shown."""
        return self._key.name

    def subject(self, identity: str) -> str:
        """Return the label of a patient, whose identity is that of
        `node.index.rules.people.identifiers.identity_of`."""
        issuer, has_id, patient_id = identity.partition("\\")
        patient = KeyedPatient(issuer, patient_id) if has_id else KeyedPatient("study", identity.removeprefix("study "))
        return self._key.patient(patient).lower()

    def session(self, study_instance_uid: str) -> str:
        """Return the label of a study."""
        return self._key.text("study", PATIENT_CHARACTERS, study_instance_uid).lower()

    def mark(self, uid: str) -> str:
        """Return what a data set may keep to recognise an object by its UID."""
        return self._key.digest("mark", uid).hex()[:32]

    def shift_days(self, subject: str) -> int:
        """Return by how many days the dates of a subject, by its label, are set back."""
        return BEFORE_DAYS + self._key.days_earlier(KeyedPatient("subject", subject))


def subject_label(patient: SubjectPatient, subjects: SubjectsTable, pseudonyms: Pseudonyms) -> str:
    """Return the label of a patient without a table. Raises NotExported: labels are Patient IDs, and there is none."""
    if subjects.labels == "pseudonym":
        return pseudonyms.subject(patient.identity)
    found = label(patient.patient_id or "")
    if not found:
        raise NotExported("the Patient ID has no letters and digits for a label: name the subject in a table")
    return found


def ambiguous_labels(labels: Mapping[int, str]) -> list[int]:
    """Return the keys of labels that differ in nothing or in case alone from others."""
    of_label = defaultdict(list)
    for key, name in labels.items():
        of_label[name.casefold()].append(key)
    return [key for keys in of_label.values() if len(keys) > 1 for key in keys]


KEY_FILE = "bids.key"
"""The key in a root, unless another one is named."""

BEFORE_DAYS = 150 * 365
"""Least shift of a date: until 2074, dates are then before 1925, by which BIDS knows them as shifted."""


class UnknownLabels(Pseudonyms):
    """Pseudonyms by a key that is not made yet: subjects are counted, by labels that none of them will have."""

    def __init__(self) -> None:
        super().__init__(passing_key())
        self._numbers: dict[str, int] = {}

    def subject(self, identity: str) -> str:
        """Return what stands for the label of a patient."""
        return f"{UNKNOWN}{self._numbers.setdefault(identity, len(self._numbers) + 1)}"


UNKNOWN = "PSEUDONYM"
"""In capital letters, of which labels by a key have none."""
