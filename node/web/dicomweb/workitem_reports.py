"""UPS-RS: subscriptions to workitems, and the channel over which their changes are reported (PS3.18 8.10, 11.10)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import count
from time import monotonic
from urllib.parse import quote

import structlog
from fastapi import HTTPException, Request, Response, WebSocket
from starlette.concurrency import run_in_threadpool
from starlette.types import Message
from starlette.websockets import WebSocketDisconnect

from node.dicom.json_model import Json
from node.dicom.metadata import encoded_model
from node.dicom.unified_steps import (
    ASSIGNED,
    PROGRESS_REPORT,
    STATE_REPORT,
    STATES,
    STATUS_CHANGE,
    assigned_report,
    progress_report,
    state_report,
)
from node.errors import VoxelnodeError
from node.index.read.created_workitems import CreatedWorkitem, WorkitemReport
from node.index.read.workitems import WorkitemChange, WorkitemCursor
from node.index.workitems import Subscriber
from node.web.access import Reader, RequestAudit, Role, address_of
from node.web.dicomweb.documents import warning_header
from node.web.dicomweb.resources import base_url
from node.web.dicomweb.routing import dicomweb_router
from node.web.dicomweb.subscriptions import Filter, Subscription, Subscriptions
from node.web.dicomweb.workitem_keys import OF_CONVERSIONS_UNMATCHED, WorkitemQuery
from node.web.dicomweb.workitem_model import (
    conversion_report,
    event_report,
    status_report,
    workitem_model,
    workitem_uid,
)
from node.web.dicomweb.workitems import FILTERED_WORKLIST, WORKLIST, WORKLISTS, began, workitem_with_uid
from node.web.services import Node, Services
from node.web.streams import POLL_SECONDS, STREAM_SECONDS, Streams

log = structlog.get_logger()
router = dicomweb_router()

NO_DELETION_LOCK = "Deletion Lock not granted."

MAX_CHANGES = 200
"""Events and new series read at a time."""

MESSAGE_IDS = 0x10000

SEND_SECONDS = 10.0
"""Time in which a client must take a report."""

GOING_AWAY, NOT_UNDERSTOOD, INTERNAL_ERROR = 1001, 1003, 1011
"""Close codes of RFC 6455 7.4.1. A server that stops closes with 1012, Service Restart."""


@router.post("/workitems/{workitem}/subscribers/{aetitle}", status_code=201)
def subscribe(
    request: Request, account: Reader, audit: RequestAudit, node: Node, workitem: str, aetitle: str
) -> Response:
    """Subscribe an AE title to one workitem, to all (1.2.840.10008.5.1.4.34.5) or to a filter (…34.5.1)."""
    subscriber, subscriptions = _subscriber(account.name, aetitle), _subscriptions(request)
    lock = request.query_params.get("deletionlock", "false").lower()
    if lock not in ("true", "false"):
        raise HTTPException(400, "deletionlock must be true or false (PS3.18 11.10.1.2)")
    is_locking = lock == "true" and account.role >= Role.WRITE

    def there(query: WorkitemQuery | None) -> list[str]:
        return _not_subscribed(node, subscriptions.of(subscriber), query)

    if workitem == WORKLIST:
        subscriptions.subscribe_all(subscriber, there, is_locking=is_locking)
    elif workitem == FILTERED_WORKLIST:
        subscriptions.subscribe_matching(subscriber, _filter(request, is_locking=is_locking), there)
    else:
        found = workitem_with_uid(node, workitem)
        if found is None:
            raise HTTPException(404, "there is no workitem with this UID")
        is_locking &= isinstance(found, CreatedWorkitem)
        subscriptions.subscribe(subscriber, workitem, is_locking=is_locking)
    audit.queried(f"UPS-RS {request.url.path}?{request.url.query}"[:1000])
    channel = f"ws{base_url(request).removeprefix('http')}/subscribers/{quote(aetitle, safe='')}"
    warning = {"Warning": warning_header([NO_DELETION_LOCK])} if is_locking != (lock == "true") else {}
    return Response(status_code=201, headers={"Content-Location": channel} | warning)


def _not_subscribed(node: Services, subscription: Subscription | None, query: WorkitemQuery | None) -> list[str]:
    """Return the UIDs of the workitems of clients that match, of those that are not subscribed yet."""
    known = subscription or Subscription()
    with node.index.searching() as index:
        return [
            workitem.sop_instance_uid
            for workitem in index.created_workitems.all(STATES)
            if (query is None or query.matches(workitem.attributes)) and not _is_wanted(known, workitem)
        ]


def _is_wanted(subscription: Subscription, workitem: CreatedWorkitem) -> bool:
    return subscription.wants(workitem.sop_instance_uid, began(workitem), lambda: workitem.attributes)


@router.delete("/workitems/{workitem}/subscribers/{aetitle}")
def unsubscribe(request: Request, account: Reader, workitem: str, aetitle: str) -> Response:
    """End the subscription of an AE title to one workitem, or all its subscriptions."""
    subscriber, subscriptions = _subscriber(account.name, aetitle), _subscriptions(request)
    if workitem in WORKLISTS:
        is_ended = subscriptions.unsubscribe_all(subscriber)
    else:
        is_ended = subscriptions.unsubscribe(subscriber, workitem)
    if not is_ended:
        raise HTTPException(404, "there is no such subscription")
    return Response(status_code=200)


@router.post(f"/workitems/{WORKLIST}/subscribers/{{aetitle}}/suspend")
@router.post(f"/workitems/{FILTERED_WORKLIST}/subscribers/{{aetitle}}/suspend")
def suspend(request: Request, account: Reader, node: Node, aetitle: str) -> Response:
    """Subscribe an AE title to no further workitems; those that exist are still reported."""
    with node.index.reading(following=True) as index:
        now = index.workitems.cursor()
    if not _subscriptions(request).suspend(_subscriber(account.name, aetitle), now):
        raise HTTPException(404, "there is no subscription to the worklist")
    return Response(status_code=200)


@router.websocket("/subscribers/{aetitle}")
async def open_channel(websocket: WebSocket, account: Reader, audit: RequestAudit, node: Node, aetitle: str) -> None:
    """Open a WebSocket over which the workitems of the subscriptions of an AE title are reported as they change."""
    subscriber = _subscriber(account.name, aetitle)
    streams: Streams = websocket.app.state.streams
    with streams.opened(account.name, address_of(websocket)):
        cursor = await run_in_threadpool(_newest, node)  # before the client knows that it is connected
        await run_in_threadpool(audit.queried, "workitems as they change")
        await websocket.accept()
        heard = asyncio.create_task(websocket.receive())
        try:
            code = await _report(websocket, node, subscriber, cursor, heard)
            if code is not None:
                await asyncio.wait_for(websocket.close(code), SEND_SECONDS)
        except (TimeoutError, WebSocketDisconnect):  # the client takes nothing, or is gone
            return
        finally:
            heard.cancel()


async def _report(
    websocket: WebSocket, node: Services, subscriber: Subscriber, cursor: WorkitemCursor, heard: asyncio.Task[Message]
) -> int | None:
    """Send reports until the time is over or the client says something; return the close code, None if it has left."""
    subscriptions: Subscriptions = websocket.app.state.subscriptions
    numbers, opened_at = count(1), monotonic()

    async def send(uid: str, event_type: int, report: Json) -> None:
        text = encoded_model(event_report(uid, event_type, report, next(numbers) % MESSAGE_IDS)).decode()
        await asyncio.wait_for(websocket.send_text(text), SEND_SECONDS)

    if not await run_in_threadpool(subscriptions.knows_of_restart, subscriber):
        await send(WORKLIST, STATUS_CHANGE, status_report("RESTARTED"))
    while not websocket.app.state.stopping.is_set() and monotonic() - opened_at < STREAM_SECONDS:
        try:
            reports, after = await run_in_threadpool(_reports, node, subscriptions, subscriber, cursor)
        except VoxelnodeError as error:
            log.warning("channel_broken_off", reason=str(error))
            return INTERNAL_ERROR
        for report in reports:
            await send(*report)
        has_more, cursor = bool(reports) or after != cursor, after
        await asyncio.wait({heard}, timeout=0 if has_more else POLL_SECONDS)
        if heard.done():
            return None if heard.result()["type"] == "websocket.disconnect" else NOT_UNDERSTOOD
    if websocket.app.state.stopping.is_set() and await run_in_threadpool(subscriptions.of, subscriber) is not None:
        await send(WORKLIST, STATUS_CHANGE, status_report("GOING DOWN"))
    return GOING_AWAY


def _newest(node: Services) -> WorkitemCursor:
    with node.index.reading(following=True) as index:
        return index.workitems.cursor()


Report = tuple[str, int, Json]
"""UID of a workitem, Event Type ID, and what is reported."""


def _reports(
    node: Services, subscriptions: Subscriptions, subscriber: Subscriber, after: WorkitemCursor
) -> tuple[list[Report], WorkitemCursor]:
    """Return the reports that a subscriber wants; without a subscription, none is looked for."""
    subscription, title = subscriptions.of(subscriber), node.settings.dicom.ae_title
    if subscription is None:
        return [], _newest(node)
    reports: list[Report] = []
    for uid in subscriptions.take_initial(subscriber, MAX_CHANGES):
        found = workitem_with_uid(node, uid)
        if isinstance(found, CreatedWorkitem):
            reports.append((uid, STATE_REPORT, state_report(found.attributes)))
        elif found is not None:
            reports.append((uid, *conversion_report(WorkitemChange(found, found.state))))
    with node.index.reading(wait=False, following=True) as index:
        changes, cursor = index.workitems.changes(after, MAX_CHANGES)
        events = index.created_workitems.reports(after.report_id, MAX_CHANGES)
    for change in changes:
        uid = workitem_uid(change.workitem, title)
        if subscription.wants(uid, began(change.workitem), partial(workitem_model, change.workitem, title, "")):
            reports.append((uid, *conversion_report(change)))
    for event in events:
        if _is_wanted(subscription, event.workitem):
            reports.append((event.workitem.sop_instance_uid, event.event_type, _told(event)))
    return reports, replace(cursor, report_id=events[-1].id if events else after.report_id)


def _told(event: WorkitemReport) -> Json:
    """Return what is reported of an event: progress and assignment as they are now (PS3.4 CC.2.4.3)."""
    current = {PROGRESS_REPORT: progress_report, ASSIGNED: assigned_report}.get(event.event_type)
    return event.report if current is None else current(event.workitem.attributes)


def _filter(request: Request, *, is_locking: bool) -> Filter:
    """Return a filter: ``filter=a=b,c=d``, or each key a parameter of its own (PS3.18 2019a 6.9.7)."""
    keys = list(_keys(request))
    wanted = Filter.of(keys, is_locking=is_locking)
    query = wanted.query
    is_whole = not query.unknown and query.uids is None and query.states == STATES
    unmatched = set(query.unsupported) - set(OF_CONVERSIONS_UNMATCHED)
    if not keys or not is_whole or unmatched:
        raise HTTPException(400, "filter must have keys other than UID and state, each of them matched")
    return wanted


def _keys(request: Request) -> Iterator[tuple[str, str]]:
    for name, text in request.query_params.multi_items():
        if name == "filter":
            for key in text.split(","):
                yield key.partition("=")[0], key.partition("=")[2]
        elif name not in ("accept", "charset", "deletionlock"):
            yield name, text


def _subscriptions(request: Request) -> Subscriptions:
    subscriptions: Subscriptions = request.app.state.subscriptions
    return subscriptions


def _subscriber(account: str, ae_title: str) -> Subscriber:
    """Return the subscriber of an account; spaces around an AE title do not count (PS3.5 6.2)."""
    is_valid = (
        ae_title.isascii() and ae_title.isprintable() and "\\" not in ae_title and 0 < len(ae_title.strip()) <= 16
    )
    if not is_valid:
        raise HTTPException(400, "an AE title has 1 to 16 characters of ASCII without a backslash (PS3.5 6.2)")
    return account, ae_title.strip()
