"""Notifications of performed procedure steps on the ledger: their order, their repetitions and their end."""

from __future__ import annotations

import datetime as dt
import threading

from node.association.client.association import Address
from node.extensions.worklist.notifications import Notifying, notified_peers
from node.extensions.worklist.performed_rows import PerformedStepRepository
from node.extensions.worklist.performed_steps import changed, created
from node.index.nouns.records import Refused
from node.index.work.ledger import Ended
from tests.integration.conftest import Root
from tests.protocol.test_performed_steps import STEP, begun, over
from tests.protocol.test_step_notifications import Ris, ris
from tests.rows import read_rows

__all__ = ["ris"]

NOW = dt.datetime(2026, 11, 21, 10, tzinfo=dt.UTC)
WORK = "SELECT state, outcome, reason FROM work WHERE kind = 'notification' ORDER BY id"


def perform(root: Root, notifying: Notifying, moment: dt.datetime) -> list[str]:
    """Do what is due at a moment; return what became of each."""
    done: list[str] = []
    while due := root.index.work.due(["notification"], moment):
        for work in due:
            root.index.work.begin(work.id, moment)
            begun = root.index.work.one(work.id)
            decision = notifying.perform(begun, threading.Event())
            assert decision is not None
            root.index.work.record(work.id, decision, moment)
            notifying.recorded(begun, decision)
            done.append(decision.outcome if isinstance(decision, Ended) else "postponed")
    return done


def test_a_refused_notification_waits_and_no_later_one_of_its_step_overtakes_it(root: Root, ris: Ris) -> None:
    index, moment = root.index, [NOW]
    told: list[Refused] = []
    peers = notified_peers(ris.settings, ("ris",))
    notifying = Notifying(index.work, peers, ris.settings, told.append, lambda: moment[0])
    steps = index.repository(PerformedStepRepository)
    first, other = created(STEP, begun()), created("1.2.9", begun())
    assert steps.create(first, "CT1", NOW, ["ris"])
    ended = changed(STEP, first.attributes, over("DISCONTINUED", PerformedSeriesSequence=[]))
    assert steps.change(ended, NOW, NOW, ["ris"])
    assert steps.create(other, "CT1", NOW, ["ris"])
    ris.answers = [0x0110]
    assert perform(root, notifying, NOW) == ["postponed", "postponed", "succeeded"]
    moment[0] += dt.timedelta(hours=1)
    assert perform(root, notifying, moment[0]) == ["succeeded", "succeeded"]
    assert ris.told == [(STEP, 1), ("1.2.9", 1), (STEP, 1), (STEP, 3)]

    ris.answers = [0x0113]  # an event that the peer does not know is not repeated
    assert steps.remove_old(moment[0], moment[0], ["ris"]) == 2
    assert sorted(perform(root, notifying, moment[0])) == ["failed", "succeeded"]
    assert {event for _, event in ris.told[4:]} == {5}
    [refused] = told
    assert (refused.what, refused.called_ae_title, "0x0113" in refused.reason) == ("notification", "RIS", True)


def test_a_notification_is_given_up_in_the_end_and_dropped_when_nobody_wants_it(root: Root, ris: Ris) -> None:
    index, moment, told = root.index, [NOW], list[Refused]()
    away = {"ris": Address("RIS", "127.0.0.1", 1)}
    notifying = Notifying(index.work, away, ris.settings, told.append, lambda: moment[0])
    index.repository(PerformedStepRepository).create(created(STEP, begun()), "CT1", NOW, ["ris", "gone"])
    assert sorted(perform(root, notifying, NOW)) == ["dropped", "postponed"]
    for _ in range(Notifying.max_attempts - 1):
        assert not told
        moment[0] += dt.timedelta(hours=2)
        perform(root, notifying, moment[0])
    assert len(told) == 1
    assert [row["outcome"] for row in read_rows(root.folder, WORK)] == ["failed", "dropped"]


def test_what_is_no_step_owes_nothing(root: Root) -> None:
    index = root.index
    step = created(STEP, begun())
    assert index.repository(PerformedStepRepository).create(step, "CT1", NOW, ["ris"])
    assert not index.repository(PerformedStepRepository).create(step, "CT1", NOW, ["ris"])
    assert not index.repository(PerformedStepRepository).change(step, NOW - dt.timedelta(1), NOW, ["ris"])
    assert [row["state"] for row in read_rows(root.folder, WORK)] == ["waiting"]
