"""The router that each module of the REST API has: its prefix, and the OpenAPI description that all routes share."""

from __future__ import annotations

from fastapi import APIRouter, Depends
from fastapi.security import HTTPBearer

from node.web.problems import MEDIA_TYPE, Problem

_PROBLEM = {"content": {MEDIA_TYPE: {"schema": Problem.model_json_schema()}}}

_token = HTTPBearer(auto_error=False, description="A token from `voxelnode account token`, if accounts are required.")
"""For the OpenAPI document only; `node.web.access` checks credentials."""


def api_router(*tags: str) -> APIRouter:
    """Return a router for routes with `tags`.

    It has the whole prefix itself: FastAPI resolves the dependencies of a route again when a router includes another.
    """
    return APIRouter(
        prefix="/api/v1",
        tags=[*tags],
        dependencies=[Depends(_token)],
        responses={
            400: {"description": "The request is malformed; see detail", **_PROBLEM},
            401: {"description": "An account is required", **_PROBLEM},
            403: {"description": "The account may not do this", **_PROBLEM},
            404: {"description": "Not found", **_PROBLEM},
            409: {"description": "Its state does not allow it; see detail", **_PROBLEM},
            422: {"description": "A parameter is invalid; see detail", **_PROBLEM},
            503: {"description": "Out of resources; try again later", **_PROBLEM},
        },
    )
