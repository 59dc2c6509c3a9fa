"""JSON becomes a structured report: measurements by TID 1500, else texts. A PDF becomes an Encapsulated PDF."""

import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any

from highdicom.sr import (
    AlgorithmIdentification,
    CodedConcept,
    ComprehensiveSR,
    ContainerContentItem,
    DeviceObserverIdentifyingAttributes,
    FindingSite,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    RelationshipTypeValues,
    TextContentItem,
    TrackingIdentifier,
)
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import EncapsulatedPDFStorage, ExplicitVRLittleEndian

from node.errors import ResultRefused
from node.extensions.results.makers import ResultMaking, derived_uid, described, finished, local_time, sample_of
from node.extensions.results.manifest import Coded, Measured, measurements_of, parsed

SCHEME = "99VOXELNODE"
"""Coding scheme of names that are not coded (PS3.16 8: private designators begin with 99)."""

_NO_TEXT = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f\ud800-\udfff]")
MAX_TEXTS = 1000
MAX_TEXT_CHARACTERS = 10_000

IMAGING_PROCEDURE = Code("363679005", "SCT", "Imaging procedure")
REPORT = Code("126000", "DCM", "Imaging Measurement Report")


def make_report(making: ResultMaking) -> dict[str, Any]:
    """Write the report of a JSON file; return its identifiers.

    Raises ResultRefused if the file is not a JSON object, or its measurements have no name, value or unit.
    """
    content = parsed(making.file.read_bytes(), "the file")
    if not isinstance(content, dict):
        raise ResultRefused("the file is not a JSON object")
    _require_text(content)
    tree = _measurements(content, making) if "measurements" in content else _texts(content, making)
    sample = sample_of(making)
    now = local_time(making, sample)
    report = ComprehensiveSR(evidence=_evidence(making), content=tree, is_complete=True, **described(making, now))
    return finished(report, making, sample)


def _require_text(content: object) -> None:
    """Refuse characters that no text of a report may have (PS3.5 6.1.3): surrogates, and controls other than breaks."""
    for text in _texts_in(content):
        if not text.isprintable() and _NO_TEXT.search(text):
            raise ResultRefused("the JSON has a control character or half of a surrogate pair in a text")


def _texts_in(content: object) -> Iterator[str]:
    waiting = [content]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, dict):
            waiting += (*one, *one.values())
        elif isinstance(one, list):
            waiting += one


def _evidence(making: ResultMaking) -> list[Dataset]:
    """Return what the report refers to, without what highdicom checks of patient and study."""
    evidence = []
    for sop_class_uid, sop_instance_uid in making.source.instances:
        ds = Dataset()
        ds.SOPClassUID, ds.SOPInstanceUID = sop_class_uid, sop_instance_uid
        ds.StudyInstanceUID = making.source.study_instance_uid
        ds.SeriesInstanceUID = making.source.series_instance_uid
        ds.PatientID = ds.PatientName = ds.PatientBirthDate = ds.PatientSex = ds.AccessionNumber = ds.StudyID = ""
        ds.StudyDate = ds.StudyTime = ds.ReferringPhysicianName = None
        evidence.append(ds)
    return evidence


def _measurements(content: dict[str, Any], making: ResultMaking) -> Sequence:
    found = measurements_of(content)
    if not found:
        return _texts({"measurements": "nothing measured"}, making)  # TID 1500 must have a measurement
    entry = making.entry
    algorithm = AlgorithmIdentification(entry.algorithm, entry.algorithm_version)
    groups = []
    for number, measured in enumerate(found, 1):
        site = [FindingSite(_concept(measured.site))] if measured.site is not None else None
        identifier = f"{entry.name} {number}"
        uid = derived_uid(making.identity.sop_instance_uid, str(number))
        groups.append(
            MeasurementsAndQualitativeEvaluations(
                TrackingIdentifier(uid=uid, identifier=identifier),
                algorithm_id=algorithm,
                finding_sites=site,
                measurements=[_measurement(measured)],
            )
        )
    device = DeviceObserverIdentifyingAttributes(
        uid=derived_uid(making.identity.sop_instance_uid, "device"), name=entry.algorithm
    )
    observer = ObserverContext(codes.DCM.Device, device)
    context = ObservationContext(observer_device_context=observer)
    return MeasurementReport(context, IMAGING_PROCEDURE, groups, title=REPORT)


def _measurement(measured: Measured) -> Measurement:
    unit = CodedConcept(measured.unit, "UCUM", measured.unit)
    return Measurement(_concept(measured.name), measured.value, unit)


def _concept(name: str | Coded) -> CodedConcept:
    """Return a coded name, or a text as a code of our own, which is the same for the same text."""
    if isinstance(name, str):
        return CodedConcept(hashlib.sha256(name.encode()).hexdigest()[:12], SCHEME, name)
    return CodedConcept(name.value, name.scheme, name.meaning)


def _texts(content: dict[str, Any], making: ResultMaking) -> Sequence:
    """Return a list of texts: one for each field, nested ones as JSON."""
    if not content or len(content) > MAX_TEXTS:
        raise ResultRefused(f"the JSON object must have 1 to {MAX_TEXTS} fields")
    root = ContainerContentItem(REPORT, template_id=None)
    items = []
    for name, value in content.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        if not name or len(name) > 64 or not text or len(text) > MAX_TEXT_CHARACTERS:
            raise ResultRefused(f"a field needs a name of 1 to 64 characters and a value of 1 to {MAX_TEXT_CHARACTERS}")
        items.append(TextContentItem(_concept(name), text, RelationshipTypeValues.CONTAINS))
    root.ContentSequence = Sequence(items)
    return Sequence([root])


HEAD_BYTES = 1024


def make_document(making: ResultMaking) -> dict[str, Any]:
    """Write a PDF as an instance; return its identifiers.

    Raises ResultRefused if the file does not begin and end as a PDF does.
    """
    pdf = making.file.read_bytes()
    if b"%PDF-" not in pdf[:HEAD_BYTES] or b"%%EOF" not in pdf[-HEAD_BYTES:]:
        raise ResultRefused("the file is not a whole PDF: %PDF- at its beginning or %%EOF at its end is missing")
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
