"""The router that each module of DICOMweb has."""

from __future__ import annotations

from fastapi import APIRouter

from node.web.dicomweb.resources import PREFIX


def dicomweb_router() -> APIRouter:
    """Return a router. PS3.18 describes its routes, not our OpenAPI document. See `node.web.api.routing`."""
    return APIRouter(prefix=PREFIX, include_in_schema=False)
