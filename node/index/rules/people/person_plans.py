"""What a decision about patients would move: plans of merges, corrections and separations, which change nothing.

`node.index.rules.people.persons` carries them out.
"""

import datetime as dt
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

from sqlalchemy import Connection, func, select

from node.dicom.attributes import date_of
from node.errors import UsageError
from node.index.rows.models.history import ConflictRow
from node.index.rows.models.levels import PatientRow, StudyRow
from node.index.rows.sql import listed_in
from node.index.rules.people import identifiers


class NoSuchPatient(UsageError):
    """No patient matches, or several do."""


SHARED = "shared-patient-id"
"""Kind of the conflicts that a merge decides."""

MAX_ISSUER_CHARACTERS = 64

MAX_HELD = 10_000
"""Merges of persons of whom no file is here: whoever may send HL7 could fill the index with such."""

MEANT = func.coalesce(StudyRow.corrected_patient_id, identifiers.NAMED)
"""The person of whom a study is, before merges."""

_GROUP = func.coalesce(PatientRow.merged_into, PatientRow.id)
"""The patient who a person is."""

CHOSEN = func.coalesce(PatientRow.merged_first_into, PatientRow.merged_into)

_DESCRIBING = ("patient_name", *identifiers.AGE_AND_SEX)


@dataclass(frozen=True, slots=True)
class Moved:
    """A merge or a separation, done or planned: the Patient IDs of both, and the UIDs of the studies that move.

    `outcomes`: of `PersonRepository.link`, what was done of each link.
    """

    patient_ids: tuple[str, ...]
    studies: tuple[str, ...]
    outcomes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Person:
    """A patient as HL7 names one; empty: unknown."""

    patient_id: str
    issuer_of_patient_id: str
    patient_name: str
    patient_birth_date: dt.date | None
    patient_sex: str

    @property
    def key(self) -> tuple[str, str]:
        """What names a patient: the Patient ID, and its issuer."""
        return self.patient_id, self.issuer_of_patient_id


@dataclass(frozen=True, slots=True)
class PatientLink:
    """What an order of HL7 says of two patients: `one` is merged into `other`, or the two are taken apart.

    `is_correction`: `one` was wrong, and is `other`; of a patient with the same Patient ID, the other values were.
    """

    is_merge: bool
    one: Person
    other: Person
    is_correction: bool = False


@dataclass(frozen=True, slots=True)
class Correction:
    """What is right of a patient; None: what is there. Empty: it is not known. The birth date is YYYYMMDD."""

    patient_id: str | None = None
    issuer_of_patient_id: str | None = None
    patient_name: str | None = None
    patient_birth_date: str | None = None
    patient_sex: str | None = None

    def values(self) -> dict[str, Any]:
        """Return the columns that are corrected. Raises UsageError if a value is not one of its attribute."""
        given = {name: value.strip() for name, value in asdict(self).items() if value is not None}
        for name, value in given.items():
            rule, is_valid = _RULES[name]
            if not is_valid(value):
                raise UsageError(f"{name.replace('_', ' ')}: {rule} (PS3.5 6.2)")
        if given.get("patient_id") == "":
            raise UsageError("a patient is corrected to a Patient ID that is not empty")
        values: dict[str, Any] = {name: value or None for name, value in given.items()}
        if given.get("patient_birth_date"):
            values["patient_birth_date"] = date_of(given["patient_birth_date"])
        return values


_NAME = re.compile(r"[^\\=]{0,64}(=[^\\=]{0,64}){0,2}")

_RULES: Mapping[str, tuple[str, Callable[[str], object]]] = {
    "patient_id": ("at most 64 printable characters and no backslash (LO", lambda text: _is_long_string(text)),
    "issuer_of_patient_id": ("at most 64 printable characters and no backslash", lambda text: _is_long_string(text)),
    "patient_name": (
        "FAMILY^GIVEN, at most 64 characters in each group, and no backslash",
        lambda text: text.isprintable() and _NAME.fullmatch(text),
    ),
    "patient_birth_date": (
        "a date as YYYYMMDD",
        lambda text: not text or (re.fullmatch(r"\d{8}", text) and date_of(text)),
    ),
    "patient_sex": ("M, F or O", lambda text: text in ("", "M", "F", "O")),
}


def _is_long_string(text: str) -> bool:
    return len(text) <= MAX_ISSUER_CHARACTERS and text.isprintable() and "\\" not in text


def described_person(connection: Connection, person: Person) -> Any | None:
    """Return the row by which a patient is known best: that of this issuer and name, else of one who was not merged.

    Raises UsageError if people share the Patient ID, and not one of them is so described.
    """
    rows = identifiers.people_with(connection, *person.key)
    if person.patient_name and (described := identifiers.same_person(rows, asdict(person))) is not None:
        return described
    identifiers.require_one_patient(rows)
    rows.sort(key=lambda row: row.merged_into is not None)
    return min(rows, key=lambda row: (row.issuer_of_patient_id or "") != person.issuer_of_patient_id, default=None)


def first_known(connection: Connection, people: Sequence[Person]) -> Person:
    """Return the first of the identifiers of a patient that is known, else the first."""
    return next((one for one in people if identifiers.people_with(connection, *one.key)), people[0])


def updating(connection: Connection, person: Person) -> tuple[list[Any], Any | None, dict[str, Any]]:
    """Return the patients who remain of a Patient ID, the row of who so described is, and the values that are new.

    No patients: the ID is not known, or what is said of it is what is known. Raises UsageError: people share it, and
    none of them is so described.
    """
    rows = identifiers.people_with(connection, *person.key)
    given = {name: value for name in _DESCRIBING if (value := getattr(person, name))}
    ids = {row.merged_into or row.id for row in rows}
    query = select(PatientRow.__table__).where(PatientRow.id.in_(ids), PatientRow.patient_id == person.patient_id)
    remaining = list(connection.execute(query))  # an ID that was merged into another one says nothing any more
    its = [*remaining, *(row for row in rows if row.merged_into in {one.id for one in remaining})]
    described = next((row for row in its if _is_described(row, given)), None)
    if described is None:
        identifiers.require_one_patient(rows)
    else:
        own = described.id, described.merged_into
        remaining = [one for one in remaining if one.id in own or identifiers.may_be_one([one], [described])]
    return ([] if not given or remaining == [described] else remaining), described, given


def require_room(connection: Connection, links: Sequence[PatientLink]) -> None:
    """Raise UsageError if a merge would hold for an ID that is not known and is no LO, or too many hold for such."""
    people = [one for link in links if link.is_merge for one in (link.one, link.other)]
    unknown = [one.key for one in people if not identifiers.people_with(connection, *one.key)]
    if not all(map(_is_long_string, chain(*unknown))):
        raise UsageError(f"an ID of more than {MAX_ISSUER_CHARACTERS} characters is merged once it is stored (LO)")
    if not unknown:
        return
    held = (
        select(PatientRow.id)
        .where(PatientRow.merged_into.is_not(None), ~identifiers.IS_NAMED)
        .offset(MAX_HELD - 1)
        .limit(1)
    )
    if connection.scalar(held) is not None:
        raise UsageError(f"{MAX_HELD} merges hold for IDs of which nothing is stored: take some back by ADT^A37")


def person_row(connection: Connection, patient: int) -> Any:
    row = connection.execute(select(PatientRow).where(PatientRow.id == patient)).first()
    if row is None:
        raise NoSuchPatient(f"there is no patient #{patient}")
    return row


def merging(connection: Connection, source: int, target: int) -> Moved:
    rows = [person_row(connection, wanted) for wanted in (source, target)]
    for row in rows:
        if row.merged_into is not None:
            raise NoSuchPatient(f"patient #{row.id} was merged into #{row.merged_into}: use that number")
    if source == target:
        raise NoSuchPatient(f"#{source} cannot be merged into itself")
    studies = connection.scalars(select(StudyRow.study_instance_uid).where(StudyRow.patient_id == source))
    return Moved(tuple(row.patient_id or "" for row in rows), tuple(sorted(studies)))


def corrected_values(row: Any, correction: Correction) -> dict[str, Any]:
    """Return the values of a row of `patients` after a correction."""
    names = (*asdict(correction), "patient_birth_time")
    values = {name: getattr(row, name) for name in names} | correction.values()
    if not values["patient_id"]:
        raise UsageError(f"patient #{row.id} has no Patient ID: give the right one")
    return values | {"identity": identifiers.identity_of(values, "")}


def correcting(
    connection: Connection, patient: int, correction: Correction, study: str | None
) -> tuple[Moved, int | None, dict[str, Any]]:
    """Return what a correction moves, the patient who it is, if there is one, and the values of a new one."""
    row = person_row(connection, patient)
    if row.merged_into is not None:
        raise NoSuchPatient(
            f"patient #{patient} is #{row.merged_into} by a merge or a correction: use that number, or undo it first"
        )
    values, given = corrected_values(row, correction), correction.values()
    if all(getattr(row, name) == value for name, value in given.items()):
        raise UsageError(f"patient #{patient} has these values already")
    studies = select(StudyRow.study_instance_uid, StudyRow.named_patient_id).where(StudyRow.patient_id == patient)
    if study is not None:
        studies = studies.where(StudyRow.study_instance_uid == study)
    moved = dict(connection.execute(studies.order_by(StudyRow.study_instance_uid)).all())
    if study is not None and not moved:
        raise UsageError(f"study {study} is not one of patient #{patient}")
    others: list[Any] = []
    own: list[Any] = []
    for one in connection.execute(select(PatientRow.__table__).where(PatientRow.identity == values["identity"])):
        is_own = patient in (one.id, one.merged_into) or (study is not None and one.id == moved[study])
        (own if is_own else others).append(one)
    if any(all(getattr(one, name) == values[name] for name in given) for one in own):
        raise UsageError("that is who the files name: `voxelnode patient separate` takes the earlier decision back")
    same = {one.merged_into or one.id for one in others if _is_described(one, given)}
    if len(same) > 1 or (others and not same and values["identity"] != row.identity):
        known = ", ".join(f"#{one.merged_into or one.id}" for one in others)
        raise UsageError(
            f"people are known by this Patient ID ({known}), and {len(same) or 'none'} of them are so described: give "
            "the name, the birth date and the sex that one of them has, or merge by number"
        )
    target = next(iter(same), None)
    ids = row.patient_id or "", values["patient_id"]
    return Moved(tuple(dict.fromkeys(ids)), tuple(moved)), target, values


def _is_described(row: Any, given: Mapping[str, Any]) -> bool:
    folded = identifiers.folded_name
    return all(
        getattr(row, name) == value or (name == "patient_name" and folded(row.patient_name) == folded(value))
        for name, value in given.items()
    )


def uncorrecting(connection: Connection, patient: int, study: str) -> tuple[Moved, int, int]:
    """Return what the end of a correction moves, whom the files of the study name, and to whom it was corrected."""
    query = select(StudyRow.__table__).where(StudyRow.study_instance_uid == study)
    row = connection.execute(query).first()
    if row is None or row.corrected_patient_id is None or patient not in (row.patient_id, row.named_patient_id):
        raise UsageError(f"study {study} is not one of patient #{patient} that was corrected by itself")
    ids = [person_row(connection, one).patient_id or "" for one in (row.named_patient_id, row.patient_id)]
    return Moved(tuple(ids), (study,)), row.named_patient_id, row.corrected_patient_id


def shown_as(connection: Connection, patient: int, issuer: str | None, study: str | None) -> tuple[int, str | None]:
    """Return of whom a decision is taken back, and of which study: `patient` may be who it is by that decision.

    Raises UsageError if several decisions have made the patient who it is.
    """
    if issuer is not None or study is not None or person_row(connection, patient).merged_into is not None:
        return patient, study
    into = select(PatientRow.id, PatientRow.patient_id).where(listed_in(CHOSEN, [patient])).order_by(PatientRow.id)
    corrected = StudyRow.corrected_patient_id == patient
    persons = connection.execute(into).all()
    studies = connection.scalars(select(StudyRow.study_instance_uid).where(corrected).order_by(StudyRow.id)).all()
    if len(persons) + len(studies) > 1:
        known = [f"#{row.id} ({row.patient_id or 'no ID'})" for row in persons] + [f"--study {uid}" for uid in studies]
        raise UsageError(f"several decisions have made patient #{patient}: choose one: {', '.join(known)}")
    return (persons[0].id if persons else patient), (studies[0] if studies else None)


def separating(connection: Connection, patient: int, issuer: str | None) -> tuple[Moved, set[int]]:
    """Return what a separation moves or names anew, and the persons who leave with this one."""
    row = person_row(connection, patient)
    if issuer is None and row.merged_into is None:
        raise UsageError(
            f"patient #{patient} is merged into nobody; studies whose files name different people are apart already"
        )
    if issuer is not None:
        _check_issuer(issuer, row.patient_id)
    if row.merged_into is None:
        studies = connection.scalars(select(StudyRow.study_instance_uid).where(StudyRow.patient_id == patient))
        return Moved((row.patient_id or "",), tuple(sorted(studies))), {patient}
    into = select(PatientRow.id, CHOSEN.label("chosen")).where(PatientRow.merged_into == row.merged_into)
    chosen = {one.id: one.chosen for one in connection.execute(into)}
    group = {patient}
    while more := {one for one, other in chosen.items() if other in group} - group:
        group |= more
    theirs = select(StudyRow.study_instance_uid).where(StudyRow.patient_id == row.merged_into, listed_in(MEANT, group))
    other = person_row(connection, row.merged_into).patient_id
    return Moved((row.patient_id or "", other or ""), tuple(sorted(connection.scalars(theirs)))), group


def _check_issuer(issuer: str, patient_id: str | None) -> None:
    if not patient_id:
        raise UsageError("a patient without a Patient ID has no issuer")
    if not _is_long_string(issuer):
        raise UsageError(
            f"an issuer has at most {MAX_ISSUER_CHARACTERS} printable characters and no backslash (LO, PS3.5 6.2)"
        )


def shared_conflicts(connection: Connection, patients: Collection[int], decision: str | None) -> list[tuple[int, bool]]:
    """Return the conflicts of a shared Patient ID in the studies of patients, and whether all who share it are one."""
    query = (
        select(ConflictRow.id, PatientRow.identity)
        .join(StudyRow, StudyRow.study_instance_uid == ConflictRow.study_instance_uid)
        .join(PatientRow, PatientRow.id == identifiers.NAMED)
        .where(
            ConflictRow.kind == SHARED,
            ConflictRow.decision.is_not_distinct_from(decision),
            StudyRow.patient_id.in_(patients),
        )
    )
    rows = connection.execute(query).all()
    resolved = {}
    for identity in {row.identity for row in rows}:
        groups = select(func.count(_GROUP.distinct())).where(PatientRow.identity == identity)
        resolved[identity] = connection.scalar(groups) == 1
    return [(row.id, resolved[row.identity]) for row in rows]
