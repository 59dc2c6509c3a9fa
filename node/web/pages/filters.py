"""Template filters: values of data sets and of the index in readable form.

Text from the network may contain anything. Templates escape it; deceptive characters, such as those that change the
writing direction, are shown as code points.
"""

import csv
import datetime as dt
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from io import StringIO
from typing import Any, Literal

from markupsafe import Markup

from node.dicom.uids import registered_name
from node.version import __version__

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")
_STANDARD_UID = re.compile(r"\b1\.2\.840\.10008(\.[0-9]+)+")
_WORDS = re.compile(r"[a-z]+(?: |$)")
_SEXES = {"M": "male", "F": "female", "O": "other"}


def shown(text: Any) -> str:
    """Return text with control and format characters made visible, such as ``[U+202E]``; None becomes empty."""
    return "" if text is None else "".join(_visible(character) for character in str(text))


def _visible(character: str) -> str:
    if unicodedata.category(character) in ("Cc", "Cf", "Co", "Cs", "Zl", "Zp"):
        return f"[U+{ord(character):04X}]"
    return character


def person(name: str | None) -> str:
    """Return a person name as ``Family, Given Middle (other writing)``, PS3.5 6.2.1.1; None becomes empty."""
    if not name or not name.strip("^= "):
        return ""
    groups = [_person_of(group) for group in name.split("=")]
    first, others = groups[0], [group for group in groups[1:] if group]
    return f"{first} ({' · '.join(others)})" if first and others else first or " · ".join(others)


def _person_of(group: str) -> str:
    family, *rest = (shown(part.strip()) for part in group.split("^"))
    given = " ".join(part for part in rest if part)
    return ", ".join(part for part in (family, given) if part)


def sentence(text: str) -> str:
    """Return a message as a sentence: with a capital letter, unless it begins with a name, and a full stop."""
    begins = text[:1].upper() + text[1:] if _WORDS.match(text) else text
    return begins if begins[-1:] in ".!?:" else f"{begins}."


def sex(code: str | None) -> str:
    """Return Patient's Sex as a word, or unchanged if it is not a standard code."""
    return _SEXES.get(code or "", shown(code))


def sized(count: float | None) -> str:
    """Return a number of bytes with three digits and a unit."""
    number, power = float(count or 0), 0
    while number >= 999.5 and power < len(_UNITS) - 1:
        number, power = number / 1000, power + 1
    return f"{number:.0f} {_UNITS[power]}" if power == 0 or number >= 99.5 else f"{number:.3g} {_UNITS[power]}"


def counted(count: float | None, singular: str, plural: str | None = None) -> str:
    """Return a number with its noun; by default, the plural is the singular with an s."""
    number = count or 0
    noun = singular if number == 1 else plural or f"{singular}s"
    return f"{int(number) if number == int(number) else number:,} {noun}".replace(",", "\u2009")


def grouped(count: float | None) -> str:
    """Return an integer with thin spaces between thousands."""
    return f"{count or 0:,.0f}".replace(",", "\u2009")


def moment(at: str | dt.datetime | None) -> str:
    """Return a UTC time as a ``time`` element, which the page shows in the local time of the browser."""
    if at is None:
        return ""
    at = _in_utc(at)
    return Markup('<time datetime="{}" data-moment>{} UTC</time>').format(
        at.isoformat(timespec="milliseconds"), f"{at:%Y-%m-%d %H:%M}"
    )


def countdown(at: str | dt.datetime | None) -> str:
    """Return a ``time`` element that the page shows as a countdown."""
    return "" if at is None else Markup('<time datetime="{}" data-countdown></time>').format(_in_utc(at).isoformat())


def _in_utc(at: str | dt.datetime) -> dt.datetime:
    """Return a time of a view, which has no offset and is in UTC, or another one with its offset."""
    time = dt.datetime.fromisoformat(at) if isinstance(at, str) else at
    return time.replace(tzinfo=dt.UTC) if time.tzinfo is None else time.astimezone(dt.UTC)


def about(seconds: float) -> str:
    """Return a duration roughly, as people say it: ``20 s``, ``4 min``, ``3 h``."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.0f} h"


def clock(time: str | dt.time | None) -> str:
    """Return hours and minutes."""
    return "" if time is None else str(time)[:5]


def listed(value: str | list[Any]) -> list[Any]:
    """Return a list that a view returns as JSON."""
    return list(json.loads(value)) if isinstance(value, str) else value


def shape(numbers: str | list[int]) -> str:
    """Return ``columns × rows × slices``."""
    return " × ".join(str(number) for number in listed(numbers))


def spacing(numbers: str | list[float]) -> str:
    """Return the spacing of columns, rows and slices in mm."""
    return " × ".join(f"{number:.3g}" for number in listed(numbers)) + " mm"


def uid_name(uid: str | None) -> str:
    """Return the name of a UID of the standard, or any other UID unchanged."""
    return (registered_name(uid) or uid) if uid else ""


def with_uid_names(text: str | None) -> str:
    """Return text that `shown` returns, with the names of the UIDs of the standard in it."""
    return _STANDARD_UID.sub(lambda found: uid_name(found[0]), shown(text))


def breakable(uid: str | None) -> str:
    """Return a UID that wraps only at its dots."""
    return Markup("<wbr>").join(Markup("{}").format(part) for part in _parts(shown(uid)))


def wrappable(text: Any) -> str:
    """Return text that `shown` returns, which wraps after underscores as well, as names of sequences have them."""
    return Markup("_<wbr>").join(Markup("{}").format(part) for part in shown(text).split("_"))


def _parts(uid: str) -> list[str]:
    first, *others = uid.split(".")
    return [first, *(f".{part}" for part in others)]


FILTERS: Mapping[str, Any] = {
    function.__name__: function
    for function in (
        shown,
        person,
        sex,
        sized,
        counted,
        sentence,
        grouped,
        moment,
        countdown,
        about,
        clock,
        listed,
        shape,
        spacing,
        uid_name,
        with_uid_names,
        breakable,
        wrappable,
    )
}
"""The filters by name."""


def static_url(name: str) -> str:
    """Return the URL of a stylesheet or script of the pages in this version."""
    return f"/static/{name}?v={__version__}"


_FORMULA = re.compile(r"(?![-+][0-9.]+(?:[eE][-+]?[0-9]+)?$)[=+@\t\r-]")
"""How a text begins that a spreadsheet would take for a formula; a number with a sign is none."""


def csv_line(cells: Iterable[object]) -> bytes:
    """Return a line in UTF-8; None is an empty cell.

    Text that a spreadsheet would take for a formula begins with an apostrophe: names come from the network.
    """
    line = StringIO()
    csv.writer(line).writerow(_harmless(cell) for cell in cells)
    return line.getvalue().encode("utf-8", "replace")


def _harmless(cell: object) -> object:
    return f"'{cell}" if isinstance(cell, str) and _FORMULA.match(cell) else cell


Tone = Literal["good", "warning", "bad", "busy", "plain", "silent"]
"""silent: no chip is shown, and the word stays in lists of words and in files."""


@dataclass(frozen=True, slots=True)
class StatusChip:
    """The colour and the word of a chip, and a sentence for those who point at it."""

    tone: Tone
    label: str
    title: str = ""
