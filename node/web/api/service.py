"""The REST API as a whole."""

from __future__ import annotations

from node.web.api import (
    conflicts,
    description,
    events,
    peers,
    problems,
    quarantine,
    queue,
    resources,
    routes,
    volumes,
    work,
)

ROUTES = [
    route
    for part in (
        resources,
        volumes,
        queue,
        routes,
        work,
        conflicts,
        quarantine,
        peers,
        events,
        problems,
        description,
    )
    for route in part.router.routes
]
