"""Patients that an HL7 v2 message merges (ADT^A40), takes apart (ADT^A37) or updates (ADT^A08).

HL7 v2.5.1 3.3.8, 3.3.37 and 3.3.40. An update changes the entries of the worklist; a stored study has the name, the
birth date and the sex of its files.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from node.association.added import OpenedRoot as Root
from node.audit.audit_log import AuditAction, AuditEvent, AuditMessage
from node.dicom.attributes import MAX_TEXT_BYTES, date_of, is_short
from node.dicom.json_model import Json
from node.errors import UsageError
from node.extensions.worklist.entries import step_of
from node.extensions.worklist.hl7 import Hl7Message, MessageRefused, name_of, sex_of, type_of
from node.extensions.worklist.scheduled_rows import ScheduledStep, ScheduledStepRepository
from node.index.nouns.person_plans import PatientLink, Person
from node.index.nouns.persons import PersonRepository

MERGE, UNLINK, UPDATE = "ADT^A40", "ADT^A37", "ADT^A08"


@dataclass(frozen=True, slots=True)
class PatientUpdate:
    """A patient, and the fields of worklist entries (`entries.FIELDS`) that have new values."""

    patient_id: str
    issuer: str
    fields: Mapping[str, str]

    def make(self, steps: ScheduledStepRepository, now: dt.datetime) -> int:
        """Change the entries of the patient that are not over; return how many. A repetition changes nothing else.

        Raises MessageRefused, with nothing changed, if the patients of several issuers may be meant, or a value breaks
        a rule.
        """

        def changed(attributes: Json) -> ScheduledStep:
            return step_of(self.fields, attributes)

        try:
            return steps.update_patient(self.patient_id, self.issuer, changed, now)
        except UsageError as error:
            raise MessageRefused("AE", str(error)) from error


def update_of(message: Hl7Message) -> PatientUpdate | None:
    """Return the update that a message is; None if it is of another type. Raises MessageRefused.

    A field that is empty or the null of HL7 changes nothing.
    """
    if type_of(message) != UPDATE:
        return None
    patient = message.only("PID")
    values = {
        "patient_name": name_of(message, patient, 5, first=1),
        "patient_birth_date": message.value(patient, 7)[:8],
        "patient_sex": sex_of(message, patient),
    }
    update = PatientUpdate(
        message.value(patient, 3), message.value(patient, 3, 4), {name: text for name, text in values.items() if text}
    )
    _require_id(Person(update.patient_id, update.issuer, "", None, ""), "PID-3")
    return update


def _require_id(person: Person, fields: str) -> None:
    texts = person.patient_id, person.issuer, person.patient_name, person.patient_sex
    if not person.patient_id or not all(map(is_short, texts)):
        raise MessageRefused("AE", f"{fields} must have a Patient ID, and no text of more than {MAX_TEXT_BYTES} bytes")


def changes_of(message: Hl7Message) -> list[PatientLink] | None:
    """Return what a message about patients asks for; None if it is of another type. Raises MessageRefused."""
    kind = type_of(message)
    if kind not in (MERGE, UNLINK):
        return None
    found: list[PatientLink] = []
    last: list[_Named] = []
    for segment in message.segments:
        if segment[0] == "PID":
            people = [_person(message, one, 3) for one in message.repeated(segment, 3)]
            if kind == UNLINK and last:
                found.append(PatientLink(False, last[0].person, people[0].person))
            last = people
        elif segment[0] == "MRG" and kind == MERGE and last:
            found += _merges([_person(message, one, 1) for one in message.repeated(segment, 1)], last)
    if not found:
        raise MessageRefused("AE", "ADT^A40 needs PID and MRG segments, ADT^A37 two PID segments")
    for one in (person for change in found for person in (change.one, change.other)):
        _require_id(one, "PID and MRG-1")
    return found


@dataclass(frozen=True, slots=True)
class _Named:
    """A patient by one of the identifiers that a message has of him or her, and the type of that (CX-5)."""

    person: Person
    kind: str


def _person(message: Hl7Message, segment: tuple[str, ...], field: int) -> _Named:
    number, issuer, kind = (message.value(segment, field, part) for part in (1, 4, 5))
    if segment[0] == "MRG":
        return _Named(Person(number, issuer, "", None, ""), kind)
    name, birth_date = name_of(message, segment, 5, first=1), date_of(message.value(segment, 7)[:8])
    return _Named(Person(number, issuer, name, birth_date, sex_of(message, segment)), kind)


def _merges(priors: Sequence[_Named], remaining: Sequence[_Named]) -> Iterator[PatientLink]:
    """Yield the merge of each prior identifier into that of its authority and type, else of its authority, else the
    first (HL7 v2.5.1 3.3.40). One of several that stays as it is merges nothing."""
    for prior in priors:

        def unlike(one: _Named, prior: _Named = prior) -> tuple[bool, bool]:
            is_other = one.person.issuer != prior.person.issuer
            return is_other, not is_other and one.kind != prior.kind

        other = min(remaining, key=unlike).person
        if len(priors) == 1 or (prior.person.patient_id, prior.person.issuer) != (other.patient_id, other.issuer):
            yield PatientLink(True, prior.person, other)


class PatientChanges:
    """Carries out what messages ask for, with lines in the audit log before and after."""

    def __init__(self, root: Root) -> None:
        self._index, self._audit = root.ingest.index, root.audit

    def make(self, links: Sequence[PatientLink], who: str) -> tuple[str, ...]:
        """Merge or separate patients, all of them or none, and return what was done of each.

        Raises UsageError, with nothing changed: see `PersonRepository.link`.
        """
        index = self._index
        index.ahead.require_caught_up()
        order = f"link {len(links)} pairs of patients"
        by = partial(AuditMessage.by, who, AuditEvent.PATIENT_RECORD, AuditAction.UPDATE, order)
        objects = [{"patient_id": person.patient_id} for link in links for person in (link.one, link.other)]
        return self._audit.change(
            by(objects),
            lambda: index.repository(PersonRepository).link(links, index.now(), who),
            lambda done: by([*objects, *({"study_instance_uid": uid} for uid in done.studies)]),
        ).outcomes
