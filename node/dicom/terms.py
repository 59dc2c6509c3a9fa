"""Terms: texts by which an index finds the series that may have a value, before their documents are matched.

Whatever a key without wild cards equals, in any VR, has a term in common with it. The reverse need not hold: documents
decide. A value gives several terms because the same text may be compared as text, as a name, as a number or as a date.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

from node.dicom.attributes import date_of
from node.dicom.documents import OTHERS, Document, DocumentKey, is_sequence, single_precision
from node.dicom.key_values import as_number, folded, whole_number

UNKNOWN = "*"
"""The term of a value that is not known, which may therefore match."""

LENGTH = 64
"""Letters of a term: longer values begin with it."""

_MOMENTS = frozenset(("TM", "DT"))
"""VRs of values that only ranges match: a time without seconds covers all of them."""


def path_of(name: str) -> tuple[str, ...]:
    """Return the names of an indexed attribute from the outermost sequence on."""
    return (name,) if "," in name else tuple(name.split("."))


def terms_of(document: Document, path: Sequence[str]) -> set[str]:
    """Return the terms of an attribute of a document."""
    value = document.get(path[0], False)
    if value is None or (value is False and OTHERS in document):
        return {UNKNOWN}
    if value is False:
        return set()
    if is_sequence(value):
        return {term for item in value for term in terms_of(item, path[1:])} if path[1:] else set()
    if path[1:]:
        return set()
    vr, text = value if isinstance(value, list) else ("", value)
    if vr in _MOMENTS or (vr and "," not in path[0]):  # not the VR of PS3.6, by which keys are read
        return {UNKNOWN}
    return {term for part in {text, *text.split("\\")} for term in _terms(part)}


def wanted_terms(keys: Iterable[DocumentKey], above: str = "") -> Iterator[tuple[str, set[str]]]:
    """Yield the names that keys restrict, with terms of which a match has one, for those that terms can decide."""
    for key in keys:
        if not key.restricts:
            continue
        yield from wanted_terms(key.items, f"{above}{key.name}.")
        terms = [_terms(text) | _terms(single_precision(text)) for text in key.texts if text]
        if terms and all(terms) and not any(_is_pattern(key, text) for text in key.texts):
            yield above + key.name, set().union(*terms)


def _is_pattern(key: DocumentKey, text: str) -> bool:
    """Return whether a value of a key may match values that are not equal to it."""
    if key.vr in _MOMENTS or (key.fuzzy and key.vr in ("", "PN")) or "*" in text or "?" in text:
        return True
    return "-" in text and (key.vr in ("", "DA") or bool(key.creator)) and not text.strip("0123456789.- ")


@lru_cache(maxsize=8192)
def _terms(text: str) -> frozenset[str]:
    plain = {folded(part)[:LENGTH] for part in (text, *text.split("="))}
    numbers = {as_number(text), whole_number(text)} - {None}
    day = date_of("".join(text.split()))
    return frozenset(
        {*plain, *(f"#{float(number or 0)!r}" for number in numbers), *([] if day is None else [f"@{day}"])} - {""}
    )
