"""What instances made of results are like, as ``made.json`` has it for the conformance statement."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files

RECORD = "made.json"


@dataclass(frozen=True, slots=True)
class MadeAttribute:
    """An attribute of the instances that are made of one kind of file.

    Attributes
    ----------
    name : str
        Its name in PS3.6, after ``>`` for each sequence in which it is.
    value : str
        The value that it always has; empty: it differs.
    presence, source : str
        In the terms of PS3.2 Annex N: ALWAYS, ANAP (if the source has it), VNAP (else empty) or EMPTY; AUTO (the node),
        SRC_INSTANCE (the instances of the series) or HOOK.
    """

    name: str
    tag: str
    vr: str
    value: str
    presence: str
    source: str


@dataclass(frozen=True, slots=True)
class MadeCode:
    """A code, and the attribute or the concept in which it stands."""

    value: str
    scheme: str
    meaning: str
    place: str


@dataclass(frozen=True, slots=True)
class Made:
    """What is made of one kind of file."""

    title: str
    sop_class_uid: str
    attributes: tuple[MadeAttribute, ...]
    codes: tuple[MadeCode, ...]


def recorded() -> list[Made]:
    """Return what ``made.json`` says."""
    return [
        Made(
            one["title"],
            one["sop_class_uid"],
            tuple(MadeAttribute(**attribute) for attribute in one["attributes"]),
            tuple(MadeCode(**code) for code in one["codes"]),
        )
        for one in json.loads((files(__package__) / RECORD).read_text(encoding="utf-8"))
    ]
