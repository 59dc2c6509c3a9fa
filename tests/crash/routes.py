"""Faults of routes: ``python -m tests.crash.routes --instances 10000 --series 100``.

A node receives series and forwards each instance at once, on three associations, to a second node, and each series that
is quiet to a folder. Meanwhile either node is killed (SIGKILL) and started again, the second one is down for long, and
the disks of the first node and of the folder are full, at random. In the end, everything that the first node
acknowledged must be at both destinations, and must have come to the second node in the order of its series; no message
may have been given up. Waits between attempts begin at 0.3 s instead of 30 s. Full disks need root, for a tmpfs.
"""

import json
import random
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.uid import generate_uid

from node.api import Address, VoxelnodeError
from node.association.client.association import NoAssociation
from node.association.client.send import Outgoing, SendOutcome, never_transcode, send
from tests.crash.harness import Campaign, Node, arguments, report, within
from tests.crash.small_disk import fill, mount_small
from tests.make import instance, set_pixels
from tests.preloaded import FIRST_WAIT
from tests.programs import free_port
from tests.protocol.conftest import data_set_bytes
from tests.rows import view_rows

SENDERS = 4
IDLE_SECONDS = 900.0
FULL_SECONDS = 2.0
FAULTS = ("destination killed", "node killed", "node's disk full", "folder's disk full")

ENVIRONMENT = {
    "VOXELNODE_DICOM__HOST": "127.0.0.1",
    "VOXELNODE_LOG__LEVEL": "error",
    "VOXELNODE_STORAGE__JOURNAL_BYTES": "16777216",
    FIRST_WAIT: "0.3",
}
OF_THE_SECOND_NODE = {"VOXELNODE_DICOM__AE_TITLE": "THERE", "VOXELNODE_SERIES__QUIET_SECONDS": "86400"}


@dataclass(slots=True)
class Faults(Campaign):
    """One run."""

    instances: int = 10_000
    series: int = 100
    outage: float = 120.0
    times: int = 2
    pause: float = 4.0
    kinds: tuple[str, ...] = FAULTS

    def run(self) -> None:
        """Send everything while faults happen, and compare what has arrived."""
        there_port, here_port = free_port(), free_port()
        folders = {name: self.folder / name for name in ("here", "share", "there")}
        for place in folders.values():
            place.mkdir()
        config = self.folder / "here.toml"
        config.write_text(configuration(there_port, folders["share"]))
        of_here = {**ENVIRONMENT, "VOXELNODE_CONFIG": str(config)}
        here = Node(folders["here"] / "root", environment=of_here, port=here_port)
        there = Node(folders["there"] / "root", environment={**ENVIRONMENT, **OF_THE_SECOND_NODE}, port=there_port)
        sent = made_series(self.folder, self.series, self.instances // self.series, self.seed)
        with ExitStack() as opened:
            for place, size in (("here", "400m"), ("share", "300m")):
                if f"{'node' if place == 'here' else 'folder'}'s disk full" in self.kinds:
                    opened.enter_context(_small_disk(folders[place], size))
            for node in (here, there):
                opened.callback(node.kill)
                begin(node)
            work = [sent[number::SENDERS] for number in range(SENDERS)]
            senders = [threading.Thread(target=send_all, args=(share, here_port), daemon=True) for share in work]
            for sender in senders:
                sender.start()
            self._harm(here, there, folders, lambda: any(sender.is_alive() for sender in senders))
            for sender in senders:
                sender.join(IDLE_SECONDS)
            uids = {one.sop_instance_uid for series in sent for one in series}
            self._settle(here, there, folders["share"], uids)
            self._compare(here, there, folders["share"], uids)

    def _harm(self, here: Node, there: Node, folders: dict[str, Path], is_sending: Callable[[], bool]) -> None:
        """Do harm while instances come, and each kind at least `times`."""
        random_ = random.Random(self.seed)
        harms: list[str] = []
        while is_sending() or any(self.done[kind] < self.times for kind in self.kinds):
            if not harms:
                harms = random_.sample(self.kinds, len(self.kinds))
            kind = harms.pop()
            self.done[kind] += 1
            time.sleep(random_.uniform(self.pause / 4, self.pause))
            if kind == "destination killed":
                there.kill()
                time.sleep(random_.uniform(0, self.pause / 2))
                begin(there)
            elif kind == "node killed":
                here.kill()
                begin(here)
            else:
                with _full(folders["here" if kind == "node's disk full" else "share"]):
                    time.sleep(FULL_SECONDS)
            if self.outage and self.done.total() == len(self.kinds):
                self.done[f"destination down for {self.outage:g} s"] += 1
                there.kill()
                time.sleep(self.outage)
                begin(there)

    def _settle(self, here: Node, there: Node, share: Path, uids: set[str]) -> None:
        """Wait until both destinations have everything, or nothing waits any more."""

        def is_done() -> bool:
            has_arrived = min(len(arrived_at(there.root)), len(files_in(share))) >= len(uids)
            return has_arrived and not waiting_at(here.root)

        if not within(IDLE_SECONDS, is_done):
            self.problems.append(f"after {IDLE_SECONDS:g} s there still waits {waiting_at(here.root)}")

    def _compare(self, here: Node, there: Node, share: Path, uids: set[str]) -> None:
        received = arrived_at(there.root)
        if missing := uids - {uid for _, _, uid in received}:
            self.problems.append(f"{len(missing)} of {len(uids)} instances did not come to the second node")
        if missing := uids - files_in(share):
            self.problems.append(f"{len(missing)} of {len(uids)} instances did not come to the folder")
        self.problems += [*out_of_order(received), *given_up(here.root)]


def begin(node: Node) -> None:
    """Start a node, again if its disk is too full for a start."""
    deadline = time.monotonic() + 60
    while not node.start():
        assert time.monotonic() < deadline, f"no start: {node.log.read_text()[-2000:]}"


def made_series(folder: Path, series: int, instances: int, seed: int) -> list[list[Outgoing]]:
    """Return so many series, each of a study of its own, with so many small instances, by Instance Number."""
    pixels = np.random.default_rng(seed).integers(0, 2000, (32, 32), np.int16)
    made = []
    for _ in range(series):
        study, uid_of_series = generate_uid(), generate_uid()
        one = []
        for number in range(instances):
            ds = instance(study_uid=study, series_uid=uid_of_series, InstanceNumber=number + 1)
            data = data_set_bytes(set_pixels(ds, pixels))
            uid, kind = ds.SOPInstanceUID, ds.file_meta.TransferSyntaxUID
            one.append(Outgoing(folder, ds.SOPClassUID, uid, kind, 0, len(data), data=data))
        made.append(one)
    return made


def send_all(work: list[list[Outgoing]], port: int) -> None:
    """Send series after series as a modality does that never gives up."""
    address = Address("VOXELNODE", "127.0.0.1", port)
    for series in work:
        left = list(series)
        while left:
            with suppress(NoAssociation, VoxelnodeError, OSError):
                for sent in send(list(left), address, "MODALITY", never_transcode, 10):
                    if sent.fate is SendOutcome.FAILED:
                        break
                    left.pop(0)
            if left:
                time.sleep(0.2)


def configuration(there_port: int, share: Path) -> str:
    tables: dict[str, dict[str, Any]] = {
        "peers.MODALITY": {"ae_title": "MODALITY"},
        "peers.THERE": {"ae_title": "THERE", "host": "127.0.0.1", "port": there_port},
        "destinations.SHARE": {"kind": "folder", "folder": str(share), "layout": "archive"},
        "routes.now": {"when": "instance-stored", "to": ["THERE"]},
        "routes.whole": {"when": "series-quiet", "to": ["SHARE"]},
    }
    return as_toml(tables)


def as_toml(tables: dict[str, dict[str, Any]]) -> str:
    return "\n".join(
        f"[{name}]\n" + "\n".join(f"{key} = {json.dumps(value)}" for key, value in keys.items())
        for name, keys in tables.items()
    )


@contextmanager
def _small_disk(place: Path, size: str) -> Iterator[None]:
    if not mount_small(place, f"size={size}"):
        raise SystemExit("a tmpfs cannot be mounted: run as root, or leave out full disks with --no-full-disks")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", place], check=True)


@contextmanager
def _full(place: Path) -> Iterator[None]:
    ballast = place / "ballast"
    fill(ballast)
    try:
        yield
    finally:
        ballast.unlink()


def out_of_order(received: list[tuple[str, int, str]]) -> list[str]:
    """Return what is wrong with the order in which instances came; see `arrived_at`."""
    problems = []
    for _, rows in groupby(sorted(received, key=lambda row: row[0]), key=lambda row: row[0]):
        numbers = [number for _, number, _ in rows]
        if numbers != sorted(numbers):
            problems.append(f"a series came out of order: {numbers}")
    return problems


def given_up(root: Path) -> list[str]:
    """Return the reasons of messages that were given up."""
    rows = view_rows(root, "SELECT reason FROM v_route_messages WHERE state = 'given-up'")
    return [f"given up: {row['reason']}" for row in rows]


def arrived_at(root: Path) -> list[tuple[str, int, str]]:
    """Series, number and UID of each instance, in the order in which a node took them."""
    query = (
        "SELECT series_instance_uid, instance_number, sop_instance_uid FROM images JOIN series "
        "ON series.id = images.series_id ORDER BY images.id"
    )
    with closing(sqlite3.connect(f"file:{root / 'index.sqlite'}?mode=ro", uri=True)) as index:
        return index.execute(query).fetchall()


def files_in(share: Path) -> set[str]:
    """The UIDs of what is in the folder, from the File Meta Information of each file."""
    return {_uid_of(path) for path in share.rglob("*.dcm")}


def _uid_of(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(512)
    at = head.index(b"\x02\x00\x03\x00UI") + 6
    length = int.from_bytes(head[at : at + 2], "little")
    return head[at + 2 : at + 2 + length].rstrip(b"\0").decode("ascii")


def waiting_at(root: Path) -> list[dict[str, Any]]:
    query = "SELECT route, destination, waiting, instances_behind, trouble FROM v_routes WHERE route <> ''"
    return [row for row in view_rows(root, query) if row["waiting"] or row["instances_behind"]]


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--instances", type=int, default=10_000)
    parser.add_argument("--series", type=int, default=100)
    parser.add_argument("--times", type=int, default=2, help="least number of each fault")
    parser.add_argument("--outage", type=float, default=120.0, help="seconds of the long outage of the second node")
    parser.add_argument("--no-full-disks", action="store_true")
    options = parser.parse_args()
    kinds = FAULTS[:2] if options.no_full_disks else FAULTS
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="voxelnode-routes-") as folder:
        faults = Faults(
            Path(folder),
            options.instances,
            options.series,
            options.outage,
            options.times,
            seed=options.seed,
            kinds=kinds,
        )
        faults.run()
    campaign = f"{options.instances} instances in {options.series} series, seed {options.seed}"
    return report(campaign, began, faults.done, faults.problems, "each came to both destinations, in order")


if __name__ == "__main__":
    sys.exit(main())
