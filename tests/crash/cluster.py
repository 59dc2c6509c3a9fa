"""Faults of hosts that share an index: ``python -m tests.crash.cluster --cycles 100``.

Two hosts receive, two convert, and four senders send series to either receiver, the rest again to either one when an
association breaks. Meanwhile a host is killed (SIGKILL) and started again in each cycle, or the server of PostgreSQL
crashes and recovers. In the end, everything that was acknowledged must be in the index, with its file as it was sent;
each series must be converted from all of its instances, have one current revision, and no volume may lie in the archive
that no row names. Leases last 4 s and series are quiet after 1 s.

The hosts share a folder as their object store or, with ``--bucket``, a bucket. Then the line to the bucket also
refuses, breaks, delays and fails requests for some seconds, and a host is cut off from PostgreSQL, shorter and longer
than its lease. In the end, the store must have every instance, and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from pydicom import FileDataset

from node.api import Settings, reading
from node.control.care import check_repository
from node.conversion.naming import folder_name
from node.index.rows.backend import ServerPlace
from node.index.rows.place import upgrade
from node.settings.core import ClusterSettings, IndexSettings, Storage
from tests import make
from tests.acceptance.served import sent as send_all
from tests.acceptance.test_cluster import Host, in_folder, store_of
from tests.crash.harness import arguments
from tests.crash.objects import FAULTS, HELD, Line, line_to, listing
from tests.integration.conftest import data_set_bytes
from tests.object_store import ObjectStore, object_store
from tests.postgresql import ACCOUNT, Server, programs, start

ROLES = {"r1": '["receive"]', "r2": '["receive"]', "c1": '["convert"]', "c2": '["convert"]'}
SENDERS = 4
IDLE_SECONDS = 600.0
START_SECONDS = 120.0


SOCKET = ".s.PGSQL.5432"


class Cluster:
    """The hosts, and what is between them and the servers that they share."""

    def __init__(self, folder: Path, server: Server, chance: random.Random, store: ObjectStore | None) -> None:
        self.folder, self._store, self._chance = folder, store, chance
        self.url = server.create("cluster")
        upgrade(ServerPlace(self.url, folder))
        self.to_store: Line | None = None
        self.to_server: dict[str, Line] = {}
        self.storage = in_folder(folder)
        if store is not None:
            store.ask("PUT", "/archive")
            keys = folder / "keys"
            keys.write_text("[default]\naws_access_key_id = a\naws_secret_access_key = b\n")
            self.to_store, endpoint = line_to(store.url, chance)
            self.storage = {
                "URL": "s3://archive/one", "ENDPOINT": endpoint, "REGION": "us-east-1", "CREDENTIALS_FILE": str(keys),
                "CACHE_BYTES": "20000", "STORE_SECONDS": "2",
            }  # fmt: skip
        self.hosts = {name: self._host(server, name, roles) for name, roles in ROLES.items()}
        self.receivers = [self.hosts["r1"], self.hosts["r2"]]

    def _host(self, server: Server, name: str, roles: str) -> Host:
        if self._store is None:
            return Host(self.folder, self.url, name, roles, self.storage)
        near = Path(tempfile.mkdtemp(prefix=f"{name}-", dir="/tmp"))  # the path of a socket is short
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(near / SOCKET))
        listener.listen()

        def connect() -> socket.socket:
            far = socket.socket(socket.AF_UNIX)
            far.connect(str(server.folder / SOCKET))
            return far

        self.to_server[name] = Line(listener, connect, self._chance)
        return Host(self.folder, f"{self.url.partition('?')[0]}?host={near}", name, roles, self.storage)

    def close(self) -> None:
        """Remove the sockets."""
        for host in self.hosts.values():
            near = Path(host.url.partition("?host=")[2])
            if near.name.startswith(f"{host.name}-"):
                shutil.rmtree(near)

    def rows(self, query: str) -> list[dict[str, Any]]:
        with reading(self.folder, self.url) as index:
            return index.series._rows(query)

    def disturb(self) -> str:
        """Do harm to one line for some seconds; return what was done."""
        assert self.to_store is not None
        line, fault = self.to_store, self._chance.choice(FAULTS)
        what = f"store {fault}"
        if self._chance.random() < 0.5:
            name = self._chance.choice([*self.to_server])
            line, fault = self.to_server[name], self._chance.choice(["away", HELD])
            what = f"{name} {fault} from the server"
        line.fault = fault
        time.sleep(self._chance.choice([1.0, 3.0, 7.0]))
        line.fault = None
        return what

    def settle(self, expected: int) -> None:
        """Wait until every series is converted, and every instance in its place."""
        deadline = time.monotonic() + IDLE_SECONDS
        while True:
            states = Counter(row["state"] for row in self.rows("SELECT state FROM v_series"))
            moving, elsewhere = 0, "WHERE place IS DISTINCT FROM 'store'"
            for table in (f"images {elsewhere}", f"revision_files {elsewhere}", "object_removals", "host_removals"):
                moving += self.rows(f"SELECT count(*) AS n FROM {table}")[0]["n"]
            if set(states) == {"converted"} and states["converted"] == expected and not moving:
                return
            assert time.monotonic() < deadline, f"not settled: {dict(states)}, {moving} to be moved"
            time.sleep(0.5)

    def mistakes(self, sent: list[Sent]) -> list[str]:
        """Return what is wrong in the end, as sentences."""
        found = mistakes(self, sent)
        keys = {row["key"] for row in self.rows("SELECT key FROM images UNION ALL SELECT key FROM revision_files")}
        objects = self._objects()
        found += [f"the store lacks {key}" for key in sorted(keys - objects)]
        found += [f"no row names {key} in the store" for key in sorted(objects - keys)]
        for file in self.rows("SELECT key, sha256 FROM revision_files"):
            if hashlib.sha256(self._content(file["key"])).hexdigest() != file["sha256"]:
                found.append(f"{file['key']} has other bytes in the store")
        storage = {key.lower(): value for key, value in self.storage.items()}
        for host in self.hosts.values():
            settings = Settings(
                storage=Storage(root=host.root, **storage),
                index=IndexSettings(url=self.url),
                cluster=ClusterSettings(host=host.name),
            )
            findings = check_repository(settings, digests=False, repair=False)  # each object was read above
            found += [f"fsck of {host.name}: {finding}" for finding in findings]
        return found

    def is_as_sent(self, image: dict[str, Any], digest: str) -> bool:
        """Whether an instance has the bytes that were sent."""
        return hashlib.sha256(self._content(image["key"])[image["data_set_offset"] :]).hexdigest() == digest

    def _objects(self) -> set[str]:
        if self._store is not None:
            return set(re.findall(r"<Key>one/((?:objects|volumes)/.*?)</Key>", listing(self._store)))
        store = store_of(self.folder)
        return {str(path.relative_to(store)) for path in store.glob("*/**/*") if path.is_file()}

    def _content(self, key: str) -> bytes:
        if self._store is not None:
            return self._store.ask("GET", f"/archive/one/{key}").content
        return (store_of(self.folder) / key).read_bytes()


class Sent:
    """What a sender has sent: its series, and the digests of the instances that were acknowledged."""

    def __init__(self) -> None:
        self.series: dict[str, set[str]] = {}
        self.digests: dict[str, str] = {}
        self.statuses: Counter[int] = Counter()


def send_until(stop: threading.Event, receivers: list[Host], sent: Sent, seed: int) -> None:
    """Send one series after the other, each until all of it is acknowledged."""
    chance = random.Random(seed)
    while not stop.is_set():
        series: list[FileDataset] = make.ct_series(chance.randint(3, 12))
        digests = {str(ds.SOPInstanceUID): hashlib.sha256(data_set_bytes(ds)).hexdigest() for ds in series}
        sent.series[str(series[0].SeriesInstanceUID)] = set(digests)
        left = {str(ds.SOPInstanceUID): ds for ds in series}
        while left:
            answers = send_all(chance.choice(receivers).port, list(left.values()), seconds=10)
            sent.statuses.update(answers.statuses)
            for uid in answers.acknowledged:
                sent.digests[uid] = digests[uid]
                del left[uid]
            if left:
                stop.wait(0.2)
        stop.wait(chance.uniform(0.0, 1.0))


@contextmanager
def sending(receivers: list[Host], senders: int, seed: int) -> Iterator[list[Sent]]:
    """Have senders send until the end of the block, with seeds of their own."""
    stop, sent = threading.Event(), [Sent() for _ in range(senders)]
    threads = [
        threading.Thread(target=send_until, args=(stop, receivers, one, seed * senders + number), daemon=True)
        for number, one in enumerate(sent)
    ]
    for thread in threads:
        thread.start()
    try:
        yield sent
    finally:
        stop.set()
        for thread in threads:
            thread.join()


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


def mistakes(cluster: Cluster, sent: list[Sent]) -> list[str]:
    """Return what is lost, altered, not converted, or left over."""
    found = []
    digests = {uid: digest for one in sent for uid, digest in one.digests.items()}
    query = "SELECT sop_instance_uid, sha256, key, data_set_offset FROM images"
    images = {row["sop_instance_uid"]: row for row in cluster.rows(query)}
    for uid, digest in digests.items():
        if uid not in images:
            found.append(f"instance {uid} was acknowledged and is lost")
        elif not cluster.is_as_sent(images[uid], digest):
            found.append(f"instance {uid} is not as it was sent")
    series = {uid: uids for one in sent for uid, uids in one.series.items()}
    current: dict[str, list[dict[str, Any]]] = {}
    query = (
        "SELECT se.series_instance_uid, c.revision, c.instances FROM conversions c "
        "JOIN series se ON se.id = c.series_id WHERE NOT c.superseded"
    )
    for row in cluster.rows(query):
        current.setdefault(row["series_instance_uid"], []).append(row)
    for uid, uids in series.items():
        its = current.get(uid, [])
        if [row["instances"] for row in its] != [len(uids)]:
            found.append(f"series {uid} of {len(uids)} instances has the current revisions {its}")
    named = {str(Path(row["path"]).parent) for row in cluster.rows("SELECT path FROM volumes")}
    archives = [store_of(cluster.folder), *(host.root for host in cluster.hosts.values())]
    for uid in series:
        found += [
            f"no row names {folder}"
            for archive in archives
            for folder in archive.glob(f"volumes/*/{folder_name(uid)}/*")
            if str(folder.relative_to(archive)) not in named
        ]
    return found


def main() -> None:
    parser = arguments(__doc__, cycles=20)
    parser.add_argument("--bucket", action="store_true", help="share a bucket instead of a folder, and harm the lines")
    options = parser.parse_args()
    chance = random.Random(options.seed)
    counts: Counter[str] = Counter()
    with ExitStack() as opened:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="cluster-")))
        server = opened.enter_context(start())
        opened.callback(crash, server, "stop")  # `start` knows only the process that it started
        store = opened.enter_context(object_store()) if options.bucket else None
        cluster = Cluster(folder, server, chance, store)
        opened.callback(cluster.close)
        hosts = cluster.hosts
        for host in hosts.values():
            opened.enter_context(host)
        with sending(cluster.receivers, SENDERS, options.seed) as sent:
            for _ in range(options.cycles):
                time.sleep(chance.uniform(0.5, 4.0))
                lines = ["line"] * 4 if options.bucket else []
                victim = chance.choice([*hosts, *hosts, "server", *lines])
                if victim == "line":
                    victim = cluster.disturb()
                elif victim == "server":
                    crash(server)
                else:
                    hosts[victim].kill()
                    time.sleep(chance.choice([0.0, 1.0, 6.0]))  # shorter and longer than a lease
                    begin(hosts[victim])
                counts[victim] += 1
        cluster.settle(sum(len(one.series) for one in sent))
        wrong = cluster.mistakes(sent)
        attempts = cluster.rows("SELECT kind, count(*) AS n FROM v_events GROUP BY kind")
        revisions = cluster.rows("SELECT count(*) AS n FROM conversions")[0]["n"]
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
