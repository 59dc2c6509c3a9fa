"""P-DATA taken apart."""

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.association.framing import ABORT, ASSOCIATE_RQ, RELEASE_RQ, Framing, OtherPdu, Piece, Violation, data_header


def framing(buffer_bytes: int = 4096, maximum_pdu_bytes: int = 2000, data: bool = True) -> Framing:
    made = Framing(buffer_bytes, maximum_pdu_bytes, 1024)
    if data:
        made.expect_data()
    return made


def data_pdu(context_id: int, is_command: bool, last: bool, fragment: bytes) -> bytes:
    return data_header(context_id, is_command, last, len(fragment)) + fragment


def feed(made: Framing, stream: bytes, step: int) -> list[Piece | OtherPdu]:
    """Everything that comes out of a stream read in steps; bytes of pieces are copied."""
    found: list[Piece | OtherPdu] = []
    at = 0
    while at < len(stream):
        space = made.space()
        assert len(space) > 0
        take = min(step, len(space), len(stream) - at)
        space[:take] = stream[at : at + take]
        made.filled(take)
        at += take
        while (one := made.next()) is not None:
            if isinstance(one, Piece):
                one = Piece(one.context_id, one.is_command, memoryview(bytes(one.data)), one.last)
            found.append(one)
    return found


def messages(found: list[Piece | OtherPdu]) -> list[tuple[int, bool, bytes] | bytes]:
    """Pieces joined to whole command sets and data sets."""
    whole: list[tuple[int, bool, bytes] | bytes] = []
    open_bytes = b""
    for one in found:
        if isinstance(one, OtherPdu):
            whole.append(one.encoded)
            continue
        open_bytes += bytes(one.data)
        if one.last:
            whole.append((one.context_id, one.is_command, open_bytes))
            open_bytes = b""
    return whole


part = st.tuples(st.integers(1, 255), st.booleans(), st.lists(st.binary(max_size=300), min_size=1, max_size=5))


@given(parts=st.lists(part, max_size=6), step=st.integers(1, 4096), pdvs_a_pdu=st.integers(1, 4))
def test_whatever_the_cuts_the_same_messages_come_out(
    parts: list[tuple[int, bool, list[bytes]]], step: int, pdvs_a_pdu: int
) -> None:
    pdvs = []
    for context_id, is_command, fragments in parts:
        for number, fragment in enumerate(fragments):
            pdvs.append(data_pdu(context_id, is_command, number == len(fragments) - 1, fragment)[6:])
    stream = b""
    for at in range(0, len(pdvs), pdvs_a_pdu):
        body = b"".join(pdvs[at : at + pdvs_a_pdu])
        stream += struct.pack(">BBL", 4, 0, len(body)) + body
    release = struct.pack(">BBL", RELEASE_RQ, 0, 4) + bytes(4)
    found = feed(framing(), stream + release, step)
    assert messages(found) == [
        *((context_id, is_command, b"".join(fragments)) for context_id, is_command, fragments in parts),
        release,
    ]


@given(noise=st.binary(max_size=600), step=st.integers(1, 600), data=st.booleans())
def test_noise_is_understood_or_a_violation_and_nothing_else(noise: bytes, step: int, data: bool) -> None:
    with contextlib.suppress(Violation):
        feed(framing(data=data), noise, step)


def test_fragments_that_lie_together_come_as_one_piece() -> None:
    stream = b"".join(data_pdu(1, False, number == 9, bytes([number]) * 50) for number in range(10))
    (piece,) = feed(framing(), stream, len(stream))
    assert piece.last
    assert bytes(piece.data) == b"".join(bytes([number]) * 50 for number in range(10))


def test_a_fragment_comes_before_its_pdu_is_whole() -> None:
    made = framing()
    stream = data_pdu(1, False, True, bytes(1000))[:500]
    (piece,) = feed(made, stream, len(stream))
    assert (len(piece.data), piece.last) == (488, False)
    assert made.open_pdu_bytes == 1006


def test_the_buffer_never_grows_and_never_fills_up() -> None:
    made = framing(buffer_bytes=1100, maximum_pdu_bytes=1_000_000)
    pieces = feed(made, data_pdu(1, False, True, bytes(100_000)), 1100)
    assert sum(len(piece.data) for piece in pieces if isinstance(piece, Piece)) == 100_000


def test_between_pdus_nothing_is_open() -> None:
    made = framing()
    assert made.open_pdu_bytes is None
    feed(made, data_pdu(1, True, True, b"ab"), 100)
    assert made.open_pdu_bytes is None
    feed(made, b"\x04", 1)
    assert made.open_pdu_bytes is not None


@pytest.mark.parametrize(
    ("data", "stream", "reason"),
    [
        (False, struct.pack(">BBL", 4, 0, 10), 2),
        (False, struct.pack(">BBL", ASSOCIATE_RQ, 0, 1025), 6),
        (False, b"GET / ", 1),
        (True, struct.pack(">BBL", ASSOCIATE_RQ, 0, 100), 2),
        (True, struct.pack(">BBL", 4, 0, 2007), 6),
        (True, struct.pack(">BBL", ABORT, 0, 5), 6),
        (True, struct.pack(">BBLLBB", 4, 0, 20, 1, 1, 0), 6),
        (True, struct.pack(">BBLLBB", 4, 0, 20, 17, 1, 0), 6),
        (True, struct.pack(">BBLLBB", 4, 0, 20, 13, 1, 0), 6),
        (True, b"".join(data_pdu(1, True, False, b"") for _ in range(65)), 6),
    ],
)
def test_what_breaks_the_standard_names_its_reason(data: bool, stream: bytes, reason: int) -> None:
    with pytest.raises(Violation) as caught:
        feed(framing(data=data), stream, len(stream))
    assert caught.value.reason == reason
