"""The forms of the tables that pages set: a form has a field for each key of its table.

A form that a browser sends sets and removes keys. A field that it does not send, or sends with the text that the form
had, changes nothing.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic.fields import FieldInfo

from node.errors import UsageError
from node.settings.core import HookSettings
from node.settings.model import Settings
from node.settings.tables import LIMITS, Shape, as_toml, default_of, default_text, fields_of, parsed, refusal, shape_of

STARTS: Mapping[str, Mapping[str, Any]] = {"peers": {"may": ["echo", "store"]}}
"""What the form of a new table begins with, where that is less than the default."""

CONTROLS = frozenset({"name", "seen", "drops", "is_new", "unset"})
"""Fields of a form beside the keys of its table; no key has such a name."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key of a table as its form shows it.

    `texts`: its value: of the shape `choices` one text for each, else one. `is_set`: it stands in a file.
    `refusal`: why it is not set here; empty: it is. `default`: what it has without a value, in TOML; empty: nothing.
    """

    name: str
    field: FieldInfo
    shape: Shape
    choices: tuple[str, ...]
    texts: tuple[str, ...]
    is_set: bool
    refusal: str
    default: str


def keys_of(settings: Settings, table: str) -> list[Key]:
    """Return the keys of the form of a table such as ``peers.CT1``; of a new one if there is none of its name.

    A hook that is no webhook has no form.
    """
    section, _, name = table.partition(".")
    there = getattr(settings, section)
    values = there.get(name) if section in LIMITS else there
    if isinstance(values, HookSettings) and values.kind != "webhook":
        return []
    given = {key[len(table) + 1 :].partition(".")[0] for key in settings.loaded_from.keys_of(table)}
    others = [one for one in settings.routes if one != name]
    offered = {"to": [*settings.destinations, *settings.called_peers], "otherwise": others}
    return [
        _key(key, field, getattr(values, key, start), key in given, offered.get(key) if section == "routes" else None)
        for key, field in fields_of(section).items()
        if key != "kind"
        for start in (STARTS.get(section, {}).get(key, default_of(field)),)
    ]


def _key(name: str, field: FieldInfo, value: Any, is_set: bool, offered: Sequence[str] | None) -> Key:
    shape, choices = shape_of(field) if offered is None else ("choices", tuple(offered))
    texts: tuple[str, ...] = ("" if shape == "secret" else _text(shape, value),)
    if shape == "choices":
        texts = tuple(map(str, value or ()))
        choices = tuple(dict.fromkeys((*choices, *texts)))
    return Key(name, field, shape, choices, texts, is_set, refusal(name, field), default_text(field))


def _text(shape: Shape, value: Any) -> str:
    """Return a value as a field has it."""
    if shape == "list":
        items = [str(one) for one in value or ()]
        is_plain = all(one == one.strip() and one[:1] not in '["' and "," not in one for one in items)
        return ", ".join(items) if is_plain else as_toml(items)
    if shape == "pairs":
        return "\n".join(f"{json.dumps(name)} = {as_toml(one)}" for name, one in (value or {}).items())
    return value if isinstance(value, str) else "" if value is None else as_toml(value)


def posted(settings: Settings, table: str, form: Mapping[str, Sequence[str]]) -> tuple[dict[str, Any], list[str]]:
    """Return the keys that a form sets, and those that it removes.

    `form`: the texts of each field that was sent. Raises UsageError if a field was emptied whose key stands in the
    file: that does not remove it.
    """
    section = table.partition(".")[0]
    known = {key.name: key for key in keys_of(settings, table)}
    unset = [name for name in form.get("unset", ()) if name]
    keys: dict[str, Any] = {}
    emptied = []
    for name in (name for name in form if name not in CONTROLS and name not in unset):
        key = known.get(name)
        texts = _sent(form[name], key)
        if key is not None and set(texts) == set(map(_as_sent, key.texts)):
            continue
        if key is not None and key.shape == "choices" and (texts or key.field.is_required() or key.default):
            keys[name] = texts
        elif key is None or any(texts) or key.field.is_required():
            keys[name] = parsed(section, name, texts[-1])
        elif key.is_set:
            had = ", ".join(key.texts).replace("\n", ", ")
            emptied.append(f"{name}: is {had}, and an empty field does not remove it: choose Remove {name}")
    if emptied:
        raise UsageError("\n".join(emptied))
    is_new = settings.loaded_from.file_of(table) is None
    return {
        **keys,
        **{key: value for key, value in STARTS.get(section, {}).items() if is_new and key not in keys},
    }, unset


def _sent(texts: Sequence[str], key: Key | None) -> list[str]:
    """Return what was sent of a field as `Key.texts` has it; of choices, those that were there keep their order."""
    if key is not None and key.shape == "choices":
        chosen = [text for text in texts if text]
        return sorted(chosen, key=lambda text: key.texts.index(text) if text in key.texts else len(key.texts))
    return [_as_sent(texts[-1])]


def _as_sent(text: str) -> str:
    """Return a text with the ends of lines of all browsers alike, and none around it."""
    return re.sub("\r\n?", "\n", text).strip()
