"""Health checks: ``/healthz`` tells whether the process answers, ``/readyz`` whether it can work."""

from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse, PlainTextResponse

from node.receive.readiness import reasons_not_ready
from node.web.services import Node

router = APIRouter(include_in_schema=False)


@router.get("/healthz")
async def healthz() -> PlainTextResponse:
    """Answer ``ok``."""
    return PlainTextResponse("ok\n")


@router.get("/readyz")
def readyz(node: Node) -> Response:
    """Answer 200 if instances are accepted and converted, else 503 with the reason of each part that is not ready.

    No account is required: orchestrators have none, and the answer contains no secrets.
    """
    reasons = reasons_not_ready(node.ingest, node.parts)
    return JSONResponse({"ready": not reasons, "reasons": reasons}, 503 if reasons else 200)
