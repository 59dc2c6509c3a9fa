"""The transport connection of an accepted association (PS3.8 9.1.4): TCP, with or without TLS.

The invariant: no call waits longer than its bound, whatever the peer does or leaves undone. One thread reads and
writes; another one may only call `hang_up`. `bound_waits` and `send_parts` serve requested associations, too.

`Deadlines` are those of an accepted association: ARTIM (PS3.8 9.1.5), a PDU, and idleness. They follow the monotonic
clock: a step of the system clock must not end associations.
"""

import fcntl
import select
import socket
import ssl
import struct
import termios
from collections.abc import Sequence
from contextlib import suppress
from enum import Enum, auto
from time import monotonic

from node.association.framing import Framing
from node.association.tls import PeerCertificate, certificate_of

REQUEST_SECONDS = 10.0
"""Longest time from the TCP connection to the end of the A-ASSOCIATE-RQ (ARTIM)."""

PDU_SECONDS = 30.0
"""Longest time from the first to the last byte of a PDU, beside that of its bytes at `MIN_BYTES_PER_SECOND`."""

RELEASE_SECONDS = 3.0
"""Longest wait for the answer to an A-RELEASE-RQ of the node."""

MIN_BYTES_PER_SECOND = 1024
"""Slowest rate of a PDU in either direction."""

MAX_PARTS = 1000
"""Parts that are handed to the kernel at once; it takes up to 1024 (IOV_MAX)."""

_NOT_YET = (BlockingIOError, TimeoutError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_CLOSES = getattr(select, "POLLRDHUP", 0)  # macOS lacks it: a peer is gone once it has closed both ways
_GONE = _CLOSES | select.POLLHUP | select.POLLERR | select.POLLNVAL


class Transport:
    """A connection that was accepted, but is not prepared yet (`open`).

    `tick_seconds`: longest wait of `receive`, unless its caller waits for less; `send_seconds`: longest time that
    `send` waits for a peer that reads nothing; `MIN_BYTES_PER_SECOND` extends it.
    """

    def __init__(
        self, accepted: socket.socket, tls: ssl.SSLContext | None, tick_seconds: float, send_seconds: float
    ) -> None:
        self._socket = accepted
        self._tls = tls
        self.certificate: PeerCertificate | None = None  # after the handshake
        self.was_reset = False
        """Whether the connection ended by an error: the peer did not close it."""
        self._tick_seconds, self._send_seconds = tick_seconds, send_seconds

    def open(self, seconds: float) -> None:
        """Set the options of the connection, and do the TLS handshake within `seconds`.

        Raises OSError: the handshake failed (`ssl.SSLError`), or the peer is gone.
        """
        tcp = self._socket
        tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if self._tls is not None:
            # On the thread of the association, not on the accepting one: a silent client must not keep others waiting.
            tcp.settimeout(seconds)
            self._socket = secure = self._tls.wrap_socket(tcp, server_side=True, do_handshake_on_connect=False)
            secure.do_handshake()
            self.certificate = certificate_of(secure)
            return
        bound_waits(tcp, self._tick_seconds, self._send_seconds)

    def receive(self, space: memoryview, seconds: float | None = None) -> int | None:
        """Read into `space` and return the number of bytes: 0 if none came in time, None if the connection is closed.

        `seconds`: longest wait; None waits for a tick.
        """
        try:
            if self._tls is not None:
                self._socket.settimeout(self._tick_seconds if seconds is None else seconds)
                return self._socket.recv_into(space) or None
            if seconds is None:
                return self._socket.recv_into(space) or None
            if seconds > 0:
                self._poll(select.POLLIN, seconds)
            return self._socket.recv_into(space, 0, socket.MSG_DONTWAIT) or None
        except _NOT_YET:
            return 0
        except OSError:
            self.was_reset = True
            return None

    def acknowledge(self) -> None:
        """Acknowledge at once what was received.

        The kernel clears this with every acknowledgement it sends. Without it, a sender that leaves Nagle's algorithm
        on waits 40 ms for our delayed ACK before it sends the data set after the command set.
        """
        with suppress(OSError):  # the next read reports it
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def is_abandoned(self, seconds: float) -> bool:
        """Whether the peer closes the connection, or loses it, within `seconds`; reads nothing."""
        return bool(self._poll(_CLOSES, seconds) & _GONE)

    @property
    def is_heard(self) -> bool:
        """Whether the machine of the peer has acknowledged all that was sent: it is there, and can be reached."""
        unheard = bytearray(4)
        try:
            fcntl.ioctl(self._socket.fileno(), termios.TIOCOUTQ, unheard)
        except OSError:
            return False
        return not any(unheard)

    def _poll(self, events: int, seconds: float) -> int:
        poll = select.poll()
        try:
            poll.register(self._socket, events)
        except ValueError:  # closed
            return select.POLLNVAL
        found = poll.poll(seconds * 1000)
        return found[0][1] if found else 0

    def send(self, *parts: bytes | memoryview) -> None:
        """Send all of `parts`, one after another.

        Raises OSError: the peer is gone, or reads too little; the connection cannot be used any more.
        """
        send_parts(self._socket, parts, self._send_seconds)

    def end_sending(self) -> None:
        """Close the node's half of the connection; the peer may still read what was sent. TLS has no such half."""
        if self._tls is None:
            with suppress(OSError):  # the peer was faster
                self._socket.shutdown(socket.SHUT_WR)

    def hang_up(self) -> None:
        """Wake the thread of the connection, which can neither read nor write from now on. For other threads."""
        with suppress(OSError):  # closed already
            # That of an SSLSocket would take away the TLS object that the other thread is using.
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection."""
        with suppress(OSError):  # it was reset
            self._socket.close()


def bound_waits(tcp: socket.socket, receive_seconds: float, send_seconds: float) -> None:
    """Set the longest wait of each read and each write of a connection without TLS.

    Timeouts of the kernel cost one system call that releases the GIL, Python's timeouts cost two. TLS sockets support
    only Python's.
    """
    tcp.setblocking(True)
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(receive_seconds))
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(send_seconds))


def send_parts(connection: socket.socket, parts: Sequence[bytes | memoryview], seconds: float) -> None:
    """Send all of `parts` over a connection whose waits are bounded, or over TLS.

    `seconds`: longest wait for a peer that reads nothing; `MIN_BYTES_PER_SECOND` extends it. Raises OSError: the peer
    is gone, or reads too little; the connection cannot be used any more.
    """
    if isinstance(connection, ssl.SSLSocket):  # which takes one part at a time, and would send each as a record
        connection.settimeout(seconds)
        parts = [b"".join(parts)]
    for at in range(0, len(parts), MAX_PARTS):
        some = parts[at : at + MAX_PARTS]
        sent = connection.send(some[0]) if len(some) == 1 else connection.sendmsg(some)
        if sent < sum(map(len, some)):
            _send_rest(connection, memoryview(b"".join(some))[sent:], seconds)


def _send_rest(connection: socket.socket, rest: memoryview, seconds: float) -> None:
    deadline = monotonic() + seconds + len(rest) / MIN_BYTES_PER_SECOND
    while rest:
        if monotonic() > deadline:
            raise TimeoutError("the peer reads too little")
        rest = rest[connection.send(rest) :]


def _timeval(seconds: float) -> bytes:
    whole = int(seconds)
    return struct.pack("ll", whole, int((seconds - whole) * 1_000_000))


class Overdue(Enum):
    """The deadline that has passed."""

    TIMER = auto()
    PDU = auto()
    IDLE = auto()


class Deadlines:
    """The deadlines of one association; a deadline that is None does not run."""

    def __init__(self, idle_seconds: float) -> None:
        self._idle_seconds = idle_seconds
        self._timer_at: float | None = None
        self._idle_at: float | None = None
        self._pdu: tuple[int, float] | None = None  # the PDU that is arriving, by its number, and its deadline
        self._read_at = self._served_at = monotonic()

    def overdue(self) -> Overdue | None:
        """Return a deadline that has passed."""
        now = monotonic()
        if self._timer_at is not None and now > self._timer_at:
            return Overdue.TIMER
        if self._idle_at is None:  # ARTIM bounds the PDUs before and after an open association
            return None
        if self._pdu is not None and now > self._pdu[1]:
            return Overdue.PDU
        return Overdue.IDLE if now > self._idle_at else None

    @property
    def silent_seconds(self) -> float:
        """For how long no bytes have arrived since the last request was served."""
        return monotonic() - max(self._read_at, self._served_at)

    def start_timer(self, seconds: float | None = None) -> None:
        """Start or restart ARTIM, which bounds the wait for a request and for the end of the connection."""
        self._timer_at = monotonic() + (REQUEST_SECONDS if seconds is None else seconds)

    def stop_timer(self) -> None:
        """Stop ARTIM."""
        self._timer_at = None

    def start_idling(self) -> None:
        """Start the deadlines of an open association, at its beginning and after each request that was served."""
        self._pdu = None
        self._served_at = monotonic()
        self._idle_at = self._served_at + self._idle_seconds

    def stop_idling(self) -> None:
        """Stop the deadlines of an open association."""
        self._pdu = self._idle_at = None

    def before_read(self, framing: Framing) -> bool:
        """Give the PDU that is arriving its deadline, once; return whether one is."""
        length = framing.open_pdu_bytes
        if length is None:
            self._pdu = None
        elif self._pdu is None or self._pdu[0] != framing.pdus:
            seconds = PDU_SECONDS + length / MIN_BYTES_PER_SECOND
            self._pdu = framing.pdus, self._read_at + seconds
        return self._pdu is not None

    def after_read(self) -> None:
        """Note that bytes arrived."""
        self._read_at = monotonic()
        if self._idle_at is not None:
            self._idle_at = self._read_at + self._idle_seconds
