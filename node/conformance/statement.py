"""The complete statement, with the values of one configuration."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from node.conformance.document import as_json, as_markdown
from node.conformance.tables import tables_of, values_of
from node.settings.model import Settings


def statement(settings: Settings) -> str:
    """Return the statement as Markdown."""
    return as_markdown(_template(), values_of(settings), tables_of(settings))


def statement_for_programs(settings: Settings) -> dict[str, Any]:
    """Return the statement as JSON values; see `node.conformance.document.as_json`."""
    return as_json(_template(), values_of(settings), tables_of(settings))


def _template() -> str:
    return (files("node.conformance") / "template.md").read_text(encoding="utf-8")
