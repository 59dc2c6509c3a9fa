"""A copy of the audit log at a syslog collector, by TLS, UDP or a local socket (PS3.15 A.6)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from node.api import Extension, Statement, Table

if TYPE_CHECKING:
    from node.api import Settings


class _Syslog(Extension):
    """What `[audit] syslog` names."""

    name = "syslog"
    tables = (Table("audit", f"{__name__}.settings:AuditSettings"),)
    statement = Statement(
        {"Configuration of Audit Trail": f"{__name__}.settings:KEYS"},
        f"{__name__}.settings:tables_of",
        {
            "audit_copies": ', and sent by\nsyslog, as JSON or, with `syslog_format = "dicom"`, as XML of PS3.15 A.5.1',
            "audit_collector": " They are also sent to `[audit] syslog`, by TLS (RFC 5425), UDP or a\nlocal socket.",
        },
    )


def is_used(settings: Settings) -> bool:
    """Return whether the configuration names a collector."""
    from node.extensions.syslog.settings import AuditSettings

    return settings.table(AuditSettings).syslog is not None


EXTENSION = _Syslog()
