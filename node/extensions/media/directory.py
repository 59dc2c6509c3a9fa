"""The DICOMDIR of a medium: the Basic Directory of PS3.3 F, in a file of PS3.10, with the names of PS3.10 8.

The tree is PATIENT, STUDY, SERIES, and a record for each instance. Values that a record must have and an instance lacks
(PS3.3 F.5), or has against their VR, are invented in the record; the file of the instance stays as it is.

A study of 10 000 instances forbids the file set of pydicom: it writes each instance into a folder again, and its time
grows by the square (2 500 instances took 220 s on a busy machine). The functions of its records are used.
"""

from __future__ import annotations

import copy
import json
import re
import struct
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from io import BytesIO
from itertools import accumulate, pairwise
from pathlib import PurePosixPath

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.fileset import DIRECTORY_RECORDERS
from pydicom.filewriter import write_dataset, write_file_meta_info
from pydicom.uid import UID, ExplicitVRLittleEndian, MediaStorageDirectoryStorage

from node.children.decoding import NoSuchValue
from node.dicom.attributes import date_of, time_of
from node.dicom.header import require_few_elements
from node.dicom.values import CONVERSION_ERRORS, items, text, texts
from node.dicom.walker import HeaderCut
from node.errors import NotUnderstood, VoxelnodeError
from node.volume.elements import instant

STORAGE = "1.2.840.10008.5.1.4.1.1."

TYPES: Mapping[str, str] = {
    "88.59": "KEY OBJECT DOC", "88.": "SR DOCUMENT", "104.": "ENCAP DOC", "11.": "PRESENTATION", "9.": "WAVEFORM",
    "481.2": "RT DOSE", "481.3": "RT STRUCTURE SET", "481.5": "RT PLAN", "481.8": "RT PLAN",
    "481.4": "RT TREAT RECORD", "481.6": "RT TREAT RECORD", "481.7": "RT TREAT RECORD", "481.9": "RT TREAT RECORD",
    "4.2": "SPECTROSCOPY", "66": "RAW DATA", "66.1": "REGISTRATION", "66.2": "FIDUCIAL", "66.3": "REGISTRATION",
    "66.5": "SURFACE", "66.6": "TRACT", "67": "VALUE MAP", "77.1.5.3": "STEREOMETRIC", "78.": "MEASUREMENT",
    "90.1": "ASSESSMENT", "78.6": "SR DOCUMENT", "79.1": "SR DOCUMENT", "80.1": "MEASUREMENT",
    "68.1": "SURFACE SCAN", "68.2": "SURFACE SCAN",
    **{f"481.{number}": "RADIOTHERAPY" for number in (*range(10, 23), 25)},
}  # fmt: skip
"""Types of records by SOP class (PS3.3 F.4), without the root of storage; one that ends with a dot begins many."""

LEVELS = ("PATIENT", "STUDY", "SERIES")
"""Types of the records above that of an instance."""

LETTERS = {"PATIENT": "PT", "STUDY": "ST", "SERIES": "SE", "IMAGE": "IM", "SR DOCUMENT": "SR", "KEY OBJECT DOC": "KO"}
"""How names of files and folders begin, which have eight characters; others: XX."""

INVENTED: Mapping[str, str] = {
    "StudyDate": "19000101", "StudyTime": "000000", "StudyID": "0", "SeriesNumber": "0", "InstanceNumber": "0",
    "Modality": "OT", "ContentDate": "19000101", "ContentTime": "000000", "CompletionFlag": "PARTIAL",
    "VerificationFlag": "UNVERIFIED", "ContentLabel": "UNKNOWN", "PresentationCreationDate": "19000101",
    "PresentationCreationTime": "000000", "DoseSummationType": "UNKNOWN", "StructureSetLabel": "UNKNOWN",
    "RTPlanLabel": "UNKNOWN", "MIMETypeOfEncapsulatedDocument": "application/octet-stream",
    "InstanceCreationDate": "19000101",
}  # fmt: skip
"""Values of Type 1 keys for records of instances that lack them."""

TITLED = frozenset(("SR DOCUMENT", "KEY OBJECT DOC"))
"""Types of records that must have a title as a code."""

FURTHER = {
    "PATIENT": ("PatientBirthDate", "PatientSex"),
    "SERIES": ("SeriesDescription", "InstitutionName", "BodyPartExamined"),
    "IMAGE": ("ImageType", "Rows", "Columns", "NumberOfFrames", "ImagePositionPatient", "ImageOrientationPatient"),
}
"""Optional keys that readers of media like, by type of record."""

NO_ID = "UNKNOWN"
VERIFIED_ONCE = "19000101000000"
MAX_SIBLINGS = 1_000_000
MAX_ELEMENTS = 10_000
"""Most elements and items of a record."""

_ITEM = struct.Struct("<HHL")


class NotOnMedia(NoSuchValue, VoxelnodeError):
    """An instance has no record in a DICOMDIR; the message gives the reason, without patient data."""


class MixedPatients(VoxelnodeError):
    """Two people have one Patient ID, and the DICOMDIR would make one patient of them."""


@dataclass(eq=False)
class _Node:
    record: Dataset
    name: str
    children: dict[str, _Node] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def name_of_next(self, kind: str) -> str:
        """Return the name of a further child, of eight characters."""
        letters = LETTERS.get(kind, "XX")
        number = self.counts.get(letters, 0)
        if number >= MAX_SIBLINGS:
            raise NotOnMedia(f"a folder of the medium has more than {MAX_SIBLINGS} files")
        self.counts[letters] = number + 1
        return f"{letters}{number:06d}"


@dataclass(frozen=True, slots=True)
class Records:
    """The records of an instance: of its patient, study and series, and its own, of type `kind`.

    `encoded`: each as a data set in Explicit VR Little Endian. `invented`: keywords that have an invented value.
    """

    kind: str
    patient_id: str
    issuer_of_patient_id: str
    patient_birth_date: str
    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    invented: list[str]
    encoded: list[bytes]

    def to_json(self) -> bytes:
        """Return what `from_json` reads."""
        return json.dumps({**asdict(self), "encoded": [one.hex() for one in self.encoded]}).encode()

    @classmethod
    def from_json(cls, answer: bytes) -> Records:
        """Return the records that a child process has made. Raises NotOnMedia: it has made something else."""
        try:
            found = json.loads(answer)
            invented = list(map(str, found.pop("invented")))
            encoded = [bytes.fromhex(one) for one in found.pop("encoded")]
            return cls(**{name: str(one) for name, one in found.items()}, invented=invented, encoded=encoded)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise NotOnMedia("its records cannot be read") from error


def records_of(ds: Dataset, transfer_syntax_uid: str) -> Records:
    """Return the records of an instance, from its attributes without the pixels.

    Raises NotOnMedia if its SOP class has no type of record, or a record cannot be made.
    """
    kind = record_type(ds)
    try:
        head, invented = _filled(ds, kind)
        records = [_record(head, level) for level in (*LEVELS, kind)]
        leaf = records[-1]
        leaf.ReferencedSOPClassUIDInFile, leaf.ReferencedSOPInstanceUIDInFile = ds.SOPClassUID, ds.SOPInstanceUID
        leaf.ReferencedTransferSyntaxUIDInFile = transfer_syntax_uid
        return Records(
            kind,
            str(head.PatientID),
            text(head, "IssuerOfPatientID"),
            text(head, "PatientBirthDate"),
            text(head, "StudyInstanceUID"),
            text(head, "SeriesInstanceUID"),
            str(ds.SOPInstanceUID),
            sorted(invented),
            [_record_bytes(record) for record in records],
        )
    except CONVERSION_ERRORS as error:
        raise NotOnMedia(f"no record of type {kind} can be made of it: {type(error).__name__}") from error


class Directory:
    """Collects records of instances, and encodes them.

    `fileset_id`: File-set ID of up to 16 characters A-Z, 0-9 and _.
    """

    def __init__(self, fileset_id: str) -> None:
        self._id, self._uid = fileset_id, f"2.25.{uuid.uuid4().int}"
        self._root = _Node(Dataset(), "")
        self._persons: dict[str, tuple[str, str, str]] = {}
        self.instances = 0
        self.invented: set[str] = set()
        """Keywords that some record has an invented value for."""

    def add(self, records: Records) -> PurePosixPath:
        """Add the records of an instance; return the path of its file on the medium.

        Raises NotOnMedia if they are too long, and MixedPatients if another person has its Patient ID.
        """
        kind, invented = records.kind, records.invented
        if len(records.encoded) != len(LEVELS) + 1:
            raise NotOnMedia("its records cannot be read")
        patient, study, series, leaf = map(_decoded, records.encoded)
        self._require_one_person(records)
        node, path, placed = self._root, [], [leaf]
        keys = (records.patient_id, records.study_instance_uid, records.series_instance_uid)
        for key, record, level in zip(keys, (patient, study, series), LEVELS, strict=True):
            if key not in node.children:
                node.children[key] = _Node(record, node.name_of_next(level))
                placed.append(record)
            node = node.children[key]
            path.append(node.name)
        name = node.name_of_next(kind)
        leaf.ReferencedFileID = [*path, name]
        node.children[records.sop_instance_uid] = _Node(leaf, name)
        self.instances += 1
        self.invented |= {keyword for keyword in invented if any(keyword in record for record in placed)}
        return PurePosixPath(*path, name)

    def encoded(self) -> bytes:
        """Return the file DICOMDIR."""
        prefix, order = self._prefix(0, 0, 0), _walk(self._root)
        bodies = {id(node): bytearray(_record_bytes(node.record)) for node in order}
        *starts, end = accumulate((_ITEM.size + len(body) for body in bodies.values()), initial=len(prefix))
        places = dict(zip(bodies, starts, strict=True))
        for parent in (self._root, *order):
            siblings = list(parent.children.values())
            if siblings and parent is not self._root:
                _put(bodies[id(parent)], 30, places[id(siblings[0])])
            for one, following in pairwise(siblings):
                _put(bodies[id(one)], 8, places[id(following)])
        patients = list(self._root.children.values())
        first, last = (places[id(patients[0])], places[id(patients[-1])]) if patients else (0, 0)
        written = BytesIO()
        written.write(self._prefix(first, last, end - len(prefix)))
        for body in bodies.values():
            written.write(_ITEM.pack(0xFFFE, 0xE000, len(body)))
            written.write(body)
        return written.getvalue()

    def _require_one_person(self, records: Records) -> None:
        """Raise MixedPatients if instances with one Patient ID have several issuers or birth dates."""
        person = (records.issuer_of_patient_id, records.patient_birth_date)
        issuer, birth_date, study = self._persons.setdefault(records.patient_id, (*person, records.study_instance_uid))
        known = (issuer, birth_date)
        if any(one and other and one != other for one, other in zip(person, known, strict=True)):
            raise MixedPatients(
                f"the studies {study} and {records.study_instance_uid} have one Patient ID and are of two people, "
                "whom a DICOMDIR would make one patient: export them one by one"
            )
        merged = tuple(one or other for one, other in zip(known, person, strict=True))
        self._persons[records.patient_id] = (merged[0], merged[1], study)

    def _prefix(self, first: int, last: int, length: int) -> bytes:
        """Return all bytes before the first record."""
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
        meta.MediaStorageSOPInstanceUID = UID(self._uid)
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds = Dataset()
        ds.FileSetID = self._id
        ds.OffsetOfTheFirstDirectoryRecordOfTheRootDirectoryEntity = first
        ds.OffsetOfTheLastDirectoryRecordOfTheRootDirectoryEntity = last
        ds.FileSetConsistencyFlag = 0
        stream = DicomBytesIO()
        stream.write(bytes(128) + b"DICM")
        stream.is_little_endian, stream.is_implicit_VR = True, False
        write_file_meta_info(stream, meta)
        write_dataset(stream, ds)
        stream.write(struct.pack("<HH2sHL", 0x0004, 0x1220, b"SQ", 0, length))
        return bytes(stream.getvalue())


def _filled(ds: Dataset, kind: str) -> tuple[Dataset, set[str]]:
    """Return the attributes with a value for each that a record must have, and which of them are invented."""
    head, invented = copy.copy(ds), set()
    for keyword, value in INVENTED.items():
        if not _has_value(ds, keyword):
            setattr(head, keyword, value)
            invented.add(keyword)
    if not items(ds, "ConceptNameCodeSequence"):
        is_needed = kind in TITLED  # in others it may be empty
        head.ConceptNameCodeSequence = [_untitled()] if is_needed else []
        if is_needed:
            invented.add("ConceptNameCodeSequence")
    if not text(ds, "PatientID"):
        head.PatientID = f"{NO_ID}-{text(ds, 'StudyInstanceUID')}"[-64:]
        invented.add("PatientID")
    if text(ds, "VerificationFlag") == "VERIFIED":  # the last time, PS3.3 F.5.22
        stated = (text(one, "VerificationDateTime") for one in items(ds, "VerifyingObserverSequence"))
        times = [(moment.utc_s, own) for own in stated if (moment := instant(own)) is not None]
        head.VerificationDateTime = max(times, default=(0.0, VERIFIED_ONCE))[1]
        if head.VerificationDateTime == VERIFIED_ONCE:
            invented.add("VerificationDateTime")
    if "ContentSequence" in ds:  # of the content, a record has only what modifies its title
        kept = [item for item in items(ds, "ContentSequence") if text(item, "RelationshipType") == "HAS CONCEPT MOD"]
        del head.ContentSequence
        if kept:
            head.ContentSequence = kept
    return head, invented


def _has_value(ds: Dataset, keyword: str) -> bool:
    """Return whether an attribute has a value; a date, time or code that its VR cannot have is none (PS3.5 6.2)."""
    if keyword not in ds or ds[keyword].is_empty:
        return False
    is_valid = _VALID.get(ds[keyword].VR)
    return is_valid is None or all(map(is_valid, texts(ds, keyword)))


_VALID: Mapping[str, Callable[[str], object]] = {
    "DA": date_of,
    "TM": time_of,
    "CS": re.compile(r"[A-Z0-9_ ]{0,16}").fullmatch,
}


def _record(head: Dataset, kind: str) -> Dataset:
    made: Dataset = DIRECTORY_RECORDERS[kind](head)
    for keyword in FURTHER.get(kind, ()):
        if _has_value(head, keyword):
            made[keyword] = head[keyword]
    if "SpecificCharacterSet" in head:
        made.SpecificCharacterSet = head.SpecificCharacterSet
    made.OffsetOfTheNextDirectoryRecord = 0
    made.RecordInUseFlag = 0xFFFF
    made.OffsetOfReferencedLowerLevelDirectoryEntity = 0
    made.DirectoryRecordType = kind
    return made


def _untitled() -> Dataset:
    title = Dataset()
    title.CodeValue, title.CodingSchemeDesignator, title.CodeMeaning = "18748-4", "LN", "Diagnostic Imaging Report"
    return title


def record_type(ds: Dataset) -> str:
    """Return the type of the record of an instance (PS3.3 F.4); raise NotOnMedia if it has none."""
    sop_class = text(ds, "SOPClassUID")
    rest = sop_class.removeprefix(STORAGE)
    found = TYPES.get(rest) or next(
        (kind for root, kind in TYPES.items() if root[-1] == "." and rest.startswith(root)), ""
    )
    if found:
        return found
    if "Rows" in ds and sop_class.startswith(STORAGE):
        return "IMAGE"
    raise NotOnMedia("its SOP class has no type of record in a DICOMDIR, or one that is not supported")


def _walk(root: _Node) -> list[_Node]:
    """Return the records below a node, each before those below it."""
    found, waiting = [], list(root.children.values())[::-1]
    while waiting:
        node = waiting.pop()
        found.append(node)
        waiting += list(node.children.values())[::-1]
    return found


def _record_bytes(record: Dataset) -> bytes:
    stream = DicomBytesIO()
    stream.is_little_endian, stream.is_implicit_VR = True, False
    write_dataset(stream, record, record.get("SpecificCharacterSet") or "iso8859")
    return bytes(stream.getvalue())


def _decoded(record: bytes) -> Dataset:
    """Return a record that was encoded from foreign values."""
    try:
        require_few_elements(record, ExplicitVRLittleEndian, MAX_ELEMENTS)
        return read_dataset(BytesIO(record), False, True)
    except (NotUnderstood, HeaderCut) as error:
        raise NotOnMedia(f"its record cannot be read: {error}") from error


def _put(body: bytearray, at: int, offset: int) -> None:
    """Put an offset where the first elements of a record have it: (0004,1400) at 8, (0004,1420) at 30."""
    struct.pack_into("<L", body, at, offset)
