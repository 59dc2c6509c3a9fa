"""What a child process makes of one result: a DICOM file, in the study and with references to the source.

Imported in the node for its records only: libraries are loaded in the functions that need them.
"""

from __future__ import annotations

import datetime as dt
import json
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from node import __version__
from node.durable import NO_ROOM
from node.errors import ConversionRefused, ResultRefused, is_out_of_memory, type_and_location
from node.extensions.results.manifest import Entry, ResultKind

if TYPE_CHECKING:
    from pydicom import Dataset

MANUFACTURER = "voxelnode"

VERBATIM = (
    "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientBirthTime", "PatientSex", "PatientAge",
    "PatientSize", "PatientWeight", "OtherPatientIDsSequence", "PatientIdentityRemoved", "DeidentificationMethod",
    "DeidentificationMethodCodeSequence", "StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "AccessionNumber",
    "IssuerOfAccessionNumberSequence", "StudyDescription", "ReferringPhysicianName", "TimezoneOffsetFromUTC",
)  # fmt: skip
"""Attributes of patient and study, which a result has from its source as they are (PS3.3 C.7.1.1, C.7.2.1)."""


_NAMESPACE = uuid.UUID("c1f2a1de-6c5a-4e0b-8a51-5d6f4f4b2b9e")


@dataclass(frozen=True, slots=True)
class SourceStack:
    """The instances of one volume of the source series: SOP Instance UID and file of each."""

    stack: int
    files: tuple[tuple[str, Path], ...]


@dataclass(frozen=True, slots=True)
class Source:
    """The series that a result is about.

    Attributes
    ----------
    study_instance_uid, series_instance_uid : str
    instances : tuple of (str, str)
        SOP Class UID and SOP Instance UID of each instance.
    sample : Path
        The file of one of them, for patient and study.
    stacks : tuple of SourceStack
        Its volumes, in one revision; empty if it has none.
    """

    study_instance_uid: str
    series_instance_uid: str
    instances: tuple[tuple[str, str], ...]
    sample: Path
    stacks: tuple[SourceStack, ...] = ()


@dataclass(frozen=True, slots=True)
class Identity:
    """Identifiers of the instance that is to be made."""

    series_instance_uid: str
    sop_instance_uid: str
    series_number: int


@dataclass(frozen=True, slots=True)
class Making:
    """One result to make.

    Attributes
    ----------
    entry : Entry
    file : Path
        What the hook left.
    source : Source
    identity : Identity
    into : Path
        Existing empty file for the instance.
    made_at : datetime
    """

    entry: Entry
    file: Path
    source: Source
    identity: Identity
    into: Path
    made_at: dt.datetime


def answer(making: Making, _limits: object) -> bytes:
    """Make a result; return what became of it, for `node.extensions.results.makers.made_of`.

    JSON of ``made``, ``refused``, ``shortage`` (of room on the disk) or ``failed``, with identifiers or the reason.
    """
    from pydicom.errors import InvalidDicomError

    try:
        return _encoded("made", _MAKERS[making.entry.kind](making))
    except (ResultRefused, ConversionRefused) as error:
        return _encoded("refused", {"reason": str(error)})
    except InvalidDicomError:
        return _encoded("refused", {"reason": "the file is no DICOM file"})
    except Exception as error:  # the boundary of the process
        if is_out_of_memory(error):
            return _encoded("refused", {"reason": "it needs more memory than the node allows"})
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            return _encoded("shortage", {"reason": str(error.strerror)})
        return _encoded("failed", {"reason": type_and_location(error)})


def _encoded(outcome: str, content: dict[str, Any]) -> bytes:
    return json.dumps([outcome, content]).encode()


def derived_uid(*facts: str) -> str:
    """Return a UID that is the same for the same facts (PS3.5 B.2)."""
    return f"2.25.{uuid.uuid5(_NAMESPACE, chr(10).join(facts)).int}"


def sample_of(making: Making) -> Dataset:
    """Return the header of an instance of the source, its texts decoded."""
    from pydicom import dcmread

    ds = dcmread(making.source.sample, stop_before_pixels=True)
    ds.decode()
    return ds


def local_time(making: Making, sample: Dataset) -> dt.datetime:
    """Return when a result was made: at the offset from UTC that its source states, else at that of this machine."""
    stated = re.fullmatch(r"([+-])(\d\d)(\d\d)", str(sample.get("TimezoneOffsetFromUTC", "")).strip())
    if stated is None:
        return making.made_at.astimezone()
    offset = dt.timedelta(hours=int(stated[2]), minutes=int(stated[3]))
    return making.made_at.astimezone(dt.timezone(offset if stated[1] == "+" else -offset))


def finished(ds: Dataset, making: Making, sample: Dataset) -> dict[str, Any]:
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


def _segmentation(making: Making) -> dict[str, Any]:
    from node.extensions.results.segmentation import make_segmentation

    return make_segmentation(making)


def _report(making: Making) -> dict[str, Any]:
    from node.extensions.results.report import make_report

    return make_report(making)


def _document(making: Making) -> dict[str, Any]:
    from node.extensions.results.document import make_document

    return make_document(making)


def _instance(making: Making) -> dict[str, Any]:
    """Accept an instance that is DICOM already: it must be of the patient and the study of its source."""
    from pydicom import dcmread

    from node.dicom.values import items, text

    ds, sample = dcmread(making.file, stop_before_pixels=True), sample_of(making)
    for keyword in ("StudyInstanceUID", "PatientID"):
        if ds.get(keyword, "") != sample.get(keyword, ""):
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


_MAKERS: Mapping[ResultKind, Callable[[Making], dict[str, Any]]] = {
    "segmentation": _segmentation,
    "report": _report,
    "document": _document,
    "instance": _instance,
}
