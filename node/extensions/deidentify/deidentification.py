"""How instances are de-identified: profile, key, allowed risks, rules for pixels of devices; and why they are refused.

It loads neither NumPy nor codecs.
"""

import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase
from math import inf
from pathlib import Path
from typing import Any

from pydicom import Dataset
from pydicom.datadict import dictionary_VR, keyword_dict, tag_for_keyword

from node.children.pseudonyms import PseudonymKey
from node.dicom.values import texts, whole
from node.errors import UsageError, Withheld, nearest
from node.extensions.deidentify.profile import Option, Profile

UID_FORM = re.compile(r"[0-9.]{1,64}")

_MAX_RULES_BYTES = 1 << 20

Rectangle = tuple[int, int, int, int]
"""Left column, top row, width and height, in pixels from 0."""


class RefusalReason(StrEnum):
    """Fixed keywords; commands and routes count by them."""

    STRUCTURED_REPORT = "structured-report"
    ENCAPSULATED_DOCUMENT = "encapsulated-document"
    SECONDARY_CAPTURE = "secondary-capture"
    ULTRASOUND = "ultrasound"
    PHOTOGRAPH = "photograph"
    BURNED_IN = "burned-in"
    BURNED_IN_TEXT = "burned-in-text"
    RECOGNIZABLE = "recognizable"
    VOICE = "voice"
    UNDECODABLE = "undecodable"
    UNREADABLE = "unreadable"
    TOO_LARGE = "too-large"
    NO_IDENTITY = "no-identity"
    DEIDENTIFIED = "de-identified"
    DUPLICATE = "duplicate"


ALLOWABLE = (
    RefusalReason.SECONDARY_CAPTURE,
    RefusalReason.ULTRASOUND,
    RefusalReason.PHOTOGRAPH,
    RefusalReason.BURNED_IN,
    RefusalReason.RECOGNIZABLE,
    RefusalReason.VOICE,
)
"""Risks in pixels and sound that somebody who has looked at them, or listened, may take."""


class BurnedInText(StrEnum):
    """What becomes of instances in whose pixels recognition sees text; off: it does not look."""

    OFF = "off"
    REFUSE = "refuse"
    BLANK = "blank"


def allowed(names: Collection[str]) -> frozenset[RefusalReason]:
    """Return the risks of a command.

    Raises UsageError if a name is not one of `ALLOWABLE`.
    """
    for name in names:
        if name not in ALLOWABLE:
            raise UsageError(f"--allow {name}: no such risk{nearest(name, ALLOWABLE)}")
    return frozenset(map(RefusalReason, names))


def burned_in_text_of(name: str) -> BurnedInText:
    """Return what a command says of text in pixels.

    Raises UsageError if it is none of `BurnedInText`.
    """
    if name not in tuple(BurnedInText):
        known = nearest(name, tuple(BurnedInText))
        raise UsageError(f"--burned-in-text {name}: neither off, refuse nor blank{known}")
    return BurnedInText(name)


class NotDeidentified(Withheld):
    """An instance is refused; `reason` is one of `RefusalReason`."""

    def __init__(self, reason: RefusalReason, detail: str) -> None:
        super().__init__(reason, detail)


@dataclass(frozen=True, slots=True)
class PixelRule:
    """What is burned in by a device: rectangles to blank, or the only ones to keep; neither: its pixels are clean."""

    name: str
    when: Mapping[str, tuple[Any, ...]]
    blank: tuple[Rectangle, ...]
    keep: tuple[Rectangle, ...]

    def fits(self, ds: Dataset) -> bool:
        """Return whether all attributes of an instance are as the rule has them; text without case, with ``*``."""
        return all(_fits(ds, keyword, wanted) for keyword, wanted in self.when.items())


def _fits(ds: Dataset, keyword: str, wanted: tuple[Any, ...]) -> bool:
    found = [whole(ds, keyword)] if isinstance(wanted[0], int) else [each.casefold() for each in texts(ds, keyword)]
    return any(
        each == want if isinstance(want, int) else fnmatchcase(str(each), want.casefold())
        for each in found
        for want in wanted
    )


def read_rules(path: Path) -> tuple[PixelRule, ...]:
    """Return the rules of a TOML file, in their order: the first that fits counts.

    Raises UsageError if the file is not TOML, or a rule is wrong; the message names the value and the rule.
    """
    try:
        with path.open("rb") as file:
            content = tomllib.loads(file.read(_MAX_RULES_BYTES).decode("utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from None
    unknown = set(content) - {"device"}
    if unknown or not isinstance(content.get("device"), list):
        raise UsageError(f"{path}: a file of pixel rules has tables [[device]] and nothing else")
    return tuple(_rule(path, number, table) for number, table in enumerate(content["device"], 1))


def _rule(path: Path, number: int, table: Mapping[str, Any]) -> PixelRule:
    name = table.get("name", f"device {number}")
    place = f"{path}, {name}"
    for key in table:
        if key not in ("name", "when", "blank", "keep"):
            raise UsageError(f"{place}: {key}: no such key{nearest(key, ('name', 'when', 'blank', 'keep'))}")
    when = table.get("when")
    if not isinstance(when, dict) or not when:
        raise UsageError(f'{place}: when is missing; name the device, such as {{ Manufacturer = "GE*", Rows = 768 }}')
    if "blank" in table and "keep" in table:
        raise UsageError(f"{place}: blank and keep exclude each other; choose one")
    return PixelRule(
        str(name),
        {keyword: _wanted(place, keyword, values) for keyword, values in when.items()},
        _rectangles(place, table.get("blank", [])),
        _rectangles(place, table.get("keep", [])),
    )


def _wanted(place: str, keyword: str, values: Any) -> tuple[Any, ...]:
    tag = tag_for_keyword(keyword)
    if tag is None or dictionary_VR(tag) == "SQ":
        raise UsageError(f"{place}: {keyword}: not the keyword of an attribute{nearest(keyword, keyword_dict)}")
    given = tuple(values) if isinstance(values, list) else (values,)
    if not given or not (all(type(each) is int for each in given) or all(isinstance(each, str) for each in given)):
        raise UsageError(f"{place}: {keyword} must be a text, a whole number, or a list of either")
    return given


def _rectangles(place: str, given: Any) -> tuple[Rectangle, ...]:
    if not isinstance(given, list):
        raise UsageError(f"{place}: rectangles are a list of [left, top, width, height]")
    for each in given:
        if not (isinstance(each, list) and len(each) == 4 and all(type(side) is int and side >= 0 for side in each)):
            raise UsageError(f"{place}: {each!r}: a rectangle is [left, top, width, height], in pixels from 0")
    return tuple((left, top, width, height) for left, top, width, height in given)


@dataclass(frozen=True)
class Deidentification:
    """How instances are de-identified.

    `allowed`: risks in pixels, of `ALLOWABLE`, that are passed with the pixels as they are. `rules`: used with
    `Option.PIXELS`. `burned_in_text`: blank requires `Option.PIXELS`. `search_seconds`: processor time in which text is
    looked for in an instance; one that takes longer is refused.
    """

    profile: Profile
    key: PseudonymKey
    allowed: frozenset[RefusalReason] = field(default_factory=frozenset)
    rules: tuple[PixelRule, ...] = ()
    burned_in_text: BurnedInText = BurnedInText.OFF
    search_seconds: float = inf

    @property
    def mark(self) -> str:
        """The value of De-identification Method (0012,0063) that names the key."""
        return f"key {self.key.name}"

    def uid(self, uid: str) -> str:
        """Return the UID of an instance, a series or a study in the place of another one."""
        return uid if Option.UIDS in self.profile.options and UID_FORM.fullmatch(uid) else self.key.uid(uid)
