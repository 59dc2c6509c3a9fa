"""The DIMSE statuses that the node returns, each with its section; tables of a conformance statement (PS3.2)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from node.errors import ClassMismatch, InstanceRefused, NotUnderstood, OutOfResources

SUCCESS = 0x0000
"""The instance is durable, where [journal] acknowledge says (PS3.4 B.2.3, PS3.7 C.1.1)."""

SOP_CLASS_NOT_SUPPORTED = 0x0122
"""The SOP class of the presentation context is not a storage class (PS3.7 C.5.6)."""

NOT_AUTHORIZED = 0x0124
"""The peer is not allowed to do this (PS3.7 C.5.16)."""

OUT_OF_RESOURCES = 0xA700
"""Sending again later may help (PS3.4 B.2.3). Also used for internal errors, since the instance is valid."""

CLASS_MISMATCH = 0xA900
"""Request, presentation context and data set name different objects (PS3.4 B.2.3)."""

CANNOT_UNDERSTAND = 0xC000
"""Sending again will not help (PS3.4 B.2.3)."""

ANOTHER_VERSION_IS_CURRENT = 0xB000
"""A warning: the instance is durable, but another version of it is current (PS3.4 B.2.3)."""

DATA_SET_IS_CUT = 0xB007
"""A warning: the instance is durable, but not as its SOP class requires (PS3.4 B.2.3, PS3.18 table 10.5.3-2)."""

PENDING = 0xFF00
"""One answer; more may follow (PS3.4 C.4.1.1.4)."""

PENDING_WITHOUT_KEYS = 0xFF01
"""As 0xFF00, but some optional keys of the query were ignored (PS3.4 C.4.1.1.4)."""

CANCELLED = 0xFE00
"""The peer cancelled the operation (PS3.4 C.4.1.1.4)."""

CANNOT_CALCULATE_MATCHES = 0xA701
"""Out of resources: the number of instances of a retrieve cannot be calculated (PS3.4 C.4.2.1.5)."""

SUB_OPERATIONS_FAILED = 0xA702
"""Out of resources: no instance of a retrieve could be sent (PS3.4 C.4.2.1.5)."""

DESTINATION_UNKNOWN = 0xA801
"""The destination of a C-MOVE is not configured (PS3.4 C.4.2.1.5)."""

SUB_OPERATIONS_WARNING = 0xB000
"""A retrieve has ended; some of its instances failed or were sent with a warning (PS3.4 C.4.2.1.5)."""

IDENTIFIER_MISMATCH = 0xA900
"""The identifier violates the information model (PS3.4 C.4.1.1.4)."""

UNABLE_TO_PROCESS = 0xC000
"""The value of a key is invalid (PS3.4 C.4.1.1.4)."""

INVALID_ATTRIBUTE_VALUE = 0x0106
"""The value of an attribute is out of range or does not fit the others (PS3.7 C.5.11)."""

DUPLICATE_INSTANCE = 0x0111
"""The node has an instance with this UID (PS3.7 C.5.4)."""

MISSING_ATTRIBUTE = 0x0120
"""An attribute that a new instance must have is missing (PS3.7 C.5.15)."""

MISSING_ATTRIBUTE_VALUE = 0x0121
"""An attribute that must have a value has none (PS3.7 C.5.13)."""

PROCESSING_FAILURE = 0x0110
"""An error without a status of its own (PS3.7 C.5.14)."""

NO_SUCH_INSTANCE = 0x0112
"""The node does not have this instance (PS3.7 C.5.7)."""

INVALID_ARGUMENT = 0x0115
"""The Action Information does not match the action (PS3.7 C.5.5)."""

CLASS_INSTANCE_CONFLICT = 0x0119
"""The node has the instance, but with another SOP class (PS3.7 C.5.2)."""

NO_SUCH_ACTION = 0x0123
"""The service has no such action (PS3.7 C.5.4)."""

ERROR_COMMENT_LENGTH = 64
"""Maximum length of an *Error Comment* (0000,0902), an LO (PS3.5 6.2)."""


class SopClassNotSupported(InstanceRefused):
    """C-STORE was requested on a presentation context of another service (status 0x0122, PS3.7 C.5.6)."""


class NotPermitted(InstanceRefused):
    """The peer is not allowed to send instances (status 0x0124, PS3.7 C.5.16)."""


_STATUS_OF: tuple[tuple[type[InstanceRefused], int], ...] = (
    (OutOfResources, OUT_OF_RESOURCES),
    (ClassMismatch, CLASS_MISMATCH),
    (NotUnderstood, CANNOT_UNDERSTAND),
    (SopClassNotSupported, SOP_CLASS_NOT_SUPPORTED),
    (NotPermitted, NOT_AUTHORIZED),
)


_REMEDIES = {
    OUT_OF_RESOURCES: "check the disk, `voxelnode status` and the log of this node, then send again",
    CLASS_MISMATCH: "the sender announces one object and sends another: report it to the vendor of the sender",
    CANNOT_UNDERSTAND: "the data set is damaged, lacks an identifying UID or has too long a text: correct the sender",
    NOT_AUTHORIZED: 'add "store" to `may` of the sender in [peers], and have it propose the role of an SCU',
    SOP_CLASS_NOT_SUPPORTED: "configure the sender to propose the storage SOP class of the object",
}


def remedy_of(status: int) -> str:
    """Return the remedy for an administrator if an instance was answered with `status`."""
    return _REMEDIES.get(status, "see the log of this node; please report it")


@dataclass(frozen=True, slots=True)
class ResponseStatus:
    """The answer to a request: a status and, if the request failed, an *Error Comment* (0000,0902)."""

    status: int
    comment: str = ""


STORED = ResponseStatus(SUCCESS)
NOT_CURRENT = ResponseStatus(ANOTHER_VERSION_IS_CURRENT, "kept, but another version is current: see the conflicts")
CUT = ResponseStatus(DATA_SET_IS_CUT, "kept, but the data set has not all pixels that it states")
FAILED = ResponseStatus(OUT_OF_RESOURCES, "internal failure, see the log of this node")


def answer_to(refusal: InstanceRefused) -> ResponseStatus:
    """Return the status for `refusal`, and its message cut to the length of an LO."""
    status = next((status for kind, status in _STATUS_OF if isinstance(refusal, kind)), OUT_OF_RESOURCES)
    return ResponseStatus(status, error_comment(str(refusal)))


def error_comment(text: str) -> str:
    """Return `text` in a form that *Error Comment* (0000,0902) allows.

    An LO allows no control characters and no backslash, and a command set has no character set.
    """
    return "".join(c if " " <= c <= "~" and c != "\\" else "?" for c in text)[:ERROR_COMMENT_LENGTH]


@dataclass(frozen=True, slots=True)
class StatementTable:
    """Rows of cells below the names of their columns."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> StatementTable:
    """Return a table whose cells are text; each row must be as long as `columns`."""
    cells = tuple(tuple(str(cell) for cell in row) for row in rows)
    for row in cells:
        if len(row) != len(columns):
            raise ValueError(f"{len(row)} cells below {len(columns)} columns: {row}")
    return StatementTable(tuple(columns), cells)


def merged(rows: Iterable[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Return rows with those joined that differ in their first cell only."""
    found: dict[tuple[str, ...], list[str]] = {}
    for first, *others in rows:
        found.setdefault(tuple(others), []).append(first)
    return [(", ".join(dict.fromkeys(firsts)), *others) for others, firsts in found.items()]


def status_table(*rows: tuple[str, int, str]) -> StatementTable:
    """Return a table of the statuses of services: service, status and meaning."""
    return table(
        ("Services", "Status", "Meaning"), [(name, f"0x{value:04X}", meaning) for name, value, meaning in rows]
    )


def parameters(values: Iterable[tuple[str, object]]) -> StatementTable:
    """Return a table of keys of the configuration and their values."""
    return table(("Parameter", "Value"), [(key, _shown(value)) for key, value in values])


def _shown(value: object) -> str:
    if value in (None, (), ""):
        return "unset"
    if isinstance(value, bool):
        return str(value).lower()
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
