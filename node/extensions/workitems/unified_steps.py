"""Unified Procedure Steps: their states, and what the transactions require of their attributes (PS3.4 CC).

A step is a data set in the DICOM JSON Model without *SOP Class UID*, *SOP Instance UID* and *Transaction UID*
(0008,1195), which are never among its attributes here.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from enum import Enum, IntEnum
from typing import Any, Literal

from pydicom.datadict import keyword_for_tag

from node.dicom.json_model import Json, elements, entry_text
from node.dicom.values import standard_tag
from node.errors import UsageError

State = Literal["SCHEDULED", "IN PROGRESS", "COMPLETED", "CANCELED"]
"""*Procedure Step State* (0074,1000)."""

UPS_PUSH = "1.2.840.10008.5.1.4.34.6.1"
"""SOP Class of every workitem (PS3.4 CC.3.1)."""

STATES: tuple[State, ...] = ("SCHEDULED", "IN PROGRESS", "COMPLETED", "CANCELED")
FINAL: tuple[State, ...] = ("COMPLETED", "CANCELED")


class Event(Enum):
    """What happens to a step; the rows of PS3.4 table CC.1.1-2."""

    CREATE = "N-CREATE"
    BEGIN = "change to IN PROGRESS"
    BEGIN_WITHOUT_UID = "change to IN PROGRESS without the correct Transaction UID"
    SCHEDULE = "change to SCHEDULED"
    COMPLETE = "change to COMPLETED"
    COMPLETE_WITHOUT_UID = "change to COMPLETED without the correct Transaction UID"
    REQUEST_CANCEL = "request cancellation"
    CANCEL = "change to CANCELED"
    CANCEL_WITHOUT_UID = "change to CANCELED without the correct Transaction UID"


class Status(IntEnum):
    """Why nothing changes, as DIMSE statuses: warnings begin with B, failures with C (PS3.4 CC.2)."""

    SUCCESS = 0x0000
    DUPLICATE = 0x0111
    ALREADY_CANCELED = 0xB304
    ALREADY_COMPLETED = 0xB306
    NO_LONGER_UPDATED = 0xC300
    WRONG_TRANSACTION_UID = 0xC301
    ALREADY_IN_PROGRESS = 0xC302
    ONLY_CREATION_SCHEDULES = 0xC303
    FINAL_STATE_REQUIREMENTS = 0xC304
    NO_SUCH_STEP = 0xC307
    NOT_IN_PROGRESS = 0xC310
    IS_COMPLETED = 0xC311
    NO_PERFORMER = 0xC312
    """The performer cannot be contacted."""


Transition = tuple[State, ...] | Status
"""The states that a step goes through, none if it keeps its state; or why nothing changes."""

_WRONG_UID = (Status.NO_SUCH_STEP, *(Status.WRONG_TRANSACTION_UID,) * 4)
_COLUMNS = (None, *STATES)
_TRANSITIONS: Mapping[Event, tuple[Transition, ...]] = {
    Event.CREATE: (("SCHEDULED",), *(Status.DUPLICATE,) * 4),
    Event.BEGIN: (
        Status.NO_SUCH_STEP,
        ("IN PROGRESS",),
        Status.ALREADY_IN_PROGRESS,
        Status.NO_LONGER_UPDATED,
        Status.NO_LONGER_UPDATED,
    ),
    Event.BEGIN_WITHOUT_UID: _WRONG_UID,
    Event.SCHEDULE: (Status.NO_SUCH_STEP, *(Status.ONLY_CREATION_SCHEDULES,) * 4),
    Event.COMPLETE: (
        Status.NO_SUCH_STEP,
        Status.NOT_IN_PROGRESS,
        ("COMPLETED",),
        Status.ALREADY_COMPLETED,
        Status.NO_LONGER_UPDATED,
    ),
    Event.COMPLETE_WITHOUT_UID: _WRONG_UID,
    Event.REQUEST_CANCEL: (
        Status.NO_SUCH_STEP,
        ("IN PROGRESS", "CANCELED"),
        (),
        Status.IS_COMPLETED,
        Status.ALREADY_CANCELED,
    ),
    Event.CANCEL: (
        Status.NO_SUCH_STEP,
        Status.NOT_IN_PROGRESS,
        ("CANCELED",),
        Status.NO_LONGER_UPDATED,
        Status.ALREADY_CANCELED,
    ),
    Event.CANCEL_WITHOUT_UID: _WRONG_UID,
}

_CHANGES: Mapping[State, tuple[Event, Event]] = {
    "SCHEDULED": (Event.SCHEDULE, Event.SCHEDULE),
    "IN PROGRESS": (Event.BEGIN, Event.BEGIN_WITHOUT_UID),
    "COMPLETED": (Event.COMPLETE, Event.COMPLETE_WITHOUT_UID),
    "CANCELED": (Event.CANCEL, Event.CANCEL_WITHOUT_UID),
}


def transition(event: Event, state: State | None) -> Transition:
    """Return what an event does to a step in a state, by PS3.4 table CC.1.1-2; None: there is no such step."""
    return _TRANSITIONS[event][_COLUMNS.index(state)]


def change_event(wanted: State, state: State, recorded: str | None, given: str | None) -> Event:
    """Return the event of a request to change the state.

    A step that is SCHEDULED has no Transaction UID yet: any one is correct, and the one of its performer is recorded.

    Parameters
    ----------
    recorded, given : str or None
        The Transaction UID of the step, and that of the request.
    """
    is_correct = given is not None and (state == "SCHEDULED" or given == recorded)
    return _CHANGES[wanted][0 if is_correct else 1]


# Attributes


class InvalidStep(UsageError):
    """An attribute of a procedure step breaks a rule; the message names attribute and rule, and has no patient data."""


DEFAULT_WORKLIST = "Worklist"
"""*Worklist Label* (0074,1202) of a step without one."""

PROGRESS, PERFORMED = "ProcedureStepProgressInformationSequence", "UnifiedProcedureStepPerformedProcedureSequence"
STATIONS, PERFORMERS = "ScheduledStationNameCodeSequence", "ScheduledHumanPerformersSequence"
REASON_CODE = "ProcedureStepDiscontinuationReasonCodeSequence"
CANCELLATION = ("ReasonForCancellation", REASON_CODE)
"""Attributes of a request for cancellation that the step keeps (PS3.4 table CC.2.2-1)."""

_UNSPECIFIED = {
    "CodeValue": "110513",
    "CodingSchemeDesignator": "DCM",
    "CodeMeaning": "Discontinued for unspecified reason",
}

_REQUIRED = (
    "ScheduledProcedureStepPriority", "ProcedureStepLabel", "ScheduledProcedureStepStartDateTime",
    "InputReadinessState", "ProcedureStepState",
)  # fmt: skip
"""Attributes of type 1 in the column N-CREATE of PS3.4 table CC.2.5-3."""

_EMPTY_OR_MORE = (
    "ScheduledProcessingParametersSequence", STATIONS, "ScheduledStationClassCodeSequence",
    "ScheduledStationGeographicLocationCodeSequence", "ScheduledWorkitemCodeSequence",
    "CommentsOnTheScheduledProcedureStep", "InputInformationSequence", "PatientName", "PatientID", "PatientBirthDate",
    "PatientSex", "OtherPatientIDsSequence", "AdmissionID", "IssuerOfAdmissionIDSequence",
    "AdmittingDiagnosesDescription", "AdmittingDiagnosesCodeSequence", "ReferencedRequestSequence", PROGRESS, PERFORMED,
)  # fmt: skip
"""Attributes of type 2 in that column: those that a client leaves out are added, empty (PS3.4 CC.2.5.3)."""

_EMPTY = ("TransactionUID", PROGRESS, PERFORMED)
"""Attributes that a new step has without a value."""

_FIXED = frozenset(
    {
        "SOPClassUID", "SOPInstanceUID", "ProcedureStepState", "PatientName", "PatientID", "IssuerOfPatientID",
        "IssuerOfPatientIDQualifiersSequence", "PatientBirthDate", "PatientSex", "AdmissionID",
        "IssuerOfAdmissionIDSequence", "AdmittingDiagnosesDescription", "AdmittingDiagnosesCodeSequence",
        "ReferencedRequestSequence", "ReplacedProcedureStepSequence",
    }
)  # fmt: skip
"""Attributes that an update must not have ("not allowed" in the column N-SET)."""

_IN_ITEMS: Mapping[str, tuple[str, ...]] = {
    "ReferencedRequestSequence": ("StudyInstanceUID",),
    "InputInformationSequence": ("TypeOfInstances", "ReferencedSOPSequence"),
    "OutputInformationSequence": ("TypeOfInstances", "ReferencedSOPSequence"),
    "ReferencedSOPSequence": ("ReferencedSOPClassUID", "ReferencedSOPInstanceUID"),
    "ReplacedProcedureStepSequence": ("ReferencedSOPClassUID", "ReferencedSOPInstanceUID"),
    "OtherPatientIDsSequence": ("PatientID",),
    PERFORMERS: ("HumanPerformerCodeSequence", "HumanPerformerName", "HumanPerformerOrganization"),
}
"""Attributes of type 1 in the items of sequences."""

_CODE_VALUES = ("CodeValue", "LongCodeValue", "URNCodeValue")
_CHOICES = {
    "ScheduledProcedureStepPriority": ("HIGH", "MEDIUM", "LOW"),
    "InputReadinessState": ("INCOMPLETE", "UNAVAILABLE", "READY"),
}
"""Enumerated Values of PS3.3 C.30.1."""

_AT_END = (
    "ScheduledProcedureStepPriority",
    "ScheduledProcedureStepModificationDateTime",
    "ScheduledProcedureStepStartDateTime",
    "InputReadinessState",
)
_OF_COMPLETED = (
    "PerformedStationNameCodeSequence",
    "PerformedProcedureStepStartDateTime",
    "PerformedWorkitemCodeSequence",
    "PerformedProcedureStepEndDateTime",
)


def created(model: Json, now: dt.datetime) -> tuple[Json, bool]:
    """Return a new step, and whether it differs from what the client sent (PS3.4 CC.2.5).

    Attributes of type 2 that are missing are added, empty; *Worklist Label* gets a value.

    Raises
    ------
    InvalidStep
        An attribute of type 1 is missing, or one has a value that a new step does not have.
    """
    if (sop_class := entry_text(model, "SOPClassUID")) not in (None, UPS_PUSH):
        raise InvalidStep(f"{_named('SOPClassUID')} must be {UPS_PUSH}, not {sop_class} (PS3.4 CC.2.5.1.3.1)")
    for keyword in _REQUIRED:
        if not values_of(model, keyword):
            raise InvalidStep(f"{_named(keyword)} is missing (PS3.4 table CC.2.5-3)")
    if entry_text(model, "ProcedureStepState") != "SCHEDULED":
        raise InvalidStep(f"{_named('ProcedureStepState')} of a new step must be SCHEDULED (PS3.4 CC.2.5.3)")
    for keyword in _EMPTY:
        if values_of(model, keyword):
            raise InvalidStep(f"{_named(keyword)} of a new step must be empty (PS3.4 table CC.2.5-3)")
    _check(model)
    added = _lacking(model)
    if not entry_text(model, "WorklistLabel"):
        added |= elements({"WorklistLabel": DEFAULT_WORKLIST})
    step = {**model, **added}
    for keyword in ("SOPClassUID", "SOPInstanceUID", "TransactionUID"):
        step.pop(_tag(keyword), None)
    return modified(step, now), bool(added)


def completed_by_empty(step: Json, now: dt.datetime) -> Json:
    """Return a new step of the node with the attributes of type 2 that it lacks, empty."""
    return modified({**step, **_lacking(step)}, now)


def _lacking(model: Json) -> Json:
    return elements(dict.fromkeys(keyword for keyword in _EMPTY_OR_MORE if _tag(keyword) not in model))


def updated(before: Json, changes: Json, now: dt.datetime) -> Json:
    """Return a step after an update: the attributes of `changes` replace its own, sequences as a whole (PS3.4 CC.2.6).

    Raises
    ------
    InvalidStep
    """
    for keyword in sorted(_FIXED):
        if _tag(keyword) in changes:
            raise InvalidStep(f"{_named(keyword)} cannot be updated (PS3.4 table CC.2.5-3)")
    for keyword in (*_REQUIRED, "WorklistLabel"):
        if _tag(keyword) in changes and not values_of(changes, keyword):
            raise InvalidStep(f"{_named(keyword)} must have a value (PS3.4 table CC.2.5-3)")
    _check(changes)
    new = {name: element for name, element in changes.items() if name != _tag("TransactionUID")}
    return modified({**before, **new}, now)


def changed(step: Json, state: State, now: dt.datetime) -> Json | Status:
    """Return a step in another state, or why it may not have that state (PS3.4 CC.2.5.1.1).

    A step that becomes CANCELED gets the current time if it has no *Procedure Step Cancellation DateTime*, and an
    unspecified reason if it has no code of a reason, so that it can be cancelled without an update (CC.2.5.1.3.2).
    """
    after = modified({**step, **elements({"ProcedureStepState": state})}, now)
    if state == "CANCELED":
        after = _with_cancellation(after, {}, now)
    if state in FINAL and not all(values_of(step, keyword) for keyword in _AT_END):
        return Status.FINAL_STATE_REQUIREMENTS
    if state == "COMPLETED":
        items = values_of(after, PERFORMED)
        if not items or not all(_is_whole(item) for item in items):
            return Status.FINAL_STATE_REQUIREMENTS
    return after


def cancelled(step: Json, request: Json, now: dt.datetime) -> Json | Status:
    """Return a step that a request for cancellation made CANCELED, with the reasons of the request."""
    reasons = {_tag(keyword): request[_tag(keyword)] for keyword in CANCELLATION if values_of(request, keyword)}
    return changed(_with_cancellation(step, reasons, now), "CANCELED", now)


def checked_request(request: Json) -> Json:
    """Return the attributes of a request for cancellation (PS3.4 table CC.2.2-1); others are left out.

    Raises
    ------
    InvalidStep
    """
    kept = {_tag(keyword): request[_tag(keyword)] for keyword in CANCELLATION if values_of(request, keyword)}
    _check(kept)
    return kept


def _is_whole(performed: Json) -> bool:
    """Return whether an item of the performed procedure has what COMPLETED requires; its output may be empty."""
    return _tag("OutputInformationSequence") in performed and all(
        values_of(performed, keyword) for keyword in _OF_COMPLETED
    )


def _with_cancellation(step: Json, reasons: Json, now: dt.datetime) -> Json:
    item = dict(next(iter(values_of(step, PROGRESS)), {})) | reasons
    if not values_of(item, "ProcedureStepCancellationDateTime"):
        item |= elements({"ProcedureStepCancellationDateTime": now})
    if not values_of(item, REASON_CODE):
        item |= elements({REASON_CODE: [_UNSPECIFIED]})
    return {**step, _tag(PROGRESS): {"vr": "SQ", "Value": [dict(sorted(item.items()))]}}


def _check(model: Json) -> None:
    for keyword, choices in _CHOICES.items():
        if (value := entry_text(model, keyword)) is not None and value not in choices:
            raise InvalidStep(f"{_named(keyword)} must be one of {', '.join(choices)} (PS3.3 C.30.1)")
    for keyword, item in _items(model):
        for required in _IN_ITEMS.get(keyword, ()):
            if not values_of(item, required):
                raise InvalidStep(f"{_named(required)} is missing in an item of {keyword} (PS3.4 table CC.2.5-3)")
        if keyword.endswith("CodeSequence") and not (
            any(values_of(item, name) for name in _CODE_VALUES) and values_of(item, "CodeMeaning")
        ):
            raise InvalidStep(f"an item of {_named(keyword)} needs a code value and its meaning (PS3.3 8.8)")


def _items(model: Json) -> Iterator[tuple[str, Json]]:
    """Yield all items of all sequences, each with the keyword of its sequence."""
    for name, element in model.items():
        if element["vr"] == "SQ":
            for item in element.get("Value", []):
                yield _keyword(name), item
                yield from _items(item)


def modified(step: Json, now: dt.datetime) -> Json:
    """Return a step in the order of its tags, with the time of its change."""
    return dict(sorted({**step, **elements({"ScheduledProcedureStepModificationDateTime": now})}.items()))


def values_of(model: Json, keyword: str) -> list[Any]:
    """Return the values of an attribute that are not empty."""
    return [value for value in model.get(_tag(keyword), {}).get("Value", []) if value not in (None, "")]


def _tag(keyword: str) -> str:
    return f"{standard_tag(keyword):08X}"


def _keyword(name: str) -> str:
    return keyword_for_tag(int(name, 16))


def _named(keyword: str) -> str:
    tag = standard_tag(keyword)
    return f"{keyword} ({tag.group:04X},{tag.element:04X})"
