"""For whoever watches: ``/healthz``, whether the process answers; ``/readyz``, whether it can do its work."""

from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse, PlainTextResponse

from node.web.services import Node, Services

router = APIRouter(include_in_schema=False)


@router.get("/healthz")
async def healthz() -> PlainTextResponse:
    """The process answers."""
    return PlainTextResponse("ok\n")


@router.get("/readyz")
def readyz(node: Node) -> Response:
    """Whether instances may come in and will be converted; each part that says no says why. 503 if any does.

    Needs no account: an orchestrator has none, and nothing in it is secret.
    """
    reasons = {name: reason for name, reason in _reasons(node).items() if reason is not None}
    return JSONResponse({"ready": not reasons, "reasons": reasons}, 503 if reasons else 200)


def _reasons(node: Services) -> dict[str, str | None]:
    return {
        "index": None if node.index.is_alive else "the writer of the index has ended: start the node again",
        "intake": node.ingest.refusal(),
        **{
            name: None if is_well() else f"the {name} does not work: see the log"
            for name, is_well in node.parts.items()
        },
    }
