"""What an account of the pages may set in the configuration, and what is for whoever has an account of the machine.

A command or a plugin would give whoever has an account of the pages, or has stolen one, a program on the machine: those
are written in another file, always. Nor does a form name files of the machine, and hooks and peers at addresses of the
machine itself are refused (`node.reach`). The secret of a hook is given once and never shown; it stays while the
address does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from node.errors import UsageError, broken_rule, nearest
from node.reach import Reach
from node.registry import sections_of
from node.settings.hooks import HookSettings
from node.settings.model import Settings
from node.settings.peers import Peer
from node.settings.routes import Route
from node.settings.section import SettingsSection
from node.settings.series import RetentionSettings

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")

_LIMITS = {"peers": 1000, "routes": 100, "hooks": 100}
"""Most tables of a section; each hook, and each destination of a route, has a thread."""

_BY_HAND = "write the table into voxelnode.toml"
_PROGRAM = f"{_BY_HAND}: the node runs it, and an account of the pages is none of the machine"
_FILE = f"{_BY_HAND}, as it names a file of the machine, or give the secret itself here"
_OF_MACHINE = f"{_BY_HAND}: it names a file of the machine"
_RESULTS = f"{_BY_HAND}: its receiver writes into the archive"
_GUARD = f"{_BY_HAND}: it protects from mistakes that are made here"

REFUSED: Mapping[str, Mapping[str, str]] = {
    "peers": {"tls_ca": _OF_MACHINE},
    "routes": {"delete_confirmed": f"{_BY_HAND}: the route deletes"},
    "hooks": {
        "command": _PROGRAM,
        "plugin": _PROGRAM,
        "secret_file": _FILE,
        "ca_file": _OF_MACHINE,
        "results": _RESULTS,
        "job_seconds": _RESULTS,
    },
    "retention": {"maximum_share": _GUARD, "trash_days": _GUARD},
}
"""Keys that nobody sets here, by section, and why."""

KEPT = tuple(REFUSED["retention"])
"""Keys that somebody may have added to the file by hand, and that a change leaves as they are."""

_EXPRESSIONS = ("where", "keep_where")

_MODELS: Mapping[str, type[SettingsSection]] = {"peers": Peer, "routes": Route, "retention": RetentionSettings}


def _model_of(section: str) -> type[SettingsSection]:
    """Return the model of a table of a section; hooks that are set here are webhooks."""
    return sections_of("hooks")["webhook"] if section == "hooks" else _MODELS[section]


def require_settable(table: str) -> None:
    """Refuse a table that is not set here. Raises UsageError."""
    section, dot, name = table.partition(".")
    if section not in REFUSED or bool(dot) != (section in _LIMITS):
        raise UsageError(f"[{table}] is not set here: [peers.NAME], [routes.NAME], [hooks.NAME] and [retention] are")
    if dot and not _NAME.fullmatch(name):
        raise UsageError(f"the name of one of [{section}] has 1 to 64 letters, digits, underscores and hyphens")


def require_room(settings: Settings, table: str) -> None:
    """Refuse one table too many. Raises UsageError."""
    section, _, name = table.partition(".")
    if section in _LIMITS:
        there = getattr(settings, section)
        if name not in there and len(there) >= _LIMITS[section]:
            raise UsageError(f"there are {len(there)} {section} already: add further ones to another file")


def checked_keys(table: str, keys: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys that a table gets. Raises UsageError for each that is wrong, or is not set here."""
    section = table.partition(".")[0]
    if refused := [f"{key}: {reason}" for key, reason in REFUSED[section].items() if key in keys]:
        raise UsageError("\n".join(refused))
    for key in _EXPRESSIONS:
        if not isinstance(keys.get(key) or "", str):
            raise UsageError(f'{key}: must be an expression here, such as modality == "CT"')
    given = {key: value for key, value in keys.items() if value is not None}
    if section == "hooks":
        given = {"kind": "webhook", **given}
    secret = {"secret": given.pop("secret")} if section == "hooks" and "secret" in given else {}
    model = _model_of(section)
    try:
        parsed = model.model_validate(given).model_dump(mode="json")
    except ValidationError as error:
        known = [key for key in model.model_fields if key not in REFUSED[section]]
        raise UsageError("\n".join(_mistake(one, section[:-1], known) for one in error.errors())) from error
    return {**{key: _plain(parsed[key]) for key in given}, **secret}


def require_reach(settings: Settings, table: str, keys: Mapping[str, Any]) -> None:
    """Refuse a peer at an address that is not for peers that are set here. Raises UsageError."""
    host = keys.get("host") if table.startswith("peers.") else None
    if host is not None and (reason := Reach(settings.web.hook_networks).refusal(str(host))) is not None:
        raise UsageError(f"host: {reason}")


def with_secret(settings: Settings, name: str, keys: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of a hook with the secret that it has or gets; a stored one does not go to another address.

    Raises UsageError, also if the hook would send to what is not for hooks that are set here.
    """
    others = {key: value for key, value in keys.items() if key != "secret"}
    wanted = sections_of("hooks")["webhook"].model_validate(others)
    assert isinstance(wanted, HookSettings)
    before, secret = settings.hooks.get(name), keys.get("secret")
    if (reason := Reach(settings.web.hook_networks).refusal(wanted.host)) is not None:
        raise UsageError(f"url: {reason}")
    stored = getattr(before, "secret", None)
    if secret is None and before is not None and stored is not None:
        if before.receiver != wanted.receiver:
            raise UsageError("secret: the address is another one now: give the secret for it again, or an empty one")
        secret = stored
    if secret and not (isinstance(secret, str) and secret.isascii() and secret.isprintable()):
        raise UsageError("secret: has printable characters of ASCII")
    return {**others, "secret": secret} if secret else others


def _mistake(error: ErrorDetails, what: str, known: Sequence[str]) -> str:
    """Return what is wrong with a key, in plain words."""
    key = ": ".join(str(part) for part in error["loc"]) or what
    rule = broken_rule(error["type"], error["msg"])
    is_unknown = error["type"] == "extra_forbidden" and len(error["loc"]) == 1
    return f"{key}: {rule}{nearest(key, known) if is_unknown else ''}"


def _plain(value: Any) -> Any:
    """Return a value as people write it."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def for_the_log(keys: Mapping[str, Any]) -> dict[str, Any]:
    """Return keys as the audit log has them: what is behind the question mark of an address may be a secret."""
    shown = {"secret": lambda value: "...", "url": _without_query}
    return {key: shown[key](value) if key in shown else value for key, value in keys.items()}


def _without_query(address: Any) -> str:
    before, mark, _ = str(address).partition("?")
    return f"{before}{mark}{'...' if mark else ''}"
