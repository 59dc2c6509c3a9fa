"""The section of the conformance statement on the copy of the audit log."""

from __future__ import annotations

from collections.abc import Mapping

from node.api import Settings, StatementTable, parameters
from node.extensions.syslog.settings import AuditSettings

KEYS = """\
`[audit]`:

[list audit_keys]
"""


def tables_of(settings: Settings) -> Mapping[str, StatementTable]:
    """Return the tables of the section by name."""
    return {"audit_keys": parameters(settings.table(AuditSettings))}
