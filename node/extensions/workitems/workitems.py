"""UPS-RS: workitems of clients, which others perform, and of what the node does (PS3.18 11)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Annotated, Any

from fastapi import Depends, HTTPException, Request, Response
from starlette.concurrency import run_in_threadpool

from node.audit.audit_log import Action, AuditEvent
from node.dicom.json_model import Json, entry_text
from node.dicom.metadata import encoded_model
from node.extensions.dicomweb.capabilities import ACCEPT, DOCUMENT, Transaction
from node.extensions.dicomweb.documents import etag_of, quotable, read_data_set, respond_data_sets, warning_header
from node.extensions.dicomweb.media_types import DICOM_JSON, DICOM_XML, JSON, MULTIPART, accepted, document_form
from node.extensions.dicomweb.resources import READ, base_url, dicomweb_router
from node.extensions.dicomweb.searches import (
    CONTROLS,
    MAX_PARAMETERS,
    attribute_path,
    is_fuzzy,
    kinds_not_performed,
    whole_number,
)
from node.extensions.workitems.created import CreatedWorkitem, ReadCreatedWorkitems, WorkitemRepository
from node.extensions.workitems.own_steps import ConversionStep, ProcedureStep, ReadConversionSteps, ReadProcedureSteps
from node.extensions.workitems.unified_steps import (
    STATES,
    Event,
    Status,
    checked_request,
    created,
    transition,
    values_of,
)
from node.extensions.workitems.workitem_keys import WorkitemQuery, read_keys
from node.extensions.workitems.workitem_model import (
    MAX_REFERENCED_INSTANCES,
    created_model,
    own_model,
    series_id_of,
    workitem_model,
    workitem_uid,
)
from node.extensions.worklist.entries import checked_data_set
from node.index.work.ledger import NoSuchWork, WorkEnded
from node.web.access import Call, ReaderCall, RequestAudit, WriterCall
from node.web.audit_trail import of_study
from node.web.services import Services

router = dicomweb_router()

MAX_WORKITEMS = 200
"""Maximum workitems per response; offset requests further ones."""

MAX_PAYLOAD_BYTES = 65_536
"""Largest payload of a request for cancellation, or for another state."""

MAX_WORKITEM_BYTES, MAX_ELEMENTS = 1_000_000, 20_000
"""Largest workitem or update, and the elements and items in it."""

_UID = re.compile(r"(?=.{1,64}$)[0-9]+(\.[0-9]+)*")

RESERVED = ("1.2.840.10008.5.1.4.34.5", "1.2.840.10008.5.1.4.34.5.1")
"""UIDs that stand for all workitems, and for those that match a filter (PS3.4 CC.2.3.1): no workitem has one."""

ALREADY_CANCELED = "The UPS is already in the requested state of CANCELED."
ALREADY_COMPLETED = "The UPS is already COMPLETED."
NOT_CANCELLED = "Performer chooses not to cancel."
INCONSISTENT = "The submitted request is inconsistent with the state of the UPS Instance."
NOT_CLAIMED = "The target URI did not reference a claimed Workitem."
NOT_UPDATED = "The submitted request is inconsistent with the current state of the Workitem."
UID_MISSING, UID_INCORRECT = "The Transaction UID is missing.", "The Transaction UID is incorrect."
CREATED_WITH_MODIFICATIONS = "The Workitem was created with modifications."
NOT_SUPPORTED = "Requested optional Attributes are not supported."

REFUSALS: Mapping[Status, tuple[int, str, str]] = {
    Status.DUPLICATE: (409, "The Workitem already exists.", "there is a workitem with this UID"),
    Status.NO_LONGER_UPDATED: (409, INCONSISTENT, "the workitem is COMPLETED or CANCELED"),
    Status.WRONG_TRANSACTION_UID: (400, UID_INCORRECT, "the workitem has another Transaction UID (PS3.4 CC.2.1)"),
    Status.ALREADY_IN_PROGRESS: (409, INCONSISTENT, "the workitem is IN PROGRESS already"),
    Status.ONLY_CREATION_SCHEDULES: (409, INCONSISTENT, "only creation makes a workitem SCHEDULED (PS3.4 CC.1.1)"),
    Status.FINAL_STATE_REQUIREMENTS: (
        409,
        INCONSISTENT,
        "the workitem lacks attributes that the state requires (PS3.4 table CC.2.5-3): update it first",
    ),
    Status.NO_SUCH_STEP: (404, "The Workitem does not exist.", "there is no workitem with this UID"),
    Status.NOT_IN_PROGRESS: (409, INCONSISTENT, "the workitem is not IN PROGRESS: claim it first"),
    Status.IS_COMPLETED: (409, ALREADY_COMPLETED, "the workitem has ended"),
    Status.NO_PERFORMER: (
        409,
        "The performer cannot be contacted.",
        "the workitem is IN PROGRESS, and only its performer or an administrator ends it",
    ),
}
"""Status code, Warning and detail for each failure (PS3.18 11.4.3 to 11.8.3)."""

Found = ConversionStep | CreatedWorkitem | ProcedureStep
"""A conversion, a workitem of a client, or other work of the node."""


def find_workitem(call: ReaderCall, workitem: str) -> Found:
    """Return the workitem with a UID, else 404."""
    found = workitem_with_uid(call.node, workitem)
    if found is None:
        raise HTTPException(404, "there is no workitem with this UID")
    return found


Requested = Annotated[Found, Depends(find_workitem)]
"""Parameter of a route with ``workitem`` in its path: the workitem, else 404."""


def workitem_with_uid(node: Services, uid: str) -> Found | None:
    """Return the workitem with a UID, or None."""
    with node.index.reading() as index:
        created = index.repository(ReadCreatedWorkitems).one(uid) or index.repository(ReadProcedureSteps).one(uid)
    return created or next(iter(_conversions_with_uids(node, read_keys([("SOPInstanceUID", uid)]), [uid])), None)


@router.post("/workitems", status_code=201)
async def create_workitem(call: WriterCall) -> Response:
    """Create a workitem, SCHEDULED, which somebody else than the node performs."""
    body = await call.request.body()
    return await run_in_threadpool(_create, call, body)


def _create(call: Call, body: bytes) -> Response:
    given = read_data_set(call.request, body, MAX_WORKITEM_BYTES)
    if given is None:
        raise HTTPException(400, "the body must hold the workitem (PS3.18 11.4.1.4)")
    uid = _new_uid(call.request, given)
    kept = checked_data_set(given, MAX_ELEMENTS)
    attributes, is_modified = created(kept, call.node.ingest.now())
    if workitem_with_uid(call.node, uid) is not None:
        raise _refused(Status.DUPLICATE)
    if not call.node.index.repository(WorkitemRepository).create(
        uid, attributes, call.account.name, call.node.ingest.now()
    ):
        raise _refused(Status.DUPLICATE)
    call.audit.changed(AuditEvent.PROCEDURE_RECORD, Action.CREATE, [_object(attributes)], f"workitem {uid}")
    url = f"{base_url(call.request)}/workitems/{uid}"
    is_modified |= not {name.upper() for name in given} <= {*kept, "00001000", "00080005"}
    warning = {"Warning": warning_header([CREATED_WITH_MODIFICATIONS])} if is_modified else {}
    return Response(status_code=201, headers={"Location": url, "Content-Location": url} | warning)


def _new_uid(request: Request, given: Json) -> str:
    """Return the UID of a new workitem: ``?{uid}``, ``?workitem={uid}``, or that of the data set (PS3.18 11.4.1.1)."""
    named = {
        text for name, text in request.query_params.multi_items() if name in ("workitem", "AffectedSOPInstanceUID")
    }
    named |= {name for name, text in request.query_params.multi_items() if not text and _UID.fullmatch(name)}
    named |= {str(uid) for tag in ("00001000", "00080018") for uid in _first(given, tag)}
    if len(named) != 1:
        raise HTTPException(400, "the UID of the workitem must be given once: as /workitems?{uid} (PS3.18 11.4.1.1)")
    uid = named.pop()
    if not _UID.fullmatch(uid) or uid in RESERVED:
        raise HTTPException(400, "the UID of the workitem must be 1 to 64 digits and dots (PS3.5 9.1)")
    return uid


@router.post("/workitems/{workitem}")
async def update_workitem(call: WriterCall, found: Requested) -> Response:
    """Change attributes of a workitem of a client; of one that is IN PROGRESS with its Transaction UID."""
    body = await call.request.body()
    return await run_in_threadpool(_update, call, body, found)


def _update(call: Call, body: bytes, found: Found) -> Response:
    given = read_data_set(call.request, body, MAX_WORKITEM_BYTES)
    if given is None:
        raise HTTPException(400, "the body must hold the attributes to change (PS3.18 11.6.1.4)")
    found = _of_client(found)
    changes = checked_data_set(given, MAX_ELEMENTS)
    transaction_uid = _transaction_uid(call.request, given)
    status = call.node.index.repository(WorkitemRepository).update(
        found.sop_instance_uid, changes, transaction_uid, call.node.ingest.now()
    )
    if status != Status.SUCCESS:
        raise _not_updated(status, transaction_uid)
    _record(call.audit, Action.UPDATE, found, "updated")
    is_whole = {name.upper() for name in given} <= {*changes, "00080005"}
    return Response(status_code=200, headers={} if is_whole else {"Warning": warning_header([NOT_SUPPORTED])})


def _transaction_uid(request: Request, given: Json) -> str | None:
    """Return the Transaction UID of an update: ``?{uid}``, ``?transaction-uid={uid}``, or that of the data set."""
    query = request.query_params.multi_items()
    named = {text for name, text in query if name.lower() in ("transaction-uid", "transactionuid", "transaction")}
    named |= {name for name, text in query if not text and _UID.fullmatch(name)}
    named |= {str(uid) for uid in _first(given, "00081195")}
    if len(named) > 1:
        raise HTTPException(400, "two different Transaction UIDs are given")
    return next(iter(named), None)


@router.put("/workitems/{workitem}/state")
async def change_state(call: WriterCall, found: Requested) -> Response:
    """Claim, complete or cancel a workitem of a client, with the Transaction UID of its performer."""
    body = await call.request.body()
    return await run_in_threadpool(_change_state, call, body, found)


def _change_state(call: Call, body: bytes, found: Found) -> Response:
    given = checked_data_set(read_data_set(call.request, body, MAX_PAYLOAD_BYTES) or {})
    wanted = str(next(iter(_first(given, "00741000")), "")).replace("CANCELLED", "CANCELED")
    state = next((state for state in STATES if state == wanted), None)
    if state is None:
        raise HTTPException(
            400, f"Procedure Step State (0074,1000) must be one of {', '.join(STATES)} (PS3.18 11.7.1.4)"
        )
    found = _of_client(found)
    transaction_uid = next((str(uid) for uid in _first(given, "00081195")), None)
    status = call.node.index.repository(WorkitemRepository).change_state(
        found.sop_instance_uid, state, transaction_uid, call.node.ingest.now()
    )
    if status in (Status.ALREADY_CANCELED, Status.ALREADY_COMPLETED):
        return Response(headers={"Warning": warning_header([f"The UPS is already in the requested state of {state}."])})
    if status != Status.SUCCESS:
        raise _refused(status, transaction_uid)
    _record(call.audit, Action.UPDATE, found, state)
    return Response(status_code=200)


@router.api_route("/workitems", methods=READ)
def search_workitems(call: ReaderCall) -> Response:
    """Search for workitems."""
    form = document_form(accepted(call.request))
    limit, offset = whole_number(call.request, "limit", MAX_WORKITEMS), whole_number(call.request, "offset", 0)
    warnings = [] if limit <= MAX_WORKITEMS else [f"At most {MAX_WORKITEMS} results are returned in one response"]
    warnings += kinds_not_performed(call.request)
    limit = min(limit, MAX_WORKITEMS)
    parameters = call.request.query_params.multi_items()
    if len(parameters) > MAX_PARAMETERS:
        raise HTTPException(400, f"at most {MAX_PARAMETERS} parameters are allowed; put several values into one")
    keys = [(name, text) for name, text in parameters if name.lower() not in CONTROLS]
    query = read_keys(keys, fuzzy=is_fuzzy(call.request))
    fields = [name for text in call.request.query_params.getlist("includefield") for name in text.split(",") if name]
    unknown = [*query.unknown, *(name[:64] for name in fields if name != "all" and attribute_path(name) is None)]
    found = _found(call.node, query, limit + 1, offset)
    if len(found) > limit:
        warnings.append("There are additional results that can be requested")
        found.pop()
    call.audit.queried(f"UPS-RS {call.request.url.path}?{call.request.url.query}"[:1000], len(found))
    if unknown:
        warnings.append(f"These parameters name no attribute of PS3.6 and are ignored: {quotable(unknown)}")
    if query.unsupported:
        warnings.append(f"These attributes are not matched, or not those of conversions: {quotable(query.unsupported)}")
    base = base_url(call.request)
    answers = [encoded_model(_model(one, call.node, base), as_xml=form.media_type == DICOM_XML) for one in found]
    headers = {"Warning": warning_header(warnings)} if warnings else {}
    return respond_data_sets(call.request, answers, form, etag_of(answers, form), headers)


@router.api_route("/workitems/{workitem}", methods=READ)
def retrieve_workitem(call: ReaderCall, found: Requested) -> Response:
    """One workitem; the Transaction UID of a workitem is never returned."""
    form = document_form(accepted(call.request), is_single=True)
    with call.node.index.reading() as index:
        if isinstance(found, ProcedureStep):
            instances = index.repository(ReadProcedureSteps).instances(found, MAX_REFERENCED_INSTANCES)
        elif isinstance(found, ConversionStep):
            instances = index.repository(ReadConversionSteps).instances(found.series_id, MAX_REFERENCED_INSTANCES)
        else:
            instances = []
    call.audit.accessed([_about(found)], "workitem")
    model = _model(found, call.node, base_url(call.request), instances)
    answers = [encoded_model(model, as_xml=form.media_type == DICOM_XML)]
    return respond_data_sets(call.request, answers, form, etag_of(answers, form))


def _model(found: Found, node: Services, base: str, instances: Sequence[tuple[str, str]] | None = None) -> Json:
    if isinstance(found, ConversionStep):
        return workitem_model(found, node.settings.dicom.ae_title, base, instances)
    if isinstance(found, CreatedWorkitem):
        return created_model(found)
    return own_model(found, node.settings, base, instances)


@router.post("/workitems/{workitem}/cancelrequest")
async def request_cancellation(call: WriterCall, found: Requested) -> Response:
    """Cancel a workitem that nobody performs yet, or one that the node performs."""
    body = await call.request.body()
    return await run_in_threadpool(_cancel, call, body, found)


def _cancel(call: Call, body: bytes, found: Found) -> Response:
    asked = checked_request(checked_data_set(read_data_set(call.request, body, MAX_PAYLOAD_BYTES) or {}))
    if isinstance(found, ConversionStep):
        status = _cancel_conversion(call, found)
    elif isinstance(found, ProcedureStep):
        status = _cancel_work(call, found)
    else:
        status = call.node.index.repository(WorkitemRepository).request_cancel(
            found.sop_instance_uid, asked, call.node.ingest.now()
        )
        if status == Status.SUCCESS:
            _record(call.audit, Action.EXECUTE, found, "cancellation requested")
    if status == Status.ALREADY_CANCELED:
        return Response(status_code=202, headers={"Warning": warning_header([ALREADY_CANCELED])})
    if status != Status.SUCCESS:
        raise _refused(status)
    return Response(status_code=202)


def _cancel_conversion(call: Call, found: ConversionStep) -> Status:
    states = transition(Event.REQUEST_CANCEL, found.state)
    if isinstance(states, Status):
        return states
    is_cancelled = call.node.index.series.cancel_reconversion(
        found.series_id, found.predecessor, call.node.ingest.now()
    )
    if not is_cancelled:
        why = "it is running, or it is owed for instances that no current volume was made of"
        raise _warned(409, NOT_CANCELLED, f"the conversion goes on: {why}")
    objects = [of_study(found.study_instance_uid, found.patient_id)]
    call.audit.changed(AuditEvent.INSTANCES_ACCESSED, Action.EXECUTE, objects, "a reconversion was cancelled")
    return Status.SUCCESS


def _cancel_work(call: Call, found: ProcedureStep) -> Status:
    """End what the node sends or retrieves, or has a hook do."""
    states = transition(Event.REQUEST_CANCEL, found.state)
    if isinstance(states, Status):
        return states
    try:
        call.act("cancel-work", work=found.id)
    except (NoSuchWork, WorkEnded):  # meanwhile
        now = workitem_with_uid(call.node, found.sop_instance_uid)
        ended = transition(Event.REQUEST_CANCEL, now.state if now is not None else None)
        return ended if isinstance(ended, Status) else Status.NO_PERFORMER
    return Status.SUCCESS


def _refused(status: Status, transaction_uid: str | None = "") -> HTTPException:
    code, warning, detail = REFUSALS[status]
    if status == Status.WRONG_TRANSACTION_UID and transaction_uid is None:
        warning, detail = UID_MISSING, "the Transaction UID (0008,1195) of the workitem must be given (PS3.4 CC.2.1)"
    return _warned(code, warning, detail)


def _not_updated(status: Status, transaction_uid: str | None) -> HTTPException:
    """Return the answer to an update that is refused, whose status codes and warnings are those of PS3.18 11.6.3."""
    refused = _refused(status, transaction_uid)
    code = 400 if status == Status.NO_LONGER_UPDATED else refused.status_code
    warning = NOT_CLAIMED if status in (Status.WRONG_TRANSACTION_UID, Status.NOT_IN_PROGRESS) else NOT_UPDATED
    return _warned(code, warning, str(refused.detail))


def _of_client(found: Found) -> CreatedWorkitem:
    """Return a workitem that a client created: the node performs the others itself.

    Raises HTTPException 409.
    """
    if not isinstance(found, CreatedWorkitem):
        why = "the node performs this workitem itself: only its cancellation can be requested"
        raise _warned(409, INCONSISTENT, why)
    return found


def _warned(status: int, warning: str, detail: str) -> HTTPException:
    return HTTPException(status, detail, {"Warning": warning_header([warning])})


def _record(audit: RequestAudit, action: Action, found: CreatedWorkitem, what: str) -> None:
    detail = f"workitem {found.sop_instance_uid}: {what}"
    audit.changed(AuditEvent.PROCEDURE_RECORD, action, [_object(found.attributes)], detail)


def _about(found: Found) -> dict[str, str]:
    if isinstance(found, ConversionStep):
        return of_study(found.study_instance_uid, found.patient_id)
    return _object(found.attributes)


def _object(attributes: Json) -> dict[str, str]:
    requests = values_of(attributes, "ReferencedRequestSequence")
    study = entry_text(requests[0], "StudyInstanceUID") if requests else None
    return of_study(study or "", entry_text(attributes, "PatientID"))


def _first(given: Json, tag: str) -> list[Any]:
    """Return the first value of an element of a data set that was not checked, or an empty list."""
    element = given.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return values[:1] if isinstance(values, list) else []


def _found(node: Services, query: WorkitemQuery, limit: int, offset: int) -> list[Found]:
    """Return a page of the workitems that match: those that have a row, then conversions."""
    with node.index.searching() as index:
        wanted = query.states, query.uids, query.patient_id
        with_rows: Iterator[CreatedWorkitem | ProcedureStep] = chain(
            index.repository(ReadCreatedWorkitems).all(*wanted), index.repository(ReadProcedureSteps).all(*wanted)
        )
        matching = (workitem for workitem in with_rows if query.matches(workitem.attributes))
        skipped = sum(1 for _ in islice(matching, offset))
        found: list[Found] = [*islice(matching, limit)]
    left, skipped = limit - len(found), offset - skipped
    if left <= 0 or not query.may_be_conversion:
        return found
    if query.uids is not None:
        named = _conversions_with_uids(node, query, query.uids)
        return found + [workitem for workitem in named if workitem.state in query.states][skipped : skipped + left]
    with node.index.reading() as index:
        return found + index.repository(ReadConversionSteps).find(query.series, query.states, left, skipped)


def _conversions_with_uids(node: Services, query: WorkitemQuery, uids: Sequence[str]) -> list[ConversionStep]:
    ids = {series_id for uid in uids if (series_id := series_id_of(uid)) is not None}
    title = node.settings.dicom.ae_title
    with node.index.reading() as index:
        candidates = [
            item
            for series_id in sorted(ids)
            for item in index.repository(ReadConversionSteps).of_series(series_id, query.series)
        ]
    return [workitem for workitem in candidates if workitem_uid(workitem, title) in uids]


_WORKITEM = (DICOM_JSON, JSON, DICOM_XML, f'{MULTIPART}; type="{DICOM_XML}"')

TRANSACTIONS: Mapping[Callable[..., Any], Transaction] = {
    create_workitem: Transaction(
        "Create Workitem",
        "11.4",
        (),
        {"{workitem}": "UID of the workitem, without a value; or the value of workitem; or that of the data set"},
        ("Content-Type",),
        _WORKITEM,
    ),
    update_workitem: Transaction(
        "Update Workitem",
        "11.6",
        (),
        {"{transaction}": "Transaction UID, without a value; or the value of transaction-uid; or that of the data set"},
        ("Content-Type",),
        _WORKITEM,
    ),
    change_state: Transaction("Change Workitem State", "11.7", (), {}, ("Content-Type",), _WORKITEM),
    search_workitems: Transaction(
        "Search Workitems",
        "11.9",
        (DICOM_JSON, JSON, f'{MULTIPART}; type="{DICOM_XML}"'),
        {
            **ACCEPT,
            "{attribute}": "keyword or tag, after those of its sequences, with the value to match",
            "includefield": "ignored: every answer has all attributes",
            "fuzzymatching": "true or false",
            "emptyvaluematching": "not supported: true is answered with a warning",
            "multiplevaluematching": "true or false: values separated by a backslash are always alternatives",
            "limit": f"at most {MAX_WORKITEMS}",
            "offset": "number of results to skip",
        },
        DOCUMENT,
    ),
    retrieve_workitem: Transaction(
        "Retrieve Workitem",
        "11.5",
        (DICOM_JSON, JSON, f'{MULTIPART}; type="{DICOM_XML}"', DICOM_XML),
        ACCEPT,
        DOCUMENT,
    ),
    request_cancellation: Transaction("Request Cancellation", "11.8", (), {}, ("Content-Type",), _WORKITEM),
}
