"""Parse the values of a query key into matches (PS3.4 C.2.2.2), and match values in memory.

`node.index.look.conditions` has the same rules as SQL. Person names are compared without case, accents and width of
letters.
"""

from __future__ import annotations

import datetime as dt
import re
import unicodedata
from calendar import isleap, monthrange
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from node.dicom.attributes import date_of, time_of
from node.dicom.keys import InvalidQuery, Key
from node.dicom.values import standard_tag

GROUPS = 3
"""Component groups of a PN: alphabetic, ideographic, phonetic (PS3.5 6.2.1)."""

# Accents of Latin, Greek and Cyrillic letters only: a dakuten or a vowel sign makes a different letter.
_ACCENTS = re.compile("[\u0300-\u036f]")
_SPACES = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class OneOf:
    """Single Value Matching and List of UID Matching (PS3.4 C.2.2.2.1, C.2.2.2.2)."""

    values: tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class NumberOf:
    """Single Value Matching of numbers with decimals, whichever way they are written."""

    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Like:
    """Wild Card Matching (PS3.4 C.2.2.2.4): ``*`` is any text, ``?`` any character; everything else is literal."""

    pattern: str


@dataclass(frozen=True, slots=True)
class Between:
    """Range Matching (PS3.4 C.2.2.2.5) of a date or a time, both ends inclusive; None is an open end.

    A single value is a range too (`is_single`): a time without seconds or minutes covers all moments that it may mean.
    """

    first: dt.date | dt.time | None
    last: dt.date | dt.time | None
    is_single: bool = False


@dataclass(frozen=True, slots=True)
class Instants:
    """Range Matching (PS3.4 C.2.2.2.5) of a DT, in UTC, both ends inclusive; None is an open end.

    A single value is a range too: it covers all moments that it may mean.
    """

    first: dt.datetime | None
    last: dt.datetime | None


@dataclass(frozen=True, slots=True)
class Moments:
    """Combined date and time (PS3.4 C.2.2.2.5.4) of this key and the key `time`, both ends inclusive."""

    time: Key
    first: tuple[dt.date, dt.time] | None
    last: tuple[dt.date, dt.time] | None


@dataclass(frozen=True, slots=True)
class NameLike:
    """A person name: patterns of component groups, `folded`.

    `patterns`: one pattern: any component group must match it. Three: each group must match its pattern unless that is
        empty.
    """

    patterns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NameWords:
    """Fuzzy Semantic Matching of a person name: each word, `folded`, begins a word of the same component group."""

    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class InItem:
    """Sequence Matching (PS3.4 C.2.2.2.6): one item has a match for each of these keys.

    `keys`: keys of the item that are matched, each with its alternatives.
    """

    keys: tuple[tuple[Key, tuple[Match, ...]], ...]


Match = OneOf | NumberOf | Like | Between | Instants | Moments | NameLike | NameWords | InItem


_ANYTHING = re.compile(r"\**")


def matches_of(key: Key, texts: list[str], *, fuzzy: bool) -> tuple[Match, ...]:
    """Return the matches of the values of a key, one of which must hold.

    Empty for Universal Matching (PS3.4 C.2.2.2.3), including a lone ``*``, which also matches empty values.

    `texts`: values without padding. `fuzzy`: whether person names are matched word by word.

    Raises InvalidQuery if a value violates its value representation.
    """
    wanted = [text for text in texts if text]
    if not wanted or any(_ANYTHING.fullmatch(text) for text in wanted):
        return ()
    if fuzzy and key.vr == "PN":
        return _words(wanted)
    return _kind_of(key.vr).matches(key, wanted)


def matching_of(vr: str) -> str:
    """Return how the values of a VR are matched, as the conformance statement says it."""
    return _kind_of(vr).name


def compared(matches: Iterable[Match]) -> int:
    """Return how many values and wildcards are compared; a list that is looked up counts as one."""
    return sum(_compared(match) for match in matches)


def _compared(match: Match) -> int:
    match match:
        case NameWords(words):
            return len(words)
        case InItem(keys):
            return sum(compared(inner) for _, inner in keys)
    return 1


def combined_moments(date: Between, time_key: Key, time: Between) -> Moments | None:
    """Return a date and a time as one range, if both are ranges of one form (PS3.4 C.2.2.2.5.4); else None."""
    if (date.first is None) != (time.first is None) or (date.last is None) != (time.last is None):
        return None
    if date.is_single or time.is_single:
        return None
    return Moments(time_key, _moment(date.first, time.first), _moment(date.last, time.last))


def _moment(date: object, time: object) -> tuple[dt.date, dt.time] | None:
    return (date, time) if isinstance(date, dt.date) and isinstance(time, dt.time) else None


def require_order(key: Key, match: Match) -> None:
    """Raise InvalidQuery if a range ends before it begins."""
    match match:
        case Between(dt.date() as first, dt.date() as last) if first > last:
            raise _invalid(key, "the first date of a range must not be after the second (PS3.4 C.2.2.2.5)")
        case Between(dt.time() as first, dt.time() as last) if first > last:
            raise _invalid(key, "a range of times must not cross midnight (PS3.4 C.2.2.2.5)")
        case Instants(dt.datetime() as first, dt.datetime() as last) if first > last:
            raise _invalid(key, "the first moment of a range must not be after the second (PS3.4 C.2.2.2.5)")
        case Moments(_, first, last) if first is not None and last is not None and first > last:
            raise _invalid(key, "the first moment of a range must not be after the second (PS3.4 C.2.2.2.5)")


def _invalid(key: Key, rule: str) -> InvalidQuery:
    return InvalidQuery(standard_tag(key.keyword), f"{key.keyword}: {rule}")


def _plain(key: Key, text: str) -> str:
    if "*" in text or "?" in text:
        raise _invalid(key, f"VR {key.vr} does not allow wild cards (PS3.4 C.2.2.2.4)")
    return text


def _number(key: Key, text: str) -> int:
    if re.fullmatch(r"[+-]?\d{1,12}(\.0*)?", text) is None:
        raise _invalid(key, "the value must be a whole number (PS3.4 C.2.2.2.1)")
    return int(text.partition(".")[0])


def _decimal(key: Key, text: str) -> float:
    if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", text) is None:
        raise _invalid(key, "the value must be a number (PS3.4 C.2.2.2.1)")
    return float(text)


def _literal(text: str) -> Match:
    if "*" in text or "?" in text:
        return Like(re.sub(r"\*+", "*", text))
    return OneOf((text,))


def _words(texts: list[str]) -> tuple[Match, ...]:
    words = [tuple(filter(None, re.split(r"[\s^=*?,]+", folded(text)))) for text in texts]
    return tuple(NameWords(several) for several in words) if all(words) else ()


def _names(key: Key, texts: Sequence[str]) -> tuple[Match, ...]:
    patterns = [tuple(re.sub(r"\*+", "*", folded(group)) for group in text.split("=")) for text in texts]
    if any(len(several) > GROUPS for several in patterns):
        raise _invalid(key, f"a PN has at most {GROUPS} component groups (PS3.5 6.2.1)")
    if not all(any(pattern not in ("", "*") for pattern in several) for several in patterns):
        return ()
    return tuple(NameLike(several if len(several) == 1 else (*several, "")[:GROUPS]) for several in patterns)


_DATE = r"\d{8}|\d{4}\.\d\d\.\d\d"
_TIME = r"\d\d(?:\d\d(?:\d\d(?:\.\d{1,6})?)?)?|\d\d:\d\d(?::\d\d(?:\.\d{1,6})?)?"


def _ends(
    key: Key, text: str, single: str, form: str, parsed: Callable[[str], Any], what: str
) -> tuple[Any, Any, str, bool]:
    """Return the two ends of a range, None for one that is open, and the text of the last; for a single value, True.

    `single` is the pattern of a single value, `what` a noun for it. `parsed`: returns a value, or None.
    """
    plain = "".join(text.split())
    is_single = re.fullmatch(single, plain) is not None
    found = re.fullmatch(f"({single})?-({single})?", plain)
    if not is_single and (found is None or plain == "-"):
        raise _invalid(key, f"must be {form}, or a range of two with a hyphen, one of them optional (PS3.4 C.2.2.2.5)")
    texts = (plain, plain) if is_single or found is None else (found[1] or "", found[2] or "")
    ends = [parsed(text) for text in texts]
    if any(text and end is None for text, end in zip(texts, ends, strict=True)):
        raise _invalid(key, f"the {what} does not exist (PS3.5 6.2)")
    return ends[0], ends[1], texts[1], is_single


def _dates(key: Key, text: str) -> Between:
    first, last, _, is_single = _ends(key, text, _DATE, "a date YYYYMMDD", date_of, "day")
    return Between(first, last, is_single)


_DATE_TIME = r"\d{4}(?:\d\d){0,5}(?:\.\d{1,6})?(?:[+-](?:0\d|1[0-4])[0-5]\d)?"


def _instants(key: Key, text: str) -> Instants:
    first, last, *_ = _ends(key, text, _DATE_TIME, "a moment YYYYMMDDHHMMSS.FFFFFF&ZZXX", instant_of, "moment")
    return Instants(first and first[0], last and last[1])


def instant_of(text: str) -> tuple[dt.datetime, dt.datetime] | None:
    """Return the first and the last moment that a DT may mean (PS3.5 6.2); None if it is invalid.

    A DT without an offset from UTC is taken as UTC.
    """
    found = re.fullmatch(r"(\d{4}(?:\d\d){0,5})(?:\.(\d{1,6}))?([+-](?:0\d|1[0-4])[0-5]\d)?", text.strip())
    if found is None or (found[2] and len(found[1]) < _WHOLE):
        return None
    digits, fraction, offset = found[1], found[2] or "", found[3] or "+0000"
    whole = digits + "00000101000000"[len(digits) :]
    year, *parts = int(whole[:4]), *(int(whole[at : at + 2]) for at in range(4, _WHOLE, 2))
    month, day, hour, minute, second = parts
    away = dt.timedelta(hours=int(offset[1:3]), minutes=int(offset[3:])) * (-1 if offset[0] == "-" else 1)
    try:
        date = dt.datetime(year, month, day, hour, minute, min(second, 59), tzinfo=dt.UTC)  # 60 is a leap second
        first = date.replace(microsecond=int(fraction.ljust(6, "0"))) - away
        return first, first + (_meant(date, len(digits), len(fraction)) - dt.timedelta(microseconds=1))
    except (ValueError, OverflowError):
        return None


_WHOLE = len("YYYYMMDDHHMMSS")


def _meant(begin: dt.datetime, digits: int, decimals: int) -> dt.timedelta:
    """Return the length of the time span that a DT with this many digits means."""
    days = {4: 366 if isleap(begin.year) else 365, 6: monthrange(begin.year, begin.month)[1], 8: 1}
    if digits in days:
        return dt.timedelta(days=days[digits])
    seconds = {10: 3600, 12: 60, _WHOLE: 1}[digits]
    return dt.timedelta(microseconds=seconds * 10 ** (6 - decimals))


def _times(key: Key, text: str) -> Between:
    """Return the range of a time. Without seconds or minutes, it covers all of them."""
    first, last, end, is_single = _ends(key, text, _TIME, "a time HHMMSS.FFFFFF", time_of, "time of day")
    return Between(first, _last_moment(last, end), is_single)


def _last_moment(time: dt.time | None, text: str) -> dt.time | None:
    if time is None:
        return None
    digits, _, fraction = text.replace(":", "").partition(".")
    if len(digits) < 4:
        time = time.replace(minute=59)
    if len(digits) < 6:
        time = time.replace(second=59)
    return time.replace(microsecond=int(fraction.ljust(6, "9")))


@dataclass(frozen=True, slots=True)
class _Kind:
    """A kind of matching: its name in the conformance statement, and the matches of the values of a key."""

    name: str
    matches: Callable[[Key, Sequence[str]], tuple[Match, ...]]


_WILD_CARD = _Kind("wild card", lambda key, texts: tuple(map(_literal, texts)))
_UID_LIST = _Kind("list of UID", lambda key, texts: (OneOf(tuple(_plain(key, text) for text in texts)),))
_SINGLE = _Kind("single value", _UID_LIST.matches)
_WHOLE_NUMBER = _Kind(
    "single value, as a whole number", lambda key, texts: (OneOf(tuple(_number(key, text) for text in texts)),)
)
_NUMBER = _Kind(
    "single value, as a number", lambda key, texts: (NumberOf(tuple(_decimal(key, text) for text in texts)),)
)

_KINDS: Mapping[str, _Kind] = {
    "UI": _UID_LIST,
    **dict.fromkeys(("AS", "AT"), _SINGLE),
    **dict.fromkeys(("IS", "US", "SS", "UL", "SL", "UV", "SV"), _WHOLE_NUMBER),
    **dict.fromkeys(("DS", "FL", "FD"), _NUMBER),
    "DA": _Kind("range", lambda key, texts: tuple(_dates(key, text) for text in texts)),
    "TM": _Kind("range", lambda key, texts: tuple(_times(key, text) for text in texts)),
    "DT": _Kind("range", lambda key, texts: tuple(_instants(key, text) for text in texts)),
    "PN": _Kind("wild card, case-insensitive, by component group; fuzzy", _names),
}
"""Kinds of matching by value representation (PS3.4 C.2.2.2); of others it is `_WILD_CARD`."""


def _kind_of(vr: str) -> _Kind:
    return _KINDS.get(vr, _WILD_CARD)


def folded(text: str) -> str:
    """Return one component group of a PN, or a pattern for it, in the form for comparison.

    The form ignores case, accents, width of letters, repeated spaces, spaces around components, and the delimiters of
    empty components at the end (PS3.5 6.2.1.1). PS3.4 C.2.2.2.1 leaves these rules to the SCP.
    """
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    plain = unicodedata.normalize("NFKC", _ACCENTS.sub("", decomposed)).casefold()
    components = (_SPACES.sub(" ", component).strip() for component in plain.split("^"))
    return "^".join(components).rstrip("^")


def folded_groups(name: str | None) -> tuple[str | None, str | None, str | None]:
    """Return the three component groups of a PN, `folded`; None for an empty one."""
    groups = [folded(group) or None for group in (name or "").split("=")[:GROUPS]]
    groups += [None] * (GROUPS - len(groups))
    return groups[0], groups[1], groups[2]


def matches_any(matches: Sequence[Match], values: Sequence[str]) -> bool:
    """Return whether one of `values` satisfies one of `matches`; without `matches` (Universal Matching) always."""
    return not matches or any(_is_match(match, value) for match in matches for value in values if value)


def _is_match(match: Match, value: str) -> bool:
    match match:
        case OneOf(wanted):
            return value in wanted or whole_number(value) in wanted
        case NumberOf(numbers):
            return as_number(value) in numbers
        case Like(pattern):
            return is_like(value, pattern)
        case Between(first, last):
            moment = date_of(value) or time_of(value)
            # The dates of a pair that is None match nothing; dates and times are never mixed in one key.
            return moment is not None and not (
                (first is not None and moment < first)  # type: ignore[operator]
                or (last is not None and moment > last)  # type: ignore[operator]
            )
        case Instants(first_instant, last_instant):
            meant = instant_of(value)
            return meant is not None and not (
                (first_instant is not None and meant[1] < first_instant)
                or (last_instant is not None and meant[0] > last_instant)
            )
        case NameLike(patterns):
            return _is_name(value, patterns)
        case NameWords(words):
            groups = [re.split(r"[\s^]+", group) for group in folded_groups(value) if group]
            return any(all(any(one.startswith(word) for one in group) for word in words) for group in groups)
    return False


def as_number(text: str) -> float | None:
    """Return a number in the text of a value, or None."""
    try:
        return float(text)
    except ValueError:
        return None


def whole_number(value: str) -> int | None:
    text = value.strip().partition(".")[0]
    return int(text) if re.fullmatch(r"[+-]?\d{1,13}", text) else None


def _is_name(value: str, patterns: Sequence[str]) -> bool:
    groups = folded_groups(value)
    if len(patterns) == 1:
        return any(group is not None and is_like(group, patterns[0]) for group in groups)
    wanted = ((group, pattern) for group, pattern in zip(groups, patterns, strict=True) if pattern not in ("", "*"))
    return all(group is not None and is_like(group, pattern) for group, pattern in wanted)


def is_like(value: str, pattern: str) -> bool:
    """Return whether a text matches a pattern in which ``*`` is any text and ``?`` any character.

    Takes at most the product of both lengths in steps, whatever a peer sends.
    """
    at = begin = 0
    star = -1  # the last wild card, and where the text that it stands for ends
    while at < len(value):
        if begin < len(pattern) and pattern[begin] == "*":
            star, resume, begin = begin, at, begin + 1
        elif begin < len(pattern) and pattern[begin] in ("?", value[at]):
            at, begin = at + 1, begin + 1
        elif star >= 0:
            resume += 1
            at, begin = resume, star + 1
        else:
            return False
    return not pattern[begin:].strip("*")
