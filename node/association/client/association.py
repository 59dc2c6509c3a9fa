"""An association with the node as its requestor (PS3.8 7.1.1), on one thread that sends and waits for the answer.

pynetdicom encodes and decodes the negotiation. The rest needs no state table, because the two sides take turns.

The shortest association is one for C-ECHO: whether a peer answers (PS3.7 9.1.5).
"""

import socket
import ssl
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from io import BytesIO
from time import monotonic, perf_counter
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom.dimse_primitives import C_ECHO
from pynetdicom.dsutils import decode
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import A_ASSOCIATE
from pynetdicom.presentation import PresentationContext, build_context, build_role, negotiate_as_requestor

from node.association import framing
from node.association.association import (
    ACCEPTED,
    AcceptedContext,
    Association,
    DimseMessage,
    UndecodablePdu,
    decoded_primitive,
    own_user_information,
    peer_maximum_bytes,
    primitive_of,
    roles_of,
)
from node.association.client.addresses import Address
from node.association.framing import (
    MAXIMUM_PDU_BYTES,
    Framing,
    InstanceBytes,
    OtherPdu,
    Piece,
    SourceLost,
    Violation,
    short_pdu,
)
from node.association.transport import bound_waits, send_parts
from node.dicom.command import CommandSet, Element, MalformedCommand, decode_command
from node.dicom.encoding import IMPLICIT_LITTLE_ENDIAN
from node.dicom.header import require_few_elements
from node.dicom.status import SUCCESS
from node.dicom.uids import APPLICATION_CONTEXT, VERIFICATION
from node.errors import PeerFailed, VoxelnodeError
from node.runtime.network import OutOfReach
from node.runtime.tls import failure_reason

MAXIMUM_CONTEXTS = 128
"""Presentation contexts of one association: their IDs are the odd numbers up to 255 (PS3.8 9.3.2.2)."""


class NoAssociation(PeerFailed):
    """The peer cannot be reached or rejects the association; the message says why."""


class NothingAccepted(NoAssociation):
    """The peer accepts associations, but no presentation context of this one."""


Roles = Mapping[str, tuple[bool, bool]]
"""The roles (SCU, SCP) that we propose, by abstract syntax."""


def contexts_of(kinds: Iterable[tuple[str, Sequence[str]]]) -> list[PresentationContext]:
    """Return a presentation context for each (abstract syntax, transfer syntaxes)."""
    return [build_context(abstract_syntax, list(syntaxes)) for abstract_syntax, syntaxes in kinds]


def request_pdu(
    calling_ae_title: str, called_ae_title: str, contexts: Sequence[PresentationContext], roles: Roles
) -> bytes:
    """Encode an A-ASSOCIATE-RQ (PS3.8 9.3.2); numbers the contexts 1, 3, 5, ..."""
    primitive = A_ASSOCIATE()
    primitive.application_context_name = UID(APPLICATION_CONTEXT)
    primitive.calling_ae_title = primitive.called_ae_title = "ANY"  # pynetdicom refuses titles that real devices have
    for number, context in enumerate(contexts):
        context.context_id = 2 * number + 1
        context.scu_role, context.scp_role = roles.get(str(context.abstract_syntax), (None, None))
    primitive.presentation_context_definition_list = list(contexts)
    primitive.user_information = own_user_information(MAXIMUM_PDU_BYTES)
    primitive.user_information += [build_role(syntax, scu, scp) for syntax, (scu, scp) in roles.items()]
    pdu = A_ASSOCIATE_RQ()
    pdu.from_primitive(primitive)
    encoded = bytes(pdu.encode())
    titles = b"".join(title.encode("latin-1").ljust(16) for title in (called_ae_title, calling_ae_title))
    return encoded[:10] + titles + encoded[42:]  # PS3.8 table 9-11


def rejection_reason(data: bytes) -> str:
    """Return result, source and reason of an A-ASSOCIATE-RJ in words (PS3.8 table 9-21)."""
    answer = decoded_primitive(A_ASSOCIATE_RJ(), data)
    return f"association {answer.result_str.lower()}, {answer.source_str}: {answer.reason_str.lower()}"


BUFFER_BYTES = 262144
LOOK_SECONDS = 0.5
"""Interval at which a wait for a peer checks whether anybody still wants the answer."""

MAXIMUM_DATA_SET_BYTES, MAXIMUM_ELEMENTS = 64_000_000, 200_000
"""Longest data set kept in memory: an identifier, or a list of failed instances."""


class AssociationLost(VoxelnodeError):
    """An open association was lost; the message says why."""


class RequestedAssociation(Association):
    """An association that the node requested; for one thread.

    `is_abandoned`: whether nobody wants the answers of the peer any more.
    `maximum_data_set_bytes`: longest data set of an answer.
    """

    def __init__(self, connected: socket.socket, peer: Address, timeout: float) -> None:
        super().__init__()
        self.peer = peer
        self.timeout = timeout
        self.is_abandoned: Callable[[], bool] = lambda: False
        self.maximum_data_set_bytes = MAXIMUM_DATA_SET_BYTES
        self._socket = connected
        if not isinstance(connected, ssl.SSLSocket):
            bound_waits(connected, min(LOOK_SECONDS, timeout), timeout)
        self._framing = Framing(BUFFER_BYTES, MAXIMUM_PDU_BYTES, MAXIMUM_PDU_BYTES)
        self._is_open = False
        self._has_read = False  # since something was sent, which acknowledges what was read before

    # Negotiation

    def negotiate(self, calling_ae_title: str, contexts: Sequence[PresentationContext], roles: Roles) -> None:
        """Propose `contexts` and `roles`, and process the answer.

        Raises NoAssociation: the peer rejects the association, does not answer, or accepts no context.
        """
        self._framing.expect_answer()
        try:
            self.send_pdus(request_pdu(calling_ae_title, self.peer.ae_title, contexts, roles))
            answer = self._next(self.timeout)
            if isinstance(answer, Piece):
                raise AssociationLost("it sent data before it accepted the association")
            if answer.kind == framing.ASSOCIATE_RJ:
                raise NoAssociation(f"{self.peer}: {rejection_reason(answer.encoded)}")
            if answer.kind != framing.ASSOCIATE_AC:
                raise NoAssociation(f"{self.peer}: it aborted the association request")
            primitive = decoded_primitive(A_ASSOCIATE_AC(), answer.encoded)
        except AssociationLost as error:
            raise NoAssociation(f"{self.peer}: {error}") from error
        except UndecodablePdu as error:
            raise NoAssociation(f"{self.peer}: its answer to the request cannot be decoded") from error
        answers = primitive.presentation_context_definition_results_list
        agreed = negotiate_as_requestor(list(contexts), answers, roles_of(primitive))
        self.agree(
            (
                AcceptedContext(
                    context.context_id or 0,
                    str(context.abstract_syntax),
                    str(context.transfer_syntax[0]),
                    bool(context.as_scu),
                    bool(context.as_scp),
                )
                for context in agreed
                if context.result == ACCEPTED and context.transfer_syntax
            ),
            peer_maximum_bytes(primitive),
        )
        self._framing.expect_data(asks_release=True)
        self._is_open = True
        if not self.accepted:
            self.release()
            refused = "no presentation context was accepted: it does not have this service, or not for this AE title"
            raise NothingAccepted(f"{self.peer}: {refused}")

    # Messages

    def send_instance(self, context_id: int, elements: Mapping[Element, int | str], source: InstanceBytes) -> None:
        """Send a C-STORE-RQ with the bytes of a data set; a file is read while it is sent.

        Raises AssociationLost: the peer is gone, or the file is shorter than it was; the association is aborted.
        """
        try:
            super().send_instance(context_id, elements, source)
        except SourceLost as error:
            raise AssociationLost(f"aborted: {error}") from error

    def receive(self) -> DimseMessage:
        """Return the next message of the peer.

        Raises AssociationLost: the peer ended the association, or did not answer in time.
        """
        command: CommandSet | None = None
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
                    return DimseMessage(piece.context_id, command)
            else:
                data_set += piece.data
                self._limit(len(data_set), self.maximum_data_set_bytes)
                if piece.last and command is not None:
                    return DimseMessage(piece.context_id, command, bytes(data_set))

    def next_piece(self) -> Piece:
        """Return the next piece of a message."""
        unit = self._next(self.timeout)
        if isinstance(unit, Piece):
            return unit
        self._is_open = False
        if unit.kind == framing.RELEASE_RQ:
            with suppress(AssociationLost):
                self.send_pdus(short_pdu(framing.RELEASE_RP))
            raise AssociationLost("it released the association before it answered")
        raise AssociationLost("it aborted the association")

    def request(self, primitive: Any, data_set: Dataset | None = None) -> DimseMessage:
        """Send a request in the first of the accepted contexts and return its first answer."""
        self.send_message(next(iter(self.accepted)), primitive, data_set)
        return self.receive()

    def answer_to(self, message_id: int) -> CommandSet:
        """Return the response to a request that has one response only, without its data set.

        Raises AssociationLost: the peer sent something else first: its answers would be taken for those of other
            requests.
        """
        answer = self.receive().command
        if not answer.is_response or answer.responded_to != message_id:
            raise AssociationLost("it violates the protocol: its answer is not to the request that was sent")
        return answer

    def decoded(self, message: DimseMessage) -> Dataset:
        """Return the decoded data set of a message.

        Raises AssociationLost: the data set cannot be decoded.
        """
        try:
            syntax = UID(self.accepted[message.context_id].transfer_syntax_uid)
            require_few_elements(message.data_set or b"", syntax, MAXIMUM_ELEMENTS)
            return decode(BytesIO(message.data_set or b""), syntax.is_implicit_VR, syntax.is_little_endian, False)
        except Exception as error:  # any error of pydicom on a peer's bytes
            raise AssociationLost("it sent a data set that cannot be decoded") from error

    # Ends

    def release(self) -> None:
        """Release the association (PS3.8 7.2) and close the connection, whatever happens."""
        try:
            if self._is_open:
                self._is_open = False
                self.send_pdus(short_pdu(framing.RELEASE_RQ))
                while not isinstance(self._next(self.timeout), OtherPdu):
                    pass  # pieces that were on their way before the release
        except AssociationLost:
            pass
        finally:
            self.close()

    def abort(self) -> None:
        """End the association at once (PS3.8 7.3)."""
        if self._is_open:
            self._is_open = False
            with suppress(AssociationLost):
                self.send_pdus(short_pdu(framing.ABORT))
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._is_open = False
        self._socket.close()

    # The connection

    def send_pdus(self, *parts: bytes | memoryview) -> None:
        """Send encoded PDUs, given in parts that follow each other."""
        self._has_read = False
        try:
            send_parts(self._socket, parts, self.timeout)
        except OSError as error:
            self._is_open = False
            raise AssociationLost(f"the connection failed ({_reason(error)})") from error

    def _next(self, seconds: float) -> Piece | OtherPdu:
        deadline = monotonic() + seconds
        while True:
            try:
                unit = self._framing.next()
            except Violation as violation:
                raise AssociationLost(f"it violates the protocol: {violation}") from violation
            if unit is not None:
                return unit
            self._read(deadline, seconds)

    def _read(self, deadline: float, seconds: float) -> None:
        try:
            if isinstance(self._socket, ssl.SSLSocket):
                self._socket.settimeout(min(LOOK_SECONDS, seconds))
            if self._has_read:
                # A peer with Nagle's algorithm sends the rest of an answer only after we acknowledged its beginning.
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            count = self._socket.recv_into(self._framing.space())
        except (TimeoutError, BlockingIOError) as error:
            if self.is_abandoned():
                raise AssociationLost("nobody waits for its answer any more") from error
            if monotonic() < deadline:
                return
            raise AssociationLost(f"it did not answer within {seconds:g} s") from error
        except OSError as error:
            raise AssociationLost(f"the connection failed ({_reason(error)})") from error
        if not count:
            self._is_open = False
            raise AssociationLost("it closed the connection")
        self._has_read = True
        self._framing.filled(count)

    def _command(self, encoded_command: bytes) -> CommandSet:
        try:
            return decode_command(encoded_command)
        except MalformedCommand as error:
            raise AssociationLost(f"it violates the protocol: {error}") from error

    def _limit(self, count: int, maximum: int) -> None:
        if count > maximum:
            raise AssociationLost(f"it sent a message of more than {maximum} bytes")


@contextmanager
def association(
    peer: Address,
    calling_ae_title: str,
    contexts: Sequence[PresentationContext],
    timeout: float,
    roles: Roles | None = None,
    is_abandoned: Callable[[], bool] = lambda: False,
) -> Iterator[RequestedAssociation]:
    """Open an association for a ``with`` block: released at its end, aborted after an error.

    `timeout`: longest wait for the connection, for its acceptance and for each response.
    `is_abandoned`: called every half second of a wait for a response; True ends the association.

    Raises NoAssociation: the address does not answer, or the peer rejects the association.
    """
    assoc = _associated(peer, calling_ae_title, contexts, timeout, roles or {})
    assoc.is_abandoned = is_abandoned
    try:
        yield assoc
    except BaseException:
        assoc.abort()
        raise
    else:
        assoc.release()


def _associated(
    peer: Address, calling_ae_title: str, contexts: Sequence[PresentationContext], timeout: float, roles: Roles
) -> RequestedAssociation:
    try:
        if peer.reach is not None:
            plain = peer.reach.connected(peer.host, peer.port, timeout)
        else:
            plain = socket.create_connection((peer.host, peer.port), timeout)
    except OutOfReach as error:
        raise NoAssociation(str(error)) from error
    except OSError as error:
        raise NoAssociation(
            f"{peer.host} port {peer.port} does not answer ({error.strerror or error}): check that it is running"
        ) from error
    try:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connected = plain if peer.tls is None else peer.tls.wrap_socket(plain, server_hostname=peer.host)
    except OSError as error:
        plain.close()
        raise NoAssociation(f"{peer}: TLS failed: {failure_reason(error)}") from error
    assoc = RequestedAssociation(connected, peer, timeout)
    try:
        assoc.negotiate(calling_ae_title, contexts, roles)
    except BaseException:
        assoc.close()
        raise
    return assoc


def _reason(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__


class EchoFailed(VoxelnodeError):
    """The peer accepted the association but did not answer C-ECHO with success."""


def verify(peer: Address, calling_ae_title: str, timeout: float) -> float:
    """Verify a peer: connect, associate, C-ECHO. Return the seconds it took.

    Raises NoAssociation: the address does not answer, or the peer rejects the association.
    Raises EchoFailed: C-ECHO was not answered in time, or not with success.
    """
    began = perf_counter()
    try:
        with association(
            peer, calling_ae_title, contexts_of([(VERIFICATION, [IMPLICIT_LITTLE_ENDIAN])]), timeout
        ) as assoc:
            request = primitive_of(C_ECHO, MessageID=assoc.next_message_id(), AffectedSOPClassUID=VERIFICATION)
            response = assoc.request(request).command
            took = perf_counter() - began
    except AssociationLost as error:
        raise EchoFailed(f"{peer} did not answer C-ECHO: {error}") from error
    if response.status != SUCCESS:
        raise EchoFailed(f"{peer} answered C-ECHO with 0x{response.status or 0:04X} {response.comment}".rstrip())
    return took
