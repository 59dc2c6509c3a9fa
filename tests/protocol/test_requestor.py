"""Our side as a requestor, against peers that do not behave."""

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import evt

from node.api import Address
from node.association.client.association import EchoFailed, NoAssociation, association, contexts_of, verify
from node.association.client.send import Outgoing, SendOutcome, batches, never_transcode, proposals, read_outgoing, send
from node.association.framing import InstanceBytes, SourceLost, fragment_pdus
from node.dicom.uids import VERIFICATION
from tests.make import ct_series, saved
from tests.peers import listening
from tests.protocol.conftest import CT_IMAGE_STORAGE, pdu, pdv

Script = Callable[[socket.socket], None]


@pytest.fixture
def peer() -> Iterator[Callable[..., int]]:
    """Start a peer that takes one connection, reads a PDU before each step, and does it; returns its port."""
    listening: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def start(*steps: Script) -> int:
        server = socket.create_server(("127.0.0.1", 0))
        listening.append(server)

        def serve() -> None:
            connected, _ = server.accept()
            with connected:
                connected.settimeout(10)
                for step in steps:
                    read_pdu(connected)
                    step(connected)

        threads.append(threading.Thread(target=serve, daemon=True))
        threads[-1].start()
        return int(server.getsockname()[1])

    yield start
    for thread in threads:
        thread.join(10)
    for server in listening:
        server.close()


def read_pdu(connected: socket.socket) -> bytes:
    header = connected.recv(6, socket.MSG_WAITALL)
    return header + connected.recv(struct.unpack(">L", header[2:])[0], socket.MSG_WAITALL)


def accepting(connected: socket.socket) -> None:
    """Accept Verification in context 1."""
    item = struct.pack(">BBHBBBB", 0x21, 0, 4 + 4 + len(ImplicitVRLittleEndian), 1, 0, 0, 0)
    item += struct.pack(">BBH", 0x40, 0, len(ImplicitVRLittleEndian)) + ImplicitVRLittleEndian.encode()
    name = b"1.2.840.10008.3.1.1.1"
    application = struct.pack(">BBH", 0x10, 0, len(name)) + name
    length = struct.pack(">BBHL", 0x51, 0, 4, 16384)
    user = struct.pack(">BBH", 0x50, 0, len(length)) + length
    body = struct.pack(">HH16s16s32x", 1, 0, b"PEER".ljust(16), b"US".ljust(16)) + application + item + user
    connected.sendall(pdu(0x02, body))


def sending(data: bytes) -> Script:
    return lambda connected: connected.sendall(data)


ABORT = pdu(0x07, b"\0\0\2\0")
RELEASE = pdu(0x05, b"\0\0\0\0")


@pytest.mark.parametrize(
    ("steps", "error", "words"),
    [
        ([lambda connected: None], NoAssociation, "closed the connection"),
        ([sending(pdu(0x03, b"\0\1\1\3"))], NoAssociation, "calling ae title not recognised"),
        ([sending(ABORT)], NoAssociation, "aborted"),
        ([sending(b"HTTP/1.1 400 Bad Request\r\n\r\n")], NoAssociation, "violates the protocol"),
        ([sending(pdu(0x02, b"\0" * 20))], NoAssociation, "no presentation context was accepted"),
        ([sending(pdu(0x02, b"\0" * 68 + b"\x21\0\0\x20\1"))], NoAssociation, "cannot be decoded"),
        ([sending(pdu(0x04, pdv(1, 3, b"\0" * 12)))], NoAssociation, "violates the protocol"),
        ([accepting, lambda connected: None], EchoFailed, "closed the connection"),
        ([accepting, sending(ABORT)], EchoFailed, "aborted"),
        ([accepting, sending(RELEASE)], EchoFailed, "released the association"),
        ([accepting, sending(pdu(0x04, pdv(1, 3, b"garbage!")))], EchoFailed, "violates the protocol"),
        ([accepting, sending(pdu(0x04, b"\xff" * 40))], EchoFailed, "violates the protocol"),
    ],
)
def test_a_peer_that_does_not_behave_is_reported_in_words(
    peer: Callable[..., int], steps: list[Script], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        verify(Address("PEER", "127.0.0.1", peer(*steps)), "US", 5)


@pytest.mark.parametrize(("steps", "error"), [([], NoAssociation), ([accepting], EchoFailed)])
def test_a_silent_peer_is_left_in_time(peer: Callable[..., int], steps: list[Script], error: type[Exception]) -> None:
    over = threading.Event()
    port = peer(*steps, lambda connected: over.wait(10) and None)
    with pytest.raises(error, match=r"did not answer within 0\.3 s"):
        verify(Address("PEER", "127.0.0.1", port), "US", 0.3)
    over.set()


def test_an_error_within_an_association_aborts_it() -> None:
    aborted = threading.Event()
    with listening("PEER", [(evt.EVT_ABORTED, lambda event: aborted.set())], VERIFICATION) as port:
        address = Address("PEER", "127.0.0.1", port)
        contexts = contexts_of([(VERIFICATION, [ImplicitVRLittleEndian])])
        with pytest.raises(ZeroDivisionError), association(address, "US", contexts, 5):
            raise ZeroDivisionError
        assert aborted.wait(10)


def test_a_peer_that_goes_away_fails_what_is_left_and_is_not_asked_again(tmp_path: Path) -> None:
    instances = [read_outgoing(path) for path in saved(ct_series(3), tmp_path)]

    def leave(event: Any) -> int:
        event.assoc.abort()
        return 0x0000

    handlers = [(evt.EVT_C_STORE, leave)]
    with listening("PEER", handlers, CT_IMAGE_STORAGE, transfer_syntax=ExplicitVRLittleEndian) as port:
        results = list(send(instances, Address("PEER", "127.0.0.1", port), "US", never_transcode, 5))
    assert [sent.fate for sent in results] == [SendOutcome.FAILED] * 3
    assert all("aborted" in sent.reason or "closed" in sent.reason or "broke" in sent.reason for sent in results)


def test_messages_are_cut_to_what_the_peer_takes() -> None:
    data = bytes(range(250)) * 4
    parts = list(fragment_pdus(1, False, [data[:300], data[300:]], 100))
    assert [len(one) for one in parts] == [12, 100] * 10
    assert b"".join(parts[1::2]) == data
    assert [one[11] for one in parts[::2]] == [0] * 9 + [2]
    assert list(fragment_pdus(1, False, [b""], 100)) == list(fragment_pdus(1, False, [], 100)) != []


def test_a_file_that_has_become_shorter_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "short"
    path.write_bytes(b"0123456789")
    with pytest.raises(SourceLost, match="shorter"), InstanceBytes(path, 4, 10).fragments(4) as fragments:
        list(fragments)
    with InstanceBytes(path, 4, 6).fragments(4) as fragments:
        assert list(fragments) == [b"4567", b"89"]
    with pytest.raises(SourceLost, match="cannot be read"), InstanceBytes(tmp_path / "none", 0, 1).fragments(4):
        pass


def outgoing(sop_class_uid: str, transfer_syntax_uid: str) -> Outgoing:
    return Outgoing(Path("none"), sop_class_uid, "1.2.3", transfer_syntax_uid, 0, 0)


def test_each_stored_syntax_is_proposed_by_itself_and_the_uncompressed_ones_together() -> None:
    explicit, implicit, compressed = str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian), "1.2.840.10008.1.2.4.90"
    assert proposals([outgoing("1.1", compressed), outgoing("1.1", compressed)]) == [
        ("1.1", [compressed]),
        ("1.1", [explicit, implicit]),
    ]
    assert proposals([outgoing("1.1", implicit), outgoing("1.2", explicit)]) == [
        ("1.1", [implicit]),
        ("1.1", [explicit]),
        ("1.2", [explicit]),
        ("1.2", [implicit]),
    ]


def test_batches_keep_the_order_and_fit_one_association() -> None:
    instances = [outgoing(f"1.{number % 100}", "1.2.840.10008.1.2.4.90") for number in range(300)]
    cut = list(batches(instances))
    assert [one for batch in cut for one in batch] == instances
    assert all(len(proposals(batch)) <= 128 for batch in cut)
    assert len(cut) == 5
