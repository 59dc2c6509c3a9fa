"""[web]: the listener for HTTP, and who may use it."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, StringConstraints

from node.addresses import is_loopback
from node.settings.section import Host, SettingsSection


class Oidc(SettingsSection):
    """[web.oidc]: accounts of an identity provider such as Keycloak or Entra ID, by OpenID Connect."""

    issuer: str = Field("", description="Address of the provider, https://...; empty: only accounts of the node.")
    client_id: str = Field("", description="Name of this node at the provider.")
    client_secret_file: Path | None = Field(
        None, description="File with the secret of client_id; unset: a public client, with PKCE only."
    )
    ca_file: Path | None = Field(None, description="PEM file of another CA for the provider's certificate.")
    scopes: tuple[str, ...] = Field(("openid", "profile"), description="Scopes to request; openid must be among them.")
    name_claim: str = Field(
        "sub",
        min_length=1,
        description="Claim that names the account, as oidc:NAME; it must be one that users cannot change.",
    )
    role_claim: str = Field(
        "roles", min_length=1, description="Claim with the roles or groups of a user, such as realm_access.roles."
    )
    read: tuple[str, ...] = Field((), description="Values of role_claim that grant the role read.")
    write: tuple[str, ...] = Field((), description="Values of role_claim that grant the role write.")
    admin: tuple[str, ...] = Field((), description="Values of role_claim that grant the role admin.")
    allowed: tuple[str, ...] = Field(
        (), description="Accounts (name_claim) that may sign in; empty: everyone with a role."
    )
    audience: str = Field(
        "",
        description="Audience of access tokens that REST and DICOMweb accept as Bearer; empty: none.",
    )

    def _mistakes(self) -> Iterator[str]:
        if not self.issuer:
            return
        parts = urlsplit(self.issuer)
        if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(parts.hostname or "")):
            yield "issuer must begin with https://, unless the provider is on this machine"
        if not parts.hostname or parts.query or parts.fragment or parts.username:
            yield "issuer must be an address without query, fragment or user name"
        if not self.client_id:
            yield "issuer requires client_id"
        if self.audience == self.client_id:
            yield "audience must differ from client_id, the audience of ID tokens: those grant no access"
        if "openid" not in self.scopes:
            yield 'scopes must contain "openid"'
        if not (self.read or self.write or self.admin):
            yield "read, write or admin must name a value of role_claim, or nobody could sign in"


class Web(SettingsSection):
    """[web]: pages, REST and DICOMweb over HTTP."""

    enabled: bool = Field(True, description="Serve HTTP.")
    host: Host = Field("127.0.0.1", description="Address to listen on; beyond this machine, requests need an account.")
    port: int = Field(8080, ge=0, le=65535, description="TCP port; 0: any free port.")
    authentication: Literal["auto", "always", "never"] = Field(
        "auto",
        description="Whether requests need an account; auto: unless only this machine can reach the node",
    )
    allowed_hosts: tuple[str, ...] = Field(
        (),
        description='Host names by which clients reach the node, such as ["pacs.example.org"], beside addresses.',
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
    oidc: Oidc = Field(Oidc(), description="Accounts of an identity provider.")

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach us, judging by the configuration."""
        return is_loopback(self.host) and not self.trusted_proxies

    @property
    def needs_account(self) -> bool:
        """Whether requests need an account."""
        return self.authentication == "always" or (self.authentication == "auto" and not self.is_local)
