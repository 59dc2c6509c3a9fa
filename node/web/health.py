"""Health checks: ``/healthz`` tells whether the process answers, ``/readyz`` whether it, or the cluster, can work."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, get_args

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse, PlainTextResponse

from node.receive.readiness import reasons_not_ready
from node.settings.model import Role
from node.web.background_requests import background_request
from node.web.services import Node, Services

router = APIRouter(include_in_schema=False)

PATHS = ("/healthz", "/readyz")
"""Paths that are answered whatever else the server does."""

INDEX_SECONDS = 5.0
"""Longest wait for what the index knows of the cluster."""

ROLES: tuple[Role, ...] = get_args(Role)

_threads = ThreadPoolExecutor(1, thread_name_prefix="readiness")
"""The threads of other requests may all be taken."""

_readers = ThreadPoolExecutor(1, thread_name_prefix="cluster-readiness")
"""This one may wait for the index."""


@router.get("/healthz")
@background_request
async def healthz() -> PlainTextResponse:
    """Answer ``ok``."""
    return PlainTextResponse("ok\n")


@router.get("/readyz")
@background_request
async def readyz(node: Node, role: Role | None = None, scope: Literal["host", "cluster"] = "host") -> Response:
    """Answer 200 if instances are accepted and converted, else 503 with the reason of each part that is not ready.

    With `role`, look only at what this role needs; with ``scope=cluster``, ask whether any host can do it.

    No account is required: orchestrators have none, and the answer contains no secrets.
    """
    if scope == "cluster":
        content = await _answered(_readers, lambda: _of_cluster(node, role), INDEX_SECONDS)
    else:
        content = await _answered(_threads, lambda: _of_host(node, role), None)
    return JSONResponse(content, 200 if content["ready"] else 503)


async def _answered(
    threads: ThreadPoolExecutor, look: Callable[[], dict[str, Any]], seconds: float | None
) -> dict[str, Any]:
    try:
        return await asyncio.wait_for(asyncio.get_running_loop().run_in_executor(threads, look), seconds)
    except TimeoutError:
        return _content({"index": f"no answer within {seconds:g} s"})


def _content(reasons: dict[str, str], **more: Any) -> dict[str, Any]:
    return {"ready": not reasons, "reasons": reasons, **more}


def _of_host(node: Services, role: Role | None) -> dict[str, Any]:
    if role is not None and role not in node.settings.cluster.roles:
        return _content({"roles": f"this host does not {role} ([cluster] roles)"})
    return _content(reasons_not_ready(node.ingest, node.parts, role))


def _of_cluster(node: Services, role: Role | None) -> dict[str, Any]:
    """Return for which roles no living host is ready; that is this host if it has the index for itself."""
    if reason := reasons_not_ready(node.ingest, node.parts, "web"):
        return _content(reason)
    with node.index.reading(wait=False) as index:
        now = index.hosts.now()
        hosts, oldest = index.hosts.all(now), index.series.oldest_due(now)
    if not hosts:
        return _of_host(node, role)
    reasons: dict[str, str] = {}
    for each in (role,) if role is not None else ROLES:
        living = [host for host in hosts if host["state"] == "alive" and each in host["roles"]]
        unready = {host["name"]: host["not_ready"][each] for host in living if each in host["not_ready"]}
        if len(unready) == len(living):
            reasons[each] = "; ".join(f"{name}: {why}" for name, why in unready.items()) or "no living host"
    seconds = round((now - oldest).total_seconds(), 1) if oldest is not None else 0.0
    return _content(reasons, hosts={host["name"]: host["state"] for host in hosts}, oldest_due_seconds=seconds)
