"""Storage commitment over HTTP (PS3.18 13): every file is read again before a client hears that it may delete its own.

A request is answered when its files were read. So there is no result to ask for later, and nothing that a crash loses.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from fastapi import HTTPException, Request, Response
from starlette.concurrency import run_in_threadpool

from node.counted import counted
from node.dicom.attributes import is_uid
from node.dicom.json_model import Json, elements, text_of
from node.extensions.commitment.commitment import CommitmentService, verify
from node.extensions.dicomweb.capabilities import ACCEPT, Transaction
from node.extensions.dicomweb.documents import read_data_set, respond_data_set
from node.extensions.dicomweb.media_types import (
    DICOM_JSON,
    DICOM_XML,
    JSON,
    MULTIPART,
    DocumentForm,
    accepted,
    document_form,
)
from node.extensions.dicomweb.resources import READ, dicomweb_router
from node.index.work.payloads import Reference
from node.web.access import Call, ReaderCall

router = dicomweb_router()

MAX_PAYLOAD_BYTES = 1_000_000
MAX_REFERENCES = 2000
"""Instances of a request: their files are read while the client waits."""

LOOK_SECONDS = 0.5
"""Interval at which the node looks whether the client is still there."""

_under_way: set[str] = set()
_lock = threading.Lock()


@router.post("/commitment-requests/{transaction}")
async def request_commitment(call: ReaderCall, transaction: str) -> Response:
    """Read the files of instances again, and tell which of them are kept."""
    form = document_form(accepted(call.request), is_single=True)
    body = await call.request.body()
    gone, stopping = threading.Event(), call.request.app.state.stopping
    watch = asyncio.create_task(_watch(call.request, gone))
    try:
        return await run_in_threadpool(
            _answer, call, transaction, body, form, lambda: gone.is_set() or stopping.is_set()
        )
    finally:
        watch.cancel()


async def _watch(request: Request, gone: threading.Event) -> None:
    """Note that the client has gone: nobody needs the answer then."""
    while not await request.is_disconnected():
        await asyncio.sleep(LOOK_SECONDS)
    gone.set()


@router.api_route("/commitment-requests/{transaction}", methods=READ)
async def check_result(call: ReaderCall, transaction: str) -> Response:
    """Refuse to tell a result later: each is the answer to its request."""
    raise HTTPException(404, "no result is waiting: a request is answered when its files were read (PS3.18 13.4)")


def _answer(call: Call, transaction: str, body: bytes, form: DocumentForm, stop: Callable[[], bool]) -> Response:
    if not is_uid(transaction):
        raise HTTPException(400, "the Transaction UID must be 1 to 64 digits and dots (PS3.5 9.1)")
    references = _references(read_data_set(call.request, body, MAX_PAYLOAD_BYTES) or {})
    node = call.node
    service = CommitmentService(
        node.index,
        node.archive,
        node.settings.dicom.ae_title,
        {},
        0.0,
        node.metrics,
        node.settings.acknowledge == "object",
        node.ingest.now,
    )
    with _claimed(transaction):
        result = verify(service, references, None, stop)
    if result is None:
        raise HTTPException(503, "the node stops, or the client has gone: ask again")
    call.audit.queried(
        f"storage commitment {transaction} of {counted(len(references), 'instance')}", len(result.committed)
    )
    told: dict[str, list[dict[str, Any]]] = {
        "ReferencedSOPSequence": [_item(reference) for reference in result.committed],
        "FailedSOPSequence": [{**_item(reference), "FailureReason": reason} for reference, reason in result.failed],
    }
    return respond_data_set(call.request, elements({name: items for name, items in told.items() if items}), form)


@contextmanager
def _claimed(transaction: str) -> Iterator[None]:
    with _lock:
        if transaction in _under_way:
            raise HTTPException(409, "a request with this Transaction UID is being answered")
        _under_way.add(transaction)
    try:
        yield
    finally:
        with _lock:
            _under_way.remove(transaction)


def _references(data_set: Json) -> list[Reference]:
    sequence = data_set.get("00081199")
    items = sequence.get("Value") if isinstance(sequence, dict) else None
    if not isinstance(items, list) or not items:
        raise HTTPException(400, "Referenced SOP Sequence (0008,1199) must name the instances (PS3.18 J.1)")
    if len(items) > MAX_REFERENCES:
        raise HTTPException(400, f"a request may name {MAX_REFERENCES} instances: ask for more in further requests")
    found = [(text_of(item, "00081150"), text_of(item, "00081155")) for item in items if isinstance(item, dict)]
    if len(found) < len(items) or not all(is_uid(kind) and is_uid(uid) for kind, uid in found):
        raise HTTPException(400, "each item must have Referenced SOP Class UID and Referenced SOP Instance UID")
    return found


def _item(reference: Reference) -> dict[str, Any]:
    return {"ReferencedSOPClassUID": reference[0], "ReferencedSOPInstanceUID": reference[1]}


_FORMS = (DICOM_JSON, JSON, f'{MULTIPART}; type="{DICOM_XML}"', DICOM_XML)

TRANSACTIONS: Mapping[Callable[..., Any], Transaction] = {
    request_commitment: Transaction("Request", "13.4", _FORMS, ACCEPT, ("Accept", "Content-Type"), _FORMS),
    check_result: Transaction("Result Check", "13.5", (), {}, ()),
}
