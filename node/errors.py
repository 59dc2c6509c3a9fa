"""Errors that voxelnode raises deliberately, and words of messages. The docstring of a class is its default message."""

from __future__ import annotations

import errno
import re
import traceback
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import TypeGuard

_OUT_OF_MEMORY = re.compile(
    r"bad_alloc|MemoryError|[Oo]ut of memory|[Mm]emory allocation|allocat\w* (?:\w+ )?memory|failed to map segment"
    r"|pthread_create failed|can't start new thread"
)
"""Out-of-memory messages of C++ and Python libraries, ITK, OpenBLAS and the dynamic loader."""

MAX_TEXT = 300
"""Characters that are kept of the text of a library's error."""

MAX_SPANS = 10
"""Runs of interpolated slices that are named."""

_TAG = re.compile(r"\([0-9A-Fa-f]{4}, ?[0-9A-Fa-f]{4}\)")
_WORD = re.compile(rf"{_TAG.pattern}|\w+")


def says_out_of_memory(text: str) -> bool:
    """Return whether `text` is an out-of-memory message of a library."""
    return _OUT_OF_MEMORY.search(text) is not None


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception means that memory ran out, whatever its type."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    return not isinstance(error, VoxelnodeError) and says_out_of_memory(str(error))


def is_of_system(error: BaseException) -> TypeGuard[OSError]:
    """Return whether the operating system refused something: a disk, a network, a limit.

    pydicom also raises `OSError` for a data set that ends early. That error has no errno and says nothing about a disk.
    """
    return isinstance(error, OSError) and error.errno is not None


def type_and_location(error: Exception) -> str:
    """Return the type of an error and the line that raised it, without its text, which may quote patient data."""
    line = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} at {line.name}, line {line.lineno} of {line.filename.rpartition('/')[2]}"


def text_without(error: Exception, data: bytes) -> str:
    """Return the text of an error of a parser of `data`, without what `data` contains, which may be patient data."""
    lowered, quoted = data.lower(), re.compile(r"'[^']*'|\"[^\"]*\"")

    def shown(word: re.Match[str]) -> str:
        text = word[0]
        is_from_data = not text.isascii() or (len(text) > 2 and text.lower().encode() in lowered)
        return "..." if is_from_data and not _TAG.fullmatch(text) else text

    return _WORD.sub(shown, quoted.sub("...", str(error)))[:MAX_TEXT]


def with_last_line(reason: str, output: str | None) -> str:
    """Return why a program failed, and the last line that it wrote, which may be patient data: not for a log."""
    lines = (output or "").strip().splitlines()
    return f"{reason}; it printed: {lines[-1].strip()}" if lines else reason


BOUNDS = {
    "Value error, ": "",
    "Input should be ": "must be ",
    "greater than or equal to": "at least",
    "less than or equal to": "at most",
    "greater than": "more than",
    " should have ": " must have ",
}
"""What pydantic says of a value that it refuses, and what people read."""

RULES = {
    "missing": "must be given",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be a text",
    "path_type": "must be a path, as a text",
    "tuple_type": 'must be a list, such as ["a", "b"]',
    "list_type": 'must be a list, such as ["a", "b"]',
    "dict_type": "must be a table",
    "model_type": "must be a table",
    "model_attributes_type": "must be a table",
    "extra_forbidden": "is unknown",
    "string_pattern_mismatch": "has characters, or a form, that it cannot have",
    "date_type": "must be a date, such as 2026-11-21",
    "date_parsing": "must be a date, such as 2026-11-21",
    "date_from_datetime_parsing": "must be a date, such as 2026-11-21",
    "date_from_datetime_inexact": "must be a date, such as 2026-11-21",
}
"""What people read of an error of pydantic, by its type, where its own words are those of a program."""


def in_plain_words(message: str) -> str:
    """Return what pydantic says of a value, such as ``must be at least 1``."""
    for theirs, ours in BOUNDS.items():
        message = message.replace(theirs, ours)
    return message


def broken_rule(kind: str, message: str) -> str:
    """Return the rule that a value breaks, by the type and the message of pydantic's error, without the value."""
    return RULES.get(kind) or re.sub("^(String|Value|List|Tuple|Dictionary) must", "must", in_plain_words(message))


MAX_LISTED = 24
"""Choices that a message lists; more are not read."""


def nearest(word: str, choices: Iterable[str], listing: str = "") -> str:
    """Return the end of a message about an unknown word: the choice that is meant or, if none is near, all of them.

    `listing` names what lists many choices, as a command.
    """
    choices = list(choices)
    if len(choices) <= MAX_LISTED:
        return meant(word, choices) or f"; known: {', '.join(choices)}"
    return meant(word, choices) or (f"; `{listing}` lists them" if listing else "")


def meant(word: str, choices: Iterable[str]) -> str:
    """Return the end of a message about an unknown word: the choice that is meant; empty if none is near."""
    close = near(word, choices)
    return f', did you mean "{close[0]}"?' if close else ""


LETTERS_FOR_AN_ERROR = 4
"""A word may have one misspelt letter for each so many that it has, and one from two on."""

MIN_BEGINNING = 2
"""Letters that are no beginning yet."""

MAX_MISSPELT = 64
"""Letters of a word that are compared; a longer one is no misspelt name."""


def near(word: str, choices: Iterable[str]) -> list[str]:
    """Return the choices for which a word may be misspelt, that begin with it, or that are its first half or more.

    The nearest choice comes first.
    """
    given = word.lower()
    letters = len(given.strip("-"))
    bound = max(min(letters - 1, 1), letters // LETTERS_FOR_AN_ERROR)
    found = []
    for choice in choices if 1 < len(given) <= MAX_MISSPELT else ():
        known = choice.lower()
        distance = _misspelt(given, known) if abs(len(given) - len(known)) <= bound else bound + 1
        if distance <= bound:
            found.append((distance, choice))
        elif letters > MIN_BEGINNING and (
            known.startswith(given) or (given.startswith(known) and letters <= 2 * len(known.strip("-")))
        ):
            found.append((bound + 1, choice))
    return [choice for _, choice in sorted(found)]


def _misspelt(given: str, known: str) -> int:
    """Return how many letters of a word are wrong, lacking, too many, or exchanged with the next one."""
    before, last = [0] * (len(known) + 1), list(range(len(known) + 1))
    for row, letter in enumerate(given, 1):
        now = [row]
        for column, other in enumerate(known, 1):
            least = min(last[column] + 1, now[-1] + 1, last[column - 1] + (letter != other))
            if row > 1 and column > 1 and (letter, given[row - 2]) == (known[column - 2], other):
                least = min(least, before[column - 2] + 1)
            now.append(least)
        before, last = last, now
    return last[-1]


class VoxelnodeError(Exception):
    """An expected error."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (self.__doc__ or "").splitlines()[0])


class UsageError(VoxelnodeError):
    """A command or the configuration is wrong; the message names the value, the rule and the remedy."""


class PeerFailed(VoxelnodeError):
    """A peer that the node called does not answer, refuses, or failed; the message says why."""


class PeerBusy(VoxelnodeError):
    """Too many people query this peer, or peers, at once; try again in a few seconds."""


class InstanceRefused(VoxelnodeError):
    """An instance was refused; the subclass determines the DIMSE status."""


class OutOfResources(InstanceRefused):
    """Out of disk space, the index is unavailable, or a disk fails; try again later (status 0xA700, PS3.4 B.2.3)."""


class ClassMismatch(InstanceRefused):
    """Request, presentation context and data set disagree on the SOP class or instance (0xA900, PS3.4 B.2.3)."""


class NotUnderstood(InstanceRefused, ValueError):
    """The data set cannot be read; sending it again will not help (status 0xC000, PS3.4 B.2.3)."""


class _Reasoned(VoxelnodeError):
    """An error with a `reason`, a fixed keyword, and a `detail`, a sentence for people."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class ConversionRefused(_Reasoned):
    """A series or a part of it yields no volume; `reason` is a fixed keyword, `detail` a sentence for people.

    `detail` may contain tags, counts, UIDs and measurements, never patient data.
    """


class ResultRefused(VoxelnodeError):
    """A result cannot be stored; the message gives the reason, without patient data."""


class ResultsBusy(VoxelnodeError):
    """The results of other jobs are being made; try again in a minute."""


class Withheld(_Reasoned):
    """A copy must not leave; `reason` is a fixed keyword, `detail` a sentence for people, without patient data."""


def counted(count: int, singular: str, plural: str | None = None) -> str:
    """Return a number with its noun; by default, the plural is the singular with an s.

    What follows the noun can be part of both: ``counted(1, "file is damaged", "files are damaged")``.
    """
    return f"{count} {singular if count == 1 else plural or singular + 's'}"


def sized(count: float) -> str:
    """Return a number of bytes in readable form, such as ``1.5 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def interpolated(indexes: Sequence[int]) -> str:
    """Return the slices, by their ascending indexes from 0, that a resampled copy has between those of its stack."""
    return f"{_slices(indexes)} {'is' if len(indexes) == 1 else 'are'} interpolated"


def no_label(indexes: Sequence[int]) -> str:
    """Return the interpolated slices, by their ascending indexes from 0, on which labels of a stack say nothing."""
    has, its, was = ("has", "its", "image was") if len(indexes) == 1 else ("have", "their", "images were")
    return f"{_slices(indexes)} {has} no label: {its} {was} interpolated"


def _slices(indexes: Sequence[int]) -> str:
    runs = [[index for _, index in run] for _, run in groupby(enumerate(indexes), lambda pair: pair[1] - pair[0])]
    named = spans([range(run[0] + 1, run[-1] + 2) for run in runs], MAX_SPANS)
    return f"slice {named}" if len(indexes) == 1 else f"slices {named}"


def spans(runs: Sequence[range], most: int) -> str:
    """Return runs of numbers in words, such as ``4, 7-9``; at most so many runs, and numbers of a run with steps."""
    shown = [
        str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" if run.step == 1 else ", ".join(map(str, run[:most]))
        for run in runs
    ]
    return ", ".join(shown[:most]) + (", ..." if len(shown) > most else "")


_MEASURE = re.compile(r"(?<= )\d+(\.\d+)?(?= |$)")


def kind_of(reason: str) -> str:
    """Return a reason of a refusal without its measures."""
    return _MEASURE.sub("N", reason)
