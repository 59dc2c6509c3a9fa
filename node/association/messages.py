"""Assemble the DIMSE messages of one association; C-STORE is served here (PS3.7 6.3, PS3.8 E)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from node.association import framing
from node.association.framing import Piece, Violation
from node.association.services.c_store import Context, Reception, StoreService
from node.dicom.command import C_CANCEL_RQ, C_STORE_RQ, Command, decode_command, encode_c_store_response
from node.dicom.status import Answer
from node.settings.model import Dicom

MAXIMUM_IDENTIFIER_BYTES = 64_000_000
"""Longest data set of any message but C-STORE: a storage commitment of a few hundred thousand instances."""


class MessageCarrier(Protocol):
    """The layer that carries the messages of an association."""

    def send(self, data: bytes) -> None:
        """Send encoded PDUs to the peer."""

    def hand_on(self, context_id: int, is_command: bool, last: bool, fragment: bytes | memoryview) -> None:
        """Pass on a fragment that `Messages` does not serve; a whole message is answered before more is read."""

    def is_serving(self) -> bool:
        """Whether another thread serves a request: one operation at a time (PS3.7 D.3.3.3)."""

    def cancel(self, message_id: int) -> None:
        """Record that the peer cancelled an operation (C-CANCEL-RQ, PS3.7 9.3.2.3)."""

    def answered(self, response: Command) -> None:
        """Take the answer to our own request."""


class Messages:
    """The message that is arriving on an association.

    Parameters
    ----------
    carrier : MessageCarrier
    dicom : Dicom
    service : StoreService
    contexts : mapping of int to Context
        Accepted presentation contexts by ID.
    peer_maximum_bytes : int
        The peer's *Maximum Length Received* (PS3.8 D.1); 0 is no limit.
    """

    def __init__(
        self,
        carrier: MessageCarrier,
        dicom: Dicom,
        service: StoreService,
        contexts: Mapping[int, Context],
        peer_maximum_bytes: int,
    ) -> None:
        self._carrier, self._dicom, self._service, self._contexts = carrier, dicom, service, contexts
        self._peer_maximum_bytes = peer_maximum_bytes
        self._context: Context | None = None  # of the message that is arriving
        self._command = bytearray()
        self._request: Command | None = None  # once its command set is whole
        self._reception: Reception | None = None  # unless pynetdicom serves it
        self._data_bytes = 0
        self._held: bytes | None = None  # command set of a request that came while another request is served

    @property
    def is_holding(self) -> bool:
        """Whether a request waits for the request before it; nothing may be taken until `resume`."""
        return self._held is not None

    def resume(self) -> None:
        """Continue with the request that was held."""
        held, self._held = self._held, None
        context, request = self._context, self._request
        if held is not None and context is not None and request is not None:
            self._begin(held, request, context)
            if not request.has_data_set:
                self._complete(request)

    @property
    def under_way(self) -> bool:
        """Whether a message has begun and is incomplete."""
        return self._context is not None

    def take(self, piece: Piece) -> bool:
        """Process the next piece; return whether it completed a message, which is then served.

        Raises
        ------
        Violation
            Pieces out of order, on a context that was not accepted, or a message beyond all limits.
        MalformedCommand
            The command set cannot be read.
        """
        if piece.is_command:
            self._take_command(piece)
        else:
            self._take_data(piece)
        if self._held is not None:
            return False
        if not (piece.last and self._request is not None and (not piece.is_command or not self._request.has_data_set)):
            return False
        self._complete(self._request)
        return True

    def abandon(self) -> None:
        """Drop the message that was arriving: the peer is gone."""
        reception, self._reception = self._reception, None
        if reception is not None:
            reception.abandon()

    def _take_command(self, piece: Piece) -> None:
        if self._request is not None or (self._context is not None and piece.context_id != self._context.context_id):
            raise Violation("a command set within another message", framing.INVALID_PARAMETER)
        self._context = context = self._contexts.get(piece.context_id)
        if context is None:
            raise Violation("a presentation context that was not accepted", framing.INVALID_PARAMETER)
        self._command += piece.data
        if len(self._command) > framing.MAXIMUM_COMMAND_BYTES:
            raise Violation("a command set of more than 64 KB", framing.INVALID_PARAMETER)
        if not piece.last:
            return
        encoded = bytes(self._command)
        self._command.clear()
        self._data_bytes = 0
        self._request = request = decode_command(encoded)
        if request.field == C_CANCEL_RQ:
            self._carrier.cancel(request.responded_to or 0)
        elif request.is_response:
            self._carrier.answered(request)
        elif self._carrier.is_serving():
            self._held = encoded
        else:
            self._begin(encoded, request, context)

    def _begin(self, encoded: bytes, request: Command, context: Context) -> None:
        """Serve a request here, or pass it on."""
        if request.field == C_STORE_RQ:
            self._reception = self._service.begin(request, context)
        else:
            self._carrier.hand_on(context.context_id, True, True, encoded)

    def _take_data(self, piece: Piece) -> None:
        if self._request is None or self._context is None or piece.context_id != self._context.context_id:
            raise Violation("data set bytes that belong to no command set", framing.INVALID_PARAMETER)
        self._data_bytes += len(piece.data)
        if self._data_bytes > self._max_data_bytes(self._request):
            raise Violation("a data set without end", framing.INVALID_PARAMETER)
        if self._reception is not None:
            self._reception.write(piece.data)
        elif self._request.is_response or self._request.field == C_CANCEL_RQ:
            return  # the data set of an N-EVENT-REPORT-RSP is not needed (PS3.7 10.1.1.1.8)
        else:
            self._carrier.hand_on(piece.context_id, False, piece.last, piece.data)

    def _max_data_bytes(self, request: Command) -> int:
        """Return the data set length at which the association is aborted; pynetdicom holds identifiers in memory."""
        return 2 * self._dicom.maximum_instance_bytes if request.field == C_STORE_RQ else MAXIMUM_IDENTIFIER_BYTES

    def _complete(self, request: Command) -> None:
        context, reception = self._context, self._reception
        self._request = self._reception = self._context = None
        if reception is not None and context is not None:
            self._respond(request, context.context_id, reception.finish())

    def _respond(self, request: Command, context_id: int, answer: Answer) -> None:
        """Send a C-STORE-RSP in fragments that fit the peer's *Maximum Length Received* (PS3.8 D.1)."""
        body = encode_c_store_response(request, answer)
        step = max(self._peer_maximum_bytes - framing.PDV_HEADER_BYTES, 2) if self._peer_maximum_bytes else len(body)
        self._carrier.send(
            b"".join(
                framing.data_pdu(context_id, True, at + step >= len(body), body[at : at + step])
                for at in range(0, len(body), step)
            )
        )
