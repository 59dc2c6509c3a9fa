"""The upper layer of an accepted association (PS3.8): it reads with limits and deadlines, and serves C-STORE itself.

pynetdicom keeps the negotiation, the state machine (PS3.8 9.2), release, abort and every DIMSE service but C-STORE.
This module replaces `pynetdicom.dul` and is the only one that uses private names of pynetdicom;
`tests/protocol/test_pynetdicom_contract.py` fails when one of them changes. This upper layer

* reads into one buffer that never grows, whatever length a PDU, a message or an instance claims;
* waits in `recv`, not in a polling loop, and parks pynetdicom's other thread while that has nothing to do;
* bounds every wait: connection, TLS, request, PDU, idleness, and a peer that does not read our answers;
* serves C-STORE from the first fragment to the response (`association.messages`);
* lets the thread that serves a request look at the connection meanwhile, for C-CANCEL and for answers to our own
  requests on the same association (`UpperLayer.listen`).
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal

import structlog
from pynetdicom.dul import DULServiceProvider
from pynetdicom.fsm import TRANSITION_TABLE
from pynetdicom.pdu import A_ABORT_RQ
from pynetdicom.pdu_primitives import A_P_ABORT
from pynetdicom.timer import Timer

from node.association import framing
from node.association.admission import Admission, Connection
from node.association.framing import Framing, Piece, Violation
from node.association.messages import Messages
from node.association.services.c_store import StoreService, context_of
from node.dicom.command import Command, MalformedCommand
from node.errors import VoxelnodeError
from node.index.records import Refused
from node.metrics import Metrics
from node.settings.model import Dicom
from node.tls import failure_reason

logger = structlog.get_logger()

BUFFER_BYTES = 262144
"""Size of the receive buffer of one association."""

TICK_SECONDS = 2.0
"""Longest wait before the deadlines are checked again."""

MIN_BYTES_PER_SECOND = 1024
"""Slowest rate of a PDU; it extends the time that [dicom] pdu_seconds grants to every PDU."""

_SERVICE_USER, _SERVICE_PROVIDER = 0, 2
"""Sources of an A-ABORT, PS3.8 table 9-26."""

_OPEN, _CLOSED, _AWAITING_REQUEST, _AWAITING_CLOSE = "Sta6", "Sta1", "Sta2", "Sta13"
_NOT_YET = (BlockingIOError, TimeoutError)

MAX_QUEUED_PDUS = 8
"""Primitives that the serving thread may queue for this thread to send, before it waits."""

QUEUE_SECONDS = 0.0005
"""Pause between two looks at pynetdicom's queue, which cannot signal that it is empty."""

MAX_KEPT_ANSWERS = 8
"""Answers kept until the serving thread asks for them; it waits for one at a time."""

MAX_PIECES_PER_LOOK = 64
"""Pieces read at one look for C-CANCEL, so that a peer that never stops sending is answered all the same."""


class PeerGone(VoxelnodeError):
    """The association ended while a request was served."""


class MonotonicTimer(Timer):
    """pynetdicom's timer on the monotonic clock: a step of the system clock must not end associations."""

    def __init__(self, timeout: float | None) -> None:
        super().__init__(timeout)
        self._deadline: float | None = None

    def start(self) -> None:
        """Start or restart the timer."""
        self._deadline = None if self.timeout is None else time.monotonic() + self.timeout

    def stop(self) -> None:
        """Stop the timer; it does not expire."""
        self._deadline = None

    @property
    def expired(self) -> bool:
        """Whether the timeout has passed since `start`."""
        return self._deadline is not None and time.monotonic() > self._deadline


class UpperLayer(DULServiceProvider):
    """The upper layer of one accepted connection, on a thread of its own.

    Parameters
    ----------
    assoc : Association
        pynetdicom's association; this upper layer replaces the one that it came with.
    address : str
        IP address of the peer.
    """

    def __init__(
        self,
        assoc: Any,
        address: str,
        dicom: Dicom,
        admission: Admission,
        metrics: Metrics,
        tls: ssl.SSLContext | None,
    ) -> None:
        super().__init__(assoc)
        self.daemon = True  # a second signal ends the process even while peers are connected
        self._dicom, self._admission, self._metrics, self._tls = dicom, admission, metrics, tls
        self.artim_timer, self._idle_timer = MonotonicTimer(None), MonotonicTimer(None)
        buffer_bytes = max(BUFFER_BYTES, framing.MAX_REQUEST_BYTES + 6)
        self._framing = Framing(buffer_bytes, dicom.maximum_pdu_bytes, framing.MAX_REQUEST_BYTES)
        self._transport: Any = assoc.dul.socket
        self._tcp: socket.socket = self._transport.socket
        self._tick_seconds = min(TICK_SECONDS, dicom.request_seconds)
        self._attention = threading.Event()
        self._draining = self._serving = self._hung_up = self._leaving = False
        self._read_at = time.monotonic()
        self._pdu_deadline: float | None = None
        self._messages: Messages | None = None  # while the association is open
        self.store_service: StoreService | None = None
        self.serve_operation: Callable[[Any, int], bool] = lambda message, context_id: False
        """Serves a request on pynetdicom's thread; returns False for a request that pynetdicom serves itself."""
        self._cancelled: set[int] = set()
        self._answers: deque[Command] = deque(maxlen=MAX_KEPT_ANSWERS)
        self._given_up = False
        self._violation: Violation | MalformedCommand | None = None
        self._transport_lock = threading.Lock()  # TLS cannot be written to and read from at once
        self.outcome = "lost"
        self._take_over(assoc)
        self.connection: Connection = admission.connected(self, address)

    def _take_over(self, assoc: Any) -> None:
        """Replace the upper layer that came with the association."""
        self.socket, self.event_queue, assoc.dul = self._transport, assoc.dul.event_queue, self
        assoc.acse_timeout, assoc.network_timeout = self._dicom.request_seconds, self._dicom.idle_seconds
        assoc._started_dul = True  # the association's own thread is started by a whole A-ASSOCIATE-RQ, not before
        serve = assoc._serve_request

        def serve_request(message: Any, context_id: int) -> None:
            try:
                if not self.serve_operation(message, context_id):
                    serve(message, context_id)
            except PeerGone:
                pass  # there is no peer left to answer
            except Exception as error:
                self._log().error("operation_failed", exc_info=error)
                self._given_up = True
            finally:
                self._serving = False
                self._attention.set()

        assoc._serve_request = serve_request

    # For other threads

    def drain(self) -> None:
        """End at the next boundary between messages; an instance that is arriving is still answered."""
        self._draining = True
        self._attention.set()

    def hang_up(self) -> None:
        """End at once; nothing more is read or sent."""
        self._hung_up = True
        with suppress(OSError):  # closed already
            self._tcp.shutdown(socket.SHUT_RDWR)
        self._attention.set()

    @property
    def is_draining(self) -> bool:
        """Whether the association ends at the next boundary between messages."""
        return self._draining

    @property
    def is_open(self) -> bool:
        """Whether the association is open, as far as this side knows."""
        left = self._leaving or self._hung_up or self._kill_thread or self._given_up or self._violation is not None
        return self.state_machine.current_state == _OPEN and not left

    def is_cancelled(self, message_id: int) -> bool:
        """Whether the operation should end: the peer cancelled it, the peer is gone, or the node drains.

        For the serving thread only. Reads what has arrived in the meantime.
        """
        for _ in range(MAX_PIECES_PER_LOOK):
            if not self.listen(0.0):
                break
        return message_id in self._cancelled or self._draining or not self.is_open

    def answer_to(self, message_id: int, seconds: float) -> Command | None:
        """Return the answer to a request that we sent on this association, or None if it does not come in time.

        For the serving thread only.
        """
        deadline = time.monotonic() + seconds
        while self.is_open:
            while self._answers:
                answer = self._answers.popleft()
                if answer.responded_to == message_id:
                    return answer
            if (left := deadline - time.monotonic()) <= 0:
                return None
            self.listen(min(left, self._tick_seconds))
        return None

    def listen(self, seconds: float) -> bool:
        """Process the next piece from the peer while one of its requests is served; False if none came in time.

        For the serving thread only. A further request waits until this request is served.
        """
        messages = self._messages
        if messages is None or messages.is_holding or not self.is_open:
            return False
        try:
            unit = self._framing.next()
            if isinstance(unit, Piece):
                messages.take(unit)
            elif unit is not None:
                self._leaving = True  # a release or an abort, on which this layer's own thread acts
                self._pass_pdu(unit.encoded)
                self._attention.set()
            elif not self._is_readable(seconds):
                return False
            else:
                with self._transport_lock:
                    self._read()
        except (Violation, MalformedCommand) as violation:
            self._violation = violation
        return True

    def _is_readable(self, seconds: float) -> bool:
        if isinstance(self._tcp, ssl.SSLSocket) and self._tcp.pending():
            return True
        poll = select.poll()
        try:
            poll.register(self._tcp, select.POLLIN)
        except ValueError:  # closed
            return False
        return bool(poll.poll(seconds * 1000))

    def give_up(self, reason: str) -> None:
        """Abort the association when the current request returns, because it cannot go on. For the serving thread."""
        self._log().warning("association_given_up", reason=reason)
        self._given_up = True

    def send_now(self, data: bytes) -> None:
        """Send encoded PDUs from the serving thread.

        Raises
        ------
        PeerGone
            The association is not open any more.
        """
        self._wait_for_queue(0)  # PDUs that were queued before go first
        if not self.is_open:
            raise PeerGone
        try:
            with self._transport_lock:
                self._tcp.sendall(data)
        except OSError as error:
            self._note_closed()
            raise PeerGone from error

    def _note_closed(self) -> None:
        """Tell the state machine that the transport connection is closed (Evt17)."""
        self._leaving = True
        self.event_queue.put("Evt17")
        self._attention.set()

    def send_pdu(self, primitive: Any) -> None:
        """Queue a primitive for the peer and wake this thread to send it; other threads wait while many are queued."""
        super().send_pdu(primitive)
        self._attention.set()
        if threading.current_thread() is not self:
            self._wait_for_queue(MAX_QUEUED_PDUS)

    def _wait_for_queue(self, maximum: int) -> None:
        """Return when at most `maximum` primitives are queued, or the association is over. For other threads."""
        while self.is_open and self.to_provider_queue.qsize() > maximum:
            self._attention.set()
            time.sleep(QUEUE_SECONDS)

    def kill_dul(self) -> None:
        """Stop this thread."""
        super().kill_dul()
        self._attention.set()

    # The thread

    def run_reactor(self) -> None:
        """Serve the connection until it closes, and release everything whatever happens."""
        self.assoc._dul_ready.set()
        try:
            self._prepare_socket()
            while not self._kill_thread:
                self._turn()
        except (OSError, ssl.SSLError) as error:
            self._log().info("connection_failed", reason=failure_reason(error), address=self.connection.address)
            if isinstance(error, ssl.SSLError):
                remedy = "the sender must use TLS 1.2 or later, with a certificate signed by [dicom] tls_client_ca"
                self._report_refusal("connection", "TLS", f"TLS failed: {failure_reason(error)}", remedy)
        except Exception as error:
            self.outcome = "violated"
            self._send_abort(_SERVICE_PROVIDER, framing.NOT_SPECIFIED)
            self._log().error("association_failed", address=self.connection.address, exc_info=error)
        finally:
            self._end()

    def _prepare_socket(self) -> None:
        tcp = self._tcp
        tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if self._tls is not None:
            # On this thread, not on the accepting one: a silent client must not keep the others waiting.
            tcp.settimeout(self._dicom.request_seconds)
            self._tcp = self._transport.socket = self._tls.wrap_socket(tcp, server_side=True)
            return
        # Kernel timeouts cost one system call that releases the GIL, Python's timeouts cost two. TLS sockets support
        # only Python's.
        tcp.setblocking(True)
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(self._tick_seconds))
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(self._dicom.pdu_seconds))

    def _turn(self) -> None:
        """Do one thing: act on an event, process bytes from the buffer, read, or wait."""
        if self._process_recv_primitive() or not self.event_queue.empty():
            self._act()
            return
        self._watch_deadlines()
        state = self.state_machine.current_state
        if state == _AWAITING_CLOSE:
            self._discard()
        elif state in (_OPEN, _AWAITING_REQUEST) and not self._serving:
            self._receive(state)
        else:
            self._attention.wait(TICK_SECONDS)
            self._attention.clear()

    def _act(self) -> None:
        """Let the state machine act on the next event."""
        event = self.event_queue.get(block=False)
        before = self.state_machine.current_state
        if (event, before) not in TRANSITION_TABLE:
            # The other thread sent it before it knew that the association is over.
            if not self.to_provider_queue.empty():
                self.to_provider_queue.get(block=False)
            return
        with self._transport_lock:
            self.state_machine.do_action(event)
        after = self.state_machine.current_state
        if after != before:
            self._entered(after, event)
        self._park_other_thread()

    def _entered(self, state: str, event: str) -> None:
        if state == "Sta3":
            self.assoc.start()
        elif state == _OPEN:
            self._framing.expect_data()
            self._messages = self._begin_messages()
            self._idle_timer.start()
        elif state == "Sta8":
            self.outcome = "released"
        elif state in (_AWAITING_CLOSE, _CLOSED):
            if event == "Evt16":
                self.outcome = "aborted"
            self._over(state)

    def _over(self, state: str) -> None:
        """Forget the message that was arriving, and close our half of the connection: no more messages follow."""
        self._abandon()
        self._admission.ending(self.connection)
        if state == _AWAITING_CLOSE and self._tls is None:
            with suppress(OSError):  # the peer was faster
                self._tcp.shutdown(socket.SHUT_WR)

    def _park_other_thread(self) -> None:
        """Park pynetdicom's association thread unless a message, a release or an abort waits for it."""
        if self.state_machine.current_state == _OPEN and not self._serving and not self._kill_thread:
            self.assoc._reactor_checkpoint.clear()
        else:
            self.assoc._reactor_checkpoint.set()

    def _watch_deadlines(self) -> None:
        state = self.state_machine.current_state
        if self.assoc.ident is not None and not self.assoc.is_alive():
            raise RuntimeError("pynetdicom's thread of this association died")  # nothing would answer or close it
        if self._hung_up or (self._draining and state == _AWAITING_REQUEST):
            self.event_queue.put("Evt17")
        elif self.artim_timer.expired:
            self.event_queue.put("Evt18")
        elif state == _OPEN and not self._serving:
            if self._violation is not None:
                self._violated(self._violation)
            elif self._given_up:
                self._abort("given up", _SERVICE_USER)
            elif self._pdu_deadline is not None and time.monotonic() > self._pdu_deadline:
                self._violated(Violation("a PDU took too long", framing.NOT_SPECIFIED))
            elif self._idle_timer.expired:
                self._abort("idle", _SERVICE_PROVIDER)
            elif self._draining and self._messages is not None and not self._messages.under_way:
                self._abort("drained", _SERVICE_USER)

    def _receive(self, state: str) -> None:
        """Process the next piece in the buffer, or read more."""
        try:
            if self._messages is not None and self._messages.is_holding:
                self._messages.resume()
                return
            unit = self._framing.next()
            if isinstance(unit, Piece):
                if self._messages is not None and self._messages.take(unit):
                    self._idle_timer.start()
            elif unit is not None:
                self._idle_timer.start()
                self._pass_pdu(unit.encoded)
            elif not self.event_queue.qsize():
                self._set_pdu_deadline()
                self._read()
        except (Violation, MalformedCommand) as violation:
            if state == _OPEN:
                self._violated(violation)
            else:
                self._log().warning("request_not_understood", address=self.connection.address, reason=str(violation))
                remedy = "check the client: it sends another protocol or invalid DICOM; port scanners do this too"
                self._report_refusal("connection", "request", str(violation), remedy)
                self.outcome = "violated"
                self.event_queue.put("Evt19")

    def _set_pdu_deadline(self) -> None:
        length = self._framing.open_pdu_bytes
        if length is None:
            self._pdu_deadline = None
        elif self._pdu_deadline is None:
            self._pdu_deadline = self._read_at + self._dicom.pdu_seconds + length / MIN_BYTES_PER_SECOND

    def _read(self) -> None:
        count = self._received(self._framing.space())
        if not count:
            return
        # The kernel clears this with every acknowledgement it sends. Without it, a sender that leaves Nagle's
        # algorithm on waits 40 ms for our delayed ACK before it sends the data set after the command set.
        self._tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        self._read_at = time.monotonic()
        self._framing.filled(count)

    def _discard(self) -> None:
        """Read and discard until the peer closes: a reset by the kernel could destroy our last PDU."""
        self._received(self._framing.space() or memoryview(bytearray(4096)))

    def _received(self, space: memoryview) -> int:
        """Read into `space` and return the count; 0 if nothing came within a tick or the connection is closed."""
        try:
            if self._tls is not None:
                self._tcp.settimeout(self._tick_seconds)
            count = self._tcp.recv_into(space)
        except _NOT_YET:
            return 0
        except OSError:
            count = 0
        finally:
            if self._tls is not None:
                self._tcp.settimeout(self._dicom.pdu_seconds)
        if not count:
            self._note_closed()
        return count

    def _pass_pdu(self, encoded: bytes) -> None:
        """Pass a whole PDU to pynetdicom's state machine."""
        try:
            pdu, event = self._decode_pdu(bytearray(encoded))
        except Exception as error:  # any error of the decoder on a peer's bytes
            raise Violation(f"PDU type 0x{encoded[0]:02x} cannot be decoded", framing.INVALID_PARAMETER) from error
        self._recv_pdu.put(pdu)
        self.event_queue.put(event)

    # The `MessageCarrier` of `Messages`

    def send(self, data: bytes) -> None:
        """Send encoded PDUs to the peer."""
        self._transport.send(data)

    def is_serving(self) -> bool:
        """Whether pynetdicom's thread serves a request."""
        return self._serving

    def cancel(self, message_id: int) -> None:
        """Record that the peer cancelled an operation."""
        self._cancelled.add(message_id)

    def answered(self, response: Command) -> None:
        """Keep an answer to our request for the thread that serves an operation; drop it if none is served."""
        if self._serving:
            self._answers.append(response)

    def hand_on(self, context_id: int, is_command: bool, last: bool, fragment: bytes | memoryview) -> None:
        """Pass a fragment to pynetdicom as a PDU of its own, and let the state machine act at once.

        The last fragment of a message makes the other thread serve it; nothing is read until it has answered.
        """
        messages = self.assoc.dimse.msg_queue
        before = messages.unfinished_tasks  # counts every message ever put, taken or not
        if last:
            self._cancelled.clear()
            self._answers.clear()
        self._serving = last  # before the other thread can see the message; it resets this when it has answered
        self._pass_pdu(framing.data_pdu(context_id, is_command, last, fragment))
        self._act()
        if last and messages.unfinished_tasks == before:
            self._serving = False
            self._park_other_thread()

    def _begin_messages(self) -> Messages:
        contexts = {context_id: context_of(accepted) for context_id, accepted in self.assoc._accepted_cx.items()}
        if self.store_service is None:
            raise RuntimeError("an association opened without admission")
        return Messages(self, self._dicom, self.store_service, contexts, self.assoc.requestor.maximum_length or 0)

    # Ends

    def _violated(self, violation: Violation | MalformedCommand) -> None:
        """Abort after a violation by the peer: action AA-8, with the reason of PS3.8 9.3.8."""
        self._log().warning("protocol_violated", reason=str(violation))
        self._report_refusal(
            "association",
            "protocol",
            str(violation),
            "report this to the vendor of the sender: it violates the protocol",
        )
        reason = violation.reason if isinstance(violation, Violation) else framing.INVALID_PARAMETER
        self._abort("violated", _SERVICE_PROVIDER, reason)

    def _abort(self, outcome: str, source: int, reason: int = framing.NOT_SPECIFIED) -> None:
        self.outcome = outcome
        self._send_abort(source, reason)
        ended = A_P_ABORT()
        ended.provider_reason = reason
        self.to_user_queue.put(ended)
        self.artim_timer.start()
        self.state_machine.transition(_AWAITING_CLOSE)
        self._over(_AWAITING_CLOSE)
        self._park_other_thread()

    def _send_abort(self, source: int, reason: int) -> None:
        pdu = A_ABORT_RQ()
        pdu.source, pdu.reason_diagnostic = source, reason
        self.send(pdu.encode())

    def _abandon(self) -> None:
        messages, self._messages = self._messages, None
        if messages is not None:
            messages.abandon()

    def _end(self) -> None:
        """Close the connection and let the association's own thread end if it has begun."""
        self._abandon()
        self.state_machine.current_state = _CLOSED
        self._kill_thread = True
        lost = A_P_ABORT()
        lost.provider_reason = framing.NOT_SPECIFIED
        self.to_user_queue.put(lost)
        self.assoc._reactor_checkpoint.set()
        with suppress(OSError):  # it was reset
            self._tcp.close()
        if self.store_service is not None:
            self.store_service.ended(self.outcome)
        self._admission.closed(self.connection)
        if self.store_service is not None:
            self._metrics.associations.labels(outcome=self.outcome).inc()
            self._log().info("association_ended", state=self.outcome)

    def _report_refusal(self, what: Literal["connection", "association"], rule: str, reason: str, remedy: str) -> None:
        origin = self.store_service.origin if self.store_service is not None else None
        self._admission.on_refusal(
            Refused(
                what,
                rule,
                reason,
                remedy,
                peer=self.connection.address,
                calling_ae_title=origin.calling_ae_title if origin else "",
                called_ae_title=origin.called_ae_title if origin else "",
            )
        )

    def _log(self) -> Any:
        return self.store_service.log if self.store_service is not None else logger


def _timeval(seconds: float) -> bytes:
    whole = int(seconds)
    return struct.pack("ll", whole, int((seconds - whole) * 1_000_000))
