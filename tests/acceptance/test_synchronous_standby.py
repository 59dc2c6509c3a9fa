"""A promise that needs two servers of PostgreSQL: each server, and each host, is away for a while or for ever."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.failover import FAULTS, Site, run
from tests.replication import Replicated, replicated

pytest.importorskip("psycopg", reason="psycopg is not installed")

pytestmark = [pytest.mark.long, pytest.mark.timeout(900), pytest.mark.sqlite("has servers of its own")]


@pytest.fixture
def servers() -> Iterator[Replicated]:
    with replicated() as servers:
        yield servers


def test_a_standby_takes_over_and_nothing_that_was_acknowledged_is_lost(servers: Replicated, tmp_path: Path) -> None:
    site = Site(tmp_path, servers)
    with site.hosts["r1"], site.hosts["r2"], site.hosts["c1"]:
        seen = run(site, FAULTS, random.Random(0), 2, 0)
    assert seen["mistakes"] == []
    assert seen["answers"]["0x0000"] == seen["instances"] > 0
