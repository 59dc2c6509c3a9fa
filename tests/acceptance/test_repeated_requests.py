"""Requests that a client repeats because it does not know what became of them: the node was killed."""

from __future__ import annotations

import re
from pathlib import Path

import httpx2
import pytest

from node.association.client.send import send_files
from tests import make
from tests.acceptance.served import Served

pytestmark = pytest.mark.slow

STUDY = "1.2.3"
KEY = {"Idempotency-Key": "8e03978e-40d5-43dd-bc93-6894a57f9324"}


def stored(node: Served, folder: Path) -> httpx2.Client:
    """Store and convert a study; return a client of the node."""
    paths = []
    for number, ds in enumerate(make.ct_series(3, study_uid=STUDY)):
        paths.append(folder / f"{number}.dcm")
        ds.save_as(paths[-1], enforce_file_format=True)
    send_files(paths, node.address, "CT1")
    node.wait_until_settled()
    return client_of(node)


def client_of(node: Served) -> httpx2.Client:
    assert node.process is not None
    url = re.findall(r"http://\S+\d", node.process.stdout.readline())[0]
    return httpx2.Client(base_url=f"{url}/api/v1", headers=KEY, timeout=20)


def test_a_reconversion_is_not_done_again_after_a_kill(tmp_path: Path) -> None:
    with Served(tmp_path / "root") as node, stored(node, tmp_path) as client:
        first = client.post(f"/studies/{STUDY}/reconvert")
        node.kill()
    assert (first.status_code, first.json()) == (202, {"owed": 1})
    with Served(tmp_path / "root") as node, client_of(node) as client:
        node.wait_until_settled()
        again = client.post(f"/studies/{STUDY}/reconvert")
        reopened = node.rows("SELECT 1 FROM v_events WHERE kind = 'series-reopened'")
    assert (again.status_code, again.json(), again.headers["idempotent-replayed"]) == (202, {"owed": 1}, "true")
    assert len(reopened) == 1


def test_a_deletion_that_was_killed_before_its_answer_has_one_after_the_start(tmp_path: Path) -> None:
    with (
        Served(tmp_path / "root", VOXELNODE_FAILPOINT="deletion-ordered") as node,
        stored(node, tmp_path) as client,
        pytest.raises(httpx2.TransportError),
    ):
        client.delete(f"/studies/{STUDY}")
    with Served(tmp_path / "root") as node, client_of(node) as client:
        again = client.delete(f"/studies/{STUDY}")
        assert client.get(f"/studies/{STUDY}").status_code == 404
        [deletions] = node.rows("SELECT count(*) AS n FROM v_deletions")
    assert (again.status_code, again.json()["instances"], again.json()["deleted"]) == (200, 3, True)
    assert deletions["n"] == 1
