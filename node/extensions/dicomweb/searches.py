"""The parameters of a search, which every service of DICOMweb has (PS3.18 8.3.4)."""

from __future__ import annotations

import re
from collections.abc import Iterable

from fastapi import HTTPException, Request
from pydicom.config import IGNORE
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag

MAX_PARAMETERS = 500
"""Maximum parameters of a query, including includefield."""

CONTROLS = frozenset(
    ("includefield", "limit", "offset", "fuzzymatching", "emptyvaluematching", "multiplevaluematching", "accept")
)

Path = tuple[BaseTag, ...]
"""An attribute: the tags of its sequences, then its own."""


def whole_number(request: Request, name: str, default: int) -> int:
    """Return the parameter ``limit`` or ``offset``, or a default if it is missing."""
    text = request.query_params.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"[0-9]{1,15}", text):
        raise HTTPException(400, f"{name} must be a whole number, 0 or more (PS3.18 8.3.4.4)")
    return int(text)


def is_fuzzy(request: Request) -> bool:
    """Return whether a search asks for fuzzy matching of names (PS3.18 8.3.4.2)."""
    return _is_true(request, "fuzzymatching", "PS3.18 8.3.4.2")


def kinds_not_performed(request: Request) -> list[str]:
    """Return a warning of PS3.18 8.3.4 for each kind of matching that a search asks for and that is not performed.

    Values separated by a backslash are alternatives, which is multiple value matching, whether a search asks for it or
    not; ``""`` is matched as it stands.
    """
    _is_true(request, "multiplevaluematching", "PS3.18 8.3.4")
    if not _is_true(request, "emptyvaluematching", "PS3.18 8.3.4"):
        return []
    return ["The emptyvaluematching parameter is not supported. Empty Value Matching has not been performed."]


def _is_true(request: Request, name: str, source: str) -> bool:
    text = request.query_params.get(name, "false").lower()
    if text not in ("true", "false"):
        raise HTTPException(400, f"{name} must be true or false ({source})")
    return text == "true"


def attribute_path(name: str) -> Path | None:
    """Return the tags of an attribute given by keywords or tags, sequences first (PS3.18 8.3.4.1); None if unknown."""
    tags = []
    for part in name.split("."):
        tag = int(part, 16) if re.fullmatch(r"[0-9A-Fa-f]{8}", part) else (tag_for_keyword(part) if part else None)
        if tag is None:
            return None
        tags.append(BaseTag(tag))
    if len(tags) > 8:
        raise HTTPException(400, "sequences are nested too deeply")
    return tuple(tags)


def representation(tag: BaseTag) -> str:
    """Return the value representation of an attribute; UN if PS3.6 does not know it."""
    try:
        return dictionary_VR(tag)
    except KeyError:
        return "UN"


def put_key(identifier: Dataset, path: Path, values: list[str], *, replace: bool = False) -> None:
    """Put a key into an identifier, within its sequences; further values of a key are added."""
    *sequences, tag = path
    for sequence in sequences:
        if sequence not in identifier:
            identifier.add(DataElement(sequence, "SQ", Sequence([Dataset()])))
        identifier = identifier[sequence].value[0]
    if tag in identifier and identifier[tag].VR == "SQ":
        return
    before = [] if replace or tag not in identifier else _several(identifier[tag].value)
    vr = representation(tag)
    if vr == "SQ":
        identifier.add(DataElement(tag, "SQ", Sequence([Dataset()])))
        return
    # Patterns and ranges are not valid values of the VR; the query parser checks them.
    identifier.add(DataElement(tag, "LO" if vr != "PN" else vr, [*before, *values], validation_mode=IGNORE))


def _several(value: object) -> list[str]:
    if value in (None, ""):
        return []
    return [str(value)] if isinstance(value, str) or not isinstance(value, Iterable) else [str(item) for item in value]
