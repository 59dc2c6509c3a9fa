"""A node that the machine gives nothing more."""

import os
import re
import resource
import socket
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from pynetdicom import AE

from node.control.node import PUBLISH_SECONDS
from tests.acceptance.served import Served
from tests.protocol.conftest import Raw, associate_rq, pdu

pytestmark = pytest.mark.slow


def virtual_bytes(process: int) -> int:
    """Address space of a process."""
    return int(Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()


def processor_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_without_threads_connections_are_refused_and_come_back(tmp_path: Path) -> None:
    with Served(tmp_path / "root", VOXELNODE_WEB__ENABLED="false") as node:
        process = node.process.pid
        usual = resource.prlimit(process, resource.RLIMIT_AS)
        # Less than the stack of one thread more; it binds the superuser too, unlike a limit of threads.
        resource.prlimit(process, resource.RLIMIT_AS, (virtual_bytes(process) + 2_000_000, usual[1]))
        with ExitStack() as open_peers:
            peers = [open_peers.enter_context(Raw(node.address, 5.0)) for _ in range(8)]
            refused = sum(_is_refused(peer) for peer in peers)
            spent = processor_seconds(process)
            resource.prlimit(process, resource.RLIMIT_AS, (virtual_bytes(process), usual[1]))
            threading.Event().wait(PUBLISH_SECONDS + 0.5)  # what it does by itself lacks memory once
            assert processor_seconds(process) - spent < 1.0, "it spins"
        assert refused > 0
        resource.prlimit(process, resource.RLIMIT_AS, usual)
        with Raw(node.address).associate() as peer:
            peer.send(pdu(0x05, bytes(4)))
            assert peer.receive() == (0x06, bytes(4))
        assert node.terminate() == 0


def test_silent_connections_to_the_pages_leave_dicom_its_descriptors(tmp_path: Path) -> None:
    with Served(tmp_path / "root") as node, ExitStack() as held:
        web = int(re.search(r":(\d+)/$", node.process.stdout.readline().strip())[1])  # type: ignore[index]
        limit = resource.prlimit(node.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(node.process.pid, resource.RLIMIT_NOFILE, (400, limit[1]))
        for number in range(450):  # of five addresses, each of which has its own bound
            source = (f"127.0.0.{2 + number % 5}", 0)
            held.enter_context(socket.create_connection(("127.0.0.1", web), timeout=10, source_address=source))
        for _ in range(5):
            assert echo(node.port) == 0x0000
        with Raw(node.address).associate() as peer:
            peer.send(pdu(0x05, bytes(4)))
            assert peer.receive() == (0x06, bytes(4))
        with urlopen(f"http://127.0.0.1:{web}/readyz", timeout=10) as answer:
            assert answer.status == 200
        reported = (tmp_path / "serve.log").read_text()
        assert len(reported.splitlines()) < 50, reported[-3000:]


def echo(port: int) -> int:
    """Status of a C-ECHO."""
    ae = AE("ECHO")
    ae.add_requested_context("1.2.840.10008.1.1")
    association = ae.associate("127.0.0.1", port)
    assert association.is_established
    try:
        return int(association.send_c_echo().Status)
    finally:
        association.release()


def _is_refused(peer: Any) -> bool:
    """Whether the node hangs up on an A-ASSOCIATE-RQ without a word."""
    try:
        peer.send(associate_rq())
        return peer.receive() is None
    except ConnectionError:
        return True
