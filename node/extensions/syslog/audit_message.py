"""A line of the audit log as an audit message of DICOM: the XML of PS3.15 A.5.1, which IHE ATNA wants."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from typing import Any
from xml.etree.ElementTree import Element, SubElement, tostring

from node.api import plain_address

MESSAGE_ID = "DICOM+RFC3881"
"""MSGID of such messages in syslog, PS3.15 A.6.1."""

BYTE_ORDER_MARK = "\ufeff"

ROLES = {
    "110150": "Application", "110151": "Application Launcher", "110152": "Destination Role ID",
    "110153": "Source Role ID", "110154": "Destination Media", "110155": "Source Media",
}  # fmt: skip
"""PS3.16 context group 402."""

QUERY = "110112"
APPLICATION_SERVER = "4"
MACHINE_NAME, IP_ADDRESS = "1", "2"
PERSON, SYSTEM_OBJECT = "1", "2"
PATIENT, REPORT, QUERY_ROLE = "1", "3", "24"

_RFC_3881 = "RFC-3881"
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def audit_message(line: str) -> str:
    """Return the message of a line of the audit log, in the schema of PS3.15 A.5.1."""
    entry = json.loads(line)
    message = Element("AuditMessage")
    event = SubElement(
        message, "EventIdentification",
        EventActionCode=entry["action"], EventDateTime=entry["at"], EventOutcomeIndicator=str(entry["outcome"]),
    )  # fmt: skip
    _coded(event, "EventID", entry["event"]["code"], entry["event"]["scheme"], entry["event"]["meaning"])
    if kind := entry["event"].get("type"):
        _coded(event, "EventTypeCode", kind["code"], "DCM", kind["meaning"])
    if entry["detail"]:
        SubElement(event, "EventOutcomeDescription").text = _text(entry["detail"])
    source = entry["source"]
    for one in entry["participants"] or [{"user": source["ae_title"], "role": "110150", "requestor": False}]:
        _participant(message, one)
    identification = SubElement(
        message, "AuditSourceIdentification",
        AuditEnterpriseSiteID=_text(source["host"]), AuditSourceID=_text(source["ae_title"]),
    )  # fmt: skip
    SubElement(identification, "AuditSourceTypeCode", {"csd-code": APPLICATION_SERVER})
    for item in entry["objects"]:
        _objects(message, item)
    if entry["event"]["code"] == QUERY:
        query = _object(message, "query", SYSTEM_OBJECT, QUERY_ROLE, ("10", _RFC_3881, "Search Criteria"))
        SubElement(query, "ParticipantObjectQuery").text = _base64(entry["detail"])
    return tostring(message, encoding="unicode", xml_declaration=False)


def _participant(message: Element, one: Mapping[str, Any]) -> None:
    values = {"UserID": _text(one["user"]), "UserIsRequestor": "true" if one["requestor"] else "false"}
    if one.get("certificate"):
        values["AlternativeUserID"] = _text(one["certificate"])
    if one.get("address"):
        values["NetworkAccessPointID"] = _text(one["address"])
        values["NetworkAccessPointTypeCode"] = IP_ADDRESS if _is_ip(one["address"]) else MACHINE_NAME
    participant = SubElement(message, "ActiveParticipant", values)
    if one["role"] in ROLES:
        _coded(participant, "RoleIDCode", one["role"], "DCM", ROLES[one["role"]])


def _objects(message: Element, item: Mapping[str, Any]) -> None:
    """Add the study and the patient of an object, with all else that the line says of it as details."""
    details = {name: value for name, value in item.items() if name not in ("study_instance_uid", "patient_id")}
    if study := item.get("study_instance_uid"):
        added = _object(message, study, SYSTEM_OBJECT, REPORT, ("110180", "DCM", "Study Instance UID"))
        SubElement(added, "ParticipantObjectName").text = _text(study)
        _details(added, details)
        details = {}
    if (patient := item.get("patient_id")) or details:
        added = _object(message, patient or "unknown", PERSON, PATIENT, ("2", _RFC_3881, "Patient Number"))
        SubElement(added, "ParticipantObjectName").text = _text(patient or "unknown")
        _details(added, details)


def _object(message: Element, identifier: str, kind: str, role: str, code: tuple[str, str, str]) -> Element:
    values = {
        "ParticipantObjectID": _text(identifier),
        "ParticipantObjectTypeCode": kind,
        "ParticipantObjectTypeCodeRole": role,
    }
    added = SubElement(message, "ParticipantObjectIdentification", values)
    _coded(added, "ParticipantObjectIDTypeCode", *code)
    return added


def _details(added: Element, details: Mapping[str, Any]) -> None:
    for name, value in details.items():
        text = value if isinstance(value, str) else json.dumps(value)
        SubElement(added, "ParticipantObjectDetail", type=_text(name), value=_base64(text))


def _coded(parent: Element, name: str, code: str, scheme: str, meaning: str) -> None:
    SubElement(
        parent, name, {"csd-code": code, "codeSystemName": scheme, "displayName": meaning, "originalText": meaning}
    )


def _base64(text: str) -> str:
    return base64.b64encode(text.encode("utf-8", "backslashreplace")).decode()


def _text(value: object) -> str:
    """Return a text without characters that XML cannot have."""
    return _NOT_XML.sub("\ufffd", str(value))


def _is_ip(address: str) -> bool:
    try:
        plain_address(address)
    except ValueError:
        return False
    return True
