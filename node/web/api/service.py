"""The REST API as a whole."""

from __future__ import annotations

from node.web.api import events, queue, resources, volumes

ROUTES = [route for part in (resources, volumes, queue, events) for route in part.router.routes]
