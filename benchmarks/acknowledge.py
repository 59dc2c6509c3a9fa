"""What each promise of `[journal] acknowledge` costs a sender: ``python benchmarks/acknowledge.py``.

Instances of 9 KB are sent over one association, and over four at once, in turns to nodes that acknowledge at different
moments. The server of PostgreSQL, the store (a folder) and the nodes are on one machine, and sync what they write.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from node.association.client.addresses import Address  # noqa: E402
from tests import make  # noqa: E402
from tests.acceptance.served import Served  # noqa: E402
from tests.integration.conftest import data_set_bytes  # noqa: E402
from tests.postgresql import start  # noqa: E402
from tests.protocol.conftest import Raw, associate_rq  # noqa: E402

SIDE = 66


def send(port: int, count: int) -> None:
    """Send new instances over one association; each must be acknowledged."""
    series = [(ds.SOPInstanceUID, data_set_bytes(ds)) for ds in make.ct_series(count, rows=SIDE, columns=SIDE)]
    began.wait()
    with Raw(Address("VOXELNODE", "127.0.0.1", port)) as peer:
        peer.send(associate_rq())
        peer.receive()
        for number, (uid, data) in enumerate(series):
            if (status := peer.store(uid, data, number % 65535 + 1)) != 0:
                raise SystemExit(f"answered 0x{status:04X}")


def seconds(port: int, associations: int, count: int) -> float:
    """Return how long it takes to send `count` instances over each of some associations."""
    global began
    began = threading.Barrier(associations + 1)
    senders = [threading.Thread(target=send, args=(port, count)) for _ in range(associations)]
    for sender in senders:
        sender.start()
    began.wait()
    at = time.perf_counter()
    for sender in senders:
        sender.join()
    return time.perf_counter() - at


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--instances", type=int, default=200)
    options = arguments.parse_args()
    with ExitStack() as opened:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="acknowledge-")))
        server = opened.enter_context(start())
        nodes = {}
        for system in ("SQLite", "PostgreSQL"):
            for promise in ("local", "index", "object"):
                own = folder / f"{system}-{promise}"
                (own / "store").mkdir(parents=True)
                variables = {
                    "VOXELNODE_JOURNAL__ACKNOWLEDGE": promise,
                    "VOXELNODE_SERIES__QUIET_SECONDS": "3600",
                    "VOXELNODE_WEB__ENABLED": "false",
                }
                if promise == "object":
                    variables["VOXELNODE_STORAGE__URL"] = f"file://{own}/store"
                if system == "PostgreSQL":
                    variables["VOXELNODE_INDEX__URL"] = server.create(f"of_{promise}")
                nodes[system, promise] = opened.enter_context(Served(own / "root", **variables))
        rates: dict[tuple[str, str, int], list[float]] = {}
        for _ in range(options.rounds + 1):
            for (system, promise), node in nodes.items():
                for associations in (1, 4):
                    took = seconds(node.port, associations, options.instances // associations)
                    rates.setdefault((system, promise, associations), []).append(options.instances / took)
        print("| index | acknowledge | one association | four associations |\n|---|---|---|---|")
        for system, promise in nodes:
            one, four = (statistics.median(rates[system, promise, count][1:]) for count in (1, 4))
            print(f"| {system} | {promise} | {one:.0f}/s, {1000 / one:.1f} ms each | {four:.0f}/s |")


if __name__ == "__main__":
    main()
