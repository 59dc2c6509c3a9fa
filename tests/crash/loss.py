"""Rebuilds after a loss: ``python -m tests.crash.loss --cycles 100``.

A node receives and converts series and is killed. Some files of its archive are removed, and its index is removed,
cut or left. Then the index is rebuilt, which is killed in turn, at named steps and at random moments, until it ends.
What the senders were told is the oracle: every acknowledged instance is there, byte for byte, or is named as lost;
the rebuild exits with 1 exactly while one is; no series that lacks one is called complete, and no volume of fewer
slices took the place of a whole one. When the lost instances are sent again, nothing is lost any more and every
series is converted whole.
"""

import json
import random
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import TimeoutExpired

from node.runtime.failpoints import RECOVERING, VARIABLE
from tests.crash.checker import Checker
from tests.crash.harness import SETTINGS, Campaign, Node, main_of, send, within
from tests.crash.journal import Journal, Sent, new_series
from tests.crash.mutants import VARIABLE as VARIABLE_OF_MUTANT
from tests.made_once import lose_index
from tests.preloaded import Process, run
from tests.rows import view_rows

IDLE_SECONDS = 60.0
REBUILDING = (*RECOVERING, "file-written", "rows-written", "rows-committed", "batch-cleared", "ledger-written")
HARMS = ("index lost", "index cut", "index kept")
DAMAGED_BYTES = 3 << 12


@dataclass(slots=True)
class Losses(Campaign):
    """One run; `mutant`: of `tests.crash.mutants`, for node and rebuild; it then ends with the first problem."""

    mutant: str | None = None
    _series: dict[str, list[Sent]] = field(default_factory=dict)

    def run(self, cycles: int) -> None:
        random_ = random.Random(self.seed)
        with closing(Journal(self.folder / "journal")) as journal:
            for number in range(cycles):
                found = list(self._cycle(random_, journal, HARMS[number % len(HARMS)]))
                self.problems += [f"cycle {number}: {problem}" for problem in found]
                if self.mutant and self.problems:
                    break

    @property
    def _environment(self) -> dict[str, str]:
        return {**SETTINGS, **({VARIABLE_OF_MUTANT: self.mutant} if self.mutant else {})}

    @property
    def _root(self) -> Path:
        return self.folder / "root"

    def _cycle(self, random_: random.Random, journal: Journal, harm: str) -> Iterator[str]:
        new = [new_series(random_.randint(2, 6)) for _ in range(3)]
        self._series |= {series[0].series_instance_uid: series for series in new}
        with Node(self._root, self.mutant) as node:
            assert node.start(), node.log.read_text()[-2000:]
            send(node, [one for series in new for one in series], journal)
            if random_.random() < 0.7:
                self._settle()
        whole = self._whole()
        if random_.random() < 0.7:
            assert run("journal", "drain", "--root", self._root, environment=SETTINGS).returncode == 0
        removed = self._harm(random_, harm)
        yield from self._rebuild(random_)
        lost = {row["sop_instance_uid"] for row in view_rows(self._root, "SELECT * FROM v_lost_instances")}
        self.done["instances lost"] += len(lost)
        if unharmed := lost - removed:
            yield f"{len(unharmed)} instances are called lost whose files nobody removed"
        with Node(self._root, self.mutant) as node:
            assert node.start(), node.log.read_text()[-2000:]
            yield from self._instances(journal, lost)
            self._settle()
            yield from self._verdicts(lost, whole)
            send(node, [one for series in self._series.values() for one in series], journal)
            self._settle()
        with Node(
            self._root, self.mutant
        ) as node:  # the checker looks at a node that has received nothing since its start
            assert node.start(), node.log.read_text()[-2000:]
            checker = Checker(self._root)
            yield from (f"sent again: {problem}" for problem in (*checker.problems(journal), *checker.unsettled()))
            yield from self._verdicts(set(), {})

    def _settle(self) -> None:
        """Wait until nothing is owed to a series; what waits for its lost instances has failed."""
        open_ = "SELECT 1 FROM series WHERE state IN ('receiving', 'converting')"
        assert within(IDLE_SECONDS, lambda: not view_rows(self._root, open_)), "not converted in time"

    def _whole(self) -> dict[str, tuple[int, Path]]:
        """Return revision and folder of the series all of whose instances are in their current volumes."""
        sources = (
            "SELECT s.series_instance_uid, s.revision, count(DISTINCT x.sop_instance_uid) AS sources, min(v.path) AS "
            "path FROM v_series s "
            "JOIN v_sources x ON x.series_instance_uid = s.series_instance_uid AND x.revision = s.revision "
            "JOIN v_volumes v ON v.series_instance_uid = s.series_instance_uid AND v.revision = s.revision "
            "GROUP BY 1, 2"
        )
        rows = {row["series_instance_uid"]: row for row in view_rows(self._root, sources)}
        return {
            uid: (row["revision"], Path(row["path"]).parent)
            for uid, row in rows.items()
            if row["sources"] == len(self._series[uid])
        }

    def _harm(self, random_: random.Random, harm: str) -> set[str]:
        """Remove files of the archive, and harm the index; return the instances whose files are gone."""
        rows = view_rows(self._root, "SELECT sop_instance_uid, path FROM v_images ORDER BY sop_instance_uid")
        victims = random_.sample(rows, min(len(rows), random_.choice((0, 1, 3, 8))))
        for row in victims:
            Path(row["path"]).unlink()
        self.done[harm] += 1
        self.done["files removed"] += len(victims)
        if harm == "index lost":
            lose_index(self._root)
        elif harm == "index cut":
            with (self._root / "index.sqlite").open("r+b") as index:
                index.truncate(max(DAMAGED_BYTES, index.seek(0, 2) // 2))
        return {row["sop_instance_uid"] for row in victims}

    def _rebuild(self, random_: random.Random) -> Iterator[str]:
        """Rebuild the index, with kills on the way."""
        arguments = ["db", "rebuild", "--json", "--root", str(self._root)]
        for _ in range(random_.choice((0, 1, 3))):
            point = random_.choice((None, None, *REBUILDING))
            environment = (
                self._environment
                if point is None
                else self._environment | {VARIABLE: f"{point}:{random_.randint(1, 4)}"}
            )
            with (self.folder / "rebuild.log").open("a") as log:
                process = Process(arguments, environment, log)
            with suppress(TimeoutExpired), process.stdout:
                process.wait(random_.uniform(0.05, 0.6) if point is None else 60)
            process.kill()
            if process.wait() < 0:
                self.done[f"rebuild killed at {point or 'a random moment'}"] += 1
        reported = run(*arguments, environment=self._environment)
        if reported.returncode not in (0, 1):
            yield f"the rebuild failed: {reported.stderr[-2000:]}"
            return
        lost = json.loads(reported.stdout)["lost"]
        if reported.returncode != int(lost > 0):
            yield f"the rebuild exits with {reported.returncode} while {lost} instances are lost"

    def _instances(self, journal: Journal, lost: set[str]) -> Iterator[str]:
        """What was acknowledged is there, byte for byte, or named."""
        rows = {row["sop_instance_uid"]: row for row in view_rows(self._root, "SELECT * FROM v_images")}
        for uid, sha256 in journal.acknowledged():
            row = rows.get(uid)
            if row is None or row["file_missing"]:
                if uid not in lost:
                    yield f"acknowledged, not here, and not named: {uid}"
            elif uid in lost:
                yield f"called lost, and here: {uid}"
            elif row["sha256"] != sha256 or not Path(row["path"]).read_bytes().endswith(journal.sent[uid, sha256].data):
                yield f"other bytes: {uid}"

    def _verdicts(self, lost: set[str], whole: dict[str, tuple[int, Path]]) -> Iterator[str]:
        """A series is called complete only with all instances; nothing less takes the place of a `whole` revision."""
        current = self._whole()
        known = {row["series_instance_uid"] for row in view_rows(self._root, "SELECT * FROM v_series")}
        for row in view_rows(self._root, "SELECT * FROM v_series"):
            uid = row["series_instance_uid"]
            lacks = {one.sop_instance_uid for one in self._series[uid]} & lost
            if lacks and row["verdict"] == "complete":
                yield f"series {uid} is called complete and lacks {len(lacks)} acknowledged instances"
            if uid in whole and lacks:
                revision, folder = whole[uid]
                if row["revision"] > revision:
                    yield f"series {uid}: revision {row['revision']} took the place of the whole one, {revision}"
                if not folder.is_dir():
                    yield f"series {uid} lacks {len(lacks)} instances, and {folder}, which was made of them, is gone"
            if not lacks and not lost and uid not in current:
                yield f"series {uid} is {row['state']} and has no whole volume"
        if absent := self._series.keys() - known - {uid for uid in self._series if self._uids(uid) <= lost}:
            yield f"{len(absent)} series are forgotten"

    def _uids(self, series: str) -> set[str]:
        return {one.sop_instance_uid for one in self._series[series]}


if __name__ == "__main__":
    sys.exit(main_of(Losses, __doc__, 100, "what was acknowledged is there, or named"))
