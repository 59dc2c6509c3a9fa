"""QIDO-RS: search for studies, series and instances (PS3.18 10.6)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

from fastapi import APIRouter, HTTPException, Request, Response
from pydicom.config import IGNORE
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag

from node.dicom.json_model import Json, json_model
from node.dicom.keys import SUPPORTED, InvalidQuery, Level
from node.dicom.matching import Options, read_query
from node.index.finder import QueryRefused
from node.web.access import Reader, RequestAudit
from node.web.dicomweb.media_types import DICOM_JSON, JSON, NotAcceptable, accepted, names
from node.web.dicomweb.resources import READ, base_url, resource_url
from node.web.services import Node

router = APIRouter()

MAX_RESULTS = 1000
MAX_RESULTS_OF_STUDY = 10_000
"""Most results of one answer: of all that is here, and within one study; what is left can be asked for by offset."""

MAX_PARAMETERS = 500
"""Most parameters of a query, includefield among them."""

MAX_FIELDS = 500

CONTROLS = frozenset(("includefield", "limit", "offset", "fuzzymatching", "accept"))

DEFAULTS = {
    Level.STUDY: (
        "StudyDate", "StudyTime", "AccessionNumber", "InstanceAvailability", "ModalitiesInStudy",
        "ReferringPhysicianName", "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyID",
        "StudyDescription", "NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances",
    ),
    Level.SERIES: (
        "Modality", "SeriesDescription", "SeriesNumber", "SeriesDate", "SeriesTime", "BodyPartExamined",
        "NumberOfSeriesRelatedInstances", "PerformedProcedureStepStartDate", "PerformedProcedureStepStartTime",
    ),
    Level.IMAGE: (
        "SOPClassUID", "InstanceAvailability", "InstanceNumber", "Rows", "Columns", "NumberOfFrames",
        "AvailableTransferSyntaxUID",
    ),
}  # fmt: skip
"""What is answered unasked, PS3.18 tables 10.6.3-3 to 10.6.3-5, as far as the index holds it; a little beyond."""

_LISTS = frozenset(("UI", "CS"))
"""Representations whose values hold no comma: one in a query parameter separates values (PS3.18 8.3.4.1)."""

Path = tuple[BaseTag, ...]
"""An attribute: the sequences that it is in, and its own tag."""


@router.api_route("/studies", methods=READ)
def search_studies(request: Request, _account: Reader, audit: RequestAudit, node: Node) -> Response:
    """Search for studies."""
    return _search(request, audit, node, Level.STUDY)


@router.api_route("/series", methods=READ)
@router.api_route("/studies/{study}/series", methods=READ)
def search_series(request: Request, _account: Reader, audit: RequestAudit, node: Node) -> Response:
    """Search for series, of one study or of all."""
    return _search(request, audit, node, Level.SERIES)


@router.api_route("/instances", methods=READ)
@router.api_route("/studies/{study}/instances", methods=READ)
@router.api_route("/studies/{study}/series/{series}/instances", methods=READ)
def search_instances(request: Request, _account: Reader, audit: RequestAudit, node: Node) -> Response:
    """Search for instances, of one series, of one study or of all."""
    return _search(request, audit, node, Level.IMAGE)


def _search(request: Request, audit: RequestAudit, node: Node, level: Level) -> Response:
    media_type = names(accepted(request), DICOM_JSON, JSON)
    if media_type is None:
        raise NotAcceptable(DICOM_JSON)
    limit, offset, warnings = _page(request)
    identifier = _identifier(request, level)
    options = Options(relational=True, combined_datetime=True, fuzzy=_is_fuzzy(request))
    try:
        # One more than is answered: it tells that there are more.
        query = read_query(identifier, options=options, limit=limit + 1, offset=offset)
    except InvalidQuery as error:
        raise HTTPException(400, str(error)) from error
    audit.queried(f"QIDO-RS {request.url.path}?{request.url.query}"[:1000])
    base = base_url(request)
    try:
        found = [_encoded(answer, level, base) for answer in node.index.find(query, limit + 1)]
    except QueryRefused as error:
        raise HTTPException(503, str(error)) from error
    if len(found) > limit:
        warnings.append("There are additional results that can be requested")
        found.pop()
    if query.unsupported:
        warnings.append(f"These attributes are not searched for, nor answered: {', '.join(query.unsupported)[:500]}")
    headers = {"Content-Type": media_type}
    if warnings:
        headers["Warning"] = ", ".join(f'299 voxelnode "{each}"' for each in warnings)
    return Response(b"[" + b",".join(found) + b"]", headers=headers)


def _encoded(answer: Dataset, level: Level, base: str) -> bytes:
    """An answer in the DICOM JSON Model, with Retrieve URL (0008,1190)."""
    keywords = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")[: level - Level.PATIENT]
    told: Json = json_model(answer, lambda place: None)
    told["00081190"] = {"vr": "UR", "Value": [resource_url(base, *(str(answer[each].value) for each in keywords))]}
    return json.dumps(dict(sorted(told.items())), ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def _page(request: Request) -> tuple[int, int, list[str]]:
    """Limit, offset and what is to be said of them (PS3.18 8.3.4.4)."""
    most = MAX_RESULTS_OF_STUDY if "study" in request.path_params else MAX_RESULTS
    limit, offset = (_whole(request, name, default) for name, default in (("limit", most), ("offset", 0)))
    if limit <= most:
        return limit, offset, []
    return most, offset, [f"At most {most} results are answered at once"]


def _whole(request: Request, name: str, default: int) -> int:
    told = request.query_params.get(name)
    if told is None:
        return default
    if not re.fullmatch(r"[0-9]{1,15}", told):
        raise HTTPException(400, f"{name} must be a whole number, 0 or more (PS3.18 8.3.4.4)")
    return int(told)


def _is_fuzzy(request: Request) -> bool:
    told = request.query_params.get("fuzzymatching", "false").lower()
    if told not in ("true", "false"):
        raise HTTPException(400, "fuzzymatching must be true or false (PS3.18 8.3.4.2)")
    return told == "true"


def _identifier(request: Request, level: Level) -> Dataset:
    """What is asked, as C-FIND would: keys with values to match, and empty ones that are only answered."""
    identifier = Dataset()
    identifier.QueryRetrieveLevel = level.name
    for path in _fields(request, level):
        _put(identifier, path, [])
    parameters = request.query_params.multi_items()
    if len(parameters) > MAX_PARAMETERS:
        raise HTTPException(400, f"at most {MAX_PARAMETERS} parameters can be given; several values in one")
    for name, told in parameters:
        if name.lower() not in CONTROLS:
            path = _path(name)
            values = told.split(",") if _representation(path[-1]) in _LISTS else [told]
            _put(identifier, path, [value for each in values for value in each.split("\\")])
    for name, keyword in (("study", "StudyInstanceUID"), ("series", "SeriesInstanceUID")):
        if name in request.path_params:
            _put(identifier, _path(keyword), [request.path_params[name]], replace=True)
    return identifier


def _fields(request: Request, level: Level) -> Iterable[Path]:
    """The attributes that are answered, whether searched for or not (PS3.18 8.3.4.3)."""
    above = {Level.STUDY: "study" in request.path_params, Level.SERIES: "series" in request.path_params}
    told = [name for each in request.query_params.getlist("includefield") for name in each.split(",") if name]
    if len(told) > MAX_FIELDS:
        raise HTTPException(400, f"at most {MAX_FIELDS} attributes can be asked for by includefield")
    answered = [one for one in Level if Level.STUDY <= one <= level and not above.get(one, False)]
    found = [keyword for one in answered for keyword in DEFAULTS[one]]
    if "all" in told:
        found += [keyword for one in Level if one <= level for keyword in SUPPORTED[one]]
    return [_path(name) for name in dict.fromkeys([*found, *(name for name in told if name != "all")])]


def _path(name: str) -> Path:
    """The tags of an attribute, which is named by keywords or tags, those of sequences before it (PS3.18 8.3.4.1)."""
    tags = []
    for part in name.split("."):
        tag = int(part, 16) if re.fullmatch(r"[0-9A-Fa-f]{8}", part) else tag_for_keyword(part)
        if tag is None:
            raise HTTPException(400, f"{part[:64]!r} is neither the keyword nor the tag of an attribute (PS3.6)")
        tags.append(BaseTag(tag))
    if len(tags) > 8:
        raise HTTPException(400, "sequences are nested too deeply")
    return tuple(tags)


def _representation(tag: BaseTag) -> str:
    try:
        return dictionary_VR(tag)
    except KeyError:
        return "UN"


def _put(identifier: Dataset, path: Path, values: list[str], *, replace: bool = False) -> None:
    """Put a key into an identifier, in the item of the sequences that it is in; values of one key are added up."""
    *sequences, tag = path
    for sequence in sequences:
        if sequence not in identifier:
            identifier.add(DataElement(sequence, "SQ", Sequence([Dataset()])))
        identifier = identifier[sequence].value[0]
    if tag in identifier and identifier[tag].VR == "SQ":
        return
    before = [] if replace or tag not in identifier else _several(identifier[tag].value)
    vr = _representation(tag)
    if vr == "SQ":
        identifier.add(DataElement(tag, "SQ", Sequence([Dataset()])))
        return
    # Patterns and ranges are no values of their representation: whoever reads the identifier judges them.
    identifier.add(DataElement(tag, "LO" if vr != "PN" else vr, [*before, *values], validation_mode=IGNORE))


def _several(value: object) -> list[str]:
    if value in (None, ""):
        return []
    return [str(value)] if isinstance(value, str) or not isinstance(value, Iterable) else [str(each) for each in value]
