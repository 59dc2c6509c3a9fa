"""Who somebody is, as an identity provider says; see `node.web.identity_provider`."""

from __future__ import annotations

from dataclasses import dataclass

from node.index.accounts import Role

PREFIX = "oidc:"
"""Begins the names of accounts of the provider. Our own have no colon (`credentials.require_name`)."""


@dataclass(frozen=True, slots=True)
class FederatedIdentity:
    """The name of an account, which begins with `PREFIX`, and the role that the provider gives it; None: no access."""

    name: str
    role: Role | None
