"""What the routes have of the node."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request

from node.archive.filesystem import Archive
from node.audit import Audit
from node.config import Settings
from node.index.database import Index
from node.ingest import Ingest
from node.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Services:
    """The parts of a running node; `actions` are those that commands have too (`node.app.Store.actions`)."""

    settings: Settings
    archive: Archive
    index: Index
    ingest: Ingest
    metrics: Metrics
    audit: Audit
    actions: Mapping[str, Callable[..., Mapping[str, Any]]]


def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


Node = Annotated[Services, Depends(_services)]
"""Parameter of a route: the node that it belongs to."""
