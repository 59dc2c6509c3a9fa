"""What the service manager hears of a node, on a socket as systemd makes it."""

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from node.cli.run.serve import ServiceManager
from node.control.node import PUBLISH_SECONDS, Node
from node.conversion.scheduler import CLOCK_SECONDS
from node.lifecycle.retention import STEP_SECONDS as RETENTION_SECONDS
from node.settings.model import Settings
from tests.made_once import IN_POSTGRESQL
from tests.protocol.conftest import Raw


@pytest.fixture(params=["path", "abstract"])
def manager_socket(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """The socket of a service manager, and its address as ``NOTIFY_SOCKET`` tells it."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@voxelnode-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(name.replace("@", "\0", 1))
        listening.settimeout(30)
        yield listening, name


def test_ready_alive_and_stopping_reach_the_service_manager(manager_socket: tuple[socket.socket, str]) -> None:
    listening, name = manager_socket
    environment = {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "90000000", "WATCHDOG_PID": str(os.getpid()), "PATH": "/"}
    manager = ServiceManager(environment)
    assert environment == {"PATH": "/"}, "a child process would speak in our name"
    assert manager.watchdog_seconds == 90
    manager.ready("AE VOXELNODE on 127.0.0.1:11112")
    manager.alive()
    manager.stopping("draining")
    heard = [listening.recv(4096).decode() for _ in range(3)]
    assert heard == ["READY=1\nSTATUS=AE VOXELNODE on 127.0.0.1:11112", "WATCHDOG=1", "STOPPING=1\nSTATUS=draining"]


@pytest.mark.parametrize("watch", [{}, {"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "soon"}])
def test_a_watchdog_of_somebody_else_is_not_fed(tmp_path: Path, watch: dict[str, str]) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(30)
        manager = ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "notify"), **watch})
        manager.alive()
        manager.stopping("draining")
        assert listening.recv(4096).startswith(b"STOPPING=1")


def test_a_service_manager_that_does_not_listen_stops_nothing(tmp_path: Path) -> None:
    ServiceManager({}).ready("nobody asks")
    ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready("nobody listens")


EVERYTHING = {
    "dicom": {"port": 0},
    "web": {"port": 0},
    "peers": {"pacs": {"ae_title": "PACS", "host": "127.0.0.1", "port": 9, "confirm_by_find": True}},
    "retention": {"days": 30},
    "hooks": {"nobody": {"kind": "webhook", "on": ["instance-stored", "study-quiet"], "url": "http://127.0.0.1:9/"}},
}
"""A configuration that has every background service."""


class _Rounds(threading.Event):
    """An order to stop that comes after so many rounds of waiting."""

    def __init__(self, rounds: int) -> None:
        super().__init__()
        self._left = rounds

    def wait(self, timeout: float | None = None) -> bool:
        self._left -= 1
        return self._left < 0


@pytest.mark.slow
def test_a_listener_whose_loop_raises_accepts_again_and_every_failure_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.runtime.background.PAUSE_SECONDS", 0.01)
    node = Node(
        Settings.model_validate({"dicom": {"port": 0}, "web": {"port": 0}, "storage": {"root": tmp_path / "root"}})
    )
    accept, raised = node.listener._accept, []

    def failing(*listening: Any) -> None:
        if len(raised) < 2:
            raised.append(None)
            raise MemoryError
        accept(*listening)

    monkeypatch.setattr(node.listener, "_accept", failing)
    address = node.start()
    try:
        with Raw(address.dicom).associate():
            metrics = httpx2.get(f"{address.web}metrics", trust_env=False).text
        assert 'voxelnode_service_failures_total{service="listener"} 2.0' in metrics
        for name in ("index", "control socket", "worker", "apply"):
            assert f'voxelnode_service_failures_total{{service="{name}"}} 0.0' in metrics
        assert httpx2.get(f"{address.web}readyz", trust_env=False).json()["reasons"] == {}
    finally:
        node.stop(1)


SERVICES = {
    "apply", "worker", "rejections", "commitments", "hook nobody", "route /pacs", "retention", "scrub", "questioner",
    "worklist", "retrievals", "questions", "rules of projects", "comparisons",
    *(["cluster", "lease", "server of the index", "audit-copy", "charts"] if IN_POSTGRESQL else []),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_node_whose_services_ended_is_dead_and_says_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node(Settings.model_validate(EVERYTHING | {"storage": {"root": tmp_path / "root"}}))
    address = node.start()
    signs: list[str] = []
    try:
        assert {service.name for service in node.services} == SERVICES
        node.serve_until(_Rounds(1), lambda: signs.append("alive"))
        assert signs == ["alive", "alive"]
        ended: dict[str, str] = {}
        for service in node.services:
            with monkeypatch.context() as broken:
                broken.setattr(service, "step", _end_the_thread)
                service.wake()
                service._thread.join(10)
            service._close()  # which a thread that is told to stop does itself
            ended[service.name] = f"the {service.name} has stopped: see the log"
            node.serve_until(_Rounds(1), lambda: signs.append("alive after death"))
            assert (set(node._ended), len(signs)) == (ended.keys(), 2)
            answer = httpx2.get(f"{address.web}readyz", trust_env=False)
            assert (answer.status_code, answer.json()["reasons"]) == (503, ended)
    finally:
        node.stop(1)


@pytest.mark.slow
def test_a_node_without_memory_stops_when_it_is_told(tmp_path: Path) -> None:
    node = Node(Settings.model_validate(EVERYTHING | {"storage": {"root": tmp_path / "root"}}))
    node.start()
    stop = threading.Event()

    def without_memory() -> None:
        stop.set()
        raise MemoryError

    serving = threading.Thread(target=node.serve_until, args=(stop, without_memory), daemon=True)
    try:
        serving.start()
        serving.join(10)
        assert not serving.is_alive()
    finally:
        node.stop(1)


def _end_the_thread() -> None:
    raise SystemExit


AT_REST = {
    "worker": 6 / CLOCK_SECONDS + 1,  # looks at the clock
    "retention": 6 / RETENTION_SECONDS + 1,  # looks at the clock, and whether somebody has confirmed it
    "scrub": 1,  # looks whether a pass is due
    "questioner": 1,  # follows the commit with which the scrub began
    "retrievals": 1,
    "questions": 1,
    "cluster": 6 / (0.75 * 0.5) + 1,  # this one and the others below only in PostgreSQL
    "server of the index": 6 / 2.5 + 1,
    "audit-copy": 6 / 2.0 + 1,
    "charts": 6 / PUBLISH_SECONDS + 1,
}
"""How many steps services make in six seconds while nothing happens; the others make none."""


@pytest.mark.slow
def test_the_services_of_an_idle_node_sleep(tmp_path: Path) -> None:
    node = Node(Settings.model_validate(EVERYTHING | {"storage": {"root": tmp_path / "root"}}))
    node.start()
    pause, restless = threading.Event(), dict[str, int]()
    try:
        pause.wait(2.5)  # what the start left to do
        for _ in range(5):  # which takes longer in PostgreSQL, until this host has all leases
            before = {service.name: service.steps for service in node.services}
            pause.wait(6.0)
            steps = {service.name: service.steps - before[service.name] for service in node.services}
            restless = {name: count for name, count in steps.items() if count > AT_REST.get(name, 0)}
            if not restless:
                break
        assert restless == {}
    finally:
        node.stop(1)
