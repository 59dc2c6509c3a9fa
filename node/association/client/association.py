"""Our side as the one who asks for an association (PS3.8 7.1.1): one thread, which sends and waits for the answer.

pynetdicom encodes and decodes the negotiation; what follows needs no state machine, since nothing happens at once.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from io import BytesIO
from time import monotonic

from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom.dsutils import decode
from pynetdicom.pdu import A_ABORT_RQ, A_ASSOCIATE_AC, A_RELEASE_RP, A_RELEASE_RQ
from pynetdicom.pdu_primitives import A_RELEASE
from pynetdicom.presentation import PresentationContext

from node.association import framing
from node.association.client.negotiation import (
    Accepted,
    NoAssociation,
    Roles,
    Undecodable,
    accepted_contexts,
    decoded_answer,
    encoded_pdu,
    peer_maximum_bytes,
    request_pdu,
    why_rejected,
)
from node.association.framing import Framing, OtherPdu, Piece, Violation
from node.association.outgoing import (
    MAXIMUM_PDU_BYTES,
    InstanceBytes,
    SourceLost,
    encoded,
    fragment_bytes,
    fragment_pdus,
    message_pdus,
    request_pdus,
)
from node.dicom.command import Command, Element, MalformedCommand, decode_command
from node.errors import VoxelnodeError

BUFFER_BYTES = 262144
MAXIMUM_DATA_SET_BYTES = 64_000_000
"""Longest data set that is kept in memory: an identifier, or a list of what failed."""


class AssociationLost(VoxelnodeError):
    """An association that was open broke; the message says why, as far as is known."""


@dataclass(frozen=True, slots=True)
class Address:
    """Another application entity, and where it listens.

    `tls` is None for plain TCP.
    """

    ae_title: str
    host: str
    port: int
    tls: ssl.SSLContext | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return f"{self.ae_title} at {self.host} port {self.port}"


@dataclass(frozen=True, slots=True)
class Message:
    """A whole DIMSE message of the peer; `data_set` is as encoded."""

    context_id: int
    command: Command
    data_set: bytes = b""


@contextmanager
def association(
    peer: Address,
    calling_ae_title: str,
    contexts: Sequence[PresentationContext],
    timeout: float,
    roles: Roles | None = None,
) -> Iterator[Association]:
    """Open an association and release it at the end; after an error of the block it is aborted.

    Parameters
    ----------
    timeout : float, seconds
        Longest wait for the connection, for its acceptance and for each response.

    Raises
    ------
    NoAssociation
        Nobody answers at the address, or the answer is no.
    """
    assoc = _associated(peer, calling_ae_title, contexts, timeout, roles or {})
    try:
        yield assoc
    except BaseException:
        assoc.abort()
        raise
    else:
        assoc.release()


def _associated(
    peer: Address, calling_ae_title: str, contexts: Sequence[PresentationContext], timeout: float, roles: Roles
) -> Association:
    try:
        plain = socket.create_connection((peer.host, peer.port), timeout)
    except OSError as error:
        raise NoAssociation(
            f"nothing answers at {peer.host} port {peer.port} ({error.strerror or error}): is it running there?"
        ) from error
    try:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connected = plain if peer.tls is None else peer.tls.wrap_socket(plain, server_hostname=peer.host)
    except OSError as error:
        plain.close()
        raise NoAssociation(f"{peer}: TLS failed: {getattr(error, 'reason', None) or error}") from error
    assoc = Association(connected, peer, timeout)
    try:
        assoc.negotiate(calling_ae_title, contexts, roles)
    except BaseException:
        assoc.close()
        raise
    return assoc


class Association:
    """An association that we asked for; for one thread.

    Attributes
    ----------
    peer : Address
    accepted : list of Accepted
    peer_maximum_bytes : int
        Its *Maximum Length Received* (PS3.8 D.1); 0 is no limit.
    """

    def __init__(self, connected: socket.socket, peer: Address, timeout: float) -> None:
        self.peer = peer
        self.accepted: list[Accepted] = []
        self.timeout = timeout
        self.peer_maximum_bytes = 0
        self._socket = connected
        self._framing = Framing(BUFFER_BYTES, MAXIMUM_PDU_BYTES, MAXIMUM_PDU_BYTES)
        self._fragment_bytes = MAXIMUM_PDU_BYTES
        self._is_open = False
        self._message_id = 0

    # Negotiation

    def negotiate(self, calling_ae_title: str, contexts: Sequence[PresentationContext], roles: Roles) -> None:
        """Propose `contexts` and `roles`, and take the answer.

        Raises
        ------
        NoAssociation
            The answer is no, or there is none.
        """
        self._framing.expect_answer()
        try:
            self.send_pdus(request_pdu(calling_ae_title, self.peer.ae_title, contexts, roles))
            answer = self._other_pdu(self.timeout)
            if answer.kind == framing.ASSOCIATE_RJ:
                raise NoAssociation(f"{self.peer}: {why_rejected(answer.encoded)}")
            if answer.kind != framing.ASSOCIATE_AC:
                raise NoAssociation(f"{self.peer}: it aborted the association that was asked for")
            primitive = decoded_answer(A_ASSOCIATE_AC(), answer.encoded)
        except (AssociationLost, Undecodable) as error:
            raise NoAssociation(f"{self.peer}: {error}") from error
        self.accepted = list(accepted_contexts(primitive, contexts, roles))
        self.peer_maximum_bytes = peer_maximum_bytes(primitive)
        self._fragment_bytes = fragment_bytes(self.peer_maximum_bytes)
        self._framing.expect_data(as_requestor=True)
        self._is_open = True
        if not self.accepted:
            self.release()
            raise NoAssociation(f"{self.peer}: no presentation context was accepted")

    def accepted_for(self, abstract_syntax: str) -> Mapping[str, int]:
        """Accepted contexts in which we are the SCU of an abstract syntax: their IDs by transfer syntax."""
        return {
            one.transfer_syntax_uid: one.context_id
            for one in self.accepted
            if one.abstract_syntax == abstract_syntax and one.as_scu
        }

    # Messages

    def next_message_id(self) -> int:
        """A *Message ID* (0000,0110) for a request."""
        self._message_id = self._message_id % 65535 + 1
        return self._message_id

    def send_command(
        self, context_id: int, elements: Mapping[Element, int | str], data_set: Dataset | None = None
    ) -> None:
        """Send a message; `data_set` is encoded as its context was agreed.

        Raises
        ------
        AssociationLost
        """
        data = None if data_set is None else encoded(data_set, self.syntax_of(context_id))
        self.send_pdus(message_pdus(context_id, elements, self._fragment_bytes, data))

    def send_instance(self, context_id: int, elements: Mapping[Element, int | str], source: InstanceBytes) -> None:
        """Send a C-STORE-RQ with the bytes of a data set; a file is read as it is sent.

        Raises
        ------
        AssociationLost
            The peer is gone, or the file has become shorter: the association is aborted then.
        """
        self.send_pdus(request_pdus(context_id, elements, self._fragment_bytes))
        try:
            with source.fragments(self._fragment_bytes) as fragments:
                for pdu in fragment_pdus(context_id, False, fragments, self._fragment_bytes):
                    self.send_pdus(pdu)
        except SourceLost as error:
            raise AssociationLost(f"given up: {error}") from error

    def receive(self) -> Message:
        """Return the next message of the peer.

        Raises
        ------
        AssociationLost
            The peer has ended the association, or says nothing in time.
        """
        command: Command | None = None
        encoded_command, data_set = bytearray(), bytearray()
        while True:
            piece = self.next_piece()
            if piece.is_command:
                encoded_command += piece.data
                self._limit(len(encoded_command), framing.MAXIMUM_COMMAND_BYTES)
                if not piece.last:
                    continue
                command = self._command(bytes(encoded_command))
                if not command.has_data_set:
                    return Message(piece.context_id, command)
            else:
                data_set += piece.data
                self._limit(len(data_set), MAXIMUM_DATA_SET_BYTES)
                if piece.last and command is not None:
                    return Message(piece.context_id, command, bytes(data_set))

    def next_piece(self) -> Piece:
        """Return the next piece of a message.

        Raises
        ------
        AssociationLost
        """
        found = self._next(self.timeout)
        if isinstance(found, Piece):
            return found
        self._is_open = False
        if found.kind == framing.RELEASE_RQ:
            with suppress(AssociationLost):
                self.send_pdus(encoded_pdu(A_RELEASE_RP(), A_RELEASE()))
            raise AssociationLost("it released the association before it had answered")
        raise AssociationLost("it aborted the association")

    def request(
        self, context_id: int, elements: Mapping[Element, int | str], data_set: Dataset | None = None
    ) -> Message:
        """Send a request and return the (first) answer.

        Raises
        ------
        AssociationLost
        """
        self.send_command(context_id, elements, data_set)
        return self.receive()

    def decoded(self, message: Message) -> Dataset:
        """The data set of a message.

        Raises
        ------
        AssociationLost
            It cannot be decoded.
        """
        syntax = UID(self.syntax_of(message.context_id))
        try:
            return decode(BytesIO(message.data_set), syntax.is_implicit_VR, syntax.is_little_endian, False)
        except Exception as error:  # whatever pydicom makes of a peer's bytes
            raise AssociationLost("it sent a data set that cannot be decoded") from error

    def syntax_of(self, context_id: int) -> str:
        """The transfer syntax of an accepted context."""
        return next(one.transfer_syntax_uid for one in self.accepted if one.context_id == context_id)

    # Ends

    def release(self) -> None:
        """End the association as both sides agree to (PS3.8 7.2); whatever happens, the connection is closed."""
        try:
            if self._is_open:
                self._is_open = False
                self.send_pdus(encoded_pdu(A_RELEASE_RQ(), A_RELEASE()))
                while not isinstance(self._next(self.timeout), OtherPdu):
                    pass  # what was under way when we asked
        except AssociationLost:
            pass
        finally:
            self.close()

    def abort(self) -> None:
        """End the association at once (PS3.8 7.3)."""
        if self._is_open:
            self._is_open = False
            pdu = A_ABORT_RQ()
            pdu.source, pdu.reason_diagnostic = 0, 0
            with suppress(AssociationLost):
                self.send_pdus(pdu.encode())
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._is_open = False
        self._socket.close()

    # The connection

    def send_pdus(self, data: bytes) -> None:
        """Send encoded PDUs.

        Raises
        ------
        AssociationLost
        """
        try:
            self._socket.settimeout(self.timeout)
            self._socket.sendall(data)
        except OSError as error:
            self._is_open = False
            raise AssociationLost(f"the connection broke ({_reason(error)})") from error

    def _other_pdu(self, seconds: float) -> OtherPdu:
        found = self._next(seconds)
        if not isinstance(found, OtherPdu):
            raise AssociationLost("it sent data before it accepted the association")
        return found

    def _next(self, seconds: float) -> Piece | OtherPdu:
        deadline = monotonic() + seconds
        while True:
            try:
                found = self._framing.next()
            except Violation as violation:
                raise AssociationLost(f"it breaks the protocol: {violation}") from violation
            if found is not None:
                return found
            self._read(max(deadline - monotonic(), 0.0), seconds)

    def _read(self, left: float, seconds: float) -> None:
        try:
            self._socket.settimeout(max(left, 0.001))
            # A peer that leaves Nagle's algorithm on sends the rest of an answer once its beginning is acknowledged.
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            count = self._socket.recv_into(self._framing.space())
        except TimeoutError as error:
            raise AssociationLost(f"it did not answer within {seconds:g} s") from error
        except OSError as error:
            raise AssociationLost(f"the connection broke ({_reason(error)})") from error
        if not count:
            self._is_open = False
            raise AssociationLost("it closed the connection")
        self._framing.filled(count)

    def _command(self, encoded_command: bytes) -> Command:
        try:
            return decode_command(encoded_command)
        except MalformedCommand as error:
            raise AssociationLost(f"it breaks the protocol: {error}") from error

    def _limit(self, count: int, most: int) -> None:
        if count > most:
            raise AssociationLost(f"it sent a message of more than {most} bytes")


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__
