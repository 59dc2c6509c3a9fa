"""The DIMSE statuses that the node answers, each with its section."""

from __future__ import annotations

from dataclasses import dataclass

from node.errors import ArrivalRefused, ClassMismatch, NotUnderstood, OutOfResources

SUCCESS = 0x0000
"""The instance is durable and its index row is committed (PS3.4 B.2.3, PS3.7 C.1.1)."""

SOP_CLASS_NOT_SUPPORTED = 0x0122
"""The context's SOP class is no storage class (PS3.7 C.5.6)."""

OUT_OF_RESOURCES = 0xA700
"""Trying again later may help (PS3.4 B.2.3). Faults of our own too: the instance itself is fit."""

CLASS_MISMATCH = 0xA900
"""Request, presentation context and data set name different objects (PS3.4 B.2.3)."""

CANNOT_UNDERSTAND = 0xC000
"""Trying again will not help (PS3.4 B.2.3)."""

ERROR_COMMENT_LENGTH = 64
"""Most characters of an *Error Comment* (0000,0902): its VR is LO (PS3.5 6.2)."""


class SopClassNotSupported(ArrivalRefused):
    """C-STORE was asked for on a presentation context of another service (status 0x0122, PS3.7 C.5.6)."""


_STATUS_OF: tuple[tuple[type[ArrivalRefused], int], ...] = (
    (OutOfResources, OUT_OF_RESOURCES),
    (ClassMismatch, CLASS_MISMATCH),
    (NotUnderstood, CANNOT_UNDERSTAND),
    (SopClassNotSupported, SOP_CLASS_NOT_SUPPORTED),
)


_REMEDIES = {
    OUT_OF_RESOURCES: "look at the disk, at `voxelnode status` and at the log of this node, then send again",
    CLASS_MISMATCH: "the sender announces another object than it sends: have its maker mend it",
    CANNOT_UNDERSTAND: "the data set is broken or lacks an identifying UID: have it made anew",
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
    # LO: no control characters, no backslash, and the default repertoire as no character set goes with a command set.
    comment = "".join(c if " " <= c <= "~" and c != "\\" else "?" for c in str(refusal))
    return Answer(status, comment[:ERROR_COMMENT_LENGTH])
