"""Accounts of an identity provider, such as Keycloak or Entra ID, by OpenID Connect."""

from __future__ import annotations

from node.hookspecs import Extension


class _Oidc(Extension):
    """What `[web.oidc]` describes."""

    name = "oidc"


EXTENSION = _Oidc()
