"""Make the commented example of the configuration from the model: the keys that people set, by task."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from node.registry import KIND_TABLES, installed, resolve, sections_of
from node.settings.model import OF_CORE, Settings
from node.settings.section import table_of

INTRODUCTION = """\
# voxelnode: the keys that people set, with their defaults. docs/configuration.md has all.
#
# Remove the "#" before a key to set it, and before a table with a name, such as [peers.CT1].
# `voxelnode config check` finds mistakes; `voxelnode config show` prints each value and its origin.
"""

TASKS: Mapping[str, Mapping[str, str]] = {
    "Where images and volumes are": {
        "storage": "root reserve_bytes overwrite_policy names url",
        "index": "url",
        "cluster": "host roles",
    },
    "Receive from scanners and archives, and let them query": {
        "dicom": "ae_title host port tls_port tls_certificate tls_key tls_client_ca",
        "peers": "ae_title networks host port may",
        "worklist": "folder hl7_port hl7_networks",
    },
    "Make volumes": {
        "series": "quiet_seconds quiet_seconds_by_calling_ae_title",
        "convert": "formats compress thumbnails suv workers",
    },
    "Give volumes to programs": {"hooks": "kind on url where results"},
    "Send instances on, without identities if you like": {
        "destinations": "kind url token_file",
        "routes": "when where to confirm deidentify",
        "deidentify": "key retain clean",
    },
    "Pages, REST and DICOMweb, and who may use them": {
        "web": "host port authentication public_url trusted_proxies tls_certificate tls_key",
        "web.oidc": "issuer client_id client_secret_file role_claim read write admin",
    },
    "Delete, and record": {"retention": "days maximum_studies trash_days", "audit": "syslog", "log": "level file"},
}
"""The keys of the example, by task and table."""

SAMPLE_NAMES = {
    "peers": "CT1",
    "hooks": "pipeline",
    "deidentify": "trial",
    "destinations": "CLOUD",
    "routes": "research",
}


SAMPLE_KINDS = {"hooks": "webhook", "destinations": "dicomweb"}


def example_toml() -> str:
    """Return the text of config.example.toml: valid TOML with defaults only; all keys of other packages."""
    models, added = dict(sections()), _keys_of_others()
    parts = [INTRODUCTION]
    for task, tables in TASKS.items():
        parts.append(f"# ---- {task}\n")
        parts += [
            _section(name, models[name], [*names.split(), *added.pop(name, ())]) for name, names in tables.items()
        ]
    parts += [_section(name, models[name], names) for name, names in added.items()]
    return "\n".join(parts)


def _keys_of_others() -> dict[str, list[str]]:
    """Return the keys that other packages bring, by section."""
    found: dict[str, list[str]] = {}
    for table in (table for extension in installed() for table in extension.tables):
        if not table.place.startswith("node."):
            known = OF_CORE[table.name].model_fields if table.name in OF_CORE else {}
            names = (name for name, _ in keys(resolve(table.place)) if name not in known)
            found.setdefault(table.name, []).extend(names)
    return found


def sections() -> Iterator[tuple[str, type[BaseModel]]]:
    """Yield the name and the model of each section; a table within a table follows it."""
    for name, field in Settings.model_fields.items():
        model = table_of(field.annotation)
        yield name, model
        for key, inner in model.model_fields.items():
            if _is_table(inner):
                yield f"{name}.{key}", inner.annotation


def _is_table(field: FieldInfo) -> bool:
    return isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)


def kinds(name: str) -> Iterator[tuple[str, type[BaseModel], list[tuple[str, FieldInfo]]]]:
    """Yield the kinds of the tables of a section: name, model, and the keys that only this kind has."""
    if name in KIND_TABLES:
        common = dict(sections())[name].model_fields
        for kind, model in sections_of(name).items():
            yield kind, model, [(key, field) for key, field in keys(model) if key not in common]


def keys(model: type[BaseModel]) -> list[tuple[str, FieldInfo]]:
    """Return the keys of a section, without the tables within it."""
    return [(key, field) for key, field in model.model_fields.items() if not (_is_table(field) or field.exclude)]


def purpose(model: type[BaseModel]) -> str:
    """Return what a section is about, as its docstring says."""
    text = (model.__doc__ or "").partition(": ")[2].strip()
    return f"{text[0].upper()}{text[1:]}"


def _section(name: str, model: type[BaseModel], names: list[str]) -> str:
    sample = SAMPLE_NAMES.get(name)
    fields = dict(keys(model))
    for kind, _, own in kinds(name):
        if kind == SAMPLE_KINDS[name]:
            fields |= own
    lines = [f"# {purpose(model)}", f"#[{name}.{sample}]" if sample else f"[{name}]"]
    for key in names:
        lines += _key(key, fields[key])
    return "\n".join(lines) + "\n"


def _key(key: str, field: FieldInfo) -> list[str]:
    default = field.examples[0] if field.examples else field.get_default(call_default_factory=True)
    unset = default is None or default is PydanticUndefined
    return [f"# {meaning(field)}", f"#{key} =" if unset else f"#{key} = {as_toml(default)}"]


def meaning(field: FieldInfo) -> str:
    """Return the description of a key, with its choices if there are any."""
    if choices := choices_of(field.annotation):
        return f"{field.description} ({', '.join(as_toml(choice) for choice in choices)})."
    return field.description or ""


def choices_of(annotation: Any) -> tuple[Any, ...]:
    """Return the choices of a literal that may be unset, or of the items of a list; texts give all other ranges."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    if get_origin(annotation) is tuple or type(None) in get_args(annotation):
        return choices_of(get_args(annotation)[0])
    return ()


def as_toml(value: Any) -> str:
    """Return `value` in TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        whole = int(value) if value == value // 1 else value
        return f"{whole:_}" if isinstance(value, int) and value >= 1_000_000 else repr(whole)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(as_toml(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {as_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, BaseModel):
        return as_toml(value.model_dump())
    return json.dumps(str(value) if isinstance(value, Path) else value, ensure_ascii=False)
