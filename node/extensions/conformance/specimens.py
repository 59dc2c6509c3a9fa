"""Instances that ``voxelnode conformance --verify --store`` sends, which everybody sees to be tests.

Quality Control Subject (0010,0200) is YES (PS3.3 C.7.1.3), and the Patient ID begins with `PATIENT_PREFIX`.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from node.dicom.keys import SUPPORTED, key_of

if TYPE_CHECKING:
    from pydicom import Dataset

PATIENT_PREFIX = "VOXELNODE-VERIFY-"

ANNEX_NAMES = (
    (
        "H.3.1",
        "\\ISO 2022 IR 87",
        b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
        "Yamada^Tarou=山田^太郎=やまだ^たろう",
    ),
    (
        "H.3.2",
        "ISO 2022 IR 13\\ISO 2022 IR 87",
        b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3=\x1b$B;3ED\x1b(J^\x1b$BB@O:\x1b(J=\x1b$B$d$^$@\x1b(J^\x1b$B$?$m$&\x1b(J",
        "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう",
    ),
    (
        "I.2",
        "\\ISO 2022 IR 149",
        b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf",
        "Hong^Gildong=洪^吉洞=홍^길동",
    ),
    ("J.1", "ISO_IR 192", "Wang^XiaoDong=王^小東".encode(), "Wang^XiaoDong=王^小東"),
    ("J.3", "GB18030", b"Wang^XiaoDong=\xcd\xf5^\xd0\xa1\xb6\xab", "Wang^XiaoDong=王^小东"),
    ("J.5", "GBK", b"Wang^XiaoDong=\xcd\xf5^\xd0\xa1\xb6\xab", "Wang^XiaoDong=王^小东"),
    (
        "K.2",
        "\\ISO 2022 IR 58",
        b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab",
        "Zhang^XiaoDong=张^小东",
    ),
)
"""Names of PS3.5 annexes H to K: section, Specific Character Set, the bytes of the name, and the name."""

_BY_VR = {
    "AS": "040Y", "CS": "VERIFY", "DA": "20200102", "IS": "3", "LO": "Verify", "PN": "Verify^Conformance",
    "SH": "Verify", "TM": "101112", "US": 8,
}  # fmt: skip

_VALUES: dict[str, Any] = {
    "PatientSex": "O",
    "Modality": "CT",
    "Laterality": "R",
    "NumberOfFrames": "1",
    "TimezoneOffsetFromUTC": "+0100",
    "BodyPartExamined": "CHEST",
}


def image(patient_id: str, *, term: str = "ISO_IR 192", name: bytes | None = None) -> Dataset:
    """Return a small image with a value for each query key, in a study of its own.

    `name`: the bytes of Patient's Name in the character set `term`.
    """
    from pydicom import Dataset
    from pydicom.dataelem import RawDataElement
    from pydicom.dataset import FileMetaDataset
    from pydicom.sequence import Sequence
    from pydicom.tag import Tag
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

    ds = Dataset()
    for level, keywords in SUPPORTED.items():
        for keyword in keywords:
            key = key_of(keyword, level)
            if key is not None and key.matched and key.vr in _BY_VR:
                setattr(ds, keyword, _VALUES.get(keyword, _BY_VR[key.vr]))
    del ds.ModalitiesInStudy
    request = Dataset()
    request.ScheduledProcedureStepID = request.RequestedProcedureID = "Verify"
    ds.RequestAttributesSequence = Sequence([request])
    ds.SpecificCharacterSet = term.split("\\")
    ds.SOPClassUID, ds.PatientID, ds.QualityControlSubject = CTImageStorage, patient_id, "YES"
    for keyword in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        setattr(ds, keyword, f"2.25.{uuid.uuid4().int}")
    ds.ImageType, ds.InstitutionName = ["ORIGINAL", "PRIMARY", "AXIAL"], "Conformance verification"
    ds.ImagePositionPatient, ds.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 1, 0]
    ds.PixelSpacing, ds.SliceThickness, ds.KVP = [1, 1], 1, None
    ds.RescaleIntercept, ds.RescaleSlope, ds.WindowCenter, ds.WindowWidth = 0, 1, 40, 400
    ds.Rows = ds.Columns = 8
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 12, 11
    ds.PixelData = bytes(range(128))
    if name is not None:
        tag = Tag("PatientName")
        ds[tag] = RawDataElement(tag, "PN", len(name), name, 0, False, True)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    return ds


def new_patient_id() -> str:
    """Return a Patient ID that no patient has."""
    return f"{PATIENT_PREFIX}{uuid.uuid4().hex[:12].upper()}"
