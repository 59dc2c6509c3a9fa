"""dcmjs-dimse, a third implementation of DIMSE, in JavaScript."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom import FileDataset

from tests.acceptance.served import Served
from tests.interop.conftest import NODE_MODULES, STUDY, run, served, stored
from tests.make import ct_series
from tests.programs import free_port, needs

pytestmark = pytest.mark.peer

CLIENT = Path(__file__).parent / "client.js"


@pytest.fixture(scope="module")
def store_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, study: list[FileDataset], store_port: int) -> Iterator[Served]:
    needs("node", "nodejs")
    if not (NODE_MODULES / "dcmjs-dimse").is_dir():
        pytest.skip("dcmjs-dimse is not installed (npm ci --prefix tests/interop)")
    folder = tmp_path_factory.mktemp("dcmjs")
    with served(folder, {"dcmjs": {"ae_title": "DCMJS", "host": "127.0.0.1", "port": store_port}}) as running:
        stored(running, study, folder)
        yield running


def dcmjs(node: Served, verb: str, *arguments: str) -> Any:
    """What the client tells, as JSON."""
    reported = run(needs("node", "nodejs"), str(CLIENT), verb, str(node.port), *arguments, NODE_PATH=str(NODE_MODULES))
    return json.loads(next(line for line in reported.splitlines() if line.startswith("{")))  # it logs on both streams


@pytest.mark.slow
def test_echo_is_answered(node: Served) -> None:
    assert dcmjs(node, "echo") == {"statuses": [0]}


def test_find_tells_the_study(node: Served) -> None:
    reported = dcmjs(node, "find", "DOE*")
    assert reported["found"] == [STUDY]
    assert reported["statuses"][-1] == 0


def test_get_brings_the_study(node: Served, study: list[FileDataset]) -> None:
    reported = dcmjs(node, "get", STUDY)
    assert reported["statuses"][-1] == 0
    assert sorted(reported["stored"]) == sorted(str(ds.SOPInstanceUID) for ds in study)


def test_move_brings_the_study_to_its_own_port(node: Served, study: list[FileDataset], store_port: int) -> None:
    reported = dcmjs(node, "move", STUDY, str(store_port))
    assert reported["statuses"][-1] == 0
    assert sorted(reported["stored"]) == sorted(str(ds.SOPInstanceUID) for ds in study)


def test_what_it_stores_is_kept(node: Served, tmp_path: Path) -> None:
    [ds] = ct_series(1)
    path = tmp_path / "one.dcm"
    ds.save_as(path, enforce_file_format=True)
    assert dcmjs(node, "store", str(path)) == {"statuses": [0]}
    kept = {row["sop_instance_uid"] for row in node.rows("SELECT sop_instance_uid FROM v_images")}
    assert str(ds.SOPInstanceUID) in kept
