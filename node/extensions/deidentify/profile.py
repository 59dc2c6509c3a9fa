"""What the profile and its options ask for each attribute: PS3.15 Tables E.1-1 and E.3.10-1, as data.

``.ci/confidentiality_profile.py`` makes ``profile.csv`` and ``safe_private.csv`` from the text of the standard.
"""

import csv
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib.resources import files

from node.errors import UsageError, nearest


class AttributeAction(StrEnum):
    """What happens to an attribute, by the codes of PS3.15 Table E.1-1a."""

    REMOVE = "X"
    EMPTY = "Z"
    DUMMY = "D"
    UID = "U"
    KEEP = "K"
    CLEAN = "C"


class Option(StrEnum):
    """An option of the Basic Profile (PS3.15 E.3), by its name in commands."""

    SAFE_PRIVATE = "safe-private"
    UIDS = "uids"
    DEVICE = "device"
    INSTITUTION = "institution"
    PATIENT = "patient"
    FULL_DATES = "full-dates"
    MODIFIED_DATES = "modified-dates"
    DESCRIPTORS = "descriptors"
    STRUCTURED = "structured"
    GRAPHICS = "graphics"
    PIXELS = "pixels"


CLEAN = (Option.DESCRIPTORS, Option.STRUCTURED, Option.GRAPHICS, Option.PIXELS)
RETAIN = tuple(option for option in Option if option not in CLEAN)

BASIC_PROFILE = ("113100", "Basic Application Confidentiality Profile")
CODES: Mapping[Option, tuple[str, str]] = {
    Option.PIXELS: ("113101", "Clean Pixel Data Option"),
    Option.GRAPHICS: ("113103", "Clean Graphics Option"),
    Option.STRUCTURED: ("113104", "Clean Structured Content Option"),
    Option.DESCRIPTORS: ("113105", "Clean Descriptors Option"),
    Option.FULL_DATES: ("113106", "Retain Longitudinal Temporal Information Full Dates Option"),
    Option.MODIFIED_DATES: ("113107", "Retain Longitudinal Temporal Information Modified Dates Option"),
    Option.PATIENT: ("113108", "Retain Patient Characteristics Option"),
    Option.DEVICE: ("113109", "Retain Device Identity Option"),
    Option.UIDS: ("113110", "Retain UIDs Option"),
    Option.SAFE_PRIVATE: ("113111", "Retain Safe Private Option"),
    Option.INSTITUTION: ("113112", "Retain Institution Identity Option"),
}
"""Codes of the scheme DCM and their meanings, PS3.16 CID 7050."""

_OF_BASIC = {
    "X": AttributeAction.REMOVE,
    "Z": AttributeAction.EMPTY,
    "D": AttributeAction.DUMMY,
    "U": AttributeAction.UID,
    "X/Z": AttributeAction.EMPTY,
    "X/D": AttributeAction.DUMMY,
    "Z/D": AttributeAction.DUMMY,
    "X/Z/D": AttributeAction.DUMMY,
    "X/Z/U*": AttributeAction.UID,
}
"""Of several actions, the one that suits every IOD: which of them an attribute needs depends on its type there."""

PRIVATE = "gggg,eeee"


@dataclass(frozen=True, slots=True)
class ProfileRow:
    """A row of Table E.1-1: the action of the Basic Profile, and those of options that have one."""

    tag: str
    name: str
    basic: str
    options: Mapping[Option, AttributeAction]

    def action(self, options: Collection[Option]) -> AttributeAction:
        """Return what happens to the attribute. Cleaning wins over keeping: both options are then satisfied."""
        asked = {self.options[option] for option in options if option in self.options}
        if AttributeAction.CLEAN in asked:
            return AttributeAction.CLEAN
        return AttributeAction.KEEP if asked else _OF_BASIC[self.basic]


@cache
def edition() -> str:
    """Return the edition of the standard that the tables are from, such as ``2026d``."""
    return _text("profile.csv").split(maxsplit=3)[2].rstrip(",")


@cache
def rows() -> tuple[ProfileRow, ...]:
    """Return the rows of Table E.1-1."""
    columns = {option: option.value.replace("-", "_") for option in Option if option is not Option.PIXELS}
    return tuple(
        ProfileRow(
            row["tag"].strip("()"),
            row["name"],
            row["basic"],
            {option: AttributeAction(row[column]) for option, column in columns.items() if row[column]},
        )
        for row in _records("profile.csv")
    )


@cache
def safe_private() -> Mapping[tuple[str, int, int], str]:
    """Return the VR of each private element of Table E.3.10-1, by creator, group and offset in the creator's block."""
    return {
        (row["creator"], int(row["tag"][1:5], 16), int(row["tag"][8:10], 16)): row["vr"]
        for row in _records("safe_private.csv")
    }


def _records(name: str) -> Iterator[dict[str, str]]:
    return csv.DictReader(line for line in _text(name).splitlines() if not line.startswith("#"))


def _text(name: str) -> str:
    return files(__package__).joinpath(name).read_text("utf-8")


@dataclass(frozen=True)
class Profile:
    """The Basic Profile with a choice of options.

    Raises UsageError if dates are to be kept and modified at once.
    """

    options: frozenset[Option] = frozenset()

    def __post_init__(self) -> None:
        if {Option.FULL_DATES, Option.MODIFIED_DATES} <= self.options:
            raise UsageError("full-dates and modified-dates exclude each other; choose one")

    def action(self, tag: int) -> AttributeAction | None:
        """Return what happens to a standard attribute; None if the table does not list it.

        The data of curves and overlays are not here: `node.extensions.deidentify.attributes` decides on whole groups.
        """
        return _actions(self.options).get(tag)

    def dummy_if_empty(self, tag: int) -> bool:
        """Return whether an attribute that has lost its value gets a dummy: in some IOD, it must have a value."""
        return _actions(frozenset()).get(tag, AttributeAction.DUMMY) is AttributeAction.DUMMY


@cache
def _actions(options: frozenset[Option]) -> Mapping[int, AttributeAction]:
    return {
        int(row.tag.replace(",", ""), 16): row.action(options)
        for row in rows()
        if "x" not in row.tag and row.tag != PRIVATE
    }


def options(retain: Collection[str], clean: Collection[str]) -> frozenset[Option]:
    """Return the options of a command.

    Raises UsageError if a name is unknown, or of the other kind.
    """
    found = set()
    for flag, names, known in (("--retain", retain, RETAIN), ("--clean", clean, CLEAN)):
        for name in names:
            if name not in known:
                raise UsageError(f"{flag} {name}: no such option{nearest(name, known)}")
            found.add(Option(name))
    return frozenset(found)
