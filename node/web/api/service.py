"""The REST API as a whole."""

from __future__ import annotations

from fastapi import APIRouter, Depends
from fastapi.security import HTTPBearer

from node.web.api import events, queue, resources, volumes
from node.web.problems import MEDIA_TYPE, Problem

_PROBLEM = {"content": {MEDIA_TYPE: {"schema": Problem.model_json_schema()}}}

_token = HTTPBearer(auto_error=False, description="A token of `voxelnode account token`, where one is needed.")
"""For the OpenAPI document alone: `node.web.access` looks at what a request shows."""

router = APIRouter(
    prefix="/api/v1",
    dependencies=[Depends(_token)],
    responses={
        400: {"description": "The request makes no sense; the detail says why", **_PROBLEM},
        401: {"description": "An account is needed", **_PROBLEM},
        403: {"description": "The account may not do this", **_PROBLEM},
        404: {"description": "There is no such thing", **_PROBLEM},
        422: {"description": "A parameter is wrong; the detail says which", **_PROBLEM},
        503: {"description": "Out of resources; try again in a while", **_PROBLEM},
    },
)
for part in (resources, volumes, queue, events):
    router.include_router(part.router)
