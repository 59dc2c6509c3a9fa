"""How instances are de-identified: profile, key, allowed risks, rules for pixels of devices; and why they are refused.

The ways in which copies that leave by routes and downloads lose identities are each a table [deidentify.NAME] of the
configuration.

This module loads neither NumPy nor codecs.
"""

import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from fnmatch import fnmatchcase
from importlib import import_module
from math import inf
from pathlib import Path
from typing import Any

from pydicom import Dataset
from pydicom.datadict import dictionary_VR, keyword_dict, tag_for_keyword
from pydicom.filereader import read_file_meta_info

from node.children.pseudonyms import PseudonymKey, read_keys
from node.dicom.values import text, texts, whole
from node.errors import UsageError, Withheld, nearest
from node.extensions.deidentify.profile import Option, Profile, options
from node.extensions.deidentify.settings import DeidentifySettings
from node.files.reading import read_instance
from node.settings.model import Settings
from node.volume.read.transfer_syntaxes import NATIVE

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


MAX_COMPRESSED_BYTES = 750_000_000
"""Largest file with compressed frames that is de-identified: they are held in memory three times, and a child may use
4 GB. Native frames are copied from file to file."""

SEARCH_SECONDS = 40.0
"""Processor time in which text is looked for in an instance: less than that of a child, whose end would say less, or
whose deadline would stop a whole route on a machine with other work."""


@dataclass(frozen=True)
class DeidentifyWay(Deidentification):
    """A de-identification with the steps that a child takes; see `node.children.forwarding.Way`."""

    @property
    def reasons(self) -> Collection[str]:
        """Every reason of a refusal."""
        return tuple(RefusalReason)

    def load(self) -> None:
        """Load what `clean` and `write` need, in the process from which those of files are forked."""
        from node.extensions.deidentify.instance import load_tables  # here, because it loads NumPy

        import_module("node.extensions.deidentify.files")
        import_module("node.extensions.deidentify.remaining").load()
        load_tables(self)

    def read(self, path: Path) -> Dataset:
        """Read a whole file; raises `NotDeidentified`."""
        try:
            size = path.stat().st_size
            if size > MAX_COMPRESSED_BYTES and text(read_file_meta_info(path), "TransferSyntaxUID") not in NATIVE:
                detail = f"the file has {size} bytes with compressed frames; the limit is {MAX_COMPRESSED_BYTES}"
                raise NotDeidentified(RefusalReason.TOO_LARGE, f"{detail}; `voxelnode deidentify` has none")
            return read_instance(path)
        except NotDeidentified:
            raise
        except Exception as error:  # pydicom raises anything for a damaged file
            raise NotDeidentified(
                RefusalReason.UNREADABLE, f"the file cannot be read: {type(error).__name__}"
            ) from error

    def clean(self, ds: Dataset) -> Dataset:
        """Return a data set without identities; raises `NotDeidentified`."""
        from node.extensions.deidentify.instance import deidentified  # here, because it loads NumPy

        return deidentified(ds, replace(self, search_seconds=SEARCH_SECONDS))

    def write(self, ds: Dataset, into: Path) -> int:
        """Write a DICOM file; return where its data set begins."""
        from node.extensions.deidentify.files import write_pieces  # here, because it loads NumPy

        with into.open("wb") as file:
            return write_pieces(ds, file)


def configured(settings: Settings, name: str) -> DeidentifyWay:
    """Return the de-identification that a table [deidentify.NAME] describes.

    Raises UsageError, which names the table, if there is no such table, or if its key or its rules cannot be used.
    """
    sections = settings.tables(DeidentifySettings)
    if name not in sections:
        known = nearest(name, sections) if sections else "; there are none"
        raise UsageError(f"no table [deidentify.{name}] in the configuration{known}")
    table = sections[name]
    try:
        return DeidentifyWay(
            Profile(options(table.retain, table.clean)),
            read_keys(table.key)[0],
            allowed(table.allow),
            read_rules(table.pixel_rules) if table.pixel_rules else (),
            BurnedInText(table.burned_in_text),
        )
    except UsageError as error:
        raise UsageError(f"[deidentify.{name}] {error}") from error


def names_of(settings: Settings) -> list[str]:
    """Return the names of all tables [deidentify.NAME]."""
    return list(settings.tables(DeidentifySettings))
