"""The resources of DICOMweb as a whole."""

from __future__ import annotations

from starlette.routing import BaseRoute

from node.registry import enabled, resolve
from node.settings.model import Settings
from node.web.dicomweb import bulk_data, frames, metadata, qido, rendered, stow, wado, wado_uri
from node.web.dicomweb.transactions import TRANSACTIONS, Resource, resources

OFFERED: list[BaseRoute] = [
    route
    for part in (qido, stow, wado, metadata, bulk_data, frames, rendered, wado_uri)
    for route in part.router.routes
]
"""The routes of the Studies Service and the URI Service."""


def offered(settings: Settings) -> list[Resource]:
    """Return the resources, for the capabilities and the conformance statement; those of extensions are last."""
    found = list(resources(OFFERED, TRANSACTIONS))
    for extension in enabled(settings):
        for router in extension.routers:
            if router.kind == "dicomweb":
                found += resources(resolve(router.place).routes, resolve(router.transactions))
    return found
