"""What a broken or hostile peer sends, and that nobody else notices.

The oracle of every fault, in the fixtures `guarded` and `hurried`: a good peer's C-ECHO is answered within two seconds
of an idle machine, during and after it; no part file stays, and threads and files return to where they were.
"""

import contextlib
import gc
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from node.receive.data_set import LARGE_BYTES
from tests.make import ct_series, instance
from tests.protocol.conftest import (
    VERIFICATION,
    Raw,
    Running,
    StartNode,
    associate,
    associate_rq,
    c_echo_rq,
    c_store_rq,
    command,
    data_set_bytes,
    decoded,
    echo_seconds,
    open_files,
    p_data,
    padded,
    pdu,
    pdv,
    resident_bytes,
    status_of,
    thread_count,
)
from tests.waiting import until

SHORT = {"request_seconds": 0.6, "pdu_seconds": 0.6, "idle_seconds": 1.5, "release_seconds": 0.6}
"""Deadlines of `hurried`: beside other work, a peer that sends in time passes those as well."""


class GoodPeer:
    """Verifies again and again, in the background, and remembers its longest wait."""

    def __init__(self, node: Running) -> None:
        self._node = node
        self._stopping = threading.Event()
        self.longest = 0.0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(0.3):
            self.longest = max(self.longest, echo_seconds(self._node))


@pytest.fixture(scope="module", autouse=True)
def _collected() -> None:
    """Keep what other modules left out of collections: the memory of a node is measured before and after each test."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def guarded(start_node: StartNode, tmp_path: Path) -> Iterator[Running]:
    """A node, and the oracle."""
    yield from _guarded(start_node(), tmp_path)


@pytest.fixture
def hurried(start_node: StartNode, tmp_path: Path) -> Iterator[Running]:
    """A node with short deadlines, and the oracle."""
    yield from _guarded(start_node(**SHORT), tmp_path)


def _guarded(node: Running, tmp_path: Path) -> Iterator[Running]:
    assert echo_seconds(node) < 2
    assert node.settled()
    threads, files, memory = thread_count(), len(open_files()), resident_bytes()
    good_peer = GoodPeer(node)
    yield node
    good_peer.stop()
    assert good_peer.longest < 2
    assert echo_seconds(node) < 2
    assert node.settled()
    until(lambda: thread_count() <= threads)
    until(lambda: len(open_files()) <= files)
    assert resident_bytes() < 1.05 * memory + 8e6
    assert node.part_files() == []
    assert [path for path in tmp_path.rglob("*") if path.is_file() and node.root not in path.parents] == []


def store_head(uid: str = "1.2.3.4", **other: bytes) -> bytes:
    return p_data(pdv(1, 3, c_store_rq(uid, **other)))


# Connections that do not get as far as an association


@pytest.mark.slow
def test_a_request_that_never_comes_is_not_waited_for(hurried: Running) -> None:
    whole = associate_rq()
    lengths = (0, 1, 6, 7, len(whole) - 1)  # nothing, one byte, a header, a header and a byte, all but one byte
    with contextlib.ExitStack() as opened:
        peers = [opened.enter_context(Raw(hurried)) for _ in lengths]
        for peer, length in zip(peers, lengths, strict=True):
            peer.send(whole[:length])
        assert echo_seconds(hurried) < 2
        assert [peer.closed() for peer in peers] == [True] * len(lengths)


@pytest.mark.slow
def test_a_request_in_drops_is_not_waited_for(hurried: Running) -> None:
    with Raw(hurried) as peer, contextlib.suppress(OSError):
        for number in range(50):
            peer.send(associate_rq()[number : number + 1])
            peer.socket.settimeout(0.1)
            with contextlib.suppress(TimeoutError):
                if not peer.socket.recv(10):
                    break
        else:
            pytest.fail("still open after 5 seconds of one byte each 0.1 s")


@pytest.mark.slow
def test_many_connections_that_close_at_once_leave_nothing(guarded: Running) -> None:
    for _ in range(10):
        for _ in range(100):  # no more than wait to be accepted: the kernel has others wait a second
            socket.create_connection((guarded.host, guarded.port)).close()
        assert echo_seconds(guarded) < 2


def first_context(body: bytes) -> int:
    """Where the first presentation context item of an A-ASSOCIATE-RQ begins, behind the application context."""
    (length,) = struct.unpack_from(">H", body, 68 + 2)
    return 68 + 4 + int(length)


def no_requests() -> dict[str, bytes]:
    """What opens no association, whoever sends it."""
    body = bytearray(associate_rq()[6:])
    overrun = bytearray(body)
    struct.pack_into(">H", overrun, 68 + 2, 0xFFF0)
    no_items = body[:68]
    endless = bytes(body[:68]) + struct.pack(">BBH", 0x10, 0, 0) * 10000
    at = first_context(body)
    identity = struct.pack(">BBHBBH", 0x58, 0, 65534, 2, 0, 65528) + bytes(65530)
    (length,) = struct.unpack_from(">H", body, at + 2)
    context, contexts = bytearray(body[at : at + 4 + length]), b""
    for number in range(256):
        context[4] = (2 * number + 1) % 256
        contexts += context
    lengths = (0xFFFFFFFF, 0x80000000, 131073, 0, 3)
    kinds = (2, 3, 4, 5, 6, 7, 8, 0xFF)
    return {
        "HTTP": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        "SSH": b"SSH-2.0-OpenSSH_9.2\r\n",
        "TLS": bytes.fromhex("1603010200010001fc0303") + bytes(500),
        "zeros": b"\x00" * 100,
        "ones": b"\xff" * 100,
        **{f"{length} bytes": struct.pack(">BBL", 1, 0, length) + b"x" * 64 for length in lengths},
        **{f"PDU {kind}": pdu(kind, pdv(1, 3, c_echo_rq()) if kind == 4 else b"\0\0\0\0") for kind in kinds},
        "twice the allowed contexts": pdu(1, bytes(body[:at]) + contexts + bytes(body[at:])),
        "two user informations, one with an identity of 64 KB": pdu(
            1, bytes(body) + struct.pack(">BBH", 0x50, 0, 65535) + identity[:65535]
        ),
        "an item that overruns": pdu(1, bytes(overrun)),
        "no items": pdu(1, bytes(no_items)),
        "ten thousand empty items": pdu(1, endless),
        "random items": pdu(1, bytes(body[:68]) + bytes(range(256)) * 8),
    }


@pytest.mark.slow
def test_what_is_no_right_request_is_rejected_aborted_or_hung_up_on(guarded: Running) -> None:
    for name, request in no_requests().items():
        with Raw(guarded) as peer:
            peer.send(request)
            answer = peer.receive()
            assert answer is None or answer[0] in (3, 7), name
            assert peer.closed(), name


@pytest.mark.slow
def test_items_that_nobody_knows_are_ignored(guarded: Running) -> None:
    # PS3.8 9.3.1: an item of unknown type is not an error.
    with Raw(guarded) as peer:
        peer.send(pdu(1, associate_rq()[6:] + struct.pack(">BBH", 0x58, 0, 65535) + bytes(65535)))
        assert peer.receive()[0] == 2


# PDUs and PDVs of an open association


@pytest.mark.slow
def test_an_unexpected_pdu_aborts_and_says_so(guarded: Running) -> None:
    for kind in (1, 2, 3, 6, 8, 0x47):
        for within in (b"", store_head() + p_data(pdv(1, 0, bytes(1000)))):  # an instance
            with Raw(guarded).associate() as peer:
                peer.send(within)
                peer.send(associate_rq() if kind == 1 else pdu(kind, b"\0\0\0\0"))
                assert peer.aborted() == (2, 2 if kind < 8 else 1), kind
                assert peer.closed(), kind
    assert guarded.rows() == []


@pytest.mark.slow
def test_whatever_comes_after_the_end_is_not_listened_to(guarded: Running) -> None:
    for end, kind in ((5, 1), (5, 4), (5, 5), (5, 7), (5, 8), (7, 1), (7, 4), (7, 7)):
        with Raw(guarded).associate() as peer, contextlib.suppress(ConnectionError):
            peer.send(pdu(end, b"\0\0\0\0"))
            peer.send(associate_rq() if kind == 1 else store_head() if kind == 4 else pdu(kind, b"\0\0\0\0"))
            assert peer.closed(), (end, kind)
    assert guarded.rows() == []


MALFORMED_PDVS = {
    "length 0": struct.pack(">LBB", 0, 1, 3) + b"xx",
    "length 1": struct.pack(">LBB", 1, 1, 3) + b"xx",
    "an overrun": struct.pack(">LBB", 9, 1, 3) + b"xx",
    "4 GB": struct.pack(">LBB", 0xFFFFFFFF, 1, 3) + b"xx",
    "a rest": pdv(1, 3, c_echo_rq()) + b"\0\0\0",
    "a context not proposed": pdv(99, 3, c_echo_rq()),
    "an even context": pdv(2, 3, c_echo_rq()),
    "no command set": pdv(1, 0, b"data set first"),
    "two command sets": pdv(1, 3, c_store_rq("1.2.3")) + pdv(1, 1, b"a command set again"),
    "contexts mixed": pdv(1, 3, c_store_rq("1.2.3")) + pdv(3, 0, b"another context"),
    "a command set on two contexts": pdv(1, 1, c_store_rq("1.2.3")[:20]) + pdv(3, 3, c_store_rq("1.2.3")[20:]),
    "interleaved": pdv(1, 1, c_store_rq("1.2.3")[:20]) + pdv(1, 0, b"data"),
    "endless empty fragments": pdv(1, 1, b"") * 100,
}


@pytest.mark.slow
def test_a_command_set_without_end_aborts(guarded: Running) -> None:
    with Raw(guarded).associate() as peer, contextlib.suppress(ConnectionError):
        for _ in range(3):
            peer.send(p_data(pdv(1, 1, bytes(60000))))
        assert peer.aborted() == (2, 6)


GARBAGE_COMMANDS = {
    "no command field": command({0x0002: b"1.2 ", 0x0800: b"\x01\x01"}),
    "an unknown command field": command({0x0100: b"\x77\x77", 0x0800: b"\x01\x01"}),
    "a command field of four bytes": command({0x0100: b"\x01\x00\x00\x00", 0x0800: b"\x01\x01"}),
    "no data set type": command({0x0100: b"\x30\x00"}),
    "an element that overruns": struct.pack("<HHL", 0, 0x0100, 0xFFFFFFF0) + b"\x30\x00",
    "another group": struct.pack("<HHL", 8, 0x0100, 2) + b"\x30\x00",
    "a sequence": command({0x0100: b"\x30\x00", 0x0800: b"\x01\x01"}) + struct.pack("<HHL", 0, 0x2000, 0xFFFFFFFF),
    "half an element": b"\0\0\0\0",
    "noise": bytes(range(256)),
    "nothing": b"",
}


def test_a_broken_pdu_aborts_and_leaves_nothing(guarded: Running) -> None:
    broken = {name: (pdu(4, body), (2, 6)) for name, body in MALFORMED_PDVS.items()}
    for length in (0xFFFFFFFF, 131072 + 7, 0, 5):
        broken[f"{length} bytes"] = struct.pack(">BBL", 4, 0, length) + b"x" * 64, (2, 6)
    for name, garbage in GARBAGE_COMMANDS.items():
        broken[name] = p_data(pdv(1, 3, garbage)), None
    for name, (data, abort) in broken.items():
        with Raw(guarded).associate() as peer:
            peer.send(data)
            reported = peer.aborted()
            assert reported is not None, name
            assert reported == (abort or reported), name
            assert peer.closed(), name


# Stalls and deaths


STALLS = {
    "within a PDU": store_head() + p_data(pdv(1, 0, bytes(100)))[:60],
    "within a data set": store_head() + p_data(pdv(1, 0, bytes(1000))),
    "after the association": b"",
}


@pytest.mark.slow
def test_a_peer_that_stalls_is_aborted_and_its_part_file_removed(hurried: Running) -> None:
    with contextlib.ExitStack() as opened:
        peers = {where: opened.enter_context(Raw(hurried).associate()) for where in STALLS}
        for where, peer in peers.items():
            peer.send(STALLS[where])
        assert echo_seconds(hurried) < 2
        for where, peer in peers.items():
            assert peer.aborted() is not None, where
            assert peer.closed(), where
    until(lambda: hurried.part_files() == [])
    assert hurried.settled()
    assert hurried.count("associations_total{outcome=violated}") == 1
    assert hurried.count("associations_total{outcome=idle}") == 2


@pytest.mark.slow
@pytest.mark.parametrize("way", ["close", "reset", "abort", "release"])
def test_a_peer_that_leaves_within_an_instance_leaves_no_file(guarded: Running, way: str) -> None:
    peer = Raw(guarded).associate()
    peer.send(store_head() + p_data(*[pdv(1, 0, bytes(100000))]) * (LARGE_BYTES // 100000 + 1))
    until(lambda: len(guarded.part_files()) == 1)
    if way == "reset":
        peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    elif way == "abort":
        peer.send(pdu(7, b"\0\0\0\0"))
    elif way == "release":
        peer.send(pdu(5, b"\0\0\0\0"))
        assert peer.receive() == (6, b"\0\0\0\0")
    peer.socket.close()
    until(lambda: guarded.part_files() == [])
    assert guarded.settled()
    assert guarded.rows() == []


@pytest.mark.slow
def test_a_peer_that_never_reads_its_answers_is_let_go(hurried: Running) -> None:
    peer = Raw(hurried)
    peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    peer.associate()
    peer.socket.settimeout(5)
    request = b"".join(p_data(pdv(1, 3, c_store_rq("x" * 70))) + p_data(pdv(1, 2, b"ab")) for _ in range(1000))
    with contextlib.suppress(OSError):
        for _ in range(200):
            peer.send(request)
    assert hurried.settled()
    peer.socket.close()


@pytest.mark.slow
def test_a_peer_that_was_stopped_is_let_go(hurried: Running) -> None:
    # Its kernel goes on to acknowledge what we send.
    talk = (associate_rq() + store_head() + p_data(pdv(1, 0, bytes(1000)))).hex()
    program = (
        "import socket, sys, time\n"
        "peer = socket.create_connection((sys.argv[1], int(sys.argv[2])))\n"
        "peer.sendall(bytes.fromhex(sys.stdin.readline()))\n"
        "print(peer.recv(1), flush=True); time.sleep(60)\n"
    )
    command_line = [sys.executable, "-c", program, hurried.host, str(hurried.port)]
    with subprocess.Popen(command_line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as peer:
        try:
            peer.stdin.write(f"{talk}\n")
            peer.stdin.flush()
            assert "x02" in peer.stdout.readline()
            peer.send_signal(signal.SIGSTOP)
            until(lambda: hurried.count("associations_total{outcome=idle}") == 1)
            until(lambda: hurried.part_files() == [])
            assert hurried.settled()
        finally:
            peer.kill()


@pytest.mark.slow
def test_requests_without_waiting_for_answers_take_no_memory(guarded: Running) -> None:
    ds = instance()
    ds.add_new(0x7FE00010, "OW", bytes(50_000))
    data = data_set_bytes(ds)
    with Raw(guarded).associate() as peer:
        peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        before = resident_bytes()
        for number in range(1000):
            peer.send(p_data(pdv(1, 3, c_store_rq(f"1.2.{number + 1}", message_id=number))) + p_data(pdv(1, 2, data)))
        assert resident_bytes() - before < 10e6  # of 50 MB sent
        answers = [status_of(peer.receive()) for _ in range(1000)]
    assert answers == [0xA900] * 1000  # the data set names another instance


@pytest.mark.slow
@pytest.mark.parametrize("count", [300])
def test_event_reports_that_nobody_asked_for_start_no_threads(hurried: Running, count: int) -> None:
    # pynetdicom serves each of them on a thread of its own.
    report = command(
        {
            0x0002: padded(VERIFICATION),
            0x0100: b"\x00\x01",
            0x0110: b"\x01\x00",
            0x0800: b"\x01\x01",
            0x1000: padded("1.2.3"),
            0x1002: b"\x01\x00",
        }
    )
    before = thread_count()
    with Raw(hurried).associate() as peer, contextlib.suppress(ConnectionError):
        for _ in range(count):
            peer.send(p_data(pdv(3, 3, report)))
            assert thread_count() - before < 10
        assert peer.aborted() is not None


# C-STORE requests that must not succeed


@pytest.mark.slow
def test_a_peers_uid_is_never_a_path(guarded: Running) -> None:
    hostile = ("", "../../x", "/etc/x", "1" * 65, "1.2\0.3", ";rm -rf /", "1.2\\1.3", "\xff\xfe", "x" * 1000)
    for uid in ("1" * 64, *hostile):
        with Raw(guarded).associate() as peer:
            peer.send(store_head(uid))
            peer.send(p_data(pdv(1, 2, data_set_bytes(instance()))))
            answer = peer.receive()
            assert status_of(answer) in (0xA900, 0xC000), uid
            comment = decoded(answer[1])[0x0902]
            assert 0 < len(comment) <= 64, uid
            assert comment.isascii(), uid
    assert guarded.rows() == []


@pytest.mark.slow
def test_a_store_that_cannot_be_meant_is_refused(guarded: Running) -> None:
    mr = "1.2.840.10008.5.1.4.1.1.4"
    ds, other = instance(), instance(sop_class_uid=mr)
    cases = {
        "no data set": (1, c_store_rq("1.2.3.4", e0800=b"\x01\x01"), None, 0xC000),
        "the class of the request": (1, c_store_rq(ds.SOPInstanceUID, mr), data_set_bytes(ds), 0xA900),
        "the class of the data set": (1, c_store_rq(other.SOPInstanceUID), data_set_bytes(other), 0xA900),
        "the instance": (1, c_store_rq("1.2.3.4.5"), data_set_bytes(ds), 0xA900),
        "another service": (3, c_store_rq("1.2.3", VERIFICATION), b"ab", 0x0122),
    }
    for data in (b"", b"\0", b"garbage that is no data set", bytes(5000), b"\xff" * 999):
        cases[f"{len(data)} bytes that are none"] = (1, c_store_rq("1.2.3.4"), data, 0xC000)
    with Raw(guarded).associate() as peer:
        for name, (context, request, sent, status) in cases.items():
            peer.send(p_data(pdv(context, 3, request)) + (b"" if sent is None else p_data(pdv(context, 2, sent))))
            assert status_of(peer.receive()) == status, name
        assert peer.verify() == 0x0000
    assert guarded.rows() == []


# Trouble on our side


class Faulty:
    """An ingest in which something goes wrong."""

    def __init__(self, real: Any, where: str, error: BaseException) -> None:
        self._real, self._where, self._error = real, where, error
        self.receptions: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def begin(self, announced: Any, origin: Any) -> Any:
        if self._where == "begin":
            raise self._error
        incoming = self._real.begin(announced, origin)
        self.receptions.append(incoming)
        if self._where == "take_fragment":
            incoming.take_fragment = self._raise
        else:
            incoming.finish = self._raise
        return incoming

    def _raise(self, *_: Any) -> None:
        raise self._error


@pytest.mark.diagonal
@pytest.mark.parametrize("where", ["begin", "take_fragment", "finish"])
@pytest.mark.parametrize("error", [RuntimeError("patient's name"), MemoryError(), OSError(5, "Input/output error")])
def test_an_unexpected_error_is_our_failure_and_the_association_goes_on(
    start_node: StartNode, where: str, error: Exception
) -> None:
    node = start_node(ingest=lambda real: Faulty(real, where, error))
    assoc = associate(node)
    response = assoc.send_c_store(ct_series(1)[0])
    assert response.Status == 0xA700
    assert "patient" not in response.ErrorComment
    assert assoc.send_c_echo().Status == 0
    assoc.release()
    assert node.part_files() == []


def test_a_full_disk_is_reported_and_recovers_by_itself(start_node: StartNode) -> None:
    node = start_node()
    ds = ct_series(1)[0]
    intake = node.ingest.archive.intake
    assoc = associate(node)
    intake._reserve_bytes = intake._low_bytes = 1 << 60
    response = assoc.send_c_store(ds)
    assert response.Status == 0xA700
    assert "reserve" in response.ErrorComment
    with Raw(node) as other:
        other.send(associate_rq())
        assert (other.receive() or (0,))[0] == 3  # A-ASSOCIATE-RJ
    intake._reserve_bytes = intake._low_bytes = 0
    assert assoc.send_c_store(ds).Status == 0x0000
    assert echo_seconds(node) < 2
    assoc.release()


def test_too_large_an_instance_is_read_to_its_end_not_held_and_refused(start_node: StartNode) -> None:
    node = start_node(maximum_instance_bytes=20_000_000)
    ds = instance()
    fragment = p_data(pdv(1, 0, bytes(60_000)))
    with Raw(node).associate() as peer:
        peer.send(store_head())
        before = resident_bytes()
        for _ in range(39_000_000 // 60_000):
            peer.send(fragment)
        assert resident_bytes() - before < 28e6
        peer.send(p_data(pdv(1, 2, b"")))
        assert status_of(peer.receive()) == 0xA700
        assert peer.store(ds.SOPInstanceUID, data_set_bytes(ds)) == 0x0000
    assert node.part_files() == []


def test_a_data_set_without_end_is_cut_off(start_node: StartNode) -> None:
    node = start_node(maximum_instance_bytes=100_000)
    with Raw(node).associate() as peer, contextlib.suppress(ConnectionError):
        peer.send(store_head())
        for _ in range(100):
            peer.send(p_data(pdv(1, 0, bytes(10_000))))
        assert peer.aborted() == (2, 6)
    assert node.settled()
    assert node.part_files() == []


@pytest.mark.parametrize(
    ("name", "source"),
    [("listener.negotiated", 2), ("listener.serve_c_echo", 0)],  # the provider; the user of the service
)
def test_an_error_of_ours_aborts_its_association_and_no_other(
    start_node: StartNode, monkeypatch: pytest.MonkeyPatch, name: str, source: int
) -> None:
    node = start_node()
    with monkeypatch.context() as patch:
        patch.setattr(f"node.association.{name}", Mock(side_effect=RuntimeError("a fault of ours, or of pynetdicom")))
        with Raw(node) as peer:
            peer.send(associate_rq() + p_data(pdv(3, 3, c_echo_rq())))
            assert peer.aborted() == (source, 0)
    assert node.settled()
    assert echo_seconds(node) < 2
