"""UPS-RS: subscriptions to workitems, and the channel over which their changes are reported (PS3.18 8.10, 11.10)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import count
from time import monotonic
from urllib.parse import quote

import structlog
from fastapi import HTTPException, Request, Response, WebSocket
from starlette.concurrency import run_in_threadpool
from starlette.types import Message
from starlette.websockets import WebSocketDisconnect

from node.dicom.matching import Query
from node.dicom.metadata import encoded_model
from node.errors import VoxelnodeError
from node.index.read import ReadIndex
from node.index.read.workitems import Workitem, WorkitemChange, WorkitemCursor
from node.web.access import Reader, RequestAudit, address_of
from node.web.dicomweb.documents import warning_header
from node.web.dicomweb.resources import base_url
from node.web.dicomweb.routing import dicomweb_router
from node.web.dicomweb.subscriptions import Subscriber, Subscription, Subscriptions
from node.web.dicomweb.workitem_keys import STATES, read_keys
from node.web.dicomweb.workitem_model import state_report, workitem_uid
from node.web.dicomweb.workitems import workitem_with_uid
from node.web.services import Node, Services
from node.web.streams import POLL_SECONDS, STREAM_SECONDS, Streams

log = structlog.get_logger()
router = dicomweb_router()

WORKLIST, FILTERED_WORKLIST = "1.2.840.10008.5.1.4.34.5", "1.2.840.10008.5.1.4.34.5.1"
"""UIDs that stand for all workitems, and for those that match a filter (PS3.4 CC.2.3.1)."""

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
    if workitem == WORKLIST:
        subscriptions.subscribe_all(subscriber)
    elif workitem == FILTERED_WORKLIST:
        keys = [*_filter(request)]
        query = read_keys(keys)
        is_whole = not query.unknown and not query.unsupported and query.uids is None and query.states == STATES
        if not keys or not is_whole or not query.is_possible:
            raise HTTPException(400, "filter must have keys of patient, study or series, each of them matched")
        subscriptions.subscribe_matching(subscriber, query.series)
    elif workitem_with_uid(node, workitem) is not None:
        subscriptions.subscribe(subscriber, workitem)
    else:
        raise HTTPException(404, "there is no workitem with this UID")
    audit.queried(f"UPS-RS {request.url.path}?{request.url.query}"[:1000])
    channel = f"ws{base_url(request).removeprefix('http')}/subscribers/{quote(aetitle, safe='')}"
    warning = {"Warning": warning_header([NO_DELETION_LOCK])} if lock == "true" else {}
    return Response(status_code=201, headers={"Content-Location": channel} | warning)


@router.delete("/workitems/{workitem}/subscribers/{aetitle}")
def unsubscribe(request: Request, account: Reader, workitem: str, aetitle: str) -> Response:
    """End the subscription of an AE title to one workitem, or all its subscriptions."""
    subscriber, subscriptions = _subscriber(account.name, aetitle), _subscriptions(request)
    if workitem in (WORKLIST, FILTERED_WORKLIST):
        is_ended = subscriptions.unsubscribe_all(subscriber)
    else:
        is_ended = subscriptions.unsubscribe(subscriber, workitem)
    if not is_ended:
        raise HTTPException(404, "there is no such subscription; those of before a restart are gone")
    return Response(status_code=200)


@router.post(f"/workitems/{WORKLIST}/subscribers/{{aetitle}}/suspend")
def suspend(request: Request, account: Reader, node: Node, aetitle: str) -> Response:
    """Subscribe an AE title to no further workitems; those that exist are still reported."""
    with node.index.reading() as index:
        now = index.workitems.cursor()
    if not _subscriptions(request).suspend(_subscriber(account.name, aetitle), now):
        raise HTTPException(404, "there is no subscription to the worklist; those of before a restart are gone")
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
    title, numbers, began = node.settings.dicom.ae_title, count(1), monotonic()
    while not websocket.app.state.stopping.is_set() and monotonic() - began < STREAM_SECONDS:
        try:
            changes, after = await run_in_threadpool(_changes, node, subscriptions, subscriber, cursor)
        except VoxelnodeError as error:
            log.warning("channel_broken_off", reason=str(error))
            return INTERNAL_ERROR
        for change in changes:
            report = encoded_model(state_report(change, title, next(numbers) % MESSAGE_IDS)).decode()
            await asyncio.wait_for(websocket.send_text(report), SEND_SECONDS)
        has_more, cursor = after != cursor, after
        await asyncio.wait({heard}, timeout=0 if has_more else POLL_SECONDS)
        if heard.done():
            return None if heard.result()["type"] == "websocket.disconnect" else NOT_UNDERSTOOD
    return GOING_AWAY


def _newest(node: Services) -> WorkitemCursor:
    with node.index.reading() as index:
        return index.workitems.cursor()


def _changes(
    node: Services, subscriptions: Subscriptions, subscriber: Subscriber, after: WorkitemCursor
) -> tuple[list[WorkitemChange], WorkitemCursor]:
    """Return the changes that a subscriber wants; without a subscription, none is looked for."""
    subscription, title = subscriptions.of(subscriber), node.settings.dicom.ae_title
    if subscription is None:
        return [], _newest(node)
    named, subscription.initial = subscription.initial, []
    initial = [workitem for uid in named if (workitem := workitem_with_uid(node, uid)) is not None]
    with node.index.reading(wait=False) as index:
        changes, cursor = index.workitems.changes(after, MAX_CHANGES)
        wanted = [change for change in changes if _is_wanted(change.workitem, subscription, index, title)]
    return [*(WorkitemChange(workitem, workitem.state) for workitem in initial), *wanted], cursor


def _is_wanted(workitem: Workitem, subscription: Subscription, index: ReadIndex, ae_title: str) -> bool:
    def matches(query: Query) -> bool:
        return bool(index.workitems.of_series(workitem.series_id, query))

    return subscription.wants(workitem_uid(workitem, ae_title), workitem, matches)


def _filter(request: Request) -> Iterator[tuple[str, str]]:
    """Yield the keys of a filter: ``filter=a=b,c=d``, or each a parameter of its own (PS3.18 2019a 6.9.7)."""
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
