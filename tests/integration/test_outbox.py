"""What hooks are owed: by whom it is inserted, and what kills, deletions and other configurations do to it."""

import datetime as dt
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from random import Random
from typing import Any

import pytest
from sqlalchemy import Connection

from node.api import Audit, HookEvent
from node.extensions.channels.settings import WebhookSettings
from node.index.rows.records import Lane
from node.index.rules.work.events import record_event
from node.index.rules.work.routes import lane_to
from node.notify.notifier import HookWorker
from node.runtime.metrics import Metrics
from tests import make
from tests.integration.conftest import Root
from tests.receivers import Receiver, channel_of

ALL: tuple[HookEvent, ...] = ("instance-stored", "series-quiet", "volume-written", "volume-superseded", "study-quiet")

Owed = Callable[[], tuple[int, int]]


class Killed(BaseException):
    """The process ends here."""


class Hooks:
    """Three hooks that want the same: `calm` goes on, the others are killed wherever `dies` says so."""

    NAMES = ("calm", "one", "two")

    def __init__(self, root: Root, audit: Audit, opened: ExitStack) -> None:
        self._root, self._audit, self._opened = root, audit, opened
        self.receivers = {name: opened.enter_context(Receiver()) for name in self.NAMES}
        self.dies: Callable[[], bool] = lambda: False
        self.kills = self.most = 0  # without a limit, a long batch would never come to its end
        self.workers = {name: self._started(name) for name in self.NAMES}

    def _started(self, name: str) -> HookWorker:
        self._root.index.deliveries.begin("hook", {Lane("hook", one): ALL for one in self.NAMES})
        hook = WebhookSettings(on=ALL, url=self.receivers[name].url)
        channel = channel_of(name, hook)
        self._opened.callback(channel.close)
        rest = self._audit, "VOXELNODE", self._root.results, self._root.clock
        worker = HookWorker(name, hook, channel, self._root.index, Metrics(), *rest)
        worker._keep_pace = lambda: None  # type: ignore[method-assign]
        return worker

    def reached(self, _: str = "") -> None:
        """Be killed here, perhaps."""
        if self.dies():
            self.kills += 1
            raise Killed

    def work(self, name: str) -> None:
        """Deliver what is owed, over any number of starts."""
        while True:
            try:
                while self.workers[name].work():
                    self.reached()
                return
            except Killed:
                self.workers[name] = self._started(name)

    def reported(self, name: str) -> list[str]:
        """The ids of the messages, in the order in which each came first; repeats have the same bytes."""
        bodies: dict[str, bytes] = {}
        for one in self.receivers[name].received:
            assert bodies.setdefault(one.headers["webhook-id"], one.body) == one.body
        return list(bodies)


@pytest.fixture
def hooks(root: Root, audit: Audit) -> Iterator[Hooks]:
    with ExitStack() as opened:
        yield Hooks(root, audit, opened)


@pytest.mark.sample(0, 1)
@pytest.mark.parametrize("seed", range(4))
def test_kills_between_commit_delivery_and_record_lose_nothing_and_reorder_nothing(
    root: Root, hooks: Hooks, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    random, record = Random(seed), root.index.deliveries.record

    def record_or_die(*arguments: Any) -> None:
        hooks.reached()
        record(*arguments)
        hooks.reached()

    monkeypatch.setattr("node.notify.notifier.reached", hooks.reached)
    monkeypatch.setattr(root.index.deliveries, "record", record_or_die)
    for number, one in enumerate([make.ct_series(2) for _ in range(3)], start=1):
        hooks.most = 6 * number
        for ds in one:
            root.take(ds)
            root.clock.move(1)
        if random.random() < 0.7:
            root.convert_due()
        if random.random() < 0.5:
            root.mark_quiet()
        hooks.dies = lambda: False
        hooks.work("calm")
        hooks.dies = lambda: random.random() < 0.1 and hooks.kills < hooks.most
        for name in random.sample(("one", "two"), random.randint(0, 2)):
            hooks.work(name)
        if random.random() < 0.4 and all(hooks.reported(name) == hooks.reported("calm") for name in ("one", "two")):
            root.delete("series", str(one[0].SeriesInstanceUID))  # its numbers must not be those of the next series
            root.clock.move(1)
    hooks.dies = lambda: False
    for name in ("one", "two"):
        hooks.work(name)
        assert hooks.reported(name) == hooks.reported("calm")
    assert hooks.kills > 0
    assert len(hooks.reported("calm")) >= 6
    assert root.rows("SELECT 1 FROM v_hooks WHERE instances_behind + events_behind + waiting > 0") == []


@pytest.fixture
def owed(root: Root) -> Owed:
    """How many instances and events one hook is owed."""

    def count() -> tuple[int, int]:
        [hook] = root.rows("SELECT * FROM v_hooks")
        return hook["instances_behind"], hook["events_behind"]

    return count


def begin(root: Root, *on: HookEvent) -> None:
    root.index.deliveries.begin("hook", {Lane("hook", "one"): on})


def test_a_transaction_that_fails_owes_nothing(root: Root, owed: Owed) -> None:
    begin(root, *ALL)

    def write(connection: Connection) -> None:
        moment = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
        record_event(connection, "study-quiet", moment, study_instance_uid="1.2")
        record_event(connection, "deleted", moment, study_instance_uid="1.2")
        raise ValueError

    with suppress(ValueError):
        root.index._writer.run(write)
    assert owed() == (0, 0)


def test_only_what_is_wanted_is_owed_and_a_deletion_takes_instances_away(root: Root, owed: Owed) -> None:
    begin(root, "instance-stored", "volume-written")
    series, other = make.ct_series(3), make.ct_series(2)
    root.take_all([*series, *other])
    root.convert_due()
    assert owed() == (5, 2)
    root.delete("instance", str(series[0].SOPInstanceUID))
    assert owed() == (4, 2)
    root.delete("study", str(other[0].StudyInstanceUID))
    assert owed()[0] == 2


def test_a_hook_that_wants_less_is_owed_less(root: Root, owed: Owed) -> None:
    begin(root, "instance-stored", "series-quiet", "volume-written")
    root.take_all(make.ct_series(3))
    root.convert_due()
    assert owed() == (3, 2)
    begin(root, "instance-stored", "volume-written")
    assert owed() == (3, 1)
    begin(root, "volume-written", "study-quiet")
    assert root.rows("SELECT instances_behind, events_behind FROM v_hooks") == [
        {"instances_behind": None, "events_behind": 1}
    ]


def test_a_start_matches_the_subscribers_of_its_kind_alone(root: Root) -> None:
    pacs, retried = lane_to("night", "pacs"), "SELECT retry_at IS NOT NULL AS retried FROM v_routes"
    begin(root, "volume-written")
    root.index.deliveries.begin("route", {pacs: ()})
    root.index.routes.note_trouble(pacs, "away", root.clock(), root.clock())
    root.index.deliveries.begin("hook", {})
    assert root.rows("SELECT 1 FROM v_hooks") == []
    assert root.rows(retried) == [{"retried": True}]
    root.index.deliveries.begin("route", {pacs: ()})
    assert root.rows(retried) == [{"retried": False}]
