"""The page of the state: the last hour, the last word of each sender, the connections to peers."""

import datetime as dt
import errno
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx2
import pytest
from pynetdicom.sop_class import Verification

from node.api import send_files
from node.association.client.association import NoAssociation, verify
from tests import make
from tests.acceptance.served import Served
from tests.peers import listening
from tests.web.conftest import open_site, until

pytestmark = pytest.mark.slow


def test_senders_and_minutes_outlive_a_restart(tmp_path: Path) -> None:
    for _ in range(2):
        site = open_site(tmp_path / "root")
        with closing(site):
            site.store.ingest.now = lambda: dt.datetime.now(dt.UTC) - dt.timedelta(minutes=5)
            if not site.client().get("/api/v1/series").json()["items"]:
                site.take(*make.ct_series(3, study_uid="1.2", series_uid="1.2.1"))
                continue
            page = site.client().get("/status").text
            assert "3 instances in the last hour" in page
            assert "stored an instance" in page
            assert 'data-of="stored">3</td>' in page
            assert "3 instances in the last day" in page


def test_each_page_says_that_nothing_is_accepted_and_how_much_room_there_is(tmp_path: Path) -> None:
    with closing(open_site(tmp_path / "root")) as site:
        site.store.archive.intake.failed(OSError(errno.EIO, "Input/output error"))
        for path in ("/", "/queue", "/status", "/problems", "/badges"):
            answer = site.client().get(path).text
            assert answer.count("New images are refused.") == 1
            assert re.search(r"The disk has [\d.]+ [kMGT]B left of [\d.]+ [kMGT]B", answer)
    with closing(open_site(tmp_path / "other")) as site:
        assert "New images are refused." not in site.client().get("/").text


@pytest.fixture
def echoing() -> Iterator[int]:
    """The port of a peer that answers C-ECHO."""
    with listening("PACS", (), Verification) as port:
        yield port


def test_the_status_of_a_served_node(tmp_path: Path, echoing: int) -> None:
    peers = {"PACS": echoing, "GONE": 1}
    environment = {"VOXELNODE_DICOM__HOST": "127.0.0.1", "VOXELNODE_PEERS__CT1__AE_TITLE": "CT1"}
    environment["VOXELNODE_SERIES__QUIET_SECONDS"] = "600"  # the series waits until it has been counted
    for name, port in peers.items():
        own = {"AE_TITLE": name, "HOST": "127.0.0.1", "PORT": str(port)}
        environment |= {f"VOXELNODE_PEERS__{name}__{key}": value for key, value in own.items()}
    (instance,) = make.ct_series(1)
    instance.save_as(tmp_path / "one.dcm", enforce_file_format=True)
    with (
        Served(tmp_path / "root", **environment) as node,
        httpx2.Client(base_url=node.process.stdout.readline().split()[-1], timeout=30) as client,
    ):
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
