"""A running node under which somebody removes or replaces files: nothing more is accepted, and the node says why."""

import re
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import Mock

import httpx2
import pytest

from node.api import OutOfResources, Settings
from node.control.node import Node
from node.control.repository import Repository
from node.control.root import RootInUse
from node.receive.ingest import Origin
from node.receive.readiness import intake_of, read_counters, readiness_of
from tests import make
from tests.integration.conftest import announced, doctor_finds


class _OneRound(threading.Event):
    """An order to stop that comes after one round of waiting."""

    _waited = False

    def wait(self, timeout: float | None = None) -> bool:
        waited, self._waited = self._waited, True
        return waited


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.model_validate(
        {
            "storage": {"root": tmp_path / "root", "reserve_bytes": 0},
            "dicom": {"port": 0},
            "web": {"port": 0, "process": False},
        }
    )


@pytest.fixture
def node(settings: Settings) -> Iterator[Node]:
    node = Node(settings)
    try:
        yield node
    finally:
        node.stop(1)


def _remove(path: Path) -> None:
    path.rename(path.parent.parent / "gone")


def _replace(path: Path) -> None:
    _remove(path)
    if (path.parent.parent / "gone").is_dir():
        shutil.copytree(path.parent.parent / "gone", path)
    else:
        shutil.copyfile(path.parent.parent / "gone", path)


@pytest.mark.sample(0, 2)
@pytest.mark.parametrize("change", [_remove, _replace])
@pytest.mark.parametrize(
    "name",
    [
        pytest.param("index.sqlite", marks=pytest.mark.sqlite("renames the file")),
        "lock",
        "objects",
        "journal",
        "journal/00000000.journal",
    ],
)
def test_intake_stops_and_all_say_so(settings: Settings, node: Node, name: str, change: Callable[[Path], None]) -> None:
    address = node.start()
    root = settings.storage.root
    change(root / name)
    node.serve_until(_OneRound())
    how = "removed" if change is _remove else "re(moved|placed)"  # who looks before the other is there sees it removed
    reason = re.compile(f"{re.escape(str(root / name))} was {how} while the node was running")
    answer = httpx2.get(f"{address.web}readyz", trust_env=False)
    assert answer.status_code == 503
    assert reason.search(answer.json()["reasons"]["intake"])
    assert reason.search(intake_of(settings, read_counters(root)))
    assert reason.search(readiness_of(read_counters(root), root))
    with pytest.raises(OutOfResources, match="was re"):
        node._repository.ingest.begin(announced(make.ct_series(1)[0]), Origin("dicom", "MODALITY"))


@pytest.mark.parametrize("scope", ["host", "cluster"])
def test_an_index_that_cannot_be_read_is_a_reason_and_no_error_of_the_page(
    node: Node, monkeypatch: pytest.MonkeyPatch, scope: str
) -> None:
    address = node.start()

    # What SQLite raises when the file is gone: to break a file that it has mapped kills the process of the test.
    monkeypatch.setattr(node._repository.index, "reading", Mock(side_effect=sqlite3.OperationalError("disk I/O error")))
    answer = httpx2.get(f"{address.web}readyz?scope={scope}", trust_env=False)
    assert answer.status_code == (200 if answer.json()["ready"] else 503)
    if scope == "cluster":  # a host asks its index only for what it notes beside readiness
        assert "OperationalError" in answer.json()["reasons"]["index"]


@pytest.mark.slow
def test_no_second_node_starts_after_the_lock_file_was_removed(settings: Settings, node: Node) -> None:
    node.start()
    (settings.storage.root / "lock").unlink()
    with pytest.raises(RootInUse):
        Repository(settings)


def test_a_node_on_a_sound_root_is_ready(settings: Settings, node: Node) -> None:
    root = settings.storage.root
    assert readiness_of(read_counters(root), root).startswith("not yet: the node is starting")
    address = node.start()
    node.serve_until(_OneRound())
    live = read_counters(root)
    assert (readiness_of(live, root), intake_of(settings, live)) == ("yes", "open")
    here = settings.model_copy(update={"dicom": settings.dicom.model_copy(update={"port": address.dicom.port})})
    assert doctor_finds(here, "port") == [("ok", f"the running node listens at {here.bind_host}:{address.dicom.port}")]


def test_commands_tell_of_intake_what_the_running_node_does_with_its_own_settings(
    settings: Settings, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.start()
    monkeypatch.setattr(node._repository.archive.intake, "_low_bytes", 1 << 60)  # as by a flag of `serve`
    node.serve_until(_OneRound())
    live = read_counters(settings.storage.root)
    assert intake_of(settings, None) == "closed until a node runs"
    assert f"no, intake: {intake_of(settings, live)}" in readiness_of(live, settings.storage.root)
