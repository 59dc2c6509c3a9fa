"""A long outage with the waits of production: ``python -m tests.crash.outage --seconds 3600``.

A node forwards each instance at once to two nodes and to a folder. Then all three are away: one node is killed, so that
its port is closed; one is stopped, so that connections open and nobody answers; the folder is not mounted. Parts of all
series arrive before, all through and after the outage, in the middle of which the sending node is killed, too. In the
end, everything must be at all three, at both nodes in the order of its series, and no message may have been given up.
Nothing shortens the waits: the last instance may come five minutes after the end of the outage.
"""

from __future__ import annotations

import signal
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from node.association.client.send import Outgoing
from tests.crash.harness import arguments
from tests.crash.routes import (
    SETTLE_SECONDS,
    Node,
    arrived_at,
    as_toml,
    files_in,
    given_up,
    made_series,
    out_of_order,
    send_all,
    waiting_at,
)
from tests.programs import free_port
from tests.rows import view_rows

PARTS = 12
"""Turns in which the instances of each series arrive: one before the outage, one after it, the others during it."""

STORES_ONLY = {"VOXELNODE_DICOM__AE_TITLE": "THERE", "VOXELNODE_SERIES__QUIET_SECONDS": "86400"}


@dataclass(slots=True)
class Outage:
    """One run below `folder`; `notes` says what was seen, `problems` what was wrong."""

    folder: Path
    seconds: float
    instances: int = 3000
    series: int = 60
    seed: int = 0
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def run(self) -> None:
        """Send everything, most of it during the outage, and compare what has arrived."""
        ports = {name: free_port() for name in ("here", "killed", "stopped")}
        share, away = self.folder / "share", self.folder / "away"
        share.mkdir()
        config = self.folder / "here.toml"
        config.write_text(_configuration(ports, share))
        here = self._node("here", ports, {"VOXELNODE_CONFIG": str(config)})
        killed, stopped = (self._node(name, ports, STORES_ONLY) for name in ("killed", "stopped"))
        series = made_series(self.folder, self.series, self.instances // self.series, self.seed)
        uids = {one.sop_instance_uid for one_series in series for one in one_series}
        parts = [_part(series, part) for part in range(PARTS)]
        with ExitStack() as opened:
            for node in (here, killed, stopped):
                opened.callback(node.kill)
                node.start()
            send_all(parts[0], ports["here"])
            self._await(here, killed, stopped, share, {one.sop_instance_uid for part in parts[0] for one in part})
            killed.kill()
            stopped.send_signal(signal.SIGSTOP)
            share.rename(away)
            sender = threading.Thread(target=self._send_slowly, args=(parts[1:-1], ports["here"]), daemon=True)
            sender.start()
            time.sleep(self.seconds / 2)
            worked = here.worked_seconds()
            here.kill()
            here.start()
            time.sleep(self.seconds / 2)
            sender.join(SETTLE_SECONDS)
            worked += here.worked_seconds()
            self.notes.append(f"during the outage the node used {worked:.1f} s of a processor")
            self.notes += [f"{row['destination']}: {row['trouble']}" for row in waiting_at(here.root)]
            held = view_rows(here.root, "SELECT max(attempts) AS attempts FROM v_route_messages")[0]["attempts"]
            self.notes.append(f"most attempts that counted of a message: {held or 0}")
            away.rename(share)
            stopped.send_signal(signal.SIGCONT)
            killed.start()
            send_all(parts[-1], ports["here"])
            self._await(here, killed, stopped, share, uids)
            self.problems += [
                *out_of_order(arrived_at(killed.root)),
                *out_of_order(arrived_at(stopped.root)),
                *given_up(here.root),
            ]

    def _node(self, name: str, ports: dict[str, int], environment: dict[str, str]) -> Node:
        return Node(self.folder / f"{name}.root", ports[name], self.folder / f"{name}.log", **environment)

    def _send_slowly(self, parts: list[list[list[Outgoing]]], port: int) -> None:
        """Send parts of all series, evenly over the outage."""
        began = time.monotonic()
        work = [one for part in parts for one in part]
        for number, one in enumerate(work):
            time.sleep(max(0.0, began + self.seconds * number / len(work) - time.monotonic()))
            send_all([one], port)

    def _await(self, here: Node, killed: Node, stopped: Node, share: Path, uids: set[str]) -> None:
        """Wait until everything is everywhere; note how long each destination took."""
        began = time.monotonic()
        left = {"killed": uids, "stopped": uids, "share": uids}
        while left and time.monotonic() < began + SETTLE_SECONDS:
            there = {
                "killed": lambda: {uid for _, _, uid in arrived_at(killed.root)},
                "stopped": lambda: {uid for _, _, uid in arrived_at(stopped.root)},
                "share": lambda: files_in(share),
            }
            for name in list(left):
                left[name] = uids - there[name]()
                if not left[name]:
                    self.notes.append(
                        f"{name}: {len(uids)} instances {time.monotonic() - began:.0f} s after it was back"
                    )
                    del left[name]
            time.sleep(1.0)
        while waiting_at(here.root) and time.monotonic() < began + SETTLE_SECONDS:
            time.sleep(0.2)
        self.problems += [f"{len(uids)} of {self.instances} instances are not at {name}" for name, uids in left.items()]
        if waits := waiting_at(here.root):
            self.problems.append(f"after {SETTLE_SECONDS:g} s there still waits {waits}")


def _part(series: list[list[Outgoing]], number: int) -> list[list[Outgoing]]:
    """Return one turn: a part of each series."""
    length = len(series[0])
    return [one[length * number // PARTS : length * (number + 1) // PARTS] for one in series]


def _configuration(ports: dict[str, int], share: Path) -> str:
    tables: dict[str, dict[str, Any]] = {
        "series": {"quiet_seconds": 60},
        "peers.MODALITY": {"ae_title": "MODALITY"},
        "destinations.SHARE": {"folder": str(share), "layout": "archive"},
        "routes.now": {"when": "instance-stored", "to": ["KILLED", "STOPPED", "SHARE"]},
    }
    for name in ("killed", "stopped"):
        tables[f"peers.{name.upper()}"] = {"ae_title": "THERE", "host": "127.0.0.1", "port": ports[name]}
    return as_toml(tables)


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--seconds", type=float, default=3600.0, help="length of the outage")
    parser.add_argument("--instances", type=int, default=3000)
    parser.add_argument("--series", type=int, default=60)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="voxelnode-outage-") as folder:
        outage = Outage(Path(folder), options.seconds, options.instances, options.series, options.seed)
        outage.run()
    print(f"{options.instances} instances in {options.series} series, away for {options.seconds:g} s, once killed:")
    print(*outage.notes, *(outage.problems or ["each came to all destinations, in order"]), sep="\n")
    return 1 if outage.problems else 0


if __name__ == "__main__":
    sys.exit(main())
