"""Servers that fail, with a synchronous standby: ``python -m tests.crash.failover --cycles 20``.

Two hosts receive and one converts, with an index in PostgreSQL whose commits wait for a standby; ``[index] url`` names
both servers. Four senders send series to either receiver, the rest again to either one when an association breaks.
Meanwhile, in each cycle,

- ``lost``: the primary is killed (SIGKILL) and its files are deleted; the standby is promoted,
- ``back``: the same, but the killed primary comes back as a second one, which waits for a standby or for none, and most
  often the one that was promoted is then away for a while,
- ``hangs``: the primary answers nothing any more (SIGSTOP), and the standby is promoted; then it goes on for a while,
- ``away``: the standby is killed, and comes back.

A former primary is ended (fenced) some seconds later than it should be. The server that was promoted takes no commit
before a new standby follows it. In the end, everything that was
acknowledged must be in the index, with its file as it was sent, and each series must be converted from all of its
instances, once. Leases last 4 s, series are quiet after 1 s, and instances are answered within 5 s.
"""

import json
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from node.index.reading import reading
from node.index.rows.backend import ServerPlace
from node.index.rows.place import IndexUnusable, upgrade
from tests.acceptance.test_cluster import Host, store_of
from tests.crash.cluster import IDLE_SECONDS, SENDERS, Sent, mistakes, sending
from tests.crash.harness import arguments
from tests.replication import WAITS, Replicated, replicated

ROLES = {"r1": '["receive"]', "r2": '["receive"]', "c1": '["convert"]'}
FAULTS = ("lost", "back", "hangs", "away")
ALONE = "synchronous_standby_names="
GOES_ON_SECONDS = 180.0


class Site:
    """The hosts and their servers, as `tests.crash.cluster.mistakes` looks at them."""

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
        return image["sha256"] == digest and any((place / image["key"]).is_file() for place in places)

    def harm(self, fault: str, chance: random.Random) -> None:
        """Do harm; in the end, a primary and a standby run."""
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


def acknowledged(sent: list[Sent]) -> int:
    return sum(len(one.digests) for one in sent)


def seconds_until_more(sent: list[Sent]) -> float:
    """Return after how long another instance is acknowledged."""
    began, before = time.monotonic(), acknowledged(sent)
    while acknowledged(sent) == before:
        assert time.monotonic() < began + GOES_ON_SECONDS, "nothing is acknowledged any more"
        time.sleep(0.05)
    return time.monotonic() - began


def run(site: Site, faults: list[str], chance: random.Random, senders: int, seed: int) -> dict[str, Any]:
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
