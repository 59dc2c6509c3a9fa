"""What the index has beside the configuration joins it, whether the pages that add it are on or off."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import structlog
from pydantic import ValidationError

from node.control.checks import loops
from node.errors import UsageError
from node.index.nouns.added import Added as Row
from node.index.nouns.added import Table
from node.registry import open_channel
from node.settings.model import Added, AddedRules, HookSettings, Peer, RetentionSettings, Route, Settings

log = structlog.get_logger()

OF_TABLE = re.compile(r"\[?(routes|hooks)\.([A-Za-z0-9_-]+)[\]:]? ?(.*)", re.DOTALL)
"""A mistake of a configuration: the table and the name of the route or the hook, and what is wrong with it."""

RULES = ("days", "days_by_calling_ae_title", "maximum_studies", "only_converted", "keep_where", "dry_run")
"""Keys of [retention] that say what goes; the others protect from mistakes, and are the configuration's alone."""

_NOT_ACCEPTED = "this version does not accept its settings"

HOOK_KEYS = frozenset({"on", "url", "calling_ae_titles", "where", "include_patient", "timeout_seconds", "attempts"})
"""Keys of [hooks.NAME] that a hook may have which was added.

The others run programs, read files of the machine, or let a receiver write into the archive. Who may add a hook has an
account of the pages, and none of the machine.
"""


def added_hook(row: Row) -> HookSettings:
    """Return a hook of the index. Raises ValueError: rows are no configuration, whoever has written them."""
    if not row.settings.keys() <= HOOK_KEYS:
        raise ValueError
    return HookSettings.model_validate(row.settings).with_secret(row.secret)


_PARSED: Mapping[Table, Callable[[Row], Any]] = {
    "routes": lambda row: Route.model_validate(row.settings),
    "hooks": added_hook,
}

Listed = Callable[[Table], Sequence[Row]]
"""Returns the rows beside a table of the configuration."""


def adopt(settings: Settings, listed: Listed) -> None:
    """Have the settings know what was added; see `node.settings.model.Settings.add`.

    Hosts that may share the index have nothing. Raises UsageError if no peer that was added can be used and there is no
    other: without peers, every sender would be accepted.
    """
    if settings.shares_index:
        return
    peers, rules = _peers(settings, listed("peers")), _rules(settings, listed("retention"))
    added = _usable(settings, Added(peers, retention=rules), listed)
    for table, unusable in added.unusable.items():
        for name, reason in unusable.items():
            log.warning(f"added_{table[:-1]}_unused", detail=f"{table[:-1]} {name}", reason=reason)
    if added.retention is not None and added.retention.unconfirmed:
        log.warning("added_retention_unconfirmed", reason=added.retention.unconfirmed)
    settings.add(added)


def mistakes_of(settings: Settings) -> list[str]:
    """Return the rules that the tables break together, each with the name of its table."""
    return settings.mistakes() or list(loops(settings))


def merged(own: RetentionSettings, rules: Mapping[str, Any]) -> RetentionSettings:
    """Return the rules of the configuration with those that an administrator set beside it. Raises ValidationError."""
    return RetentionSettings.model_validate({**rules, **own.model_dump(exclude_unset=True)})


def owned(own: RetentionSettings) -> dict[str, Any]:
    """Return the rules that the configuration has, as JSON values."""
    return {key: value for key, value in own.model_dump(mode="json", exclude_unset=True).items() if key in RULES}


def _peers(settings: Settings, rows: Sequence[Row]) -> dict[str, Peer]:
    peers: dict[str, Peer] = {}
    for row in rows:
        if row.name in settings.destinations:
            log.warning("added_peer_unused", peer=row.name, reason="a destination has the same name")
            continue
        try:
            peers[row.name] = Peer.model_validate(row.settings)
        except ValidationError:
            log.warning("added_peer_unused", peer=row.name, reason=_NOT_ACCEPTED)
    if rows and not peers and not settings.own("peers"):
        raise UsageError(
            f"no peer that was added on the pages can be used ({', '.join(row.name for row in rows)}), and without "
            "peers every sender is accepted: list one under [peers], or rename the destinations of these names"
        )
    return peers


def _rules(settings: Settings, rows: Sequence[Row]) -> AddedRules | None:
    """Return the rules of retention with those that were set, confirmed only beside what the configuration had then."""
    own: RetentionSettings = settings.own("retention")
    for row in rows:
        try:
            rules = merged(own, row.settings["rules"])
        except ValidationError:
            return AddedRules(own, row.changed_at, unconfirmed=f"{_NOT_ACCEPTED}, which {row.changed_by} has confirmed")
        reason = f"[retention] of the configuration has changed since {row.changed_by} set rules beside it"
        is_same = owned(own) == row.settings["beside"]
        return AddedRules(rules, row.changed_at, row.settings["confirmed"], None if is_same else reason)
    return None


def _usable(settings: Settings, added: Added, listed: Listed) -> Added:
    """Return also the routes and hooks that can be used, and why the others cannot."""
    unusable: dict[Table, dict[str, str]] = {table: {} for table in _PARSED}
    for table, parsed in _PARSED.items():
        found: dict[str, Any] = {}
        for row in listed(table):
            if row.name not in settings.own(table):
                try:
                    found[row.name] = parsed(row)
                except ValueError:  # ValidationError too
                    unusable[table][row.name] = _NOT_ACCEPTED
        added = added.having(table, found)
    while broken := list(_broken(settings, added)):
        for table, name, reason in broken:
            unusable[table].setdefault(name, reason)
            added = added.having(table, {other: one for other, one in added.of(table).items() if other != name})
    return replace(added, unusable=unusable)


def _broken(settings: Settings, added: Added) -> Iterator[tuple[Table, str, str]]:
    """Yield which of the routes and hooks, all of which were added, break a rule, and why."""
    if not added.routes and not added.hooks:
        return
    for mistake in mistakes_of(settings.having(added)):
        found = OF_TABLE.match(mistake)
        for table in _PARSED:
            if found is not None and found[1] == table and found[2] in added.of(table):
                yield table, found[2], found[3]
    for name, hook in added.hooks.items():
        try:
            open_channel(settings, hook.kind)
        except UsageError as error:
            yield "hooks", name, str(error)
