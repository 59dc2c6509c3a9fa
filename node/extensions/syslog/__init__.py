"""A copy of the audit log at a syslog collector, by TLS, UDP or a local socket (PS3.15 A.6)."""

from __future__ import annotations

from node.api import Extension


class _Syslog(Extension):
    """What `[audit] syslog` names."""

    name = "syslog"


EXTENSION = _Syslog()
