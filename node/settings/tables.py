"""The keys of the configuration as text: the commented example, made from the model, and the tables that people set.

Those are set on pages and by commands: [peers.NAME], [routes.NAME], [hooks.NAME] and [retention].

Each key of the settings model is a field of the form and a key of the command, also those of extensions. A change names
the keys that it sets and those that it removes; every other key stays as it stands in the file. Nothing vanishes by
being empty: a key that stands in the file is removed by its name alone (``unset``), for without a restriction a table
is for everything.

A command or a plugin would give whoever has an account of the pages, or has stolen one, a program on the machine: those
are written in another file, always. Nor does a form name files of the machine, and hooks and peers at addresses of the
machine itself are refused (`Reach`). The secret of a hook is given once and never shown; it stays while the
address does.
"""

import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticUndefined

from node.errors import UsageError, broken_rule, nearest
from node.registry import KIND_TABLES, installed, resolve, sections_of
from node.runtime.network import Reach
from node.settings.core import HookSettings, Web
from node.settings.model import OF_CORE, Settings
from node.settings.section import SettingsSection, table_of

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


_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")

LIMITS = {"peers": 1000, "routes": 100, "hooks": 100}
"""Most tables of a section; each hook, and each destination of a route, has a thread."""

_REFUSED = {
    **dict.fromkeys(("command", "plugin"), "the node runs it, and an account of the pages is none of the machine"),
    **dict.fromkeys(("results", "job_seconds"), "its receiver writes into the archive"),
    **dict.fromkeys(("maximum_share", "trash_days", "trash_gives_way"), "it protects from mistakes that are made here"),
    "secret_file": "it names a file of the machine, or give the secret itself here",
    "delete_confirmed": "the route deletes",
}
"""Keys that nobody sets here, and why; beside all that name a file, or have tables in them."""

Shape = Literal["flag", "choice", "choices", "list", "pairs", "secret", "text"]


def fields_of(section: str) -> Mapping[str, FieldInfo]:
    """Return the keys of the tables of a section; hooks that are set here are webhooks."""
    return _model_of(section).model_fields


def _model_of(section: str) -> type[SettingsSection]:
    model: type[SettingsSection] = table_of(Settings.model_fields[section].annotation)
    return sections_of("hooks")["webhook"] if section == "hooks" else model


def described(section: str) -> list[tuple[str, str]]:
    """Return the keys that commands set, each with what it means, its choices and its default."""
    return [
        (name, meaning(field) + (f" [default: {default}]" if (default := default_text(field)) else ""))
        for name, field in fields_of(section).items()
        if not (name == "kind" or field.exclude or refusal(name, field))
    ]


def default_of(field: FieldInfo) -> Any:
    """Return what a key has without a value; None: nothing."""
    return None if field.is_required() else field.get_default(call_default_factory=True)


def default_text(field: FieldInfo) -> str:
    """Return what a key has without a value, in TOML; empty: nothing."""
    default = default_of(field)
    return as_toml(default) if default or default in (False, 0) else ""


def _types(annotation: Any) -> list[Any]:
    """Return the types of which another one is made, and that one."""
    inner = () if get_origin(annotation) is Literal else get_args(annotation)
    return [get_origin(annotation) or annotation, *(one for part in inner for one in _types(part))]


def shape_of(field: FieldInfo) -> tuple[Shape, tuple[str, ...]]:
    """Return the shape of a key in a form, and what it is chosen from."""
    types, choices = _types(field.annotation), choices_of(field.annotation)
    if field.exclude:
        return "secret", ()
    if tuple in types:
        return "choices" if choices else "list", choices
    if bool in types and field.default is not None:
        return "flag", ()
    if choices or bool in types:
        return "choice", (*(("",) if field.default is None else ()), *(choices or ("true", "false")))
    return "pairs" if types[0] is dict else "text", ()


def refusal(name: str, field: FieldInfo | None = None) -> str:
    """Return why a key is not set here; empty: it is."""
    reason = _REFUSED.get(name, "")
    for one in _types(field.annotation) if field is not None and not reason else ():
        if isinstance(one, type) and issubclass(one, Path | BaseModel):
            reason = "it names a file of the machine" if one is Path else "it has tables in it"
    return f"write the table into voxelnode.toml: {reason}" if reason else ""


def parsed(section: str, name: str, text: str) -> Any:
    """Return the value of a key that a text says, for the model to check; the text itself for an unknown key.

    A list is written with commas, and a table with a line for each name; or both as in the configuration.
    """
    field = fields_of(section).get(name)
    shape, types = ("text", [str]) if field is None else (shape_of(field)[0], _types(field.annotation))
    is_list = tuple in types
    if (is_list and text.startswith(("[", '"'))) or (dict in types and text.startswith("{")):
        try:
            return tomllib.loads(f"value = [{text}]" if text.startswith('"') else f"value = {text}")["value"]
        except tomllib.TOMLDecodeError as error:
            raise UsageError(f"{name}: {text!r} is not TOML: {error}") from error
    if is_list:
        items = text.split(",") if str in types or shape == "choices" else re.split(r"[,\s]+", text)
        return [item.strip() for item in items if item.strip()]
    if shape == "pairs":
        return dict(_pair(name, line.strip()) for line in text.splitlines() if line.strip())
    return text


def _pair(key: str, line: str) -> tuple[str, str]:
    name, equals, text = (part.strip() for part in line.partition("="))
    with suppress(tomllib.TOMLDecodeError):
        [(name, value)] = tomllib.loads(line).items()
        text = value if isinstance(value, str) else text
    if not equals:
        raise UsageError(f"{key}: {line!r}: write a line as NAME = value")
    return name, text


def require_settable(table: str) -> None:
    """Refuse a table that is not set here. Raises UsageError."""
    section, dot, name = table.partition(".")
    if bool(dot) != (section in LIMITS) or not (dot or section == "retention"):
        raise UsageError(f"[{table}] is not set here: [peers.NAME], [routes.NAME], [hooks.NAME] and [retention] are")
    if dot and not _NAME.fullmatch(name):
        raise UsageError(f"the name of one of [{section}] has 1 to 64 letters, digits, underscores and hyphens")


def require_room(settings: Settings, table: str, is_new: bool | None) -> None:
    """Refuse one table too many, or one that is there though it is new, or gone though it is not; None: either.

    Raises UsageError.
    """
    section, _, name = table.partition(".")
    if section not in LIMITS:
        return
    there = getattr(settings, section)
    if is_new and name in there:
        raise UsageError(f"there is {name} in [{section}] already: choose another name")
    if is_new is False and name not in there:
        raise UsageError(f"there is no [{table}]: somebody has removed it")
    if name not in there and len(there) >= LIMITS[section]:
        raise UsageError(f"there are {len(there)} {section} already: add further ones to another file")


def checked(
    web: Web, table: str, before: Mapping[str, Any], keys: Mapping[str, Any], unset: Sequence[str]
) -> dict[str, Any]:
    """Return the keys that a change of a table sets, as people write them.

    `before`: the keys that stand in the file; empty: none. Raises UsageError for each key that is wrong, or is not set
    here, and if a peer or a hook would be at an address that is not for what is set here.
    """
    section = table.partition(".")[0]
    if section == "hooks":
        if before.get("kind", "webhook") != "webhook":
            raise UsageError(f"[{table}] is no webhook: change the file by hand")
        keys = {"kind": "webhook", **keys} if not before else keys
    model = _model_of(section)
    known = [key for key, field in model.model_fields.items() if not refusal(key, field)]
    if problems := list(_not_changed_here(section, before, keys, unset)):
        raise UsageError("\n".join(problems))
    wanted = {**{key: value for key, value in before.items() if key not in unset}, **keys}
    try:
        becomes = model.model_validate(wanted)
    except ValidationError as error:
        raise UsageError("\n".join(_mistake(one, section[:-1], known) for one in error.errors())) from error
    _require_reach(web, becomes)
    if isinstance(becomes, HookSettings) and "secret" in wanted and "secret" not in keys:  # the one that is stored
        had = model.model_validate(before)
        if isinstance(had, HookSettings) and had.receiver != becomes.receiver:
            raise UsageError("secret: the address is another one now: give the secret for it again, or remove it")
    values = becomes.model_dump(mode="json")
    return {key: _plain(values.get(key, value)) for key, value in keys.items()}


def _not_changed_here(
    section: str, before: Mapping[str, Any], keys: Mapping[str, Any], unset: Sequence[str]
) -> Iterator[str]:
    """Yield why a key is not set, or not removed."""
    fields = fields_of(section)
    for key in (*keys, *unset):
        if reason := refusal(key, fields.get(key)):
            yield f"{key}: {reason}"
    for key in unset:
        if key not in before:
            yield f"{key}: is not set here{nearest(key, before) if before else ''}"
        elif key == "kind" or fields[key].is_required() or key in keys:
            yield f"{key}: must be given, and is not removed"


def _require_reach(web: Web, becomes: SettingsSection) -> None:
    host = getattr(becomes, "host", None)
    if host and (reason := Reach(web.hook_networks).refusal(host)) is not None:
        raise UsageError(f"{'url' if isinstance(becomes, HookSettings) else 'host'}: {reason}")


def _mistake(error: ErrorDetails, what: str, known: Sequence[str]) -> str:
    """Return what is wrong with a key, in plain words."""
    key = ": ".join(str(part) for part in error["loc"]) or what
    rule = broken_rule(error["type"], error["msg"])
    is_unknown = error["type"] == "extra_forbidden" and len(error["loc"]) == 1
    return f"{key}: {rule}{nearest(key, known) if is_unknown else ''}"


def _plain(value: Any) -> Any:
    """Return a value as people write it."""
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    return int(value) if isinstance(value, float) and value.is_integer() else value


def is_secret(section: str, key: str) -> bool:
    """Return whether a key is shown nowhere."""
    field = fields_of(section).get(key)
    return field is not None and bool(field.exclude)


def for_the_log(section: str, keys: Mapping[str, Any]) -> dict[str, Any]:
    """Return keys as the audit log has them: what is behind the question mark of an address may be a secret."""
    shown = {key: _without_query(value) if key == "url" else value for key, value in keys.items()}
    return {key: "..." if is_secret(section, key) else value for key, value in shown.items()}


def _without_query(address: Any) -> str:
    before, mark, _ = str(address).partition("?")
    return f"{before}{mark}{'...' if mark else ''}"


def reach_of(settings: Settings, table: str) -> Reach | None:
    """Return where what a table says may connect to, such as ``hooks.NAME``; None: everywhere.

    Everywhere, unless the pages have written the table.
    """
    return Reach(settings.web.hook_networks) if settings.loaded_from.is_of_pages(table) else None
