"""Pages: Jinja2 templates updated by htmx, one stylesheet, no build step, nothing from other sites."""

from node.hookspecs import Extension, MenuEntry, Router

PARTS = ("login", "studies", "series", "files", "actions", "operation", "problems", "assets")


class _Pages(Extension):
    """What people see in browsers."""

    name = "pages"
    routers = tuple(Router("pages", f"{__name__}.{part}:router") for part in PARTS)
    actions = f"{__name__}.recalled:actions"
    menu = (
        MenuEntry("/", "Studies", key="s", for_members=True),
        MenuEntry("/queue", "Queue", badge="open", key="q"),
        MenuEntry("/problems", "Problems", badge="wrong", key="p"),
        MenuEntry("/routes", "Routes", key="r"),
        MenuEntry("/work", "Work", key="j"),
        MenuEntry("/upload", "Upload", key="u"),
        MenuEntry("/status", "Status", key="t"),
    )
    templates = __name__


EXTENSION = _Pages()
