"""Patients that somebody has declared to be one person, and the way back.

A merge moves studies to another row of `patients`; each of them remembers the person whom its own files name
(`StudyRow.named_patient_id`), and each row of a chain of merges the one that was chosen for it
(`PatientRow.merged_first_into`). So a merge that is undone leaves the rows as they were.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, func, insert, literal_column, select, table, update

from node.errors import UsageError
from node.index.engine.backend import Overtaken, backend_of
from node.index.engine.sql import listed_in
from node.index.engine.writer import IndexRepository, on_reader, on_writer
from node.index.models.history import ConflictRow
from node.index.models.levels import ImageRow, PatientRow, SeriesRow, StudyRow
from node.index.nouns.events import EventKind, record_event
from node.index.nouns.levels import delete_empty_patient
from node.index.nouns.patients import NoSuchPatient
from node.index.nouns.terms import Terms

SHARED = "shared-patient-id"
"""Kind of the conflicts that a merge decides."""

MAX_ISSUER_CHARACTERS = 64

_NAMED = func.coalesce(StudyRow.named_patient_id, StudyRow.patient_id)
"""The person whom the files of a study name."""

_GROUP = func.coalesce(PatientRow.merged_into, PatientRow.id)
"""The patient who a person is."""

_CHOSEN = func.coalesce(PatientRow.merged_first_into, PatientRow.merged_into)

_UNDECIDED = {"decision": None, "decided_at": None, "decided_by": None}


@dataclass(frozen=True, slots=True)
class Moved:
    """A merge or a separation, done or planned: the Patient IDs of both, and the UIDs of the studies that move."""

    patient_ids: tuple[str, ...]
    studies: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Person:
    """A patient as HL7 names one; empty: unknown."""

    patient_id: str
    issuer: str
    patient_name: str
    patient_birth_date: dt.date | None
    patient_sex: str


class PersonRepository(IndexRepository):
    """The decisions about the patients of an index, and what they are made from."""

    @on_reader
    def planned_merge(self, connection: Connection, source: int, target: int) -> Moved:
        """Return what `merge` would do, or raise as it would."""
        return _merging(connection, source, target)

    @on_writer
    def merge(
        self,
        connection: Connection,
        source: int,
        target: int,
        now: dt.datetime,
        terms: Terms | None = None,
        who: str | None = None,
    ) -> Moved:
        """Move the studies of patient `source` to patient `target`, including studies that are received later.

        The row of `source` stays and refers to `target`, so that a new study with its Patient ID is added to `target`.
        The instances themselves do not change. Conflicts that this settles are decided.

        `source`, `target`: `id` of `v_patients`. Raises NoSuchPatient if one of them does not exist or was merged into
        another patient, or both are the same.
        """
        # No other writer adds a study to one of them meanwhile, or merges them the other way round.
        _hold(connection, (source, target))
        if terms is not None:
            terms(connection)
        moved = _merging(connection, source, target)
        of_source = PatientRow.merged_into == source
        connection.execute(update(PatientRow).where(of_source).values(merged_first_into=_CHOSEN, merged_into=target))
        connection.execute(update(PatientRow).where(PatientRow.id == source).values(merged_into=target))
        named = {"named_patient_id": _NAMED, "patient_id": target}
        connection.execute(update(StudyRow).where(StudyRow.patient_id == source).values(named))
        _record(connection, "patient-merged", moved.studies, f"patient #{source} is now #{target}", now)
        resolved = [number for number, is_resolved in _conflicts(connection, (target,), None) if is_resolved]
        decision = {"decision": "merged", "decided_at": now, "decided_by": who}
        connection.execute(update(ConflictRow).where(listed_in(ConflictRow.id, resolved)).values(decision))
        return moved

    @on_reader
    def planned_separation(self, connection: Connection, patient: int, issuer: str | None = None) -> Moved:
        """Return what `separate` would do, or raise as it would."""
        return _separating(connection, patient, issuer)[0]

    @on_writer
    def separate(
        self,
        connection: Connection,
        patient: int,
        now: dt.datetime,
        issuer: str | None = None,
        terms: Terms | None = None,
    ) -> Moved:
        """Undo the merge of a patient, or give the Patient ID of this person another issuer, or both.

        The studies whose files name this person, or somebody who was merged into this person before, become this
        patient's again. Conflicts that the merge had decided are open again.

        `patient`: `id` of `v_patients`. `issuer`: the namespace of the Patient ID; empty: the one in the files. Raises
        UsageError if there is nothing to separate.
        """
        former = _row(connection, patient).merged_into
        _hold(connection, (patient, former))
        if _row(connection, patient).merged_into != former:
            raise Overtaken("somebody has merged or separated this patient meanwhile")
        if terms is not None:
            terms(connection)
        moved, group = _separating(connection, patient, issuer)
        if former is not None:
            is_named = listed_in(_NAMED, group)
            back = {"patient_id": patient, "named_patient_id": func.nullif(_NAMED, patient)}
            connection.execute(update(StudyRow).where(StudyRow.patient_id == former, is_named).values(back))
            first = func.nullif(_CHOSEN, patient)
            below = listed_in(PatientRow.id, group - {patient})
            connection.execute(update(PatientRow).where(below).values(merged_into=patient, merged_first_into=first))
            alone = {"merged_into": None, "merged_first_into": None}
            connection.execute(update(PatientRow).where(PatientRow.id == patient).values(alone))
        if issuer is not None:
            given = issuer or _row(connection, patient).identity.partition("\\")[0] or None
            connection.execute(update(PatientRow).where(PatientRow.id == patient).values(issuer_of_patient_id=given))
        detail = f"patient #{patient} is apart" + ("" if former is None else f" from #{former}")
        _record(connection, "patient-separated", moved.studies, detail, now)
        if former is not None:
            found = _conflicts(connection, (patient, former), "merged")
            open_again = [number for number, is_resolved in found if not is_resolved]
            connection.execute(update(ConflictRow).where(listed_in(ConflictRow.id, open_again)).values(_UNDECIDED))
            delete_empty_patient(connection, patient)
            delete_empty_patient(connection, former)
        return moved

    @on_writer
    def reopen(self, connection: Connection, conflict: int) -> tuple[str, ...]:
        """Let the conflicts of a shared Patient ID that were decided with this one be open again; return their studies.

        Raises UsageError if the persons of the conflict were not kept apart.
        """
        row = connection.execute(select(ConflictRow).where(ConflictRow.id == conflict)).first()
        if row is None or row.kind != SHARED or row.decision != "kept":
            raise UsageError(f"conflict {conflict} is not one of two persons who are kept apart")
        alike = (
            ConflictRow.kind == SHARED,
            ConflictRow.study_instance_uid == row.study_instance_uid,
            ConflictRow.decision == "kept",
        )
        done = update(ConflictRow).where(*alike).values(_UNDECIDED).returning(ConflictRow.study_instance_uid)
        return tuple({str(uid) for uid in connection.execute(done).scalars()})

    @on_reader
    def with_id(self, connection: Connection, patient_id: str, issuer: str) -> list[int]:
        """Return the `id` of all persons with a Patient ID, those of another issuer excepted."""
        query = select(PatientRow.id, PatientRow.issuer_of_patient_id).where(PatientRow.patient_id == patient_id)
        rows = connection.execute(query.order_by(PatientRow.id)).all()
        exact = [row.id for row in rows if (row.issuer_of_patient_id or "") == issuer]
        return exact or [row.id for row in rows if not issuer or not row.issuer_of_patient_id]

    @on_writer
    def add(self, connection: Connection, person: Person) -> int:
        """Add a patient without studies, into whom another one is about to be merged; return the `id`."""
        identity = f"{person.issuer}\\{person.patient_id}"
        backend_of(connection).hold(connection, [identity])
        values = {
            "identity": identity,
            "patient_id": person.patient_id,
            "issuer_of_patient_id": person.issuer or None,
            "patient_name": person.patient_name or None,
            "patient_birth_date": person.patient_birth_date,
            "patient_sex": person.patient_sex or None,
        }
        return int(connection.execute(insert(PatientRow).values(values).returning(PatientRow.id)).scalar_one())

    @on_reader
    def has_given_issuer(self, connection: Connection, patient: int) -> bool:
        """Return whether a person has given the Patient ID of a patient another issuer than the files have."""
        row = _row(connection, patient)
        return bool(row.patient_id) and (row.issuer_of_patient_id or "") != row.identity.partition("\\")[0]

    @on_reader
    def merged(self, connection: Connection, limit: int, skip: int = 0) -> list[dict[str, Any]]:
        """Return the persons who are merged into another patient, newest first, with `into` and their `studies`."""
        into = select(PatientRow).subquery()
        studies = (
            select(func.count())
            .where(StudyRow.patient_id == PatientRow.merged_into, StudyRow.named_patient_id == PatientRow.id)
            .scalar_subquery()
        )
        columns = (
            PatientRow.id, PatientRow.patient_id, PatientRow.patient_name, PatientRow.patient_birth_date,
            PatientRow.patient_sex, PatientRow.issuer_of_patient_id, into.c.id.label("into"),
            into.c.patient_name.label("into_name"), into.c.patient_id.label("into_patient_id"),
            studies.label("studies"),
        )  # fmt: skip
        joined = select(*columns).join(into, into.c.id == _CHOSEN).order_by(PatientRow.id.desc())
        query = joined.limit(limit).offset(skip)
        return [dict(row) for row in connection.execute(query).mappings()]

    @on_reader
    def of_conflict(self, connection: Connection, conflict: int) -> list[int]:
        """Return the `id` of the persons who share the Patient ID of a conflict, the one of its study first."""
        named = (
            select(PatientRow.id, PatientRow.identity)
            .join(StudyRow, PatientRow.id == _NAMED)
            .join(ConflictRow, ConflictRow.study_instance_uid == StudyRow.study_instance_uid)
            .where(ConflictRow.id == conflict, ConflictRow.kind == SHARED)
        )
        person = connection.execute(named).first()
        if person is None:
            return []
        others = select(PatientRow.id).where(PatientRow.identity == person.identity, PatientRow.id != person.id)
        return [person.id, *connection.scalars(others.order_by(PatientRow.id))]

    @on_reader
    def merged_into(self, connection: Connection, patient: int) -> int | None:
        """Return the `id` of the patient into whom a person was merged."""
        query = select(PatientRow.merged_into).where(PatientRow.id == patient)
        return connection.execute(query).scalar_one_or_none()

    @on_reader
    def shown(self, connection: Connection, patient: int, limit: int) -> dict[str, Any] | None:
        """Return a person with `studies` (at most `limit`, newest first) and `count`; None if there is none.

        The studies are those whose files name this person or, of one who is merged into nobody, those of the patient.
        Each has its `senders`: AE title or source, address, number of instances.
        """
        view: Select[Any] = select(literal_column("*")).select_from(table("v_patients"))
        query = view.where(literal_column("id") == patient)
        row = connection.execute(query).mappings().first()
        if row is None:
            return None
        columns = (
            StudyRow.id, StudyRow.study_instance_uid, StudyRow.study_date, StudyRow.study_description,
            StudyRow.accession_number,
        )  # fmt: skip
        is_theirs = StudyRow.patient_id == (row["merged_into"] or patient)
        if row["merged_into"] is not None:
            is_theirs &= listed_in(_NAMED, [patient])
        listed = select(*columns).where(is_theirs).order_by(StudyRow.id.desc()).limit(limit)
        studies = [dict(study) for study in connection.execute(listed).mappings()]
        senders = _senders(connection, [study["id"] for study in studies])
        for study in studies:
            study["senders"] = senders.get(study["id"], [])
        count = connection.execute(select(func.count()).select_from(StudyRow).where(is_theirs)).scalar_one()
        return {**row, "studies": studies, "count": count}


def _senders(connection: Connection, studies: Collection[int]) -> dict[int, list[dict[str, Any]]]:
    names = (ImageRow.calling_ae_title, ImageRow.peer, ImageRow.source)
    counted = (
        select(SeriesRow.study_id, *names, func.count().label("instances"))
        .join(ImageRow, ImageRow.series_id == SeriesRow.id)
        .where(listed_in(SeriesRow.study_id, studies))
        .group_by(SeriesRow.study_id, *names)
        .order_by(SeriesRow.study_id, func.count().desc(), *names)
    )
    found: dict[int, list[dict[str, Any]]] = {}
    for row in connection.execute(counted).mappings():
        found.setdefault(row["study_id"], []).append(dict(row))
    return found


def _row(connection: Connection, patient: int) -> Any:
    row = connection.execute(select(PatientRow).where(PatientRow.id == patient)).first()
    if row is None:
        raise NoSuchPatient(f"there is no patient #{patient}")
    return row


def _hold(connection: Connection, patients: Collection[int | None]) -> None:
    identities = select(PatientRow.identity).where(PatientRow.id.in_([one for one in patients if one is not None]))
    backend_of(connection).hold(connection, list(connection.scalars(identities)))


def _merging(connection: Connection, source: int, target: int) -> Moved:
    rows = [_row(connection, wanted) for wanted in (source, target)]
    for row in rows:
        if row.merged_into is not None:
            raise NoSuchPatient(f"patient #{row.id} was merged into #{row.merged_into}: use that number")
    if source == target:
        raise NoSuchPatient(f"#{source} cannot be merged into itself")
    studies = connection.scalars(select(StudyRow.study_instance_uid).where(StudyRow.patient_id == source))
    return Moved(tuple(row.patient_id or "" for row in rows), tuple(sorted(studies)))


def _separating(connection: Connection, patient: int, issuer: str | None) -> tuple[Moved, set[int]]:
    """Return what a separation moves or names anew, and the persons who leave with this one."""
    row = _row(connection, patient)
    if issuer is None and row.merged_into is None:
        raise UsageError(
            f"patient #{patient} is merged into nobody; studies whose files name different people are apart already"
        )
    if issuer is not None:
        _check_issuer(issuer, row.patient_id)
    if row.merged_into is None:
        studies = connection.scalars(select(StudyRow.study_instance_uid).where(StudyRow.patient_id == patient))
        return Moved((row.patient_id or "",), tuple(sorted(studies))), {patient}
    into = select(PatientRow.id, _CHOSEN.label("chosen")).where(PatientRow.merged_into == row.merged_into)
    chosen = {one.id: one.chosen for one in connection.execute(into)}
    group = {patient}
    while more := {one for one, other in chosen.items() if other in group} - group:
        group |= more
    theirs = select(StudyRow.study_instance_uid).where(StudyRow.patient_id == row.merged_into, listed_in(_NAMED, group))
    other = _row(connection, row.merged_into).patient_id
    return Moved((row.patient_id or "", other or ""), tuple(sorted(connection.scalars(theirs)))), group


def _check_issuer(issuer: str, patient_id: str | None) -> None:
    if not patient_id:
        raise UsageError("a patient without a Patient ID has no issuer")
    if len(issuer) > MAX_ISSUER_CHARACTERS or not issuer.isprintable() or "\\" in issuer:
        raise UsageError(
            f"an issuer has at most {MAX_ISSUER_CHARACTERS} printable characters and no backslash (LO, PS3.5 6.2)"
        )


def _record(connection: Connection, kind: EventKind, studies: Sequence[str], detail: str, now: dt.datetime) -> None:
    for uid in studies:
        record_event(connection, kind, now, study_instance_uid=uid, detail=detail)


def _conflicts(connection: Connection, patients: Collection[int], decision: str | None) -> list[tuple[int, bool]]:
    """Return the conflicts of a shared Patient ID in the studies of patients, and whether all who share it are one."""
    query = (
        select(ConflictRow.id, PatientRow.identity)
        .join(StudyRow, StudyRow.study_instance_uid == ConflictRow.study_instance_uid)
        .join(PatientRow, PatientRow.id == _NAMED)
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
