"""Patients that an HL7 v2 message merges (ADT^A40), takes apart (ADT^A37) or updates (ADT^A08).

HL7 v2.5.1 3.3.8, 3.3.37 and 3.3.40. An update changes the entries of the worklist; a stored study has the name, the
birth date and the sex of its files.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass

from node.association.added import OpenedRoot as Root
from node.dicom.attributes import MAX_TEXT_BYTES, date_of, is_short
from node.dicom.json_model import Json
from node.errors import UsageError
from node.extensions.worklist.entries import step_of
from node.extensions.worklist.hl7 import Hl7Message, MessageRefused, name_of, type_of
from node.extensions.worklist.scheduled_rows import ScheduledStep, ScheduledStepRepository
from node.hookspecs import Action
from node.index.nouns.persons import Person, PersonRepository
from node.registry import PATIENT_ACTIONS, resolve

MERGE, UNLINK, UPDATE = "ADT^A40", "ADT^A37", "ADT^A08"

LEFT, MERGED, SEPARATED = "nothing to change", "merged", "separated"


@dataclass(frozen=True, slots=True)
class PatientChange:
    """Two patients: `one` is merged into `other`, or the two are taken apart."""

    is_merge: bool
    one: Person
    other: Person


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
    patient = message.named("PID")
    values = {
        "patient_name": name_of(message, patient, 5, first=1),
        "patient_birth_date": message.value(patient, 7)[:8],
        "patient_sex": message.value(patient, 8).upper(),
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


def changes_of(message: Hl7Message) -> list[PatientChange] | None:
    """Return what a message about patients asks for; None if it is of another type. Raises MessageRefused."""
    kind = type_of(message)
    if kind not in (MERGE, UNLINK):
        return None
    found: list[PatientChange] = []
    last: Person | None = None
    for segment in message.segments:
        if segment[0] == "PID":
            person = Person(
                message.value(segment, 3),
                message.value(segment, 3, 4),
                name_of(message, segment, 5, first=1),
                date_of(message.value(segment, 7)[:8]),
                message.value(segment, 8).upper(),
            )
            if kind == UNLINK and last is not None:
                found.append(PatientChange(False, last, person))
            last = person
        elif segment[0] == "MRG" and kind == MERGE and last is not None:
            prior = Person(message.value(segment, 1), message.value(segment, 1, 4), "", None, "")
            found.append(PatientChange(True, prior, last))
    if not found:
        raise MessageRefused("AE", "ADT^A40 needs PID and MRG segments, ADT^A37 two PID segments")
    for one in (person for change in found for person in (change.one, change.other)):
        _require_id(one, "PID and MRG-1")
    return found


class PatientChanges:
    """Carries out what messages ask for, with the actions and the audit lines of commands and pages."""

    def __init__(self, root: Root) -> None:
        self._persons = root.ingest.index.repository(PersonRepository)
        self._actions: Mapping[str, Action] = resolve(PATIENT_ACTIONS)(root)

    def make(self, change: PatientChange, who: str) -> str:
        """Merge or separate two patients, and return what was done; a repetition changes nothing.

        Raises MessageRefused if people share one of the Patient IDs: a person decides whom the message means.
        """
        one, other = self._who(change.one), self._who(change.other)
        try:
            if change.is_merge:
                return self._merge(one, other, change.other, who)
            for patient, into in ((one, other), (other, one)):
                if patient is not None and into is not None and self._persons.merged_into(patient) == into:
                    self._actions["separate-patient"](patient=patient, who=who)
                    return SEPARATED
        except UsageError as error:
            raise MessageRefused("AE", str(error)) from error
        return LEFT

    def _merge(self, source: int | None, target: int | None, remaining: Person, who: str) -> str:
        if source is None or source == target:
            return LEFT  # of whom there is no study
        if target is None:
            target = self._persons.add(remaining)
        target = self._persons.merged_into(target) or target
        if target in (source, self._persons.merged_into(source)):
            return LEFT
        self._actions["merge-patients"](source=source, target=target, who=who)
        return MERGED

    def _who(self, person: Person) -> int | None:
        found = self._persons.with_id(person.patient_id, person.issuer)
        if len(found) > 1:
            raise MessageRefused("AE", "people share this Patient ID: decide on the page Problems, Conflicts")
        return found[0] if found else None
