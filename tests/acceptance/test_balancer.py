"""deploy/haproxy.cfg with HAProxy itself, in front of two receivers of one index: a drain, a kill, pages."""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from node.api import Address
from tests import make
from tests.acceptance.served import sent
from tests.acceptance.test_cluster import Host
from tests.postgresql import start
from tests.programs import needs
from tests.waiting import until

CONFIGURATION = Path(__file__).resolve().parents[2] / "deploy" / "haproxy.cfg"
RECEIVERS = ("receive-1", "receive-2")

pytestmark = [pytest.mark.sqlite("has databases of its own"), pytest.mark.long]


class Receiver(Host):
    """A receiver with pages, and where these are."""

    web_port = 0

    def start(self) -> Receiver:
        super().start()
        self.web_port = int(re.search(r"http://127\.0\.0\.1:(\d+)", self.process.stdout.readline())[1])
        return self


class Balancer:
    """A running HAProxy with our configuration; only addresses and ports are the test's."""

    def __init__(self, folder: Path, process: subprocess.Popen[bytes], dicom: int, web: int) -> None:
        self._folder, self.process = folder, process
        self.dicom, self.web = Address("VOXELNODE", "127.0.0.1", dicom), f"http://127.0.0.1:{web}"

    def command(self, command: str) -> str:
        """What HAProxy answers on its socket."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(30)
            connection.connect(str(self._folder / "haproxy.sock"))
            connection.sendall(f"{command}\n".encode())
            return b"".join(iter(lambda: connection.recv(65536), b"")).decode()

    def servers(self) -> dict[tuple[str, str], list[str]]:
        """The fields of ``show stat`` of each receiver, by backend and name."""
        rows = [line.split(",") for line in self.command("show stat").splitlines() if line]
        return {(row[0], row[1]): row for row in rows if row[1] in RECEIVERS}

    def states(self) -> dict[str, set[str]]:
        """States of the receivers, such as UP."""
        servers = self.servers()
        return {name: {row[17] for (_, server), row in servers.items() if server == name} for name in RECEIVERS}

    def point(self, receiver: Receiver) -> None:
        """Tell it where a receiver is since its restart."""
        for backend, port in (("receivers", receiver.port), ("pages", receiver.web_port)):
            self.command(f"set server {backend}/{receiver.name} addr 127.0.0.1 port {port}")
            self.command(f"set server {backend}/{receiver.name} check-port {receiver.web_port}")


@contextmanager
def balancing(folder: Path, *receivers: Receiver) -> Iterator[Balancer]:
    haproxy = needs("haproxy", "haproxy")
    text = CONFIGURATION.read_text()
    text = text.replace("global\n", f"global\n    stats socket {folder}/haproxy.sock level admin\n")
    with socket.create_server(("127.0.0.1", 0)) as dicom, socket.create_server(("127.0.0.1", 0)) as web:
        for listener, port in ((dicom, "11112"), (web, "8080")):
            text = text.replace(f"bind :{port}", f"bind fd@{listener.fileno()}")
        for one in receivers:
            for port, given in (("11112", one.port), ("8080", one.web_port)):
                text = text.replace(f"{one.name}:{port}", f"127.0.0.1:{given} port {one.web_port}")
        (folder / "haproxy.cfg").write_text(text)
        command = [haproxy, "-db", "-f", folder / "haproxy.cfg"]
        process = subprocess.Popen(command, pass_fds=[dicom.fileno(), web.fileno()], stderr=subprocess.DEVNULL)
        try:
            until((folder / "haproxy.sock").exists, 30, "the socket of HAProxy")
            yield Balancer(folder, process, dicom.getsockname()[1], web.getsockname()[1])
        finally:
            process.kill()
            process.wait()


def takes_everything(balancer: Balancer, tries: int = 1) -> None:
    """Send over several associations, and again over another one where a receiver that begins to drain cuts it off."""
    for _ in range(4):
        series = make.ct_series(2)
        for left in reversed(range(tries)):
            taken = len(sent(balancer.dicom.port, series, seconds=30).acknowledged)
            if taken == len(series):
                break
            assert left, f"{taken} of {len(series)} were taken"


def answers(balancer: Balancer) -> bool:
    """Whether several connections to pages get an answer."""
    return {httpx2.get(f"{balancer.web}/readyz", timeout=30).status_code for _ in range(4)} == {200}


def test_senders_find_the_receiver_that_is_left(tmp_path: Path) -> None:
    roles = '["receive", "web"]'
    with (
        start() as server,
        Receiver(tmp_path, server.create("balanced"), RECEIVERS[0], roles) as first,
        Receiver(tmp_path, server.url("balanced"), RECEIVERS[1], roles) as second,
        balancing(tmp_path, first, second) as balancer,
    ):
        both = {name: {"UP"} for name in RECEIVERS}
        until(lambda: balancer.states() == both, 30, "both receivers in use")
        takes_everything(balancer)
        assert answers(balancer)
        assert all(int(row[7]) > 0 for (backend, _), row in balancer.servers().items() if backend == "receivers")

        first.process.terminate()
        takes_everything(balancer, tries=2)
        until(lambda: balancer.states()[first.name] == {"DOWN"}, 30, "a receiver that drains is left out")
        takes_everything(balancer)
        assert answers(balancer)
        assert first.process.wait(60) == 0

        first.start()
        balancer.point(first)
        until(lambda: balancer.states() == both, 30, "the receiver in use again")
        second.kill()
        takes_everything(balancer)
        until(lambda: balancer.states()[second.name] == {"DOWN"}, 30, "a receiver that was killed is left out")
        assert answers(balancer)
