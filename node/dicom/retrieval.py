"""What a C-MOVE or C-GET asks for: an identifier -> which instances (PS3.4 C.4.2.1.4, C.4.3.1.3)."""

from __future__ import annotations

from dataclasses import dataclass

from pydicom.dataset import Dataset

from node.dicom.attributes import is_identifier
from node.dicom.keys import UNIQUE_KEYS, IdentifierMismatch, Level, Model
from node.dicom.values import standard_tag, texts

LEVELS = {level.name: level for level in Level}
"""Levels as *Query/Retrieve Level* (0008,0052) says them."""

_LEVEL = 0x00080052


@dataclass(frozen=True, slots=True)
class Selection:
    """Instances, by the unique keys of the levels that they belong to; what is empty holds for all.

    `patient_id` is one that the patient has now, or had before it was merged with another.
    """

    level: Level
    patient_id: str = ""
    study_instance_uids: tuple[str, ...] = ()
    series_instance_uids: tuple[str, ...] = ()
    sop_instance_uids: tuple[str, ...] = ()


def read_selection(identifier: Dataset, model: Model) -> Selection:
    """Return what an identifier selects.

    Raises
    ------
    IdentifierMismatch
        The level is none of the model, the unique key of the level is missing, or a key above it has several values.

    Notes
    -----
    PS3.4 C.4.2.2.1: the unique key of the level may be a list of UIDs. Unique keys of the levels above may be left
    out, as in a relational retrieve (PS3.4 C.4.2.2.2): a UID alone is as clear.
    """
    named = texts(identifier, "QueryRetrieveLevel")
    level = LEVELS.get(named[0]) if len(named) == 1 else None
    if level is None or level < model.value:
        raise IdentifierMismatch(_LEVEL, "Query/Retrieve Level is none of this information model (PS3.4 C.6)")
    keys = {each: _values(identifier, each, level) for each in Level}
    if not keys[level]:
        raise IdentifierMismatch(
            standard_tag(UNIQUE_KEYS[level]), f"the unique key of level {level.name} must be given (PS3.4 C.4.2.2.1)"
        )
    patient_id = keys[Level.PATIENT][0] if keys[Level.PATIENT] else ""
    return Selection(level, patient_id, keys[Level.STUDY], keys[Level.SERIES], keys[Level.IMAGE])


def _values(identifier: Dataset, key: Level, level: Level) -> tuple[str, ...]:
    """The values of a unique key; those below the level are not looked at."""
    if key > level:
        return ()
    keyword = UNIQUE_KEYS[key]
    found = tuple(value for value in texts(identifier, keyword) if value)
    if len(found) > 1 and (key < level or key == Level.PATIENT):
        raise IdentifierMismatch(standard_tag(keyword), "a unique key above the level has one value (PS3.4 C.4.2.2.1)")
    if key != Level.PATIENT and not all(map(is_identifier, found)):
        raise IdentifierMismatch(standard_tag(keyword), "no UID of up to 64 characters (PS3.5 9.1)")
    return found
