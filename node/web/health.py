"""Health checks: ``/healthz`` tells whether the process answers, ``/readyz`` whether it can work."""

from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse, PlainTextResponse

from node.web.services import Node, Services

MAX_LAG_SECONDS = 60.0
"""Longer than that, received instances are not found by queries and not converted: somebody should look."""

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
    reasons = {name: reason for name, reason in _reasons(node).items() if reason is not None}
    return JSONResponse({"ready": not reasons, "reasons": reasons}, 503 if reasons else 200)


def _reasons(node: Services) -> dict[str, str | None]:
    return {
        "index": None if node.index.is_alive else "the writer of the index has stopped: restart the node",
        "intake": node.ingest.refusal(),
        "journal": _lag(node),
        **{name: None if is_well() else f"the {name} has stopped: see the log" for name, is_well in node.parts.items()},
    }


def _lag(node: Services) -> str | None:
    applier = node.ingest.applier
    seconds = applier.lag_seconds
    if seconds <= MAX_LAG_SECONDS:
        return None
    return (
        f"{applier.lag} received instances have not been in the index for {seconds:.0f} s: they are safe in the "
        "journal; look for a program that locks index.sqlite, for room on the disk, and at the log"
    )
