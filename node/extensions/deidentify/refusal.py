"""Why an instance is not de-identified."""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum

from node.errors import UsageError, Withheld, nearest


class Reason(StrEnum):
    """Fixed keywords; commands and routes count by them."""

    STRUCTURED_REPORT = "structured-report"
    ENCAPSULATED_DOCUMENT = "encapsulated-document"
    SECONDARY_CAPTURE = "secondary-capture"
    ULTRASOUND = "ultrasound"
    PHOTOGRAPH = "photograph"
    BURNED_IN = "burned-in"
    RECOGNIZABLE = "recognizable"
    UNDECODABLE = "undecodable"
    UNREADABLE = "unreadable"
    TOO_LARGE = "too-large"
    NO_IDENTITY = "no-identity"
    DEIDENTIFIED = "de-identified"
    DUPLICATE = "duplicate"
    DEFACING = "defacing"


ALLOWABLE = (Reason.SECONDARY_CAPTURE, Reason.ULTRASOUND, Reason.PHOTOGRAPH, Reason.BURNED_IN, Reason.RECOGNIZABLE)
"""Risks in pixels that somebody who has looked at them may take."""


def allowed(names: Collection[str]) -> frozenset[Reason]:
    """Return the risks of a command.

    Raises
    ------
    UsageError
        A name is not one of `ALLOWABLE`.
    """
    for name in names:
        if name not in ALLOWABLE:
            raise UsageError(f"--allow {name}: no such risk{nearest(name, ALLOWABLE)}")
    return frozenset(map(Reason, names))


class NotDeidentified(Withheld):
    """An instance is refused; `reason` is one of `Reason`."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(reason, detail)
