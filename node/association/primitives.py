"""Between encoded bytes and pynetdicom's primitives: the negotiation, of both sides (PS3.8 7.1.1, 9.3), and the command
sets of messages (PS3.7 6.3).
"""

from __future__ import annotations

import struct
from typing import Any

from pydicom.uid import UID
from pynetdicom import dimse_messages, dimse_primitives
from pynetdicom.dimse_messages import DIMSEMessage
from pynetdicom.dsutils import encode
from pynetdicom.pdu_primitives import (
    P_DATA,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
    SCP_SCU_RoleSelectionNegotiation,
)

from node.dicom.command import DATA_SET, NO_DATA_SET, MalformedCommand
from node.dicom.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from node.errors import VoxelnodeError

Roles = dict[UID, tuple[bool | None, bool | None]]
"""The roles (SCU, SCP) of a requestor by abstract syntax, as pynetdicom's negotiation takes them."""


class UndecodablePdu(VoxelnodeError):
    """A PDU of the peer cannot be decoded."""


def encoded_pdu(pdu: Any, primitive: Any) -> bytes:
    """Encode a primitive of pynetdicom as `pdu`."""
    pdu.from_primitive(primitive)
    return bytes(pdu.encode())


def decoded_primitive(pdu: Any, data: bytes) -> Any:
    """Decode the bytes of a `pdu` of pynetdicom into its primitive."""
    try:
        pdu.decode(bytes(data))
        return pdu.to_primitive()
    except Exception as error:  # any error of pynetdicom on a peer's bytes
        raise UndecodablePdu(f"PDU type 0x{data[0]:02x} cannot be decoded") from error


def own_user_information(maximum_pdu_bytes: int) -> list[Any]:
    """Return the user information that every A-ASSOCIATE of the node has (PS3.7 D.3.3)."""
    length = MaximumLengthNotification()
    length.maximum_length_received = maximum_pdu_bytes
    implementation = ImplementationClassUIDNotification()
    implementation.implementation_class_uid = UID(IMPLEMENTATION_CLASS_UID)
    version = ImplementationVersionNameNotification()
    version.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    return [length, implementation, version]


def peer_maximum_bytes(primitive: Any) -> int:
    """Return the *Maximum Length Received* of an A-ASSOCIATE (PS3.8 D.1); 0 is no limit."""
    lengths = (item for item in primitive.user_information if isinstance(item, MaximumLengthNotification))
    return next((int(item.maximum_length_received) for item in lengths), 0)


def roles_of(primitive: Any) -> Roles:
    """Return the roles of the requestor in an A-ASSOCIATE (PS3.7 D.3.3.4)."""
    return {
        UID(str(item.sop_class_uid)): (bool(item.scu_role), bool(item.scp_role))
        for item in primitive.user_information
        if isinstance(item, SCP_SCU_RoleSelectionNegotiation)
    }


_LAST_OF_COMMAND = b"\x03"
"""Message control header of a fragment, PS3.8 E.2."""

_GROUP_LENGTH = struct.Struct("<HHLL")


def primitive_of(kind: type, **parameters: Any) -> Any:
    """Return a DIMSE primitive of pynetdicom with parameters by keyword."""
    primitive = kind()
    for keyword, value in parameters.items():
        setattr(primitive, keyword, value)
    return primitive


def decoded_command(encoded: bytes | bytearray) -> DIMSEMessage:
    """Decode a command set; its elements are in `command_set`, not validated as those of a primitive are.

    Raises MalformedCommand: pynetdicom cannot decode it.
    """
    fragments, message = P_DATA(), DIMSEMessage()
    fragments.presentation_data_value_list.append((1, _LAST_OF_COMMAND + bytes(encoded)))
    try:
        message.decode_msg(fragments)
    except Exception as error:  # any error of pynetdicom on a peer's bytes
        raise MalformedCommand("the command set cannot be decoded (PS3.7 6.3)") from error
    return message


def kind_of(request: DIMSEMessage) -> type:
    """Return the class of the primitives of a request and its responses."""
    kind: type = getattr(dimse_primitives, type(request).__name__.removesuffix("_RQ"))
    return kind


def encoded_command(primitive: Any, has_data_set: bool) -> bytes:
    """Encode the command set of a primitive whose data set, if any, is sent beside it."""
    is_response = getattr(primitive, "is_valid_response", False)
    message = getattr(dimse_messages, f"{type(primitive).__name__}_{'RSP' if is_response else 'RQ'}")()
    message.primitive_to_message(primitive)
    elements = message.command_set
    elements.CommandDataSetType = DATA_SET if has_data_set else NO_DATA_SET
    if listed := getattr(primitive, "AttributeIdentifierList", None):  # pynetdicom has none for N-CREATE (PS3.7 C.5.15)
        elements.AttributeIdentifierList = listed
    del elements.CommandGroupLength
    body = encode(elements, True, True) or b""
    return _GROUP_LENGTH.pack(0, 0, 4, len(body)) + body
