"""Administration in the browser.

Accounts and one's own account; peers, routes, hooks and rules of retention, which are set here as well; the
configuration with where each value comes from; the newest changes and log lines.
"""

from __future__ import annotations

from collections.abc import Mapping

from node.hookspecs import Action, Extension, MenuEntry, OpenedRoot, Parts, Router, Running


class _Administration(Extension):
    """Pages for administrators, and the page of one's own account, which REST has as well."""

    name = "administration"
    routers = (
        *(Router("rest", f"{__name__}.{module}:router") for module in ("rest", "config_rest")),
        *(
            Router("pages", f"{__name__}.{module}:router")
            for module in ("pages", "own", "connections", "retention", "changes")
        ),
    )
    menu = (MenuEntry("/administration", "Administration"),)
    templates = __name__

    def actions(self, root: OpenedRoot) -> Mapping[str, Action]:
        from node.extensions.administration.hook_tests import HookTests

        return {"test-hook": HookTests(root).test_hook}

    def run(self, node: Parts) -> Running:
        from node.logs import keep_newest

        keep_newest()
        return Running()


EXTENSION = _Administration()
