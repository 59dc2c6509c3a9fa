"""One DIMSE operation that a peer requested: its context, data set and responses.

Everything here runs on the thread of the association; `association.acceptor` says how a service looks at the
connection while it serves.
"""

from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any, TypeVar

from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom.dsutils import decode

from node.association.acceptor import AcceptedAssociation
from node.association.association import (
    DimseMessage,
    decoded_command,
    encoded_command,
    kind_of,
    maximum_bytes,
    primitive_of,
)
from node.association.framing import encoded, fragment_pdus, message_pdus
from node.association.services.c_store import StoreService
from node.association.upper_layer import PeerGone
from node.dicom.command import NO_DATA_SET, RESPONSE, Element, MalformedCommand, encode_command, printable
from node.dicom.header import require_few_elements
from node.dicom.status import FAILED, PENDING, UNABLE_TO_PROCESS, error_comment
from node.dicom.values import text, value
from node.errors import NotUnderstood, VoxelnodeError
from node.receive.ingest import Origin

MAXIMUM_ELEMENTS = 10_000
"""Most elements and items of an identifier: decoding takes 20 µs each, in which no other thread runs."""


Result = TypeVar("Result")


class RequestRefused(VoxelnodeError):
    """A request is answered with a failure; `offending` is the tag of the element that is to blame."""

    def __init__(self, status: int, comment: str, offending: int | None = None) -> None:
        super().__init__(comment)
        self.status, self.offending = status, offending


class Operation:
    """A request and the association on which it came; `request` is its command set.

    `store_service`: the service that knows the peer.
    """

    reports_here = True
    """Whether a result may follow on the same association."""

    def __init__(self, association: AcceptedAssociation, message: DimseMessage, store_service: StoreService) -> None:
        self.association = association
        self.context = association.accepted[message.context_id]
        self.message_id = message.command.message_id or 0
        self._command, self._has_data_set = message.command, message.command.has_data_set
        request = decoded_command(message.command.encoded)
        self._kind = kind_of(request)
        self.request: Dataset = request.command_set
        self.origin: Origin = store_service.origin
        self.log: Any = store_service.log
        self._data_set = message.data_set

    def is_cancelled(self) -> bool:
        """Whether to stop: the peer cancelled, the peer is gone, or the node drains."""
        return self.association.is_cancelled(self.message_id)

    def is_lost(self) -> bool:
        """Whether the association has ended."""
        self.is_cancelled()
        return not self.association.is_open

    def parameter(self, keyword: str) -> str:
        """Return a text of the command set, such as *Move Destination* (0000,0600); empty if it is absent."""
        return printable(text(self.request, keyword))

    def number(self, keyword: str) -> int:
        """Return a number of the command set, such as *Action Type ID* (0000,1008); 0 if there is none."""
        content = value(self.request, keyword)
        return content if isinstance(content, int) else 0

    def data_set(self, status: int = UNABLE_TO_PROCESS, maximum_elements: int = MAXIMUM_ELEMENTS) -> Dataset:
        """Return the data set of the request; `maximum_elements`: most elements and items, on all levels.

        Raises RequestRefused: there is none, or it cannot be decoded; with `status`.
        """
        if not self._has_data_set:
            raise RequestRefused(status, "the request has no data set")
        if self._data_set is None:
            most = maximum_bytes(self._command)
            raise RequestRefused(status, f"the identifier has more than {most} bytes: ask for less at once")
        syntax = UID(self.context.transfer_syntax_uid)
        try:
            # This also notices a data set that ends too early, which pydicom accepts.
            require_few_elements(self._data_set, syntax, maximum_elements)
            return decode(BytesIO(self._data_set), syntax.is_implicit_VR, syntax.is_little_endian, False)
        except Exception as error:  # any error of pydicom on a peer's bytes
            reason = str(error) if isinstance(error, NotUnderstood) else "PS3.5 7"
            raise RequestRefused(status, f"the data set of the request cannot be decoded ({reason})") from error

    def attempt(self, serve: Callable[[], Result], refused: str, failed: str, **parameters: Any) -> Result | None:
        """Return the result of `serve`; answer RequestRefused with its status and an error of the node with `FAILED`.

        `refused` and `failed`: events of the log; `parameters`: of the response. Raises PeerGone: the association has
        ended.
        """
        try:
            return serve()
        except RequestRefused as error:
            self.log.warning(refused, status=f"0x{error.status:04X}", reason=str(error))
            self.respond(error.status, comment=str(error), OffendingElement=error.offending, **parameters)
        except (PeerGone, MalformedCommand):
            raise
        except Exception as error:
            self.log.error(failed, exc_info=error)
            self.respond(FAILED.status, comment=FAILED.comment, **parameters)
        return None

    def respond(self, status: int, data_set: Dataset | None = None, comment: str = "", **parameters: Any) -> None:
        """Send a response to the request; `parameters` are those of its primitive in pynetdicom."""
        encoded_set = None if data_set is None else encoded(data_set, self.context.transfer_syntax_uid)
        self.association.send_pdus(self.response_pdus(status, encoded_set, comment, **parameters))

    def response_pdus(self, status: int, data_set: bytes | None = None, comment: str = "", **parameters: Any) -> bytes:
        """Encode a response for `respond`; `data_set` is already encoded."""
        if comment:
            parameters["ErrorComment"] = error_comment(comment)
        command = encoded_command(self._response(status, **parameters), data_set is not None)
        return message_pdus(self.context.context_id, command, self.association.fragment_bytes, data_set)

    def responses_pdus(self, status: int) -> Callable[[bytes], bytes]:
        """Return the encoder of responses that differ only in their data sets: their command set is encoded once."""
        context_id, size = self.context.context_id, self.association.fragment_bytes
        command = message_pdus(context_id, encoded_command(self._response(status), True), size)
        return lambda data_set: command + b"".join(fragment_pdus(context_id, False, [data_set], size))

    def report(self, counts: Mapping[Element, int]) -> None:
        """Send a pending response with the counts of sub-operations, one for every instance of a retrieve."""
        command = encode_command(
            {
                Element.AFFECTED_SOP_CLASS_UID: self.context.abstract_syntax,
                Element.COMMAND_FIELD: self._command.field | RESPONSE,
                Element.MESSAGE_ID_RESPONDED_TO: self.message_id,
                Element.DATA_SET_TYPE: NO_DATA_SET,
                Element.STATUS: PENDING,
                **counts,
            }
        )
        self.association.send_pdus(message_pdus(self.context.context_id, command, self.association.fragment_bytes))

    def _response(self, status: int, **parameters: Any) -> Any:
        return primitive_of(
            self._kind,
            MessageIDBeingRespondedTo=self.message_id,
            AffectedSOPClassUID=self.context.abstract_syntax,
            Status=status,
            **parameters,
        )

    def next_message_id(self) -> int:
        """Return a *Message ID* (0000,0110) for our next request; never that of the operation (PS3.7 9.1.1.1.1)."""
        message_id = self.association.next_message_id()
        return message_id if message_id != self.message_id else self.association.next_message_id()
