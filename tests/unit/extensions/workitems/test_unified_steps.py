"""Unified Procedure Steps: every cell of PS3.4 table CC.1.1-2, and what table CC.2.5-3 requires of attributes."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from node.dicom.json_model import Json, elements, entry_text
from node.dicom.key_values import instant_of
from node.extensions.workitems.unified_steps import (
    PERFORMED,
    PROGRESS,
    Event,
    InvalidStep,
    State,
    Status,
    cancelled,
    change_event,
    changed,
    created,
    transition,
    updated,
    values_of,
)

NOW = dt.datetime(2026, 11, 21, 10, 0, tzinfo=dt.UTC)
STATES: tuple[State | None, ...] = (None, "SCHEDULED", "IN PROGRESS", "COMPLETED", "CANCELED")
CODE = {"CodeValue": "110005", "CodingSchemeDesignator": "DCM", "CodeMeaning": "Interpretation"}
STEP: dict[str, Any] = {
    "ScheduledProcedureStepPriority": "HIGH",
    "ProcedureStepLabel": "Read",
    "ScheduledProcedureStepStartDateTime": "20261121",
    "InputReadinessState": "READY",
    "ProcedureStepState": "SCHEDULED",
}
DONE = {
    "PerformedStationNameCodeSequence": [CODE],
    "PerformedProcedureStepStartDateTime": "20261121",
    "PerformedWorkitemCodeSequence": [CODE],
    "PerformedProcedureStepEndDateTime": "20261121",
    "OutputInformationSequence": [],
}

TABLE = {
    Event.CREATE: ("SCHEDULED", 0x0111, 0x0111, 0x0111, 0x0111),
    Event.BEGIN: (0xC307, "IN PROGRESS", 0xC302, 0xC300, 0xC300),
    Event.BEGIN_WITHOUT_UID: (0xC307, 0xC301, 0xC301, 0xC301, 0xC301),
    Event.SCHEDULE: (0xC307, 0xC303, 0xC303, 0xC303, 0xC303),
    Event.COMPLETE: (0xC307, 0xC310, "COMPLETED", 0xB306, 0xC300),
    Event.COMPLETE_WITHOUT_UID: (0xC307, 0xC301, 0xC301, 0xC301, 0xC301),
    Event.REQUEST_CANCEL: (0xC307, "IN PROGRESS, CANCELED", "", 0xC311, 0xB304),
    Event.CANCEL: (0xC307, 0xC310, "CANCELED", 0xC300, 0xB304),
    Event.CANCEL_WITHOUT_UID: (0xC307, 0xC301, 0xC301, 0xC301, 0xC301),
}


@pytest.mark.parametrize("event", Event)
def test_a_row_of_the_state_table(event: Event) -> None:
    for state, expected in zip(STATES, TABLE[event], strict=True):
        result = transition(event, state)
        assert (int(result) if isinstance(result, Status) else ", ".join(result)) == expected, state


@pytest.mark.parametrize(
    ("wanted", "state", "recorded", "given", "event"),
    [
        ("IN PROGRESS", "SCHEDULED", None, "1.2", Event.BEGIN),
        ("IN PROGRESS", "SCHEDULED", None, None, Event.BEGIN_WITHOUT_UID),
        ("IN PROGRESS", "IN PROGRESS", "1.2", "1.2", Event.BEGIN),
        ("IN PROGRESS", "IN PROGRESS", "1.2", "1.3", Event.BEGIN_WITHOUT_UID),
        ("SCHEDULED", "IN PROGRESS", "1.2", "1.2", Event.SCHEDULE),
        ("COMPLETED", "IN PROGRESS", "1.2", "1.2", Event.COMPLETE),
        ("COMPLETED", "IN PROGRESS", "1.2", None, Event.COMPLETE_WITHOUT_UID),
        ("COMPLETED", "SCHEDULED", None, "1.2", Event.COMPLETE),
        ("CANCELED", "COMPLETED", "1.2", "1.2", Event.CANCEL),
        ("CANCELED", "CANCELED", None, "1.2", Event.CANCEL_WITHOUT_UID),  # it was cancelled before anybody claimed it
    ],
)
def test_a_transaction_uid_is_the_lock_of_the_performer(
    wanted: State, state: State, recorded: str | None, given: str | None, event: Event
) -> None:
    assert change_event(wanted, state, recorded, given) is event


def step(**attributes: Any) -> Json:
    return created(elements(STEP | attributes), NOW)[0]


def test_a_new_step_has_every_attribute_of_type_2() -> None:
    made, is_modified = created(elements(STEP), NOW)
    assert is_modified
    assert entry_text(made, "WorklistLabel") == "Worklist"
    assert entry_text(made, "ScheduledProcedureStepModificationDateTime") == "20261121100000.000000+0000"
    assert made["00100010"] == {"vr": "PN"}
    assert created(made, NOW) == (made, False)


@pytest.mark.parametrize(
    "wrong",
    [
        *({keyword: None} for keyword in STEP),
        {"ProcedureStepState": "IN PROGRESS"},
        {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2"},
        {"ScheduledProcedureStepPriority": "URGENT"},
        {"InputReadinessState": "PERHAPS"},
        {"TransactionUID": "1.2"},
        {PROGRESS: [{"ProcedureStepProgress": "10"}]},
        {PERFORMED: [DONE]},
        {"ReferencedRequestSequence": [{"AccessionNumber": "1"}]},
        {"InputInformationSequence": [{"TypeOfInstances": "DICOM"}]},
        {"ScheduledWorkitemCodeSequence": [{"CodeValue": "1", "CodingSchemeDesignator": "DCM"}]},
        {"ScheduledHumanPerformersSequence": [{"HumanPerformerName": "Doe"}]},
    ],
)
def test_a_new_step_that_lacks_what_it_needs_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidStep) as refused:
        step(**wrong)
    assert "Doe" not in str(refused.value)


@pytest.mark.parametrize(
    "wrong",
    [
        {"PatientName": "Roe"},
        {"ReferencedRequestSequence": []},
        {"ProcedureStepState": "COMPLETED"},
        {"SOPInstanceUID": "1.2"},
        {"ProcedureStepLabel": None},
        {"InputReadinessState": "MAYBE"},
    ],
)
def test_an_update_changes_only_what_it_may(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidStep):
        updated(step(), elements(wrong), NOW)


def test_an_update_replaces_sequences_as_a_whole() -> None:
    before = step(ScheduledStationNameCodeSequence=[CODE])
    changes = elements({"ScheduledStationNameCodeSequence": [CODE, CODE], "InputReadinessState": "READY"})
    after = updated(before, changes, NOW)
    assert len(values_of(after, "ScheduledStationNameCodeSequence")) == 2
    assert updated(after, changes, NOW) == after


@pytest.mark.parametrize("lacks", [None, *DONE])
def test_a_step_is_completed_when_it_tells_what_was_done(lacks: str | None) -> None:
    item = {keyword: value for keyword, value in DONE.items() if keyword != lacks}
    after = changed(updated(step(), elements({PERFORMED: [item]}), NOW), "COMPLETED", NOW)
    assert after is Status.FINAL_STATE_REQUIREMENTS if lacks else isinstance(after, dict)
    assert changed(step(), "COMPLETED", NOW) is Status.FINAL_STATE_REQUIREMENTS


def test_a_cancelled_step_tells_when_and_why() -> None:
    plain = changed(step(), "CANCELED", NOW)
    asked = cancelled(step(), elements({"ReasonForCancellation": "patient left", "ContactDisplayName": "Ann"}), NOW)
    assert isinstance(plain, dict)
    assert isinstance(asked, dict)
    for after, reason in ((plain, None), (asked, "patient left")):
        (item,) = values_of(after, PROGRESS)
        assert entry_text(item, "ProcedureStepCancellationDateTime") == "20261121100000.000000+0000"
        assert entry_text(item, "ReasonForCancellation") == reason
        assert entry_text(values_of(item, "ProcedureStepDiscontinuationReasonCodeSequence")[0], "CodeValue") == "110513"


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("2026", "2026-01-01 00:00:00", "2026-12-31 23:59:59.999999"),
        ("202602", "2026-02-01 00:00:00", "2026-02-28 23:59:59.999999"),
        ("2026022810", "2026-02-28 10:00:00", "2026-02-28 10:59:59.999999"),
        ("20260228101112.5-0500", "2026-02-28 15:11:12.500000", "2026-02-28 15:11:12.599999"),
        ("99991231", "9999-12-31 00:00:00", "9999-12-31 23:59:59.999999"),
    ],
)
def test_a_date_time_means_all_moments_that_it_leaves_open(text: str, first: str, last: str) -> None:
    meant = instant_of(text)
    assert meant is not None
    assert [f"{moment:%Y-%m-%d %H:%M:%S.%f}".removesuffix(".000000") for moment in meant] == [first, last]


@pytest.mark.parametrize("text", ["", "20261301", "20260230", "2026022860", "20260228.5", "0000", "2026+2500"])
def test_a_moment_that_does_not_exist_is_none(text: str) -> None:
    assert instant_of(text) is None
