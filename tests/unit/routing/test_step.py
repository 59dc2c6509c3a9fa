"""What becomes of a message, by what it asks for and what became of that; and what a step holds back."""

import datetime as dt
from dataclasses import replace

import pytest

from node.index.rules.work.messages import PendingEvent
from node.index.rules.work.routes import DueInstance
from node.routing.destination import NotTaken
from node.routing.step import RETURN, Asked, Done, Failed, RouteStep, outcome_of

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
LATER, NEVER = NotTaken("busy"), NotTaken("wrong", is_final=True)
KEPT_BACK = "an earlier instance of its series was not taken"


def message(id: str = "m", attempts: int = 0, study: str = "1.2") -> PendingEvent:
    return PendingEvent(id, "series-quiet", NOW, study, f"{study}.1", attempts=attempts)


def due(number: int, series: str = "1.2.1", *, is_sent: bool = False) -> DueInstance:
    return DueInstance(
        "1.2", series, f"{series}.{number}", "1.2.840", "1.2.840.1", None, None, "key", 0, 1, f"{number}", None, None,
        number, "dicom", None, None, None, None, is_sent=is_sent,
    )  # fmt: skip


ONE, TWO = due(1), due(2)


def asked(dues: int = 2, wanted: int = 2, left: int = 2) -> Asked:
    both = (ONE, TWO)
    return Asked(message(), both[:dues], both[:wanted], both[:left])


@pytest.mark.parametrize(
    ("what", "tried", "is_cut", "who", "is_all_taken", "expected"),
    [
        # What is not there, not wanted or taken before needs no attempt.
        (asked(0, 0, 0), [], False, None, True, Done("dropped", 0, "the object was deleted")),
        (asked(2, 0, 0), [], False, None, True, Done("dropped", 0, "the route leaves it out")),
        (replace(asked(2, 0, 0), is_return=True), [], False, None, True, Done("dropped", 0, RETURN)),
        (asked(2, 2, 0), [], False, None, True, Done("succeeded", 0)),
        (asked(2, 2, 0), [], True, None, True, Done("succeeded", 0)),
        # Everything was taken.
        (asked(), [None, None], False, None, True, Done("succeeded", 1)),
        (asked(), [None, None], True, None, True, Done("succeeded", 1)),
        # A step that was cut short tells nothing of a message of which something was not tried.
        (asked(), [], True, None, False, None),
        (asked(), [None], True, None, False, None),
        (asked(), [LATER], True, None, False, None),
        (asked(), [LATER, None], True, None, False, Failed("1 of 2 instances were not taken: busy", counts=False)),
        # Not taken now; all attempts count only if nothing got on.
        (asked(), [LATER, LATER], False, None, False, Failed("2 of 2 instances were not taken: busy")),
        (asked(), [None, LATER], False, None, False, Failed("1 of 2 instances were not taken: busy", counts=False)),
        (asked(1, 1, 1), [LATER], False, None, False, Failed("busy")),
        (asked(), [LATER], False, None, False, Failed("1 of 2 instances were not taken: busy")),
        (asked(), [], False, None, False, Failed(KEPT_BACK)),
        (asked(), [None], False, None, False, Failed(KEPT_BACK, counts=False)),
        # Never, if all that was not taken never will be.
        (asked(), [NEVER, NEVER], False, None, False, Failed("2 of 2 instances were not taken: wrong", is_final=True)),
        (asked(), [None, NEVER], False, None, False,
         Failed("1 of 2 instances were not taken: wrong", counts=False, is_final=True)),
        (asked(), [LATER, NEVER], False, None, False, Failed("2 of 2 instances were not taken: busy")),
        (asked(), [NEVER], False, None, False, Failed("1 of 2 instances were not taken: wrong")),
        # Cancelled, unless there is nothing left to cancel.
        (asked(), [], False, "ann", False, Done("cancelled", 1, "cancelled by ann")),
        (asked(), [None], True, "ann", False, Done("cancelled", 1, "cancelled by ann")),
        (asked(), [None, None], False, "ann", True, Done("succeeded", 1)),
    ],
)  # fmt: skip
def test_what_becomes_of_a_message(
    what: Asked,
    tried: list[NotTaken | None],
    is_cut: bool,
    who: str | None,
    is_all_taken: bool,
    expected: Done | Failed | None,
) -> None:
    assert outcome_of(what, tried, is_cut, who, is_all_taken) == expected


def step_with(*messages: tuple[PendingEvent, list[DueInstance]], attempts: int = 3) -> RouteStep:
    step, dues = RouteStep(), {pending.message_id: found for pending, found in messages}
    step.queue(pending for pending, _ in messages)

    def ask(pending: PendingEvent) -> Asked:
        found = dues[pending.message_id]
        return Asked(pending, found, found, [one for one in found if not one.is_sent])

    step.join(messages[0][0], ask, attempts)
    return step


def test_an_instance_that_is_not_taken_keeps_its_series_back_unless_its_message_ends_with_it() -> None:
    other = due(3, "1.2.2")
    step = step_with((message(), [ONE, TWO, other]))
    assert step.note_problem(ONE, LATER, is_last=step.is_last(ONE)) is False
    assert (step.is_held_back(TWO), step.is_held_back(other)) == (True, False)
    last = step_with((message(attempts=2), [ONE, TWO]))
    assert last.is_last(ONE)
    assert last.note_problem(ONE, LATER, is_last=True) is True
    assert not last.is_held_back(TWO)
    last.note_taken(TWO)
    assert not last.is_last(ONE), "its message gets on"


def test_what_only_cancelled_messages_ask_for_is_skipped() -> None:
    one, two = message("one"), message("two")
    step = step_with((one, [ONE, TWO]), (two, [TWO]))
    step.note_cancelled({"one": "ann"})
    assert (step.is_held_back(ONE), step.is_held_back(TWO)) == (True, False)
    step.note_taken(TWO)
    assert step.outcome_of(one) == Done("cancelled", 1, "cancelled by ann")
    assert step.outcome_of(two) == Done("succeeded", 1)


def test_progress_is_that_of_messages_that_are_begun_and_not_done_and_is_said_once() -> None:
    series, single = message(), replace(message("single"), sop_instance_uid="1.2.1.3")
    step = step_with((series, [ONE, TWO, due(4, is_sent=True)]), (single, [due(3)]))
    assert step.progress() == []
    step.note_taken(ONE)
    assert step.progress() == [(series, 2, 3)]
    assert step.progress() == []
    step.note_taken(TWO)
    assert step.progress() == []
