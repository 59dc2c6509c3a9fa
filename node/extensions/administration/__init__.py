"""Administration in the browser: accounts, one's own account, the configuration as it is, and the newest log lines."""

from __future__ import annotations

from node.hookspecs import Extension, MenuEntry, Parts, Router, Running


class _Administration(Extension):
    """Pages for administrators, and the page of one's own account."""

    name = "administration"
    routers = (Router("pages", f"{__name__}.pages:router"), Router("pages", f"{__name__}.own:router"))
    menu = (MenuEntry("/administration", "Administration"),)
    templates = __name__

    def run(self, node: Parts) -> Running:
        from node.logs import keep_newest

        keep_newest()
        return Running()


EXTENSION = _Administration()
