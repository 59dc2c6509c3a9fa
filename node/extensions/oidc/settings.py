"""[web.oidc]: the identity provider."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import Field

from node.api import SettingsSection, Web, is_loopback


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
    allowed: tuple[str, ...] | None = Field(
        None, description="Accounts (name_claim) that may sign in; unset: everyone with a role."
    )
    audience: str = Field(
        "", description="Audience of access tokens that REST and DICOMweb accept as Bearer; empty: none."
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


class WebWithOidc(Web):
    """[web]: pages, REST and DICOMweb over HTTP."""

    oidc: Oidc = Field(Oidc(), description="Accounts of an identity provider.")
