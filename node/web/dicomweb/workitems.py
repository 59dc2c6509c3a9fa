"""UPS-RS: the conversions of the node as workitems that can be searched, retrieved and cancelled (PS3.18 11)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import Depends, HTTPException, Request, Response
from python_multipart.multipart import parse_options_header
from starlette.concurrency import run_in_threadpool

from node.audit.audit_log import Action, AuditEvent
from node.dicom.metadata import encoded_model
from node.dicom.xml_model import NotNative, json_from_native
from node.index.read.workitems import Workitem
from node.web.access import Reader, RequestAudit, Writer
from node.web.audit_trail import of_study
from node.web.dicomweb.documents import etag_of, quotable, respond_data_sets, warning_header
from node.web.dicomweb.media_types import DICOM_JSON, DICOM_XML, JSON, accepted, document_form
from node.web.dicomweb.qido import CONTROLS, MAX_PARAMETERS, attribute_path, is_fuzzy, whole_number
from node.web.dicomweb.resources import READ, base_url
from node.web.dicomweb.routing import dicomweb_router
from node.web.dicomweb.workitem_keys import WorkitemQuery, read_keys
from node.web.dicomweb.workitem_model import (
    MAX_REFERENCED_INSTANCES,
    series_id_of,
    workitem_model,
    workitem_uid,
)
from node.web.services import Node, Services

router = dicomweb_router()

MAX_WORKITEMS = 200
"""Maximum workitems per response; offset requests further ones."""

MAX_PAYLOAD_BYTES = 65_536
"""Largest payload of a request for cancellation: a reason and a contact."""

ALREADY_CANCELED = "The UPS is already in the requested state of CANCELED."
ALREADY_COMPLETED = "The UPS is already COMPLETED."
NOT_CANCELLED = "Performer chooses not to cancel."
"""Warnings of PS3.18 11.8.3.2."""


def find_workitem(node: Node, _account: Reader, workitem: str) -> Workitem:
    """Return the workitem with a UID.

    Raises
    ------
    HTTPException
        404
    """
    found = workitem_with_uid(node, workitem)
    if found is None:
        raise HTTPException(404, "there is no workitem with this UID")
    return found


Requested = Annotated[Workitem, Depends(find_workitem)]
"""Parameter of a route with ``workitem`` in its path: the workitem, else 404."""


def workitem_with_uid(node: Services, uid: str) -> Workitem | None:
    """Return the workitem with a UID, or None."""
    return next(iter(_with_uids(node, read_keys([("SOPInstanceUID", uid)]), [uid])), None)


@router.api_route("/workitems", methods=READ)
def search_workitems(request: Request, _account: Reader, audit: RequestAudit, node: Node) -> Response:
    """Search for workitems."""
    form = document_form(accepted(request))
    limit, offset = whole_number(request, "limit", MAX_WORKITEMS), whole_number(request, "offset", 0)
    warnings = [] if limit <= MAX_WORKITEMS else [f"At most {MAX_WORKITEMS} results are returned in one response"]
    limit = min(limit, MAX_WORKITEMS)
    parameters = request.query_params.multi_items()
    if len(parameters) > MAX_PARAMETERS:
        raise HTTPException(400, f"at most {MAX_PARAMETERS} parameters are allowed; put several values into one")
    keys = [(name, text) for name, text in parameters if name.lower() not in CONTROLS]
    query = read_keys(keys, fuzzy=is_fuzzy(request))
    fields = [name for text in request.query_params.getlist("includefield") for name in text.split(",") if name]
    unknown = [*query.unknown, *(name[:64] for name in fields if name != "all" and attribute_path(name) is None)]
    found = _found(node, query, limit + 1, offset)
    if len(found) > limit:
        warnings.append("There are additional results that can be requested")
        found.pop()
    audit.queried(f"UPS-RS {request.url.path}?{request.url.query}"[:1000], len(found))
    if unknown:
        warnings.append(f"These parameters name no attribute of PS3.6 and are ignored: {quotable(unknown)}")
    if query.unsupported:
        warnings.append(f"These attributes are not matched: {quotable(query.unsupported)}")
    base, title = base_url(request), node.settings.dicom.ae_title
    answers = [
        encoded_model(workitem_model(workitem, title, base), as_xml=form.media_type == DICOM_XML) for workitem in found
    ]
    headers = {"Warning": warning_header(warnings)} if warnings else {}
    return respond_data_sets(request, answers, form, etag_of(answers, form), headers)


@router.api_route("/workitems/{workitem}", methods=READ)
def retrieve_workitem(request: Request, found: Requested, audit: RequestAudit, node: Node) -> Response:
    """One workitem; the Transaction UID of a workitem is never returned."""
    form = document_form(accepted(request), is_single=True)
    with node.index.reading() as index:
        instances = index.workitems.instances(found.series_id, MAX_REFERENCED_INSTANCES)
    audit.accessed([of_study(found.study_instance_uid, found.patient_id)], "workitem")
    model = workitem_model(found, node.settings.dicom.ae_title, base_url(request), instances)
    answers = [encoded_model(model, as_xml=form.media_type == DICOM_XML)]
    return respond_data_sets(request, answers, form, etag_of(answers, form))


@router.post("/workitems/{workitem}/cancelrequest")
async def request_cancellation(
    request: Request, _account: Writer, found: Requested, audit: RequestAudit, node: Node
) -> Response:
    """Cancel a reconversion that is not running; the volumes of before stay current."""
    await run_in_threadpool(check_data_set, request, await request.body())
    return await run_in_threadpool(_cancel, found, audit, node)


def _cancel(found: Workitem, audit: RequestAudit, node: Services) -> Response:
    objects = [of_study(found.study_instance_uid, found.patient_id)]
    if found.state == "CANCELED":
        return Response(status_code=202, headers={"Warning": warning_header([ALREADY_CANCELED])})
    if found.state == "COMPLETED":
        raise _conflict(ALREADY_COMPLETED, "the conversion has ended")
    is_cancelled = node.index.series.cancel_reconversion(found.series_id, found.predecessor, node.ingest.now())
    if not is_cancelled:
        why = "it is running, or it is owed for instances that no current volume was made of"
        raise _conflict(NOT_CANCELLED, f"the conversion goes on: {why}")
    audit.changed(AuditEvent.INSTANCES_ACCESSED, Action.EXECUTE, objects, "a reconversion was cancelled")
    return Response(status_code=202)


def _conflict(warning: str, detail: str) -> HTTPException:
    return HTTPException(409, detail, {"Warning": warning_header([warning])})


def check_data_set(request: Request, body: bytes) -> None:
    """Check the payload of a request, one data set; it may be empty (PS3.18 11.8.1.4).

    Raises
    ------
    HTTPException
        400: it is no data set; 413: it is too large; 415: it has another media type.
    """
    if not body:
        return
    if len(body) > MAX_PAYLOAD_BYTES:
        raise HTTPException(413, f"the payload is larger than {MAX_PAYLOAD_BYTES} bytes")
    media_type = parse_options_header(request.headers.get("content-type"))[0].decode("latin-1").lower()
    if media_type not in (DICOM_JSON, JSON, DICOM_XML):
        raise HTTPException(415, f"the body must be {DICOM_JSON} or {DICOM_XML} (PS3.18 11.1.1)")
    try:
        document: Any = json_from_native(body) if media_type == DICOM_XML else json.loads(body)
    except (NotNative, ValueError, RecursionError) as error:
        raise HTTPException(400, "the body is no data set in the form of its Content-Type") from error
    items = document if isinstance(document, list) else [document]
    if len(items) != 1 or not isinstance(items[0], dict):
        raise HTTPException(400, "the body must hold one data set (PS3.18 F.2)")


def _found(node: Services, query: WorkitemQuery, limit: int, offset: int) -> list[Workitem]:
    if not query.is_possible:
        return []
    if query.uids is not None:
        named = _with_uids(node, query, query.uids)
        return [workitem for workitem in named if workitem.state in query.states][offset : offset + limit]
    with node.index.reading() as index:
        return index.workitems.find(query.series, query.states, limit, offset)


def _with_uids(node: Services, query: WorkitemQuery, uids: Sequence[str]) -> list[Workitem]:
    ids = {series_id for uid in uids if (series_id := series_id_of(uid)) is not None}
    title = node.settings.dicom.ae_title
    with node.index.reading() as index:
        candidates = [item for series_id in sorted(ids) for item in index.workitems.of_series(series_id, query.series)]
    return [workitem for workitem in candidates if workitem_uid(workitem, title) in uids]
