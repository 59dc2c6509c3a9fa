"""A promise that needs two servers of PostgreSQL: one takes the place of the other, or is away for a while."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests import make
from tests.acceptance.served import until
from tests.acceptance.test_cluster import Host
from tests.acceptance.test_kill import Sender
from tests.crash.failover import Site, run
from tests.replication import Replicated, replicated

pytest.importorskip("psycopg", reason="psycopg is not installed")

pytestmark = [pytest.mark.long, pytest.mark.timeout(900), pytest.mark.sqlite("has servers of its own")]


@pytest.fixture
def servers() -> Iterator[Replicated]:
    with replicated() as servers:
        yield servers


def send(host: Host, instances: list[Any]) -> list[int]:
    sender = Sender(host.port, instances, seconds=60)
    sender.start()
    sender.join()
    return sender.statuses


def test_nothing_is_acknowledged_while_the_standby_is_away_and_all_is_said(servers: Replicated, tmp_path: Path) -> None:
    site = Site(tmp_path, servers)
    series = make.ct_series(3)
    own = {"VOXELNODE_JOURNAL__ACKNOWLEDGE_SECONDS": "8"}
    with Host(tmp_path, site.url, "r1", '["receive", "convert", "web"]', **own) as host:
        pages = host.process.stdout.readline().split()[-1]

        def ready() -> tuple[int, str]:
            answer = httpx2.get(f"{pages}readyz?role=receive", timeout=60)
            return answer.status_code, str(answer.json()["reasons"].get("server of the index"))

        until(lambda: ready()[0] == 200, 60, "a host that is ready")
        assert send(host, series[:1]) == [0x0000]
        servers.kill(servers.standby)
        assert send(host, series[1:2]) == [0xA700]
        wanted = "keeps commits waiting for a standby: synchronous_standby_names is '*', and no standby follows"
        until(lambda: ready() == (503, f"the server of the index {wanted}"), 60, "the reason")
        assert send(host, series[1:2]) == []  # no association
        until(lambda: wanted in host.command("status"), 60, "the reason in the state of the host")
        rows = "SELECT count(*) FROM images"
        assert servers.primary.run(rows, "failover") == [(1,)]
        servers.run(servers.standby)
        until(lambda: ready()[0] == 200, 60, "a host that is ready again")
        until(lambda: servers.primary.run(rows, "failover") == [(2,)], 60, "what was in the journal in the index")
        until(lambda: send(host, series[1:]) == [0x0000] * 2, 60, "the rest")
        until(lambda: host.states(series[0].SeriesInstanceUID) == ["converted"], 60, "the conversion")

        # A host that stops meanwhile leaves its journal to the next start.
        servers.kill(servers.standby)
        late = make.ct_series(1)
        assert send(host, late) == [0xA700]
        host.process.terminate()
        host.process.wait(180)
        servers.run(servers.standby)
        host.start()
        until(lambda: host.states(late[0].SeriesInstanceUID) == ["converted"], 60, "what the journal had")


def test_a_standby_takes_over_and_nothing_that_was_acknowledged_is_lost(servers: Replicated, tmp_path: Path) -> None:
    site = Site(tmp_path, servers)
    with site.hosts["r1"], site.hosts["r2"], site.hosts["c1"]:
        seen = run(site, ["lost", "back", "hangs", "away"], random.Random(0), 2, 0)
    assert seen["mistakes"] == []
    assert seen["answers"]["0x0000"] == seen["instances"] > 0
