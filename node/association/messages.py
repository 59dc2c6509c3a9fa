"""Assemble the DIMSE messages of one association; C-STORE is served here, while it arrives (PS3.7 6.3, PS3.8 E)."""

from collections.abc import Callable, Mapping
from typing import Protocol

from node.association import framing
from node.association.association import MAXIMUM_OTHER_BYTES, AcceptedContext, DimseMessage, maximum_bytes
from node.association.framing import Piece, Violation, fragment_pdus
from node.association.services.c_store import Reception, StoreService
from node.dicom.command import C_CANCEL_RQ, C_STORE_RQ, CommandSet, decode_command, encode_c_store_response
from node.dicom.status import ResponseStatus


class MessageCarrier(Protocol):
    """The association that carries the messages."""

    @property
    def accepted(self) -> Mapping[int, AcceptedContext]:
        """The accepted presentation contexts by ID."""

    @property
    def fragment_bytes(self) -> int:
        """Size of the fragments that the peer takes."""

    def send_pdus(self, *parts: bytes | memoryview) -> None:
        """Send encoded PDUs to the peer, given in parts that follow each other."""


class Messages:
    """The message that is arriving on an association.

    A C-STORE is written and answered here. Every other request is returned to the owner of the association, which
    serves it (`is_serving`) and may take further pieces meanwhile: a C-CANCEL, answers to its own requests, and the
    command set of one more request, which is then held.

    `on_answer`: called for each answer to a request of the node; `on_cancel`: called with the *Message ID* of each
    operation that the peer cancels (C-CANCEL-RQ, PS3.7 9.3.2.3).
    """

    def __init__(
        self,
        carrier: MessageCarrier,
        service: StoreService,
        on_answer: Callable[[CommandSet], None],
        on_cancel: Callable[[int], None] = lambda message_id: None,
    ) -> None:
        self._carrier, self._service = carrier, service
        self._on_answer, self._on_cancel = on_answer, on_cancel
        self.is_serving = False
        """Whether the owner serves a request: one operation at a time (PS3.7 D.3.3.3)."""
        self._context: AcceptedContext | None = None  # of the message that is arriving
        self._command = bytearray()
        self._request: CommandSet | None = None  # once its command set is whole
        self._reception: Reception | None = None  # of a C-STORE
        self._data = bytearray()  # of any other request
        self._data_bytes = 0
        self.is_holding = False
        """Whether a request waits for the request before it; nothing may be taken until `resume`."""

    @property
    def under_way(self) -> bool:
        """Whether a message has begun and is incomplete."""
        return self._context is not None

    def resume(self) -> DimseMessage | None:
        """Continue with the request that was held; return it if it is whole and to be served."""
        self.is_holding = False
        if self._request is None or self._context is None:
            return None
        self._begin(self._request, self._context)
        return None if self._request.has_data_set else self._complete(self._request, self._context)

    def take(self, piece: Piece) -> DimseMessage | None:
        """Process the next piece; return a request that is whole and to be served.

        Raises Violation: pieces out of order, on a context that was not accepted, or a message beyond all limits.
        Raises MalformedCommand: the command set cannot be read.
        """
        if piece.is_command:
            self._take_command(piece)
        else:
            self._take_data(piece)
        request, context = self._request, self._context
        if not piece.last or self.is_holding or request is None or context is None:
            return None
        if piece.is_command and request.has_data_set:
            return None
        return self._complete(request, context)

    def abandon(self) -> None:
        """Drop the message that was arriving: the peer is gone."""
        reception, self._reception = self._reception, None
        if reception is not None:
            reception.abandon()

    def _take_command(self, piece: Piece) -> None:
        if self._request is not None or (self._context is not None and piece.context_id != self._context.context_id):
            raise Violation("a command set within another message", framing.INVALID_PARAMETER)
        self._context = context = self._carrier.accepted.get(piece.context_id)
        if context is None:
            raise Violation("a presentation context that was not accepted", framing.INVALID_PARAMETER)
        self._command += piece.data
        if len(self._command) > framing.MAXIMUM_COMMAND_BYTES:
            raise Violation("a command set of more than 64 KB", framing.INVALID_PARAMETER)
        if not piece.last:
            return
        encoded, self._command = self._command, bytearray()
        self._request = request = decode_command(encoded)
        if request.field == C_CANCEL_RQ:
            self._on_cancel(request.responded_to or 0)
        elif request.is_response:
            self._on_answer(request)
        elif self.is_serving:
            self.is_holding = True
        else:
            self._begin(request, context)

    def _begin(self, request: CommandSet, context: AcceptedContext) -> None:
        if request.field == C_STORE_RQ:
            self._reception = Reception(self._service, request, context)

    def _take_data(self, piece: Piece) -> None:
        if self._request is None or self._context is None or piece.context_id != self._context.context_id:
            raise Violation("data set bytes that belong to no command set", framing.INVALID_PARAMETER)
        self._data_bytes += len(piece.data)
        is_stored = self._request.field == C_STORE_RQ  # identifiers are held in memory
        if self._data_bytes > (2 * self._service.ingest.maximum_bytes if is_stored else MAXIMUM_OTHER_BYTES):
            raise Violation("a data set without end", framing.INVALID_PARAMETER)
        if self._reception is not None:
            self._reception.write(piece.data)
        elif self._data_bytes > maximum_bytes(self._request):
            self._data.clear()
        elif not _has_ignored_data(self._request):
            self._data += piece.data

    def _complete(self, request: CommandSet, context: AcceptedContext) -> DimseMessage | None:
        """Answer a C-STORE; return any other request."""
        reception, data, self._data = self._reception, self._data, bytearray()
        is_too_long = self._data_bytes > maximum_bytes(request)
        self._request = self._reception = self._context = None
        self._data_bytes = 0
        if reception is not None:
            self._respond(request, context.context_id, reception.finish())
            return None
        if _has_ignored_data(request):
            return None
        return DimseMessage(context.context_id, request, None if is_too_long else bytes(data))

    def _respond(self, request: CommandSet, context_id: int, answer: ResponseStatus) -> None:
        body = encode_c_store_response(request, answer)
        self._carrier.send_pdus(*fragment_pdus(context_id, True, [body], self._carrier.fragment_bytes))


def _has_ignored_data(command: CommandSet) -> bool:
    """Whether the data set of a message is dropped: that of an N-EVENT-REPORT-RSP is not needed (PS3.7 10.1.1.1.8)."""
    return command.is_response or command.field == C_CANCEL_RQ
