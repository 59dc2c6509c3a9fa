"""Accounts of an identity provider, such as Keycloak or Entra ID, by OpenID Connect."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from node.api import Extension, lacking

if TYPE_CHECKING:
    from node.api import Settings


class _Oidc(Extension):
    """What `[web.oidc]` describes."""

    name = "oidc"

    def mistakes(self, settings: Settings) -> Iterator[str]:
        if settings.web.oidc.issuer:
            yield from lacking("web.oidc: issuer", "oidc")


EXTENSION = _Oidc()
