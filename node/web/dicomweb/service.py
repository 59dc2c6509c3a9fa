"""The resources of DICOMweb as a whole."""

from __future__ import annotations

from fastapi.routing import APIRoute

from node.web.dicomweb import bulk_data, frames, metadata, qido, rendered, stow, wado, wado_uri

ROUTES = [
    route
    for part in (qido, stow, wado, metadata, bulk_data, frames, rendered, wado_uri)
    for route in part.router.routes
]


def described() -> list[tuple[str, str, str]]:
    """Return methods, path and purpose of every resource, for the conformance statement."""
    return [
        (", ".join(sorted(route.methods or ())), route.path, (route.endpoint.__doc__ or "").partition("\n")[0])
        for route in ROUTES
        if isinstance(route, APIRoute)
    ]
