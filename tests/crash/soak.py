"""The soak: ``python -m tests.crash.soak --minutes 120``.

Good, bad and aborting peers for hours, with restarts in good order and by SIGKILL between them. At the end of each life
of the node, when all is converted and quiet, its threads, open files and resident memory are compared with what they
were at its first rest; at each start, and in the end, everything that was acknowledged must be there.
"""

from __future__ import annotations

import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

from pydicom.uid import CTImageStorage, generate_uid
from pynetdicom import build_context

from node.api import Address
from tests.acceptance.served import Served
from tests.crash.checker import Checker
from tests.crash.harness import arguments
from tests.crash.journal import Journal, Sender, new_series
from tests.protocol.conftest import Raw, associate_rq, c_store_rq, p_data, pdu, pdv

LIVES = 6
WARM_SHARE = 0.25
"""How much of its life a node may take until what it keeps (caches, pools, arenas) is there."""

ALLOWED = 1.05
"""Threads, files and memory at the end of a life, in those of its first rest."""

POOLED_FILES = 4
"""Of two connections to the index, a database and a log each: its pools grow when more queries than before coincide."""

UNIFIED_PROCEDURE_STEP_PULL = "1.2.840.10008.5.1.4.34.6.3"
PEERS = 3
PAUSE_SECONDS = 0.3
SECONDS = 12.0
ENVIRONMENT = {
    "VOXELNODE_STORAGE__RESERVE_BYTES": "0",
    "VOXELNODE_SERIES__ABORTED_GRACE_SECONDS": "2",
    "VOXELNODE_CONVERT__FORMATS": '["nifti"]',
}


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a process holds: threads, open files, and resident kilobytes; `names` are those of the files."""

    threads: int
    files: int
    resident: int
    names: Counter[str] = field(repr=False)

    @staticmethod
    def of(process: int) -> Footprint:
        status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
        fields = dict(line.split(":", 1) for line in status.splitlines())
        names: Counter[str] = Counter()
        for descriptor in Path(f"/proc/{process}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed meanwhile
                names[descriptor.readlink().name.partition(":")[0]] += 1
        return Footprint(int(fields["Threads"]), names.total(), int(fields["VmRSS"].split()[0]), names)

    def grown(self, base: Footprint) -> list[str]:
        pairs = {name: (getattr(base, name), getattr(self, name)) for name in ("threads", "files", "resident")}
        allowed = {"files": POOLED_FILES}
        grown = [
            f"{name} grew from {was} to {now}"
            for name, (was, now) in pairs.items()
            if now > was * ALLOWED + allowed.get(name, 0)
        ]
        return [*grown, f"files that were not open before: {dict(self.names - base.names)}"] if grown else []


@dataclass(slots=True)
class Soak:
    """Hours on one root below `folder`."""

    folder: Path
    minutes: float
    seed: int = 0
    reported: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def run(self) -> None:
        """All lives; `problems` says what was wrong, `reported` how often each kind of peer came."""
        root = self.folder / "root"
        checker = Checker(root)
        served = Served(root, **ENVIRONMENT)
        with closing(Journal(self.folder / "journal")) as journal, served:
            for life in range(LIVES):
                self._live(served, journal, self.minutes * 60 / LIVES, life)
                if life % 2:
                    served.kill()
                elif served.terminate() != 0:
                    self.problems.append(f"life {life}: the node did not stop in good order")
                self.problems += checker.problems(journal)
                if self.problems:
                    return
                served.start()
            served.wait_until_idle()
            checker.from_scratch()
            self.problems += checker.problems(journal)
            self.told["acknowledged"] = len(journal.acknowledged())

    def _live(self, served: Served, journal: Journal, seconds: float, life: int) -> None:
        self._traffic(served.port, journal, seconds * WARM_SHARE, life)
        base = self._rest(served)
        self._traffic(served.port, journal, seconds * (1 - WARM_SHARE), life + LIVES)
        end = self._rest(served)
        print(f"life {life}: first rest {base}, end {end}", flush=True)
        self.problems += [f"life {life}: {what}" for what in end.grown(base)]

    def _rest(self, served: Served) -> Footprint:
        served.wait_until_idle()
        threading.Event().wait(12)  # longer than a connection without a request lives: what is left is left for good
        return Footprint.of(served.process.pid)

    def _traffic(self, port: int, journal: Journal, seconds: float, seed: int) -> None:
        until = time.monotonic() + seconds
        peers = [
            threading.Thread(target=self._peer, args=(port, journal, until, random.Random(f"{self.seed} {seed} {one}")))
            for one in range(PEERS)
        ]
        for peer in peers:
            peer.start()
        for peer in peers:
            peer.join()

    def _peer(self, port: int, journal: Journal, until: float, random_: random.Random) -> None:
        pause = threading.Event()
        while time.monotonic() < until:
            kind = random_.choice(KINDS)
            with suppress(OSError):  # whatever becomes of a bad peer's connection
                kind(port, journal)
            self.told[kind.__name__.strip("_")] += 1
            pause.wait(PAUSE_SECONDS * random_.random())


def _connected(port: int) -> Raw:
    return Raw(Address("VOXELNODE", "127.0.0.1", port), SECONDS)


def _good(port: int, journal: Journal) -> None:
    """A whole series, and a release."""
    sender = Sender(port, new_series(6), journal, "GOOD")
    sender.start()
    sender.join()


def _aborting(port: int, journal: Journal) -> None:
    """The beginning of an instance, and an A-ABORT."""
    with _connected(port).associate() as peer:
        peer.send(p_data(pdv(1, 3, c_store_rq(generate_uid(), CTImageStorage)), pdv(1, 0, bytes(2000))))
        peer.send(pdu(0x07, bytes(4)))


def _torn(port: int, journal: Journal) -> None:
    """The beginning of an instance, and the connection is gone in the middle of a PDU."""
    with _connected(port).associate() as peer:
        whole = p_data(pdv(1, 3, c_store_rq(generate_uid(), CTImageStorage)), pdv(1, 0, bytes(5000)))
        peer.send(whole[:-1234])


def _garbage(port: int, journal: Journal) -> None:
    """What is no PDU at all."""
    with _connected(port) as peer:
        peer.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 20)
        peer.closed()


def _silent(port: int, journal: Journal) -> None:
    """A connection without a word, until the node hangs up."""
    with _connected(port) as peer:
        peer.closed()


def _refused(port: int, journal: Journal) -> None:
    """An association for a service that we do not have."""
    with _connected(port) as peer:
        peer.send(associate_rq(build_context(UNIFIED_PROCEDURE_STEP_PULL), calling="WORKLIST"))
        peer.receive()


KINDS: tuple[Callable[[int, Journal], None], ...] = (_good, _good, _good, _aborting, _torn, _garbage, _silent, _refused)


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--minutes", type=float, default=120)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="voxelnode-soak-") as temporary:
        soak = Soak(Path(temporary), options.minutes, options.seed)
        soak.run()
    print(", ".join(f"{count} {what}" for what, count in sorted(soak.told.items())))
    print("\n".join(soak.problems) or "nothing lost, nothing left behind")
    return 1 if soak.problems else 0


if __name__ == "__main__":
    sys.exit(main())
