"""Match values in memory by the rules of `node.dicom.key_values`; `node.index.search.conditions` has them as SQL."""

from __future__ import annotations

import re
from collections.abc import Sequence

from node.dicom.attributes import date_of, time_of
from node.dicom.key_values import Between, Instants, Like, Match, NameLike, NameWords, OneOf, instant_of
from node.dicom.names import folded_groups


def matches_any(matches: Sequence[Match], values: Sequence[str]) -> bool:
    """Return whether one of `values` satisfies one of `matches`; without `matches` (Universal Matching) always."""
    return not matches or any(_is_match(match, value) for match in matches for value in values if value)


def _is_match(match: Match, value: str) -> bool:
    match match:
        case OneOf(wanted):
            return value in wanted or _whole(value) in wanted
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


def _whole(value: str) -> int | None:
    text = value.strip().partition(".")[0]
    return int(text) if text.lstrip("+-").isdecimal() and len(text) <= 13 else None


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
