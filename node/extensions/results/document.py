"""A PDF becomes an Encapsulated PDF (PS3.3 A.45.1)."""

from __future__ import annotations

from typing import Any

from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import EncapsulatedPDFStorage, ExplicitVRLittleEndian

from node.errors import ResultRefused
from node.extensions.results.making import Making, finished, local_time, sample_of

MAX_PDF_BYTES = 200_000_000
HEAD_BYTES = 1024


def make_document(making: Making) -> dict[str, Any]:
    """Write a PDF as an instance; return its identifiers.

    Raises
    ------
    ResultRefused
        The file does not begin as a PDF does, or is too large.
    """
    if making.file.stat().st_size > MAX_PDF_BYTES:
        raise ResultRefused(f"the file is larger than {MAX_PDF_BYTES} bytes")
    pdf = making.file.read_bytes()
    if b"%PDF-" not in pdf[:HEAD_BYTES] or b"%%EOF" not in pdf[-HEAD_BYTES:]:
        raise ResultRefused("the file is no whole PDF: %PDF- at its begin or %%EOF at its end is missing")
    entry, identity, sample = making.entry, making.identity, sample_of(making)
    now = local_time(making, sample)
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = EncapsulatedPDFStorage, identity.sop_instance_uid
    ds.SeriesInstanceUID, ds.SeriesNumber, ds.InstanceNumber = identity.series_instance_uid, identity.series_number, 1
    ds.Modality, ds.ConversionType = "DOC", "WSD"
    ds.ManufacturerModelName = entry.algorithm
    ds.DeviceSerialNumber = "1"
    ds.SeriesDate = ds.ContentDate = now.strftime("%Y%m%d")
    ds.SeriesTime = ds.ContentTime = now.strftime("%H%M%S")
    ds.AcquisitionDateTime = ""
    ds.BurnedInAnnotation = "YES"  # nobody has looked whether it names the patient
    ds.DocumentTitle = entry.description
    ds.ConceptNameCodeSequence = []
    ds.PatientName = ds.PatientID = ds.PatientBirthDate = ds.PatientSex = ""
    ds.StudyDate = ds.StudyTime = ds.AccessionNumber = ds.StudyID = ds.ReferringPhysicianName = ""
    ds.SourceInstanceSequence = [_reference(*instance) for instance in making.source.instances]
    ds.MIMETypeOfEncapsulatedDocument = "application/pdf"
    ds.EncapsulatedDocumentLength = len(pdf)
    ds.EncapsulatedDocument = pdf + b"\0" * (len(pdf) % 2)
    return finished(ds, making, sample)


def _reference(sop_class_uid: str, sop_instance_uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class_uid, sop_instance_uid
    return item
