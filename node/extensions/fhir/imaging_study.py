"""The resource `ImagingStudy` of FHIR R5 from answers of the index (https://hl7.org/fhir/R5/imagingstudy.html).

The correspondence of its elements to DICOM is that of the mapping on its page. What a study does not have is left out:
FHIR knows no empty values.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydicom.datadict import tag_for_keyword

from node.dicom.answers import Found

Json = dict[str, Any]

MEDIA_TYPE = "application/fhir+json"
UID_SYSTEM = "urn:dicom:uid"
OID = "urn:oid:"
_DICOM = "http://dicom.nema.org/resources/ontology/DCM"
_IDENTIFIER_TYPES = "http://terminology.hl7.org/CodeSystem/v2-0203"
_CONNECTIONS = "http://terminology.hl7.org/CodeSystem/endpoint-connection-type"
_SUBSETTED = {"system": "http://terminology.hl7.org/CodeSystem/v3-ObservationValue", "code": "SUBSETTED"}

_ENDPOINT = "wado"

_OFFSET = re.compile(r"[+-]((0[0-9]|1[0-3])[0-5][0-9]|1400)")
"""Offsets from UTC that a dateTime can have."""

OF_STUDY = (
    "StudyInstanceUID", "PatientID", "IssuerOfPatientID", "PatientName", "AccessionNumber", "ModalitiesInStudy",
    "StudyDate", "StudyTime", "TimezoneOffsetFromUTC", "ReferringPhysicianName", "StudyDescription",
    "NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances",
)  # fmt: skip
OF_SERIES = (
    "SeriesInstanceUID", "SeriesNumber", "Modality", "SeriesDescription", "BodyPartExamined", "Laterality",
    "SeriesDate", "SeriesTime", "TimezoneOffsetFromUTC", "NumberOfSeriesRelatedInstances",
)  # fmt: skip
OF_INSTANCE = ("SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID", "InstanceNumber")
"""Attributes that a resource is made of."""


def imaging_study(
    study: Found,
    series: Sequence[Found],
    instances: Mapping[str, Sequence[Found]] | None,
    dicomweb: str,
) -> Json:
    """Return the resource of a study.

    Parameters
    ----------
    series : sequence of Found
        Its series.
    instances : mapping of str to sequence of Found, or None
        The instances of each series by its UID; None: they are left out, and the resource says that it is a part.
    dicomweb : str
        The URL of DICOMweb, which becomes its endpoint; empty: it has none.
    """
    uid = _text(study, "StudyInstanceUID")
    resource: Json = {
        "resourceType": "ImagingStudy",
        "id": uid,
        "meta": {"tag": [_SUBSETTED]} if instances is None else None,
        "contained": [_endpoint(dicomweb)] if dicomweb else None,
        "identifier": [{"system": UID_SYSTEM, "value": f"{OID}{uid}"}, *_accession(study)],
        "status": "available",
        "modality": [_modality(code) for code in _text(study, "ModalitiesInStudy").split("\\") if code],
        "subject": _subject(study),
        "started": started(*(_text(study, name) for name in ("StudyDate", "StudyTime", "TimezoneOffsetFromUTC"))),
        "referrer": _named(study, "ReferringPhysicianName"),
        "endpoint": [{"reference": f"#{_ENDPOINT}"}] if dicomweb else None,
        "numberOfSeries": _number(study, "NumberOfStudyRelatedSeries"),
        "numberOfInstances": _number(study, "NumberOfStudyRelatedInstances"),
        "description": _text(study, "StudyDescription"),
        "series": [_series(one, instances) for one in series],
    }
    whole: Json = _without_empty(resource)
    return whole


def started(date: str, time: str, offset: str) -> str | None:
    """Return a dateTime of FHIR from values of DA, TM and (0008,0201); one without an offset from UTC has no time."""
    if not re.fullmatch(r"[0-9]{8}", date) or not _is_moment(date):
        return None
    day = f"{date[:4]}-{date[4:6]}-{date[6:]}"
    if not re.fullmatch(r"[0-9]{6}(\.[0-9]{1,6})?", time) or not _OFFSET.fullmatch(offset):
        return day
    moment = f"{day}T{time[:2]}:{time[2:4]}:{time[4:]}{offset[:3]}:{offset[3:]}"
    return moment if _is_moment(moment) else day


def _is_moment(written: str) -> bool:
    try:
        dt.datetime.fromisoformat(written)
    except ValueError:
        return False
    return True


def _series(series: Found, instances: Mapping[str, Sequence[Found]] | None) -> Json:
    uid = _text(series, "SeriesInstanceUID")
    body_part, laterality = _text(series, "BodyPartExamined"), _text(series, "Laterality")
    return {
        "uid": uid,
        "number": _number(series, "SeriesNumber"),
        "modality": _modality(_text(series, "Modality") or "OT"),  # an element that each series has
        "description": _text(series, "SeriesDescription"),
        "numberOfInstances": _number(series, "NumberOfSeriesRelatedInstances"),
        "bodySite": {"concept": {"text": body_part}} if body_part else None,
        "laterality": {"text": laterality} if laterality else None,
        "started": started(*(_text(series, name) for name in ("SeriesDate", "SeriesTime", "TimezoneOffsetFromUTC"))),
        "instance": None if instances is None else [_instance(one) for one in instances.get(uid, ())],
    }


def _instance(instance: Found) -> Json:
    return {
        "uid": _text(instance, "SOPInstanceUID"),
        "sopClass": {"system": "urn:ietf:rfc:3986", "code": f"{OID}{_text(instance, 'SOPClassUID')}"},
        "number": _number(instance, "InstanceNumber"),
    }


def _endpoint(address: str) -> Json:
    return {
        "resourceType": "Endpoint",
        "id": _ENDPOINT,
        "status": "active",
        "connectionType": [{"coding": [{"system": _CONNECTIONS, "code": "dicom-wado-rs"}]}],
        "address": address,
    }


def _accession(study: Found) -> list[Json]:
    number = _text(study, "AccessionNumber")
    kind = {"coding": [{"system": _IDENTIFIER_TYPES, "code": "ACSN"}]}
    return [{"type": kind, "value": number}] if number else []


def _subject(study: Found) -> Json:
    """Return a logical reference: the node has no Patient resources."""
    number = _text(study, "PatientID")
    identifier = {
        "type": {"coding": [{"system": _IDENTIFIER_TYPES, "code": "MR"}]},
        "value": number,
        "assigner": {"display": _text(study, "IssuerOfPatientID")},
    }
    name = _person(study, "PatientName")
    return {"type": "Patient", "identifier": identifier if number else None, "display": name or number or "unknown"}


def _modality(code: str) -> Json:
    return {"coding": [{"system": _DICOM, "code": code}]}


def _named(answer: Found, keyword: str) -> Json | None:
    name = _person(answer, keyword)
    return {"display": name} if name else None


def _person(answer: Found, keyword: str) -> str:
    """Return a name as people write it: that of the first of its groups that is not empty (PS3.5 6.2.1)."""
    groups = (group.split("^") for group in _text(answer, keyword).split("="))
    for group in groups:
        family, given, middle, prefix, suffix = (part.strip() for part in [*group, "", "", "", "", ""][:5])
        if name := " ".join(part for part in (prefix, given, middle, family, suffix) if part):
            return name
    return ""


def _text(answer: Found, keyword: str) -> str:
    """Return the value of an attribute, whether it has a column or not; of a sequence, or without one, empty text."""
    value = answer.get(keyword, "")
    if keyword not in answer:
        values = answer.others.get(f"{tag_for_keyword(keyword):08X}", {}).get("Value", [])
        value = values[0] if values else ""
    return value.strip() if isinstance(value, str) else ""


def _number(answer: Found, keyword: str) -> int | None:
    """Return a number that is not negative, or None: FHIR has no other ones here."""
    text = _text(answer, keyword)
    return int(text) if re.fullmatch(r"\+?[0-9]{1,9}", text) else None


def _without_empty(value: Any) -> Any:
    if isinstance(value, dict):
        filled = ((name, _without_empty(one)) for name, one in value.items())
        return {name: one for name, one in filled if one not in (None, "", [], {})}
    return [_without_empty(one) for one in value] if isinstance(value, list) else value
