"""`voxelnode peers find`, `get` and `send` between two nodes, as their users run them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom import FileDataset
from pydicom.uid import RLELossless, generate_uid

from node.api import Index, send_files
from node.runtime.metrics import Metrics
from tests.acceptance.served import Served
from tests.make import ct_series, mr_series, saved
from tests.preloaded import run
from tests.rows import view_rows

pytestmark = pytest.mark.slow


STUDY = generate_uid()
NO_WEB = {"VOXELNODE_WEB__ENABLED": "false"}


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> list[FileDataset]:
    ct = ct_series(4, study_uid=STUDY, PatientID="P-1", PatientName="Müller^Änne", SpecificCharacterSet="ISO_IR 100")
    mr = mr_series(3, study_uid=STUDY, PatientID="P-1")
    for ds in mr:
        ds.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
    return [*ct, *mr]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, series: list[FileDataset]) -> Iterator[Served]:
    """A node that holds one study."""
    folder = tmp_path_factory.mktemp("source")
    paths = saved(series, folder)
    with Served(folder / "root", **NO_WEB) as node:
        send_files(paths, node.address, "SENDER")
        yield node


def voxelnode(*arguments: object, **environment: str) -> tuple[int, Any, str]:
    done = run(*arguments, "--json", environment=environment)
    assert "Traceback" not in done.stderr
    return done.returncode, json.loads(done.stdout) if done.stdout else None, done.stderr


def images(root: Path) -> dict[str, dict[str, Any]]:
    """What the index of a root says of its instances, by UID."""
    return {row["sop_instance_uid"]: row for row in view_rows(root, "SELECT * FROM v_images")}


def digests(root: Path) -> dict[str, str]:
    """SHA-256 of every data set as received, by UID."""
    return {uid: row["sha256"] for uid, row in images(root).items()}


def test_find_lists_the_studies_of_another_node(source: Served) -> None:
    peer = f"VOXELNODE@127.0.0.1:{source.port}"
    status, answers, _ = voxelnode("peers", "find", "--from", peer, "PatientName=müller*", "StudyDate=20240101-")
    assert status == 0
    [answer] = answers
    assert answer["0020000D"]["Value"] == [STUDY]
    assert answer["00100010"]["Value"] == [{"Alphabetic": "Müller^Änne"}]
    assert answer["00201208"]["Value"] == [7]
    status, answers, _ = voxelnode("peers", "find", "--from", peer, "--level", "series", f"StudyInstanceUID={STUDY}")
    assert {answer["00080060"]["Value"][0] for answer in answers} == {"CT", "MR"}
    assert voxelnode("peers", "find", "--from", peer, "PatientID=nobody")[1] == []
    query = ("--level", "series", f"StudyInstanceUID={STUDY}")
    status, answers, said = voxelnode("peers", "find", "--from", peer, "--limit", 1, *query)
    assert (status, len(answers)) == (0, 1)
    assert "which has more; --limit N shows more" in said
    assert voxelnode("peers", "find", "--from", peer, "--limit", 2, *query)[2] == ""


@pytest.mark.parametrize("running", [False, True], ids=["into a free root", "into a running node"])
def test_get_brings_a_study_byte_for_byte(source: Served, tmp_path: Path, running: bool) -> None:
    root = tmp_path / "root"
    Index(root.absolute(), Metrics()).close()
    peer = f"VOXELNODE@127.0.0.1:{source.port}"
    if running:
        with Served(root, **NO_WEB) as node:
            status, got, _ = voxelnode("peers", "get", STUDY, "--from", peer, "--root", root)
            assert node.terminate() == 0
    else:
        status, got, _ = voxelnode("peers", "get", STUDY, "--from", peer, "--root", root)
    assert (status, got) == (0, {"completed": 7, "failed": 0, "warning": 0, "remaining": 0})
    assert digests(root) == digests(source.root)
    assert {row["source"] for row in images(root).values()} == {"get"}


def test_send_brings_a_study_a_series_and_a_patient_to_a_peer_of_the_configuration(
    source: Served, series: list[FileDataset], tmp_path: Path
) -> None:
    with Served(tmp_path / "root", **NO_WEB) as target:
        config = tmp_path / "voxelnode.toml"
        config.write_text(f'[peers.other]\nae_title = "VOXELNODE"\nhost = "127.0.0.1"\nport = {target.port}\n')
        common = ("--to", "other", "--root", source.root, "--config", config)
        status, reported, _ = voxelnode("peers", "send", series[0].SeriesInstanceUID, *common)
        assert (status, reported) == (0, {"sent": 4, "warnings": 0, "failed": []})
        assert len(digests(target.root)) == 4
        status, reported, _ = voxelnode("peers", "send", STUDY, series[0].SOPInstanceUID, *common)
        assert (status, reported["sent"]) == (0, 7)
        status, reported, _ = voxelnode("peers", "send", "--patient", "P-1", *common)
        assert (status, reported["sent"]) == (0, 7)
        assert digests(target.root) == digests(source.root)


def test_a_mistake_is_reported_in_one_sentence(source: Served) -> None:
    peer = f"VOXELNODE@127.0.0.1:{source.port}"
    for arguments, words in (
        (("peers", "send", "1.2.3", "--to", peer, "--root", source.root), "1.2.3: no study or series or instance here"),
        (("peers", "send", "--to", peer, "--root", source.root), "--patient"),
        (("peers", "send", STUDY, "--to", "nobody", "--root", source.root), "neither a name in [peers]"),
        (("peers", "send", STUDY, "--to", "X@127.0.0.1:1", "--root", source.root), "does not answer"),
        (("peers", "find", "--from", peer, "NoSuchKeyword=1"), "keyword of PS3.6"),
        (("peers", "get", "1.2.3", "--from", peer, "--root", source.root), "has no instances of 1.2.3"),
    ):
        status, _, error = voxelnode(*arguments)
        assert status in (1, 2)
        assert words in error
