"""A-ASSOCIATE-RQ as real devices send it: what DCMTK and Orthanc accept is accepted, and what is refused has a name."""

import random
import struct
from typing import Any

import pytest

from node.settings.peers import Peer
from tests.protocol.conftest import (
    CT_IMAGE_STORAGE,
    VERIFICATION,
    Raw,
    Running,
    StartNode,
    c_echo_rq,
    c_store_rq,
    echo_seconds,
    open_files,
    p_data,
    pdu,
    pdv,
    thread_count,
)
from tests.waiting import until

pytestmark = pytest.mark.own_acceptor


EXPLICIT = b"1.2.840.10008.1.2.1"
APPLICATION = b"1.2.840.10008.3.1.1.1"
REJECTED_SYNTAX, REJECTED_TRANSFER_SYNTAXES = 3, 4


def item(kind: int, data: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(data)) + data


def context(number: int, abstract: bytes, *transfer: bytes) -> bytes:
    names = item(0x30, abstract) + b"".join(item(0x40, one) for one in transfer)
    return item(0x20, bytes((number, 0, 0, 0)) + names)


CT = context(1, CT_IMAGE_STORAGE.encode(), EXPLICIT)
ECHO = context(3, VERIFICATION.encode(), EXPLICIT)
USER = item(0x51, struct.pack(">L", 16384)) + item(0x52, b"1.2.3")


def request(
    calling: bytes = b"RAW",
    called: bytes = b"VOXELNODE",
    *,
    version: int = 1,
    contexts: bytes = CT + ECHO,
    application: bytes = APPLICATION,
    user: bytes = USER,
    reserved: bytes = bytes(32),
    rest: bytes = b"",
) -> bytes:
    """An A-ASSOCIATE-RQ from its bytes; titles are padded by spaces."""
    fixed = struct.pack(">HH", version, 0) + called.ljust(16) + calling.ljust(16) + reserved
    return pdu(1, fixed + item(0x10, application) + contexts + item(0x50, user) + rest)


def role(name: str, scu: int, scp: int) -> bytes:
    return item(0x54, struct.pack(">H", len(name)) + name.encode() + bytes((scu, scp)))


def results(body: bytes) -> dict[int, int]:
    """The result of each presentation context of an A-ASSOCIATE-AC, by its ID."""
    found, at = {}, 68
    while at < len(body):
        kind, length = struct.unpack_from(">BxH", body, at)
        if kind == 0x21:
            found[body[at + 4]] = body[at + 6]
        at += 4 + length
    return found


def reported(node: Running) -> list[dict[str, Any]]:
    query = "SELECT * FROM v_rejections"
    until(lambda: bool(node.rows(query)))
    return node.rows(query)


def answered(node: Running, sent: bytes) -> tuple[int, bytes]:
    with Raw(node) as peer:
        peer.send(sent)
        answer = peer.receive()
        assert answer is not None
        return answer


ACCEPTED = {
    "titles padded with NUL": request(b"EFILM".ljust(16, b"\0"), b"NODE".ljust(16, b"\0")),
    "what follows a NUL": request(b"EFILM\0\xff\x01x"),
    "Latin-1": request(b"R\xd6NTGEN1"),
    "backslash": request(b"DOM\\CT1"),
    "control characters": request(b"A\x1b[2JB"),
    "leading spaces": request(b"   CT1", b"  NODE"),
    "version name padded": request(user=USER + item(0x55, b"SIEMENS\0")),
    "version name of 20 characters": request(user=USER + item(0x55, b"VENDOR_STATION_12.05")),
    "version name in Latin-1": request(user=USER + item(0x55, b"V\xd6")),
    "empty version name": request(user=USER + item(0x55, b"")),
    "implementation that is no UID": request(user=item(0x52, b"MERGE")),
    "no user information": request(user=b""),
    "unknown sub-item": request(user=USER + item(0x5A, b"xx")),
    "unknown sub-item of another kind": request(user=USER + item(0x60, b"")),
    "unknown item": request(rest=item(0x70, b"xx")),
    "short operations window": request(user=USER + item(0x53, b"\0\1")),
    "identity of an unknown type": request(user=USER + item(0x58, b"\x09\0\0\4user\0\0")),
    "protocol version 3": request(version=3),
    "protocol version 0xffff": request(version=0xFFFF),
    "reserved bytes": request(reserved=b"\xff" * 32),
    "no role": request(user=USER + role(CT_IMAGE_STORAGE, 0, 0)),
    "role SCP alone": request(user=USER + role(CT_IMAGE_STORAGE, 0, 1)),
    "role of 2": request(user=USER + role(CT_IMAGE_STORAGE, 2, 1)),
    "role for a class that has none": request(user=USER + role(VERIFICATION, 0, 1)),
    "role twice": request(user=USER + role(CT_IMAGE_STORAGE, 1, 1) + role(CT_IMAGE_STORAGE, 1, 0)),
    "names padded": request(
        application=APPLICATION + b"\0", contexts=context(1, CT_IMAGE_STORAGE.encode() + b"\0", EXPLICIT + b"\0") + ECHO
    ),
}


@pytest.mark.sample(8)
@pytest.mark.parametrize("sent", ACCEPTED.values(), ids=ACCEPTED)
def test_what_dcmtk_and_orthanc_accept_is_accepted(node: Running, sent: bytes) -> None:
    with Raw(node) as peer:
        peer.send(sent)
        answer = peer.receive()
        assert (answer[0], results(answer[1])) == (2, {1: 0, 3: 0})
        assert answer[1][4:68] == sent[10:74]  # PS3.8 table 9-17: identical to what was received
        assert peer.verify() == 0


@pytest.mark.parametrize("sent", [request(b"", b""), request(user=item(0x52, b"1.2" + b".3" * 50))])
def test_missing_titles_and_a_long_implementation_are_accepted_too(node: Running, sent: bytes) -> None:
    assert answered(node, sent)[0] == 2


@pytest.mark.parametrize(
    ("first", "result"),
    [
        (context(1, CT_IMAGE_STORAGE.encode()), REJECTED_TRANSFER_SYNTAXES),
        (context(1, CT_IMAGE_STORAGE.encode(), b""), REJECTED_TRANSFER_SYNTAXES),
        (context(1, CT_IMAGE_STORAGE.encode(), b"abc"), REJECTED_TRANSFER_SYNTAXES),
        (item(0x20, bytes((1, 0, 0, 0)) + item(0x40, EXPLICIT)), REJECTED_SYNTAX),
        (context(1, b"1.2" + b".3" * 60, EXPLICIT), REJECTED_SYNTAX),
        (context(1, b"Doe^John", EXPLICIT), REJECTED_SYNTAX),
        (item(0x20, bytes((1, 0, 0, 0))), REJECTED_SYNTAX),
    ],
)
def test_a_context_that_lacks_something_is_rejected_alone(node: Running, first: bytes, result: int) -> None:
    kind, body = answered(node, request(contexts=first + ECHO))
    assert (kind, results(body)) == (2, {1: result, 3: 0})
    [row] = reported(node)
    assert (row["what"], row["calling_ae_title"]) == ("context", "RAW")
    assert "Doe" not in str(row)


def test_a_context_with_an_even_id_is_answered_by_its_id(node: Running) -> None:
    kind, body = answered(node, request(contexts=context(2, CT_IMAGE_STORAGE.encode(), EXPLICIT) + ECHO))
    assert (kind, results(body)) == (2, {2: 0, 3: 0})


REFUSED = {
    "an item that overruns": (request(rest=b"\x20\0\0\x09"), "item type 0x20 of 9 bytes overruns the A-ASSOCIATE-RQ"),
    "the head of an item": (request(rest=b"\x20\0"), "ends within the head of an item"),
    "a sub-item that overruns": (request(user=USER + b"\x55\0\0\x09ab"), "overruns the user information"),
    "a role that is cut": (request(user=USER + item(0x54, b"\0\x05ab")), "a role selection item"),
    "a maximum length of two bytes": (request(user=item(0x51, b"\0\1")), "a maximum length item of 2 bytes"),
    "a context of three bytes": (request(contexts=item(0x20, bytes(3))), "a presentation context item of 3 bytes"),
}


@pytest.mark.parametrize(("sent", "rule"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_decoded_is_refused_by_names_of_sender_and_rule(node: Running, sent: bytes, rule: str) -> None:
    assert answered(node, sent)[0] == 7
    [row] = reported(node)
    assert (row["rule"], row["calling_ae_title"], row["called_ae_title"]) == ("request", "RAW", "VOXELNODE")
    assert rule in row["reason"]
    assert "PS3." in row["reason"]


def test_another_protocol_version_is_refused_by_the_name_of_its_sender(node: Running) -> None:
    kind, body = answered(node, request(version=2))
    assert (kind, tuple(body[1:4])) == (3, (1, 2, 2))
    [row] = reported(node)
    assert (row["rule"], row["calling_ae_title"]) == ("protocol version", "RAW")


def test_a_peer_with_a_title_beyond_ascii_can_be_listed(start_node: StartNode) -> None:
    node = start_node(peers={"xray": Peer(ae_title="RÖNTGEN1"), "other": Peer(ae_title="DOM\\CT1")})
    assert answered(node, request(b"R\xd6NTGEN1"))[0] == 2
    assert answered(node, request(b"DOM\\CT1\0\0"))[0] == 2
    assert answered(node, request(b"R\xd6NTGEN2"))[0] == 3


def mutated(whole: bytes, draw: random.Random) -> bytes:
    """Some bytes of a PDU changed, removed, repeated or added; its length is right again, mostly."""
    body = bytearray(whole[6:])
    for _ in range(draw.randint(1, 6)):
        at = draw.randrange(len(body) + 1)
        piece = draw.choice((b"", draw.randbytes(draw.randint(1, 8)), bytes(body[at : at + draw.randint(1, 60)])))
        body[at : at + draw.choice((0, 0, 1, 2, len(piece)))] = piece
        if body and draw.random() < 0.5:
            body[draw.randrange(len(body))] = draw.choice((0, 1, 0xFF, draw.randrange(256)))
    length = len(body) if draw.random() < 0.9 else draw.choice((0, len(body) + 1, max(len(body) - 1, 0), 2**31))
    return struct.pack(">BBL", whole[0], 0, length) + bytes(body)


def of_mutated(node: Running, seed: int) -> None:
    """Send a mutated request, or mutated data on an association; the answer does not matter, but the end does."""
    draw = random.Random(seed)
    with Raw(node) as peer:
        if seed % 2:
            peer.send(mutated(request(user=USER + role(CT_IMAGE_STORAGE, 1, 1), contexts=CT + ECHO), draw))
        else:
            peer.associate(request())
            head = p_data(pdv(1, 3, c_store_rq("1.2.3")))
            data = p_data(pdv(1, 0, SECRET * 20), pdv(1, 2, SECRET * 5))
            for whole in draw.choice(([p_data(pdv(3, 3, c_echo_rq()))], [head, data])):
                peer.send(mutated(whole, draw) if draw.random() < 0.8 else whole)


SECRET = b"Doe^Jane^1970"
"""In data sets alone."""


@pytest.mark.slow
@pytest.mark.parametrize("count", [400, pytest.param(4000, marks=pytest.mark.long)])
def test_mutations_leave_nothing(start_node: StartNode, capfd: pytest.CaptureFixture[str], count: int) -> None:
    node = start_node()
    assert echo_seconds(node) < 5
    assert node.settled()
    threads, files = thread_count(), len(open_files())
    for seed in range(count):
        try:
            of_mutated(node, seed)
        except (BrokenPipeError, ConnectionResetError):
            continue  # the node was faster
    assert node.settled()
    assert echo_seconds(node) < 5
    assert node.settled()
    said = "".join(capfd.readouterr()) + str(node.rows("SELECT * FROM v_rejections"))
    assert "Doe" not in said
    assert "Jane" not in said
    assert "operation_failed" not in said
    assert "association_failed" not in said
    until(lambda: thread_count() <= threads and len(open_files()) <= files)
