"""Accounts of an identity provider, such as Keycloak or Entra ID, by OpenID Connect."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from node.api import Extension, Statement, Table, lacking

if TYPE_CHECKING:
    from node.api import Settings


class _Oidc(Extension):
    """What `[web.oidc]` describes."""

    name = "oidc"
    tables = (Table("web", f"{__name__}.settings:WebWithOidc"),)
    statement = Statement(words={"single_sign_on": "; `[web.oidc]` configures single sign-on"})

    def mistakes(self, settings: Settings) -> Iterator[str]:
        if is_used(settings):
            yield from lacking("web.oidc: issuer", "oidc")


def is_used(settings: Settings) -> bool:
    """Return whether the configuration names a provider."""
    from node.extensions.oidc.settings import WebWithOidc

    return bool(settings.table(WebWithOidc).oidc.issuer)


EXTENSION = _Oidc()
