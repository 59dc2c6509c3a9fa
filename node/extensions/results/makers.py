"""The child processes that make results: what a hook leaves is read there, within limits.

Libraries are loaded in the functions that need them, because the node imports this module as well.
"""

from __future__ import annotations

import datetime as dt
import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from node.archive.space import room_of
from node.children.child import ChildDied, ChildPool
from node.children.messages import ChildCancelled, ChildLate
from node.children.serving import Apart, ChildLimits, ChildPipes, load_for_all, serve_apart, use_one_thread
from node.dicom.lean_import import load_pydicom
from node.errors import ConversionRefused, OutOfResources, ResultRefused, is_out_of_memory, type_and_location
from node.extensions.results.manifest import ManifestEntry, ResultKind
from node.files.durable import NO_ROOM
from node.registry import resolve
from node.version import __version__
from node.volume.elements import offset_s

if TYPE_CHECKING:
    from pydicom import Dataset


def answer(making: ResultMaking, _limits: object) -> bytes:
    """Make a result; return what became of it, for `node.extensions.results.makers.made_of`.

    JSON of ``made``, ``refused``, ``shortage`` (of room on the disk) or ``failed``, with identifiers or the reason.
    """
    from pydicom.errors import InvalidDicomError

    try:
        make = _MAKERS[making.entry.kind]
        return _encoded("made", (resolve(make) if isinstance(make, str) else make)(making))
    except (ResultRefused, ConversionRefused) as error:
        return _encoded("refused", {"reason": str(error)})
    except InvalidDicomError:
        return _encoded("refused", {"reason": "the file is not a DICOM file"})
    except Exception as error:  # the boundary of the process
        if is_out_of_memory(error):
            return _encoded("refused", {"reason": "it needs more memory than the node allows"})
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            return _encoded("shortage", {"reason": str(error.strerror)})
        return _encoded("failed", {"reason": type_and_location(error)})


def _encoded(outcome: str, content: dict[str, Any]) -> bytes:
    return json.dumps([outcome, content]).encode()


def make_instance(making: ResultMaking) -> dict[str, Any]:
    """Accept an instance that is DICOM already: it must be of the patient and the study of its source."""
    from pydicom import dcmread

    from node.dicom.values import items, text

    ds, sample = dcmread(making.file, stop_before_pixels=True), sample_of(making)
    for keyword, decided in (("StudyInstanceUID", ""), ("PatientID", making.source.patient_id)):
        if ds.get(keyword, "") not in (sample.get(keyword, ""), decided or None):
            raise ResultRefused(f"its {keyword} is not that of the source; copy patient and study from an instance")
    found = identifiers(ds)
    if not all(found.values()):
        raise ResultRefused("it lacks a UID of its study, series, instance or class")
    if found["series_instance_uid"] == making.source.series_instance_uid:
        raise ResultRefused("it is in the series of its source; give it a series of its own")
    referred = [text(item, "SeriesInstanceUID") for item in items(ds, "ReferencedSeriesSequence")]
    if referred and making.source.series_instance_uid not in referred:
        raise ResultRefused("it refers to other series than that of the job: name its series by series_instance_uid")
    return found


_MAKERS: Mapping[ResultKind, str | Callable[[ResultMaking], dict[str, Any]]] = {
    "segmentation": "node.extensions.results.segmentation:make_segmentation",
    "report": "node.extensions.results.report:make_report",
    "document": "node.extensions.results.report:make_document",
    "instance": make_instance,
}
"""The function that makes each kind, or its place, which is resolved in a child: it has the libraries."""

LIMITS = ChildLimits(memory_bytes=8_000_000_000, cpu_seconds=600, deadline_seconds=900.0)
MAX_ANSWER_BYTES = 1 << 20
MAX_REASON_CHARACTERS = 500

LIBRARIES = (
    "highdicom.seg",
    "highdicom.sr",
    "nibabel",
    "pydantic",
    "node.extensions.results.segmentation",
    "node.extensions.results.report",
)


class Makers:
    """Makes instances of results in child processes. Thread-safe. The first result starts a child."""

    def __init__(self) -> None:
        self._children = ChildPool(serve, name="voxelnode-results", max_answer_bytes=MAX_ANSWER_BYTES)

    def make(self, making: ResultMaking) -> dict[str, Any]:
        """Make one result; return its identifiers.

        Raises ResultRefused if it cannot be made of what the hook left, and OutOfResources if the node is stopping, the
        disk is full, or the child took too long.
        """
        source = making.source
        reads = making.file, source.sample, *(path for stack in source.stacks for _, path in stack.files)
        try:
            content = self._children.call(Apart(making, LIMITS, reads, (making.into,)), LIMITS.deadline_seconds)
        except ChildCancelled:
            raise OutOfResources("the node is stopping") from None
        except ChildLate:
            raise OutOfResources(f"{making.entry.file} took more than {LIMITS.deadline_seconds:g} s") from None
        except ChildDied as died:
            cause = "more memory than the node allows" if died.out_of_memory else "ended its process"
            raise ResultRefused(f"{making.entry.file}: {cause}") from died
        return made_of(content, making)

    def close(self) -> None:
        """Kill the children at once."""
        self._children.close()


def made_of(content: bytes, making: ResultMaking) -> dict[str, Any]:
    """Return what an answer of a child says of the instance that it made; errors as of `Makers.make`."""
    outcome, result = json.loads(content)
    if outcome == "shortage":
        raise OutOfResources(f"disk: {result['reason']}; {room_of(making.into.parent)}")
    if outcome != "made":
        raise ResultRefused(f"{making.entry.file}: {str(result['reason'])[:MAX_REASON_CHARACTERS]}")
    return dict(result)


def serve(channel: ChildPipes) -> None:
    """Make results until the channel closes, each in a process of its own."""
    use_one_thread()
    load_pydicom()
    load_for_all(LIBRARIES)
    serve_apart(channel, answer)


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
