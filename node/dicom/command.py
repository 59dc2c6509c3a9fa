"""Command sets, the first part of every DIMSE message (PS3.7 6.3 and Annex E).

Those that come with every instance are read and written here, in 3 to 8 µs, where pynetdicom takes 150 to 500 µs:
C-STORE and the pending responses of retrieves. All others are pynetdicom's (`node.association.association`); of those,
only what the association itself must know is read here.
"""

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from node.dicom.status import ResponseStatus
from node.errors import VoxelnodeError

C_STORE_RQ = 0x0001
C_GET_RQ = 0x0010
C_FIND_RQ = 0x0020
C_MOVE_RQ = 0x0021
C_ECHO_RQ = 0x0030
N_EVENT_REPORT_RQ = 0x0100
N_GET_RQ = 0x0110
N_SET_RQ = 0x0120
N_ACTION_RQ = 0x0130
N_CREATE_RQ = 0x0140
C_CANCEL_RQ = 0x0FFF
RESPONSE = 0x8000
"""Bit that distinguishes the *Command Field* (0000,0100) of a response from that of its request."""

C_STORE_RSP = C_STORE_RQ | RESPONSE

MEDIUM_PRIORITY, HIGH_PRIORITY, LOW_PRIORITY = 0x0000, 0x0001, 0x0002
"""Values of *Priority* (0000,0700), PS3.7 9.1.1.1."""

NO_DATA_SET, DATA_SET = 0x0101, 0x0001
"""*Command Data Set Type* (0000,0800): no data set, or a data set, follows the command set (PS3.7 E.1)."""

_COMMAND_FIELDS = frozenset(
    {0x0001, 0x0010, 0x0020, 0x0021, 0x0030, 0x0100, 0x0110, 0x0120, 0x0130, 0x0140, 0x0150}
    | {0x8001, 0x8010, 0x8020, 0x8021, 0x8030, 0x8100, 0x8110, 0x8120, 0x8130, 0x8140, 0x8150}
    | {0x0FFF}
)
"""All messages of PS3.7 E.1."""


class Element(IntEnum):
    """Numbers of the elements of group 0000 that the node reads or writes by itself (PS3.7 E.1)."""

    AFFECTED_SOP_CLASS_UID = 0x0002
    COMMAND_FIELD = 0x0100
    MESSAGE_ID = 0x0110
    MESSAGE_ID_RESPONDED_TO = 0x0120
    PRIORITY = 0x0700
    DATA_SET_TYPE = 0x0800
    STATUS = 0x0900
    ERROR_COMMENT = 0x0902
    AFFECTED_SOP_INSTANCE_UID = 0x1000
    EVENT_TYPE_ID = 0x1002
    REMAINING = 0x1020
    COMPLETED = 0x1021
    FAILED = 0x1022
    WARNING = 0x1023
    MOVE_ORIGINATOR_AE_TITLE = 0x1030
    MOVE_ORIGINATOR_MESSAGE_ID = 0x1031


_UIDS = frozenset({Element.AFFECTED_SOP_CLASS_UID, Element.AFFECTED_SOP_INSTANCE_UID})

_ELEMENT = struct.Struct("<HHL")
_US = struct.Struct("<H")
_NUMBERS_OF_RESPONSE = struct.Struct("<" + 4 * "HHLH")
"""Four unsigned shorts with their tags and lengths: all numbers of the response to a C-STORE."""

_MAX_UID_LENGTH = 64
_PLAIN_UID = re.compile(rb"(?=.{1,64}\Z)[0-9.]+\0?", re.DOTALL)


class MalformedCommand(VoxelnodeError):
    """The command set violates PS3.7 6.3; the association cannot continue."""


@dataclass(frozen=True, slots=True)
class CommandSet:
    """A decoded command set.

    UIDs are text without padding; bytes other than ASCII become U+FFFD, which fails every check of a UID.
    """

    field: int
    message_id: int | None
    has_data_set: bool
    sop_class_uid: str
    sop_instance_uid: str
    complete: bool
    """Whether all elements of a C-STORE-RQ (PS3.7 9.3.1.1) are present, with UIDs of digits and dots."""
    responded_to: int | None
    """*Message ID Being Responded To* (0000,0120) of a response or a C-CANCEL-RQ."""
    status: int | None
    """*Status* (0000,0900) of a response."""
    elements: Mapping[int, bytes]
    """All elements as received, by number."""
    encoded: bytes | bytearray
    """The command set as received."""

    @property
    def is_response(self) -> bool:
        """Whether the message is a response to a request of this node."""
        return bool(self.field & RESPONSE)

    @property
    def comment(self) -> str:
        """*Error Comment* (0000,0902), without characters that could harm a terminal."""
        return printable(self.elements.get(Element.ERROR_COMMENT, b"").decode("ascii", "replace").strip(" \0"))

    def number(self, element: Element) -> int | None:
        """Return an unsigned short, such as a number of sub-operations; None if it is absent."""
        return _unsigned_short(self.elements, element)


def printable(text: str) -> str:
    """Return a text without characters that could harm a terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)


def decode_command(encoded: bytes | bytearray) -> CommandSet:
    """Return the decoded command set: implicit VR little endian, group 0000 only (PS3.7 6.3.1).

    Raises MalformedCommand: a length overruns the set, an element is of another group or occurs twice, or the *Command
        Field* (0000,0100) or *Command Data Set Type* (0000,0800) is missing or invalid.
    """
    elements: dict[int, bytes] = {}
    at, end = 0, len(encoded)
    while at < end:
        if end - at < _ELEMENT.size:
            raise MalformedCommand("the command set ends within an element")
        group, number, length = _ELEMENT.unpack_from(encoded, at)
        at += _ELEMENT.size
        if group != 0 or number in elements:
            raise MalformedCommand(f"({group:04x},{number:04x}) does not belong in the command set, or occurs twice")
        if length > end - at:
            raise MalformedCommand(f"(0000,{number:04x}) overruns the command set")
        elements[number] = bytes(encoded[at : at + length])
        at += length
    field = _unsigned_short(elements, Element.COMMAND_FIELD)
    data_set_type = _unsigned_short(elements, Element.DATA_SET_TYPE)
    if field not in _COMMAND_FIELDS or data_set_type is None:
        raise MalformedCommand(
            "Command Field (0000,0100) or Command Data Set Type (0000,0800) is missing or invalid (PS3.7 E.1)"
        )
    raw_class = elements.get(Element.AFFECTED_SOP_CLASS_UID, b"")
    raw_instance = elements.get(Element.AFFECTED_SOP_INSTANCE_UID, b"")
    return CommandSet(
        field,
        _unsigned_short(elements, Element.MESSAGE_ID),
        data_set_type != NO_DATA_SET,
        _uid(raw_class),
        _uid(raw_instance),
        _PLAIN_UID.fullmatch(raw_class) is not None
        and _PLAIN_UID.fullmatch(raw_instance) is not None
        and bool(elements.get(Element.MESSAGE_ID))
        and bool(elements.get(Element.PRIORITY)),
        _unsigned_short(elements, Element.MESSAGE_ID_RESPONDED_TO),
        _unsigned_short(elements, Element.STATUS),
        elements,
        encoded,
    )


def encode_command(elements: Mapping[Element, int | str | bytes]) -> bytes:
    """Return an encoded command set with its group length (PS3.7 6.3.1).

    `elements`: numbers are unsigned shorts; text is ASCII; bytes are used unchanged.
    """
    body = b"".join([_element(number, _value(number, elements[number])) for number in sorted(elements)])
    return _element(0x0000, struct.pack("<L", len(body))) + body


def _value(number: Element, value: int | str | bytes) -> bytes:
    if isinstance(value, str):
        value = value.encode("ascii", "replace")
    if isinstance(value, bytes):
        return value + (b"\0" if number in _UIDS else b" ") * (len(value) % 2)
    return _US.pack(value)


def encode_c_store_response(request: CommandSet, answer: ResponseStatus) -> bytes:
    """Return the encoded C-STORE-RSP to `request` (PS3.7 9.3.1.2).

    The affected UIDs are echoed as received; one that is too long to be a UID is omitted.
    """
    numbers = _NUMBERS_OF_RESPONSE.pack(
        *(0, Element.COMMAND_FIELD, _US.size, C_STORE_RSP),
        *(0, Element.MESSAGE_ID_RESPONDED_TO, _US.size, request.message_id or 0),
        *(0, Element.DATA_SET_TYPE, _US.size, NO_DATA_SET),
        *(0, Element.STATUS, _US.size, answer.status),
    )
    comment = _element(Element.ERROR_COMMENT, _value(Element.ERROR_COMMENT, answer.comment)) if answer.comment else b""
    sop_class = _echoed(request, Element.AFFECTED_SOP_CLASS_UID)
    body = sop_class + numbers + comment + _echoed(request, Element.AFFECTED_SOP_INSTANCE_UID)
    return _element(0x0000, struct.pack("<L", len(body))) + body


def _echoed(request: CommandSet, number: Element) -> bytes:
    uid = request.elements.get(number, b"")
    return _element(number, _value(number, uid)) if 0 < len(uid) <= _MAX_UID_LENGTH else b""


def _unsigned_short(elements: Mapping[int, bytes], number: int) -> int | None:
    value = elements.get(number, b"")
    if not value:
        return None
    if len(value) != _US.size:
        raise MalformedCommand(f"(0000,{number:04x}) has {len(value)} bytes; it must have 2")
    return int(_US.unpack(value)[0])


def _uid(value: bytes) -> str:
    return value.rstrip(b"\0 ").decode("ascii", "replace")


def _element(number: int, value: bytes) -> bytes:
    return _ELEMENT.pack(0, number, len(value)) + value
