"""What administrators add: rows of the index beside the configuration, whose names take precedence.

A change is in the index before it takes effect, so that a kill at any moment leaves the old or the new one. Then the
next association, the next call, the workers that send and the next pass of retention follow it.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from node.audit.audit_log import APPLICATION, AuditEvent, AuditMessage, EventType, Participant, Result
from node.audit.audit_log import Action as Audited
from node.control.additions import OF_TABLE, adopt, mistakes_of
from node.counted import counted
from node.errors import UsageError, broken_rule
from node.failpoints import reached
from node.hookspecs import Action, OpenedRoot
from node.index.database.index import Index
from node.index.nouns.added import ADDED
from node.index.nouns.added import Added as Row
from node.settings.model import AddedTable, HookSettings, Peer, Route, Settings

NONE_YET = "none"
"""Stands for the last change of what is not there yet."""

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")

One = TypeVar("One", Peer, Route, HookSettings)


def actions(root: OpenedRoot) -> Mapping[str, Action]:
    """Return the actions by name."""
    from node.extensions.administration.hooks import HookChanges
    from node.extensions.administration.peers import PeerChanges
    from node.extensions.administration.retention_rules import RetentionChanges
    from node.extensions.administration.routes import RouteChanges

    additions = Additions(root)
    peers, routes, hooks = PeerChanges(additions), RouteChanges(additions), HookChanges(additions)
    retention = RetentionChanges(additions)
    return {
        "set-peer": peers.set_peer,
        "remove-peer": peers.remove_peer,
        "set-route": routes.set_route,
        "remove-route": routes.remove_route,
        "try-route": routes.try_route,
        "set-hook": hooks.set_hook,
        "remove-hook": hooks.remove_hook,
        "try-hook": hooks.try_hook,
        "set-retention": retention.set_retention,
        "try-retention": retention.try_retention,
    }


class Additions:
    """What was added to the configuration, and changes of it, one at a time (`changing`)."""

    def __init__(self, root: OpenedRoot) -> None:
        self.settings: Settings = root.settings
        self.index: Index = root.ingest.index
        self.now = root.ingest.now
        self.audit = root.audit
        self.changing = threading.Lock()

    def row(self, table: AddedTable, name: str) -> Row | None:
        """Return what was added beside a table under a name, also if the configuration has the name by now."""
        return next((row for row in self.index.repository(ADDED[table]).listed() if row.name == name), None)

    def require_alone(self, table: str) -> None:
        """Refuse a change if the configurations of several hosts have to say the same. Raises UsageError."""
        if self.settings.shares_index:
            raise UsageError(f"several hosts may share this index: change [{table}] in the configuration of each")

    def require_seen(self, table: AddedTable, name: str, what: str, seen: str | None) -> None:
        """Refuse a change of another row than somebody has seen: two people may change one at the same time.

        `seen`: the last change that the form was about; `NONE_YET`: it adds one; None: any. Raises UsageError.
        """
        row = self.row(table, name)
        if seen is None or seen == (row.change if row is not None else NONE_YET):
            return
        if row is None:
            raise UsageError(f"there is no such {what}: somebody has removed it")
        if seen == NONE_YET and name:
            raise UsageError(f"there is a {what} {name}: choose another name")
        raise UsageError(f"{row.changed_by} has changed this meanwhile: look at it again before you change it")

    def set(
        self,
        table: AddedTable,
        name: str,
        settings: Mapping[str, Any],
        who: str,
        what: str,
        secret: str | None = None,
    ) -> None:
        """Store a row, with a line in the audit log before and after it, and let the node follow."""
        rows, now = self.index.repository(ADDED[table]), self.now()
        self._change(who, what, Audited.UPDATE, lambda: rows.set(name, settings, who, now, secret))

    def remove(self, table: AddedTable, name: str, who: str, what: str) -> None:
        """Remove a row in the same way."""
        rows = self.index.repository(ADDED[table])
        self._change(who, what, Audited.DELETE, lambda: rows.remove(name))

    def _change(self, who: str, what: str, action: Audited, make: Callable[[], None]) -> None:
        whom = [Participant(who, APPLICATION, is_requestor=True)]
        kind = EventType.SOFTWARE_CONFIGURATION
        order = AuditMessage(AuditEvent.SECURITY_ALERT, action, Result.SUCCESS, whom, detail=what, type=kind)

        def make_it() -> None:
            reached("change-ordered")
            make()

        self.audit.change(order, make_it)
        reached("change-committed")
        adopt(self.settings, lambda table: self.index.repository(ADDED[table]).listed())


class Changes(Generic[One]):
    """The actions about what stands beside a table of names.

    `what`: what people call one of them. `maximum`: how many may be added.
    """

    table: ClassVar[AddedTable]
    what: ClassVar[str]
    maximum: ClassVar[int]
    model: type[One]

    def __init__(self, additions: Additions) -> None:
        self._additions, self._settings, self._index = additions, additions.settings, additions.index

    @property
    def _known(self) -> Mapping[str, One]:
        """All of them, those of the configuration too."""
        known: Mapping[str, One] = getattr(self._settings, self.table)
        return known

    def _parsed(self, keys: Mapping[str, Any]) -> One:
        """Return what keys of a table stand for. Raises UsageError for every one that is wrong."""
        try:
            return self.model.model_validate(keys)
        except ValidationError as error:
            raise UsageError("\n".join(mistake_of(one, self.what) for one in error.errors())) from error

    def _having(self, name: str, wanted: One | None) -> Settings:
        """Return settings with a change; None: a removal. Raises UsageError for every rule that is broken with it."""
        added = self._settings.added
        others = {other: one for other, one in added.of(self.table).items() if other != name}
        changed = added.having(self.table, others if wanted is None else {**others, name: wanted})
        having = self._settings.having(changed)
        if mistakes := self._own_words(name, mistakes_of(having)):
            raise UsageError("\n".join(mistakes))
        return having

    def _own_words(self, name: str, mistakes: list[str]) -> list[str]:
        """Return mistakes in the words of a form: its own without its name."""
        found = [(mistake, OF_TABLE.match(mistake)) for mistake in mistakes]
        return [
            match[3] if match is not None and match[1] == self.table and match[2] == name else mistake
            for mistake, match in found
        ]

    def _require_changeable(self, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise UsageError(f"the name of a {self.what} has 1 to 64 letters, digits, underscores and hyphens")
        self._additions.require_alone(self.table)
        if name in self._settings.own(self.table):
            raise UsageError(f"the {self.what} {name} is in the configuration, and is changed there")

    def _require_known(self, name: str) -> None:
        if name not in self._known:
            raise UsageError(f"there is no such {self.what}: somebody has removed it")

    def _require_room(self, name: str) -> None:
        if name not in self._known and len(self._settings.added.of(self.table)) >= self.maximum:
            raise UsageError(
                f"there are {self.maximum} added {self.table} already: add further ones to the configuration"
            )

    def _removed_beside(self, name: str, who: str) -> bool:
        """Remove a row whose name the configuration has by now, which stays as it is; return whether there was one."""
        if name not in self._settings.own(self.table) or self._additions.row(self.table, name) is None:
            return False
        what = f"{self.what} {name}: removed beside that of the configuration"
        self._additions.remove(self.table, name, who, what)
        return True

    def _require_told(self, name: str, owed: int, drops: int) -> None:
        if owed > drops:
            raise UsageError(
                f"{counted(owed, 'message waits', 'messages wait')} for the {self.what} {name} and would be dropped: "
                f"let it go first, or confirm that it is dropped (--drop {owed})"
            )


def dropping(owed: int) -> str:
    """Return the end of a line of the audit log about messages that are dropped."""
    return f"; {counted(owed, 'message')} dropped" if owed else ""


def mistake_of(error: ErrorDetails, table: str) -> str:
    """Return what is wrong with a key of a form, in plain words."""
    key = ": ".join(str(part) for part in error["loc"]) or table
    return f"{key}: {broken_rule(error['type'], error['msg'])}"


def keys_of(wanted: Peer | Route | HookSettings) -> dict[str, Any]:
    """Return the keys of a table as the index has them."""
    return wanted.model_dump(mode="json", exclude_unset=True)


@dataclass(frozen=True, slots=True)
class Listed:
    """One of a table: its keys with the defaults, and the row if it was added; `unusable`: why it does nothing."""

    name: str
    keys: Mapping[str, Any]
    row: Row | None
    unusable: str | None


def listed(settings: Settings, index: Index, table: AddedTable) -> list[Listed]:
    """Return what a table has: what the configuration has, what was added, and what of it cannot be used."""
    own, unusable = settings.own(table), settings.added.unusable_in(table)
    rows = {row.name: row for row in index.repository(ADDED[table]).listed() if row.name not in own}
    found = [
        Listed(name, one.model_dump(mode="json"), rows.get(name), None)
        for name, one in getattr(settings, table).items()
        if name in own or name in rows
    ]
    gone = [Listed(name, rows[name].settings, rows[name], why) for name, why in unusable.items() if name in rows]
    return [*found, *gone]
