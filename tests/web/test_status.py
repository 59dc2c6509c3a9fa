"""The page of the state: the last hour, the last word of each sender, the connections to peers."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from pynetdicom import AE
from pynetdicom.sop_class import Verification

from node.association.client.association import NoAssociation, verify
from node.association.client.send import send_files
from node.extensions.pages.operation import hour_charts
from node.metrics import MAX_SENDERS, LastHour, LastWords, Minute
from tests import make
from tests.acceptance.served import Served
from tests.web.conftest import until


def test_minutes_of_the_last_hour_are_counted_and_forgotten() -> None:
    clock = [7200.0]
    hour = LastHour(lambda: clock[0])
    hour.received(100)
    hour.received(50)
    hour.waiting(3)
    hour.waiting(1)
    clock[0] += 90
    hour.received(1)
    assert [minute for minute in hour.minutes() if minute != Minute()] == [Minute(2, 150, 3), Minute(1, 1, None)]
    assert hour.minutes()[-2] == Minute(2, 150, 3)
    clock[0] += 59 * 60
    assert [minute for minute in hour.minutes() if minute != Minute()] == [Minute(1, 1, None)]
    clock[0] += 3600
    assert hour.minutes() == [Minute()] * 60


def test_the_last_words_are_those_of_the_last_senders() -> None:
    words, now = LastWords(), dt.datetime.now(dt.UTC)
    words.heard("CT1", "10.0.0.1", "stored an instance", now, stored=1)
    for number in range(MAX_SENDERS - 1):
        words.heard(f"STRANGER{number}", "10.0.0.2", "association refused", now)
    words.heard("CT1", "10.0.0.1", "association released", now, stored=1)
    words.heard("ANOTHER", "10.0.0.3", "association released", now)
    known = words.all()
    assert len(known) == MAX_SENDERS
    assert [one.calling_ae_title for one in known[:2]] == ["ANOTHER", "CT1"]
    assert (known[1].stored, known[1].word) == (2, "association released")
    assert "STRANGER0" not in {one.calling_ae_title for one in known}


def test_a_chart_shows_the_most_as_its_height_and_the_least_as_something() -> None:
    received, waiting = hour_charts([Minute(1000, 5, None), Minute(), Minute(1, 1, 2)])
    assert [bar.height for bar in received.bars] == [54, 1.5]
    assert received.bars[0].title == "2 minutes ago: 1\u2009000 instances, 5 B"
    assert (received.bars[0].x, waiting.bars[0].x) == (0, 240)
    assert waiting.summary == "2 series now, at most 2 in the last hour"
    assert hour_charts([Minute()] * 60)[0].bars == ()


@pytest.fixture
def echoing() -> Iterator[int]:
    """The port of a peer that answers C-ECHO."""
    peer = AE("PACS")
    peer.add_supported_context(Verification)
    server = peer.start_server(("127.0.0.1", 0), block=False)
    assert server is not None
    yield server.socket.getsockname()[1]
    server.shutdown()


@pytest.mark.slow
def test_the_status_of_a_served_node(tmp_path: Path, echoing: int) -> None:
    peers = {"PACS": echoing, "GONE": 1}
    environment = {"VOXELNODE_DICOM__HOST": "127.0.0.1", "VOXELNODE_PEERS__CT1__AE_TITLE": "CT1"}
    environment["VOXELNODE_SERIES__QUIET_SECONDS"] = "600"  # the series waits until it has been counted
    for name, port in peers.items():
        own = {"AE_TITLE": name, "HOST": "127.0.0.1", "PORT": str(port)}
        environment |= {f"VOXELNODE_PEERS__{name}__{key}": value for key, value in own.items()}
    (instance,) = make.ct_series(1)
    instance.save_as(tmp_path / "one.dcm", enforce_file_format=True)
    with Served(tmp_path / "root", **environment) as node:
        assert node.process is not None
        with httpx2.Client(base_url=node.process.stdout.readline().split()[-1], timeout=30) as client:
            send_files([tmp_path / "one.dcm"], node.address, "CT1", 10)
            with pytest.raises(NoAssociation):
                verify(node.address, "STRANGER", 10)
            until(lambda: "association refused: calling AE title" in client.get("/status/numbers").text)
            numbers = client.get("/status/numbers").text
            assert "association released" in numbers
            assert "1 instance in the last hour, at most 1 a minute" in numbers
            until(lambda: "at most 1 in the last hour" in client.get("/status/numbers").text)
            assert "answers in" in client.post("/status/peers/PACS/echo").text
            assert "Connection refused" in client.post("/status/peers/GONE/echo").text
            assert "has no host" in client.post("/status/peers/CT1/echo").text
            assert client.post("/status/peers/PACS@127.0.0.1:104/echo").status_code == 404
