"""Parse the identifier of a C-MOVE or C-GET into a selection of instances (PS3.4 C.4.2.1.4, C.4.3.1.3)."""

from __future__ import annotations

from dataclasses import dataclass

from pydicom.dataset import Dataset

from node.dicom.attributes import is_identifier
from node.dicom.keys import UNIQUE_KEYS, IdentifierMismatch, Level, QueryModel
from node.dicom.values import standard_tag, texts

LEVELS = {level.name: level for level in Level}
"""Levels by the value of *Query/Retrieve Level* (0008,0052)."""

_LEVEL = 0x00080052


@dataclass(frozen=True, slots=True)
class Selection:
    """Instances, by the unique keys of their levels; an empty key selects all.

    `patient_id` is the current ID of the patient, or that of a patient merged into this one.
    """

    level: Level
    patient_id: str = ""
    study_instance_uids: tuple[str, ...] = ()
    series_instance_uids: tuple[str, ...] = ()
    sop_instance_uids: tuple[str, ...] = ()


def read_selection(identifier: Dataset, model: QueryModel) -> Selection:
    """Return the selection of an identifier.

    Raises
    ------
    IdentifierMismatch
        The level is not in the model, the unique key of the level is missing, or a key above it has several values.

    Notes
    -----
    PS3.4 C.4.2.2.1: the unique key of the level may be a list of UIDs. Unique keys of higher levels may be
    omitted, as in a relational retrieve (PS3.4 C.4.2.2.2): a UID alone is unambiguous.
    """
    named = texts(identifier, "QueryRetrieveLevel")
    level = LEVELS.get(named[0]) if len(named) == 1 else None
    if level is None or level < model.value:
        raise IdentifierMismatch(_LEVEL, "Query/Retrieve Level is not in this information model (PS3.4 C.6)")
    keys = {key_level: _values(identifier, key_level, level) for key_level in Level}
    if not keys[level]:
        raise IdentifierMismatch(
            standard_tag(UNIQUE_KEYS[level]), f"the unique key of level {level.name} must be given (PS3.4 C.4.2.2.1)"
        )
    patient_id = keys[Level.PATIENT][0] if keys[Level.PATIENT] else ""
    return Selection(level, patient_id, keys[Level.STUDY], keys[Level.SERIES], keys[Level.IMAGE])


def _values(identifier: Dataset, key: Level, level: Level) -> tuple[str, ...]:
    """Return the values of a unique key; keys below the level are ignored."""
    if key > level:
        return ()
    keyword = UNIQUE_KEYS[key]
    values = tuple(value for value in texts(identifier, keyword) if value)
    if len(values) > 1 and (key < level or key == Level.PATIENT):
        raise IdentifierMismatch(
            standard_tag(keyword), "a unique key above the level must have one value (PS3.4 C.4.2.2.1)"
        )
    if key != Level.PATIENT and not all(map(is_identifier, values)):
        raise IdentifierMismatch(standard_tag(keyword), "not a UID of up to 64 characters (PS3.5 9.1)")
    return values
