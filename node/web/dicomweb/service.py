"""The resources of DICOMweb in one router."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.routing import APIRoute

from node.web.dicomweb import frames, metadata, qido, rendered, stow, wado, wado_uri
from node.web.dicomweb.resources import PREFIX

router = APIRouter(prefix=PREFIX, include_in_schema=False)  # described by PS3.18, not by our OpenAPI document
RESOURCES = (qido, stow, wado, metadata, frames, rendered, wado_uri)
for resource in RESOURCES:
    router.include_router(resource.router)


def described() -> list[tuple[str, str, str]]:
    """Return methods, path and purpose of every resource, for the conformance statement."""
    return [
        (
            ", ".join(sorted(route.methods or ())),
            f"{PREFIX}{route.path}",
            (route.endpoint.__doc__ or "").partition("\n")[0],
        )
        for resource in RESOURCES
        for route in resource.router.routes
        if isinstance(route, APIRoute)
    ]
