"""Kills of what a node does beside its senders: ``python -m tests.crash.services --cycles 100``.

A node deletes each study some seconds after its last instance, and empties its trash some seconds later. It reads its
archive again and again, runs a command for each volume, and forwards each instance to a second node. Senders bring new
studies, and late slices of studies that are about to be deleted. Files of the archive are removed or flipped, and are
later put back or sent again. In each cycle the node is killed (SIGKILL) at a named step or at a random moment, and now
and then the second node. After each restart:

- what was acknowledged is in the index with its file, or in the trash with its file, or was let go: by a deletion that
  its age allowed, and whose time in the trash was over;
- no file of the archive is without a row, no deletion is half done, and the ledger owes nothing that is not there;
- `fsck --hash` finds nothing, and nothing is marked, but what was harmed;
- the command ran for each message that is called delivered, and the second node has each instance that is called sent.

In the end, all harmed files are found; once they are mended, nothing is marked, every volume was told, and the second
node has every instance that was not deleted.
"""

import json
import random
import signal
import sqlite3
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from node.runtime.failpoints import DELETING, DELIVERING, FORWARDING, VARIABLE
from tests.crash import routes
from tests.crash.checker import Checker, damage, digest_of, opened
from tests.crash.harness import Campaign, Node, beside_random_moments, gone, main_of, within
from tests.crash.journal import Delivery, Journal, Sender, Sent, new_series
from tests.preloaded import FIRST_WAIT, run
from tests.programs import free_port
from tests.rows import view_rows

POINTS = (*DELETING, "trash-emptied", *DELIVERING, *FORWARDING)
KEPT_SECONDS, TRASH_SECONDS = 2.0, 3.0
ALIVE_SECONDS = 2.0
"""Longest time until a kill."""

OFTEN, SELDOM = 0.7, 0.3
IDLE_SECONDS = 60.0
DAY = 86400.0


class Dated(Journal):
    """A journal that knows when each instance was sent first, in seconds of the clock that the node has, too."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.began: dict[str, float] = {}

    def sending(self, one: Sent) -> Delivery:
        self.began.setdefault(one.sop_instance_uid, time.time())
        return super().sending(one)


@dataclass(slots=True)
class Services(Campaign):
    """One run; `mutant`: of `tests.crash.mutants`."""

    mutant: str | None = None
    _waiting: list[Sent] = field(default_factory=list)
    _late: list[tuple[float, Sent]] = field(default_factory=list)  # when it is to be sent
    _harmed: dict[str, tuple[Path, bytes]] = field(default_factory=dict)  # what the file had been
    _ever_harmed: set[str] = field(default_factory=set)

    def run(self, cycles: int) -> None:
        """Run so many cycles, or until something is wrong."""
        random_, moments = random.Random(self.seed), beside_random_moments(POINTS)
        for place in (self._root, self._root_of_there):
            place.parent.mkdir()
        of_there = routes.ENVIRONMENT | routes.OF_THE_SECOND_NODE
        there = Node(self._root_of_there, environment=of_there, port=free_port())
        with ExitStack() as opened_:
            journal = opened_.enter_context(closing(Dated(self.folder / "journal")))
            opened_.callback(there.kill)
            routes.begin(there)
            here = opened_.enter_context(Node(self._root, self.mutant, self._configured(there.port)))
            for number in range(cycles):
                self._cycle(random_, here, there, journal, random_.choice(moments))
                self.problems += [f"cycle {number}: {problem}" for problem in self._after_restart(here, journal)]
                if self.problems:
                    return
            self.problems += self._settled(random_, here, journal)

    @property
    def _root(self) -> Path:
        return self.folder / "here" / "root"

    @property
    def _root_of_there(self) -> Path:
        return self.folder / "there" / "root"

    @property
    def _calls(self) -> Path:
        return self.folder / "calls"

    def _configured(self, port: int) -> dict[str, str]:
        """Return the environment of the node that is killed."""
        script, config = self.folder / "count", self.folder / "here.toml"
        script.write_text(f'#!/bin/sh\necho "$1 $2" >> {self._calls}\n')
        script.chmod(0o755)
        tables: dict[str, dict[str, Any]] = {
            "storage": {"scrub_days": 1e-7},
            "retention": {"days": KEPT_SECONDS / DAY, "trash_days": TRASH_SECONDS / DAY, "maximum_share": 1},
            "peers.SENDER": {"ae_title": "SENDER"},
            "peers.THERE": {"ae_title": "THERE", "host": "127.0.0.1", "port": port},
            "routes.now": {"when": "instance-stored", "to": ["THERE"]},
            "hooks.count": {
                "kind": "command",
                "on": ["volume-written"],
                "command": [str(script), "{series_instance_uid}", "{revision}"],
            },
        }
        config.write_text(routes.as_toml(tables))
        return {
            "VOXELNODE_CONFIG": str(config),
            "VOXELNODE_DICOM__HOST": "127.0.0.1",
            "VOXELNODE_LOG__LEVEL": "error",
            "VOXELNODE_SERIES__QUIET_SECONDS": "0.5",
            "VOXELNODE_SERIES__ABORTED_GRACE_SECONDS": "0.5",
            FIRST_WAIT: "0.3",
        }

    def _cycle(self, random_: random.Random, here: Node, there: Node, journal: Dated, point: str | None) -> None:
        """Receive, delete, compare, tell and forward, and die."""
        environment = {} if point is None else {VARIABLE: f"{point}:{random_.randint(1, 2)}"}
        seconds = ALIVE_SECONDS if point is not None else random_.uniform(0.0, ALIVE_SECONDS)
        if here.start(environment):
            now = time.time()
            self._late, due = [one for one in self._late if one[0] > now], [one for one in self._late if one[0] <= now]
            new = [new_series(random_.randint(3, 5)) for _ in range(random_.randint(1, 3))]
            self._late += [(now + random_.uniform(0, 4 * KEPT_SECONDS), series.pop()) for series in new]
            self.done["late slices"] += len(due)
            again = self._chosen(random_, SELDOM)
            sender = self._send(
                here, journal, [*(one for _, one in due), *(one for series in new for one in series)], again
            )
            self._harm(random_)
            if random_.random() < SELDOM:
                there.kill()
                routes.begin(there)
                self.done["second node killed"] += 1
            died = gone(here.process, seconds)
            here.kill()
            sender.join()
        else:
            died = True
        self.done[f"killed at {point if died else 'a random moment'}"] += 1

    def _send(self, here: Node, journal: Dated, new: Sequence[Sent], again: Sequence[str]) -> Sender:
        """Send new instances, with what was not acknowledged before, and harmed ones again."""
        acknowledged = {uid for uid, _ in journal.acknowledged()}
        self._waiting = [one for one in (*self._waiting, *new) if one.sop_instance_uid not in acknowledged]
        sent = {uid: one for (uid, _), one in journal.sent.items()}
        sender = Sender(here.port, [*self._waiting, *(sent[uid] for uid in again)], journal)
        sender.start()
        self.done["harmed files sent again"] += len(again)
        return sender

    def _chosen(self, random_: random.Random, share: float) -> list[str]:
        """Return some of the instances whose files are harmed; those of deleted ones stay as they are."""
        present = self._present()
        return [uid for uid in sorted(self._harmed) if uid in present and random_.random() < share]

    def _present(self, condition: str = "1") -> set[str]:
        rows = view_rows(self._root, f"SELECT sop_instance_uid FROM v_images WHERE {condition}")
        return {row["sop_instance_uid"] for row in rows}

    def _harm(self, random_: random.Random) -> None:
        """Put harmed files back, and remove or flip another one."""
        for uid in self._chosen(random_, SELDOM):
            self._put_back(uid)
        if random_.random() < OFTEN:
            self._harm_one(random_)

    def _harm_one(self, random_: random.Random) -> None:
        rows = view_rows(self._root, "SELECT sop_instance_uid, path FROM v_images WHERE NOT file_missing ORDER BY path")
        rows = [row for row in rows if row["sop_instance_uid"] not in self._harmed]
        if not rows:
            return
        row = random_.choice(rows)
        path = Path(row["path"])
        try:
            content = path.read_bytes()
            if random_.random() < 0.5:
                path.unlink()
            else:
                with path.open("r+b") as file:
                    file.seek(-1, 2)
                    file.write(bytes([content[-1] ^ 0x80]))
        except FileNotFoundError:  # the trash was emptied
            return
        self._harmed[row["sop_instance_uid"]] = path, content
        self._ever_harmed.add(row["sop_instance_uid"])
        self.done["files harmed"] += 1

    def _put_back(self, uid: str) -> None:
        path, content = self._harmed[uid]
        if str(path) in {row["path"] for row in view_rows(self._root, "SELECT path FROM v_images")}:
            path.write_bytes(content)
            self.done["harmed files put back"] += 1

    def _note_mended(self, journal: Dated) -> None:
        """Forget the harm of files that are whole again: put back, or sent again."""
        rows = {row["sop_instance_uid"]: row for row in view_rows(self._root, "SELECT * FROM v_images")}
        for uid in [*self._harmed]:
            if uid in rows and digest_of(Path(rows[uid]["path"])) == rows[uid]["sha256"]:
                del self._harmed[uid]

    def _after_restart(self, here: Node, journal: Dated) -> Iterator[str]:
        """Start the node, end it in good order, and compare what it left."""
        if not here.start():
            yield f"no start: {here.log.read_text()[-2000:]}"
            return
        if here.end(signal.SIGTERM) != 0:
            yield "the node does not stop in good order"
        self._note_mended(journal)
        checker = Checker(self._root)
        with closing(opened(self._root)) as index:
            yield from damage(index)
            yield from checker.ledger(index, journal)
            yield from checker.volumes(index)
            yield from self._instances(index, journal)
            yield from self._told(index)
            sent = {row[0] for row in index.execute("SELECT sop_instance_uid FROM v_sent_instances")}
        yield from (f"said to be sent, and did not arrive: {uid}" for uid in sorted(sent - self._arrived()))
        yield from self._compared()

    def _instances(self, index: sqlite3.Connection, journal: Dated) -> Iterator[str]:
        """What was acknowledged is in one place, whole, or was let go by the rules."""
        images = {row["sop_instance_uid"]: row for row in index.execute("SELECT * FROM v_images")}
        deletions = {row["id"]: row for row in index.execute("SELECT * FROM tombstones")}
        trash = {
            str(self._root / row["key"]): deletions[row["deletion"]]
            for row in index.execute("SELECT * FROM trash WHERE kind IN ('images', 'conflicts') AND key IS NOT NULL")
        }
        named, files = {row["path"] for row in images.values()}, {str(path) for path in self._root.glob("objects/*/*")}
        yield from (f"a deletion is half done: {row['uid']}" for row in deletions.values() if not row["finished_at"])
        yield from (f"in the index and in the trash: {path}" for path in sorted(named & trash.keys()))
        yield from (f"a file without a row: {path}" for path in sorted(files - named - trash.keys()))
        in_trash = {digest_of(Path(path)): row for path, row in trash.items()}
        emptied, of_study = defaultdict(list), defaultdict(list)
        for row in deletions.values():
            of_study[row["uid"]].append(row)
            if row["content"] is None and _moment(row["trash_until"]) <= time.time():
                emptied[row["uid"]].append(row)
        for uid, sha256 in journal.acknowledged():
            study = journal.sent[uid, sha256].study_instance_uid
            if (image := images.get(uid)) is not None:
                if image["file_missing"] and uid not in self._ever_harmed:
                    yield f"marked, and was never harmed: {uid}"
                if uid not in self._harmed and digest_of(Path(image["path"])) != sha256:
                    yield f"the file is not what was acknowledged: {uid}"
                continue
            if sha256 in in_trash:
                self.done["found in the trash"] += 1
                by = [in_trash[sha256]]
            else:  # a harmed file may be in the trash, and has another digest there
                self.done["found deleted"] += 1
                by = (of_study if uid in self._harmed else emptied)[study]
            if not by:
                yield f"neither in the index nor in the trash, whose time is not over: {uid}"
            elif all(_moment(row["ordered_at"]) < journal.began[uid] + KEPT_SECONDS for row in by):
                yield f"deleted although it came less than {KEPT_SECONDS:g} s before: {uid}"

    def _told(self, index: sqlite3.Connection) -> Iterator[str]:
        """A message that is called delivered is one for which the command ran; it is dropped only with its study."""
        calls = self._called()
        deleted = {row[0] for row in index.execute("SELECT uid FROM v_deletions")}
        for row in index.execute("SELECT * FROM v_deliveries WHERE state <> 'waiting'"):
            call = f"{row['series_instance_uid']} {row['revision']}"
            if row["state"] == "delivered" and call not in calls:
                yield f"said to be delivered, and the command did not run: {call}"
            if row["state"] == "given-up" or (row["state"] == "dropped" and row["study_instance_uid"] not in deleted):
                yield f"{row['state']}, {row['reason']}: {call}"

    def _called(self) -> set[str]:
        return set(self._calls.read_text().splitlines()) if self._calls.exists() else set()

    def _compared(self) -> Iterator[str]:
        done = run("fsck", "--hash", "--json", "--root", self._root, environment={"VOXELNODE_LOG__LEVEL": "error"})
        if done.returncode not in (0, 1):
            yield f"fsck exits with {done.returncode}: {done.stderr[-2000:]}"
            return
        harmed = {str(path.relative_to(self._root)) for path, _ in self._harmed.values()}
        for finding in json.loads(done.stdout)["findings"]:
            if finding["path"] not in harmed and finding["sop_instance_uid"] not in self._ever_harmed:
                yield f"fsck: {finding}"

    def _settled(self, random_: random.Random, here: Node, journal: Dated) -> Iterator[str]:
        """Without a kill: harm is found and mended, everything is told, and has arrived."""
        assert here.start(), here.log.read_text()[-2000:]
        self._send(here, journal, [one for _, one in self._late], []).join()
        self._harm_one(random_)
        self._harm_one(random_)
        yield from self._until("every harmed file is marked, and no other", self._is_marked_right)
        left = self._chosen(random_, 1.0)
        for uid in left[::2]:
            self._put_back(uid)
        self._send(here, journal, [], left[1::2]).join()
        yield from self._until("every file is whole, and none is marked", lambda: not self._present("file_missing"))
        yield from self._until("every series is converted, and nothing waits", self._is_done)
        yield from self._until("the command has run for each volume", lambda: not self._untold())
        yield from self._until("the second node has every instance", lambda: not self._present() - self._arrived())
        yield from routes.given_up(self._root)
        self.done["volumes told"] += len(self._called())
        self.done["instances forwarded"] += len(self._arrived())
        self.done["instances acknowledged"] += len(journal.acknowledged())
        here.kill()
        yield from self._after_restart(here, journal)

    def _untold(self) -> set[str]:
        query = (
            "SELECT e.series_instance_uid, e.revision FROM v_events e JOIN v_series s USING (series_instance_uid) "
            "WHERE e.kind = 'series-converted'"
        )
        rows = view_rows(self._root, query)
        return {f"{row['series_instance_uid']} {row['revision']}" for row in rows} - self._called()

    def _arrived(self) -> set[str]:
        return {uid for _, _, uid in routes.arrived_at(self._root_of_there)}

    def _is_marked_right(self) -> bool:
        return self._present("file_missing") == self._harmed.keys() & self._present()

    def _is_done(self) -> bool:
        hooks = view_rows(self._root, "SELECT 1 FROM v_hooks WHERE waiting")
        open_ = view_rows(self._root, "SELECT 1 FROM v_series WHERE state <> 'converted'")
        return not (hooks or open_ or routes.waiting_at(self._root))

    def _until(self, what: str, holds: Callable[[], bool]) -> Iterator[str]:
        if not within(IDLE_SECONDS, holds):
            yield f"not in {IDLE_SECONDS:g} s: {what}"


def _moment(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


if __name__ == "__main__":
    sys.exit(main_of(Services, __doc__, 100, "nothing was lost, everything was told and has arrived"))
