"""Generate the commented example configuration from the model: each key with its description and default."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from node.settings.model import Settings

INTRODUCTION = """\
# voxelnode: every key of the configuration, with its default.
#
# Lines that begin with "#key =" show defaults; remove the "#" to change one.
# Precedence: flags, environment (VOXELNODE_SECTION__KEY, lists as JSON), this file, defaults.
# `voxelnode config check` finds mistakes; `voxelnode config show` prints each value and its origin.
"""
SAMPLE_NAMES = {
    "peers": "CT1",
    "hooks": "pipeline",
    "deidentify": "trial",
    "destinations": "CLOUD",
    "routes": "research",
}


def example_toml() -> str:
    """Return the text of ``config.example.toml``: valid TOML with defaults only."""
    sections = [text for name, field in Settings.model_fields.items() for text in _sections(name, field)]
    return "\n".join([INTRODUCTION, *sections])


def _sections(name: str, field: FieldInfo) -> list[str]:
    """Return the text of a table and of the tables within it."""
    inner = [
        text
        for key, item in getattr(field.annotation, "model_fields", {}).items()
        if _is_table(item)
        for text in _sections(f"{name}.{key}", item)
    ]
    return [_section(name, field), *inner]


def _is_table(field: FieldInfo) -> bool:
    return isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)


def _section(name: str, field: FieldInfo) -> str:
    if get_origin(field.annotation) is dict:  # tables with user-chosen names: [peers.CT1]
        model = get_args(field.annotation)[1]
        header = f"#[{name}.{SAMPLE_NAMES[name]}]"
    else:
        model = field.annotation
        header = f"[{name}]"
    purpose = (model.__doc__ or "").partition(": ")[2].strip()
    lines = [f"# {purpose[0].upper()}{purpose[1:]}", header]
    for key, item in model.model_fields.items():
        lines += [] if _is_table(item) or item.exclude else _key(key, item)
    return "\n".join(lines) + "\n"


def _key(key: str, field: FieldInfo) -> list[str]:
    about = f"{field.description}{' (required)' * field.is_required()}"
    lines = textwrap.wrap(about, 118, break_long_words=False, break_on_hyphens=False)
    if choices := _choices(field.annotation):
        lines.append("choices: " + ", ".join(as_toml(choice) for choice in choices))
    default = field.examples[0] if field.examples else field.get_default(call_default_factory=True)
    unset = default is None or default is PydanticUndefined
    return [*(f"# {line}" for line in lines), f"#{key} =" if unset else f"#{key} = {as_toml(default)}"]


def _choices(annotation: Any) -> tuple[Any, ...]:
    """Return the choices of a literal or of the items of a list; the description gives all other ranges."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    if get_origin(annotation) is tuple:
        return _choices(get_args(annotation)[0])
    return ()


def as_toml(value: Any) -> str:
    """Return `value` in TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return f"{value:_}" if isinstance(value, int) and value >= 1_000_000 else f"{value:g}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(as_toml(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {as_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, BaseModel):
        return as_toml(value.model_dump())
    return json.dumps(str(value) if isinstance(value, Path) else value, ensure_ascii=False)
