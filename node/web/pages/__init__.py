"""Pages: Jinja2 templates updated by htmx, one stylesheet, no build step, nothing from other sites."""

from __future__ import annotations

from node.web.pages import actions, files, operation, peers, problems, series, studies, work
from node.web.pages.assets import Assets
from node.web.pages.rendering import error_page, login_page

__all__ = ["ROUTES", "Assets", "error_page", "login_page"]

PARTS = (studies, series, files, actions, operation, peers, problems, work)

ROUTES = [route for part in PARTS for route in part.router.routes]
