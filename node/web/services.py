"""The parts of the node used by routes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import Depends
from starlette.requests import HTTPConnection

from node.archive.filesystem import Archive
from node.audit.audit_log import Audit
from node.children.decoder import Decoder
from node.index.database.index import Index
from node.index.nouns.records import Refused
from node.receive.ingest import Ingest
from node.receive.results import Results
from node.receive.stored_files import RecentlyVerified
from node.runtime.metrics import Metrics
from node.settings.model import Settings


@dataclass(frozen=True, slots=True)
class Services:
    """The parts of a running node; `actions` are those of `node.control.actions.Actions`."""

    settings: Settings
    archive: Archive
    index: Index
    ingest: Ingest
    metrics: Metrics
    audit: Audit
    actions: Mapping[str, Callable[..., Mapping[str, Any]]]
    decoder: Decoder
    results: Results
    verified: RecentlyVerified = field(default_factory=RecentlyVerified)
    parts: Mapping[str, Callable[[], str | None]] = field(default_factory=dict)
    """What is wrong with the other parts that must work for the node to be ready, by name; None: nothing."""
    dicom_port: Callable[[], int] | None = None
    """The port on which DICOM is received, which is only known once the node listens; None: that of the settings."""
    on_refusal: Callable[[Refused], None] = lambda refused: None
    """Called with each refused instance (see `node.receive.refusals`)."""


def _services(request: HTTPConnection) -> Services:
    services: Services = request.app.state.services
    return services


Node = Annotated[Services, Depends(_services)]
"""Parameter of a route: the node."""
