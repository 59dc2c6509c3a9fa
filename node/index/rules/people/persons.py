"""Patients that somebody has declared to be one person, and the way back.

A merge moves studies to another row of `patients`; each of them remembers the person whom its own files name
(`StudyRow.named_patient_id`), and each row of a chain of merges the one that was chosen for it
(`PatientRow.merged_first_into`). So a merge that is undone leaves the rows as they were.

A correction of a patient is a merge into who he or she is, with a row that is made for it if there is none. That of a
study alone is `StudyRow.corrected_patient_id`. Either holds for what comes later with the wrong identity: in the study,
or of the patient. `StudyRow.identified_at` says that somebody has decided: what leaves of the study has the identity of
its patient then (`node.index.rows.files.Identities`).
"""

import datetime as dt
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from itertools import chain
from typing import Any

from sqlalchemy import Connection, Select, case, func, insert, literal_column, select, table, update

from node.errors import UsageError, counted
from node.index.rows.backend import Overtaken, backend_of
from node.index.rows.models.history import ConflictRow, EventKind
from node.index.rows.models.levels import ImageRow, PatientRow, SeriesRow, StudyRow
from node.index.rows.repositories import IndexRepository, Terms, on_reader, on_writer, reads
from node.index.rows.sql import listed_in
from node.index.rules.intake.levels import delete_empty_patient, note_decided
from node.index.rules.people import identifiers
from node.index.rules.people import person_plans as plans
from node.index.rules.people.person_plans import Correction, Moved, PatientLink, Person
from node.index.rules.work.events import record_event
from node.registry import ORDERED_PATIENTS, resolve

_SETTLED = (plans.SHARED, "no-patient-id", "study-of-two-patients")
"""Kinds of the conflicts that say nothing any more once somebody has decided whose a study is."""

LEFT, MERGED, SEPARATED, CORRECTED = "nothing to change", "merged", "separated", "corrected"
HELD = "merged: holds for what comes with the prior Patient ID"
"""What a `PatientLink` comes to, with the number of studies."""

_SHOWN: Select[Any] = select(literal_column("*")).select_from(table("v_patients"))

APART = {"merged_into": None, "merged_first_into": None, "is_corrected": False, "decided_by": None}
_UNDECIDED = {"decision": None, "decided_at": None, "decided_by": None}


_Done = tuple[str, Sequence[str]]
"""What was done of a `PatientLink`, and of which studies."""


class PersonRepository(IndexRepository):
    """The decisions about the patients of an index, and what they are made from."""

    planned_merge = reads(plans.merging)
    planned_correction = reads(plans.correcting)
    planned_update = reads(plans.updating)
    first_known = reads(plans.first_known)
    require_room = reads(plans.require_room)

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
        The stored instances do not change. Conflicts that this settles are decided, and steps of the worklist follow.

        `source`, `target`: `id` of `v_patients`. Raises NoSuchPatient if one of them does not exist or was merged into
        another patient, or both are the same.
        """
        # No other writer adds a study to one of them meanwhile, or merges them the other way round.
        _hold(connection, (source, target))
        if terms is not None:
            terms(connection)
        return _merge(connection, source, target, now, who, is_correction=False)

    @on_writer
    def correct(
        self,
        connection: Connection,
        patient: int,
        correction: Correction,
        now: dt.datetime,
        study: str | None = None,
        terms: Terms | None = None,
        who: str | None = None,
    ) -> Moved:
        """Say who a patient really is, or whose one of the patient's studies is; `separate` takes it back.

        If one person is known whom the correction describes, that is who it is. Files that come later in the study, or
        of the patient, with the wrong identity, are of this person too. The stored instances do not change; what leaves
        of them does.

        `patient`: `id` of `v_patients`, merged into nobody. `study`: its Study Instance UID; None: all of them.
        Raises UsageError if that says nothing new, if it describes several people, or one whom the index has otherwise.
        """
        _hold(connection, (patient,))
        backend_of(connection).hold(
            connection, [plans.corrected_values(plans.person_row(connection, patient), correction)["identity"]]
        )
        if terms is not None:
            terms(connection)
        moved, target, values = plans.correcting(connection, patient, correction, study)
        if target is None:
            values |= identifiers.name_groups(values["patient_name"])
            target = connection.execute(insert(PatientRow).values(values).returning(PatientRow.id)).scalar_one()
        if study is None:
            return _merge(connection, patient, target, now, who, is_correction=True)
        of_study = StudyRow.study_instance_uid == study
        here = {
            "named_patient_id": identifiers.NAMED,
            "corrected_patient_id": target,
            "patient_id": target,
            "decided_by": who,
        }
        connection.execute(update(StudyRow).where(of_study).values(here))
        note_decided(connection, moved.studies, now)
        _record(connection, "patient-corrected", moved.studies, f"the study is of patient #{target}", now)
        _settle(connection, moved.studies, _SETTLED, _decided(now, who))
        delete_empty_patient(connection, patient)
        return moved

    @on_reader
    def planned_separation(
        self, connection: Connection, patient: int, issuer: str | None = None, study: str | None = None
    ) -> Moved:
        """Return what `separate` would do, or raise as it would."""
        patient, study = plans.shown_as(connection, patient, issuer, study)
        if study is not None:
            return plans.uncorrecting(connection, patient, study)[0]
        return plans.separating(connection, patient, issuer)[0]

    @on_writer
    def separate(
        self,
        connection: Connection,
        patient: int,
        now: dt.datetime,
        issuer: str | None = None,
        terms: Terms | None = None,
        study: str | None = None,
    ) -> Moved:
        """Undo the merge or the correction of a patient, or the correction of one study of the patient, or give the
        Patient ID of this person another issuer.

        The studies whose files name this person, or somebody who was merged into this person before, become this
        patient's again. Conflicts that the merge had decided are open again.

        `patient`: `id` of `v_patients`, of that person, or of who it is by the one decision that made it so. `issuer`:
        the namespace of the Patient ID; empty: the one in the files. Raises UsageError if there is nothing to separate.
        """
        patient, study = plans.shown_as(connection, patient, issuer, study)
        if study is not None:
            return self._uncorrect(connection, patient, study, now, terms)
        return self._separate(connection, patient, now, issuer, terms)

    def _separate(
        self, connection: Connection, patient: int, now: dt.datetime, issuer: str | None, terms: Terms | None
    ) -> Moved:
        former = plans.person_row(connection, patient).merged_into
        _hold(connection, (patient, former))
        if plans.person_row(connection, patient).merged_into != former:
            raise Overtaken("somebody has merged or separated this patient meanwhile")
        if terms is not None:
            terms(connection)
        moved, group = plans.separating(connection, patient, issuer)
        if former is not None:
            is_named = listed_in(plans.MEANT, group)
            is_corrected = StudyRow.corrected_patient_id.is_not(None)
            named = case((is_corrected, StudyRow.named_patient_id), else_=func.nullif(identifiers.NAMED, patient))
            back = {"patient_id": patient, "named_patient_id": named}
            connection.execute(update(StudyRow).where(StudyRow.patient_id == former, is_named).values(back))
            first = func.nullif(plans.CHOSEN, patient)
            below = listed_in(PatientRow.id, group - {patient})
            connection.execute(update(PatientRow).where(below).values(merged_into=patient, merged_first_into=first))
            connection.execute(update(PatientRow).where(PatientRow.id == patient).values(APART))
        if issuer is not None:
            given = issuer or plans.person_row(connection, patient).identity.partition("\\")[0] or None
            connection.execute(update(PatientRow).where(PatientRow.id == patient).values(issuer_of_patient_id=given))
        note_decided(connection, moved.studies, now)
        detail = f"patient #{patient} is apart" + ("" if former is None else f" from #{former}")
        _record(connection, "patient-separated", moved.studies, detail, now)
        if former is not None:
            found = plans.shared_conflicts(connection, (patient, former), "merged")
            open_again = [number for number, is_resolved in found if not is_resolved]
            connection.execute(update(ConflictRow).where(listed_in(ConflictRow.id, open_again)).values(_UNDECIDED))
            _settle(connection, moved.studies, _SETTLED[1:])
            delete_empty_patient(connection, patient)
            delete_empty_patient(connection, former)
        resolve(ORDERED_PATIENTS)(connection, moved.patient_ids, now)
        return moved

    def _uncorrect(
        self, connection: Connection, patient: int, study: str, now: dt.datetime, terms: Terms | None
    ) -> Moved:
        _hold(connection, (patient,))
        if terms is not None:
            terms(connection)
        moved, named, corrected = plans.uncorrecting(connection, patient, study)
        person = plans.person_row(connection, named)
        back = person.merged_into or named
        values = {"patient_id": back, "named_patient_id": named if back != named else None}
        of_study = update(StudyRow).where(StudyRow.study_instance_uid == study)
        connection.execute(of_study.values(values | {"corrected_patient_id": None, "decided_by": None}))
        note_decided(connection, moved.studies, now)
        _record(connection, "patient-separated", moved.studies, f"the study is of patient #{back} again", now)
        _settle(connection, moved.studies, _SETTLED)
        for former in dict.fromkeys((patient, corrected)):
            delete_empty_patient(connection, former)
        return moved

    @on_writer
    def reopen(self, connection: Connection, conflict: int) -> tuple[str, ...]:
        """Let the conflicts of a shared Patient ID that were decided with this one be open again; return their studies.

        Raises UsageError if the persons of the conflict were not kept apart.
        """
        row = connection.execute(select(ConflictRow).where(ConflictRow.id == conflict)).first()
        if row is None or row.kind != plans.SHARED or row.decision != "kept":
            raise UsageError(f"conflict {conflict} is not one of two persons who are kept apart")
        of_study = ConflictRow.study_instance_uid == row.study_instance_uid
        alike = ConflictRow.kind == plans.SHARED, of_study, ConflictRow.decision == "kept"
        done = update(ConflictRow).where(*alike).values(_UNDECIDED).returning(ConflictRow.study_instance_uid)
        return tuple({str(uid) for uid in connection.execute(done).scalars()})

    @on_writer
    def link(
        self,
        connection: Connection,
        links: Sequence[PatientLink],
        now: dt.datetime,
        who: str | None = None,
        ordered: Callable[[], object] = lambda: None,
    ) -> Moved:
        """Merge patients or take them apart by their IDs, all of them or none; return what was done of each.

        Who is not known yet has a row from now on: what comes later with that Patient ID is of it (`identifiers`). A
        merge the other way round takes the earlier one back first; a repetition changes nothing. `ordered` is called
        before a commit. Raises UsageError if people share an ID, or it was merged into somebody else, or is the same.
        """
        people = [person for link in links for person in (link.one, link.other)]
        identities = {f"{issuer}\\{one.patient_id}" for one in people for issuer in ("", one.issuer_of_patient_id)}
        backend_of(connection).hold(connection, identities)
        done, studies = list[str](), list[str]()
        for link in links:
            step = self._join if link.is_merge else self._update if link.is_correction else self._part
            outcome, moved = step(connection, link, now, who)
            done.append(f"{outcome}: {counted(len(set(moved)), 'study', 'studies')}" if moved else outcome)
            studies += moved
        if set(done) != {LEFT}:
            ordered()
        return Moved(tuple(one.patient_id for one in people), tuple(dict.fromkeys(studies)), tuple(done))

    def _join(self, connection: Connection, link: PatientLink, now: dt.datetime, who: str | None) -> _Done:
        """Merge all persons of the prior Patient ID."""
        prior, remaining = link.one, link.other
        if prior.key == remaining.key:
            raise UsageError("MRG-1 and PID-3 name the same patient")
        sources, target = identifiers.people_with(connection, *prior.key), plans.described_person(connection, remaining)
        identifiers.require_one_patient(sources)
        known = [row for row in sources if target is None or row.id != target.id]
        if link.is_correction and target is not None and identifiers.are_strangers(known, [target]):
            raise UsageError("PID-3 is of another person: merge by ADT^A40, or correct by hand")
        if not sources:
            known = [_added(connection, prior, {})]
        target = target or _added(connection, remaining, known[0]._mapping if link.is_correction else {})
        into = target.merged_into or target.id
        own, ids = {row.id for row in known}, sorted({row.merged_into or row.id for row in known} - {into})
        if into in own and target.id != into:
            taken_back = self._separate(connection, target.id, now, None, None).studies
            return MERGED, (*taken_back, *self._join(connection, link, now, who)[1])
        if not own.issuperset(ids):
            raise UsageError("the patient of MRG-1 was merged into another one: ADT^A37 takes that back")
        moved = [_merge(connection, one, into, now, who, is_correction=link.is_correction).studies for one in ids]
        if into != target.id:
            chosen = {"merged_first_into": target.id}
            connection.execute(update(PatientRow).where(PatientRow.id.in_(ids)).values(chosen))
        done = CORRECTED if link.is_correction else MERGED
        return (LEFT if not ids else done if sources else HELD), tuple(chain(*moved))

    def _update(self, connection: Connection, link: PatientLink, now: dt.datetime, who: str | None) -> _Done:
        """Let all persons of a Patient ID be the one who is so described.

        A former row that no file names goes, so that many messages are one correction, which is undone as one.
        """
        remaining, described, _ = plans.updating(connection, link.other)
        if not remaining:
            return LEFT, ()
        if described is not None and described.merged_into is not None:  # so the files are right
            back = self._separate(connection, described.id, now, None, None).studies
            return CORRECTED, (*back, *self._update(connection, link, now, who)[1])
        person = described or _added(connection, link.other, remaining[0]._mapping)
        ids = [one.id for one in remaining if one.id != person.id]
        moved = [_merge(connection, one, person.id, now, who, is_correction=True).studies for one in ids]
        gone = connection.scalars(select(PatientRow.id).where(PatientRow.id.in_(ids), ~identifiers.IS_NAMED)).all()
        connection.execute(
            update(PatientRow).where(PatientRow.merged_first_into.in_(gone)).values(merged_first_into=None)
        )
        connection.execute(update(PatientRow).where(PatientRow.id.in_(gone)).values(APART))
        for former in gone:
            delete_empty_patient(connection, former)
        return CORRECTED, tuple(chain(*moved))

    def _part(self, connection: Connection, link: PatientLink, now: dt.datetime, who: str | None) -> _Done:
        """Take apart whom a decision about two Patient IDs has joined; what was decided of one of them alone stays."""
        both = [identifiers.people_with(connection, *one.key) for one in (link.one, link.other)]
        ids = [{row.id for row in rows} for rows in both]
        linked = {
            row.id
            for rows, own, others in zip(both, ids, reversed(ids), strict=True)
            for row in rows
            if row.merged_first_into not in own and others & {row.merged_into, row.merged_first_into}
        }
        studies = [self._separate(connection, row, now, None, None).studies for row in sorted(linked)]
        return SEPARATED if linked else LEFT, tuple(chain(*studies))

    @on_reader
    def has_given_issuer(self, connection: Connection, patient: int) -> bool:
        """Return whether a person has given the Patient ID of a patient another issuer than the files have."""
        query = select(PatientRow.id).where(PatientRow.id == patient, identifiers.HAS_GIVEN_ISSUER)
        return connection.execute(query).first() is not None

    @on_reader
    def merged(self, connection: Connection, limit: int, skip: int = 0) -> list[dict[str, Any]]:
        """Return the persons who are merged into another patient, newest first, with `into` and their `studies`."""
        into = select(PatientRow).subquery()
        studies = (
            select(func.count())
            .where(StudyRow.patient_id == PatientRow.merged_into, StudyRow.named_patient_id == PatientRow.id)
            .scalar_subquery()
        )
        labels = {"id": "into", "patient_name": "into_name", "patient_id": "into_patient_id"}
        named = [into.c[name].label(label) for name, label in labels.items()]
        joined = select(PatientRow.__table__, *named, studies.label("studies")).join(into, into.c.id == plans.CHOSEN)
        query = joined.order_by(PatientRow.id.desc()).limit(limit).offset(skip)
        return [dict(row) for row in connection.execute(query).mappings()]

    @on_reader
    def of_conflict(self, connection: Connection, conflict: int) -> list[int]:
        """Return the `id` of the persons who share the Patient ID of a conflict, the one of its study first."""
        named = (
            select(PatientRow.id, PatientRow.identity)
            .join(StudyRow, PatientRow.id == identifiers.NAMED)
            .join(ConflictRow, ConflictRow.study_instance_uid == StudyRow.study_instance_uid)
            .where(ConflictRow.id == conflict, ConflictRow.kind == plans.SHARED)
        )
        person = connection.execute(named).first()
        if person is None:
            return []
        others = select(PatientRow.id).where(PatientRow.identity == person.identity, PatientRow.id != person.id)
        return [person.id, *connection.scalars(others.order_by(PatientRow.id))]

    @on_reader
    def shown(self, connection: Connection, patient: int, limit: int) -> dict[str, Any] | None:
        """Return a person with `studies` (at most `limit`, newest first) and `count`; None if there is none.

        The studies are those whose files name this person or, of one who is merged into nobody, those of the patient.
        Each has its `senders`: AE title or source, address, number of instances.
        """
        row = connection.execute(_SHOWN.where(literal_column("id") == patient)).mappings().first()
        if row is None:
            return None
        columns = (
            StudyRow.id, StudyRow.study_instance_uid, StudyRow.study_date, StudyRow.study_description,
            StudyRow.accession_number, StudyRow.corrected_patient_id,
        )  # fmt: skip
        is_theirs = StudyRow.patient_id == (row["merged_into"] or patient)
        if row["merged_into"] is not None:
            is_theirs &= listed_in(identifiers.NAMED, [patient])
        listed = select(*columns).where(is_theirs).order_by(StudyRow.id.desc()).limit(limit)
        studies = connection.execute(listed).mappings().all()
        senders = _senders(connection, [study["id"] for study in studies])
        count = connection.execute(select(func.count()).select_from(StudyRow).where(is_theirs)).scalar_one()
        return {**row, "studies": [{**one, "senders": senders.get(one["id"], [])} for one in studies], "count": count}


def _added(connection: Connection, person: Person, known: Mapping[str, Any]) -> Any:
    """Insert the row of a patient of whom no file is here, and return it; `known`: what `person` leaves out."""
    values = {name: value or known.get(name) for name, value in asdict(person).items()}
    values |= {"identity": identifiers.identity_of(values, ""), "patient_birth_time": known.get("patient_birth_time")}
    return connection.execute(insert(PatientRow).values(values).returning(PatientRow.__table__)).one()


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


def _hold(connection: Connection, patients: Collection[int | None]) -> None:
    identities = select(PatientRow.identity).where(PatientRow.id.in_([one for one in patients if one is not None]))
    backend_of(connection).hold(connection, list(connection.scalars(identities)))


def _merge(
    connection: Connection, source: int, target: int, now: dt.datetime, who: str | None, *, is_correction: bool
) -> Moved:
    moved = plans.merging(connection, source, target)
    of_source = PatientRow.merged_into == source
    connection.execute(update(PatientRow).where(of_source).values(merged_first_into=plans.CHOSEN, merged_into=target))
    merged = {"merged_into": target, "is_corrected": is_correction, "decided_by": who}
    connection.execute(update(PatientRow).where(PatientRow.id == source).values(merged))
    named = {"named_patient_id": identifiers.NAMED, "patient_id": target}
    connection.execute(update(StudyRow).where(StudyRow.patient_id == source).values(named))
    note_decided(connection, moved.studies, now)
    kind: EventKind = "patient-corrected" if is_correction else "patient-merged"
    _record(connection, kind, moved.studies, f"patient #{source} is now #{target}", now)
    resolved = [number for number, is_resolved in plans.shared_conflicts(connection, (target,), None) if is_resolved]
    connection.execute(update(ConflictRow).where(listed_in(ConflictRow.id, resolved)).values(_decided(now, who)))
    _settle(connection, moved.studies, _SETTLED[1:], _decided(now, who))
    resolve(ORDERED_PATIENTS)(connection, moved.patient_ids, now)
    return moved


def _decided(now: dt.datetime, who: str | None) -> dict[str, Any]:
    return {"decision": "merged", "decided_at": now, "decided_by": who}


def _settle(
    connection: Connection, studies: Collection[str], kinds: Sequence[str], values: Mapping[str, Any] = _UNDECIDED
) -> None:
    """Decide the open conflicts of some kinds in studies, or open those that a merge has decided."""
    before = None if values["decision"] else "merged"
    which = ConflictRow.kind.in_(kinds), ConflictRow.decision.is_not_distinct_from(before)
    of_studies = listed_in(ConflictRow.study_instance_uid, studies)
    connection.execute(update(ConflictRow).where(*which, of_studies).values(values))


def _record(connection: Connection, kind: EventKind, studies: Sequence[str], detail: str, now: dt.datetime) -> None:
    for uid in studies:
        record_event(connection, kind, now, study_instance_uid=uid, detail=detail)
