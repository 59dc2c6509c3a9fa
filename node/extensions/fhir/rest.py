"""The routes of FHIR: read and search `ImagingStudy`, and the `CapabilityStatement` (https://hl7.org/fhir/R5/http.html).

A parameter of a search that the node does not know is refused: without it, the answer would have too many studies, and
the client would not know.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import urlencode

from fastapi import APIRouter, Request, Response

from node.dicom.keys import InvalidQuery, Level
from node.extensions.dicomweb.resources import READ, base_url, public_url
from node.extensions.fhir.imaging_study import MEDIA_TYPE, OF_STUDY, OID, UID_SYSTEM, Json, imaging_study
from node.extensions.fhir.stored import matching, series_of, stored_study
from node.version import __version__
from node.web.access import ReaderCall, for_projects
from node.web.audit_trail import of_study

PREFIX = "/api/fhir"

FHIR_VERSION = "5.0.0"
WRITTEN = "2026-11-24"
"""Date of the capability statement."""

DEFAULT_COUNT, MAX_COUNT = 20, 200
MAX_OFFSET = 1_000_000

_UID = re.compile(r"[0-9.]{1,64}")

router = APIRouter(prefix=PREFIX, include_in_schema=False)


class Refused(Exception):
    """A request that cannot be answered: the status, a code of `issue-type`, and a sentence."""

    def __init__(self, status: int, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.status, self.code, self.sentence = status, code, sentence


@router.api_route("/metadata", methods=READ)
@for_projects
def metadata(call: ReaderCall) -> Response:
    """What this server can do."""
    statement = {
        "resourceType": "CapabilityStatement",
        "status": "active",
        "date": WRITTEN,
        "kind": "instance",
        "software": {"name": "voxelnode", "version": __version__},
        "implementation": {"description": "ImagingStudy of what is stored", "url": _base(call.request)},
        "fhirVersion": FHIR_VERSION,
        "format": ["json"],
        "rest": [
            {
                "mode": "server",
                "resource": [
                    {
                        "type": "ImagingStudy",
                        "interaction": [{"code": "read"}, {"code": "search-type"}],
                        "searchParam": [
                            {"name": name, "type": kind}
                            for name, (kind, _) in PARAMETERS.items()
                            if name.replace("_", "").isalpha()  # without modifiers and chains
                        ],
                    }
                ],
            }
        ],
    }
    return _answer(call.request, statement)


@router.api_route("/ImagingStudy/{study}", methods=READ)
@for_projects
def read(call: ReaderCall, study: str) -> Response:
    """A study with its series and instances."""

    def answer() -> Json:
        if not _UID.fullmatch(study):
            raise Refused(404, "not-found", "there is no such study: its id is its Study Instance UID")
        stored = stored_study(call.node.index, study)
        if stored is None:
            raise Refused(404, "not-found", "there is no such study, or not any more")
        call.audit.accessed([of_study(study, stored.patient_id)], "ImagingStudy")
        return stored.resource(base_url(call.request))

    return _answered(call.request, answer)


@router.api_route("/ImagingStudy", methods=READ)
@for_projects
def search(call: ReaderCall) -> Response:
    """A `Bundle` of studies, page by page, without their instances."""

    def answer() -> Json:
        request = call.request
        parameters = request.query_params.multi_items()
        count, offset, keys = _page(parameters), _offset(parameters), _keys(parameters)
        try:
            found = [] if keys is None else matching(call.node.index, Level.STUDY, OF_STUDY, keys, count + 1, offset)
        except InvalidQuery as error:
            raise Refused(400, "value", str(error)) from error
        call.audit.queried(f"FHIR ImagingStudy?{request.url.query}"[:1000], min(len(found), count))
        base, dicomweb = _base(request), base_url(request)
        entries = []
        for study in found[:count]:
            uid = str(study["StudyInstanceUID"])
            resource = imaging_study(study, series_of(call.node.index, uid), None, dicomweb)
            entries.append({"fullUrl": f"{base}/ImagingStudy/{uid}", "resource": resource, "search": {"mode": "match"}})
        links = [_link("self", base, parameters, offset)]
        if len(found) > count:
            links.append(_link("next", base, parameters, offset + count))
        return {"resourceType": "Bundle", "type": "searchset", "link": links} | ({"entry": entries} if entries else {})

    return _answered(call.request, answer)


# Parameters of a search


def _identifier(values: list[str]) -> Mapping[str, list[str]] | None:
    """Return the keys of an identifier: a Study Instance UID, or an Accession Number; None: nothing has both."""
    uids, numbers = [], []
    for value in values:
        system, _, code = value.rpartition("|")
        if system == UID_SYSTEM or code.startswith(OID):
            uids.append(code.removeprefix(OID))
        elif not system:
            numbers.append(_literal(code))
        else:
            raise Refused(400, "not-supported", f"identifier: the system is {UID_SYSTEM}, or left out with its bar")
    if uids and numbers:
        raise Refused(400, "not-supported", "identifier: ask for UIDs and for Accession Numbers one after the other")
    return {"StudyInstanceUID": uids} if uids else {"AccessionNumber": numbers}


def _patient(values: list[str]) -> Mapping[str, list[str]]:
    systems = {value.rpartition("|")[0] for value in values}
    if systems != {""}:
        raise Refused(400, "not-supported", "the Patient ID has no system here: give its value alone")
    return {"PatientID": [_literal(value.rpartition("|")[2]) for value in values]}


def _modality(values: list[str]) -> Mapping[str, list[str]]:
    return {"ModalitiesInStudy": [_literal(value.rpartition("|")[2]) for value in values]}


def _id(values: list[str]) -> Mapping[str, list[str]]:
    return {"StudyInstanceUID": values}


def _literal(value: str) -> str:
    """Return a value without wildcards, which FHIR does not know."""
    if not value or set(value) & set("*?\\"):
        raise Refused(400, "value", "a value is not empty, and without * ? and backslash")
    return value


def _status(values: list[str]) -> Mapping[str, list[str]] | None:
    """Every study that is stored is available."""
    return {} if "available" in (value.rpartition("|")[2] for value in values) else None


Keys = Callable[[list[str]], Mapping[str, list[str]] | None]
"""Takes the values of a parameter, one of which must match, and returns keys of a query; None: nothing matches."""

PARAMETERS: Mapping[str, tuple[str, Keys | None]] = {
    "_id": ("token", _id),
    "identifier": ("token", _identifier),
    "patient.identifier": ("token", _patient),
    "subject:identifier": ("token", _patient),
    "patient:identifier": ("token", _patient),
    "modality": ("token", _modality),
    "started": ("date", None),
    "status": ("token", _status),
}
"""Parameters by name: their type in FHIR, and their keys. `started` may be there twice, as the two ends of a range."""

CONTROLS = ("_count", "_offset", "_format")


def _keys(parameters: Iterable[tuple[str, str]]) -> dict[str, list[str]] | None:
    """Return the keys of a search; None if nothing can match."""
    found: dict[str, list[str]] = {}
    first, last = "", ""
    for name, text in parameters:
        if name in CONTROLS:
            continue
        if name not in PARAMETERS:
            raise Refused(400, "not-supported", f"unknown parameter; known are: {', '.join([*PARAMETERS, *CONTROLS])}")
        of_values = PARAMETERS[name][1]
        if of_values is None:
            since, until = _days(text)
            first, last = max(first, since), min(last or until, until) if until else last
            continue
        keys = of_values(text.split(","))
        if keys is None:
            return None
        for keyword, values in keys.items():
            if keyword in found:
                raise Refused(400, "not-supported", "two parameters ask for the same attribute")
            found[keyword] = values
    if first and last and first > last:
        return None
    return found | ({"StudyDate": [f"{first}-{last}"]} if first or last else {})


_DATE = re.compile(r"(eq|ge|le|gt|lt)?([0-9]{4})(?:-([0-9]{2})(?:-([0-9]{2}))?)?")


def _days(text: str) -> tuple[str, str]:
    """Return the first and the last day of a parameter of dates, as DA; empty: without an end."""
    parts = _DATE.fullmatch(text)
    try:
        if parts is None:
            raise ValueError
        prefix, year, month, day = parts[1] or "eq", int(parts[2]), int(parts[3] or 1), int(parts[4] or 1)
        first = dt.date(year, month, day)
        if parts[4]:
            last = first
        elif parts[3]:
            last = dt.date(year + month // 12, month % 12 + 1, 1) - dt.timedelta(1)
        else:
            last = dt.date(year, 12, 31)
        before, after = first - dt.timedelta(1), last + dt.timedelta(1)
    except (ValueError, OverflowError):
        sentence = "started is YYYY, YYYY-MM or YYYY-MM-DD, behind eq, ge, le, gt, lt or nothing; without a time"
        raise Refused(400, "value", sentence) from None
    ends = {"eq": (first, last), "ge": (first, None), "gt": (after, None), "le": (None, last), "lt": (None, before)}
    since, until = ends[prefix]
    return (f"{since:%Y%m%d}" if since else "", f"{until:%Y%m%d}" if until else "")


def _page(parameters: Iterable[tuple[str, str]]) -> int:
    return min(_whole_number(parameters, "_count", DEFAULT_COUNT), MAX_COUNT)


def _offset(parameters: Iterable[tuple[str, str]]) -> int:
    offset = _whole_number(parameters, "_offset", 0)
    if offset > MAX_OFFSET:
        raise Refused(400, "value", f"_offset is at most {MAX_OFFSET}: search by started instead")
    return offset


def _whole_number(parameters: Iterable[tuple[str, str]], name: str, default: int) -> int:
    text = dict(parameters).get(name)
    if text is None:
        return default
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise Refused(400, "value", f"{name} is a whole number, 0 or more")
    return int(text)


# Answers


def _base(request: Request) -> str:
    return f"{public_url(request)}{PREFIX}"


def _link(relation: str, base: str, parameters: Iterable[tuple[str, str]], offset: int) -> Json:
    kept = [(name, value) for name, value in parameters if name != "_offset"]
    query = urlencode([*kept, *([("_offset", str(offset))] if offset else [])])
    return {"relation": relation, "url": f"{base}/ImagingStudy{'?' if query else ''}{query}"}


def _answered(request: Request, answer: Callable[[], Json]) -> Response:
    try:
        return _answer(request, answer())
    except Refused as refused:
        issue = {"severity": "error", "code": refused.code, "diagnostics": refused.sentence}
        return _answer(request, {"resourceType": "OperationOutcome", "issue": [issue]}, refused.status)


def _answer(request: Request, resource: Mapping[str, Any], status: int = 200) -> Response:
    body = json.dumps(resource, ensure_ascii=False).encode()
    headers = {"Content-Type": f"{MEDIA_TYPE}; charset=utf-8", "Cache-Control": "no-store"}
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers | {"Content-Length": str(len(body))})
    return Response(body, status, headers)
