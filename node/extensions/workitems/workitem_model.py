"""Workitems in the DICOM JSON Model (PS3.4 tables CC.2.5-3 and CC.2.4-1)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import sha256
from typing import Any
from uuid import UUID

from node.dicom.json_model import Json, elements
from node.dicom.values import standard_tag
from node.extensions.dicomweb.resources import resource_url
from node.extensions.workitems.created import CreatedWorkitem
from node.extensions.workitems.own_steps import ConversionStep, ProcedureStep
from node.extensions.workitems.unified_steps import PERFORMED, UPS_PUSH, values_of
from node.settings.model import Settings

MAX_REFERENCED_INSTANCES = 10_000
"""Instances that a retrieved workitem lists; the others are in the series at its Retrieve URL."""

PRIORITY, LABEL, WORKLIST = "MEDIUM", "Conversion to volumes", "Conversions"
CODE = ("110001", "DCM", "Image Processing")

STATION_SCHEME = "99VOXELNODE"
"""*Coding Scheme Designator* of the code of the node as a station, which is its AE title."""

_UUID_8 = 8 << 76 | 2 << 62
"""Version and variant of a UUID with a layout of its own (RFC 9562 5.8)."""

_DIGEST_BITS = 74
_REASONS = {"conversion-cancelled": ("110513", "DCM", "Discontinued for unspecified reason")}
_FAILED = ("110501", "DCM", "Equipment failure")
_REFUSED = ("110521", "DCM", "Objects incorrectly formatted")


def workitem_uid(workitem: ConversionStep, ae_title: str) -> str:
    """Return the SOP Instance UID of a workitem, always the same one: ``2.25.`` and a UUID (PS3.5 B.2).

    The UUID has 48 bits with the row of the series, so that it can be found, and 74 bits of a digest of node, study,
    series and conversion, by which it differs from those of other nodes and other conversions.
    """
    parts = (ae_title, workitem.study_instance_uid, workitem.series_instance_uid, str(workitem.predecessor))
    digest = int.from_bytes(sha256("\0".join(parts).encode()).digest()[:10], "big") >> (80 - _DIGEST_BITS)
    value = workitem.series_id << 80 | _UUID_8 | (digest >> 62) << 64 | digest & (1 << 62) - 1
    return f"2.25.{UUID(int=value).int}"


def series_id_of(uid: str) -> int | None:
    """Return the row of the series in the UID of a workitem, or None if it is not one of ours."""
    if not re.fullmatch(r"2\.25\.[1-9][0-9]{0,38}", uid):
        return None
    value = int(uid[5:])
    is_ours = value < 1 << 128 and (value >> 76) & 15 == 8 and (value >> 62) & 3 == 2
    return value >> 80 if is_ours else None


def workitem_model(
    workitem: ConversionStep, ae_title: str, base: str, instances: Sequence[tuple[str, str]] | None = None
) -> Json:
    """Return a workitem as a data set.

    `base`: the URL of the DICOMweb service. `instances`: the instances of the series, if they are to be listed.
    """
    series_url = resource_url(base, workitem.study_instance_uid, workitem.series_instance_uid)
    inputs: dict[str, Any] = {
        "TypeOfInstances": "DICOM",
        "StudyInstanceUID": workitem.study_instance_uid,
        "SeriesInstanceUID": workitem.series_instance_uid,
        "WADORSRetrievalSequence": [{"RetrieveURL": series_url}],
    }
    if instances is not None:
        inputs["ReferencedSOPSequence"] = [
            {"ReferencedSOPClassUID": sop_class, "ReferencedSOPInstanceUID": uid} for sop_class, uid in instances
        ]
    is_waiting = workitem.ended_by is None and workitem.started_at is None
    begins = workitem.started_at or workitem.scheduled_at or workitem.ended_at
    changed = workitem.ended_at or workitem.started_at or workitem.scheduled_at
    return elements(
        {
            "SpecificCharacterSet": "ISO_IR 192",
            "SOPClassUID": UPS_PUSH,
            "SOPInstanceUID": workitem_uid(workitem, ae_title),
            "PatientName": workitem.patient_name,
            "PatientID": workitem.patient_id,
            "IssuerOfPatientID": workitem.issuer_of_patient_id,
            "PatientBirthDate": workitem.patient_birth_date,
            "PatientSex": workitem.patient_sex,
            "AdmissionID": None,
            "ScheduledProcedureStepPriority": PRIORITY,
            "ScheduledProcedureStepModificationDateTime": changed,
            "ProcedureStepLabel": LABEL,
            "WorklistLabel": WORKLIST,
            "ScheduledProcessingParametersSequence": [],
            "ScheduledStationNameCodeSequence": [],
            "ScheduledStationClassCodeSequence": [],
            "ScheduledStationGeographicLocationCodeSequence": [],
            "ScheduledHumanPerformersSequence": [],
            "ScheduledProcedureStepStartDateTime": begins,
            "ScheduledWorkitemCodeSequence": [_code(CODE)],
            "CommentsOnTheScheduledProcedureStep": None,
            "InputReadinessState": "INCOMPLETE" if is_waiting else "READY",
            "InputInformationSequence": [inputs],
            "ReferencedRequestSequence": [
                {
                    "StudyInstanceUID": workitem.study_instance_uid,
                    "AccessionNumber": workitem.accession_number,
                    "RequestedProcedureID": None,
                }
            ],
            "ReplacedProcedureStepSequence": [],
            "ProcedureStepState": workitem.state,
            "ProcedureStepProgressInformationSequence": [_progress(workitem)],
            "UnifiedProcedureStepPerformedProcedureSequence": [_performed(workitem)] if not is_waiting else [],
        }
    )


def created_model(workitem: CreatedWorkitem | ProcedureStep) -> Json:
    """Return a workitem of a client as a data set; its Transaction UID is never part of it (PS3.18 11.5.2)."""
    uids = elements(
        {
            "SpecificCharacterSet": "ISO_IR 192",
            "SOPClassUID": UPS_PUSH,
            "SOPInstanceUID": workitem.sop_instance_uid,
        }
    )
    return dict(sorted({**workitem.attributes, **uids}.items()))


def own_model(
    step: ProcedureStep,
    settings: Settings,
    base: str,
    instances: Sequence[tuple[str, str]] | None = None,
) -> Json:
    """Return work of the node as a data set; see `workitem_model`."""
    uids = [uid for uid in (step.study_instance_uid, step.series_instance_uid) if uid is not None]
    here = {"WADORSRetrievalSequence": [{"RetrieveURL": resource_url(base, *uids)}]}
    [inputs] = values_of(step.attributes, "InputInformationSequence")
    stored = {**inputs, **elements(here)}
    if instances is not None:
        references = [
            {"ReferencedSOPClassUID": of_class, "ReferencedSOPInstanceUID": uid} for of_class, uid in instances
        ]
        stored |= elements({"ReferencedSOPSequence": references})
    output: list[Json] = []
    of = step.lane.destination or step.lane.name
    peer = settings.peers.get(of)
    added: Json = {}
    if step.lane.kind == "retrieval":
        output = [_sorted(stored)] if instances else []
        at_peer = {"DICOMRetrievalSequence": [{"RetrieveAETitle": peer.ae_title}]} if peer is not None else {}
        stored = {**inputs, **elements(at_peer)}
    elif step.lane.kind == "route":
        added = elements({"OutputDestinationSequence": _destination(settings, of)})
    performed = [
        _sorted({**item, **_sequence("OutputInformationSequence", output), **elements(_station(settings))})
        for item in values_of(step.attributes, PERFORMED)
    ]
    added |= _sequence("InputInformationSequence", [_sorted(stored)]) | _sequence(PERFORMED, performed)
    return _sorted({**created_model(step), **added})


def _destination(settings: Settings, name: str) -> list[dict[str, Any]]:
    """Return where a send goes, if DICOM has words for it (PS3.3 C.30.2)."""
    if (peer := settings.peers.get(name)) is not None:
        return [{"DICOMStorageSequence": [{"DestinationAE": peer.ae_title}]}]
    destination = settings.destinations.get(name)
    if destination is not None and destination.url is not None:
        return [{"STOWRSStorageSequence": [{"StorageURL": f"{destination.url.rstrip('/')}/studies"}]}]
    return []


def _station(settings: Settings) -> dict[str, Any]:
    title = settings.dicom.ae_title
    return {"PerformedStationNameCodeSequence": [_code((title, STATION_SCHEME, title))]}


def _sequence(keyword: str, items: Sequence[Json]) -> Json:
    return {f"{standard_tag(keyword):08X}": {"vr": "SQ", "Value": list(items)} if items else {"vr": "SQ"}}


def _sorted(model: Json) -> Json:
    return dict(sorted(model.items()))


def _progress(workitem: ConversionStep) -> dict[str, Any]:
    progress: dict[str, Any] = {"ProcedureStepProgressDescription": None}
    if workitem.state == "CANCELED":
        return _cancellation(workitem)
    if workitem.ended_by is None:
        progress["ProcedureStepProgressDescription"] = (workitem.detail or "")[:1024] or None
    return progress


def _cancellation(workitem: ConversionStep) -> dict[str, Any]:
    kinds = {"series-failed": _FAILED, "series-refused": _REFUSED}
    reason = _REASONS.get(workitem.ended_by or "") or kinds[workitem.ended_by or ""]
    return {
        "ProcedureStepCancellationDateTime": workitem.ended_at,
        "ReasonForCancellation": workitem.detail,
        "ProcedureStepDiscontinuationReasonCodeSequence": [_code(reason)],
    }


def _performed(workitem: ConversionStep) -> dict[str, Any]:
    """Return what PS3.4 table CC.2.5-3 requires of a final state; volumes are no DICOM objects, and not listed."""
    return {
        "ActualHumanPerformersSequence": [],
        "PerformedStationNameCodeSequence": [],
        "PerformedProcedureStepStartDateTime": workitem.started_at or workitem.ended_at,
        "PerformedProcedureStepDescription": f"revision {workitem.revision}",
        "PerformedProcessingParametersSequence": [],
        "PerformedWorkitemCodeSequence": [_code(CODE)],
        "PerformedProcedureStepEndDateTime": workitem.ended_at,
        "OutputInformationSequence": [],
    }


def _code(code: tuple[str, str, str]) -> dict[str, Any]:
    return dict(zip(("CodeValue", "CodingSchemeDesignator", "CodeMeaning"), code, strict=True))
