"""What senders do to a served node, and the revision, verdict and events that come of it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pydicom import FileDataset
from pynetdicom import AE

from tests import make
from tests.acceptance.served import Served, until
from tests.preloaded import run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def associate(node: Served, title: str = "SENDER") -> Any:
    ae = AE(title)
    ae.network_timeout = ae.dimse_timeout = ae.acse_timeout = 20
    ds = make.ct_series(1)[0]
    ae.add_requested_context(ds.SOPClassUID, ds.file_meta.TransferSyntaxUID)
    assoc = ae.associate("127.0.0.1", node.port, ae_title="VOXELNODE")
    assert assoc.is_established
    return assoc


def store(assoc: Any, instances: Sequence[FileDataset]) -> None:
    for ds in instances:
        assert assoc.send_c_store(ds).Status == 0x0000


def send(node: Served, instances: Sequence[FileDataset], title: str = "SENDER") -> None:
    assoc = associate(node, title)
    store(assoc, instances)
    assoc.release()


def converted(node: Served, revision: int, seconds: float = 60) -> dict[str, Any]:
    """The one series, once it is converted for the `revision`th time."""
    query = f"SELECT * FROM v_series WHERE state = 'converted' AND revision = {revision}"
    until(lambda: node.rows(query), seconds, f"revision {revision}: {node.rows('SELECT * FROM v_series')}")
    [series] = node.rows(query)
    return series


def verdict(series: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(series[name] for name in ("verdict", "verdict_rule", "expected_instances", "missing_instances"))


def events(node: Served) -> list[str]:
    return [row["kind"] for row in node.rows("SELECT kind FROM v_events ORDER BY id")]


FIRST = ["series-quiet", "series-converted"]
NEXT = ["series-reopened", "series-quiet", "volume-superseded", "series-converted"]


def test_a_late_slice_makes_a_second_revision(tmp_path: Path) -> None:
    *most, last = make.ct_series(6, ImagesInAcquisition=6)
    with Served(tmp_path / "root") as node:
        send(node, most)
        assert verdict(converted(node, 1)) == ("incomplete", "headers", 6, 1)
        send(node, [last])
        assert verdict(converted(node, 2)) == ("complete", "headers", 6, 0)
        assert events(node) == FIRST + NEXT
        [volume] = node.rows("SELECT * FROM v_volumes WHERE format = 'nifti' AND NOT superseded")
        assert (volume["revision"], json.loads(volume["shape"])[2]) == (2, 6)


def test_an_aborted_sender_gets_time_to_come_back(tmp_path: Path) -> None:
    series = make.ct_series(6)
    with Served(tmp_path / "root", VOXELNODE_SERIES__ABORTED_GRACE_SECONDS="120") as node:
        assoc = associate(node)
        store(assoc, series[:3])
        assoc.abort()
        until(lambda: events(node) == ["sender-aborted"], 30, "the abort in v_events")
        [waiting] = node.rows("SELECT (julianday(due_at) - julianday(last_received_at)) * 86400 AS wait FROM v_series")
        assert waiting["wait"] == pytest.approx(120, abs=1)
        send(node, series[3:])
        assert verdict(converted(node, 1)) == ("complete", "geometry", None, 0)
        assert events(node) == ["sender-aborted", *FIRST]


def reconvert(node: Served, *options: str) -> dict[str, Any]:
    done = run("reconvert", "--root", node.root, "--json", *options)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_a_running_node_is_asked_to_convert_again_and_does_so_only_where_that_changes_something(tmp_path: Path) -> None:
    with Served(tmp_path / "root") as node:
        send(node, make.ct_series(4))
        converted(node, 1)
        assert reconvert(node, "--where", 'modality == "MR"')["owed"] == 0
        dry = reconvert(node, "--where", 'modality == "CT"', "--dry-run")
        assert (dry["owed"], reconvert(node, dry["series"][0], "--dry-run")) == (0, dry)
        for wrong in ('modalty == "CT"', "1); DROP TABLE images; --"):
            done = run("reconvert", "--root", node.root, "--where", wrong)
            assert done.returncode == 2, done.stdout
            assert done.stderr.startswith("voxelnode: at character ")
        assert reconvert(node, "--where", 'modality == "CT" and slices == 4')["owed"] == 1
        until(lambda: "series-unchanged" in events(node), 60, "the series looked at again")
        converted(node, 1)
        assert node.terminate() == 0
        assert reconvert(node, "--all")["owed"] == 1, "without a node the command opens the root itself"
    with Served(tmp_path / "root", VOXELNODE_CONVERT__COMPRESS="false") as node:
        converted(node, 2)
