"""A service user: what a sender tells of its series, what is asked for and stored, and peers that misbehave."""

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, evt

from node.api import Address
from node.association.client.association import EchoFailed, NoAssociation, association, contexts_of, verify
from node.association.client.send import Outgoing, SendOutcome, batches, never_transcode, proposals, read_outgoing, send
from node.association.framing import InstanceBytes, SourceLost, fragment_pdus
from node.dicom.uids import STUDY_ROOT_FIND, STUDY_ROOT_GET, VERIFICATION
from node.extensions.peers.find import FindFailed, GetFailed, RetrieveTarget, find_instance_count, get
from node.settings.peers import Dicom
from tests.make import ct_series, saved
from tests.peers import listening
from tests.protocol.conftest import CT_IMAGE_STORAGE, StartNode, pdu, pdv


@pytest.fixture
def answering() -> Iterator[Callable[..., int]]:
    """Start a peer that gives these answers, each (status, identifier or None), to every query; returns its port."""
    servers: list[Any] = []

    def start(*answers: tuple[int, dict[str, Any] | None], asked: list[Dataset] | None = None) -> int:
        def handle(event: Any) -> Iterator[tuple[int, Dataset | None]]:
            if asked is not None:
                asked.append(event.identifier)
            for status, values in answers:
                identifier = None
                if values is not None:
                    identifier = Dataset()
                    identifier.QueryRetrieveLevel = "SERIES"
                    for keyword, value in values.items():
                        setattr(identifier, keyword, value)
                yield status, identifier

        ae = AE("PACS")
        ae.add_supported_context(STUDY_ROOT_FIND)
        server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_FIND, handle)])
        servers.append(server)
        return int(server.server_address[1])

    yield start
    for server in servers:
        server.shutdown()


def ask(port: int) -> int | None:
    return find_instance_count(Address("PACS", "127.0.0.1", port), "VOXELNODE", ("1.2.3", "1.2.3.4"), 5)


def test_the_count_of_the_series_is_reported_and_the_query_is_a_hierarchical_one(answering: Callable[..., int]) -> None:
    asked: list[Dataset] = []
    port = answering(
        (0xFF00, {"SeriesInstanceUID": "1.2.3.4", "NumberOfSeriesRelatedInstances": 120}), (0x0000, None), asked=asked
    )
    assert ask(port) == 120
    [query] = asked
    assert (query.QueryRetrieveLevel, query.StudyInstanceUID, query.SeriesInstanceUID) == ("SERIES", "1.2.3", "1.2.3.4")
    assert query.NumberOfSeriesRelatedInstances is None


@pytest.mark.parametrize(
    "values", [{}, *({"NumberOfSeriesRelatedInstances": count} for count in (None, 0, -3, 10**11))]
)
def test_a_peer_may_give_no_count(answering: Callable[..., int], values: dict[str, Any]) -> None:
    assert ask(answering((0xFF00, {"SeriesInstanceUID": "1.2.3.4", **values}), (0x0000, None))) is None


@pytest.mark.parametrize(
    "answers",
    [[(0x0000, None)], [(0xFF00, {"SeriesInstanceUID": "9.9", "NumberOfSeriesRelatedInstances": 1}), (0x0000, None)]],
    ids=["no series", "another series"],
)
def test_a_peer_without_the_series_has_none_of_it(answering: Callable[..., int], answers: list[Any]) -> None:
    assert ask(answering(*answers)) == 0


def test_a_failure_says_so(answering: Callable[..., int]) -> None:
    with pytest.raises(FindFailed):
        ask(answering((0xC001, None)))


def test_a_peer_that_is_not_there_is_reported_as_such(answering: Callable[..., int]) -> None:
    with pytest.raises(NoAssociation, match="does not answer"):
        ask(1)


# Our side as a requestor, against peers that do not behave.


Script = Callable[[socket.socket], None]


@pytest.fixture
def scripted() -> Iterator[Callable[..., int]]:
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
    scripted: Callable[..., int], steps: list[Script], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        verify(Address("PEER", "127.0.0.1", scripted(*steps)), "US", 5)


@pytest.mark.parametrize(("steps", "error"), [([], NoAssociation), ([accepting], EchoFailed)])
def test_a_silent_peer_is_left_in_time(
    scripted: Callable[..., int], steps: list[Script], error: type[Exception]
) -> None:
    over = threading.Event()
    port = scripted(*steps, lambda connected: over.wait(10) and None)
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


# C-GET as a service user: how many SOP classes one association can ask for.


class Peer:
    """A peer with one series of as many SOP classes as it is asked to have, which notes what is proposed to it."""

    def __init__(self) -> None:
        self.sop_class_uids: list[str] = []
        self.proposed: list[str] = []
        self.studies = [("1.2.3", "1.2.3.4")]
        ae = AE("PACS")
        ae.add_supported_context(STUDY_ROOT_FIND)
        ae.add_supported_context(STUDY_ROOT_GET)
        ae.add_supported_context(CTImageStorage, scu_role=True, scp_role=True)
        handlers: Any = [
            (evt.EVT_C_FIND, self._find), (evt.EVT_REQUESTED, self._requested), (evt.EVT_C_GET, self._get)
        ]  # fmt: skip
        self._server: Any = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        self.address = Address("PACS", "127.0.0.1", int(self._server.server_address[1]))

    def _find(self, event: Any) -> Iterator[tuple[int, Dataset]]:
        for number, sop_class_uid in enumerate(self.sop_class_uids):
            ds = Dataset()
            ds.QueryRetrieveLevel = event.identifier.QueryRetrieveLevel
            ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2.3", "1.2.3.4"
            ds.SOPInstanceUID, ds.SOPClassUID = f"1.2.3.4.{number + 1}", sop_class_uid
            yield 0xFF00, ds

    def _get(self, event: Any) -> Iterator[Any]:
        """An instance of each of `studies`, then a failure."""
        yield len(self.studies) + 1
        for study, series in self.studies:
            yield 0xFF00, ct_series(1, study_uid=study, series_uid=series)[0]
        yield 0xC001, None

    def _requested(self, event: Any) -> None:
        contexts = event.assoc.requestor.primitive.presentation_context_definition_list
        self.proposed = [str(context.abstract_syntax) for context in contexts]

    def close(self) -> None:
        self._server.shutdown()


@pytest.fixture
def peer() -> Iterator[Peer]:
    listening = Peer()
    yield listening
    listening.close()


@pytest.mark.parametrize(("classes", "is_proposed"), [(127, True), (128, False)])
def test_as_many_sop_classes_are_asked_for_as_an_association_has_contexts(
    start_node: StartNode, peer: Peer, classes: int, is_proposed: bool
) -> None:
    # PS3.8 9.3.2.2: context IDs are odd and below 256, and one of the 128 is that of the C-GET.
    peer.sop_class_uids = [f"1.2.840.10008.5.1.4.1.1.{number + 1}" for number in range(classes)]
    with pytest.raises(GetFailed) as refused:
        get(RetrieveTarget("1.2.3", "1.2.3.4"), peer.address, Dicom(ae_title="ASKER"), start_node().ingest)
    if is_proposed:
        assert peer.proposed == [STUDY_ROOT_GET, *peer.sop_class_uids]
    else:
        assert "128 SOP classes are too many for one association" in str(refused.value)
        assert peer.proposed == [STUDY_ROOT_FIND]


def test_a_failure_after_some_instances_is_a_failure(start_node: StartNode, peer: Peer) -> None:
    peer.sop_class_uids, node, statuses = [CTImageStorage], start_node(), list[int]()
    target = RetrieveTarget("1.2.3", "1.2.3.4")
    with pytest.raises(GetFailed, match="answered C-GET with 0xC001"):
        get(target, peer.address, Dicom(ae_title="ASKER"), node.ingest, on_answer=statuses.append)
    assert statuses == [0x0000]
    assert len(node.rows()) == 1


def test_what_was_not_asked_for_is_refused_and_stays_at_the_peer(start_node: StartNode, peer: Peer) -> None:
    peer.sop_class_uids, node, statuses, reasons = [CTImageStorage], start_node(), list[int](), list[str]()
    peer.studies = [("1.2.9", "1.2.3.4"), ("1.2.3", "1.2.3.9"), ("1.2.3", "1.2.3.4")]
    target = RetrieveTarget("1.2.3", "1.2.3.4")
    with pytest.raises(GetFailed):
        get(
            target,
            peer.address,
            Dicom(ae_title="ASKER"),
            node.ingest,
            on_answer=statuses.append,
            on_refusal=lambda refused: reasons.append(refused.reason),
        )
    assert statuses == [0x0124, 0x0124, 0x0000]
    assert [reason.split()[5] for reason in reasons] == ["study", "series"]
    assert [(row["study_instance_uid"], row["series_instance_uid"]) for row in node.rows()] == [("1.2.3", "1.2.3.4")]
