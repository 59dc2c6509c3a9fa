"""Security keys and passkeys (WebAuthn) as a second factor of accounts, beside the codes of an app."""

from __future__ import annotations

from collections.abc import Mapping

from node.hookspecs import Action, Extension, OpenedRoot, Router, SecondFactor


class _Passkeys(Extension):
    """Keys on the page of one's own account and where a second factor is asked for."""

    name = "passkeys"
    routers = (Router("pages", f"{__name__}.pages:router"),)
    factors = (SecondFactor("keys_asked.html", "keys_own.html", f"{__name__}.pages:shown"),)
    templates = __name__

    def actions(self, root: OpenedRoot) -> Mapping[str, Action]:
        from node.extensions.passkeys.actions import actions

        return actions(root)


EXTENSION = _Passkeys()
