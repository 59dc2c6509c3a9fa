"""Every port beside a flood of 1 Mbit/s: known peers, orders and administrators get through, and memory is bounded."""

import ast
import datetime as dt
import itertools
import json
import re
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx2
import pytest
from pydicom.dataset import Dataset
from pynetdicom import build_context

from node.api import Role
from node.control.repository import Repository
from node.dicom import uids
from node.extensions.worklist import PERFORMED_PROCEDURE_STEP
from node.runtime.logs import KINDS_OF_MINUTE
from node.web.credentials import digest, new_token
from tests import make
from tests.acceptance.floods import Flood, memory_bytes
from tests.acceptance.served import Served, until
from tests.ingest import settings_of
from tests.pace import idle_seconds, now
from tests.protocol.conftest import (
    CT_IMAGE_STORAGE,
    Raw,
    associate,
    associate_rq,
    c_echo_rq,
    c_store_rq,
    client_context,
    command,
    data_set_bytes,
    identifier,
    make_keys,
    p_data,
    pdu,
    pdv,
)
from tests.protocol.test_hl7 import Sender, written

pytestmark = pytest.mark.slow


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
"""What a flood of handshakes may add to the log."""

READERS = tuple(f"reader{number}" for number in range(8))
ENVIRONMENT = {
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


@dataclass
class Flooded:
    """A node with its three ports, a study to be read, and the tokens of accounts; `tls`: of DICOM and HL7."""

    served: Served
    ports: dict[str, int]
    tokens: dict[str, str]
    tls: ssl.SSLContext | None
    study_instance_uid: str = ""
    bytes_at_rest: int = 0

    def head(self, method: str, path: str, *headers: str, who: str = "") -> bytes:
        """The head of a request."""
        lines = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{self.ports['web']}", *headers]
        if who:
            lines.append(f"Authorization: Bearer {self.tokens[who]}")
        return "\r\n".join([*lines, "", ""]).encode()

    def of_study(self, who: str) -> bytes:
        """The head of a request for all instances."""
        return self.head("GET", f"/dicom-web/studies/{self.study_instance_uid}", who=who)

    def hello(self) -> bytes:
        """The first message of a handshake."""
        assert self.tls is not None
        sent = ssl.MemoryBIO()
        with suppress(ssl.SSLWantReadError):
            self.tls.wrap_bio(ssl.MemoryBIO(), sent, server_hostname="localhost").do_handshake()
        return sent.read()

    def peer(self, calling: str) -> Raw:
        peer = Raw(self.served.address, PATIENCE_SECONDS)
        if self.tls is not None:
            peer.socket = self.tls.wrap_socket(peer.socket, server_hostname="localhost")
        return peer.associate(calling=calling)

    # What the good peer does

    def verify(self) -> None:
        """As the flood does, from another address."""
        with self.peer("ANYWHERE") as station:
            assert station.verify() == 0

    def store(self) -> None:
        ds = make.instance()
        with self.peer("SCANNER") as scanner:
            assert scanner.store(ds.SOPInstanceUID, data_set_bytes(ds)) == 0

    def order(self) -> None:
        with Sender(self.ports["hl7"], self.tls) as ris:
            ris.socket.settimeout(PATIENCE_SECONDS)
            assert ris.send(written())[1] == "AA"

    def page(self) -> None:
        headers = {"Authorization": f"Bearer {self.tokens['admin']}"}
        url = f"http://127.0.0.1:{self.ports['web']}"
        with httpx2.Client(base_url=url, timeout=PATIENCE_SECONDS, headers=headers) as admin:
            assert admin.get("/").status_code == 200
            assert admin.get("/healthz").status_code == 200
            assert admin.get("/readyz").status_code == 200
            with admin.stream("GET", "/api/v1/events") as events:
                assert events.status_code == 200


def started(folder: Path, tls: ssl.SSLContext | None = None, **environment: str) -> Iterator[Flooded]:
    store = Repository(settings_of(folder / "root"))
    tokens, now = {}, dt.datetime.now(dt.UTC)
    for name, role in {"admin": Role.ADMIN, "writer": Role.WRITE, **dict.fromkeys(READERS, Role.READ)}.items():
        tokens[name] = token = new_token()
        store.index.accounts.set(name, role, None, now)
        store.index.accounts.add_token(name, token[-8:], digest(token), None, now)
    store.close()
    with Served(folder / "root", **ENVIRONMENT, **environment) as served:
        web = int(re.findall(r"http://\S+:(\d+)", served.process.stdout.readline())[0])
        line = re.findall(r".*hl7_ready.*", (folder / "serve.log").read_text())[-1]
        ports = {"dicom": served.port, "hl7": int(json.loads(line)["port"]), "web": web}
        flooded = Flooded(served, ports, tokens, tls)
        large = make.instance()
        large.add_new(0x7FE00010, "OW", bytes(LARGE_BYTES))
        flooded.study_instance_uid = large.StudyInstanceUID
        with flooded.peer("SCANNER") as scanner:
            assert scanner.store(large.SOPInstanceUID, data_set_bytes(large)) == 0
        flooded.bytes_at_rest = memory_bytes(served.process.pid)
        yield flooded


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flooded]:
    yield from started(tmp_path_factory.mktemp("flooded"))


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flooded]:
    """A node whose ports for DICOM and HL7 speak TLS alone, which strangers may begin as well."""
    folder = tmp_path_factory.mktemp("secured")
    keys = make_keys(folder)
    files = {"CERTIFICATE": str(keys / "server.pem"), "KEY": str(keys / "server.key")}
    ports = ("DICOM__TLS", "WORKLIST__HL7_TLS")
    environment = {f"VOXELNODE_{port}_{name}": path for port in ports for name, path in files.items()}
    yield from started(folder, client_context(keys, None), **environment)


REQUEST = associate_rq(calling="ANYWHERE")
ECHO = REQUEST + p_data(pdv(3, 3, c_echo_rq(1)))
ORDER = b"\x0b" + written(control="CA") + b"\x1c\x0d"
UPLOAD = ('Content-Type: multipart/related; type="application/dicom"; boundary=XX', "Content-Length: 1000000")
Sent = Callable[[Flooded], bytes]
FLOODS: dict[str, tuple[str, list[str], int, Sent, bytes]] = {
    "echoes": ("dicom", STRANGERS, 16, lambda node: ECHO, b""),
    "silent associations": ("dicom", STRANGERS, 16, lambda node: REQUEST, b""),
    "half PDUs": ("dicom", STRANGERS, 16,
                  lambda node: REQUEST + p_data(pdv(1, 3, c_store_rq("1.2.3"))) + p_data(pdv(1, 0, bytes(5000)))[:10],
                  b""),
    "silent connections": ("dicom", STRANGERS, 100, lambda node: pdu(0x01, bytes(1000))[:10], b""),
    "half orders": ("hl7", STRANGERS[:1], 64, lambda node: b"\x0bMSH|^", b""),
    "whole orders": ("hl7", STRANGERS, 32, lambda node: ORDER, b"\x0b"),
    "who take nothing": ("web", STRANGERS[:3], 100, lambda node: node.of_study("reader0"), b""),
    "of many accounts": ("web", STRANGERS, 100, lambda node: node.of_study(next(TURNS)), b""),
    "event streams": ("web", STRANGERS, 60, lambda node: node.head("GET", "/api/v1/events", who=next(TURNS)), b""),
    "slow uploads": ("web", STRANGERS, 80,
                     lambda node: node.head("POST", "/dicom-web/studies", *UPLOAD, who="writer") + b"--XX\r\n", b"x"),
    "endless heads": ("web", STRANGERS, 100, lambda node: b"GET / HTTP/1.1\r\nX-Long: ", b"x"),
    "pipelined": ("web", STRANGERS, 60, lambda node: node.of_study("reader0") * 20, b""),
}  # fmt: skip
"""Port, addresses, connections from each, what each of them sends, and what it adds every second."""

MORE = {"echoes", "silent connections", "whole orders", "of many accounts", "event streams", "pipelined"}
"""Floods of the kinds of others, which a release stands as well."""

TURNS = itertools.cycle(READERS)


@pytest.mark.sample(0, 2)
@pytest.mark.parametrize("flood", [pytest.param(one, marks=[pytest.mark.long] * (one in MORE)) for one in FLOODS])
def test_a_good_peer_gets_through_a_flood(node: Flooded, flood: str) -> None:
    port, addresses, count, sent, drip = FLOODS[flood]
    with Flood(node.ports[port], addresses, count, lambda: sent(node), drip):
        gets_through(node, node.verify, node.store, node.order, node.page)


def gets_through(node: Flooded, *actions: Callable[[], None]) -> None:
    assert node.served.process is not None
    for _ in range(ROUNDS):
        for action in actions:
            began = now()
            action()
            assert idle_seconds(began, LONGEST_SECONDS) < LONGEST_SECONDS, action.__name__
        assert memory_bytes(node.served.process.pid) - node.bytes_at_rest < GROWTH_BYTES


OF_TLS: dict[str, tuple[int, Sent, Callable[[bytes], bytes], bool]] = {
    "half hellos": (100, lambda node: node.hello()[: len(node.hello()) // 2], lambda sent: b"", False),
    "dripping hellos": (100, lambda node: node.hello()[:5], lambda sent: b"\x01", False),
    "silent after the handshake": (30, lambda node: b"", lambda sent: b"", True),
    "who read nothing": (30, lambda node: ECHO, lambda sent: sent[:1], True),
}
"""Connections from each address, what each of them sends and adds, and whether after a handshake."""


@pytest.mark.sample(0, 1)
@pytest.mark.parametrize(
    ("flood", "port"),
    [
        pytest.param(flood, port, marks=[pytest.mark.long] if number % 2 == (port == "dicom") else [])
        for number, flood in enumerate(OF_TLS)
        for port in ("dicom", "hl7")
    ],
)
def test_a_good_peer_gets_through_a_flood_of_tls(secured: Flooded, flood: str, port: str) -> None:
    count, sent, drip, is_within = OF_TLS[flood]
    data = ORDER if (port, flood) == ("hl7", "who read nothing") else sent(secured)
    log = secured.served.root.parent / "serve.log"
    logged = log.stat().st_size
    tls: dict[str, Any] = {"tls": secured.tls} if is_within else {}
    with Flood(secured.ports[port], STRANGERS, count, lambda: data, drip(data), **tls):
        gets_through(secured, secured.store, secured.order)
    assert log.stat().st_size - logged < LOGGED_BYTES


TIMES, ADDED_BYTES = 200, 7_000
"""How often each refusal is caused, and what it may add to log and audit log: five lines, and a few kinds."""

ASKING, NODE = "127.0.0.9", Path(__file__).parents[2] / "node"
NAMELESS, FILE = make.instance(), BytesIO()
NAMELESS.StudyInstanceUID = ""
NAMELESS.save_as(FILE)
NO_STEP = Dataset()
NO_STEP.PerformedProcedureStepStatus = "WRONG"
WITHIN: dict[str, Callable[[Any, int], object]] = {
    "c_find": lambda peer, _: list(peer.send_c_find(identifier("WRONG"), uids.STUDY_ROOT_FIND)),
    "retrieve_refused": lambda peer, n: list(peer.send_c_move(identifier("STUDY"), f"N{n}", uids.STUDY_ROOT_MOVE)),
    "retrieve": lambda peer, _: list(peer.send_c_get(identifier("STUDY"), uids.STUDY_ROOT_GET)),
    "retrieve_ended": lambda peer, _: list(
        peer.send_c_get(identifier("STUDY", StudyInstanceUID="1.2"), uids.STUDY_ROOT_GET)
    ),
    "c_store_refused": lambda peer, _: peer.send_c_store(NAMELESS),
    "performed_step_refused": lambda peer, n: peer.send_n_create(NO_STEP, PERFORMED_PROCEDURE_STEP, f"1.2.{n}"),
    "step": lambda peer, n: peer.send_n_set(NO_STEP, PERFORMED_PROCEDURE_STEP, f"1.2.{n}"),
    "commitment_refused": lambda peer, _: peer.send_n_action(
        NO_STEP, 1, uids.STORAGE_COMMITMENT, uids.STORAGE_COMMITMENT_INSTANCE
    ),
}
"""What a peer is refused within an association, by the event of the log."""

HEAD = b"MSH|^~\\&|A|B|C|D|20260101||ADT^%s|1|P|2.3\r"
DELETE = command({0x0003: b"1.2\0", 0x0100: b"\x50\x01", 0x0110: b"\1\0", 0x0800: b"\1\1", 0x1001: b"1.2\0"})
BESIDE: dict[str, tuple[str, Callable[[Flooded, int], Sequence[bytes]]]] = {
    "association_rejected": ("dicom", lambda _, n: [associate_rq(calling=f"R{n}")]),
    "request_not_understood": ("dicom", lambda *_: [b"GET / HTTP/1.1\r\n\r\n"]),
    "protocol_violated": ("dicom", lambda *_: [REQUEST, pdu(0x04, bytes(3))]),
    "association_given_up": ("dicom", lambda *_: [REQUEST, p_data(pdv(3, 3, DELETE))]),
    "hl7_message": ("hl7", lambda *_: [b"\x0b\x1c\r"]),
    "type": ("hl7", lambda _, n: [b"\x0b" + HEAD % (b"R%02d" % (n % 100)) + b"\x1c\r"]),
    "patient": ("hl7", lambda _, n: [merge(b"X%d" % n, b"Y" * 65)]),
    "himself": ("hl7", lambda _, n: [merge(b"X%d" % n, b"X%d" % n)]),
    "nothing to change": ("hl7", lambda *_: [merge(b"SAME", b"OTHER")]),
    "nobody": ("hl7", lambda *_: [b"\x0b" + HEAD % b"A08" + b"PID|1||NOBODY||A^B\r\x1c\r"]),
    "hl7_connection_closed": ("hl7", lambda *_: [b"MSH|\x1c\r"]),
    "web_request_refused": ("web", lambda *_: [b"GET / HTTP/1.1\r\n\r\n"]),
    "http_request": ("web", lambda node, _: [node.head("GET", "/login")]),
    "token": ("web", lambda node, n: [node.head("GET", f"/api/v1/studies/1.2.{n}", "Authorization: Bearer wrong")]),
    "role": ("web", lambda node, _: [node.head("GET", "/api/v1/hooks", who="reader0")]),
    "method": ("web", lambda node, _: [node.head("DELETE", "/api/v1/studies", who="reader0")]),
    "passwords_guessed": ("web", lambda node, n: [form(node, b"name=w%d&password=wrong" % n)]),
    "stow_refused": ("web", lambda node, _: [node.head("POST", "/dicom-web/studies", *PART, who="writer") + BODY]),
}
"""What a client is refused that opens a connection each time: its port, and what it sends one after the other."""

BODY = b"--XX\r\nContent-Type: application/dicom\r\n\r\n" + FILE.getvalue() + b"\r\n--XX--\r\n"
PART = (UPLOAD[0], f"Content-Length: {len(BODY)}")
OTHERS = {
    "association_ended": "no refusal by itself, bounded like them",
    "commitment_report_refused": "served by the code of commitment_refused",
    "connection_failed": "TLS: the test of floods of TLS counts its bytes",
    "commitment_not_reported": "given up once for each work that was kept",
    "hl7_connection_lost": "of the network, by the code of hl7_connection_closed",
    "hl7_connection_refused": "of the network, by the code of hl7_connection_closed",
    "instance_interrupted": "the peer is gone, and was refused nothing",
    "stow_interrupted": "the client is gone, and was refused nothing",
    "conflict": "an order and a study that is stored",
    "metadata_not_read": "a file of the archive",
    "web_event_loop": "of the machine",
    "web_without_tls": "the start",
    "worklist_file_refused": "a file of the machine",
}
"""Warnings that nothing here causes, and why."""


def merge(prior: bytes, into: bytes) -> bytes:
    return b"\x0b" + HEAD % b"A40" + b"PID|1||" + into + b"||A^B\rMRG|" + prior + b"\r\x1c\r"


def form(node: Flooded, body: bytes) -> bytes:
    headers = ("Content-Type: application/x-www-form-urlencoded", f"Content-Length: {len(body)}")
    return node.head("POST", "/login", *headers) + body


def warned() -> set[str]:
    """The events of all warnings and refusals in the log that rooms for clients of the network have."""
    rooms = ("association", "web", "extensions/worklist", "extensions/dicomweb")
    sources = [path for room in rooms for path in (NODE / room).rglob("*.py")]
    calls = (one for path in sources for one in ast.walk(ast.parse(path.read_text())) if isinstance(one, ast.Call))
    found = set()
    for call in calls:
        named, texts = getattr(call.func, "attr", ""), [one.value for one in call.args if isinstance(one, ast.Constant)]
        is_refusal = any(keyword.arg == "is_refusal" for keyword in call.keywords)
        if texts and (named in ("warning", "attempt", "_refuse") or is_refusal):
            found.add(str(texts[0]))
    return found


def test_each_refusal_that_the_code_can_give_is_told_and_200_of_it_are_counted(node: Flooded) -> None:
    root = node.served.root
    files = log, _ = root.parent / "serve.log", root / "audit.jsonl"
    begun = [file.stat().st_size for file in files]
    rows = "SELECT count(*) AS n, sum(count) AS c, sum(length(offered) + length(reason)) AS size FROM v_rejections"
    [before] = node.served.rows(rows)

    def added(name: str, cause: Callable[[int], object]) -> None:
        sizes = [file.stat().st_size for file in files]
        for number in range(TIMES):
            cause(number)
        grown = [file.stat().st_size - size for file, size in zip(files, sizes, strict=True)]
        assert max(grown) < ADDED_BYTES, (name, grown)

    contexts = (*(getattr(uids, f"STUDY_ROOT_{way}") for way in ("FIND", "MOVE", "GET")), uids.STORAGE_COMMITMENT)
    contexts += (PERFORMED_PROCEDURE_STEP, CT_IMAGE_STORAGE)
    for name, cause in WITHIN.items():
        proposed = map(build_context, contexts)
        peer = associate(node.served.address, *proposed, title="ANYWHERE", bind_address=(ASKING, 0))
        added(name, partial(cause, peer))
        peer.release()
    for name, (port, sent) in BESIDE.items():

        def talk(number: int, port: str = port, sent: Any = sent) -> None:
            with socket.create_connection(("127.0.0.1", node.ports[port]), PATIENCE_SECONDS, (ASKING, 0)) as client:
                for piece in sent(node, number):
                    client.sendall(piece)
                    client.recv(65536)

        added(name, talk)
    lines = [json.loads(line) for line in log.read_bytes()[begun[0] :].splitlines() if ASKING.encode() in line]
    events = {line["event"] for line in lines}
    assert warned() - events - OTHERS.keys() == set()
    assert events & OTHERS.keys() <= {"association_ended"}
    until(lambda: node.served.rows(rows)[0]["c"] - (before["c"] or 0) > 8 * TIMES, 30, "those that are listed")
    [after] = node.served.rows(rows)
    assert (after["n"] - before["n"], after["size"] - (before["size"] or 0)) < (150, 50_000)
    listed = node.served.rows("SELECT count(*) AS n FROM v_rejections GROUP BY what, peer")
    assert max(one["n"] for one in listed) <= KINDS_OF_MINUTE + 1, "the list has the bound of the log"
    assert sum(file.stat().st_size - size for file, size in zip(files, begun, strict=True)) < 75_000
