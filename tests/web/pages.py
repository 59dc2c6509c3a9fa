"""A browser that looks at the pages of a served root, and notices what a person would not."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Playwright, expect

CHROMIUM = "/usr/bin/chromium-headless-shell"
ARGUMENTS = [
    "--no-sandbox",
    "--renderer-process-limit=1",
    "--process-per-site",
    "--in-process-gpu",
    "--disable-gpu",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--disable-background-networking",
]
SECONDS = 40
"""Longest wait for anything: a volume is rendered by the processor here, beside other tests."""

WIDE, TABLET, NARROW = ({"width": wide, "height": high} for wide, high in ((1440, 900), (1024, 768), (390, 844)))


def start_browser(playwright: Playwright) -> Iterator[Browser]:
    """Chromium without windows, where it is installed: it starts and draws with less work than the whole browser."""
    if not Path(CHROMIUM).exists():
        pytest.skip("chromium-headless-shell is not installed")
    expect.set_options(timeout=SECONDS * 1000)
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
    yield browser
    browser.close()


@dataclass
class Visitor:
    """Somebody who looks at a node, and what their browser complained about."""

    browser: Browser
    url: str
    complaints: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    _expected: set[int] = field(default_factory=set)
    _contexts: list[Any] = field(default_factory=list)

    def open(self, path: str = "/", scheme: str = "light", size: dict[str, int] | None = None, **options: Any) -> Page:
        """A new window at a path of the node."""
        context = self.browser.new_context(
            viewport=size or WIDE, color_scheme=scheme, base_url=self.url, reduced_motion="reduce", **options
        )
        context.set_default_timeout(SECONDS * 1000)
        self._contexts.append(context)
        page = context.new_page()
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.complaints.append(f"error of a script: {error}"))
        page.on("dialog", self._dialog)
        page.on("request", lambda request: self.asked.append(request.url))
        page.goto(path)
        return page

    def expect_answer(self, status: int) -> None:
        """Have one complaint or more about answers with a status, which are none then."""
        self._expected.add(status)

    def close(self) -> None:
        """Close all windows, and let go of the complaints that were expected."""
        while self._contexts:
            self._contexts.pop().close()
        while self._expected:
            status = self._expected.pop()
            others = [one for one in self.complaints if not re.search(rf"\b{status}\b", one)]
            assert others != self.complaints, f"no answer with {status}"
            self.complaints = others

    def _console(self, message: ConsoleMessage) -> None:
        # A search in the place of an unanswered one is no fault, but htmx reports both events that end a request so.
        if message.type == "error" and not message.text.startswith(("htmx:sendAbort,", "htmx:afterRequest,")):
            self.complaints.append(f"{message.text} ({message.location.get('url', '')})")

    def _dialog(self, dialog: Any) -> None:
        self.complaints.append(f"a dialog: {dialog.message}")
        dialog.dismiss()


OF_COLOURS = ("color-contrast", "link-in-text-block")
"""Rules of axe whose verdict changes with the colour scheme."""


def accessibility_faults(page: Page, *rules: str) -> list[str]:
    """What axe finds that is serious or worse, by all of its rules unless some are named."""
    covers = page.locator("details.popover[open]").count() > 0  # which lie over what is small then
    options: dict[str, Any] = {"resultTypes": ["violations"], "rules": {"target-size": {"enabled": not covers}}}
    if rules:
        options["runOnly"] = list(rules)
    violations = Axe().run(page, options=options).response["violations"]
    return [
        f"{one['id']}: {one['help']}: {[node['html'][:160] for node in one['nodes']][:3]}"
        for one in violations
        if one["impact"] in ("serious", "critical")
    ]


CUT = """() => [...document.querySelectorAll("body *")].filter((one) => one.checkVisibility() && !one.closest(".unseen")
    && getComputedStyle(one).overflowX !== "visible" && one.scrollWidth > one.clientWidth + 1 && one.innerText?.trim()
    && (innerWidth > 640 || !one.matches(".scroll, .rail, pre")) && !one.matches("select, input"))
    .map((one) => `${one.className}: ${one.innerText.trim().slice(0, 40)}`)"""


def cut_texts(page: Page) -> list[str]:
    """Return what is cut off at the width of the window, or pushed sideways; on a telephone, tables and strips are."""
    found: list[str] = page.evaluate(CUT)
    return found


def is_wider_than_window(page: Page) -> bool:
    """Whether the page has to be pushed sideways as a whole."""
    return bool(page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"))


def greys(element: Locator) -> np.ndarray[Any, Any]:
    """What an element looks like, (rows, columns)."""
    return np.asarray(Image.open(BytesIO(element.screenshot())).convert("L"), dtype=float)
