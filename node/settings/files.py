"""The files of a configuration, and the drop-in that the node itself writes.

The first is ``voxelnode.toml``. Then come the drop-ins ``conf.d/*.toml`` beside it and in the root, in order of name. A
table stands in one file only. Whoever has an account of the pages changes `PAGES_FILE` in the root, and no other.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from shlex import quote
from typing import Any

from node.durable import make_folder, sync_folder
from node.errors import UsageError
from node.failpoints import reached

DROP_INS = "conf.d"
"""Folder of the drop-ins, beside the first file and in the root."""

PAGES_FILE = "90-pages.toml"
"""Drop-in of the root that the pages and commands change."""

INTRODUCTION = """\
# Written by the pages and by commands such as `voxelnode peers set`. Comments stay.
# After a change by hand: `voxelnode reload`.
"""

Drafts = Mapping[Path, bytes]
"""Contents of files that are not written yet, by their resolved paths."""


@dataclass(frozen=True, slots=True)
class ConfigurationFile:
    """One file that was read."""

    path: Path
    content: bytes
    tables: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the values of a configuration come from.

    `file`: the one that was read, if any. `origins` maps a dotted key such as ``"dicom.port"`` to the path of a file,
    ``"defaults file"``, ``"environment"``, ``"flag"`` or the option of a command, such as ``"--port"``; all other keys
    have their defaults.
    `digest`: of the files that were read. `reread`: returns the settings of the files as they are now,
    with drafts in place of some; None: the settings were not read from anywhere. `restart`: keys whose values in the
    files take effect at the next start.
    """

    file: Path | None = None
    origins: Mapping[str, str] = field(default_factory=dict)
    digest: str = field(default="", compare=False)
    reread: Callable[[Drafts], Any] | None = field(default=None, compare=False)
    restart: tuple[str, ...] = ()

    def file_of(self, table: str) -> Path | None:
        """Return the file that has a table, such as ``peers.CT1``; None: no file has it."""
        origins = (self.origins[key] for key in self.keys_of(table))
        return next((Path(origin) for origin in origins if is_file(origin)), None)

    def keys_of(self, table: str) -> list[str]:
        """Return the keys of a table that are set anywhere."""
        return [key for key in self.origins if key.startswith(f"{table}.")]

    def is_of_pages(self, table: str) -> bool:
        """Return whether the pages have written a table, and nothing else sets a key of it."""
        files = {Path(self.origins[key]) for key in self.keys_of(table)}
        return bool(files) and all(file.name == PAGES_FILE and file.parent.name == DROP_INS for file in files)


def is_file(origin: str) -> bool:
    """Return whether an origin of a value is a file, and not the environment, an option or another default."""
    return origin not in ("environment", "flag", "defaults file") and not origin.startswith("--")


def read_file(path: Path, drafts: Drafts) -> ConfigurationFile:
    """Return a file. Raises UsageError if it cannot be read, or is not TOML."""
    try:
        content = drafts.get(path.resolve())
        content = path.read_bytes() if content is None else content
        return ConfigurationFile(path, content, tomllib.loads(content.decode()))
    except FileNotFoundError as error:
        remedy = f"`voxelnode config example > {quote(str(path))}` writes one"
        raise UsageError(f"{path}: cannot be read (no such file); {remedy}") from error
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}): check the owner and the mode") from error
    except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError
        raise UsageError(f"{path}: not valid TOML: {error}") from error


def drop_ins(folder: Path, drafts: Drafts) -> list[Path]:
    """Return the drop-ins in ``conf.d`` of a folder, in order of name."""
    there = folder / DROP_INS
    new = (there / path.name for path in drafts if path.parent == there.resolve())
    return sorted({*there.glob("[!.]*.toml"), *new})


def require_each_once(files: Sequence[ConfigurationFile], is_named: Callable[[str], bool]) -> None:
    """Refuse a table that two files have; one without a key, as of the example, does not count.

    `is_named`: whether a section has a table for each name, such as ``[peers.CT1]``. Raises UsageError.
    """
    owners: dict[str, Path] = {}
    problems: list[str] = []
    for file in files:
        for table in _tables(file.tables, is_named):
            if (other := owners.setdefault(table, file.path)) != file.path:
                problems.append(f"{other} and {file.path}: [{table}] is in both: keep it in one of them")
    if problems:
        raise UsageError("\n".join(problems))


def _tables(content: Mapping[str, Any], is_named: Callable[[str], bool]) -> Iterator[str]:
    for section, value in content.items():
        if is_named(section) and isinstance(value, Mapping):
            yield from (f"{section}.{name}" for name in value)
        elif value != {}:
            yield section


def digest_of(files: Sequence[ConfigurationFile]) -> str:
    """Return what tells these files from others."""
    digest = sha256()
    for file in files:
        digest.update(f"{file.path}\0{len(file.content)}\0".encode() + file.content)
    return digest.hexdigest()


def pages_file(root: Path) -> Path:
    """Return the path of the drop-in that the pages write."""
    return root / DROP_INS / PAGES_FILE


def with_table(text: str, table: str, keys: Mapping[str, Any] | None, unset: Sequence[str] = ()) -> str:
    """Return the text of a file after keys of a table were set, or the table was removed (None).

    `unset`: keys of the table that are removed. All others, comments and order stay. Raises UsageError if the text is
    too unusual to be changed.
    """
    import tomlkit  # here: only changes need it

    document = tomlkit.parse(text or INTRODUCTION)
    above, name = _parent(document, table)
    if keys is None:
        del above[name]
    else:
        one = above[name] if name in above else above.setdefault(name, tomlkit.table())
        for key in unset:
            del one[key]
        for key, value in keys.items():
            if one.get(key) != value:
                one[key] = tomlkit.item(value) if not isinstance(value, Mapping) else _inline(value)
    changed = tomlkit.dumps(document)
    if _changed(tomllib.loads(text), table, keys, unset) != _without_empty(tomllib.loads(changed)):
        raise UsageError(f"[{table}] cannot be changed by itself where it is: change the file by hand")
    return changed


def _parent(document: Any, table: str) -> tuple[Any, str]:
    """Return what has a table, and its name there."""
    import tomlkit

    section, dot, name = table.partition(".")
    if not dot:
        return document, section
    if section not in document:
        document[section] = tomlkit.table(is_super_table=True)
    return document[section], name


def _inline(value: Mapping[str, Any]) -> Any:
    import tomlkit

    inline = tomlkit.inline_table()
    inline.update(value)
    return inline


def _changed(
    tables: dict[str, Any], table: str, keys: Mapping[str, Any] | None, unset: Sequence[str]
) -> dict[str, Any]:
    section, dot, name = table.partition(".")
    above, last = (tables.setdefault(section, {}), name) if dot else (tables, section)
    before = above.pop(last, {})
    if keys is not None:
        given = {key: list(value) if isinstance(value, tuple) else value for key, value in keys.items()}
        above[last] = {key: value for key, value in {**before, **given}.items() if key not in unset}
    return _without_empty(tables)


def _without_empty(tables: Mapping[str, Any]) -> dict[str, Any]:
    return {section: value for section, value in tables.items() if value != {}}


def write_file(path: Path, content: str) -> None:
    """Replace a drop-in, which only its owner may read: a kill or a power cut leaves the old file or the new one.

    Raises OSError.
    """
    make_folder(path.parent)
    part = path.with_name(f"{path.name}.part")
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(content.encode())
        file.flush()
        os.fsync(file.fileno())
    reached("configuration-written")
    os.replace(part, path)
    reached("configuration-renamed")
    sync_folder(path.parent)
