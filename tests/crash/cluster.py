"""Faults of hosts that share an index: ``python -m tests.crash.cluster --cycles 100``.

Two hosts receive, two convert, and four senders send series to either receiver, the rest again to either one when an
association breaks. Meanwhile a host is killed (SIGKILL) and started again in each cycle, or the server of PostgreSQL
crashes and recovers. In the end, everything that was acknowledged must be in the index, with its file as it was sent;
each series must be converted from all of its instances, have one current revision, and no volume may lie in the archive
that no row names. Leases last 4 s and series are quiet after 1 s.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import subprocess
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pydicom import FileDataset

from node.conversion.volume_files import folder_name
from node.index.backend import ServerPlace
from node.index.database import reading
from node.index.engine import upgrade
from tests import make
from tests.acceptance.test_cluster import Host
from tests.acceptance.test_kill import Sender
from tests.integration.conftest import data_set_bytes
from tests.postgresql import ACCOUNT, Server, programs, start

ROLES = {"r1": '["receive"]', "r2": '["receive"]', "c1": '["convert"]', "c2": '["convert"]'}
SENDERS = 4
SETTLE_SECONDS = 600.0
START_SECONDS = 120.0


class Sent:
    """What a sender has sent: its series, and the digests of the instances that were acknowledged."""

    def __init__(self) -> None:
        self.series: dict[str, set[str]] = {}
        self.digests: dict[str, str] = {}


def send_until(stop: threading.Event, receivers: list[Host], sent: Sent, seed: int) -> None:
    """Send one series after the other, each until all of it is acknowledged."""
    chance = random.Random(seed)
    while not stop.is_set():
        series: list[FileDataset] = make.ct_series(chance.randint(3, 12))
        digests = {str(ds.SOPInstanceUID): hashlib.sha256(data_set_bytes(ds)).hexdigest() for ds in series}
        sent.series[str(series[0].SeriesInstanceUID)] = set(digests)
        left = {str(ds.SOPInstanceUID): ds for ds in series}
        while left:
            sender = Sender(chance.choice(receivers).port, list(left.values()), seconds=10)
            sender.run()  # on this thread
            for uid in sender.acknowledged:
                sent.digests[uid] = digests[uid]
                del left[uid]
            if left:
                stop.wait(0.2)
        stop.wait(chance.uniform(0.0, 1.0))


def crash(server: Server, then: str = "restart") -> None:
    """End the server as a power cut of its machine would, and start it again, or `stop`."""
    folder = programs()
    assert folder is not None
    account = ACCOUNT if os.geteuid() == 0 else None
    command = [folder / "pg_ctl", then, "-D", server.folder / "data", "-m", "immediate", "-w"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run(command, check=True, user=account, cwd="/", **quiet)


def begin(host: Host) -> None:
    """Start a host, again while the server of its index is away."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            host.start()
        except AssertionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
        else:
            return


def rows(host: Host, query: str) -> list[dict[str, Any]]:
    with reading(host.root, host.url) as index:
        return index.series._rows(query)


def settle(host: Host, expected: int) -> None:
    """Wait until every series is converted."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        states = Counter(row["state"] for row in rows(host, "SELECT state FROM v_series"))
        if set(states) == {"converted"} and states["converted"] == expected:
            return
        assert time.monotonic() < deadline, f"not settled: {dict(states)}"
        time.sleep(0.5)


def mistakes(host: Host, archive: Path, sent: list[Sent]) -> list[str]:
    """Return what is wrong in the end, as sentences."""
    found = []
    digests = {uid: digest for one in sent for uid, digest in one.digests.items()}
    images = {row["sop_instance_uid"]: row for row in rows(host, "SELECT sop_instance_uid, sha256, path FROM v_images")}
    for uid, digest in digests.items():
        if uid not in images:
            found.append(f"instance {uid} was acknowledged and is lost")
        elif images[uid]["sha256"] != digest or not Path(images[uid]["path"]).is_file():
            found.append(f"instance {uid} is not as it was sent")
    series = {uid: uids for one in sent for uid, uids in one.series.items()}
    current: dict[str, list[dict[str, Any]]] = {}
    query = (
        "SELECT se.series_instance_uid, c.revision, c.instances FROM conversions c "
        "JOIN series se ON se.id = c.series_id WHERE NOT c.superseded"
    )
    for row in rows(host, query):
        current.setdefault(row["series_instance_uid"], []).append(row)
    for uid, uids in series.items():
        its = current.get(uid, [])
        if [row["instances"] for row in its] != [len(uids)]:
            found.append(f"series {uid} of {len(uids)} instances has the current revisions {its}")
    named = {str(Path(row["path"]).parent) for row in rows(host, "SELECT path FROM v_volumes")}
    for uid in series:
        found += [
            f"no row names {folder}"
            for folder in archive.glob(f"volumes/*/{folder_name(uid)}/*")
            if str(folder) not in named
        ]
    return found


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--cycles", type=int, default=20)
    arguments.add_argument("--seed", type=int, default=0)
    options = arguments.parse_args()
    chance = random.Random(options.seed)
    counts: Counter[str] = Counter()
    with ExitStack() as opened:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="cluster-")))
        server = opened.enter_context(start())
        opened.callback(crash, server, "stop")  # `start` knows only the process that it started
        url = server.create("cluster")
        upgrade(ServerPlace(url, folder / "archive"))
        hosts = {name: opened.enter_context(Host(folder, url, name, roles)) for name, roles in ROLES.items()}
        receivers = [hosts["r1"], hosts["r2"]]
        stop = threading.Event()
        sent = [Sent() for _ in range(SENDERS)]
        threads = [
            threading.Thread(target=send_until, args=(stop, receivers, one, options.seed * SENDERS + number))
            for number, one in enumerate(sent)
        ]
        for thread in threads:
            thread.start()
        for _ in range(options.cycles):
            time.sleep(chance.uniform(0.5, 4.0))
            victim = chance.choice([*hosts, *hosts, "server"])
            counts[victim] += 1
            if victim == "server":
                crash(server)
            else:
                hosts[victim].kill()
                time.sleep(chance.choice([0.0, 1.0, 6.0]))  # shorter and longer than a lease
                begin(hosts[victim])
        stop.set()
        for thread in threads:
            thread.join()
        settle(receivers[0], sum(len(one.series) for one in sent))
        wrong = mistakes(receivers[0], folder / "archive", sent)
        attempts = rows(receivers[0], "SELECT kind, count(*) AS n FROM v_events GROUP BY kind")
        revisions = rows(receivers[0], "SELECT count(*) AS n FROM conversions")[0]["n"]
        print(
            json.dumps(
                {
                    "faults": dict(counts),
                    "series": sum(len(one.series) for one in sent),
                    "instances": sum(len(one.digests) for one in sent),
                    "revisions": revisions,
                    "events": {row["kind"]: row["n"] for row in attempts},
                    "mistakes": wrong,
                },
                indent=1,
            )
        )
        if wrong:
            raise SystemExit(1)


if __name__ == "__main__":
    main()
