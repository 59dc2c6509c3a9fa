"""The attributes that queries can name, and the levels that they belong to (PS3.4 C.6)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, IntEnum

from pydicom.datadict import keyword_for_tag

from node.dicom import attributes
from node.errors import VoxelnodeError


class InvalidQuery(VoxelnodeError):
    """A key of the query cannot be understood: `tag` is the offending element, `rule` what it breaks.

    The value is in neither: it may be a patient's.
    """

    def __init__(self, tag: int, rule: str) -> None:
        super().__init__(f"({tag >> 16:04X},{tag & 0xFFFF:04X}): {rule}")
        self.tag, self.rule = tag, rule


class IdentifierMismatch(InvalidQuery):
    """The identifier breaks the rules of the information model: its level, or a unique key (PS3.4 C.4.1.2, C.6)."""


class Level(IntEnum):
    """*Query/Retrieve Level* (0008,0052), from the top down (PS3.4 C.6)."""

    PATIENT = 0
    STUDY = 1
    SERIES = 2
    IMAGE = 3


class Model(Enum):
    """Information model (PS3.4 C.6.1, C.6.2); the Study Root model has the attributes of patients at level STUDY."""

    PATIENT_ROOT = Level.PATIENT
    STUDY_ROOT = Level.STUDY


@dataclass(frozen=True, slots=True)
class Key:
    """An attribute that can be asked for.

    Attributes
    ----------
    level : Level
        Whose attribute it is.
    column : str or None
        Of the table of its level; None: made of what belongs to a row.
    matched : bool
        Whether its values can be looked for; else it is only answered.
    """

    keyword: str
    vr: str
    level: Level
    column: str | None = None
    matched: bool = True


def _stored(level: Level, stored: tuple[attributes.Attribute, ...]) -> list[Key]:
    # What an image says of the size of its series is a hint of its sender; asked for is what is here.
    return [
        Key(keyword_for_tag(one.tag), one.vr, level, one.column)
        for one in stored
        if one.column != "number_of_series_related_instances"
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
        *_stored(Level.IMAGE, attributes.IMAGE),
        Key("AvailableTransferSyntaxUID", "UI", Level.IMAGE, "transfer_syntax_uid"),
    )
}
"""Every supported key. *Instance Availability* (0008,0056) is answered too, at each level but PATIENT."""

SUPPORTED: Mapping[Level, tuple[str, ...]] = {
    level: tuple(key.keyword for key in KEYS.values() if key.level == level)
    + (("InstanceAvailability",) if level != Level.PATIENT else ())
    for level in Level
}
"""Keywords of the supported keys of each level; those of the levels above can be asked for too."""

UNIQUE_KEYS: Mapping[Level, str] = {
    Level.PATIENT: "PatientID",
    Level.STUDY: "StudyInstanceUID",
    Level.SERIES: "SeriesInstanceUID",
    Level.IMAGE: "SOPInstanceUID",
}
"""PS3.4 C.6.1.1, C.6.2.1."""
