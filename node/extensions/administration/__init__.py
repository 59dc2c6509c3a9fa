"""Administration in the browser.

Accounts and one's own account; peers and routes, which are added here as well; hooks and retention, as the
configuration has them, with what may be done about each; the configuration with where each value comes from; the newest
changes and log lines.
"""

from __future__ import annotations

from collections.abc import Mapping

from node.hookspecs import Action, Extension, MenuEntry, OpenedRoot, Parts, Router, Running


class _Administration(Extension):
    """Pages for administrators, and the page of one's own account, which REST has as well."""

    name = "administration"
    routers = (
        Router("rest", f"{__name__}.rest:router"),
        Router("rest", f"{__name__}.route_rest:router"),
        *(
            Router("pages", f"{__name__}.{module}:router")
            for module in ("pages", "own", "connections", "route_forms", "retention", "changes")
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
