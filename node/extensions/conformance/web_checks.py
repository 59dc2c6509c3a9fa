"""Checks of what the statement says of DICOM web services."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from urllib.parse import quote

from node.dicom.keys import UNIQUE_KEYS, Level
from node.extensions.conformance.claims import HELD, Claim, Finding, NotChecked, Unchecked, held_if
from node.extensions.conformance.dimse_checks import OTHER_VALUES
from node.extensions.conformance.target import DICOM_JSON, Target

Check = Callable[[Target, Claim], Finding]

_INSTANCE = "/dicom-web/studies/{study}/series/{series}/instances/{instance}"
_WADO = "/dicom-web/wado?requestType=WADO&studyUID={study}&seriesUID={series}&objectUID={instance}"

EXAMPLES: Mapping[str, str] = {
    "Search": "/dicom-web/instances?StudyInstanceUID={study}&limit=1",
    "Retrieve Instances": _INSTANCE,
    "Retrieve Bulkdata": f"{_INSTANCE}/bulkdata/7FE00010",
    "Retrieve Metadata": f"{_INSTANCE}/metadata",
    "Retrieve Pixel Data": f"{_INSTANCE}/pixeldata",
    "Retrieve Rendered": f"{_INSTANCE}/rendered",
    "Retrieve Frames": f"{_INSTANCE}/frames/1",
    "Retrieve Thumbnail": f"{_INSTANCE}/thumbnail",
    "Retrieve (URI)": _WADO,
}
"""A resource of each transaction that only reads."""

_CHANGING = frozenset(("Store", "Delete", "Request"))
_UNKNOWN_ITEMS = frozenset(("Result Check",))

_ABSENT = "2.25.1"
"""UID of a presentation state that no archive has."""

_PARAMETERS: Mapping[str, str] = {
    "accept": "*/*",
    "includefield": "all",
    "fuzzymatching": "true",
    "emptyvaluematching": "true",
    "multiplevaluematching": "true",
    "limit": "1",
    "offset": "0",
    "window": "40,400,linear",
    "viewport": "64,64",
    "quality": "80",
    "annotation": "patient",
    "iccprofile": "no",
    "requestType": "WADO",
    "studyUID": "{study}",
    "seriesUID": "{series}",
    "objectUID": "{instance}",
    "contentType": "image/jpeg",
    "transferSyntax": "*",
    "frameNumber": "1",
    "rows": "64",
    "columns": "64",
    "windowCenter": "40",
    "windowWidth": "400",
    "imageQuality": "80",
    "presentationUID": _ABSENT,
    "presentationSeriesUID": _ABSENT,
    "{attribute}": "{study}",
}
"""An example of each query parameter."""

_TOGETHER = {
    "windowCenter": "&windowWidth=400",
    "windowWidth": "&windowCenter=40",
    "transferSyntax": "&contentType=application/dicom",
    "presentationUID": f"&presentationSeriesUID={_ABSENT}",
    "presentationSeriesUID": f"&presentationUID={_ABSENT}",
}


def resources(target: Target, claim: Claim) -> Finding:
    """A resource that is read answers by GET and HEAD; one that changes something is offered by OPTIONS."""
    path = _filled(claim.row["Resource"].strip("`"), target)
    methods = claim.row["Methods"].split(", ")
    transaction = claim.row["Transaction"]
    if "GET" not in methods or transaction in _UNKNOWN_ITEMS:
        allowed = target.request("OPTIONS", path).headers.get("Allow", "")
        missing = [method for method in methods if method not in allowed]
        if missing:
            return Finding("broken", f"OPTIONS does not offer {', '.join(missing)}")
        raise Unchecked("it is offered (OPTIONS); it was not done, as it changes the archive, or needs a request")
    if path == "/dicom-web/wado":
        path = _filled(_WADO, target)
    elif transaction == "Search" and "{study}" not in claim.row["Resource"]:
        path = f"{path}?limit=1"
    for method in methods:
        status = target.request(method, path).status_code
        if status == 406:
            raise Unchecked("the instance has no such representation (406)")
        if status >= 300 and not (status == 404 and transaction == "Retrieve Bulkdata"):
            return Finding("broken", f"{method} is answered by {status}")
    return HELD


def _filled(path: str, target: Target) -> str:
    names = set(re.findall(r"\{(\w+)\}", path))
    return path.format(**{name: target.uids[name] for name in names})


def _example(transaction: str, target: Target) -> str:
    if transaction in _CHANGING or transaction in _UNKNOWN_ITEMS:
        raise Unchecked("it changes the archive, or needs a request")
    return _filled(EXAMPLES[transaction], target)


def media_types(target: Target, claim: Claim) -> Finding:
    """Each media type of a response is what the response then has, or the instance has none of it."""
    transaction = claim.row["Transaction"]
    path = _example(transaction, target)
    missing, seen = [], 0
    for media_type in (text.strip("`") for text in claim.row["Response"].split(", ")):
        where, fields = _accepting(transaction, path, media_type, target)
        answer = target.request("GET", where, headers=fields)
        found = answer.headers.get("Content-Type", "")
        if answer.status_code in (204, 404, 406):
            missing.append(media_type)
        elif answer.status_code >= 300:
            return Finding("broken", f"{media_type} is answered by {answer.status_code}")
        elif not found.startswith(media_type.split(";")[0]) or _type_in(media_type) not in ("", _type_in(found)):
            return Finding("broken", f"{media_type} is answered as {found}")
        else:
            seen += 1
    if not seen:
        raise Unchecked("the archive has nothing with such a representation")
    return Finding("held", f"not of this instance: {', '.join(missing)}" if missing else "")


def _type_in(media_type: str) -> str:
    """Return the parameter that says what is in a multipart message, or empty text."""
    found = re.search(r';\s*type="?([^";]+)', media_type)
    return found[1].strip() if found else ""


def _accepting(transaction: str, path: str, media_type: str, target: Target) -> tuple[str, Mapping[str, str]]:
    """Return the path and the header fields of a request for a media type."""
    if transaction == "Retrieve (URI)":
        return f"{path}&contentType={quote(media_type)}", {}
    if transaction == "Retrieve Rendered" and media_type.startswith("multipart/"):
        path = _filled("/dicom-web/studies/{study}/series/{series}/rendered", target)
    return path, {"Accept": media_type}


def parameters(target: Target, claim: Claim) -> Finding:
    """A parameter is taken, without a warning that it is not known."""
    name, transaction = claim.row["Query Parameter"].strip("`"), claim.row["Transaction"]
    path = _example(transaction, target)
    value = _filled(_PARAMETERS[name], target)
    if name == "{attribute}":
        name = "StudyInstanceUID"
    if f"{name}=" in path:
        path = re.sub(rf"{name}=[^&]*", f"{name}={quote(value)}", path)
    else:
        path = f"{path}{'&' if '?' in path else '?'}{name}={quote(value)}{_TOGETHER.get(name, '')}"
    answer = target.request("GET", path)
    if value == _ABSENT:
        return held_if(answer.status_code == 404, f"what is not there is answered by {answer.status_code}")
    if answer.status_code == 406:
        raise Unchecked("the instance has no such representation (406)")
    if answer.status_code >= 300:
        return Finding("broken", f"it is answered by {answer.status_code}")
    return held_if("ignored" not in answer.headers.get("Warning", "").lower(), "the response warns of it")


def headers(target: Target, claim: Claim) -> Finding:
    """Conditional and partial requests are answered as such; Accept is the subject of media types."""
    fields = claim.row["Request Header Fields"].split(", ")
    path = _example(claim.row["Transaction"], target)
    octets = {"Accept": "application/octet-stream"} if "Range" in fields else {}
    answer = target.request("GET", path, headers=octets)
    if answer.status_code == 406:
        raise Unchecked("the instance has no such representation (406)")
    if "If-None-Match" in fields:
        tag = answer.headers.get("ETag")
        if not tag:
            return Finding("broken", f"the response ({answer.status_code}) has no ETag")
        status = target.request("GET", path, headers={**octets, "If-None-Match": tag}).status_code
        if status != 304:
            return Finding("broken", f"If-None-Match is answered by {status}")
    if "Range" in fields:
        status = target.request("GET", path, headers={**octets, "Range": "bytes=0-1"}).status_code
        if status != 206:
            return Finding("broken", f"Range is answered by {status}")
    return HELD


_OF_LEVEL = {
    Level.STUDY: ("/dicom-web/studies", "study"),
    Level.SERIES: ("/dicom-web/series", "series"),
    Level.IMAGE: ("/dicom-web/instances", "instance"),
}


def attributes(target: Target, claim: Claim) -> Finding:
    """An attribute is returned, by default where it says so; its value finds the entity, and another one does not."""
    from pydicom.datadict import tag_for_keyword

    if claim.row["Attribute"].startswith("> ") or claim.row["VR"] == "SQ":
        raise Unchecked("attributes in sequences are checked by C-FIND")
    level, keyword = Level[claim.row["Level"]], claim.row["Attribute"]
    path, variable = _OF_LEVEL[level]
    tag = f"{tag_for_keyword(keyword):08X}"
    known = {UNIQUE_KEYS[level]: target.uids[variable]}
    if level is not Level.STUDY:
        known["StudyInstanceUID"] = target.uids["study"]
    asked = {} if claim.row["Returned"] == "by default" else {"includefield": keyword}
    [found] = _search(target, path, known | asked) or [{}]
    if tag not in found and not asked and target.may_store:
        return Finding("broken", "it is not returned")
    values = found.get(tag, {}).get("Value", [])
    if not values:
        raise Unchecked("the entity has no value")
    if "returned only" in claim.row["Matching"] or keyword in known:
        return HELD
    value = values[0].get("Alphabetic", "") if isinstance(values[0], dict) else str(values[0])
    if not value or set(value) & set("*?,\\"):
        raise Unchecked("its value is not fit for a search")
    if not _search(target, path, known | {keyword: value}):
        return Finding("broken", "its value finds nothing")
    if _search(target, path, known | {keyword: str(OTHER_VALUES[claim.row["VR"]])}):
        return Finding("broken", "another value finds the entity")
    return HELD


def _search(target: Target, path: str, keys: Mapping[str, str]) -> list[dict[str, dict[str, list[object]]]]:
    answer = target.request("GET", path, params=dict(keys), headers={"Accept": DICOM_JSON})
    if answer.status_code == 204:
        return []
    if answer.status_code != 200:
        raise Unchecked(f"the search is answered by {answer.status_code}")
    return list(answer.json())


def _is_answered(path: str, **how: object) -> Check:
    def check(target: Target, claim: Claim) -> Finding:
        seen = target.request("GET", _filled(path, target), **how).status_code
        return held_if(str(seen) == claim.row["Status"], f"the status is {seen}")

    return check


def _not_modified(target: Target, _: Claim) -> Finding:
    path = _filled(_INSTANCE, target)
    tag = target.request("GET", path).headers.get("ETag", "")
    status = target.request("GET", path, headers={"If-None-Match": tag}).status_code
    return held_if(status == 304, f"the status is {status}")


def _unauthorized(target: Target, _: Claim) -> Finding:
    if not target.token:
        raise Unchecked("this client has no account to leave out")
    answer = target.client.get("/dicom-web/studies?limit=1", headers={"Authorization": "Bearer none"})
    return held_if(answer.status_code == 401, f"the status is {answer.status_code}")


_CHANGES = NotChecked("it would change the archive")
_BAD_STATE = NotChecked("it needs a node without resources or with an error, or would load it")

HTTP_STATUSES: Mapping[str, Check | NotChecked] = {
    "200": _is_answered(_INSTANCE),
    "202": _CHANGES,
    "206": _is_answered(f"{_INSTANCE}/frames/1", headers={"Accept": "application/octet-stream", "Range": "bytes=0-1"}),
    "304": _not_modified,
    "400": _is_answered("/dicom-web/studies?StudyDate=nodate"),
    "401": _unauthorized,
    "403": NotChecked("it needs an account that may less than this one"),
    "404": _is_answered("/dicom-web/studies/2.25.1"),
    "406": _is_answered(_INSTANCE, headers={"Accept": "audio/midi"}),
    "408": _BAD_STATE,
    "409": _CHANGES,
    "410": _CHANGES,
    "413": _BAD_STATE,
    "415": NotChecked("it sends a body to be stored"),
    "429": _BAD_STATE,
    "500": _BAD_STATE,
    "503": _BAD_STATE,
}
