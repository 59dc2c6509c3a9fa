"""What stays in a release: all texts, numbers, dates and UIDs, attribute by attribute, for a person to read."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pydicom import Dataset
from pydicom.datadict import keyword_for_tag
from pydicom.multival import MultiValue

from node.children.messages import Garbled
from node.children.pseudonyms import MADE_UID
from node.dicom.values import CONVERSION_ERRORS, held_elements
from node.extensions.deidentify.lost import Loss, lost
from node.files.reading import read_instance
from node.web.pages.filters import csv_line

COLUMNS = ("attribute", "tag", "vr", "value", "count")

MAX_VALUES = 1000
"""Values of one attribute that are listed; the others are counted together."""

NOT_READABLE = "(not readable)"
"""Stands for a value that contradicts its VR, and is still in the instance."""

MAX_CHARACTERS = 500

_BYTES = frozenset(("OB", "OD", "OF", "OL", "OV", "OW", "UN"))
_Attribute = tuple[str, str, str]

Line = tuple[str, str, str, str, int]
"""Attribute, tag, VR, value, and number of occurrences."""


class Remaining:
    """Distinct values of each attribute, and how often they occur. Names begin with those of sequences."""

    def __init__(self) -> None:
        self._values: dict[_Attribute, Counter[str]] = {}

    def add(self, ds: Dataset) -> None:
        """Count the values of an instance, to any depth, without pixel data and other bytes."""
        self._add_items(ds, "", "")

    def merge(self, lines: Iterable[Line]) -> None:
        """Add what `lines` of another one yields."""
        for name, tag, vr, value, count in lines:
            self._count((name, tag, vr), value, count)

    def lines(self) -> Iterator[Line]:
        """Yield the lines by tag; of one attribute, the rarest last."""
        for attribute in sorted(self._values, key=lambda each: (each[1], each[0])):
            for value, count in self._values[attribute].most_common():
                yield (*attribute, value, count)

    def as_csv(self) -> bytes:
        """Return the lines as a file of CSV in UTF-8, which spreadsheets open without calculating anything."""
        return b"".join(map(csv_line, [COLUMNS, *self.lines()]))

    def _add_items(self, ds: Dataset, names: str, tags: str) -> None:
        for tag in list(held_elements(ds)):
            name = f"{names}{keyword_for_tag(tag) or 'private'}"
            number = f"{tags}({tag.group:04X},{tag.element:04X})"
            try:
                element = ds[tag]
                vr, value = str(element.VR), None if str(element.VR) in _BYTES else element.value
            except CONVERSION_ERRORS:
                self._count((name, number, ""), NOT_READABLE, 1)
                continue
            if vr == "SQ":
                for item in value or ():
                    self._add_items(item, f"{name}/", f"{number}/")
            else:
                for text in _texts(value):
                    self._count((name, number, vr), MADE_UID if vr == "UI" and text.startswith(MADE_UID) else text, 1)

    def _count(self, attribute: _Attribute, value: str, count: int) -> None:
        values = self._values.setdefault(attribute, Counter())
        if value not in values and len(values) >= MAX_VALUES:
            value = "(other values)"
        values[value] += count


def compared(original: Path, copy: Path) -> bytes:
    """Return the lines of a copy and what it lost as JSON: for a child of `node.children.decoder`."""
    remaining = Remaining()
    remaining.add(read_instance(copy))
    return json.dumps([list(remaining.lines()), list(lost(read_instance(original), read_instance(copy)))]).encode()


def comparison_of(answer: bytes) -> tuple[list[Line], frozenset[Loss]]:
    """Return the lines, and what was lost, that `compared` answers with.

    Raises Garbled: it is no answer of it.
    """
    try:
        lines, losses = json.loads(answer)
        found = [(str(name), str(tag), str(vr), str(value), int(n)) for name, tag, vr, value, n in lines]
        return found, frozenset(map(Loss, losses))
    except (ValueError, TypeError, RecursionError) as error:
        raise Garbled from error


def _texts(value: Any) -> Iterator[str]:
    values = value if isinstance(value, MultiValue | list | tuple) else [value]
    for each in values:
        text = "" if each is None else str(each)
        if text:
            yield text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]}…"
