"""The DIMSE statuses that the node answers, each with its section."""

from __future__ import annotations

from dataclasses import dataclass

from node.errors import ArrivalRefused, ClassMismatch, NotUnderstood, OutOfResources

SUCCESS = 0x0000
"""The instance is durable and its index row is committed (PS3.4 B.2.3, PS3.7 C.1.1)."""

SOP_CLASS_NOT_SUPPORTED = 0x0122
"""The context's SOP class is no storage class (PS3.7 C.5.6)."""

NOT_AUTHORIZED = 0x0124
"""The peer may not ask for this (PS3.7 C.5.16)."""

OUT_OF_RESOURCES = 0xA700
"""Trying again later may help (PS3.4 B.2.3). Faults of our own too: the instance itself is fit."""

CLASS_MISMATCH = 0xA900
"""Request, presentation context and data set name different objects (PS3.4 B.2.3)."""

CANNOT_UNDERSTAND = 0xC000
"""Trying again will not help (PS3.4 B.2.3)."""

PENDING = 0xFF00
"""One answer; more may follow (PS3.4 C.4.1.1.4)."""

PENDING_WITHOUT_KEYS = 0xFF01
"""As 0xFF00, but not every optional key of the query was looked at (PS3.4 C.4.1.1.4)."""

CANCELLED = 0xFE00
"""The peer asked to end the operation (PS3.4 C.4.1.1.4)."""

CANNOT_CALCULATE_MATCHES = 0xA701
"""Out of resources: how many instances a retrieve selects cannot be told (PS3.4 C.4.2.1.5)."""

SUB_OPERATIONS_FAILED = 0xA702
"""Out of resources: no instance of a retrieve could be sent (PS3.4 C.4.2.1.5)."""

DESTINATION_UNKNOWN = 0xA801
"""The destination of a C-MOVE is none that is configured (PS3.4 C.4.2.1.5)."""

SUB_OPERATIONS_WARNING = 0xB000
"""A retrieve has ended, and some of its instances could not be sent, or not without a warning (PS3.4 C.4.2.1.5)."""

IDENTIFIER_MISMATCH = 0xA900
"""The identifier breaks the rules of the information model (PS3.4 C.4.1.1.4)."""

UNABLE_TO_PROCESS = 0xC000
"""The value of a key cannot be understood (PS3.4 C.4.1.1.4)."""

PROCESSING_FAILURE = 0x0110
"""Something went wrong that has no status of its own (PS3.7 C.5.14)."""

NO_SUCH_INSTANCE = 0x0112
"""There is no such instance here (PS3.7 C.5.7)."""

INVALID_ARGUMENT = 0x0115
"""The Action Information is not what the action asks for (PS3.7 C.5.5)."""

CLASS_INSTANCE_CONFLICT = 0x0119
"""The instance is here, but of another SOP class (PS3.7 C.5.2)."""

NO_SUCH_ACTION = 0x0123
"""The service has no such action (PS3.7 C.5.4)."""

ERROR_COMMENT_LENGTH = 64
"""Most characters of an *Error Comment* (0000,0902): its VR is LO (PS3.5 6.2)."""


class SopClassNotSupported(ArrivalRefused):
    """C-STORE was asked for on a presentation context of another service (status 0x0122, PS3.7 C.5.6)."""


class NotPermitted(ArrivalRefused):
    """The peer may not send instances (status 0x0124, PS3.7 C.5.16)."""


_STATUS_OF: tuple[tuple[type[ArrivalRefused], int], ...] = (
    (OutOfResources, OUT_OF_RESOURCES),
    (ClassMismatch, CLASS_MISMATCH),
    (NotUnderstood, CANNOT_UNDERSTAND),
    (SopClassNotSupported, SOP_CLASS_NOT_SUPPORTED),
    (NotPermitted, NOT_AUTHORIZED),
)


_REMEDIES = {
    OUT_OF_RESOURCES: "look at the disk, at `voxelnode status` and at the log of this node, then send again",
    CLASS_MISMATCH: "the sender announces another object than it sends: have its maker mend it",
    CANNOT_UNDERSTAND: "the data set is broken or lacks an identifying UID: have it made anew",
    NOT_AUTHORIZED: 'add "store" to `may` of the sender in [peers], and have it propose the role of an SCU',
    SOP_CLASS_NOT_SUPPORTED: "have the sender propose the storage class of the object",
}


def remedy_of(status: int) -> str:
    """What a person can do about an instance that was answered with `status`."""
    return _REMEDIES.get(status, "see the log of this node; please report it")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request is answered: a status and, if it failed, an *Error Comment* (0000,0902)."""

    status: int
    comment: str = ""

    @property
    def success(self) -> bool:
        """Whether the peer may forget its copy."""
        return self.status == SUCCESS


STORED = Answer(SUCCESS)
FAILED = Answer(OUT_OF_RESOURCES, "internal failure, see the log of this node")


def answer_to(refusal: ArrivalRefused) -> Answer:
    """Return the status that tells the peer of `refusal`, and its message cut to what an LO holds."""
    status = next((status for kind, status in _STATUS_OF if isinstance(refusal, kind)), OUT_OF_RESOURCES)
    return Answer(status, error_comment(str(refusal)))


def error_comment(text: str) -> str:
    """Return `text` as an *Error Comment* (0000,0902) may hold it.

    An LO has no control characters and no backslash, and no character set goes with a command set.
    """
    return "".join(c if " " <= c <= "~" and c != "\\" else "?" for c in text)[:ERROR_COMMENT_LENGTH]
