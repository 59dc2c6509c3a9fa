"""Read the configuration from TOML files, the environment and flags, and record the origin of each value.

The first file is voxelnode.toml. Then come the drop-ins ``conf.d/*.toml`` beside it and in the root, in order of
name; a table stands in one file only. All mistakes are reported together, each with its location, its key, the rule and
the nearest known name.
"""

import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from ipaddress import ip_network
from pathlib import Path
from shlex import quote
from typing import Any, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from node.errors import UsageError, broken_rule, meant, nearest
from node.registry import KIND_TABLES, sections_of
from node.settings import DEFAULT_FILE, ENVIRONMENT_PREFIX
from node.settings.core import Storage
from node.settings.model import DROP_INS, OF_AN_EXTENSION, Drafts, Settings, Sources, is_file
from node.settings.section import OTHER_NAMES, table_of

NESTING = "__"
REFERENCE = "voxelnode help configuration"
"""Lists every key."""

DEFAULTS_VARIABLE = f"{ENVIRONMENT_PREFIX}DEFAULTS"
"""Names a TOML file of other defaults, such as those of a container, below the configuration file."""


def load(
    file: Path | None = None,
    flags: Mapping[str, Any] | None = None,
    options: Mapping[str, str] | None = None,
    drafts: Drafts | None = None,
) -> Settings:
    """Return the settings from other defaults, files, the environment and `flags`, in ascending precedence.

    `file`: TOML file. None: the file named by ``VOXELNODE_CONFIG``, else voxelnode.toml in the working directory if
        it exists, else no file. Its drop-ins are read as well.
    `flags`: dotted keys to values, such as ``{"dicom.port": 0}``; a flag with the value None is ignored.
    `options`: the options of a command that gave flags, such as ``{"dicom.port": "--port"}``: origins of their values.
    `drafts`: contents of files that are not written yet.

    Raises UsageError: a file cannot be read, or a key or value is invalid; the message has one line for each mistake.
    """
    named = file or os.environ.get(f"{ENVIRONMENT_PREFIX}CONFIG") or (DEFAULT_FILE if DEFAULT_FILE.is_file() else None)
    chosen = Path(named) if named is not None else None
    defaults = os.environ.get(DEFAULTS_VARIABLE)
    from_defaults = _read_file(Path(defaults), {}).tables if defaults else {}
    from_environment = _from_environment()
    from_flags = _nested({key: value for key, value in (flags or {}).items() if value is not None})
    files = list(_files(chosen, from_defaults, [from_environment, from_flags], drafts or {}))
    _require_each_once(files)

    origins: dict[str, str] = {}
    merged: dict[str, Any] = {}
    layers = (
        ("defaults file", from_defaults),
        *((str(one.path), one.tables) for one in files),
        ("environment", from_environment),
        ("flag", from_flags),
    )
    for origin, layer in layers:
        origins |= {key: origin for key, _ in leaves(layer)}
        merged = _over(merged, layer)
    origins |= options or {}

    problems = [f"environment: {problem}" for problem in _misnamed_variables()]
    try:
        settings = Settings.model_validate(merged)
    except ValidationError as error:
        problems = _explained(error.errors(include_url=False), chosen, origins) + problems
    if problems:
        raise UsageError("\n".join(problems))
    again = partial(load, chosen or file, flags, options)
    settings.note_sources(Sources(chosen, origins, _digest_of(files), again))
    return settings


def values_of(settings: Settings) -> Iterator[tuple[str, Any, str]]:
    """Yield each key in dotted form, its value as JSON, and its origin."""
    values = dict(leaves(settings.model_dump(mode="json")))
    values["journal.acknowledge"] = settings.acknowledge  # its default depends on other keys
    for key, value in values.items():
        yield key, value, settings.loaded_from.origins.get(key, "default")


def mistakes(error: ValidationError, section: str) -> UsageError:
    """Return what is wrong with a section that a program gave by itself, such as ``convert``, as `load` says it."""
    errors = error.errors(include_url=False)
    for details in errors:
        details["loc"] = (section, *details["loc"])
    return UsageError("\n".join(_explained(errors, None, {section: "flag"})))


@dataclass(frozen=True, slots=True)
class _File:
    """One file that was read."""

    path: Path
    content: bytes
    tables: Mapping[str, Any]


def _files(
    chosen: Path | None, below: Mapping[str, Any], above: Sequence[Mapping[str, Any]], drafts: Drafts
) -> Iterator[_File]:
    """Yield the file that was chosen, the drop-ins beside it, and those of the root that all of them name.

    `below` and `above`: other values, which name the root as well. Raises UsageError.
    """
    values = below
    beside: list[Path] = []
    if chosen is not None:
        beside = _drop_ins(chosen.parent, drafts)
        for path in (chosen, *beside):
            yield (file := _read_file(path, drafts))
            values = _over(values, file.tables)
    for layer in above:
        values = _over(values, layer)
    root = _root_in(values)
    read = {path.resolve() for path in beside}
    for path in _drop_ins(root, drafts):
        if path.resolve() not in read:
            yield (file := _read_file(path, drafts))
            if _root_in(_over(values, file.tables)) != root:
                raise UsageError(f"{path}: [storage] root: a file in the root cannot name another root: remove it")


def _root_in(values: Mapping[str, Any]) -> Path:
    storage = values.get("storage")
    root = storage.get("root") if isinstance(storage, Mapping) else None
    return (Path(root) if root and isinstance(root, str | Path) else Storage().root).absolute()


def _read_file(path: Path, drafts: Drafts) -> _File:
    """Return a file. Raises UsageError if it cannot be read, or is not TOML."""
    try:
        content = drafts.get(path.resolve())
        content = path.read_bytes() if content is None else content
        return _File(path, content, tomllib.loads(content.decode()))
    except FileNotFoundError as error:
        remedy = f"`voxelnode config example > {quote(str(path))}` writes one"
        raise UsageError(f"{path}: cannot be read (no such file); {remedy}") from error
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}): check the owner and the mode") from error
    except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError
        raise UsageError(f"{path}: not valid TOML: {error}") from error


def _drop_ins(folder: Path, drafts: Drafts) -> list[Path]:
    """Return the drop-ins in ``conf.d`` of a folder, in order of name."""
    there = folder / DROP_INS
    new = (there / path.name for path in drafts if path.parent == there.resolve())
    return sorted({*there.glob("[!.]*.toml"), *new})


def _require_each_once(files: Sequence[_File]) -> None:
    """Refuse a table that two files have; one without a key, as of the example, does not count. Raises UsageError."""
    owners: dict[str, Path] = {}
    problems: list[str] = []
    for file in files:
        for table in _tables(file.tables):
            if (other := owners.setdefault(table, file.path)) != file.path:
                problems.append(f"{other} and {file.path}: [{table}] is in both: keep it in one of them")
    if problems:
        raise UsageError("\n".join(problems))


def _tables(content: Mapping[str, Any]) -> Iterator[str]:
    for section, value in content.items():
        if _has_names(section) and isinstance(value, Mapping):
            yield from (f"{section}.{name}" for name in value)
        elif value != {}:
            yield section


def _digest_of(files: Sequence[_File]) -> str:
    """Return what tells these files from others."""
    digest = sha256()
    for file in files:
        digest.update(f"{file.path}\0{len(file.content)}\0".encode() + file.content)
    return digest.hexdigest()


def _from_environment() -> dict[str, Any]:
    """Return the values of the ``VOXELNODE_SECTION__KEY`` variables, as a tree."""
    variables: dict[str, str | None] = {_spelled(name): text for name, text in os.environ.items() if _is_ours(name)}
    if not variables:
        return {}
    # Here, because pydantic-settings takes longer to import than the rest of the configuration.
    from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict

    class Layers(Settings, BaseSettings):
        model_config = SettingsConfigDict()  # the same keys, in the form that pydantic-settings requires

    class Environment(EnvSettingsSource):
        def _load_env_vars(self) -> Mapping[str, str | None]:
            return variables

        def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
            """Decode a list or a table from JSON; keep other text for the validation to report."""
            try:
                return super().decode_complex_value(field_name, field, value)
            except ValueError:
                return value

    return Environment(Layers, case_sensitive=True, env_prefix=ENVIRONMENT_PREFIX, env_nested_delimiter=NESTING)()


def _is_ours(name: str) -> bool:
    return name.upper().startswith(ENVIRONMENT_PREFIX) and NESTING in name[len(ENVIRONMENT_PREFIX) :]


def _spelled(name: str) -> str:
    """Return a variable's name as spelled in the model: sections and keys in lower case, names of peers unchanged."""
    section, key, *rest = name[len(ENVIRONMENT_PREFIX) :].split(NESTING)
    section = section.lower()
    is_table_of_tables = _has_names(section)
    if is_table_of_tables or _fields_at([section, key.lower()]):  # a user-chosen name, or a nested table
        rest = [part.lower() for part in rest]
    parts = [section, key if is_table_of_tables else key.lower(), *rest]
    return ENVIRONMENT_PREFIX + NESTING.join(parts)


def _misnamed_variables() -> Iterator[str]:
    """Yield a line for each variable with our prefix that matches no key."""
    for name in sorted(os.environ):
        if not name.startswith(ENVIRONMENT_PREFIX):
            continue
        rest = name[len(ENVIRONMENT_PREFIX) :]
        section = rest.split(NESTING)[0].lower()
        if NESTING in rest:
            if section not in Settings.model_fields:
                yield f"{name}: unknown section{nearest(section, Settings.model_fields)}"
        elif (known := section.split("_")[0]) in Settings.model_fields and "_" in section:
            right = f"{ENVIRONMENT_PREFIX}{known.upper()}{NESTING}{rest[len(known) + 1 :]}"
            yield f"{name}: two underscores between section and key, did you mean {right}?"


def _explained(errors: list[ErrorDetails], file: Path | None, origins: Mapping[str, str]) -> list[str]:
    """Return the lines about each invalid key or table: its location, its value, the rule and a remedy."""
    lines: dict[str, str] = {}
    for details in errors:
        # pydantic reports every branch of a union, with its name in the location; one line is enough.
        location = [str(part) for part in details["loc"] if "[" not in str(part) and part != "constrained-float"]
        key = ".".join(location)
        if not any(reported == key or reported.startswith(f"{key}.") for reported in lines):
            place = _place(location, file, origins)
            problem = _problem(details, location, is_of_environment=place.startswith("environment"))
            places = (place if location else _place_of_rule(line, place, origins) for line in problem.splitlines())
            lines[key] = "\n".join(f"{one}: {line}" for one, line in zip(places, problem.splitlines(), strict=True))
    return list(lines.values())


def _place(location: list[str], file: Path | None, origins: Mapping[str, str]) -> str:
    """Return where the value at `location` was set: in a table of the file, an environment variable or a flag."""
    if not location:  # a rule between tables
        return str(file) if file else "environment and flags"
    key = ".".join(location)
    origin = _origin(key, origins)
    if origin == "environment":
        return f"environment: {ENVIRONMENT_PREFIX}{NESTING.join(location).upper()}"
    if origin == "flag":
        return key
    if origin.startswith("--"):
        return origin
    if origin == "defaults file":
        origin = os.environ[DEFAULTS_VARIABLE]
    depth = 2 if _fields_at(location[:2]) else 1
    return f"{origin or file}: [{'.'.join(location[:depth])}] {'.'.join(location[depth:])}".rstrip()


def _place_of_rule(line: str, place: str, origins: Mapping[str, str]) -> str:
    """Return the file that has the table with which the line about a rule between tables begins."""
    table = re.match(r"[a-z_]+(\.[A-Za-z0-9_-]+)?(?=:)", line)
    origin = _origin(table[0], origins) if table is not None else ""
    return origin if origin and is_file(origin) else place


def _origin(key: str, origins: Mapping[str, str]) -> str:
    """Return the origin of what is wrong at `key`: a value, a table, an item of a list, or a key that is missing.

    What is around the key comes after the key and what is in it: a table of the file may be empty, and has an origin.
    """
    section = key.partition(".")[0]
    candidates = (
        key,
        *(k for k in origins if k.startswith(f"{key}.")),
        *sorted((k for k in origins if key.startswith(f"{k}.")), key=len, reverse=True),
        *(k for k in origins if k.startswith(f"{section}.")),
    )
    return next((origins[k] for k in candidates if k in origins), "")


def _problem(details: ErrorDetails, location: list[str], *, is_of_environment: bool) -> str:
    if details["type"] == "extra_forbidden":
        return _unknown(details, location)
    value = details["input"]
    shown = str(value).lower() if isinstance(value, bool) else repr(value)
    rule = _rule(details, is_of_environment=is_of_environment)
    return f"{shown}: {rule}" if isinstance(value, str | int | float) and location[-1:] != ["secret"] else rule


def _unknown(details: ErrorDetails, location: list[str]) -> str:
    *above, name = location
    if above or isinstance(details["input"], Mapping):
        if not above:
            return f"unknown section{meant(name, _fields_at(above)) or OF_AN_EXTENSION}"
        return f"unknown key{nearest(name, _fields_at(above), REFERENCE)}"
    sections = [f"[{section}]" for section in Settings.model_fields if name in _fields_at([section])]
    such = f", such as {' or '.join(sections)}" if sections else ""
    return f"a key without a section: write it below one{such}"


def _rule(details: ErrorDetails, *, is_of_environment: bool) -> str:
    kind, value = details["type"], details["input"]
    if kind == "value_error":  # of a rule of our own, without pydantic's words before it
        return str(details["ctx"]["error"])
    message = broken_rule(kind, details["msg"])
    message = message[0].lower() + message[1:]
    if kind == "literal_error" and isinstance(value, str):
        choices = [word.strip("'") for word in details["ctx"]["expected"].replace(" or ", ", ").split(", ")]
        other = OTHER_NAMES.get(value.lower())
        return message + (f', did you mean "{other}"?' if other in choices else meant(value, choices))
    if kind in ("ip_v4_network", "ip_v6_network") and isinstance(value, str):
        return _network(value)
    if is_of_environment and message.startswith(("must be a list", "must be a table")):
        return f'{message.partition(",")[0]}; in the environment write JSON, such as ["a", "b"] or {{"A": 1}}'
    return message


def _network(value: str) -> str:
    with suppress(ValueError):
        return f'has bits beyond its prefix, did you mean "{ip_network(value, strict=False)}"?'
    return 'must be a network, such as "10.1.2.0/24"'


def _has_names(section: str) -> bool:
    """Return whether a section has a table for each name that somebody chose."""
    return section in Settings.model_fields and get_origin(Settings.model_fields[section].annotation) is dict


def _fields_at(path: list[str]) -> list[str]:
    """Return the keys of the table at `path`."""
    model: Any = Settings
    for part in path:
        if isinstance(model, type) and issubclass(model, BaseModel) and part in model.model_fields:
            model = model.model_fields[part].annotation
        elif get_origin(model) is dict:
            model = table_of(model)
        else:
            return []
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        return []
    of_kinds = sections_of(path[0]).values() if len(path) == 2 and path[0] in KIND_TABLES else ()
    return list(dict.fromkeys(key for one in (model, *of_kinds) for key in one.model_fields))


def leaves(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of tables by their dotted keys; an empty table is one."""
    for key, value in tree.items():
        dotted = f"{above}{key}"
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{dotted}.")
        else:
            yield dotted, value


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for dotted, value in flat.items():
        for part in reversed(dotted.split(".")):
            value = {part: value}
        tree = _over(tree, value)
    return tree


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return `below` with the values of `above` in their tables."""
    merged = dict(below)
    for key, value in above.items():
        lower = merged.get(key)
        merged[key] = _over(lower, value) if isinstance(lower, Mapping) and isinstance(value, Mapping) else value
    return merged
