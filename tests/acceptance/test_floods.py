"""Every port beside a flood of 1 Mbit/s: known peers, orders and administrators get through, and memory is bounded."""

from __future__ import annotations

import datetime as dt
import json
import re
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import httpx2
import pytest

from node.control.repository import Repository
from node.index.nouns.accounts import Role
from node.logs import LINES_OF_MINUTE
from node.settings.model import Settings, Storage
from node.web.credentials import digest, new_token
from tests import make
from tests.acceptance.floods import Flood, memory_bytes
from tests.acceptance.served import Served
from tests.pace import idle_seconds, now
from tests.protocol.conftest import (
    Raw,
    associate_rq,
    c_echo_rq,
    c_store_rq,
    client_context,
    data_set_bytes,
    make_keys,
    p_data,
    pdu,
    pdv,
)
from tests.protocol.test_hl7 import Sender, written

STRANGERS = [f"127.0.0.{number}" for number in range(2, 6)]
ROUNDS = 2
LONGEST_SECONDS = 10.0
"""Of an idle machine."""
PATIENCE_SECONDS = 60.0
"""Longest time of any request of the good peer beside a flood; a tenth of it on an idle machine."""

GROWTH_BYTES = 250_000_000
"""What all floods together may add to the memory of the node; 150 MB were measured."""

LARGE_BYTES = 4_000_000

LOGGED_BYTES = 200_000
"""What a flood may add to the log."""


@dataclass
class Flooded:
    """A node with its three ports, a study to be read, and the tokens of accounts."""

    served: Served
    hl7_port: int
    web_port: int
    tokens: dict[str, str]
    study_instance_uid: str
    bytes_at_rest: int = 0

    def head(self, method: str, path: str, *headers: str, who: str = "") -> bytes:
        """The head of a request."""
        lines = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{self.web_port}", *headers]
        if who:
            lines.append(f"Authorization: Bearer {self.tokens[who]}")
        return "\r\n".join([*lines, "", ""]).encode()

    def memory_bytes(self) -> int:
        assert self.served.process is not None
        return memory_bytes(self.served.process.pid)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flooded]:
    folder = tmp_path_factory.mktemp("flooded")
    store = Repository(Settings(storage=Storage(root=folder / "root", reserve_bytes=0)))
    tokens, now = {}, dt.datetime.now(dt.UTC)
    roles = {"admin": Role.ADMIN, "writer": Role.WRITE, **{f"reader{number}": Role.READ for number in range(8)}}
    for name, role in roles.items():
        tokens[name] = token = new_token()
        store.index.accounts.set(name, role, None, now)
        store.index.accounts.add_token(name, token[-8:], digest(token), None, now)
    store.close()
    environment = {
        "VOXELNODE_STORAGE__RESERVE_BYTES": "0",
        "VOXELNODE_SERIES__QUIET_SECONDS": "600",
        "VOXELNODE_WEB__AUTHENTICATION": "always",
        "VOXELNODE_WORKLIST__HL7_PORT": "0",
        "VOXELNODE_WORKLIST__HL7_NETWORKS": '["127.0.0.0/8"]',
        "VOXELNODE_DICOM__HOST": "127.0.0.1",
        "VOXELNODE_PEERS__SCANNER__AE_TITLE": "SCANNER",
        "VOXELNODE_PEERS__SCANNER__NETWORKS": '["127.0.0.1/32"]',
        "VOXELNODE_PEERS__ANYWHERE__AE_TITLE": "ANYWHERE",
    }
    with Served(folder / "root", **environment) as served:
        assert served.process is not None
        web_port = int(re.findall(r"http://\S+:(\d+)", served.process.stdout.readline())[0])
        line = re.findall(r".*hl7_ready.*", (folder / "serve.log").read_text())[-1]
        hl7_port = int(json.loads(line)["port"])
        large = make.instance()
        large.add_new(0x7FE00010, "OW", bytes(LARGE_BYTES))
        with Raw(served.address).associate(calling="SCANNER") as scanner:
            assert scanner.store(large.SOPInstanceUID, data_set_bytes(large)) == 0
        flooded = Flooded(served, hl7_port, web_port, tokens, large.StudyInstanceUID)
        flooded.bytes_at_rest = flooded.memory_bytes()
        yield flooded


def associations(node: Flooded, rest: bytes) -> Flood:
    request = associate_rq(calling="ANYWHERE")
    return Flood(node.served.port, STRANGERS, 16, lambda: request + rest)


def echoes(node: Flooded) -> Flood:
    return associations(node, p_data(pdv(3, 3, c_echo_rq(1))))


def silent_associations(node: Flooded) -> Flood:
    return associations(node, b"")


def half_pdus(node: Flooded) -> Flood:
    return associations(node, p_data(pdv(1, 3, c_store_rq("1.2.3"))) + p_data(pdv(1, 0, bytes(5000)))[:10])


def silent_connections(node: Flooded) -> Flood:
    return Flood(node.served.port, STRANGERS, 100, lambda: pdu(0x01, bytes(1000))[:10])


def half_orders(node: Flooded) -> Flood:
    return Flood(node.hl7_port, STRANGERS[:1], 64, lambda: b"\x0bMSH|^")


def whole_orders(node: Flooded) -> Flood:
    order = b"\x0b" + written(control="CA") + b"\x1c\x0d"
    return Flood(node.hl7_port, STRANGERS, 32, lambda: order, drip=b"\x0b")


def who_take_nothing(node: Flooded) -> Flood:
    head = node.head("GET", f"/dicom-web/studies/{node.study_instance_uid}", who="reader0")
    return Flood(node.web_port, STRANGERS[:3], 100, lambda: head)


def of_many_accounts(node: Flooded) -> Flood:
    path = f"/dicom-web/studies/{node.study_instance_uid}"
    heads = [node.head("GET", path, who=name) for name in node.tokens if name.startswith("reader")]
    return Flood(node.web_port, STRANGERS, 100, lambda: heads[time.monotonic_ns() // 1000 % len(heads)])


def event_streams(node: Flooded) -> Flood:
    heads = [node.head("GET", "/api/v1/events", who=f"reader{number}") for number in range(8)]
    return Flood(node.web_port, STRANGERS, 60, lambda: heads[time.monotonic_ns() // 1000 % len(heads)])


def slow_uploads(node: Flooded) -> Flood:
    kind = 'Content-Type: multipart/related; type="application/dicom"; boundary=XX'
    head = node.head("POST", "/dicom-web/studies", kind, "Content-Length: 1000000", who="writer")
    return Flood(node.web_port, STRANGERS, 80, lambda: head + b"--XX\r\n", drip=b"x")


def endless_heads(node: Flooded) -> Flood:
    return Flood(node.web_port, STRANGERS, 100, lambda: b"GET / HTTP/1.1\r\nX-Long: ", drip=b"x")


def pipelined(node: Flooded) -> Flood:
    one = node.head("GET", f"/dicom-web/studies/{node.study_instance_uid}", who="reader0")
    return Flood(node.web_port, STRANGERS, 60, lambda: one * 20)


FLOODS = [
    echoes, silent_associations, half_pdus, silent_connections, half_orders, whole_orders, who_take_nothing,
    of_many_accounts, event_streams, slow_uploads, endless_heads, pipelined,
]  # fmt: skip


TLS_ROUNDS = 2


@dataclass
class Secured:
    """A node whose ports for DICOM and HL7 speak TLS alone, which strangers may begin as well."""

    served: Served
    ports: dict[str, int]
    tls: ssl.SSLContext

    def hello(self) -> bytes:
        """The first message of a handshake."""
        sent = ssl.MemoryBIO()
        with suppress(ssl.SSLWantReadError):
            self.tls.wrap_bio(ssl.MemoryBIO(), sent, server_hostname="localhost").do_handshake()
        return sent.read()


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("secured")
    keys = make_keys(folder)
    certificate, key = str(keys / "server.pem"), str(keys / "server.key")
    environment = {
        "VOXELNODE_STORAGE__RESERVE_BYTES": "0",
        "VOXELNODE_SERIES__QUIET_SECONDS": "600",
        "VOXELNODE_WORKLIST__HL7_PORT": "0",
        "VOXELNODE_WORKLIST__HL7_NETWORKS": '["127.0.0.0/8"]',
        "VOXELNODE_WORKLIST__HL7_TLS_CERTIFICATE": certificate,
        "VOXELNODE_WORKLIST__HL7_TLS_KEY": key,
        "VOXELNODE_DICOM__HOST": "127.0.0.1",
        "VOXELNODE_DICOM__TLS_CERTIFICATE": certificate,
        "VOXELNODE_DICOM__TLS_KEY": key,
        "VOXELNODE_PEERS__SCANNER__AE_TITLE": "SCANNER",
        "VOXELNODE_PEERS__SCANNER__NETWORKS": '["127.0.0.1/32"]',
        "VOXELNODE_PEERS__ANYWHERE__AE_TITLE": "ANYWHERE",
    }
    with Served(folder / "root", **environment) as served:
        line = re.findall(r".*hl7_ready.*", (folder / "serve.log").read_text())[-1]
        ports = {"dicom": served.port, "hl7": int(json.loads(line)["port"])}
        yield Secured(served, ports, client_context(keys, None))


def half_hellos(node: Secured, port: int) -> Flood:
    half = node.hello()
    return Flood(port, STRANGERS, 100, lambda: half[: len(half) // 2])


def dripping_hellos(node: Secured, port: int) -> Flood:
    hello = node.hello()
    return Flood(port, STRANGERS, 100, lambda: hello[:5], drip=hello[5:6])


def silent_after_the_handshake(node: Secured, port: int) -> Flood:
    return Flood(port, STRANGERS, 30, lambda: b"", tls=node.tls)


def who_read_nothing(node: Secured, port: int) -> Flood:
    if port == node.ports["dicom"]:
        asked = associate_rq(calling="ANYWHERE") + p_data(pdv(3, 3, c_echo_rq(1)))
    else:
        asked = b"\x0b" + written(control="CA") + b"\x1c\x0d"
    return Flood(port, STRANGERS, 30, lambda: asked, drip=asked[:1], tls=node.tls)


def seconds_of(action: Callable[[], None]) -> float:
    began = now()
    action()
    return idle_seconds(began, LONGEST_SECONDS)


@pytest.mark.slow
@pytest.mark.parametrize("flood", FLOODS, ids=lambda flood: flood.__name__)
def test_a_good_peer_gets_through_a_flood(node: Flooded, flood: Callable[[Flooded], Flood]) -> None:
    def verify() -> None:  # as the flood does, from another address
        with Raw(node.served.address, PATIENCE_SECONDS).associate(calling="ANYWHERE") as station:
            assert station.verify() == 0

    def store() -> None:
        ds = make.instance()
        with Raw(node.served.address, PATIENCE_SECONDS).associate(calling="SCANNER") as scanner:
            assert scanner.store(ds.SOPInstanceUID, data_set_bytes(ds)) == 0

    def order() -> None:
        with Sender(node.hl7_port) as ris:
            ris.socket.settimeout(PATIENCE_SECONDS)
            assert ris.send(written())[1] == "AA"

    def page() -> None:
        url, token = f"http://127.0.0.1:{node.web_port}", node.tokens["admin"]
        with httpx2.Client(
            base_url=url, timeout=PATIENCE_SECONDS, headers={"Authorization": f"Bearer {token}"}
        ) as admin:
            assert admin.get("/").status_code == 200
            assert admin.get("/healthz").status_code == 200
            with admin.stream("GET", "/api/v1/events") as events:
                assert events.status_code == 200

    longest: dict[str, float] = {}
    with flood(node) as running:
        for _ in range(ROUNDS):
            for action in (verify, store, order, page):
                longest[action.__name__] = max(longest.get(action.__name__, 0.0), seconds_of(action))
            assert node.memory_bytes() - node.bytes_at_rest < GROWTH_BYTES
    print(
        longest,
        f"closed by the node: {running.closed_by_node}",
        f"memory: {node.bytes_at_rest >> 20} -> {node.memory_bytes() >> 20} MiB",
    )
    assert max(longest.values()) < LONGEST_SECONDS


@pytest.mark.slow
@pytest.mark.parametrize("service", ["dicom", "hl7"])
@pytest.mark.parametrize(
    "flood",
    [half_hellos, dripping_hellos, silent_after_the_handshake, who_read_nothing],
    ids=lambda flood: flood.__name__,
)
def test_a_good_peer_gets_through_a_flood_of_tls(
    secured: Secured, flood: Callable[[Secured, int], Flood], service: str
) -> None:
    assert secured.served.process is not None
    process, log = secured.served.process.pid, secured.served.root.parent / "serve.log"
    at_rest, logged = memory_bytes(process), log.stat().st_size

    def store() -> None:
        ds = make.instance()
        with Raw(secured.served.address, PATIENCE_SECONDS) as scanner:
            scanner.socket = secured.tls.wrap_socket(scanner.socket, server_hostname="localhost")
            scanner.associate(calling="SCANNER")
            assert scanner.store(ds.SOPInstanceUID, data_set_bytes(ds)) == 0

    def order() -> None:
        with Sender(secured.ports["hl7"], secured.tls) as ris:
            ris.socket.settimeout(PATIENCE_SECONDS)
            assert ris.send(written())[1] == "AA"

    with flood(secured, secured.ports[service]):
        longest = max(seconds_of(action) for _ in range(TLS_ROUNDS) for action in (store, order))
        assert memory_bytes(process) - at_rest < GROWTH_BYTES
    added = log.stat().st_size - logged
    print(f"{longest:.2f} s, memory {at_rest >> 20} -> {memory_bytes(process) >> 20} MiB, log {added} bytes")
    assert longest < LONGEST_SECONDS
    assert added < LOGGED_BYTES


@pytest.mark.slow
def test_a_flood_of_refused_requests_does_not_fill_the_log_and_the_audit_trail_tells_of_it(node: Flooded) -> None:
    root = node.served.root
    log, audit = root.parent / "serve.log", root / "audit.jsonl"
    logged, audited = log.stat().st_size, audit.stat().st_size
    stranger_of_no_flood = "127.0.0.9"  # of the others, the lines of this minute may have been written
    transport = httpx2.HTTPTransport(local_address=stranger_of_no_flood)
    headers = {"Authorization": "Bearer nobody-has-this-token"}
    with httpx2.Client(base_url=f"http://127.0.0.1:{node.web_port}", transport=transport, headers=headers) as stranger:
        for number in range(1000):
            assert stranger.get(f"/api/v1/studies/1.2.{number}").status_code in (401, 429, 503)
    with log.open() as lines:
        lines.seek(logged)
        refusals = [line for line in lines if stranger_of_no_flood in line and "http_request" in line]
    assert 0 < len(refusals) <= 3 * LINES_OF_MINUTE
    with audit.open() as lines:
        lines.seek(audited)
        assert 0 < sum(stranger_of_no_flood in line and "wrong or expired token" in line for line in lines) < 10
