"""QIDO-RS: search for studies, series and instances (PS3.18 10.6)."""

import re
from collections.abc import Iterable

from fastapi import HTTPException, Request, Response
from pydicom.config import IGNORE
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag

from node.dicom.answers import Found, answer_model
from node.dicom.json_model import Json, text_element
from node.dicom.keys import DEFAULTS, SUPPORTED, InvalidQuery, Level
from node.dicom.matching import Options, read_query
from node.extensions.dicomweb.decoding import web_transfer_syntax
from node.extensions.dicomweb.media_types import DICOM_XML, DocumentForm, accepted, document_form
from node.extensions.dicomweb.resources import (
    READ,
    base_url,
    dicomweb_router,
    etag_of,
    quotable,
    resource_url,
    respond_data_sets,
    warning_header,
)
from node.extensions.dicomweb.xml_model import encoded_model
from node.index.look.finder import QueryRefused
from node.web.access import MEMBERS, Call, CurrentCall

router = dicomweb_router(MEMBERS)

MAX_RESULTS = 1000
MAX_RESULTS_OF_STUDY = 10_000
"""Maximum results per response over all studies, and within one study; offset requests further ones."""

MAX_FIELDS = 500


_LISTS = frozenset(("UI", "CS"))
"""Value representations without commas, in which a comma separates values of a parameter (PS3.18 8.3.4.1)."""

RETRIEVE_URL = (BaseTag(0x00081190),)


@router.api_route("/studies", methods=READ)
def search_studies(call: CurrentCall) -> Response:
    """Search for studies."""
    return _search(call, Level.STUDY)


@router.api_route("/series", methods=READ)
@router.api_route("/studies/{study}/series", methods=READ)
def search_series(call: CurrentCall) -> Response:
    """Search for series, of one study or of all."""
    return _search(call, Level.SERIES)


@router.api_route("/instances", methods=READ)
@router.api_route("/studies/{study}/instances", methods=READ)
@router.api_route("/studies/{study}/series/{series}/instances", methods=READ)
def search_instances(call: CurrentCall) -> Response:
    """Search for instances, of one series, of one study or of all."""
    return _search(call, Level.IMAGE)


def _search(call: Call, level: Level) -> Response:
    request = call.request
    form = document_form(accepted(request))
    limit, offset, warnings = _page(request)
    warnings += kinds_not_performed(request)
    identifier, unknown = _identifier(request, level)
    fuzzy = _is_true(request, "fuzzymatching", "PS3.18 8.3.4.2")
    options = Options(relational=True, combined_datetime=True, fuzzy=fuzzy, timezone=True)
    try:
        # One more than is returned, to detect that there are more.
        query = read_query(
            identifier, options=options, limit=limit + 1, offset=offset, with_all="all" in _included(request)
        )
    except InvalidQuery as error:
        raise HTTPException(400, str(error)) from error
    base = base_url(request)
    try:
        found = list(call.node.index.find(query, limit + 1))
        answers = [_encoded(one, level, base, form) for one in found]
    except QueryRefused as error:
        raise HTTPException(503, str(error)) from error
    if query.malformed is not None and not answers and not offset:
        raise HTTPException(400, str(query.malformed))
    if len(answers) > limit:
        warnings.append("There are additional results that can be requested")
        answers.pop()
    call.audit.queried(f"QIDO-RS {request.url.path}?{request.url.query}"[:1000], len(answers))
    if unknown:
        warnings.append(f"These parameters name no attribute of PS3.6 and are ignored: {quotable(unknown)}")
    returned = [*query.returned, "RetrieveURL"]
    if neither := [name for name in query.unsupported if name not in returned]:
        warnings.append(f"These attributes are neither matched nor returned: {', '.join(neither)[:500]}")
    if not all(one.is_certain for one in found):
        warnings.append("Of some results it is not known whether they match: their values are not in the index")
    if unmatched := [name for name in query.unsupported if name in returned]:
        warnings.append(f"These attributes are returned, but not matched: {', '.join(unmatched)[:500]}")
    headers = {"Warning": warning_header(warnings)} if warnings else {}
    return respond_data_sets(request, answers, form, etag_of(answers, form), headers)


def _encoded(found: Found, level: Level, base: str, form: DocumentForm) -> bytes:
    """Return an answer in JSON or XML, with Retrieve URL (0008,1190)."""
    keywords = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")[: level - Level.PATIENT]
    added = {"RetrieveURL": resource_url(base, *(str(found[keyword]) for keyword in keywords))}
    if syntax := str(found.get("AvailableTransferSyntaxUID", "")):
        added["AvailableTransferSyntaxUID"] = web_transfer_syntax(syntax)
    model = {**_numbered(found.others), **answer_model({**found, **added})}
    return encoded_model(model, as_xml=form.media_type == DICOM_XML)


def _page(request: Request) -> tuple[int, int, list[str]]:
    """Return limit, offset and warnings about them (PS3.18 8.3.4.4)."""
    maximum = MAX_RESULTS_OF_STUDY if "study" in request.path_params else MAX_RESULTS
    limit, offset = (whole_number(request, name, default) for name, default in (("limit", maximum), ("offset", 0)))
    if limit <= maximum:
        return limit, offset, []
    return maximum, offset, [f"At most {maximum} results are returned in one response"]


def _identifier(request: Request, level: Level) -> tuple[Dataset, list[str]]:
    """Return the query in the form of C-FIND: keys with values to match, and empty keys that are only returned.

    Also return the parameters and fields that name no attribute: these are ignored (PS3.18 8.3).
    """
    identifier = Dataset()
    identifier.QueryRetrieveLevel = level.name
    unknown: dict[str, None] = {}
    for name in _fields(request, level):
        if (path := attribute_path(name)) is None:
            unknown[name[:64]] = None
        elif path != RETRIEVE_URL:  # every answer has it
            put_key(identifier, path, [])
    parameters = request.query_params.multi_items()
    unmatched = EMPTY if _is_true(request, "emptyvaluematching", "PS3.18 8.3.4") else None
    if len(parameters) > MAX_PARAMETERS:
        raise HTTPException(400, f"at most {MAX_PARAMETERS} parameters are allowed; put several values into one")
    for name, text in parameters:
        if name.lower() not in CONTROLS:
            if (path := attribute_path(name)) is None:
                unknown[name[:64]] = None
                continue
            values = text.split(",") if representation(path[-1]) in _LISTS else [text]
            parts = [part for value in values for part in value.split("\\")]
            put_key(identifier, path, [] if unmatched in parts else parts)
    for name, keyword in (("study", "StudyInstanceUID"), ("series", "SeriesInstanceUID")):
        if name in request.path_params:
            put_key(identifier, (BaseTag(tag_for_keyword(keyword) or 0),), [request.path_params[name]], replace=True)
    return identifier, list(unknown)


def _fields(request: Request, level: Level) -> Iterable[str]:
    """Return the requested attributes, in addition to the matched ones (PS3.18 8.3.4.3)."""
    included = _included(request)
    above = {Level.STUDY: "study" in request.path_params, Level.SERIES: "series" in request.path_params}
    levels = [other for other in Level if Level.STUDY <= other <= level and not above.get(other, False)]
    keywords = [keyword for other in levels for keyword in DEFAULTS[other]]
    if "all" in included:
        keywords += [keyword for other in Level if other <= level for keyword in SUPPORTED[other]]
    return dict.fromkeys([*keywords, *(name for name in included if name != "all")])


def _included(request: Request) -> list[str]:
    included = [name for text in request.query_params.getlist("includefield") for name in text.split(",") if name]
    if len(included) > MAX_FIELDS:
        raise HTTPException(400, f"at most {MAX_FIELDS} attributes are allowed in includefield")
    return included


MAX_PARAMETERS = 500
"""Maximum parameters of a query, including includefield."""

CONTROLS = frozenset(
    ("includefield", "limit", "offset", "fuzzymatching", "emptyvaluematching", "multiplevaluematching", "accept")
)

EMPTY = '""'
"""The value of Empty Value Matching (PS3.4 C.2.2.2.7)."""

Path = tuple[BaseTag, ...]
"""An attribute: the tags of its sequences, then its own."""


def whole_number(request: Request, name: str, default: int) -> int:
    """Return the parameter ``limit`` or ``offset``, or a default if it is missing."""
    text = request.query_params.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"[0-9]{1,15}", text):
        raise HTTPException(400, f"{name} must be a whole number, 0 or more (PS3.18 8.3.4.4)")
    return int(text)


def kinds_not_performed(request: Request) -> list[str]:
    """Return a warning of PS3.18 8.3.4 for each kind of matching that a search asks for and that is not performed.

    Values separated by a backslash are alternatives; in multiple value matching all must match (PS3.4 C.2.2.2.8). A key
    with `EMPTY` among its values is not matched; without the parameter it is, as it stands.
    """
    return [
        f"The {kind.lower()}valuematching parameter is not supported. {kind} Value Matching has not been performed."
        for kind in ("Empty", "Multiple")
        if _is_true(request, f"{kind.lower()}valuematching", "PS3.18 8.3.4")
    ]


def _is_true(request: Request, name: str, source: str) -> bool:
    text = request.query_params.get(name, "false").lower()
    if text not in ("true", "false"):
        raise HTTPException(400, f"{name} must be true or false ({source})")
    return text == "true"


def attribute_path(name: str) -> Path | None:
    """Return the tags of an attribute given by keywords or tags, sequences first (PS3.18 8.3.4.1); None if unknown."""
    tags = []
    for part in name.split("."):
        tag = int(part, 16) if re.fullmatch(r"[0-9A-Fa-f]{8}", part) else (tag_for_keyword(part) if part else None)
        if tag is None:
            return None
        tags.append(BaseTag(tag))
    if len(tags) > 8:
        raise HTTPException(400, "sequences are nested too deeply")
    return tuple(tags)


def representation(tag: BaseTag) -> str:
    """Return the value representation of an attribute; UN if PS3.6 does not know it."""
    try:
        return dictionary_VR(tag)
    except KeyError:
        return "UN"


def put_key(identifier: Dataset, path: Path, values: list[str], *, replace: bool = False) -> None:
    """Put a key into an identifier, within its sequences; further values of a key are added."""
    *sequences, tag = path
    for sequence in sequences:
        if sequence not in identifier:
            identifier.add(DataElement(sequence, "SQ", Sequence([Dataset()])))
        identifier = identifier[sequence].value[0]
    if tag in identifier and identifier[tag].VR == "SQ":
        return
    before = [] if replace or tag not in identifier else _several(identifier[tag].value)
    vr = representation(tag)
    if vr == "SQ":
        identifier.add(DataElement(tag, "SQ", Sequence([Dataset()])))
        return
    # Patterns and ranges are not valid values of the VR; the query parser checks them.
    identifier.add(DataElement(tag, "LO" if vr != "PN" else vr, [*before, *values], validation_mode=IGNORE))


def _several(value: object) -> list[str]:
    if value in (None, ""):
        return []
    return [str(value)] if isinstance(value, str) or not isinstance(value, Iterable) else [str(item) for item in value]


def _numbered(model: Json) -> Json:
    """Return a model of documents, in which DS and IS are text as it was sent, with numbers in their place."""
    return {tag: _numbered_element(element) for tag, element in model.items()}


def _numbered_element(element: Json) -> Json:
    vr, values = element["vr"], element.get("Value")
    if not values or vr not in ("DS", "IS", "SQ"):
        return element
    if vr == "SQ":
        return {"vr": vr, "Value": [_numbered(item) for item in values]}
    return text_element(vr, "\\".join(part or "" for part in values))
