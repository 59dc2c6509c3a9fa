"""Between encoded PDUs and pynetdicom's primitives, for both sides of the negotiation (PS3.8 7.1.1, 9.3)."""

from __future__ import annotations

from typing import Any

from pydicom.uid import UID
from pynetdicom.pdu_primitives import (
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
    SCP_SCU_RoleSelectionNegotiation,
)

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
