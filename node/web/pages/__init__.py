"""Pages: Jinja2 templates updated by htmx, one stylesheet, no build step, nothing from other sites."""

from __future__ import annotations

from fastapi import APIRouter

from node.web.pages import actions, files, operation, series, studies
from node.web.pages.assets import Assets
from node.web.pages.rendering import error_page, login_page

__all__ = ["Assets", "error_page", "login_page", "router"]

router = APIRouter(include_in_schema=False)
for part in (studies, series, files, actions, operation):
    router.include_router(part.router)
