"""Servers and hosts that fail, with a synchronous standby: ``python -m tests.crash.failover --cycles 20``.

Two hosts receive and one converts, with an index in PostgreSQL whose commits wait for a standby; ``[index] url`` names
both servers. Four senders send series to either receiver, the rest again to either one when an association breaks.
Meanwhile, in each cycle,

- ``lost``: the primary is killed (SIGKILL) and its files are deleted; the standby is promoted,
- ``back``: the same, but the killed primary comes back as a second one, which waits for a standby or for none, and most
  often the one that was promoted is then away for a while,
- ``hangs``: the primary answers nothing any more (SIGSTOP), and the standby is promoted; then it goes on for a while,
- ``away``: the standby is killed, and comes back,
- ``host``: one of the hosts is killed, and comes back before or after its lease has ended.

A former primary is ended (fenced) some seconds later than it should be. The server that was promoted takes no commit
before a new standby follows it. In the end, everything that was acknowledged must be in the index, with its file as it
was sent, and each series must be converted from all of its instances, once. Leases last 4 s, series are quiet after
1 s, and instances are answered within 5 s.
"""

import hashlib
import json
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from pydicom import FileDataset

from node.conversion.naming import folder_name
from node.index.reading import reading
from node.index.rows.backend import ServerPlace
from node.index.rows.place import IndexUnusable, upgrade
from tests import make
from tests.acceptance.served import sent as send_all
from tests.acceptance.test_cluster import Host, store_of
from tests.crash.harness import arguments
from tests.protocol.conftest import data_set_bytes
from tests.replication import WAITS, Replicated, replicated

ROLES = {"r1": '["receive"]', "r2": '["receive"]', "c1": '["convert"]'}
FAULTS = ("lost", "back", "hangs", "away", "host")
SENDERS = 4
IDLE_SECONDS = 600.0
ALONE = "synchronous_standby_names="
GOES_ON_SECONDS = 180.0


class Site:
    """The hosts and their servers."""

    def __init__(self, folder: Path, servers: Replicated) -> None:
        self.folder, self.servers = folder, servers
        servers.primary.create("failover")
        self.url = servers.url("failover")
        upgrade(ServerPlace(self.url, folder))
        waits = {"VOXELNODE_JOURNAL__ACKNOWLEDGE_SECONDS": "5", "VOXELNODE_SERIES__ABORTED_GRACE_SECONDS": "2"}
        self.hosts = {name: Host(folder, self.url, name, roles, **waits) for name, roles in ROLES.items()}
        self.receivers = [self.hosts["r1"], self.hosts["r2"]]

    def rows(self, query: str) -> list[dict[str, Any]]:
        with reading(self.folder, self.url) as index:
            return index.series._rows(query)

    def is_as_sent(self, image: dict[str, Any], digest: str) -> bool:
        places = [store_of(self.folder), *(host.root for host in self.hosts.values())]
        files = [place / image["key"] for place in places if (place / image["key"]).is_file()]
        start = image["data_set_offset"]
        return any(hashlib.sha256(file.read_bytes()[start:]).hexdigest() == digest for file in files)

    def harm(self, fault: str, chance: random.Random) -> None:
        """Do harm; in the end, a primary, a standby and all hosts run."""
        if fault == "host":
            host = chance.choice([*self.hosts.values()])
            host.kill()
            time.sleep(chance.choice([0.0, 1.0, 6.0]))  # shorter and longer than a lease
            host.start()
            return
        servers = self.servers
        primary = servers.primary
        if fault == "away":
            servers.kill(servers.standby)
            time.sleep(chance.choice([1.0, 4.0, 10.0]))
            servers.run(servers.standby)
            return
        if fault == "hangs":
            servers.signal(primary, signal.SIGSTOP)
        else:
            servers.kill(primary)
        if fault == "lost":
            shutil.rmtree(primary.folder / "data")
        time.sleep(chance.choice([0.0, 1.0, 5.0]))
        servers.promote()
        time.sleep(chance.choice([0.0, 2.0]))
        if fault == "back":
            servers.run(primary, chance.choice([ALONE, WAITS]))
            if chance.random() < 0.7:
                servers.kill(servers.primary)
                time.sleep(2.0)
                servers.run(servers.primary)
        elif fault == "hangs":
            servers.signal(primary, signal.SIGCONT)
        if fault != "lost":
            time.sleep(chance.choice([1.0, 6.0]))
            servers.kill(primary)
        servers.follow()

    def settle(self, expected: int) -> None:
        """Wait until every series is converted."""
        deadline = time.monotonic() + IDLE_SECONDS
        while True:
            states: Counter[str] = Counter()
            with suppress(IndexUnusable):  # the server has just come back
                states.update(row["state"] for row in self.rows("SELECT state FROM v_series"))
            if states == {"converted": expected}:
                return
            assert time.monotonic() < deadline, f"not settled: {dict(states)} of {expected}"
            time.sleep(0.5)


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


def mistakes(site: Site, sent: list[Sent]) -> list[str]:
    """Return what is lost, altered, not converted, or left over."""
    found = []
    digests = {uid: digest for one in sent for uid, digest in one.digests.items()}
    query = "SELECT sop_instance_uid, key, data_set_offset FROM images"
    images = {row["sop_instance_uid"]: row for row in site.rows(query)}
    for uid, digest in digests.items():
        if uid not in images:
            found.append(f"instance {uid} was acknowledged and is lost")
        elif not site.is_as_sent(images[uid], digest):
            found.append(f"instance {uid} is not as it was sent")
    series = {uid: uids for one in sent for uid, uids in one.series.items()}
    current: dict[str, list[dict[str, Any]]] = {}
    query = (
        "SELECT se.series_instance_uid, c.revision, c.instances FROM conversions c "
        "JOIN series se ON se.id = c.series_id WHERE NOT c.superseded"
    )
    for row in site.rows(query):
        current.setdefault(row["series_instance_uid"], []).append(row)
    for uid, uids in series.items():
        its = current.get(uid, [])
        if [row["instances"] for row in its] != [len(uids)]:
            found.append(f"series {uid} of {len(uids)} instances has the current revisions {its}")
    named = {str(Path(row["path"]).parent) for row in site.rows("SELECT path FROM volumes")}
    archives = [store_of(site.folder), *(host.root for host in site.hosts.values())]
    for uid in series:
        found += [
            f"no row names {folder}"
            for archive in archives
            for folder in archive.glob(f"volumes/*/{folder_name(uid)}/*")
            if str(folder.relative_to(archive)) not in named
        ]
    return found


def acknowledged(sent: list[Sent]) -> int:
    return sum(len(one.digests) for one in sent)


def seconds_until_more(sent: list[Sent]) -> float:
    """Return after how long another instance is acknowledged."""
    began, before = time.monotonic(), acknowledged(sent)
    while acknowledged(sent) == before:
        assert time.monotonic() < began + GOES_ON_SECONDS, "nothing is acknowledged any more"
        time.sleep(0.05)
    return time.monotonic() - began


def run(site: Site, faults: Sequence[str], chance: random.Random, senders: int, seed: int) -> dict[str, Any]:
    """Send while servers fail; return what was seen, with ``mistakes``."""
    waits: dict[str, list[float]] = {}
    with sending(site.receivers, senders, seed) as sent:
        for fault in faults:
            seconds_until_more(sent)
            time.sleep(chance.uniform(0.5, 3.0))
            site.harm(fault, chance)
            waits.setdefault(fault, []).append(round(seconds_until_more(sent), 1))
    site.settle(sum(len(one.series) for one in sent))
    statuses = sum((one.statuses for one in sent), Counter[int]())
    found = mistakes(site, sent)
    twice = "SELECT series_id FROM conversions GROUP BY series_id, instances HAVING count(*) > 1"
    found += [f"series {row['series_id']} was converted twice from the same" for row in site.rows(twice)]
    return {
        "seconds until an instance was acknowledged after": waits,
        "series": sum(len(one.series) for one in sent),
        "instances": acknowledged(sent),
        "answers": {f"0x{status:04X}": count for status, count in sorted(statuses.items())},
        "revisions": site.rows("SELECT count(*) AS n FROM conversions")[0]["n"],
        "mistakes": found,
    }


def main() -> int:
    parser = arguments(__doc__, cycles=20)
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=FAULTS)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    faults = [chance.choice(options.faults) for _ in range(options.cycles)]
    with ExitStack() as opened:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="failover-")))
        site = Site(folder, opened.enter_context(replicated()))
        for host in site.hosts.values():
            opened.enter_context(host)
        seen = run(site, faults, chance, SENDERS, options.seed)
    print(json.dumps(seen, indent=1))
    return 1 if seen["mistakes"] else 0


if __name__ == "__main__":
    sys.exit(main())
