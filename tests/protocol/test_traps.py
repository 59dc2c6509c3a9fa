"""What a server on pynetdicom must work around: each trap shown on a plain acceptor first, then closed in ours.

The first half of each test is its control.  If it fails with a newer pynetdicom, the trap is gone there, and with it
perhaps the reason for a part of `node.association`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian
from pynetdicom import AE, _config, build_context, evt

from node.dicom import header
from node.receive.ingest import LARGE_BYTES
from tests.make import ct_series, deflated, instance
from tests.protocol.conftest import (
    CT_IMAGE_STORAGE,
    DEADLINE_SECONDS,
    VERIFICATION,
    Raw,
    Running,
    associate,
    associate_rq,
    c_store_rq,
    client_context,
    command,
    data_set_bytes,
    echo_seconds,
    is_answered,
    p_data,
    pdv,
    resident_bytes,
    status_of,
    until,
)

MR_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.4"
MEGABYTE = 1 << 20
HALF_A_HEADER = b"\x01\x00\x00\x00\x00\xcd\x00"
"""A PDU that has begun: its header and a byte."""

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
"""Threads of a plain acceptor die of what peers send; ours would be missed by what the tests assert."""


class Plain:
    """An acceptor as pynetdicom's documentation has it."""

    def __init__(self, keep: Callable[[Any], int], tls: ssl.SSLContext | None, timeout: float, maximum: int) -> None:
        self.ae = AE("PLAIN")
        self.ae.acse_timeout = self.ae.dimse_timeout = self.ae.network_timeout = timeout
        self.ae.maximum_associations = maximum
        self.ae.add_supported_context(CT_IMAGE_STORAGE)
        self.ae.add_supported_context(VERIFICATION)
        self._established: list[Any] = []
        handlers: list[Any] = [
            (evt.EVT_C_STORE, keep),
            (evt.EVT_ESTABLISHED, lambda event: self._established.append(event.assoc)),
        ]
        self.server: Any = self.ae.start_server(("127.0.0.1", 0), block=False, ssl_context=tls, evt_handlers=handlers)
        self.host, self.port = self.server.server_address

    def associations(self) -> list[Any]:
        return list(self.server.active_associations)

    def close(self) -> None:
        """End its threads, which are not daemons and may wait for ever, and close the files that they left."""
        associations = self.associations()
        with contextlib.suppress(ValueError):  # it was closed
            self.server.shutdown()
        for assoc in associations:
            assoc._kill = True
            assoc._reactor_checkpoint.set()
            assoc.dul.kill_dul()
            assoc.dul.to_user_queue.put(None)
            with contextlib.suppress(OSError, AttributeError):
                assoc.dul.socket.socket.shutdown(socket.SHUT_RDWR)
        assert until(lambda: self.associations() == [])
        for assoc in self._established:
            if assoc.dimse.message is not None and assoc.dimse.message._data_set_file is not None:
                with contextlib.suppress(OSError):
                    assoc.dimse.message._data_set_file.close()


@pytest.fixture
def plain() -> Iterator[Callable[..., Plain]]:
    """Start a plain acceptor."""
    started: list[Plain] = []

    def start(
        keep: Callable[[Any], int] = lambda event: 0x0000,
        tls: ssl.SSLContext | None = None,
        timeout: float = 30,
        maximum: int = 10,
    ) -> Plain:
        started.append(Plain(keep, tls, timeout, maximum))
        return started[-1]

    yield start
    for acceptor in started:
        acceptor.close()


@contextlib.contextmanager
def raws(acceptor: Any, count: int, first: bytes = b"") -> Iterator[list[Raw]]:
    peers: list[Raw] = []
    try:
        for _ in range(count):
            peers.append(Raw(acceptor))
            peers[-1].send(first)
        yield peers
    finally:
        for peer in peers:
            peer.socket.close()


def pushed(peer: Raw, data: bytes, times: int, seconds: float = DEADLINE_SECONDS) -> int:
    """Send bytes again and again, until they are not taken any more for so long; returns how many were."""
    peer.socket.settimeout(seconds)
    sent = 0
    with contextlib.suppress(OSError):
        for _ in range(times):
            sent += peer.socket.send(data)
    return sent


@pytest.mark.slow
def test_p1_a_pdu_that_stalls_blocks_a_thread_for_ever(
    plain: Callable[..., Plain], start_node: Callable[..., Running]
) -> None:
    acceptor = plain(timeout=0.5)
    with raws(acceptor, 10, HALF_A_HEADER) as peers:
        peers[0].socket.settimeout(1.5)  # three times any of its timeouts
        assert not peers[0].closed()
        assert echo_seconds(acceptor, 5) == float("inf")

    node = start_node(request_seconds=0.5, maximum_associations=10)
    with raws(node, 10, HALF_A_HEADER) as peers:
        assert echo_seconds(node) < 2
        assert all(peer.closed() for peer in peers)


@pytest.mark.slow
def test_p2_a_silent_client_holds_up_the_tls_handshakes_of_all(
    plain: Callable[..., Plain], start_node: Callable[..., Running], keys: Path
) -> None:
    files = {"tls_certificate": keys / "server.pem", "tls_key": keys / "server.key"}
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(*files.values())
    acceptor = plain(tls=server_side)
    assert is_answered(acceptor, client_context(keys, None))
    with raws(acceptor, 1):
        assert not is_answered(acceptor, client_context(keys, None), seconds=1)

    node = start_node(request_seconds=60, **files)
    with raws(node, 1):
        assert is_answered(node, client_context(keys, None))


@pytest.mark.slow
def test_p3_a_pdu_is_as_long_as_it_says_before_anybody_is_known(
    plain: Callable[..., Plain], start_node: Callable[..., Running]
) -> None:
    def grown(acceptor: Any, seconds: float) -> int:
        before = resident_bytes()
        with raws(acceptor, 1, struct.pack(">BBL", 1, 0, 0xFFFFFFFF)) as (peer,):
            pushed(peer, bytes(MEGABYTE), 64)
            until(lambda: resident_bytes() - before > 50 * MEGABYTE, seconds)
            return resident_bytes() - before

    assert grown(plain(), DEADLINE_SECONDS) > 50 * MEGABYTE
    assert grown(start_node(request_seconds=0.5), 1) < 8 * MEGABYTE


@pytest.mark.slow
def test_p4_a_message_is_as_long_as_its_fragments(
    plain: Callable[..., Plain], start_node: Callable[..., Running]
) -> None:
    def grown(acceptor: Any, seconds: float) -> int:
        before = resident_bytes()
        with raws(acceptor, 1) as (peer,):
            peer.associate()
            peer.send(p_data(pdv(1, 3, c_store_rq("1.2.3"))))
            pushed(peer, p_data(pdv(1, 0, bytes(16000))), 4000)
            until(lambda: resident_bytes() - before > 40 * MEGABYTE, seconds)
            return resident_bytes() - before

    assert grown(plain(), DEADLINE_SECONDS) > 40 * MEGABYTE
    node = start_node(maximum_instance_bytes=MEGABYTE)
    assert grown(node, 2) < 8 * MEGABYTE
    assert node.settled()
    assert node.count("associations_total{outcome=violated}") == 1


@pytest.mark.slow
def test_an_instance_that_is_too_large_is_received_but_not_held(start_node: Callable[..., Running]) -> None:
    node = start_node(maximum_instance_bytes=20 * MEGABYTE)
    fragment = p_data(pdv(1, 0, bytes(60_000)))
    with raws(node, 1) as (peer,):
        peer.associate()
        peer.send(p_data(pdv(1, 3, c_store_rq("1.2.3"))))
        before = resident_bytes()
        for _ in range(39 * MEGABYTE // 60_000):
            peer.send(fragment)
        assert resident_bytes() - before < 28 * MEGABYTE
        peer.send(p_data(pdv(1, 2, b"")))
        assert status_of(peer.receive()) == 0xA700


class Slow:
    """An ingest that takes up nothing until it is let go."""

    def __init__(self, real: Any) -> None:
        self._real = real
        self.let_go = threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def begin(self, announced: Any, origin: Any) -> Any:
        self.let_go.wait(10)
        return self._real.begin(announced, origin)


@pytest.mark.slow
def test_p4_requests_queue_up_without_end(plain: Callable[..., Plain], start_node: Callable[..., Running]) -> None:
    request = p_data(pdv(1, 3, c_store_rq("1.2.3"))) + p_data(pdv(1, 2, bytes(16000)))
    let_go = threading.Event()

    def keep(event: Any) -> int:
        let_go.wait(10)
        return 0x0000

    acceptor = plain(keep)
    with raws(acceptor, 1) as (peer,):
        peer.associate()
        assert pushed(peer, request, 2000) > 30_000_000
        (assoc,) = acceptor.associations()
        assert until(lambda: assoc.dimse.msg_queue.qsize() > 1900)
        let_go.set()

    slow: list[Slow] = []

    def slowly(real: Any) -> Slow:
        slow.append(Slow(real))
        return slow[0]

    node = start_node(ingest=slowly)
    with raws(node, 1) as (peer,):
        peer.associate()
        peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        assert pushed(peer, request, 2000, seconds=1) < 16_000_000  # what the kernel holds
        assert echo_seconds(node) < 2
        slow[0].let_go.set()
    assert node.settled()


@pytest.mark.slow
def test_p5_connections_that_ask_for_nothing_cost_threads(
    plain: Callable[..., Plain], start_node: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    acceptor = plain(maximum=5)
    with raws(acceptor, 40):
        assert until(lambda: sum(assoc.dul.is_alive() for assoc in acceptor.associations()) == 40)
    acceptor.close()

    monkeypatch.setattr("node.association.admission.MAX_PENDING_CONNECTIONS", 10)
    node = start_node(maximum_associations=5)
    with raws(node, 40):
        assert echo_seconds(node) < 2
        assert until(lambda: sum(thread.name.startswith("association") for thread in threading.enumerate()) <= 10)


def test_p6_file_descriptors_beyond_1023_are_dropped(
    plain: Callable[..., Plain], start_node: Callable[..., Running]
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 1500:
        pytest.skip("this machine allows fewer than 1500 open files")

    def is_accepted(acceptor: Any) -> bool:
        with raws(acceptor, 1, associate_rq()) as (peer,):
            answer = peer.receive()
            if answer is None or answer[0] != 2:
                return False
            return peer.verify() == 0

    acceptor, node = plain(), start_node()
    assert is_accepted(acceptor)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1500, hard))
    files = [os.open("/dev/null", os.O_RDONLY) for _ in range(1100)]
    try:
        assert not is_accepted(acceptor)
        assert is_accepted(node)
    finally:
        for file in files:
            os.close(file)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_p7_files_of_interrupted_instances_stay(
    plain: Callable[..., Plain],
    start_node: Callable[..., Running],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(elsewhere))

    def interrupt(acceptor: Any, received: Callable[[], bool]) -> None:
        with raws(acceptor, 1) as (peer,):
            peer.associate().send(p_data(pdv(1, 3, c_store_rq("1.2.3"))))
            peer.send(p_data(pdv(1, 0, bytes(16000))) * (LARGE_BYTES // 16000 + 1))
            assert until(received)

    acceptor = plain()
    monkeypatch.setattr(_config, "STORE_RECV_CHUNKED_DATASET", True)
    interrupt(acceptor, lambda: len(os.listdir(elsewhere)) == 1)
    assert until(lambda: acceptor.associations() == [])
    assert len(os.listdir(elsewhere)) == 1
    monkeypatch.setattr(_config, "STORE_RECV_CHUNKED_DATASET", False)

    node = start_node()
    interrupt(node, lambda: len(node.part_files()) == 1)
    assert node.settled()
    assert node.part_files() == []
    assert len(os.listdir(elsewhere)) == 1


@contextlib.contextmanager
def files_end_at(size: int) -> Iterator[None]:
    """A disk that takes no more than so many bytes of each file (EFBIG, as a quota would have it)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_p8_a_disk_that_is_full_ends_the_association_without_an_answer(
    plain: Callable[..., Plain], start_node: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer_to_eight_megabytes(acceptor: Any) -> tuple[int, bytes] | None:
        with raws(acceptor, 1) as (peer,), files_end_at(6 * MEGABYTE):
            peer.associate().send(p_data(pdv(1, 3, c_store_rq("1.2.3"))))
            pushed(peer, p_data(pdv(1, 0, bytes(16000))), 8 * MEGABYTE // 16000)
            with contextlib.suppress(OSError):
                peer.send(p_data(pdv(1, 2, b"")))
                return peer.receive()
            return None

    acceptor = plain(timeout=1)
    monkeypatch.setattr(_config, "STORE_RECV_CHUNKED_DATASET", True)
    answer = answer_to_eight_megabytes(acceptor)
    assert answer is None or answer[0] != 4
    monkeypatch.setattr(_config, "STORE_RECV_CHUNKED_DATASET", False)

    assert status_of(answer_to_eight_megabytes(start_node())) == 0xA700


def test_p9_a_command_set_that_is_garbage_kills_the_reading_thread(
    plain: Callable[..., Plain], start_node: Callable[..., Running]
) -> None:
    garbage = p_data(pdv(1, 3, command({0x0100: b"\x77\x77", 0x0800: b"\x01\x01"})))
    with raws(plain(timeout=1), 1) as (peer,):
        peer.associate().send(garbage)
        peer.socket.settimeout(2)
        with contextlib.suppress(TimeoutError):
            assert peer.aborted() is None

    with raws(start_node(), 1) as (peer,):
        peer.associate().send(garbage)
        assert peer.aborted() is not None


def test_p9_an_error_of_ours_is_told_as_an_error_of_the_peer(
    plain: Callable[..., Plain], start_node: Callable[..., Running]
) -> None:
    def fail(*_: Any) -> int:
        raise MemoryError

    assoc = associate(plain(fail))
    assert assoc.send_c_store(instance()).Status == 0xC211  # Cxxx, cannot understand: no sender tries that again
    assoc.release()

    node = start_node()
    node.ingest.begin = fail  # type: ignore[method-assign, assignment]
    assoc = associate(node)
    assert assoc.send_c_store(instance()).Status == 0xA700
    assoc.release()


def test_p10_the_class_of_the_request_wins_over_the_context(
    plain: Callable[..., Plain], start_node: Callable[..., Running]
) -> None:
    ds = instance(sop_class_uid=MR_IMAGE_STORAGE)

    def answer(acceptor: Any) -> int:
        with raws(acceptor, 1) as (peer,):
            peer.associate()  # context 1 is CT
            peer.send(p_data(pdv(1, 3, c_store_rq(ds.SOPInstanceUID, MR_IMAGE_STORAGE))))
            peer.send(p_data(pdv(1, 2, data_set_bytes(ds))))
            return status_of(peer.receive())

    assert answer(plain()) == 0x0000
    assert answer(start_node()) == 0xA900


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI:UserWarning")
def test_p11_uids_come_as_the_peer_made_them(
    plain: Callable[..., Plain], start_node: Callable[..., Running], tmp_path: Path
) -> None:
    def send(acceptor: Any) -> int:
        with raws(acceptor, 1) as (peer,):
            peer.associate().send(p_data(pdv(1, 3, c_store_rq("../../x"))))
            peer.send(p_data(pdv(1, 2, data_set_bytes(instance()))))
            return status_of(peer.receive())

    uids = []

    def keep(event: Any) -> int:
        uids.append(str(event.request.AffectedSOPInstanceUID))
        return 0x0000

    assert send(plain(keep)) == 0x0000
    assert uids == ["../../x"]

    node = start_node()
    assert send(node) == 0xA900
    assert [path for path in tmp_path.rglob("*") if path.is_file() and node.root not in path.parents] == []


def run_python(*arguments: str) -> str:
    return subprocess.run([sys.executable, *arguments], check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.slow
def test_p12_identifiers_of_patients_are_logged() -> None:
    show = (
        "import logging; from pynetdicom import _config; "
        "print(_config.LOG_REQUEST_IDENTIFIERS, logging.getLogger('pynetdicom').isEnabledFor(logging.ERROR))"
    )
    assert run_python("-c", show) == "True True"
    assert run_python("-c", f"import node.association; {show}") == "True False"


def test_p12_deflated_data_sets_of_any_size_are_accepted(
    plain: Callable[..., Plain], start_node: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(header, "MAX_INFLATED_BYTES", 10_000_000)
    [ds] = ct_series(1)
    private = b"\x09\x00\x01\x10OB\x00\x00" + (20_000_000).to_bytes(4, "little") + bytes(20_000_000)

    def status(acceptor: Any, data: bytes) -> int:
        with Raw(acceptor) as peer:
            peer.associate(associate_rq(build_context(CT_IMAGE_STORAGE, DeflatedExplicitVRLittleEndian)))
            return peer.store(ds.SOPInstanceUID, data)

    slice_, bomb = deflated(data_set_bytes(ds)), deflated(private + data_set_bytes(ds))
    assert len(bomb) < 100_000
    assert [status(plain(), data) for data in (slice_, bomb)] == [0, 0]
    node = start_node()
    assert [status(node, data) for data in (bomb, slice_)] == [0xC000, 0]
    assert node.stored_data_sets() == {ds.SOPInstanceUID: slice_}


@pytest.mark.slow
def test_p12_a_pdv_that_overruns_is_noticed_by_an_assertion_only() -> None:
    # `python -O` takes assertions out.
    decode = (
        "from pynetdicom.pdu import P_DATA_TF\n"
        "try: P_DATA_TF().decode(b'\\4\\0\\0\\0\\0\\10' + b'\\0\\0\\0\\77\\1\\3xx'); print('taken')\n"
        "except AssertionError: print('noticed')"
    )
    assert run_python("-c", decode) == "noticed"
    assert run_python("-O", "-c", decode) == "taken"
    ours = (
        "from node.association.framing import Framing, Violation\n"
        "framing = Framing(4096, 4096, 4096); framing.expect_data()\n"
        "stream = b'\\4\\0\\0\\0\\0\\10' + b'\\0\\0\\0\\77\\1\\3xx'\n"
        "framing.space()[:len(stream)] = stream; framing.filled(len(stream))\n"
        "try: framing.next(); print('taken')\n"
        "except Violation: print('noticed')"
    )
    assert run_python("-O", "-c", ours) == "noticed"


@pytest.mark.slow
def test_p12_timers_follow_the_time_of_day(
    plain: Callable[..., Plain], start_node: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    acceptor, node = plain(timeout=60), start_node(idle_seconds=60)
    real = time.time
    with raws(acceptor, 1) as (theirs,), raws(node, 1) as (ours,):
        theirs.associate()
        ours.associate()
        monkeypatch.setattr(time, "time", lambda: real() + 3600)
        assert theirs.aborted() is not None
        assert ours.verify() == 0


def test_p12_threads_outlive_the_program(plain: Callable[..., Plain], start_node: Callable[..., Running]) -> None:
    def lasting(acceptor: Any) -> int:
        before = set(threading.enumerate())
        with raws(acceptor, 1) as (peer,):
            peer.associate()
            return sum(not thread.daemon for thread in set(threading.enumerate()) - before)

    assert lasting(plain()) > 0
    assert lasting(start_node()) == 0


def test_p12_five_connections_may_wait_to_be_accepted(
    plain: Callable[..., Plain], start_node: Callable[..., Running]
) -> None:
    def backlog(listening: socket.socket) -> int:
        information = listening.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
        return int(struct.unpack_from("=L", information, 28)[0])  # tcpi_sacked of a socket that listens

    assert backlog(plain().server.socket) == 5
    listening = start_node().listener._socket
    assert listening is not None
    assert backlog(listening) >= min(128, int(Path("/proc/sys/net/core/somaxconn").read_text()))


def test_p13_a_shutdown_cuts_instances_off(plain: Callable[..., Plain], start_node: Callable[..., Running]) -> None:
    ds = instance()
    data = data_set_bytes(ds)

    def answer_while(
        acceptor: Any,
        stop: Callable[[], None],
        stopped: Callable[[], bool],
        begun: Callable[[], bool] = lambda: True,
    ) -> tuple[int, bytes] | None:
        with raws(acceptor, 1) as (peer,):
            peer.associate().send(p_data(pdv(1, 3, c_store_rq(ds.SOPInstanceUID))) + p_data(pdv(1, 0, data[:100])))
            assert until(begun)
            stopping = threading.Thread(target=stop)
            stopping.start()
            assert until(stopped)
            with contextlib.suppress(OSError):
                peer.send(p_data(pdv(1, 2, data[100:])))
            answer = peer.receive()
        stopping.join()
        return answer

    acceptor = plain()
    answer = answer_while(acceptor, acceptor.ae.shutdown, lambda: acceptor.server.socket.fileno() < 0)
    assert answer is None or answer[0] == 7

    node = start_node()
    begun = node.beginning()
    drained = answer_while(node, lambda: node.listener.drain(10), lambda: not node.listener.is_listening, begun.is_set)
    assert status_of(drained) == 0x0000


def test_p13_a_server_that_was_made_by_itself_cannot_be_shut_down(start_node: Callable[..., Running]) -> None:
    ae = AE("PLAIN")
    ae.add_supported_context(VERIFICATION)
    server = ae.make_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    with pytest.raises(ValueError, match="not in list"):
        server.shutdown()
    thread.join()

    node = start_node()
    node.listener.drain(5)
    with pytest.raises(OSError, match=os.strerror(errno.ECONNREFUSED)):
        Raw(node)
