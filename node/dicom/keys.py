"""The supported query keys and their levels (PS3.4 C.6), and what a retrieve selects by them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, IntEnum

from pydicom.datadict import keyword_for_tag

from node.dicom import attributes
from node.errors import VoxelnodeError


class InvalidQuery(VoxelnodeError):
    """A key of the query is invalid: `tag` is the offending element, `rule` the violated rule.

    Neither contains the value, which may be patient data.
    """

    def __init__(self, tag: int, rule: str) -> None:
        super().__init__(f"({tag >> 16:04X},{tag & 0xFFFF:04X}): {rule}")
        self.tag, self.rule = tag, rule


class IdentifierMismatch(InvalidQuery):
    """The identifier violates a rule of the information model about its level or a unique key (PS3.4 C.4.1.2, C.6)."""


class Level(IntEnum):
    """*Query/Retrieve Level* (0008,0052), from the top down (PS3.4 C.6)."""

    PATIENT = 0
    STUDY = 1
    SERIES = 2
    IMAGE = 3


LEVELS = {level.name: level for level in Level}
"""Levels by the value of *Query/Retrieve Level* (0008,0052)."""


class QueryModel(Enum):
    """Information model (PS3.4 C.6.1, C.6.2); the Study Root model has the attributes of patients at level STUDY."""

    PATIENT_ROOT = Level.PATIENT
    STUDY_ROOT = Level.STUDY


@dataclass(frozen=True, slots=True)
class Key:
    """A supported query key.

    `level`: level of the attribute.
    `column`: column in the table of its level; None: computed from the rows below.
    `matched`: whether its values can be matched; else it can only be returned.
    `items`: keys in the item of a sequence (PS3.4 C.2.2.2.6).
    """

    keyword: str
    vr: str
    level: Level
    column: str | None = None
    matched: bool = True
    items: tuple[Key, ...] = ()


def _stored(level: Level, stored: tuple[attributes.Attribute, ...]) -> list[Key]:
    # Counts of related instances in an image are hints of the sender, not the number stored here.
    return [
        Key(keyword_for_tag(attribute.tag), attribute.vr, level, attribute.column)
        for attribute in stored
        if attribute.column != "number_of_series_related_instances" and attribute is not attributes.TIMEZONE_OFFSET
    ]


KEYS: Mapping[str, Key] = {
    key.keyword: key
    for key in (
        *_stored(Level.PATIENT, attributes.PATIENT),
        Key("NumberOfPatientRelatedStudies", "IS", Level.PATIENT, matched=False),
        Key("NumberOfPatientRelatedSeries", "IS", Level.PATIENT, matched=False),
        Key("NumberOfPatientRelatedInstances", "IS", Level.PATIENT, matched=False),
        *_stored(Level.STUDY, attributes.STUDY),
        Key("ModalitiesInStudy", "CS", Level.STUDY),
        Key("SOPClassesInStudy", "UI", Level.STUDY),
        Key("NumberOfStudyRelatedSeries", "IS", Level.STUDY, matched=False),
        Key("NumberOfStudyRelatedInstances", "IS", Level.STUDY, matched=False),
        *_stored(Level.SERIES, attributes.SERIES),
        Key("NumberOfSeriesRelatedInstances", "IS", Level.SERIES, matched=False),
        Key(
            "RequestAttributesSequence",
            "SQ",
            Level.SERIES,
            "request_attributes",
            items=tuple(
                Key(attribute.column, attribute.vr, Level.SERIES, attribute.column) for attribute in attributes.REQUEST
            ),
        ),
        *_stored(Level.IMAGE, attributes.IMAGE),
        Key("AvailableTransferSyntaxUID", "UI", Level.IMAGE, "transfer_syntax_uid"),
    )
}
"""Every supported key that has one level."""

TIMEZONE = "TimezoneOffsetFromUTC"

KEYS_OF_ANSWERS: Mapping[str, tuple[str, str | None]] = {
    "InstanceAvailability": ("CS", None),
    TIMEZONE: (attributes.TIMEZONE_OFFSET.vr, attributes.TIMEZONE_OFFSET.column),
}
"""Supported keys of every level but PATIENT, with VR and column: their value is that of the level of the query.
Without a column, a key is only returned."""

SUPPORTED: Mapping[Level, tuple[str, ...]] = {
    level: tuple(key.keyword for key in KEYS.values() if key.level == level)
    + (tuple(KEYS_OF_ANSWERS) if level != Level.PATIENT else ())
    for level in Level
}
"""Keywords of the supported keys of each level; a query may also contain those of higher levels."""

UNIQUE_KEYS: Mapping[Level, str] = {
    Level.PATIENT: "PatientID",
    Level.STUDY: "StudyInstanceUID",
    Level.SERIES: "SeriesInstanceUID",
    Level.IMAGE: "SOPInstanceUID",
}
"""PS3.4 C.6.1.1, C.6.2.1."""


def key_of(keyword: str, level: Level) -> Key | None:
    """Return the key for a keyword in a query of a level, or None if it is unsupported."""
    if keyword not in KEYS_OF_ANSWERS:
        return KEYS.get(keyword)
    vr, column = KEYS_OF_ANSWERS[keyword]
    return Key(keyword, vr, level, column, matched=column is not None) if level != Level.PATIENT else None


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


DEFAULTS = {
    Level.STUDY: (
        "StudyDate", "StudyTime", "AccessionNumber", "InstanceAvailability", "ModalitiesInStudy",
        "ReferringPhysicianName", "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyID",
        "StudyDescription", "NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances", "TimezoneOffsetFromUTC",
    ),
    Level.SERIES: (
        "Modality", "SeriesDescription", "SeriesNumber", "SeriesDate", "SeriesTime", "BodyPartExamined",
        "NumberOfSeriesRelatedInstances", "PerformedProcedureStepStartDate", "PerformedProcedureStepStartTime",
        "RequestAttributesSequence", "TimezoneOffsetFromUTC",
    ),
    Level.IMAGE: (
        "SOPClassUID", "InstanceAvailability", "InstanceNumber", "Rows", "Columns", "BitsAllocated", "NumberOfFrames",
        "AvailableTransferSyntaxUID", "TimezoneOffsetFromUTC",
    ),
}  # fmt: skip
"""Attributes that QIDO-RS returns by default: those of PS3.18 tables 10.6.3-3 to 10.6.3-5 in the index, and more."""
