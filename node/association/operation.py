"""One DIMSE operation that a peer requested and that the node serves itself: its context, data set and responses.

Everything here runs on the thread that serves the association; `association.upper_layer` says how that thread may
read from the connection while it serves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom.dsutils import decode

from node.association.outgoing import InstanceBytes, encoded, fragment_bytes, fragment_pdus, message_pdus, request_pdus
from node.association.upper_layer import UpperLayer
from node.dicom.command import RESPONSE, Command, Element
from node.dicom.header import read_header
from node.dicom.status import error_comment
from node.errors import VoxelnodeError
from node.receive.ingest import Origin

_BEFORE_PIXELS = frozenset({0x7FDFFFFF})


class NotDecodable(VoxelnodeError):
    """The data set of a request cannot be decoded."""


@dataclass(frozen=True, slots=True)
class OperationContext:
    """The presentation context of an operation."""

    context_id: int
    abstract_syntax: str
    transfer_syntax_uid: str


class Operation:
    """A request and the association on which it came.

    Parameters
    ----------
    assoc : Association
        pynetdicom's association.
    primitive
        The request, decoded by pynetdicom.
    context_id : int
        ID of the accepted presentation context.
    """

    def __init__(self, assoc: Any, primitive: Any, context_id: int) -> None:
        accepted = assoc._accepted_cx[context_id]
        self.context = OperationContext(context_id, str(accepted.abstract_syntax), str(accepted.transfer_syntax[0]))
        self.primitive = primitive
        self.message_id = int(primitive.MessageID or 0)
        self.upper_layer: UpperLayer = assoc.dul
        self._assoc = assoc
        self._fragment_bytes = fragment_bytes(int(assoc.requestor.maximum_length or 0))
        self._requests = 0

    @property
    def extended_negotiation(self) -> Mapping[str, bytes]:
        """The peer's SOP Class Extended Negotiation: application information by SOP class UID (PS3.7 D.3.3.5)."""
        return {str(uid): fields for uid, fields in self._assoc.requestor.sop_class_extended.items()}

    @property
    def origin(self) -> Origin:
        """The origin of the request."""
        if self.upper_layer.store_service is None:
            raise RuntimeError("an operation on an association without admission")
        return self.upper_layer.store_service.origin

    @property
    def log(self) -> Any:
        """The logger that is bound to the association."""
        return self.upper_layer.store_service.log if self.upper_layer.store_service is not None else None

    def is_cancelled(self) -> bool:
        """Whether to stop: the peer cancelled, the peer is gone, or the node drains."""
        return self.upper_layer.is_cancelled(self.message_id)

    def data_set(self, keyword: str) -> Dataset:
        """Return the data set of the request; `keyword` is pynetdicom's (``Identifier``, ``ActionInformation``).

        Raises
        ------
        NotDecodable
            The request has no data set, or it cannot be decoded.
        """
        data: BytesIO | None = getattr(self.primitive, keyword)
        if data is None:
            raise NotDecodable("the request has no data set")
        syntax = UID(self.context.transfer_syntax_uid)
        try:
            read_header(data.getvalue(), syntax, _BEFORE_PIXELS)  # pydicom accepts a data set that ends too early
            return decode(data, syntax.is_implicit_VR, syntax.is_little_endian, False)
        except Exception as error:  # any error of pydicom on a peer's bytes
            raise NotDecodable("the data set of the request cannot be decoded (PS3.5 7)") from error

    def respond(
        self,
        command_field: int,
        status: int,
        elements: Mapping[Element, int | str] | None = None,
        data_set: Dataset | None = None,
        comment: str = "",
    ) -> None:
        """Send a response to the request with the *Command Field* (0000,0100) `command_field`.

        Raises
        ------
        PeerGone
        """
        encoded_set = None if data_set is None else encoded(data_set, self.context.transfer_syntax_uid)
        self.upper_layer.send_now(self.response_pdus(command_field, status, elements, encoded_set, comment))

    def response_pdus(
        self,
        command_field: int,
        status: int,
        elements: Mapping[Element, int | str] | None = None,
        data_set: bytes | None = None,
        comment: str = "",
    ) -> bytes:
        """Encode a response for `respond`; `data_set` is already encoded."""
        response: dict[Element, int | str] = {
            Element.COMMAND_FIELD: command_field | RESPONSE,
            Element.MESSAGE_ID_RESPONDED_TO: self.message_id,
            Element.AFFECTED_SOP_CLASS_UID: self.context.abstract_syntax,
            Element.STATUS: status,
            **(elements or {}),
        }
        if comment:
            response[Element.ERROR_COMMENT] = error_comment(comment)
        return message_pdus(self.context.context_id, response, self._fragment_bytes, data_set)

    # Our own requests on the same association

    def accepted_for(self, sop_class_uid: str) -> Mapping[str, int]:
        """Return the contexts in which the peer accepts a SOP class from us: context ID by transfer syntax UID."""
        return {
            str(accepted.transfer_syntax[0]): context_id
            for context_id, accepted in self._assoc._accepted_cx.items()
            if accepted.abstract_syntax == sop_class_uid and accepted.as_scu
        }

    def next_message_id(self) -> int:
        """Return a *Message ID* (0000,0110) for our next request; never that of the operation (PS3.7 9.1.1.1.1)."""
        self._requests += 1
        return (self.message_id + self._requests - 1) % 65535 + 1

    def request(
        self, context_id: int, elements: Mapping[Element, int | str], data_set: Dataset | None, seconds: float
    ) -> Command | None:
        """Send a request with a small data set and return its answer, or None if it does not come in time.

        Raises
        ------
        PeerGone
        """
        encoded_set = None if data_set is None else encoded(data_set, self.context.transfer_syntax_uid)
        self.upper_layer.send_now(message_pdus(context_id, elements, self._fragment_bytes, encoded_set))
        return self.upper_layer.answer_to(int(elements[Element.MESSAGE_ID]), seconds)

    def store(
        self, context_id: int, elements: Mapping[Element, int | str], source: InstanceBytes, seconds: float
    ) -> Command | None:
        """Send a C-STORE-RQ and return its answer, or None if it does not come in time.

        Raises
        ------
        PeerGone
        SourceLost
            The file could not be read to its end; the association cannot continue.
        """
        self.upper_layer.send_now(request_pdus(context_id, elements, self._fragment_bytes))
        with source.fragments(self._fragment_bytes) as fragments:
            for pdu in fragment_pdus(context_id, False, fragments, self._fragment_bytes):
                self.upper_layer.send_now(pdu)
        return self.upper_layer.answer_to(int(elements[Element.MESSAGE_ID]), seconds)
