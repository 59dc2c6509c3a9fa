"""The complete statement, with the values of one configuration."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from node.conformance.document import as_json, as_markdown
from node.conformance.tables import tables_of, values_of
from node.errors import UsageError
from node.registry import enabled, resolve
from node.settings.model import Settings


def statement(settings: Settings) -> str:
    """Return the statement as Markdown."""
    return as_markdown(template_of(settings), values_of(settings), tables_of(settings))


def statement_for_programs(settings: Settings) -> dict[str, Any]:
    """Return the statement as JSON values; see `node.conformance.document.as_json`."""
    return as_json(template_of(settings), values_of(settings), tables_of(settings))


NOT_SUPPORTED = "Not supported.\n"
"""The text of a section that no extension has filled."""


def template_of(settings: Settings) -> str:
    """Return the template, with the sections of the extensions that are on."""
    text = (files("node.conformance") / "template.md").read_text(encoding="utf-8")
    for extension in enabled(settings):
        for title, place in extension.statement.sections.items():
            before, found, after = text.partition(f"# {title}\n\n{NOT_SUPPORTED}")
            if not found:
                raise UsageError(f"the extension {extension.name}: no section {title!r} of the statement is left to it")
            text = f"{before}# {title}\n\n{resolve(place)}{after}"
    return text
