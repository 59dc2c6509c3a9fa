"""The resources of DICOMweb as a whole."""

from __future__ import annotations

from starlette.routing import BaseRoute

from node.web.dicomweb import (
    bulk_data,
    frames,
    metadata,
    qido,
    rendered,
    stow,
    wado,
    wado_uri,
    workitems,
)
from node.web.dicomweb.resources import PREFIX
from node.web.dicomweb.transactions import Resource, resources

OFFERED: list[BaseRoute] = [
    route
    for part in (qido, stow, wado, metadata, bulk_data, frames, rendered, wado_uri, workitems)
    for route in part.router.routes
]
"""The routes of the Studies Service, the URI Service and the Worklist Service."""


def offered() -> list[Resource]:
    """Return the resources, for the capabilities and the conformance statement."""
    return list(resources(OFFERED))


def is_of_worklist(path: str) -> bool:
    """Return whether a path is a resource of the Worklist Service (PS3.18 11.1)."""
    return path.startswith(f"{PREFIX}/workitems")
