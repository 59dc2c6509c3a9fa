"""The identity of a user according to an identity provider; see `node.web.identity_provider`."""

from __future__ import annotations

from dataclasses import dataclass

from node.index.nouns.accounts import Role

SIGN_IN_SECONDS = 600
"""Time limit of a sign-in at the provider."""

PREFIX = "oidc:"
"""Prefix of account names from the provider. Our own names have no colon (`credentials.require_name`)."""


@dataclass(frozen=True, slots=True)
class FederatedIdentity:
    """The name of an account, with `PREFIX`, and its role according to the provider; None: no access."""

    name: str
    role: Role | None
