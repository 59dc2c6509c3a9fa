"""The deadlines of an accepted association: ARTIM (PS3.8 9.1.5), a PDU, and idleness.

They follow the monotonic clock: a step of the system clock must not end associations.
"""

from __future__ import annotations

from enum import Enum, auto
from time import monotonic

from node.association.framing import Framing
from node.association.transport import MIN_BYTES_PER_SECOND
from node.settings.model import Dicom


class Overdue(Enum):
    """The deadline that has passed."""

    TIMER = auto()
    PDU = auto()
    IDLE = auto()


class Deadlines:
    """The deadlines of one association; a deadline that is None does not run."""

    def __init__(self, dicom: Dicom) -> None:
        self._dicom = dicom
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

    def start_timer(self) -> None:
        """Start or restart ARTIM, which bounds the wait for a request and for the end of the connection."""
        self._timer_at = monotonic() + self._dicom.request_seconds

    def stop_timer(self) -> None:
        """Stop ARTIM."""
        self._timer_at = None

    def start_idling(self) -> None:
        """Start the deadlines of an open association, at its beginning and after each request that was served."""
        self._pdu = None
        self._served_at = monotonic()
        self._idle_at = self._served_at + self._dicom.idle_seconds

    def stop_idling(self) -> None:
        """Stop the deadlines of an open association."""
        self._pdu = self._idle_at = None

    def before_read(self, framing: Framing) -> bool:
        """Give the PDU that is arriving its deadline, once; return whether one is."""
        length = framing.open_pdu_bytes
        if length is None:
            self._pdu = None
        elif self._pdu is None or self._pdu[0] != framing.pdus:
            seconds = self._dicom.pdu_seconds + length / MIN_BYTES_PER_SECOND
            self._pdu = framing.pdus, self._read_at + seconds
        return self._pdu is not None

    def after_read(self) -> None:
        """Note that bytes arrived."""
        self._read_at = monotonic()
        if self._idle_at is not None:
            self._idle_at = self._read_at + self._dicom.idle_seconds
