"""An open association: the part that its requestor and its acceptor have in common.

One thread owns an association. `client.association` adds the requestor's side, `accepted` the acceptor's. Encoded bytes
become pynetdicom's primitives and come from them: those of the negotiation (PS3.8 7.1.1, 9.3), and the command sets of
messages (PS3.7 6.3).
"""

import struct
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydicom.dataset import Dataset
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

from node.association.framing import (
    MAXIMUM_PDU_BYTES,
    InstanceBytes,
    encoded,
    fragment_bytes,
    fragment_pdus,
    message_pdus,
)
from node.dicom.command import (
    C_FIND_RQ,
    C_GET_RQ,
    C_MOVE_RQ,
    DATA_SET,
    NO_DATA_SET,
    CommandSet,
    Element,
    MalformedCommand,
    encode_command,
)
from node.dicom.encoding import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from node.errors import VoxelnodeError

Roles = dict[UID, tuple[bool | None, bool | None]]
"""The roles (SCU, SCP) of a requestor by abstract syntax, as pynetdicom's negotiation takes them."""

SENT_AT_ONCE = 1_048_576
"""Bytes of a request and its instance that are handed to the kernel at once: a small instance wakes its receiver once,
and one for a peer that takes small PDUs costs few calls."""


ACCEPTED = 0
"""Result of a presentation context that was accepted, PS3.8 table 9-18."""


class UndecodablePdu(VoxelnodeError):
    """A PDU of the peer cannot be decoded."""


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


@dataclass(frozen=True, slots=True)
class AcceptedContext:
    """An accepted presentation context, and the roles of the node in it (PS3.7 D.3.3.4)."""

    context_id: int
    abstract_syntax: str
    transfer_syntax_uid: str
    as_scu: bool = True
    as_scp: bool = False


@dataclass(frozen=True, slots=True)
class DimseMessage:
    """A whole DIMSE message of the peer; `data_set` is encoded; None: it was longer than `maximum_bytes`."""

    context_id: int
    command: CommandSet
    data_set: bytes | None = b""


MAXIMUM_BYTES = {C_FIND_RQ: 1 << 20, C_MOVE_RQ: 1 << 20, C_GET_RQ: 1 << 20}
"""Longest identifier, which is held in memory while it arrives: a list of 10 000 UIDs has 640 KB."""

MAXIMUM_OTHER_BYTES = 16_000_000
"""Longest data set of any other message but C-STORE: a storage commitment of 65 000 instances takes 10 MB."""


def maximum_bytes(request: CommandSet) -> int:
    """Return the longest data set that is held in memory for a request."""
    return MAXIMUM_BYTES.get(request.field or 0, MAXIMUM_OTHER_BYTES)


class Association(ABC):
    """The accepted contexts of an association, and the messages that the node sends on it.

    `accepted`: by context ID; `peer_maximum_bytes`: the peer's *Maximum Length Received* (PS3.8 D.1); 0 is no limit;
    `fragment_bytes`: size of the fragments that the node sends.
    """

    def __init__(self) -> None:
        self.accepted: Mapping[int, AcceptedContext] = {}
        self.peer_maximum_bytes = 0
        self.fragment_bytes = MAXIMUM_PDU_BYTES
        self._message_id = 0

    def agree(self, accepted: Iterable[AcceptedContext], peer_maximum_bytes: int) -> None:
        """Keep the result of the negotiation: the accepted presentation contexts."""
        self.accepted = {context.context_id: context for context in accepted}
        self.peer_maximum_bytes = peer_maximum_bytes
        self.fragment_bytes = fragment_bytes(peer_maximum_bytes)

    def accepted_for(self, abstract_syntax: str) -> dict[str, int]:
        """Return the accepted contexts in which the node is the SCU: context ID by transfer syntax UID."""
        return {
            context.transfer_syntax_uid: context.context_id
            for context in self.accepted.values()
            if context.abstract_syntax == abstract_syntax and context.as_scu
        }

    def next_message_id(self) -> int:
        """Return a *Message ID* (0000,0110) for the next request."""
        self._message_id = self._message_id % 65535 + 1
        return self._message_id

    def send_message(self, context_id: int, primitive: Any, data_set: Dataset | None = None) -> None:
        """Send the message of a primitive of pynetdicom; `data_set` is encoded in the transfer syntax of the context.

        Raises VoxelnodeError: the association is lost.
        """
        data = None if data_set is None else encoded(data_set, self.accepted[context_id].transfer_syntax_uid)
        command = encoded_command(primitive, data is not None)
        self.send_pdus(message_pdus(context_id, command, self.fragment_bytes, data))

    def send_instance(self, context_id: int, elements: Mapping[Element, int | str], source: InstanceBytes) -> None:
        """Send a C-STORE-RQ with the bytes of a data set; a file is read while it is sent.

        Raises VoxelnodeError: the association is lost. Raises SourceLost: the file could not be read to its end; the
        association cannot continue.
        """
        size = self.fragment_bytes
        command = encode_command({**elements, Element.DATA_SET_TYPE: DATA_SET})
        parts: list[bytes | memoryview] = [message_pdus(context_id, command, size)]
        left = SENT_AT_ONCE
        with source.fragments(max(SENT_AT_ONCE // size, 1) * size) as fragments:
            for part in fragment_pdus(context_id, False, fragments, size):
                parts.append(part)
                left -= len(part)
                if left <= 0:
                    self.send_pdus(*parts)
                    parts.clear()
                    left = SENT_AT_ONCE
        if parts:
            self.send_pdus(*parts)

    @abstractmethod
    def send_pdus(self, *parts: bytes | memoryview) -> None:
        """Send encoded PDUs, given in parts that follow each other.

        Raises VoxelnodeError: the association is lost.
        """
