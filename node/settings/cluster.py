"""[index] and [cluster]: the database of the index, and this host among those that share it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from socket import gethostname
from typing import Literal
from urllib.parse import parse_qsl

from pydantic import Field

from node.settings.section import SettingsSection


class IndexSettings(SettingsSection):
    """[index]: the database of the index."""

    url: str | None = Field(
        None,
        description='PostgreSQL, "postgresql://user@host/name" (extra `cluster`), without a password; unset: '
        "index.sqlite in the root.",
    )

    def _mistakes(self) -> Iterator[str]:
        if self.url is None:
            return
        if not self.url.startswith(("postgresql://", "postgresql+psycopg://")):
            yield "url must begin with postgresql:// or postgresql+psycopg://"
            return
        # By hand: `urlsplit` takes no list of hosts in which one is an IPv6 address.
        place, _, query = self.url.partition("://")[2].partition("?")
        user = place.partition("/")[0].rpartition("@")[0]
        parameters = [name for name, _ in parse_qsl(query, keep_blank_values=True)]
        if twice := sorted(name for name in set(parameters) if parameters.count(name) > 1):
            yield f"url has {', '.join(twice)} twice: several servers are postgresql://user@host1:port1,host2:port2/name"
        if ":" in user or any(name.endswith("password") for name in parameters):
            yield "url has a password, which this file and messages would show: use PGPASSWORD or a password file"


Role = Literal["receive", "convert", "web"]
HOST_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,62}")


class ClusterSettings(SettingsSection):
    """[cluster]: this host among those that share an index in PostgreSQL."""

    host: str | None = Field(
        None, description="Name of this host, unique in the index; unset: the name of the machine."
    )
    roles: tuple[Role, ...] = Field(
        ("receive", "convert", "web"),
        min_length=1,
        description="What this host does: DICOM, hooks, routes and retention; conversions; HTTP",
    )
    lease_seconds: float = Field(
        120.0, ge=4, le=3600, description="Time after which other hosts take over the work of a silent one."
    )
    announce_seconds: float = Field(
        0.0, ge=0, le=300, description="Time for which a stopping host still accepts associations, while /readyz fails."
    )
    finish_seconds: float = Field(
        10.0,
        ge=0,
        le=300,
        description="Time after that for open associations; then each ends after its current instance.",
    )

    @property
    def name(self) -> str:
        """The name of this host."""
        return self.host or gethostname()

    def _mistakes(self) -> Iterator[str]:
        if self.host is not None and HOST_NAME.fullmatch(self.host) is None:
            yield "host must have 1 to 63 letters, digits, dots and hyphens, and begin with a letter or a digit"
