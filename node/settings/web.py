"""[web]: the listener for HTTP, and who may use it."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from node.addresses import is_loopback
from node.settings.section import Host, SettingsSection


class Web(SettingsSection):
    """[web]: pages, REST and DICOMweb over HTTP."""

    enabled: bool = Field(True, description="Serve HTTP.")
    host: Host = Field("127.0.0.1", description="Address to listen on; beyond this machine, requests need an account.")
    port: int = Field(8080, ge=0, le=65535, description="TCP port; 0: any free port.")
    authentication: Literal["auto", "always", "never"] = Field(
        "auto", description="Whether requests need an account; auto: unless only this machine can reach the node"
    )
    allowed_hosts: tuple[str, ...] = Field(
        (), description='Host names by which clients reach the node, such as ["pacs.example.org"], beside addresses.'
    )
    public_url: Annotated[str, StringConstraints(pattern=r"^(https?://[^/?#@\s]+(/[^?#\s]*[^/?#\s])?)?$")] = Field(
        "",
        description='Start of every URL that is handed out, such as "https://pacs.example.org"; unset: that of the '
        "request.",
    )
    cors_origins: tuple[Annotated[str, StringConstraints(pattern=r"^https?://[^/*]+$")], ...] = Field(
        (),
        description="Other web sites whose scripts may send requests with a token, such as "
        '["https://viewer.example.org"].',
    )
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = Field(
        (),
        description='Reverse proxies whose X-Forwarded-For and X-Forwarded-Proto are trusted, such as ["127.0.0.1"].',
    )
    second_factor: Literal["", "admin", "all"] = Field(
        "",
        description="whose passwords need a second factor (authenticator app): administrators or all; empty: those "
        "who have set one up",
    )
    session_hours: float = Field(12, gt=0, le=720, description="Hours without a request after which a login ends.")
    tls_certificate: Path | None = Field(
        None, description="PEM file of the certificate chain; if set, only HTTPS is served."
    )
    tls_key: Path | None = Field(
        None, description="PEM file of its private key; unset: in the file of the certificate."
    )
    hook_networks: tuple[IPv4Network | IPv6Network, ...] = Field(
        (),
        description="addresses of this machine, or of its link (127.0.0.0/8, 169.254.0.0/16, ...), that hooks and "
        'peers which administrators add may have, such as ["127.0.0.1"]; those of the configuration may have any',
    )

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach us, judging by the configuration."""
        return is_loopback(self.host) and not self.trusted_proxies

    @property
    def needs_account(self) -> bool:
        """Whether requests need an account."""
        return self.authentication == "always" or (self.authentication == "auto" and not self.is_local)
