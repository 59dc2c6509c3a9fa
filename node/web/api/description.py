"""The OpenAPI document, for those who may use the API."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from node.web.access import Reader

router = APIRouter(include_in_schema=False)


@router.get("/api/v1/openapi.json")
def describe(request: Request, account: Reader) -> dict[str, Any]:
    """The OpenAPI document of REST and DICOMweb."""
    description: dict[str, Any] = request.app.openapi()
    return description
