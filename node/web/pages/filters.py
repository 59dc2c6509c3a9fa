"""Values of data sets and of the index as a person reads them.

Text that came over the network may hold anything. Templates escape it; what would still deceive the eye, such as
characters that turn the direction of writing, is shown by its code point.
"""

from __future__ import annotations

import datetime as dt
import json
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

from markupsafe import Markup
from pydicom.uid import UID

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")
_SEXES = {"M": "male", "F": "female", "O": "other"}


def shown(text: Any) -> str:
    """Text with its control and format characters made visible, such as ``[U+202E]``; empty for None."""
    return "" if text is None else "".join(_visible(character) for character in str(text))


def _visible(character: str) -> str:
    if unicodedata.category(character) in ("Cc", "Cf", "Co", "Cs", "Zl", "Zp"):
        return f"[U+{ord(character):04X}]"
    return character


def person(name: str | None) -> str:
    """A person name as ``Family, Given Middle (other writing)``, PS3.5 6.2.1.1; empty for None."""
    if not name or not name.strip("^= "):
        return ""
    groups = [_person_of(group) for group in name.split("=")]
    first, others = groups[0], [group for group in groups[1:] if group]
    return f"{first} ({' · '.join(others)})" if first and others else first or " · ".join(others)


def _person_of(group: str) -> str:
    family, *rest = (shown(part.strip()) for part in group.split("^"))
    given = " ".join(part for part in rest if part)
    return ", ".join(part for part in (family, given) if part)


def sex(code: str | None) -> str:
    """*Patient's Sex* in a word; what is no code of the standard as it is."""
    return _SEXES.get(code or "", shown(code))


def sized(count: float | None) -> str:
    """Bytes with a unit, three digits of them."""
    number, power = float(count or 0), 0
    while number >= 999.5 and power < len(_UNITS) - 1:
        number, power = number / 1000, power + 1
    return f"{number:.0f} {_UNITS[power]}" if power == 0 or number >= 99.5 else f"{number:.3g} {_UNITS[power]}"


def counted(count: int | None, one: str, several: str | None = None) -> str:
    """A number with its noun; `several` is the plural where an s does not make it."""
    number = count or 0
    return f"{number:,} {one if number == 1 else several or one + 's'}".replace(",", "\u2009")


def grouped(count: float | None) -> str:
    """A whole number with thin spaces between thousands."""
    return f"{count or 0:,.0f}".replace(",", "\u2009")


def moment(at: str | dt.datetime | None) -> str:
    """A moment in UTC as a ``time`` element, which the page shows in the clock of whoever looks."""
    if at is None:
        return ""
    if isinstance(at, str):
        at = dt.datetime.fromisoformat(at)
    at = at.replace(tzinfo=dt.UTC) if at.tzinfo is None else at.astimezone(dt.UTC)
    return Markup('<time datetime="{}" data-moment>{} UTC</time>').format(
        at.isoformat(timespec="milliseconds"), f"{at:%Y-%m-%d %H:%M}"
    )


def countdown(at: str | dt.datetime | None) -> str:
    """The time left until a moment, which the page counts down."""
    if at is None:
        return ""
    if isinstance(at, str):
        at = dt.datetime.fromisoformat(at)
    return Markup('<time datetime="{}" data-countdown></time>').format(at.replace(tzinfo=dt.UTC).isoformat())


def clock(time: str | dt.time | None) -> str:
    """Hours and minutes."""
    return "" if time is None else str(time)[:5]


def listed(value: str | list[Any]) -> list[Any]:
    """A list that a view gives as JSON."""
    return list(json.loads(value)) if isinstance(value, str) else value


def shape(numbers: str | list[int]) -> str:
    """``columns × rows × slices``."""
    return " × ".join(str(number) for number in listed(numbers))


def spacing(numbers: str | list[float]) -> str:
    """Millimetres between columns, rows and slices."""
    return " × ".join(f"{number:.3g}" for number in listed(numbers)) + " mm"


def uid_name(uid: str | None) -> str:
    """The name of a UID of the standard; of any other the UID."""
    return UID(uid).name if uid else ""


def joined(values: Iterable[str]) -> str:
    """Values with commas between."""
    return ", ".join(values)


def breakable(uid: str | None) -> str:
    """A UID that may be broken at its dots, and nowhere else."""
    return Markup("<wbr>").join(Markup("{}").format(part) for part in _parts(shown(uid)))


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
        grouped,
        moment,
        countdown,
        clock,
        listed,
        shape,
        spacing,
        uid_name,
        joined,
        breakable,
    )
}
"""What templates may call, by name."""
