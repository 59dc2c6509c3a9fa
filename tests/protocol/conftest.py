"""A listening node on a fresh root, peers that behave, and peers that do not."""

from __future__ import annotations

import ctypes
import gc
import os
import shutil
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import pytest
from pydicom import Dataset, FileDataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, _config, build_context
from pynetdicom.pdu import A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import A_ASSOCIATE, ImplementationClassUIDNotification, MaximumLengthNotification

from node.api import Address, Audit, Index
from node.archive.filesystem import Archive
from node.association.listener import Listener
from node.extensions.worklist.settings import WorklistSettings
from node.index.rows.place import FILE_NAME
from node.receive.ingest import MAXIMUM_BYTES, Announced, Incoming, Ingest, Origin
from node.receive.senders import Rejections
from node.runtime.metrics import Metrics
from node.settings.core import Acknowledge
from node.settings.model import ExtensionsSettings, Settings
from node.settings.peers import Dicom, Peer
from tests import make
from tests.ingest import opened_ingest
from tests.made_once import decoder
from tests.pace import idle_seconds, now
from tests.rows import view_rows
from tests.waiting import within

VERIFICATION = "1.2.840.10008.1.1"
CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
DEADLINE_SECONDS = 30.0
FRAGMENT_BYTES = 8192
LIBC = ctypes.CDLL(None)


def data_set_bytes(ds: FileDataset) -> bytes:
    """The data set alone, as it is sent."""
    return after_file_meta(make.as_file(ds))


def after_file_meta(file: bytes) -> bytes:
    """What follows preamble and File Meta Information (PS3.10 7.1)."""
    (length,) = struct.unpack_from("<L", file, 140)
    return file[144 + length :]


class Acceptor(Protocol):
    """Whatever listens: a node, or what it is compared with."""

    host: str
    port: int


@dataclass
class Running:
    """A listening node and what it stands on."""

    listener: Listener
    ingest: Ingest
    metrics: Metrics
    root: Path
    host: str = ""
    port: int = 0
    closers: list[Callable[[], None]] = field(default_factory=list)

    @property
    def address(self) -> Address:
        """Where it listens, for our own requestor."""
        return Address("VOXELNODE", self.host, self.port)

    def rows(self, query: str = "SELECT * FROM v_images") -> list[dict[str, Any]]:
        """What the index says, by default of the stored instances."""
        assert self.ingest.applier.catch_up(60), "the index is behind"  # behind the commit, files of losers are moved
        return view_rows(self.root, query)

    def stored_data_sets(self) -> dict[str, bytes]:
        """Data set bytes at rest by SOP Instance UID."""
        found = {}
        for row in self.rows():
            found[row["sop_instance_uid"]] = after_file_meta((self.root / row["path"]).read_bytes())
        return found

    def part_files(self) -> list[Path]:
        """What lies half received."""
        return list((self.root / "incoming").glob("*.*"))

    def count(self, name: str) -> float:
        """A sample of the metrics; 0 before it was counted."""
        return self.metrics.snapshot().get(f"voxelnode_{name}", 0.0)

    def beginning(self) -> threading.Event:
        """An event that is set when the node begins to receive an instance."""
        begun, begin = threading.Event(), self.ingest.begin

        def begin_and_tell(announced: Announced, origin: Origin) -> Incoming:
            incoming = begin(announced, origin)
            begun.set()
            return incoming

        self.ingest.begin = begin_and_tell  # type: ignore[method-assign]
        return begun

    def settled(self) -> bool:
        """Wait until no connection is left."""
        return within(DEADLINE_SECONDS, lambda: self.count("connections") == 0)


@pytest.fixture
def acceptor(request: pytest.FixtureRequest) -> Iterator[str]:
    """What accepts for nodes that do not say it: see `pytest_generate_tests`."""
    names = ("STORE_RECV_CHUNKED_DATASET", "LOG_HANDLER_LEVEL", "LOG_REQUEST_IDENTIFIERS", "LOG_RESPONSE_IDENTIFIERS")
    before = {name: getattr(_config, name) for name in names}  # other acceptors of this process have them as well
    yield getattr(request, "param", "node")
    for name, value in before.items():
        setattr(_config, name, value)


OVER_BOTH = {
    "test_c_store": pytest.mark.slow,
    "test_find": pytest.mark.slow,
    "test_ends": pytest.mark.slow,
    "test_performed_steps": pytest.mark.slow,
    "test_admission": pytest.mark.long,
    "test_c_find": pytest.mark.long,
    "test_conformance": pytest.mark.long,
    "test_peers": pytest.mark.long,
    "test_worklist": pytest.mark.long,
}
"""Modules whose tests run over both acceptors, each the other's oracle, unless they say ``own_acceptor``."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests over pynetdicom's acceptor as well."""
    mark = OVER_BOTH.get(metafunc.module.__name__.rpartition(".")[2])
    says = next(metafunc.definition.iter_markers("own_acceptor"), None)
    if "acceptor" in metafunc.fixturenames and mark is not None and says is None:
        metafunc.parametrize("acceptor", ["node", pytest.param("pynetdicom", marks=mark)], indirect=True)


CONSTANTS = {
    "maximum_associations_per_address": ("node.association.admission.PER_ADDRESS",),
    "maximum_query_results": ("node.association.services.c_find.MAXIMUM_RESULTS",),
    "maximum_retrieves": ("node.association.services.retrieve.MAXIMUM_RETRIEVES",),
    "pdu_seconds": ("node.association.transport.PDU_SECONDS", "node.association.listener.PDU_SECONDS"),
    "release_seconds": ("node.association.upper_layer.RELEASE_SECONDS",),
    "request_seconds": (
        "node.association.transport.REQUEST_SECONDS",
        "node.association.upper_layer.REQUEST_SECONDS",
        "node.association.acceptor.TICK_SECONDS",
        "node.association.listener.TICK_SECONDS",
        "node.extensions.pynetdicom_acceptor.acceptor.REQUEST_SECONDS",
    ),
}
"""Constants that tests make smaller, for all nodes of a test."""


StartNode = Callable[..., Running]


@pytest.fixture
def start_node(tmp_path: Path, acceptor: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[StartNode]:
    """Start a node; keyword arguments are keys of [dicom] or of `CONSTANTS`, `peers` the table of peers."""
    started: list[Running] = []
    monkeypatch.setattr("node.receive.senders.WRITE_SECONDS", 0.1)

    def start(
        peers: dict[str, Peer] | None = None,
        ingest: Any = None,
        reserve_bytes: int = 0,
        audit: Audit | None = None,
        root: Path | None = None,
        worklist: WorklistSettings | None = None,
        acknowledge: Acknowledge = "local",
        disabled: tuple[str, ...] = (),
        conflict_answer: Literal["success", "warning"] = "success",
        maximum_instance_bytes: int = MAXIMUM_BYTES,
        any_uids: bool = False,
        **dicom: Any,
    ) -> Running:
        for name in dicom.keys() & CONSTANTS.keys():
            value = dicom.pop(name)
            for place in CONSTANTS[name]:
                monkeypatch.setattr(place, value)
        dicom = {"acceptor": acceptor} | dicom
        root = root or tmp_path / f"root{len(started)}"
        settings = Settings(
            dicom=Dicom(**({"host": "127.0.0.1", "port": 0} | dicom)),
            peers=peers or {},
            worklist=worklist or WorklistSettings(),
            extensions=ExtensionsSettings(disabled=disabled),
        )
        metrics = Metrics()
        archive = Archive(root, reserve_bytes)
        index = Index(root, metrics)
        opened = ExitStack()
        opened.callback(index.close)
        real = opened.enter_context(
            opened_ingest(
                archive,
                index,
                metrics,
                lambda title: 60.0,
                maximum_bytes=maximum_instance_bytes,
                conflict_answer=conflict_answer,
                acknowledge=acknowledge,
                any_uids=any_uids,
            )
        )
        rejections = Rejections(index, metrics)
        rejections.start()
        opened.callback(rejections.stop)
        try:
            taken = ingest(real) if ingest else real
            listener = Listener(settings, taken, decoder(), rejections.record, audit)
            running = Running(listener, real, metrics, root)
            running.host, running.port = listener.start()
        except BaseException:
            opened.close()
            raise
        started.append(running)
        running.closers = [listener.stop_now, opened.close]
        return running

    yield start
    for running in started:
        for close in running.closers:
            close()


@pytest.fixture
def node(start_node: StartNode) -> Running:
    """A node with everything by default."""
    return start_node()


def associate(node: Acceptor, *contexts: Any, title: str = "GOOD", **options: Any) -> Any:
    """An established association from a well-behaved peer."""
    ae = AE(title)
    ae.requested_contexts = list(contexts) or [
        build_context(CT_IMAGE_STORAGE, [ExplicitVRLittleEndian, ImplicitVRLittleEndian]),
        build_context(VERIFICATION),
    ]
    assoc = ae.associate(node.host, node.port, **options)
    assoc._reactor_checkpoint = _Noticed(assoc)
    return assoc


class _Noticed(threading.Event):
    """The event that lets pynetdicom's thread of a requestor go on; who sets it waits until that thread has noticed.

    A request that is sent before takes the pause that is over for one that has begun, and its answer gets lost.
    """

    def __init__(self, assoc: Any) -> None:
        super().__init__()
        super().set()
        self._assoc = assoc

    def set(self) -> None:
        super().set()
        pause, deadline = threading.Event(), time.monotonic() + 5
        while self._assoc._is_paused and self._assoc.is_established and time.monotonic() < deadline:
            if threading.current_thread() is self._assoc:
                break
            pause.wait(0.001)


def echo_seconds(node: Acceptor, deadline_seconds: float = DEADLINE_SECONDS) -> float:
    """Seconds of a whole C-ECHO by a good peer on an idle machine, or infinity: the oracle of every fault."""
    began = now()
    ae = AE("GOOD")
    ae.acse_timeout = ae.dimse_timeout = ae.connection_timeout = deadline_seconds
    ae.add_requested_context(VERIFICATION)
    assoc = ae.associate(node.host, node.port)
    if not assoc.is_established:
        return float("inf")
    status = assoc.send_c_echo()
    assoc.release()
    return idle_seconds(began, 2) if status and status.Status == 0 else float("inf")


class Raw:
    """A peer that speaks in bytes."""

    def __init__(self, node: Acceptor, seconds: float = DEADLINE_SECONDS) -> None:
        self.socket = socket.create_connection((node.host, node.port), timeout=seconds)

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def receive(self) -> tuple[int, bytes] | None:
        """The next PDU as (type, body); None when the node has closed."""
        header = self._exactly(6)
        if header is None:
            return None
        kind, length = struct.unpack(">BxL", header)
        body = self._exactly(length)
        return None if body is None else (kind, body)

    def _exactly(self, count: int) -> bytes | None:
        data = b""
        while len(data) < count:
            try:
                more = self.socket.recv(count - len(data))
            except ConnectionResetError:
                return None
            if not more:
                return None
            data += more
        return data

    def closed(self) -> bool:
        """Read until the node closes; False if it does not in time."""
        try:
            while self.receive() is not None:
                pass
        except TimeoutError:
            return False
        return True

    def associate(self, request: bytes | None = None, **options: Any) -> Raw:
        """Ask for an association and take the acceptance; `options` are those of `associate_rq`."""
        self.send(request or associate_rq(**options))
        answer = self.receive()
        assert answer[0] == 0x02
        return self

    def verify(self, message_id: int = 1) -> int:
        """The status of a C-ECHO on context 3."""
        self.send(p_data(pdv(3, 3, c_echo_rq(message_id))))
        return status_of(self.receive())

    def store(self, instance_uid: str, data: bytes, message_id: int = 1) -> int:
        """The status of a C-STORE on context 1.

        Raises ConnectionError: the node is gone.
        """
        self.send(p_data(pdv(1, 3, c_store_rq(instance_uid, message_id=message_id))))
        for start in range(0, len(data), FRAGMENT_BYTES):
            last = start + FRAGMENT_BYTES >= len(data)
            self.send(p_data(pdv(1, 2 if last else 0, data[start : start + FRAGMENT_BYTES])))
        answer = self.receive()
        if answer is None:
            raise ConnectionError
        return status_of(answer)

    def aborted(self) -> tuple[int, int] | None:
        """(source, reason) of the A-ABORT that must come now."""
        while (pdu := self.receive()) is not None:
            if pdu[0] == 0x07:
                return pdu[1][2], pdu[1][3]
        return None


def associate_rq(*contexts: Any, calling: str = "RAW", called: str = "VOXELNODE", maximum_length: int = 16382) -> bytes:
    """An encoded A-ASSOCIATE-RQ; context 1 is CT Image Storage, context 3 Verification, unless others are given."""
    primitive = A_ASSOCIATE()
    primitive.application_context_name = "1.2.840.10008.3.1.1.1"
    primitive.calling_ae_title, primitive.called_ae_title = calling, called
    wanted = list(contexts) or [
        build_context(CT_IMAGE_STORAGE, ExplicitVRLittleEndian),
        build_context(VERIFICATION, ImplicitVRLittleEndian),
    ]
    for number, context in enumerate(wanted):
        context.context_id = 2 * number + 1
    primitive.presentation_context_definition_list = wanted
    length = MaximumLengthNotification()
    length.maximum_length_received = maximum_length
    implementation = ImplementationClassUIDNotification()
    implementation.implementation_class_uid = "1.2.3.4"
    primitive.user_information = [length, implementation]
    return bytes(A_ASSOCIATE_RQ(primitive).encode())


def pdu(kind: int, body: bytes) -> bytes:
    return struct.pack(">BBL", kind, 0, len(body)) + body


def pdv(context_id: int, control: int, fragment: bytes) -> bytes:
    return struct.pack(">LBB", len(fragment) + 2, context_id, control) + fragment


def p_data(*pdvs: bytes) -> bytes:
    return pdu(0x04, b"".join(pdvs))


def command(elements: dict[int, bytes]) -> bytes:
    """A command set in implicit VR little endian, with its group length."""
    body = b"".join(struct.pack("<HHL", 0, number, len(value)) + value for number, value in sorted(elements.items()))
    return struct.pack("<HHLL", 0, 0, 4, len(body)) + body


def identifier(level: str, **keys: Any) -> Dataset:
    """Keys of a query; None asks for an attribute."""
    ds = Dataset()
    ds.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(ds, keyword, value)
    return ds


def padded(uid: str) -> bytes:
    raw = uid.encode("latin-1")
    return raw + b"\0" * (len(raw) % 2)


def c_store_rq(instance_uid: str, class_uid: str = CT_IMAGE_STORAGE, message_id: int = 1, **other: bytes) -> bytes:
    """The command set of a C-STORE-RQ; `other` are elements as ``e0800=b"..."``."""
    elements = {
        0x0002: padded(class_uid),
        0x0100: b"\x01\x00",
        0x0110: struct.pack("<H", message_id),
        0x0700: b"\x00\x00",
        0x0800: b"\x00\x00",
        0x1000: padded(instance_uid),
    }
    elements |= {int(name[1:], 16): value for name, value in other.items()}
    return command(elements)


def c_echo_rq(message_id: int = 1) -> bytes:
    return command(
        {0x0002: padded(VERIFICATION), 0x0100: b"\x30\x00", 0x0110: struct.pack("<H", message_id), 0x0800: b"\x01\x01"}
    )


def decoded(body: bytes) -> dict[int, bytes]:
    """The command set of a P-DATA-TF body that holds one whole message."""
    encoded, at = b"", 0
    while at < len(body):
        (length,) = struct.unpack_from(">L", body, at)
        encoded += body[at + 6 : at + 4 + length]
        at += 4 + length
    elements, at = {}, 0
    while at < len(encoded):
        _, number, length = struct.unpack_from("<HHL", encoded, at)
        elements[number] = encoded[at + 8 : at + 8 + length]
        at += 8 + length
    return elements


def status_of(answer: tuple[int, bytes] | None) -> int:
    """*Status* of a response PDU."""
    assert answer[0] == 0x04
    return int(struct.unpack("<H", decoded(answer[1])[0x0900])[0])


def thread_count() -> int:
    return threading.active_count()


def open_files() -> list[str]:
    """Files and sockets of this process, without those of an index: it keeps as many as were ever read at once."""
    opened = []
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # that of the listing itself, or closed meanwhile
            opened.append(os.readlink(f"/proc/self/fd/{number}"))
    return [path for path in opened if FILE_NAME not in path]


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with keys and certificates, see `make_keys`."""
    return make_keys(tmp_path_factory.mktemp("keys"))


_AUTHORITY = {
    "basicConstraints": "critical,CA:TRUE",
    "keyUsage": "critical,keyCertSign,cRLSign",
    "subjectKeyIdentifier": "hash",
}
_LEAF = {
    "basicConstraints": "critical,CA:FALSE",
    "keyUsage": "critical,digitalSignature",
    "extendedKeyUsage": "serverAuth,clientAuth",
    "subjectKeyIdentifier": "hash",
    "authorityKeyIdentifier": "keyid",
    "subjectAltName": "DNS:localhost,IP:127.0.0.1",
}
_SELF_SIGNED = _AUTHORITY | {
    "keyUsage": "critical,keyCertSign,digitalSignature",
    "subjectAltName": _LEAF["subjectAltName"],
}


def make_keys(folder: Path) -> Path:
    """Create keys and certificates with the extensions that RFC 5280 requires.

    ``ca`` is an authority; ``server``, ``client`` and ``expired`` are signed by it, and ``stranger`` is a server that
    signed its own. ``old_ca`` and ``old_server`` lack the extensions that older devices and authorities leave out.
    """
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")

    def run(*arguments: str) -> None:
        subprocess.run([openssl, *arguments], cwd=folder, check=True, capture_output=True)

    (folder / "empty.cnf").write_text("[req]\ndistinguished_name=dn\n[dn]\n")  # no extensions but those given
    new = ["-config", "empty.cnf", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    for name, extensions in (
        ("ca", _AUTHORITY),
        ("stranger", _SELF_SIGNED),
        ("old_ca", {"basicConstraints": "CA:TRUE"}),
    ):
        added = [word for name, value in extensions.items() for word in ("-addext", f"{name}={value}")]
        run(
            *("req", "-x509", *new, "-days", "2", "-keyout", f"{name}.key", "-out", f"{name}.pem"),
            *("-subj", f"/CN={name}", *added),
        )
    old = {"subjectAltName": _LEAF["subjectAltName"]}
    for name, authority, days, extensions in (
        ("server", "ca", "2", _LEAF),
        ("client", "ca", "2", _LEAF),
        ("expired", "ca", "-1", _LEAF),
        ("old_server", "old_ca", "2", old),
    ):
        (folder / f"{name}.ext").write_text("".join(f"{key}={value}\n" for key, value in extensions.items()))
        run("req", *new, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        signed = ["-CA", f"{authority}.pem", "-CAkey", f"{authority}.key", "-CAcreateserial", "-days", days]
        run("x509", "-req", "-in", f"{name}.csr", *signed, "-extfile", f"{name}.ext", "-out", f"{name}.pem")
    return folder


def client_context(keys: Path, who: str | None = "client") -> ssl.SSLContext:
    """The TLS side of a peer: trusts our authority, and shows a certificate, or none."""
    context = ssl.create_default_context(cafile=str(keys / "ca.pem"))
    if who is not None:
        context.load_cert_chain(keys / f"{who}.pem", keys / f"{who}.key")
    return context


def is_answered(node: Acceptor, context: ssl.SSLContext, seconds: float = DEADLINE_SECONDS) -> bool:
    """Whether an A-ASSOCIATE-RQ gets an answer; with TLS 1.3 a refusal shows in the first read only."""
    try:
        with (
            socket.create_connection((node.host, node.port), timeout=seconds) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as secure,
        ):
            secure.sendall(associate_rq())
            return secure.recv(1) == b"\x02"
    except (ssl.SSLError, ConnectionError, TimeoutError):
        return False


def resident_bytes() -> int:
    """Memory of this process that is in use, without what the allocator keeps of what was freed."""
    gc.collect()
    if hasattr(LIBC, "malloc_trim"):
        LIBC.malloc_trim(0)
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
