"""Command sets, the head of every DIMSE message (PS3.7 6.3 and Annex E)."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from node.dicom.status import Answer
from node.errors import VoxelnodeError

C_STORE_RQ = 0x0001
C_STORE_RSP = 0x8001

_NO_DATA_SET = 0x0101
"""*Command Data Set Type* (0000,0800) of a message that ends with its command set (PS3.7 9.3)."""

_COMMAND_FIELDS = frozenset(
    {0x0001, 0x0010, 0x0020, 0x0021, 0x0030, 0x0100, 0x0110, 0x0120, 0x0130, 0x0140, 0x0150}
    | {0x8001, 0x8010, 0x8020, 0x8021, 0x8030, 0x8100, 0x8110, 0x8120, 0x8130, 0x8140, 0x8150}
    | {0x0FFF}
)
"""PS3.7 E.1: every message there is."""

_ELEMENT = struct.Struct("<HHL")
_US = struct.Struct("<H")

_AFFECTED_SOP_CLASS_UID = 0x0002
_COMMAND_FIELD = 0x0100
_MESSAGE_ID = 0x0110
_MESSAGE_ID_RESPONDED_TO = 0x0120
_PRIORITY = 0x0700
_DATA_SET_TYPE = 0x0800
_STATUS = 0x0900
_ERROR_COMMENT = 0x0902
_AFFECTED_SOP_INSTANCE_UID = 0x1000

_LONGEST_UID = 64
_PLAIN_UID = re.compile(rb"(?=.{1,64}\Z)[0-9.]+\0?", re.DOTALL)


class MalformedCommand(VoxelnodeError):
    """The command set breaks PS3.7 6.3: the association cannot go on."""


@dataclass(frozen=True, slots=True)
class Command:
    """A decoded command set.

    UIDs are text without padding; what is not ASCII in them becomes U+FFFD, which no check of a UID lets pass.
    """

    field: int
    message_id: int | None
    has_data_set: bool
    sop_class_uid: str
    sop_instance_uid: str
    raw_sop_class_uid: bytes
    raw_sop_instance_uid: bytes
    complete: bool
    """Whether every element is there that PS3.7 9.3.1.1 requires of a C-STORE-RQ, with UIDs of digits and dots."""


def decode_command(encoded: bytes | bytearray) -> Command:
    """Decode a whole command set: implicit VR little endian, group 0000 only (PS3.7 6.3.1).

    Raises
    ------
    MalformedCommand
        A length overruns the set, an element is of another group or comes twice, or a message without a valid
        *Command Field* (0000,0100) or *Command Data Set Type* (0000,0800).
    """
    elements: dict[int, bytes] = {}
    at, end = 0, len(encoded)
    while at < end:
        if end - at < _ELEMENT.size:
            raise MalformedCommand("the command set ends within an element")
        group, number, length = _ELEMENT.unpack_from(encoded, at)
        at += _ELEMENT.size
        if group != 0 or number in elements:
            raise MalformedCommand(f"({group:04x},{number:04x}) does not belong in the command set or comes twice")
        if length > end - at:
            raise MalformedCommand(f"(0000,{number:04x}) overruns the command set")
        elements[number] = bytes(encoded[at : at + length])
        at += length
    field = _unsigned_short(elements, _COMMAND_FIELD)
    data_set_type = _unsigned_short(elements, _DATA_SET_TYPE)
    if field not in _COMMAND_FIELDS or data_set_type is None:
        raise MalformedCommand("no valid Command Field (0000,0100) or Command Data Set Type (0000,0800)")
    raw_class = elements.get(_AFFECTED_SOP_CLASS_UID, b"")
    raw_instance = elements.get(_AFFECTED_SOP_INSTANCE_UID, b"")
    return Command(
        field,
        _unsigned_short(elements, _MESSAGE_ID),
        data_set_type != _NO_DATA_SET,
        _uid(raw_class),
        _uid(raw_instance),
        raw_class,
        raw_instance,
        all(_PLAIN_UID.fullmatch(uid) for uid in (raw_class, raw_instance))
        and all(elements.get(number) for number in (_MESSAGE_ID, _PRIORITY)),
    )


def encode_c_store_response(request: Command, answer: Answer) -> bytes:
    """Encode the C-STORE-RSP to `request` (PS3.7 9.3.1.2).

    The affected UIDs are echoed as they came; one that cannot be a UID, because of its length, is left out.
    """
    body = b"".join(
        (
            _uid_element(_AFFECTED_SOP_CLASS_UID, request.raw_sop_class_uid),
            _element(_COMMAND_FIELD, _US.pack(C_STORE_RSP)),
            _element(_MESSAGE_ID_RESPONDED_TO, _US.pack(request.message_id or 0)),
            _element(_DATA_SET_TYPE, _US.pack(_NO_DATA_SET)),
            _element(_STATUS, _US.pack(answer.status)),
            _element(_ERROR_COMMENT, _even(answer.comment.encode("ascii"), b" ")) if answer.comment else b"",
            _uid_element(_AFFECTED_SOP_INSTANCE_UID, request.raw_sop_instance_uid),
        )
    )
    return _element(0x0000, struct.pack("<L", len(body))) + body


def _unsigned_short(elements: dict[int, bytes], number: int) -> int | None:
    value = elements.get(number, b"")
    if not value:
        return None
    if len(value) != _US.size:
        raise MalformedCommand(f"(0000,{number:04x}) is {len(value)} bytes long, it must be 2")
    return int(_US.unpack(value)[0])


def _uid(value: bytes) -> str:
    return value.rstrip(b"\0 ").decode("ascii", "replace")


def _element(number: int, value: bytes) -> bytes:
    return _ELEMENT.pack(0, number, len(value)) + value


def _even(value: bytes, padding: bytes) -> bytes:
    return value + padding * (len(value) % 2)


def _uid_element(number: int, value: bytes) -> bytes:
    if not 0 < len(value) <= _LONGEST_UID:
        return b""
    return _element(number, _even(value, b"\0"))
