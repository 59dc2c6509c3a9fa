"""When a series is quiet, by what its senders have done: tables, and a model that keeps every event."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.quiet import Waits, after_abort, after_received, due_at, is_quiet_of, last_sign, shifted

BEGIN = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)


def at(seconds: float) -> dt.datetime:
    return BEGIN + dt.timedelta(seconds=seconds)


@dataclass(frozen=True)
class Instance:
    """An instance of a sender with this quiet time, of an association that began at a moment."""

    sender: str
    received: int
    quiet: int = 60
    began: int = 0  # in the order of what happened


@dataclass(frozen=True)
class Abort:
    sender: str
    ended: int
    grace: int = 300


def waits_after(*events: Instance | Abort) -> Waits:
    waits: Waits = {}
    for one in events:
        if isinstance(one, Abort):
            waits = after_abort(waits, one.sender, at(one.ended + one.grace), at(one.ended), f"p:{one.ended}")
        else:
            quiet_at = at(one.received + one.quiet)
            waits = after_received(waits, one.sender, quiet_at, {f"p:{one.began}"}, at(one.received))
    return waits


@pytest.mark.parametrize(
    ("events", "seconds"),
    [
        ([Instance("A", 50), Instance("A", 0)], 110),  # another host was late
        ([Instance("A", 0), Abort("A", 5, grace=10)], 60),
        ([Instance("A", 0), Abort("A", 5), Instance("A", 20, began=10)], 80),  # the sender is back
        ([Instance("A", 0), Abort("A", 5), Instance("A", 20, began=2)], 305),  # it was open meanwhile
        ([Instance("A", 0), Abort("A", 5), Instance("B", 20, began=10)], 305),  # somebody else
    ],
)
def test_a_series_is_due_at_the_latest_moment_of_any_sender(events: list[Instance | Abort], seconds: int) -> None:
    assert due_at(waits_after(*events)) == at(seconds)


def test_waits_that_are_over_are_dropped_with_the_next_instance() -> None:
    assert waits_after(Instance("A", 0), Instance("B", 61)).keys() == {"B"}
    assert waits_after(Instance("A", 0), Instance("B", 59)).keys() == {"A", "B"}


def test_a_sender_is_quiet_after_its_own_time_whatever_the_grace() -> None:
    waits = waits_after(Instance("A", 0), Abort("A", 5))
    assert [is_quiet_of(waits, "A", at(seconds)) for seconds in (59, 60)] == [False, True]
    assert is_quiet_of(waits, "NOBODY", at(0))


def asked_by(happened: Sequence[Instance | Abort]) -> list[int]:
    """The moments that senders ask for, by what a model knows which forgets nothing."""
    asked = []
    for sender in {one.sender for one in happened}:
        own = [one for one in happened if one.sender == sender]
        instances = [one for one in own if isinstance(one, Instance)]
        asked += [one.received + one.quiet for one in instances[-1:]]
        abort = next((one for one in reversed(own) if isinstance(one, Abort)), None)
        if abort is not None and all(one.began <= abort.ended for one in instances):
            asked.append(abort.ended + abort.grace)
    return asked


EVENTS = st.lists(
    st.one_of(
        st.builds(Instance, st.sampled_from("AB"), st.just(0), st.integers(1, 400), st.integers(-50, 0)),
        st.builds(Abort, st.sampled_from("AB"), st.just(0), st.integers(1, 400)),
    ),
    min_size=1,
)


@given(events=EVENTS, steps=st.lists(st.integers(1, 100), min_size=50, max_size=50), jump=st.integers(-9999, 9999))
def test_the_due_time_is_that_of_a_plain_model(events: list[Instance | Abort], steps: list[int], jump: int) -> None:
    now, happened = 0, []
    for one, step in zip(events, steps, strict=False):
        now += step
        if isinstance(one, Abort):
            happened.append(Abort(one.sender, now, one.grace))
        else:
            happened.append(Instance(one.sender, now, one.quiet, now + one.began))
    waits, asked = waits_after(*happened), asked_by(happened)
    last = max((one.received for one in happened if isinstance(one, Instance)), default=-1)
    assert due_at(waits) == at(max(asked)) or max(asked) <= last  # then all waits were over, and the last one counts
    assert due_at(shifted(waits, dt.timedelta(seconds=jump))) - due_at(waits) == dt.timedelta(seconds=jump)
    assert last_sign(waits) == at(now)
