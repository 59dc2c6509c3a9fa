"""A root on a disk of its own, the node that serves it, and the commands that meet it."""

import errno
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

from node.runtime.failpoints import CONVERTING, RECEIVING, VARIABLE
from node.settings.core import OverwritePolicy
from tests.crash import held
from tests.crash.checker import opened
from tests.crash.disk import Disk, built
from tests.crash.harness import ONCE, SETTINGS, Node, gone, within
from tests.crash.journal import Sender, Sent, new_series
from tests.crash.model import Model, problems
from tests.crash.mutants import VARIABLE as VARIABLE_OF_MUTANT
from tests.crash.small_disk import fill, mount_small, use_inodes
from tests.preloaded import FIRST_WAIT, run
from tests.rows import wait_until_applied

QUICK = "QUICK"
"""Calling AE title of senders whose series are converted at once; those of others wait, as most nodes end before."""

DISK = "size=64m,nr_inodes=1500"

RECOVERY_SECONDS = 60.0
"""How long what waited for room may take to be applied: the pauses between the attempts grow."""


class Site:
    """One root, what its node owes, and what can be done to both.

    `name`: of the folder that is the root.
    `policy`: ``[storage] overwrite_policy``.
    `mutant`: see `tests.crash.mutants`.

    `lacking`: what the disk has none of: ``bytes``, ``inodes``, or ``quota`` (calls fail although the disk seems to
        have room).
    `ended`: the exit statuses of nodes and commands.
    `has_died`: whether the last command was killed, or the node that it had do something.
    """

    def __init__(self, name: str, policy: OverwritePolicy, mutant: str | None) -> None:
        self.policy = policy
        self.folder = Path(tempfile.mkdtemp(prefix="voxelnode-operators-"))
        self._place = self.folder / "disk"
        self._place.mkdir()
        self._is_mounted = mount_small(self._place, DISK)
        self.disk = Disk(_library()[0], self._place, self.folder / "disk.log", self.folder / "control")
        self.root = self._place / name
        self._gate = self.folder / "gate"
        self._environment = {
            **SETTINGS,
            "VOXELNODE_SERIES__QUIET_SECONDS": "20",
            "VOXELNODE_SERIES__QUIET_SECONDS_BY_CALLING_AE_TITLE": f'{{"{QUICK}": 0.3}}',
            "VOXELNODE_CONVERT__WORKERS": "2",
            "VOXELNODE_STORAGE__OVERWRITE_POLICY": policy,
            FIRST_WAIT: "0.5",
            held.VARIABLE: str(self._gate),
            **({VARIABLE_OF_MUTANT: mutant} if mutant is not None else {}),
        }
        self.model = Model(self.folder / "journal")
        self.ended: list[int] = []
        self.node = self._node()
        self.lacking: str | None = None
        self.has_died = False
        self._is_armed = False  # the running node is to die at a named step
        self.is_index_older = False

    def _node(self) -> Node:
        preloaded = {name: value for name, value in self.disk.environment.items() if name != "DISK_LOG"}
        node = Node(self.root, environment={**self._environment, **preloaded})
        node.log, node.ended = self.folder / "serve.log", self.ended
        return node

    def close(self) -> None:
        self.node.kill()
        self.model.close()
        if self._is_mounted:  # a converter may still have noticed nothing
            subprocess.run(["umount", "--lazy", self._place], check=True)
        shutil.rmtree(self.folder)

    # The process

    @property
    def is_running(self) -> bool:
        return self.node.process != 0 and not gone(self.node.process, 0)

    def start(self, point: str | None = None, count: int = 1) -> None:
        """Start the node unless it runs; compare it with the model before it does anything else."""
        if self.is_running:
            return
        self.node.kill()
        self._is_armed = point is not None
        environment = {} if point is None else {VARIABLE: f"{point}:{1 if point in ONCE else count}"}
        must_start = point is None and (self.lacking != "quota" and self._has_ballast())
        if not self.node.start(environment):
            assert not must_start, f"the node does not start: {self.last_words()}"
            self._free_disk()
            assert self.node.start(), f"the node does not start again: {self.last_words()}"
        self.compare()

    def end(self, how: signal.Signals | None = None) -> None:
        """End the process, and whatever a conversion waits for.

        `how`: by default SIGTERM; on a full disk SIGKILL, because a node that stops waits for room.
        """
        self.let_go()
        self.node.end(how or (signal.SIGTERM if self.lacking is None else signal.SIGKILL))

    def last_words(self) -> str:
        """The end of the log of the node."""
        return "\n".join(self.node.log.read_text().splitlines()[-20:])

    def command(self, *words: object, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command on the root, with the settings of the node."""
        ran = self.is_running
        done = run(*words, "--root", self.root, environment={**self._environment, **environment})
        self.ended.append(done.returncode)
        self.has_died = done.returncode < 0 or (ran and not self.is_running)
        assert "Traceback" not in done.stderr, done.stderr
        return done

    # Senders

    def send(
        self,
        instances: Sequence[Sent],
        point: str | None = None,
        count: int = 1,
        then: tuple[int, Callable[[], None]] | None = None,
        title: str = "SENDER",
    ) -> None:
        """Send instances over one association; the node may die at a named step.

        `then`: what happens after so many answers.
        """
        if point is not None:
            self.end()
        self.start(point, count)
        sender = _Sender(self.node.port, instances, self.model, title, then)
        sender.start()
        sender.join()
        if point is not None and point in (*RECEIVING, *CONVERTING) and not sender.broken:
            gone(self.node.process, 3 if point in CONVERTING else 0.3)

    # Conversions

    def hold_next_conversion(self) -> None:
        """Have the next conversion wait, once it is done, until `let_go`."""
        self._gate.touch()

    def holds_conversion(self) -> bool:
        return held.held(self._gate).exists()

    def let_go(self) -> None:
        self._gate.unlink(missing_ok=True)
        held.held(self._gate).unlink(missing_ok=True)

    # The disk

    def fill(self, lacking: str) -> None:
        """Let the disk have no room; without a file system of its own, let calls fail."""
        if self.lacking is not None:
            return
        self.lacking = lacking if self._is_mounted else "quota"
        if self.lacking == "bytes":
            fill(self._place / "filler")
        elif self.lacking == "inodes":
            use_inodes(self._place / "fillers")
        else:
            self.disk.fail("wrom", errno.ENOSPC, "/")

    def make_room(self) -> None:
        """Let the disk have room: the node goes on by itself."""
        if self.lacking is None:
            return
        self._free_disk()
        if self._is_armed:
            self.end()
        if not self.is_running:
            return
        assert within(RECOVERY_SECONDS, lambda: not self._problems()), "\n".join(self._problems())
        [one] = new_series(1)
        key = one.sop_instance_uid, one.sha256

        def is_taken() -> bool:
            self.send([one])
            return key in self.model.answered_at

        assert within(RECOVERY_SECONDS, is_taken), "with room again, intake stays closed"
        assert within(RECOVERY_SECONDS, lambda: not self._problems()), "\n".join(self._problems())

    def _free_disk(self) -> None:
        (self._place / "filler").unlink(missing_ok=True)
        shutil.rmtree(self._place / "fillers", ignore_errors=True)
        self.disk.heal()
        self.lacking = None

    def _has_ballast(self) -> bool:
        return self.lacking is None or len([*self.root.glob("ballast/*")]) == 16

    @property
    def can_delete(self) -> bool:
        """Whether the disk has room, or the ballast that makes room for a deletion."""
        return self.lacking != "quota" and self._has_ballast()

    def configure(self, **settings: str) -> None:
        """Change settings; the node must not run."""
        self._environment |= settings
        self.node = self._node()

    def move(self, name: str) -> None:
        """Give the root another name; the node must not run."""
        self.root = self.root.rename(self._place / name)
        self.node = self._node()

    # What must be true

    def rows(self) -> dict[str, Mapping[str, Any]]:
        """The instances of the index by SOP Instance UID."""
        self._catch_up()
        with closing(opened(self.root)) as index:
            return {row["sop_instance_uid"]: row for row in index.execute("SELECT * FROM v_images")}

    def trash(self) -> dict[str, int]:
        """The numbers of the deletions in the trash, by UID and time."""
        with closing(opened(self.root)) as index:
            rows = index.execute("SELECT uid, ordered_at, id FROM tombstones WHERE content IS NOT NULL")
            return {f"{uid} {ordered_at}": number for uid, ordered_at, number in rows}

    def owes_erasure(self) -> bool:
        """Whether the next start finishes an erasure."""
        with closing(opened(self.root)) as index:
            return [*index.execute("SELECT 1 FROM work WHERE kind = 'erasure' AND outcome IS NULL")] != []

    def series(self, uid: str) -> list[Any]:
        """How a series is, and its volumes."""
        with closing(opened(self.root)) as index:
            query = "SELECT state, revision, verdict, due_at FROM v_series WHERE series_instance_uid = ?"
            volumes = "SELECT path, sha256 FROM v_volumes WHERE series_instance_uid = ? AND NOT superseded ORDER BY 1"
            return [tuple(row) for row in (*index.execute(query, (uid,)), *index.execute(volumes, (uid,)))]

    def _catch_up(self) -> None:
        if self.lacking is None:
            wait_until_applied(self.root)

    def compare(self) -> None:
        """Fail if the root is not as the model says."""
        found = self._problems()
        assert not found, "\n".join(found)

    def _problems(self) -> list[str]:
        self._catch_up()
        is_full = self.lacking is not None
        return [*problems(self.root, self.model, is_full=is_full, has_volumes=not self.is_index_older)]


class _Sender(Sender):
    """A sender that does something between two instances."""

    def __init__(
        self,
        port: int,
        instances: Sequence[Sent],
        model: Model,
        title: str,
        then: tuple[int, Callable[[], None]] | None,
    ) -> None:
        super().__init__(port, instances, model, title)
        self._after, self._then = then or (-1, lambda: None)

    def _store(self, *arguments: Any) -> None:
        if self.answered == self._after:
            self._then()
        super()._store(*arguments)


@cache
def _library() -> tuple[Path, tempfile.TemporaryDirectory[str]]:
    """The library of the disk, and its folder, which goes with this process."""
    folder = tempfile.TemporaryDirectory(prefix="voxelnode-library-")
    return built(Path(folder.name)), folder
