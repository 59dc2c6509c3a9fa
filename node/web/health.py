"""Health checks: ``/healthz`` tells whether the process answers, ``/readyz`` whether it can work."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse, PlainTextResponse

from node.receive.readiness import reasons_not_ready
from node.web.services import Node

router = APIRouter(include_in_schema=False)

PATHS = ("/healthz", "/readyz")
"""Paths that are answered whatever else the server does."""

_threads = ThreadPoolExecutor(1, thread_name_prefix="readiness")
"""The threads of other requests may all be taken."""


@router.get("/healthz")
async def healthz() -> PlainTextResponse:
    """Answer ``ok``."""
    return PlainTextResponse("ok\n")


@router.get("/readyz")
async def readyz(node: Node) -> Response:
    """Answer 200 if instances are accepted and converted, else 503 with the reason of each part that is not ready.

    No account is required: orchestrators have none, and the answer contains no secrets.
    """
    loop = asyncio.get_running_loop()
    reasons = await loop.run_in_executor(_threads, reasons_not_ready, node.ingest, node.parts)
    return JSONResponse({"ready": not reasons, "reasons": reasons}, 503 if reasons else 200)
