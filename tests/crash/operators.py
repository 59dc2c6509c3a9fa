"""What people do to an archive, in any order, beside senders and kills; compared with what the node owes.

Hypothesis draws the order. A node may die at any named step; commands meet a node that runs, that was stopped, or that
was killed. At each start of the node, and in the end, its index and its files are compared with the model:

- acknowledged bytes are there, as the current version of their instance or as a kept one, unless they were deleted, or
  their file was harmed and nobody has sent them again since;
- deleted bytes are nowhere, whatever else was done, unless they were sent again.
"""

from __future__ import annotations

import shutil
import signal
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TypeVar

import hypothesis
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from node.failpoints import CONVERTING, DELETING, RECEIVING, RECOVERING, VARIABLE
from tests.crash.checker import Checker, damage, opened
from tests.crash.harness import ONCE, Node, gone
from tests.crash.journal import Journal, Sender, Sent, new_series
from tests.preloaded import run
from tests.rows import wait_until_applied

STEPS = 8
"""Operations in one interleaving."""

PICK = st.integers(0, 1 << 16)
"""Which of those that there are: how many there are depends on when a node died, and must not change what is drawn."""

PICKS = st.lists(PICK, min_size=1, max_size=4)

T = TypeVar("T")

Version = tuple[str, str]
"""SOP Instance UID and SHA-256 of a data set."""

LEVELS = ("study", "series", "instance")
KEPT_IN = ("objects", "quarantine", "incoming")
DELETING_POINTS = (None, *DELETING)
NODE_POINTS = (None, *RECEIVING, *CONVERTING, *RECOVERING, *DELETING)


def picked(those: Sequence[T], pick: int) -> T:
    return those[pick % len(those)]


class Model(Journal):
    """What a node owes: what it acknowledged, less what was deleted or harmed since."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.harmed: set[Version] = set()
        self.deleted: set[str] = set()
        self.doubtful: set[str] = set()  # a command to delete them died, or an older index came back

    def sending(self, one: Sent) -> None:
        super().sending(one)
        self.deleted.discard(one.sop_instance_uid)  # it may be kept although the answer is lost

    def answered(self, one: Sent, status: int) -> None:
        super().answered(one, status)
        if status == 0x0000:
            self.harmed.discard((one.sop_instance_uid, one.sha256))
            self.doubtful.discard(one.sop_instance_uid)

    def acknowledged(self, until: float = float("inf")) -> list[Version]:
        return [version for version in super().acknowledged(until) if version not in self.harmed]

    def delete(self, uids: set[str], *, certainly: bool) -> None:
        """Note that instances were deleted, or that they may have been."""
        for version in [version for version in self.answered_at if version[0] in uids]:
            del self.answered_at[version]
            self.harmed.discard(version)
        (self.deleted if certainly else self.doubtful).update(uids)


class Operators(RuleBasedStateMachine):
    """Senders and operators at one root."""

    mutant: str | None = None

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="voxelnode-operators-"))
        self.root = self.folder / "root"
        self.node = Node(self.root, self.mutant, {"VOXELNODE_SERIES__QUIET_SECONDS": "0.3"})
        self.model = Model(self.folder / "journal")
        self.backups: list[Path] = []
        self._is_sound, self._is_index_older = True, False

    def teardown(self) -> None:
        try:
            self._settle()
        finally:
            self.node.kill()
            self.model.close()
            shutil.rmtree(self.folder)

    # Senders

    @initialize()
    def begin(self) -> None:
        self._send(new_series(3))

    @rule(slices=st.integers(1, 4), large=st.booleans(), point=st.sampled_from(NODE_POINTS), count=st.integers(1, 4))
    def send_new(self, slices: int, large: bool, point: str | None, count: int) -> None:
        self._send(new_series(slices, large=large), point, count)

    @rule(picks=PICKS, altered=st.booleans(), point=st.sampled_from(NODE_POINTS), count=st.integers(1, 4))
    def send_again(self, picks: list[int], altered: bool, point: str | None, count: int) -> None:
        known = list(self.model.sent.values())
        instances = list({pick % len(known): known[pick % len(known)] for pick in picks}.values())
        self._send([one.altered() for one in instances] if altered else instances, point, count)

    @rule()
    def send_what_was_harmed(self) -> None:
        self._send([self.model.sent[version] for version in sorted(self.model.harmed)])

    def _send(self, instances: Sequence[Sent], point: str | None = None, count: int = 1) -> None:
        if point is not None:
            self._end(signal.SIGTERM)
        self._start(point, count)
        sender = Sender(self.node.port, instances, self.model)
        sender.start()
        sender.join()
        if point is not None and point in (*RECEIVING, *CONVERTING) and not sender.broken:
            gone(self.node.process, 3 if point in CONVERTING else 0.3)

    # The process

    @rule(how=st.sampled_from([signal.SIGTERM, signal.SIGKILL]))
    def stop(self, how: signal.Signals) -> None:
        self._end(how)

    @rule()
    def second_node(self) -> None:
        self._start()
        second = run("serve", "--root", self.root, "--port", "0", "--web-port", "0")
        assert second.returncode != 0, "two nodes serve one root"

    def _start(self, point: str | None = None, count: int = 1) -> None:
        """Start the node unless it runs; compare it with the model before it does anything else."""
        if self.node.process and not gone(self.node.process, 0):
            return
        self.node.kill()
        environment = {} if point is None else {VARIABLE: f"{point}:{1 if point in ONCE else count}"}
        if not self.node.start(environment):
            assert point is not None, f"the node does not start: {self._last_words()}"
            assert self.node.start(), f"the node does not start again: {self._last_words()}"
        self._compare()

    def _end(self, how: signal.Signals) -> None:
        self.node.end(how)

    def _last_words(self) -> str:
        return "\n".join(self.node.log.read_text().splitlines()[-5:])

    # Operators

    @rule(pick=PICK, level=st.sampled_from(LEVELS), point=st.sampled_from(DELETING_POINTS))
    def delete(self, pick: int, level: str, point: str | None) -> None:
        """Through the node if it runs; by the command itself, which may die, if not."""
        rows = self._rows()
        if not rows:
            return
        drawn = rows[picked(sorted(rows), pick)]
        column = {"instance": "sop_instance_uid"}.get(level, f"{level}_instance_uid")
        uids = {drawn["sop_instance_uid"]}
        if level != "instance":  # each study has one series; some of it may be in the journal only
            series = drawn["series_instance_uid"]
            uids = {sent.sop_instance_uid for sent in self.model.sent.values() if sent.series_instance_uid == series}
        if point is not None:
            self._end(signal.SIGTERM)
        environment = {} if point is None else {VARIABLE: point}
        done = run("delete", drawn[column], "--yes", "--root", self.root, environment=environment)
        self.model.delete(uids, certainly=done.returncode == 0)
        if done.returncode == 0:
            self._compare()

    @rule()
    def reconvert(self) -> None:
        for series in sorted({row["series_instance_uid"] for row in self._rows().values()})[:1]:
            run("reconvert", series, "--root", self.root)

    @rule(keep=st.booleans())
    def rebuild(self, keep: bool) -> None:
        self._end(signal.SIGTERM)
        if not keep:
            for path in self.root.glob("index.sqlite*"):
                path.unlink()
            self.model.doubtful |= self.model.deleted  # nothing tells any more what was still to be removed
        done = run("db", "rebuild", "--root", self.root)
        assert "Traceback" not in done.stderr, done.stderr
        self._start()

    @rule(options=st.sampled_from([(), ("--hash",), ("--repair",), ("--hash", "--repair")]))
    def fsck(self, options: tuple[str, ...]) -> None:
        if "--repair" in options:
            self._end(signal.SIGTERM)
        done = run("fsck", *options, "--root", self.root)
        assert "Traceback" not in done.stderr, done.stderr
        self._start()

    @rule()
    def backup(self) -> None:
        path = self.folder / f"backup-{len(self.backups)}.sqlite"
        run("db", "backup", path, "--root", self.root, check=True)
        self.backups.append(path)

    @rule(pick=PICK, how=st.sampled_from([signal.SIGTERM, signal.SIGKILL]), repair=st.booleans())
    def restore_index(self, pick: int, how: signal.Signals, repair: bool) -> None:
        """The way back of docs/upgrade.md: an older index over the archive as it is."""
        if not self.backups:
            return
        path = picked(self.backups, pick)
        self._end(how)
        for old in self.root.glob("index.sqlite*"):
            old.unlink()
        shutil.copy(path, self.root / "index.sqlite")
        self.model.doubtful |= self.model.deleted  # rows come back, without files
        self._is_index_older = True
        if repair:
            run("fsck", "--repair", "--root", self.root)
        self._start()

    # Harm

    @rule(pick=PICK, flip=st.booleans())
    def harm(self, pick: int, flip: bool) -> None:
        """Remove a file of the archive, or flip a bit in it."""
        files = sorted(self.root.glob("objects/*/*.dcm"))
        if not files:
            return
        path = picked(files, pick)
        content = bytearray(path.read_bytes())
        versions = [version for version, sent in self.model.sent.items() if content.endswith(sent.data)]
        if flip:
            content[-1] ^= 0x80  # not as `Sent.altered` does it
            path.write_bytes(content)
        else:
            path.unlink()
        self.model.harmed.update(versions)

    # What must be true

    def _rows(self) -> dict[str, sqlite3.Row]:
        wait_until_applied(self.root)
        with closing(opened(self.root)) as index:
            return {row["sop_instance_uid"]: row for row in index.execute("SELECT * FROM v_images")}

    def _compare(self) -> None:
        self._is_sound = False
        problems = [*self._problems()]
        assert not problems, "\n".join(problems)
        self._is_sound = True

    def _problems(self) -> Iterator[str]:
        rows, model = self._rows(), self.model
        files = {path: path.read_bytes() for folder in KEPT_IN for path in self.root.glob(f"{folder}/**/*.dcm")}
        exempt = {uid for uid, _ in model.harmed} | model.doubtful
        for version in model.acknowledged():
            if version[0] in rows and any(content.endswith(model.sent[version].data) for content in files.values()):
                continue
            yield f"acknowledged and lost: {version[0]} ({'other bytes' if version[0] in rows else 'no row'})"
        for uid, row in rows.items():
            sent = model.sent.get((uid, row["sha256"]))
            if uid not in exempt and (sent is None or not files.get(Path(row["path"]), b"").endswith(sent.data)):
                yield f"{uid}: the file is not what was sent, or not what its row says"
        for uid in model.deleted - model.doubtful:
            if uid in rows:
                yield f"deleted, and indexed again: {uid}"
            data = [sent.data for (sent_uid, _), sent in model.sent.items() if sent_uid == uid]
            yield from (
                f"deleted, and still there: {uid} in {path.parent.parent.name}"
                for path, content in files.items()
                if any(content.endswith(one) for one in data)
            )
        named = {Path(row["path"]) for row in rows.values()}
        yield from (f"no row: {path}" for path in files if path.parent.parent.name == "objects" and path not in named)
        with closing(opened(self.root)) as index:
            yield from damage(index)
            forgotten = index.execute("SELECT * FROM v_series WHERE state = 'receiving' AND due_at IS NULL")
            yield from (f"nothing is owed to series {row['series_instance_uid']}" for row in forgotten)

    def _settle(self) -> None:
        """Whatever was harmed can be sent again; then all is whole."""
        if not self._is_sound:
            return
        self._start()
        self.send_what_was_harmed()
        self._end(signal.SIGTERM)
        assert not self.model.harmed, "not taken again"
        self._start()
        self._end(signal.SIGTERM)
        if not self._is_index_older:
            with closing(opened(self.root)) as index:
                assert [*Checker(self.root).volumes(index)] == []


def try_interleavings(count: int, *, steps: int = STEPS, mutant: str | None = None, seed: int | None = None) -> None:
    """Try so many interleavings; always the same ones without a seed.

    Raises
    ------
    AssertionError
        The node lost something, or kept something that was deleted; the message lists the shortest way there.
    """
    machine = type("Operators", (Operators,), {"mutant": mutant})
    if seed is not None:
        machine = hypothesis.seed(seed)(machine)
    chosen = settings(
        max_examples=count,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        derandomize=seed is None,
        print_blob=False,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate] if mutant is not None else [Phase.generate, Phase.shrink],
    )
    run_state_machine_as_test(machine, settings=chosen)
