"""Hosts whose disks are lost: ``python -m tests.crash.acknowledged --promise index|object --cycles 100``.

Four senders send to a node with its index in PostgreSQL and its archive in an object store. In each cycle the node is
killed (SIGKILL) at a named step or at a random moment, and its root is deleted, with its journal. Everything that was
acknowledged by then must be in the index, and with ``object`` its bytes in the store. The node then goes on with an
empty disk, and what was not acknowledged is sent again.
"""

import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack, closing
from pathlib import Path

from node.index.rows.backend import ServerPlace
from node.index.rows.place import upgrade
from node.runtime.failpoints import RECEIVING, UPLOADING, VARIABLE
from tests.crash.checker import digest_of
from tests.crash.harness import ONCE, Node, arguments, gone, report
from tests.crash.journal import Journal, Sender, Sent, new_series
from tests.postgresql import Server, start

SENDERS = 4
DATABASE = "acknowledged"


def without_row(server: Server, journal: Journal) -> list[str]:
    """Return what was acknowledged and is not in the index."""
    rows = set(server.run("SELECT sop_instance_uid, sha256 FROM images", DATABASE))
    return [f"{uid} has no row" for uid, sha256 in journal.acknowledged() if (uid, sha256) not in rows]


def without_bytes(folder: Path, journal: Journal) -> list[str]:
    """Return what was acknowledged and is not in a folder."""
    kept = {digest_of(path) for path in folder.glob("objects/*/*.dcm")}
    return [f"{uid} has no file" for uid, sha256 in journal.acknowledged() if sha256 not in kept]


def settings_of(promise: str, url: str, kept: Path) -> dict[str, str]:
    """Return the environment of a node."""
    return {
        "VOXELNODE_INDEX__URL": url,
        "VOXELNODE_SERIES__QUIET_SECONDS": "3600",
        "VOXELNODE_STORAGE__URL": f"file://{kept}",
        "VOXELNODE_JOURNAL__ACKNOWLEDGE": promise,
    }


def send(node: Node, waiting: list[list[Sent]], journal: Journal) -> list[Sender]:
    """Start senders with what was not acknowledged yet, and a new series each."""
    done = set(journal.acknowledged())
    senders = []
    for number, still in enumerate(waiting):
        still[:] = [one for one in still if (one.sop_instance_uid, one.sha256) not in done]
        still += new_series(8, large=number == 0)
        senders.append(Sender(node.port, list(still), journal, f"SENDER{number}"))
    for sender in senders:
        sender.start()
    return senders


def receive_and_die(
    node: Node, point: str | None, waiting: list[list[Sent]], journal: Journal, chance: random.Random
) -> str:
    """Start a node, have it receive, and kill it; return when it died."""
    count = 1 if point in ONCE else chance.randint(1, 6)
    if not node.start({} if point is None else {VARIABLE: f"{point}:{count}"}):
        assert node.start(), "the node does not start again"
    senders = send(node, waiting, journal)
    if point is None:
        time.sleep(chance.uniform(0.0, 1.0))
    else:
        for sender in senders:
            sender.join()
    died = point if point is not None and gone(node.process, 1) else "a random moment"
    node.kill()
    for sender in senders:
        sender.join()
    return died


def main() -> int:
    parser = arguments(__doc__, cycles=100)
    parser.add_argument("--promise", choices=("index", "object"), required=True)
    options = parser.parse_args()
    chance, died, problems, began = random.Random(options.seed), Counter[str](), list[str](), time.monotonic()
    points = (None, *RECEIVING, *(UPLOADING if options.promise == "object" else ()))
    waiting: list[list[Sent]] = [[] for _ in range(SENDERS)]
    with ExitStack() as opened:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="acknowledged-")))
        server = opened.enter_context(start())
        url = server.create(DATABASE)
        root, kept = folder / "root", folder / "kept"
        kept.mkdir()
        upgrade(ServerPlace(url, root))
        journal = opened.enter_context(closing(Journal(folder / "journal")))
        node = opened.enter_context(Node(root, environment=settings_of(options.promise, url, kept)))
        for cycle in range(options.cycles):
            died[receive_and_die(node, chance.choice(points), waiting, journal, chance)] += 1
            shutil.rmtree(root)
            problems += [f"cycle {cycle}: {lost}" for lost in without_row(server, journal)]
            if options.promise == "object":
                problems += [f"cycle {cycle}: {lost}" for lost in without_bytes(kept, journal)]
            if problems:
                break
        acknowledged = len(journal.acknowledged())
        statuses = Counter(f"0x{status:04X}" for status in journal.statuses)
    campaign = f"{options.promise}, {options.cycles} cycles, seed {options.seed}"
    return report(campaign, began, died + statuses, problems, f"all of {acknowledged} acknowledged instances are there")


if __name__ == "__main__":
    sys.exit(main())
