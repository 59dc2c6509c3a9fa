"""Decode an A-ASSOCIATE-RQ (PS3.8 9.3.2, PS3.7 D.3.3).

The node refuses a request only if an item that it needs cannot be decoded, and the refusal names both AE titles. The
node skips items of unknown type (PS3.8 9.3.1) and items that decide nothing, such as the name of the implementation. AE
titles of real devices are padded with NUL and have characters beyond PS3.5: the node takes both.
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from node.association.association import UndecodablePdu
from node.association.tls import PeerCertificate
from node.dicom.attributes import is_uid
from node.dicom.command import printable

_PDU_BYTES = 6
_TITLE_BYTES = 16
_FIXED_BYTES = 68
"""Bytes before the first item: protocol version, AE titles, and what is reserved (PS3.8 table 9-11)."""

APPLICATION_CONTEXT_ITEM, CONTEXT_ITEM, CONTEXT_ANSWER_ITEM, USER_INFORMATION_ITEM = 0x10, 0x20, 0x21, 0x50
ABSTRACT_SYNTAX_ITEM, TRANSFER_SYNTAX_ITEM = 0x30, 0x40
MAXIMUM_LENGTH_ITEM, CLASS_UID_ITEM, OPERATIONS_WINDOW_ITEM = 0x51, 0x52, 0x53
ROLE_ITEM, VERSION_NAME_ITEM, EXTENDED_ITEM = 0x54, 0x55, 0x56
"""Types of items and sub-items, PS3.8 9.3.2, 9.3.3 and PS3.7 D.3.3."""

ITEM_HEAD = struct.Struct(">BxH")
"""Type and length of an item."""

Roles = Mapping[str, tuple[bool, bool]]
"""The roles (SCU, SCP) of a requestor, by abstract syntax."""


class MalformedRequest(UndecodablePdu):
    """An A-ASSOCIATE-RQ violates PS3.8; the message names the rule. The AE titles are those of the request."""

    def __init__(self, rule: str, calling_ae_title: str, called_ae_title: str) -> None:
        super().__init__(rule)
        self.calling_ae_title, self.called_ae_title = calling_ae_title, called_ae_title


@dataclass(frozen=True, slots=True)
class ProposedContext:
    """A proposed presentation context. A name that is no UID is an empty text, or left out of the transfer syntaxes."""

    context_id: int
    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ReceivedRequest:
    """A decoded A-ASSOCIATE-RQ.

    `echoed`: AE titles and reserved bytes, which the acceptance repeats (PS3.8 table 9-17).
    `maximum_pdu_bytes`: the peer's *Maximum Length Received* (PS3.8 D.1); 0 is no limit.
    `extended_negotiation`: application information by SOP class UID (PS3.7 D.3.3.5).
    `certificate`: the one that the peer has shown to TLS, if any; the request does not say it.
    """

    calling_ae_title: str
    called_ae_title: str
    contexts: tuple[ProposedContext, ...]
    application_context: str
    is_of_known_version: bool = True
    echoed: bytes = b""
    maximum_pdu_bytes: int = 0
    roles: Roles = field(default_factory=dict)
    extended_negotiation: Mapping[str, bytes] = field(default_factory=dict)
    has_operations_window: bool = False
    certificate: PeerCertificate | None = None


def decoded_request(encoded: bytes, certificate: PeerCertificate | None = None) -> ReceivedRequest:
    """Decode an A-ASSOCIATE-RQ of a peer that has shown a certificate.

    Raises MalformedRequest: an item overruns what it is in, or an item that decides something is cut.
    """
    body = memoryview(encoded)[_PDU_BYTES:]
    called, calling = (_title(bytes(body[at : at + _TITLE_BYTES])) for at in (4, 4 + _TITLE_BYTES))
    try:
        return _decoded(body, calling, called, certificate)
    except UndecodablePdu as error:
        raise MalformedRequest(str(error), calling, called) from error


def _decoded(
    body: memoryview, calling_ae_title: str, called_ae_title: str, certificate: PeerCertificate | None
) -> ReceivedRequest:
    if len(body) < _FIXED_BYTES:
        raise UndecodablePdu(f"an A-ASSOCIATE-RQ of {len(body)} bytes ends before its items (PS3.8 9.3.2)")
    application_context = ""
    contexts: list[ProposedContext] = []
    user: list[tuple[int, memoryview]] = []
    for kind, data in _items(body[_FIXED_BYTES:], "the A-ASSOCIATE-RQ"):
        if kind == APPLICATION_CONTEXT_ITEM:
            application_context = application_context or _text(data)
        elif kind == CONTEXT_ITEM:
            contexts.append(_context(data))
        elif kind == USER_INFORMATION_ITEM:
            user += _items(data, "the user information")
    return ReceivedRequest(
        calling_ae_title,
        called_ae_title,
        tuple(contexts),
        application_context,
        is_of_known_version=bool(body[1] & 1),  # PS3.8 9.3.2: this bit alone is tested
        echoed=bytes(body[4:_FIXED_BYTES]),
        maximum_pdu_bytes=next((_maximum_length(data) for kind, data in user if kind == MAXIMUM_LENGTH_ITEM), 0),
        roles=dict(filter(None, (_role(data) for kind, data in user if kind == ROLE_ITEM))),
        extended_negotiation=dict(
            _named(data, "an extended negotiation item (PS3.7 D.3.3.5)") for kind, data in user if kind == EXTENDED_ITEM
        ),
        has_operations_window=any(kind == OPERATIONS_WINDOW_ITEM for kind, _ in user),
        certificate=certificate,
    )


def _items(data: memoryview, what: str) -> Iterator[tuple[int, memoryview]]:
    """Yield the types and the data of consecutive items."""
    at = 0
    while at < len(data):
        if at + ITEM_HEAD.size > len(data):
            raise UndecodablePdu(f"{what} ends within the head of an item (PS3.8 9.3.1)")
        kind, length = ITEM_HEAD.unpack_from(data, at)
        at += ITEM_HEAD.size
        if at + length > len(data):
            raise UndecodablePdu(f"item type 0x{kind:02x} of {length} bytes overruns {what} (PS3.8 9.3.1)")
        yield kind, data[at : at + length]
        at += length


def _context(data: memoryview) -> ProposedContext:
    """Decode a presentation context item (PS3.8 9.3.2.2)."""
    if len(data) < 4:
        raise UndecodablePdu(f"a presentation context item of {len(data)} bytes (PS3.8 9.3.2.2)")
    abstract_syntax = ""
    transfer_syntaxes: list[str] = []
    for kind, name in _items(data[4:], "a presentation context"):
        if kind == ABSTRACT_SYNTAX_ITEM:
            abstract_syntax = abstract_syntax or _text(name)
        elif kind == TRANSFER_SYNTAX_ITEM and (syntax := _text(name)) not in ("", *transfer_syntaxes):
            transfer_syntaxes.append(syntax)
    return ProposedContext(data[0], abstract_syntax, tuple(transfer_syntaxes))


def _maximum_length(data: memoryview) -> int:
    if len(data) != 4:
        raise UndecodablePdu(f"a maximum length item of {len(data)} bytes (PS3.8 D.1)")
    return int.from_bytes(data, "big")


def _role(data: memoryview) -> tuple[str, tuple[bool, bool]] | None:
    """Decode a role selection item (PS3.7 D.3.3.4); None if it proposes no role, so that the default holds."""
    name, roles = _named(data, "a role selection item (PS3.7 D.3.3.4)")
    if len(roles) < 2:
        raise UndecodablePdu("a role selection item without its roles (PS3.7 D.3.3.4)")
    return (name, (bool(roles[0]), bool(roles[1]))) if any(roles[:2]) else None


def _named(data: memoryview, what: str) -> tuple[str, bytes]:
    """Split a sub-item into the UID that it begins with, and the rest."""
    length = int.from_bytes(data[:2], "big")
    if len(data) < 2 + length:
        raise UndecodablePdu(f"the UID of {what} overruns it")
    return _text(data[2 : 2 + length]), bytes(data[2 + length :])


def _text(data: memoryview) -> str:
    """Return a UID without its padding; empty if it is none."""
    text = bytes(data).rstrip(b"\0 ").decode("latin-1")
    return text if len(text) <= 64 and is_uid(text) else ""


def _title(padded: bytes) -> str:
    """Return an AE title without its padding, and without what could harm a terminal; it ends at its first NUL."""
    return printable(padded.partition(b"\0")[0].decode("latin-1")).strip()
