"""Administration in the browser, and accounts by command.

Accounts and one's own account; peers, routes, hooks and rules of retention, which are set here as well; the
configuration with where each value comes from; the newest changes and log lines.
"""

from node.association.added import Parts, Running
from node.hookspecs import Command, Extension, MenuEntry, Router


class _Administration(Extension):
    """Pages for administrators, and the page of one's own account, which REST has as well."""

    name = "administration"
    commands = (
        Command(
            "account", "Maintain", f"{__name__}.command:app", ("voxelnode account add doe", "voxelnode account list")
        ),
    )
    routers = (
        *(Router("rest", f"{__name__}.{place}") for place in ("accounts:account_router", "pages:hooks_router")),
        *(
            Router("pages", f"{__name__}.{place}")
            for place in ("accounts:others_router", "accounts:router", "pages:router")
        ),
    )
    actions = f"{__name__}.actions:actions"
    menu = (MenuEntry("/administration", "Administration"),)
    templates = __name__

    def run(self, node: Parts) -> Running:
        from node.runtime.logs import keep_newest

        keep_newest()
        return Running()


EXTENSION = _Administration()
