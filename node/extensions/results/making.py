"""The records from which results are made, and the parts that all results share: identifiers and the written file.

Imported in the node for its records only: libraries are loaded in the functions that need them.
"""

from __future__ import annotations

import datetime as dt
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from node.extensions.results.manifest import ManifestEntry
from node.version import __version__
from node.volume.elements import offset_s

if TYPE_CHECKING:
    from pydicom import Dataset

MANUFACTURER = "voxelnode"

VERBATIM = (
    "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientBirthTime", "PatientSex", "PatientAge",
    "PatientSize", "PatientWeight", "OtherPatientIDsSequence", "PatientIdentityRemoved", "DeidentificationMethod",
    "DeidentificationMethodCodeSequence", "StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "AccessionNumber",
    "IssuerOfAccessionNumberSequence", "StudyDescription", "ReferringPhysicianName", "TimezoneOffsetFromUTC",
    "ReferringPhysicianIdentificationSequence", "ConsultingPhysicianName", "ConsultingPhysicianIdentificationSequence",
    "PhysiciansOfRecord", "PhysiciansOfRecordIdentificationSequence", "NameOfPhysiciansReadingStudy",
    "PhysiciansReadingStudyIdentificationSequence", "RequestingService", "RequestingServiceCodeSequence",
    "ProcedureCodeSequence", "ReasonForPerformedProcedureCodeSequence", "AdmittingDiagnosesDescription",
    "AdmittingDiagnosesCodeSequence", "PatientBodyMassIndex", "MedicalAlerts", "Allergies", "SmokingStatus",
    "PregnancyStatus", "LastMenstrualDate", "PatientState", "PatientSexNeutered", "Occupation",
    "AdditionalPatientHistory", "AdmissionID", "IssuerOfAdmissionIDSequence", "ReasonForVisit",
    "ReasonForVisitCodeSequence", "ServiceEpisodeID", "IssuerOfServiceEpisodeIDSequence", "ServiceEpisodeDescription",
)  # fmt: skip
"""Attributes of patient and study, which a result has from its source as they are (PS3.3 C.7.1.1, C.7.2.1, C.7.2.2).

Those of the equipment are not among them: Institution Name and the like say where the equipment stands that produced
the instance (PS3.3 C.7.5.1), and this is the node, not the scanner.
"""


_NAMESPACE = uuid.UUID("c1f2a1de-6c5a-4e0b-8a51-5d6f4f4b2b9e")


@dataclass(frozen=True, slots=True)
class SourceStack:
    """The instances of one volume of the source series: SOP Instance UID and file of each."""

    stack: int
    files: tuple[tuple[str, Path], ...]


@dataclass(frozen=True, slots=True)
class ResultSource:
    """The series that a result is about.

    `instances` has the SOP Class UID and SOP Instance UID of each; `sample` is the file of one of them, for patient and
    study; `stacks` are its volumes in one revision, none if it has none. `patient_id` is that of its copies that leave,
    if somebody has decided whose it is.
    """

    study_instance_uid: str
    series_instance_uid: str
    instances: tuple[tuple[str, str], ...]
    sample: Path
    stacks: tuple[SourceStack, ...] = ()
    patient_id: str = ""


@dataclass(frozen=True, slots=True)
class ResultIdentity:
    """Identifiers of the instance that is to be made."""

    series_instance_uid: str
    sop_instance_uid: str
    series_number: int


@dataclass(frozen=True, slots=True)
class ResultMaking:
    """One result to make of `file`, which the hook left, `into` an existing empty file."""

    entry: ManifestEntry
    file: Path
    source: ResultSource
    identity: ResultIdentity
    into: Path
    made_at: dt.datetime


def derived_uid(*facts: str) -> str:
    """Return a UID that is the same for the same facts (PS3.5 B.2)."""
    return f"2.25.{uuid.uuid5(_NAMESPACE, chr(10).join(facts)).int}"


def sample_of(making: ResultMaking) -> Dataset:
    """Return the header of an instance of the source, its texts decoded."""
    from pydicom import dcmread

    ds = dcmread(making.source.sample, stop_before_pixels=True)
    ds.decode()
    return ds


def local_time(making: ResultMaking, sample: Dataset) -> dt.datetime:
    """Return when a result was made: at the offset from UTC that its source states, else at that of this machine."""
    offset = offset_s(str(sample.get("TimezoneOffsetFromUTC", "")))
    return making.made_at.astimezone(None if offset is None else dt.timezone(dt.timedelta(seconds=offset)))


def described(making: ResultMaking, now: dt.datetime) -> dict[str, Any]:
    """Return what highdicom writes of series, equipment and time into each instance."""
    return {
        "series_instance_uid": making.identity.series_instance_uid,
        "series_number": making.identity.series_number,
        "sop_instance_uid": making.identity.sop_instance_uid,
        "instance_number": 1,
        "manufacturer": MANUFACTURER,
        "manufacturer_model_name": making.entry.algorithm,
        "software_versions": making.entry.algorithm_version,
        "device_serial_number": "1",
        **{f"{what}_date": now.date() for what in ("content", "series")},
        **{f"{what}_time": now.time() for what in ("content", "series")},
        "specific_character_set": "ISO_IR 192",
    }


def finished(ds: Dataset, making: ResultMaking, sample: Dataset) -> dict[str, Any]:
    """Give an instance the patient and study of its source, write it, and return its identifiers."""
    for keyword in VERBATIM:
        if keyword in sample:
            ds[keyword] = sample[keyword]
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SeriesDescription = making.entry.description[:64]
    ds.Manufacturer = MANUFACTURER
    ds.SoftwareVersions = [making.entry.algorithm_version, f"voxelnode {__version__}"]
    with making.into.open("wb") as file:
        ds.save_as(file, enforce_file_format=True)
    return identifiers(ds)


def identifiers(ds: Dataset) -> dict[str, Any]:
    """Return the identifiers of an instance, as the node records them."""
    names = ("study_instance_uid", "series_instance_uid", "sop_instance_uid", "sop_class_uid")
    keywords = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
    return {name: str(ds.get(keyword, "")) for name, keyword in zip(names, keywords, strict=True)}
