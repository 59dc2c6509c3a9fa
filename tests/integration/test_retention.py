"""Retention on a real root: what goes, what a dry run leaves, and what stops it."""

import datetime as dt
import re
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from structlog.testing import capture_logs

from node.api import Audit, AuditMessage, Role, Settings
from node.conversion.volume_files import Housekeeping
from node.extensions.shares.rows import ShareRepository
from node.extensions.worklist.modality_worklist import Worklist
from node.extensions.worklist.performed_steps import PerformedStepRepository
from node.extensions.worklist.scheduled_rows import ScheduledStep, ScheduledStepRepository
from node.extensions.worklist.settings import WorklistSettings
from node.index.rows.about_keys import Uptime
from node.index.rows.records import Share
from node.index.rules.work.ledger import Ended, Postponed
from node.index.rules.work.messages import Attempt, PendingEvent
from node.index.rules.work.routes import lane_to
from node.lifecycle.expired import due_now
from node.lifecycle.retention import Retention, confirm
from node.receive.ingest import Origin
from node.runtime.metrics import Metrics
from node.settings.core import RetentionSettings, RouteEvent
from tests import make
from tests.integration.conftest import Root, announced, data_set_bytes
from tests.preloaded import run

DAY = 86400
RULES = RetentionSettings()


def retention(root: Root, **rules: Any) -> Retention:
    audit = Audit(root.folder, "VOXELNODE", now=root.clock)
    return Retention(
        root.archive, root.index, audit, Metrics(), Settings(retention=RetentionSettings(**rules)), root.clock
    )


def take_study(root: Root, title: str = "CT1", **attributes: Any) -> str:
    instances = make.ct_series(3, **attributes)
    root.take_all(instances, Origin("dicom", title, "VOXELNODE", "127.0.0.1:1"))
    return str(instances[0].StudyInstanceUID)


def studies(root: Root) -> set[str]:
    return {row["study_instance_uid"] for row in root.rows("SELECT study_instance_uid FROM v_studies")}


def spared(root: Root) -> dict[str, int]:
    with root.index.reading() as index:
        return due_now(index, RetentionSettings(days=30), root.clock()).spared


def test_old_converted_studies_go_and_leave_a_tombstone(root: Root) -> None:
    old = take_study(root)
    root.convert_due()
    root.clock.move(31 * DAY)
    young = take_study(root)
    assert retention(root, days=30).run_once(root.clock()) == 1
    assert studies(root) == {young}
    [tombstone] = root.rows("SELECT uid, reason FROM v_deletions")
    assert tombstone == {"uid": old, "reason": "retention: older than 30 days"}
    assert '"user": "retention"' in (root.folder / "audit.jsonl").read_text()


def test_a_study_with_a_series_that_waits_stays(root: Root) -> None:
    take_study(root)
    root.clock.move(31 * DAY)
    assert retention(root, days=30).run_once(root.clock()) == 0
    assert retention(root, days=30, only_converted=False).run_once(root.clock()) == 1


@pytest.mark.parametrize("event", ["instance-stored", "series-quiet", "study-quiet"])
def test_a_study_that_a_route_still_owes_stays_until_the_message_has_ended(root: Root, event: RouteEvent) -> None:
    lane, owed = lane_to("up", "ORTHANC"), {"owed": 1}
    root.index.deliveries.begin("route", {lane: (event,)})
    uid = take_study(root)
    root.convert_due()
    root.mark_quiet()
    root.clock.move(31 * DAY)
    rules = retention(root, days=30)
    assert rules.run_once(root.clock()) == 0, "no worker has seen the events yet"
    assert spared(root) == owed
    found = root.index.deliveries.work(lane, (event,), root.clock()).new
    assert {one.study_instance_uid for one in found} == {uid}
    waiting = [Attempt(one, Postponed(root.clock(), "connection refused"), 1) for one in found]
    root.index.deliveries.record(lane, waiting, found, root.clock())
    assert rules.run_once(root.clock()) == 0, "the destination is down"
    assert spared(root) == owed
    ended = [Attempt(one, Ended("failed", "refused"), 2) for one in found]
    root.index.deliveries.record(lane, ended, (), root.clock())
    assert (rules.run_once(root.clock()), studies(root)) == (1, set())


@pytest.mark.slow
def test_commands_say_that_messages_keep_a_study_from_retention_and_not_from_a_person(root: Root) -> None:
    root.index.deliveries.begin("route", {lane_to("up", "ORTHANC"): ("series-quiet",)})
    uid = take_study(root)
    root.convert_due()
    (root.folder / "conf.d").mkdir()
    (root.folder / "conf.d" / "50.toml").write_text("[retention]\ndays = 30\n")
    said = run("retention", "--root", root.folder, check=True).stdout
    assert "kept by messages that wait for hooks or routes, and due otherwise: 1 study" in said
    said = run("delete", uid, "--dry-run", "--root", root.folder, check=True).stdout
    assert "messages to hooks or routes wait" in said


def test_a_dry_run_deletes_nothing(root: Root) -> None:
    take_study(root)
    root.convert_due()
    root.clock.move(31 * DAY)
    assert retention(root, days=30, dry_run=True).run_once(root.clock()) == 1
    assert len(studies(root)) == 1


def test_the_sender_of_each_study_is_known(root: Root) -> None:
    short, long = take_study(root, "SHORT"), take_study(root, "LONG")
    root.convert_due()
    root.clock.move(8 * DAY)
    assert retention(root, days_by_calling_ae_title={"SHORT": 7, "LONG": "never"}).run_once(root.clock()) == 1
    assert studies(root) == {long}
    assert short not in studies(root)


class SlowAudit(Audit):
    """An audit log whose first line takes until something has happened."""

    def __init__(self, root: Root, meanwhile: Callable[[], object]) -> None:
        super().__init__(root.folder, "VOXELNODE", now=root.clock)
        self._meanwhile = [meanwhile]

    def require(self, message: AuditMessage) -> None:
        while self._meanwhile:
            self._meanwhile.pop()()
        super().require(message)


@pytest.mark.parametrize(
    ("is_indexed", "rules", "seconds"),
    [
        (True, {"days": 30, "trash_days": 0}, 31 * DAY),
        (True, {"days": 30}, 31 * DAY),
        (False, {"days": 30, "trash_days": 0}, 31 * DAY),
        (True, {"maximum_studies": 1, "only_converted": False}, -3600),
    ],
)
def test_a_study_that_receives_an_instance_after_it_was_listed_stays_also_if_that_is_not_indexed_yet(
    root: Root, monkeypatch: pytest.MonkeyPatch, is_indexed: bool, rules: dict[str, Any], seconds: float
) -> None:
    *early, late = make.ct_series(4)
    origin = Origin("dicom", "CT1", "VOXELNODE", "127.0.0.1:1")
    root.take_all([*early, *make.ct_series(1)], origin)
    root.convert_due()
    root.clock.move(seconds)

    def acknowledge() -> None:
        with monkeypatch.context() as unapplied:
            unapplied.setattr(root.ingest.applier, "wake", lambda *_: None)  # it takes its time
            incoming = root.ingest.begin(announced(late), origin)
            incoming.take_fragment(data_set_bytes(late))
            incoming.finish()

    audit = SlowAudit(root, (lambda: root.take(late, origin)) if is_indexed else acknowledge)
    settings = Settings(retention=RetentionSettings(**rules))
    Retention(root.archive, root.index, audit, Metrics(), settings, root.clock).run_once(root.clock())
    kept = {row["sop_instance_uid"] for row in root.rows("SELECT sop_instance_uid FROM v_images")}
    assert kept >= {str(ds.SOPInstanceUID) for ds in (*early, late)}
    if is_indexed:
        assert re.search("not done: .*; the index did not change", (root.folder / "audit.jsonl").read_text())


def test_a_study_that_somebody_sends_while_a_pass_runs_stays(root: Root) -> None:
    uid = take_study(root)
    root.convert_due()
    root.clock.move(31 * DAY)
    send = [Attempt(PendingEvent("1", "send", root.clock(), uid), Postponed(root.clock()), 0)]
    audit = SlowAudit(root, lambda: root.index.deliveries.record(lane_to("", "ORTHANC"), send, (), root.clock()))
    settings = Settings(retention=RetentionSettings(days=30))
    Retention(root.archive, root.index, audit, Metrics(), settings, root.clock).run_once(root.clock())
    assert studies(root) == {uid}


class Machine:
    """The time since the start of a machine, which follows the clock of a root until that is set."""

    def __init__(self, root: Root) -> None:
        self._clock, self._began = root.clock, root.clock()
        self.boot = "first"

    def __call__(self) -> Uptime:
        return Uptime(self.boot, (self._clock() - self._began).total_seconds())

    def set_clock(self, root: Root, seconds: float) -> None:
        root.clock.move(seconds)
        self._began += dt.timedelta(seconds=seconds)


def served(root: Root, machine: Machine, after: float = 0, **rules: Any) -> Retention:
    """Retention as after a restart of the node, so many seconds later."""
    root.clock.move(after)
    audit = Audit(root.folder, "VOXELNODE", now=root.clock)
    settings = RetentionSettings(only_converted=False, **rules)
    return Retention(root.archive, root.index, audit, Metrics(), Settings(retention=settings), root.clock, machine)


def waits_for(root: Root) -> str:
    with root.index.reading() as index:
        return index.retention.waits_for or ""


def test_a_clock_that_was_set_forward_deletes_nothing_until_a_person_confirms(root: Root) -> None:
    machine, taken = Machine(root), {take_study(root) for _ in range(5)}
    served(root, machine, days=30).step()
    machine.set_clock(root, 11 * 365 * DAY)
    served(root, machine, days=30).step()
    assert studies(root) == taken
    assert "the clock was set forward by 11.0 years" in waits_for(root)
    machine.set_clock(root, -11 * 365 * DAY)  # somebody has noticed; what was received meanwhile is still in doubt
    served(root, machine, days=30).step()
    assert "the clock was set forward" in waits_for(root)
    assert "set forward" in confirm(root.index, root.clock(), machine(), RULES)
    served(root, machine, days=30).step()
    assert (waits_for(root), studies(root)) == ("", taken)
    served(root, machine, after=31 * DAY, days=30, maximum_share=1.0).step()
    assert studies(root) == set()


def test_what_else_goes_by_age_stays_while_the_clock_is_in_doubt_and_its_time_after_a_confirmation(root: Root) -> None:
    machine, keep = Machine(root), dt.timedelta(hours=24)
    *most, last = make.ct_series(4)
    root.take_all(most)
    root.convert_due()
    root.take(last)
    root.convert_due()
    served(root, machine).step()
    steps = root.index.repository(ScheduledStepRepository)
    steps.add("rest", ScheduledStep(*[None] * 8, root.clock().date(), None, None, {}), root.clock())
    shares = root.index.repository(ShareRepository)
    study = str(last.StudyInstanceUID)

    def link(days: float) -> Share:
        now = root.clock()
        return Share(0, study, "", False, None, "a", now, now + dt.timedelta(days=days), 0, None)

    shares.make("first", link(1))
    housekeeping = Housekeeping(root.archive, root.index, dt.timedelta(days=1), keep, root.clock)
    settings = WorklistSettings(keep_days=30)
    worklist = Worklist(steps, root.index.repository(PerformedStepRepository), settings, root.clock)

    def kept() -> tuple[int, int, int]:
        housekeeping.remove_superseded()
        worklist.step()
        shares.make(uuid4().hex, link(-1))
        others = "SELECT 1 FROM scheduled_steps", "SELECT 1 FROM shares WHERE sha256 = 'first'"
        return len(list((root.folder / "volumes").glob("*/*/*"))), *(len(root.rows(query)) for query in others)

    machine.set_clock(root, 3 * 365 * DAY)  # nobody has looked yet
    assert kept() == (2, 1, 1)
    served(root, machine).step()
    assert "the clock was set forward" in waits_for(root)
    assert kept() == (2, 1, 1)
    confirm(root.index, root.clock(), machine(), RULES)
    served(root, machine).step()
    assert kept() == (2, 1, 0), "a link says itself when it is over"
    served(root, machine, after=23 * 3600).step()
    assert kept() == (2, 1, 0)
    served(root, machine, after=2 * 3600).step()
    assert kept() == (1, 1, 0)
    served(root, machine, after=30 * DAY).step()
    assert kept() == (1, 0, 0)


def test_a_study_received_under_a_clock_that_was_behind_is_as_old_as_the_confirmation(root: Root) -> None:
    machine = Machine(root)
    before = take_study(root)
    served(root, machine, days=30).step()
    machine.set_clock(root, -3 * 365 * DAY)
    behind = take_study(root)
    machine.set_clock(root, 3 * 365 * DAY)
    served(root, machine, days=30).step()
    assert studies(root) == {before, behind}
    assert "before others that came earlier" in waits_for(root)
    confirm(root.index, root.clock(), machine(), RULES)
    served(root, machine, days=30).step()
    assert studies(root) == {before, behind}
    served(root, machine, after=29 * DAY, days=30).step()
    assert studies(root) == {before, behind}
    served(root, machine, after=2 * DAY, days=30).step()
    assert studies(root) == set()


def trash_of(root: Root) -> list[dict[str, Any]]:
    with root.index.reading() as index:
        return index.trash.all()


def test_what_was_deleted_under_a_clock_that_was_behind_stays_in_the_trash_for_its_days(root: Root) -> None:
    machine = Machine(root)
    kept, behind = take_study(root), take_study(root)
    served(root, machine).step()
    machine.set_clock(root, -3 * 365 * DAY)
    root.delete("study", behind, trash_until=root.clock() + dt.timedelta(days=7))
    served(root, machine).step()
    machine.set_clock(root, 3 * 365 * DAY)
    served(root, machine).step()
    assert "was set back" in waits_for(root)
    confirm(root.index, root.clock(), machine(), RULES)
    served(root, machine).step()
    assert ([entry["uid"] for entry in trash_of(root)], waits_for(root)) == ([behind], "")
    served(root, machine, after=6 * DAY).step()
    assert len(trash_of(root)) == 1
    served(root, machine, after=2 * DAY).step()
    assert (trash_of(root), studies(root)) == ([], {kept})


def test_a_deletion_by_a_clock_that_is_behind_the_last_look_is_as_old_as_that_look(root: Root) -> None:
    """No service ran while the clock was wrong: nothing contradicts it afterwards."""
    machine, study = Machine(root), take_study(root)
    served(root, machine).step()
    machine.set_clock(root, -3 * 365 * DAY)
    root.delete("study", study, trash_until=root.clock() + dt.timedelta(days=7))
    machine.set_clock(root, 3 * 365 * DAY)
    served(root, machine, after=6 * DAY).step()
    assert (len(trash_of(root)), waits_for(root)) == (1, "")


def test_links_sessions_and_tokens_of_a_clock_that_was_ahead_are_over(root: Root) -> None:
    study, now = take_study(root), root.clock()
    accounts, shares = root.index.accounts, root.index.repository(ShareRepository)
    accounts.set("reader", Role.READ, None, now)
    known = accounts.by_name("reader")
    assert known is not None
    for secret, begun in (("ahead", now + dt.timedelta(days=365)), ("now", now)):
        until = begun + dt.timedelta(days=7)
        accounts.add_token("reader", secret, secret, until, begun)
        accounts.open_session(known.id, secret, until, begun)
        shares.make(secret, Share(0, study, "", False, None, "reader", begun, until, 0, None))
    for found in (accounts.by_token, accounts.by_session, shares.by_token):
        assert found("now", now) is not None
        assert found("ahead", now) is None


def test_a_receipt_in_the_future_holds_the_first_start_as_well(root: Root) -> None:
    machine = Machine(root)
    machine.set_clock(root, 4000 * DAY)
    ahead = take_study(root)
    machine.set_clock(root, -4000 * DAY)
    now = take_study(root)
    served(root, machine, days=30).step()
    assert "in the future" in waits_for(root)
    confirm(root.index, root.clock(), machine(), RULES)
    served(root, machine, after=31 * DAY, days=30).step()
    assert studies(root) & {ahead, now} == set(), "the study from the future is as old as the confirmation"


def test_a_machine_that_starts_with_another_time_holds_retention(root: Root) -> None:
    machine = Machine(root)
    take_study(root)
    served(root, machine, days=30).step()
    machine.boot = "second"
    passing = served(root, machine, after=40 * DAY, days=30)
    passing.step()
    assert len(studies(root)) == 1
    assert "40.0 days later than when it was last seen" in waits_for(root)
    confirm(
        root.index, root.clock(), machine(), RULES
    )  # the machine was off: the age of what was there before is right
    passing.step()
    assert len(studies(root)) == 0


def test_a_pass_over_an_unusual_share_asks_once_and_for_as_many(root: Root) -> None:
    machine = Machine(root)
    old, young = ([make.ct_series(1)[0] for _ in range(4)] for _ in range(2))
    root.take_all(old)
    root.clock.move(31 * DAY)
    root.take_all(young)
    old, young = ({one.StudyInstanceUID for one in some} for some in (old, young))
    passing = served(root, machine, days=30)
    passing.step()
    assert studies(root) == old | young
    assert waits_for(root).startswith("4 studies are due at once")
    assert confirm(root.index, root.clock(), machine(), RULES) == "4 studies"
    passing.step()
    assert (studies(root), waits_for(root)) == (young, "")
    served(root, machine, after=31 * DAY, days=30).step()
    assert studies(root) == young, "a confirmation holds for one pass"


def test_rules_that_change_withdraw_the_question_and_its_approval(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(5):
        take_study(root)
    root.clock.move(31 * DAY)
    passing = served(root, Machine(root), days=30)
    passing.step()
    assert waits_for(root).startswith("5 studies are due at once")
    passing._settings = Settings(retention=RetentionSettings(only_converted=False, days=60))
    passing.step()
    assert waits_for(root) == ""
    passing._settings = Settings(retention=RetentionSettings(only_converted=False, days=30, maximum_share=1.0))
    monkeypatch.setattr(passing, "_delete", lambda *_: setattr(passing, "_settings", Settings()))
    assert passing.run_once(root.clock()) == 1, "the pass ends when its rules change"


def test_a_pass_takes_the_time_that_was_looked_at(root: Root) -> None:
    machine = Machine(root)
    taken = take_study(root)
    moments = iter([root.clock()])
    audit = Audit(root.folder, "VOXELNODE", now=root.clock)
    rules = RetentionSettings(days=30, only_converted=False)
    later = root.clock() + dt.timedelta(days=4000)
    Retention(
        root.archive, root.index, audit, Metrics(), Settings(retention=rules), lambda: next(moments, later), machine
    ).step()
    assert studies(root) == {taken}


def test_that_the_trash_stays_on_a_short_disk_is_logged_once(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    reasons = iter(["no room", "no room", None, "no room"])
    monkeypatch.setattr(root.index.trash, "has_any", lambda: True)
    monkeypatch.setattr("node.lifecycle.retention.empty_due", lambda *_, **how: next(reasons))
    passing = served(root, Machine(root))
    with capture_logs() as lines:
        for _ in range(4):
            passing.step()
    assert [line["event"] for line in lines].count("trash_not_emptied") == 2


def test_nothing_is_confirmed_if_nothing_waits(root: Root) -> None:
    machine = Machine(root)
    served(root, machine, days=30).step()
    assert confirm(root.index, root.clock(), machine(), RULES) == ""
