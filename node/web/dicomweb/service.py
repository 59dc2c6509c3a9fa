"""The resources of DICOMweb as a whole."""

from __future__ import annotations

from starlette.routing import BaseRoute

from node.web.dicomweb import bulk_data, frames, metadata, qido, rendered, stow, wado, wado_uri
from node.web.dicomweb.transactions import Resource, resources

OFFERED: list[BaseRoute] = [
    route
    for part in (qido, stow, wado, metadata, bulk_data, frames, rendered, wado_uri)
    for route in part.router.routes
]
"""The routes of the Studies Service and the URI Service."""


def offered() -> list[Resource]:
    """Return the resources, for the capabilities and the conformance statement."""
    return list(resources(OFFERED))
