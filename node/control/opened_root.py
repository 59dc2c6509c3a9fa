"""What the actions of extensions are given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from node.audit.audit_log import Audit
    from node.receive.ingest import Ingest
    from node.settings.model import Settings


@dataclass(frozen=True, slots=True)
class OpenedRoot:
    """The parts of an opened root, which a node has, and a command where none runs."""

    settings: Settings
    ingest: Ingest
    audit: Audit
