"""[audit]: the copy of the audit log."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field

from node.api import Settings, SettingsSection, StatementTable, parameters


class AuditSettings(SettingsSection):
    """[audit]: the record of who stored, read, changed and deleted what, audit.jsonl in the root; it names patients."""

    syslog: str | None = Field(
        None,
        description="Collector of a copy of each line: tls://HOST:PORT, HOST:PORT (UDP), or a socket such as /dev/log.",
    )
    syslog_format: Literal["json", "dicom"] = Field(
        "json", description="Format of the copy: the line itself, or XML of PS3.15 A.5 (IHE ATNA)"
    )
    syslog_ca_file: Path | None = Field(
        None, description="PEM file of the CAs for the collector's certificate; unset: those of the system."
    )
    syslog_certificate: Path | None = Field(
        None, description="PEM file of a client certificate, if the collector requires one."
    )
    syslog_key: Path | None = Field(
        None, description="PEM file of its private key; unset: in the file of the certificate."
    )


KEYS = """\
`[audit]`:

[list audit_keys]
"""


def tables_of(settings: Settings) -> Mapping[str, StatementTable]:
    """Return the tables of the section by name."""
    return {"audit_keys": parameters(settings.table(AuditSettings))}
