"""Selectors in the configuration (docs/select.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator

from node.errors import UsageError
from node.selector import compile_selector


def _compilable(where: Any) -> Any:
    """Return the text or the table of a selector, or raise ValueError if it cannot be compiled."""
    if isinstance(where, str | Mapping):
        try:
            compile_selector(where)
        except UsageError as error:
            raise ValueError(str(error)) from error
    return where


Where = Annotated[str | dict[str, Any], BeforeValidator(_compilable)]
"""A selector: an expression or a table (docs/select.md)."""
