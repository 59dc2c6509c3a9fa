"""The verdict of a series, whatever happens to it, is the pure one over a plain model that forgets nothing."""

import datetime as dt
import hashlib
import json
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydicom import FileDataset

from node.completeness import Completeness, Findings, Party, Reported, expectation, findings_of, performed, verdict_of
from node.conversion.series import is_unchanged
from node.dicom.counts import InstanceCounts
from node.extensions.worklist.performed_steps import ListedSeries, PerformedStep, PerformedStepRepository
from node.files.acknowledged import Acknowledged
from node.index.rows.records import ClaimedSeries
from node.index.rules.series.waits import OPEN_SECONDS
from node.receive.ingest import Origin
from tests import make
from tests.integration.conftest import QUICK, Clock, Root, data_set_bytes, opened_root
from tests.made_once import IN_POSTGRESQL
from tests.unit.test_quiet import Abort, Instance, asked_by

QUIET, GRACE, LONGEST = 60, 300, 1000
COLUMNS = (
    "verdict, verdict_rule, expected_instances, expected_source, missing_instances, verdict_reason, missing_detail, "
    "missing_at_sender"
)
BEGIN = Clock().moment


Step = tuple[int, tuple[Any, ...]]
"""Seconds that pass, and then a method of `Driver` with its arguments."""


@dataclass
class Association:
    name: str
    sender: str
    began: int
    origin: Origin
    order: int
    brought: set[int] = field(default_factory=set)
    open_until: int = 0


@dataclass
class Model:
    """What has happened to one series, by the clock on the wall."""

    counts: list[InstanceCounts]
    uids: list[str]
    here: dict[int, str] = field(default_factory=dict)  # the sender of each instance
    open: dict[str, Association] = field(default_factory=dict)  # by sender
    happened: list[Instance | Abort] = field(default_factory=list)  # while the series waits
    is_at_once: bool = False
    order: int = 0  # of the step, whatever the clock says
    ends: list[tuple[Party, int]] = field(default_factory=list)  # by their order
    last_order: int = 0  # of the last instance
    last_received: int = 0
    open_since: int = 0
    listed: set[str] = field(default_factory=set)
    reported: Reported | None = None
    lost: set[int] = field(default_factory=set)
    state: str = "none"
    claimed: frozenset[int] | None = None
    is_revoked: bool = False
    found: Findings = field(default_factory=Findings)
    rule: str = ""

    def end(self) -> tuple[Party, int]:
        return next(((party, at) for party, at in reversed(self.ends) if at > self.last_order), ("", 0))

    def is_due(self, now: int) -> bool:
        brings = any(one.open_until > now for one in self.open.values())
        is_quiet = self.is_at_once or (max(asked_by(self.happened), default=0) <= now and not brings)
        return self.state == "receiving" and (is_quiet or self.open_since <= now - LONGEST)

    def verdict(self) -> Completeness:
        stored = [self.uids[number] for number in self.here]
        known = expectation(
            [self.counts[number] for number in self.here],
            reported=self.reported,
            aborted=self.end()[0],
            performed=performed(self.listed, stored) if self.listed else None,
            lost=len(self.lost),
        )
        return verdict_of(known, self.found)


class Driver:
    """A real index and the model of one of its series, to which the same happens."""

    def __init__(self, folder: Path, instances: list[FileDataset]) -> None:
        self.folder, self.clock, self.opened, self.instances = folder, Clock(), ExitStack(), instances
        self.root, self.names = self._open(), count()
        counts = [
            InstanceCounts(int(ds.InstanceNumber), images_in_acquisition=ds.get("ImagesInAcquisition"))
            for ds in instances
        ]
        self.model = Model(counts, [str(ds.SOPInstanceUID) for ds in instances])
        self.key = str(instances[0].StudyInstanceUID), str(instances[0].SeriesInstanceUID)
        self.claim: ClaimedSeries | None = None
        self.conversions = 0

    @property
    def now(self) -> int:
        return round((self.clock() - BEGIN).total_seconds())

    def _open(self) -> Root:
        self.opened.close()
        return self.opened.enter_context(opened_root(self.folder, self.clock))

    def receive(self, sender: str, numbers: list[int]) -> None:
        """Instances come; those that are here already come again."""
        model = self.model
        origin = Origin("dicom", sender, "VOXELNODE", "127.0.0.1:1", f"a{next(self.names)}")
        new = Association(origin.association, sender, self.now, origin, model.order)
        one = model.open.setdefault(sender, new)
        for number in numbers:
            self.root.take(self.instances[number], one.origin)
            instance = Instance(sender, self.now, QUIET, one.began)
            one.brought.add(number)
            one.open_until = self.now + round(OPEN_SECONDS)
            is_new = number not in model.here
            if is_new:
                model.here[number] = sender
                if model.state in ("none", "converted"):
                    model.state, model.happened, model.open_since = "receiving", [], self.now
                model.last_received, model.last_order = max(model.last_received, self.now), model.order
                model.open_since = min(model.open_since, self.now)
            if is_new or model.state != "converted":
                model.happened = [instance] if model.is_at_once else [*model.happened, instance]
                model.is_at_once = False
            if is_new and model.listed and model.listed <= {model.uids[other] for other in model.here}:
                model.happened, model.is_at_once = [], True
            if number in model.lost:
                model.lost.discard(number)
                model.is_revoked = model.claimed is not None

    def end(self, sender: str, outcome: str) -> None:
        """An association ends."""
        model = self.model
        if (one := model.open.pop(sender, None)) is None:
            return
        self.root.end(one.name, "released" if outcome == "released" else "aborted", is_cut=outcome == "cut")
        if outcome != "released":
            self._ended(one, "cut" if outcome == "cut" else "sender")
            return
        was_aborted = any(party in ("sender", "cut") for party, _ in model.ends)
        is_doubted = any(party == "node" for party, _ in model.ends) and sender in model.here.values()
        party, at = model.end()
        had = sum(other == sender for other in model.here.values())
        is_in_doubt = was_aborted or (is_doubted and (model.state != "converted" or model.rule == "association"))
        if is_in_doubt and party and at < one.order and 0 < had <= len(one.brought):
            model.ends.append(("", model.order))

    def _ended(self, one: Association, party: Party) -> None:
        model = self.model
        model.ends.append((party, model.order))
        if model.state != "converted":
            last = min(model.last_received, self.now)
            abort = Abort(one.sender, self.now, last + GRACE - self.now)
            model.happened = [abort] if model.is_at_once else [*model.happened, abort]
            model.is_at_once = False

    def restart(self) -> None:
        """The node is killed, and starts again."""
        self.finish()
        self.root = self._open()
        self.root.index.associations.end_cut_off(dt.timedelta(seconds=GRACE), self.clock())
        for one in self.model.open.values():
            if self.model.state != "converted":
                self._ended(one, "node")
        self.model.open.clear()

    def report(self, more: int, lists: bool, ends_wait: bool) -> None:
        """The sender says what it has."""
        model, received = self.model, len(self.model.here)
        named = tuple(f"1.2.{number}" for number in range(max(0, more)))
        said = Reported(received, received + more, len(named) if lists else None, named if lists else ())
        self.root.index.series.record_reported(self.key, said, self.clock(), ends_wait=ends_wait)
        if received:
            model.reported = said
            if model.state == "receiving" and ends_wait:
                model.happened, model.is_at_once = [], True

    def perform(self, numbers: list[int], is_over: bool) -> None:
        """A performed procedure step ends that lists instances."""
        model, steps = self.model, self.root.index.repository(PerformedStepRepository)
        listed = tuple(model.uids[number] for number in numbers)
        series = (ListedSeries(self.key[1], listed),)
        step = PerformedStep(
            f"{self.key[1]}.{next(self.names)}", "IN PROGRESS", self.key[0], *[None] * 5, (), series, {}
        )  # fmt: skip
        now = self.clock()
        assert steps.create(step, "RIS", now)
        assert steps.change(replace(step, state="DISCONTINUED" if is_over else "COMPLETED"), now, now)
        model.listed |= set(listed)
        if model.state == "receiving" and (is_over or model.listed <= {model.uids[other] for other in model.here}):
            model.happened, model.is_at_once = [], True

    def lose(self, number: int) -> None:
        """An instance was acknowledged and is not here; or it is written off."""
        model = self.model
        if number in model.here:
            return
        if number in model.lost:
            self.root.index.lost.write_off([model.uids[number]], "somebody", self.clock())
            model.lost.discard(number)
            model.is_revoked = model.claimed is not None
            if model.state == "converted":
                model.state, model.is_at_once, model.open_since = "receiving", True, self.now
            return
        digest = hashlib.sha256(data_set_bytes(self.instances[number])).hexdigest()
        what = model.uids[number], *self.key, digest, "dicom", "", "", self.clock().isoformat()
        assert self.root.index.lost.record([Acknowledged(*what)], self.clock()) == 1
        model.lost.add(number)

    def jump(self, seconds: int) -> None:
        """The clock is stepped, and the node notices it."""
        model = self.model
        self.clock.move(seconds)
        self.root.index.timers.shift(dt.timedelta(seconds=seconds))
        for one in model.open.values():
            one.open_until += seconds
            one.began += seconds
        if model.state == "converted":
            return
        model.open_since += seconds
        model.happened = [
            replace(one, ended=one.ended + seconds)
            if isinstance(one, Abort)
            else replace(one, received=one.received + seconds, began=one.began + seconds)
            for one in model.happened
        ]

    def do(self, steps: list[Step]) -> None:
        """Do steps, each after so many seconds."""
        for seconds, (name, *arguments) in steps:
            self.clock.move(seconds)
            self.model.order += 1
            getattr(self, name)(*arguments)
            self.compare()

    def settle(self) -> None:
        """Let the series be quiet, and convert it."""
        self.finish()
        self.do([(400, ("convert",)), (1, ("convert",))])

    def convert(self) -> None:
        """Claim the series if it is due; it is converted with the next call."""
        if self.claim is not None:
            self.finish()
            return
        self.claim = self.root.index.series.claim_due(self.clock(), dt.timedelta(seconds=LONGEST))
        assert (self.claim is not None) == self.model.is_due(self.now)
        if self.claim is not None:
            self.model.state, self.model.claimed, self.model.is_revoked = (
                "converting",
                frozenset(self.model.here),
                False,
            )

    def finish(self) -> None:
        """Convert what is claimed, as the worker does."""
        if (claim := self.claim) is None:
            return
        model, self.claim = self.model, None
        if is_unchanged(claim, self.root.archive, QUICK):
            self.root.index.series.record_unchanged(claim, self.clock())
            is_revoked = False
        else:
            is_revoked = model.is_revoked
            assert self.root.convert(claim) != is_revoked
            self.conversions += not is_revoked
        late = [number for number in model.here if number not in (model.claimed or ())]
        model.claimed = None
        if model.is_revoked or late:
            model.state = "receiving"
            if not is_revoked and late:
                model.open_since = self._received_at(late)
            return
        model.state, model.happened, model.is_at_once = "converted", [], False

    def _received_at(self, numbers: list[int]) -> int:
        uids = ", ".join(f"'{self.model.uids[number]}'" for number in numbers)
        [row] = self.root.rows(f"SELECT min(received_at) AS at FROM v_images WHERE sop_instance_uid IN ({uids})")
        return round((dt.datetime.fromisoformat(row["at"]).replace(tzinfo=dt.UTC) - BEGIN).total_seconds())

    def compare(self) -> None:
        """The row of the series has the verdict of the model, once it is closed."""
        columns = f"{COLUMNS}, state, revision"
        rows = self.root.rows(f"SELECT {columns} FROM v_series WHERE series_instance_uid = :uid", uid=self.key[1])
        assert [row["state"] for row in rows] == ([] if self.model.state == "none" else [self.model.state])
        for row in rows:
            assert row["revision"] == self.conversions, "a verdict has converted something"
            self.model.rule = row["verdict_rule"] or ""
            if self.model.state != "converted":
                continue
            [conversion] = self.root.rows(
                "SELECT findings FROM conversions c JOIN series se ON se.id = c.series_id "
                "WHERE NOT superseded AND series_instance_uid = :uid",
                uid=self.key[1],
            )
            self.model.found = findings_of(json.loads(conversion["findings"]))
            wanted = asdict(self.model.verdict())
            names = "state", "rule", "expected", "expected_source", "missing", "reason", "missing_detail"
            assert tuple(row.values())[:8] == (*(wanted[name] for name in names), wanted["missing_at_sender"])

    def compare_sidecars(self) -> None:
        """The current sidecar of a closed series tells the verdict of the model."""
        self.root.write_verdicts()
        query = "SELECT path FROM v_volumes WHERE NOT superseded AND series_instance_uid = :uid"
        paths = {Path(row["path"]).parent / "volume.json" for row in self.root.rows(query, uid=self.key[1])}
        if self.model.state == "converted" and self.model.here:
            assert [json.loads(path.read_text())["completeness"] for path in paths] == [self.model.verdict().document()]


SENDERS = st.sampled_from("AB")
SOME = st.lists(st.integers(0, 5), min_size=1, max_size=6, unique=True)
STEPS = {
    "receive": st.tuples(st.just("receive"), SENDERS, SOME),
    "end": st.tuples(st.just("end"), SENDERS, st.sampled_from(["aborted", "cut", "released"])),
    "restart": st.tuples(st.just("restart")),
    "report": st.tuples(st.just("report"), st.integers(-1, 2), st.booleans(), st.booleans()),
    "perform": st.tuples(st.just("perform"), SOME, st.booleans()),
    "lose": st.tuples(st.just("lose"), st.integers(0, 5)),
    "jump": st.tuples(st.just("jump"), st.sampled_from([-7200, -100, 100, 7200])),
    "convert": st.tuples(st.just("convert")),
}
if IN_POSTGRESQL:
    del STEPS["jump"]  # the hosts of an index follow the clock of its database
LATER = st.sampled_from([*STEPS, *STEPS, "end", "end", "lose", "convert"]).flatmap(STEPS.__getitem__)
SECONDS = st.sampled_from([1, 30, 70, 400, 1100])
TIMES = st.tuples(SECONDS, st.tuples(st.just("receive"), SENDERS, SOME)), st.tuples(SECONDS, LATER)
EPISODES = st.lists(st.tuples(TIMES[0], st.lists(TIMES[1], max_size=4), st.lists(TIMES[1], max_size=5)), max_size=3)
"""Instances come, something happens, the series is converted once it is due, and something happens after that."""


COMES: Step = 1, ("receive", "A", [0, 1, 2])
ABORTED: Step = 1, ("end", "A", "aborted")
CONVERTED: Step = 1, ("convert",)


@pytest.mark.slow
@pytest.mark.postgresql
@pytest.mark.timeout(400)
@settings(max_examples=15, deadline=None)
@example([(COMES, [], [(1, ("end", "A", "aborted")), (70, COMES[1]), (1, ("end", "A", "released"))])], None)
@example(
    [(COMES, [(1, ("end", "A", "released"))], [(1, ("report", 2, True, False)), (1, ("report", 0, False, False))])], 6
)
@example([(COMES, [(1, ("end", "A", "cut"))], [(1, ("perform", [0, 1], False)), (1, ("perform", [5], True))])], None)
@example(
    [(COMES, [(1, ("restart",))], [(1, ("lose", 3)), (1, ("lose", 3)), (1, ("convert",)), (1, ("convert",))])], None
)
@example(
    [(COMES, [ABORTED, (10, ("receive", "B", [3])), (1, ("end", "B", "released")), (288, CONVERTED[1])], [])], None
)
@example([(COMES, [(400, CONVERTED[1]), ABORTED, CONVERTED], [(1, ("receive", "A", [3])), (70, CONVERTED[1])])], None)
@example([(COMES, [ABORTED, (100, ("receive", "A", [3])), (1, ("end", "A", "released"))], [ABORTED])], None)
@example(
    [(COMES, [(400, CONVERTED[1]), (1, ("report", 1, True, False)), CONVERTED], [(1, ("report", 1, True, False))])],
    None,
)
@example([(COMES, [(50, COMES[1]), (59, CONVERTED[1])], [COMES])], None)
@example([(COMES, [], [ABORTED, (1, ("report", 1, True, False)), COMES, (1, ("end", "A", "released"))])], None)
@example([(COMES, [(1, ("report", 0, False, True)), CONVERTED], [])], None)
@given(episodes=EPISODES, announced=st.sampled_from([None, None, 6]))
def test_a_verdict_is_the_pure_one_whatever_happened(
    episodes: list[tuple[Step, list[Step], list[Step]]], announced: int | None
) -> None:
    instances = make.ct_series(6, **({} if announced is None else {"ImagesInAcquisition": announced}))
    with TemporaryDirectory() as folder:
        driver = Driver(Path(folder, "root"), instances)
        with driver.opened:
            for first, before, after in episodes:
                driver.do([first, *before])
                driver.settle()
                driver.do(after)
                driver.finish()
                driver.compare()
                driver.compare_sidecars()


@pytest.mark.long
@pytest.mark.timeout(1200)
@settings(max_examples=200, deadline=None)
@given(episodes=EPISODES, announced=st.sampled_from([None, None, 6]))
def test_a_verdict_is_the_pure_one_whatever_happened_of_many_things(
    episodes: list[tuple[Step, list[Step], list[Step]]], announced: int | None
) -> None:
    test_a_verdict_is_the_pure_one_whatever_happened.hypothesis.inner_test(episodes, announced)
