"""Administration in the browser.

Accounts and one's own account; peers, routes and hooks, which are added here as well; the rules of retention, some of
which are set here; the configuration with where each value comes from; the newest changes and log lines.
"""

from __future__ import annotations

from collections.abc import Mapping

from node.hookspecs import Action, Extension, MenuEntry, OpenedRoot, Parts, Router, Running


class _Administration(Extension):
    """Pages for administrators, and the page of one's own account, which REST has as well."""

    name = "administration"
    routers = (
        *(
            Router("rest", f"{__name__}.{module}:router")
            for module in ("rest", "route_rest", "hook_rest", "retention_rest")
        ),
        *(
            Router("pages", f"{__name__}.{module}:router")
            for module in ("pages", "own", "connections", "route_forms", "hook_forms", "retention", "changes")
        ),
    )
    menu = (MenuEntry("/administration", "Administration"),)
    templates = __name__

    def actions(self, root: OpenedRoot) -> Mapping[str, Action]:
        from node.extensions.administration.additions import actions

        return actions(root)

    def run(self, node: Parts) -> Running:
        from node.logs import keep_newest

        keep_newest()
        return Running()


EXTENSION = _Administration()
