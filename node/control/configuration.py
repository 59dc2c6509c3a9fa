"""Changes of the configuration of a running node: its files are read again, and one of them is written by the node.

A configuration with a mistake is refused as a whole, and the node goes on with what it has. A change by the pages or by
a command is a change of `node.settings.model.PAGES_FILE`, which is checked with all other files before it is
written. It is in the file before it takes effect, so that a kill at any moment leaves the old or the new one.
"""

import json
import os
import threading
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog

from node.audit.audit_log import Audit, AuditAction, AuditEvent, AuditMessage, EventType
from node.control import checks
from node.errors import UsageError, counted
from node.files.durable import make_folder, sync_folder
from node.hookspecs import Action as RootAction
from node.index.database import Index
from node.index.look.views import outstanding
from node.index.rows.records import Lane
from node.routing.router import lanes_of
from node.runtime.failpoints import reached
from node.runtime.logs import set_level
from node.settings.load import leaves
from node.settings.model import DROP_INS, IN_FORCE, PAGES_FILE, Drafts, Settings
from node.settings.tables import checked, fields_of, for_the_log, is_secret, refusal, require_room, require_settable

INTRODUCTION = """\
# Written by the pages and by commands such as `voxelnode peers set`. Comments stay.
# After a change by hand: `voxelnode reload`.
"""

log = structlog.get_logger()


class ConfigurationChanges:
    """The actions about the configuration, one at a time."""

    def __init__(self, settings: Settings, index: Index, audit: Audit) -> None:
        self._settings, self._index, self._audit = settings, index, audit
        self._bound = settings.bind_host
        self._changing = threading.Lock()
        self._file = pages_file(settings.storage.root.absolute())

    @property
    def by_name(self) -> Mapping[str, RootAction]:
        """The actions by name."""
        return {"reload": self.reload, "set-table": self.set_table, "remove-table": self.remove_table}

    def reload(self, who: str) -> Mapping[str, Any]:
        """Read the files again, and put in force what needs no restart; `restart` in the answer is what needs one.

        Raises UsageError for every mistake; then nothing has changed.
        """
        with self._changing:
            try:
                changed = self._require_right(self._read({}))
            except UsageError as error:
                log.error("configuration_refused", reason=str(error))
                raise
            self._audit.change(self._order(who, "configuration: read again", AuditAction.UPDATE), lambda: None)
            return self._put(changed)

    def set_table(
        self,
        table: str,
        keys: Mapping[str, Any],
        who: str,
        drops: int = 0,
        digest: str | None = None,
        unset: Sequence[str] = (),
        is_new: bool | None = None,
    ) -> Mapping[str, Any]:
        """Add a table such as ``peers.CT1``, or change it; all keys but `keys` and `unset` stay as they are.

        `unset`: keys that are removed. `is_new`: whether the table is added or changed; None: either.
        `drops`: how many messages may be dropped that wait for what the changed hook or route does not send.
        `digest`: of the files that the keys were made from; None: any.
        """
        with self._changing:
            require_settable(table)
            self._require_ours(self._settings, table)
            had = self._keys_of(table)
            given = checked(self._settings.web, table, had, keys, unset)
            before = self._unchanged(table, digest)
            require_room(before, table, is_new)
            section = table.partition(".")[0]
            removed = for_the_log(section, {key: had[key] for key in unset})
            what = f"configuration: [{table}] {_json(for_the_log(section, given))}"
            order = self._order(who, what + (f"; removed: {_json(removed)}" if removed else ""), AuditAction.UPDATE)
            reset = [
                {"key": key, "was": json.loads(_json(was)), "default": fields_of(section)[key].default}
                for key, was in removed.items()
            ]
            return {**self._write(before, table, given, order, drops, unset), "reset": reset}

    def remove_table(self, table: str, who: str, drops: int = 0, digest: str | None = None) -> Mapping[str, Any]:
        """Remove a table that the pages have written; see `set_table`. What nobody sets here stays in [retention]."""
        with self._changing:
            require_settable(table)
            before = self._unchanged(table, digest)
            if before.loaded_from.file_of(table) is None:
                raise UsageError(f"there is no [{table}]: somebody has removed it")
            order = self._order(who, f"configuration: [{table}] removed", AuditAction.DELETE)
            unset = [key for key in self._keys_of(table) if "." in table or not refusal(key)]
            keys: dict[str, Any] | None = None if len(unset) == len(self._keys_of(table)) else {}
            return {**self._write(before, table, keys, order, drops, unset), "removed": table}

    def _keys_of(self, table: str) -> Mapping[str, Any]:
        """Return the keys that stand in the file of the pages, also those that are shown nowhere."""
        section, _, name = table.partition(".")
        there = tomllib.loads(self._text()).get(section, {})
        keys: Mapping[str, Any] = there.get(name, {}) if name else there
        return keys

    def _text(self) -> str:
        return self._file.read_text(encoding="utf-8") if self._file.is_file() else ""

    def _unchanged(self, table: str, digest: str | None) -> Settings:
        """Return what the files say now. Raises UsageError if they are not those of a form, or others have the table.

        Hosts that share an index have each a configuration of its own, which must say the same.
        """
        section = table.partition(".")[0]
        if self._settings.shares_index:
            raise UsageError(f"several hosts may share this index: change [{section}] in the configuration of each")
        now = self._read({})
        if digest not in (None, now.loaded_from.digest):
            raise UsageError("the configuration has changed meanwhile: look at it again before you change it")
        self._require_ours(now, table)
        return now

    def _require_ours(self, settings: Settings, table: str) -> None:
        for origin in {settings.loaded_from.origins[key] for key in settings.loaded_from.keys_of(table)}:
            if Path(origin).resolve() != self._file.resolve():
                raise UsageError(f"[{table}] is set by {origin}, and is changed there")

    def _read(self, drafts: Drafts) -> Settings:
        reread = self._settings.loaded_from.reread
        if reread is None:
            raise UsageError("this configuration was read from no file")
        settings: Settings = reread(drafts)
        return settings

    def _write(
        self,
        before: Settings,
        table: str,
        keys: Mapping[str, Any] | None,
        order: AuditMessage,
        drops: int,
        unset: Sequence[str],
    ) -> Mapping[str, Any]:
        changed_text = with_table(self._text(), table, keys, unset)
        try:
            new = self._read({self._file.resolve(): changed_text.encode()})
            changed = self._require_right(new)
        except UsageError as error:
            raise UsageError(_in_words_of(table, self._file, str(error))) from error
        dropped = self._dropped(before, new)
        if dropped > drops:
            wait = counted(dropped, "message waits", "messages wait")
            raise UsageError(
                f"{wait} for [{table}] and would be dropped: let it go first, or confirm that it is dropped "
                f"(--drop {dropped})"
            )
        if dropped:
            order = replace(order, detail=f"{order.detail}; {counted(dropped, 'message')} dropped")

        def write() -> None:
            reached("change-ordered")
            try:
                write_file(self._file, changed_text)
            except OSError as error:
                had = None if keys is None else {**self._keys_of(table), **keys}
                raise UsageError(_by_hand(self._file, table, had, unset, error)) from error

        self._audit.change(order, write)
        reached("change-committed")
        return {**self._put(changed), "dropped": dropped}

    def _require_right(self, new: Settings) -> Settings:
        """Return what is in force with a new configuration. Raises UsageError for everything that is wrong with it.

        What needs a restart stays as it is, and must fit what does not.
        """
        sources, taken = replace(new.loaded_from, restart=tuple(self._restart(new))), new
        if self._settings.shares_index:
            taken = self._settings.model_copy(update={"log": taken.log})
        changed = self._settings.with_tables_of(taken, sources)
        if self._settings.peers and not new.peers and not self._settings.dicom.open:
            raise UsageError(
                "without [peers], the node accepts every sender: keep a peer, or restart the node to do without any"
            )
        if problems := checks.problems(new):
            raise UsageError("\n".join(problems))
        if sources.restart and (problems := changed.mistakes() or checks.problems(changed)):
            # What the problems say is untrue of the files, of which only a part could be in force.
            here = ", ".join(sorted({problem.partition(": ")[0] for problem in problems}))
            needs = ", ".join(sorted({f"[{key.partition('.')[0]}]" for key in sources.restart}))
            raise UsageError(f"{here} needs a restart: what changed in {needs} takes effect at the next start")
        return changed

    def _restart(self, new: Settings) -> Iterator[str]:
        """Yield the keys whose values in the files take effect at the next start."""
        values = [dict(leaves(one.model_dump(mode="json"))) for one in (self._settings, new)]
        keys = sorted(key for key in values[0].keys() | values[1].keys() if values[0].get(key) != values[1].get(key))
        in_force = () if self._settings.shares_index else IN_FORCE
        yield from (key for key in keys if key != "log.level" and key.partition(".")[0] not in in_force)
        if new.bind_host != self._bound and "dicom.host" not in keys:
            yield "dicom.host"

    def _dropped(self, before: Settings, after: Settings) -> int:
        """Return how many messages wait that nobody sends any more."""
        lanes = lanes_of(after)
        with self._index.reading() as index:
            owed = {Lane("hook", name): row for name, row in index.hooks.progress().items()}
            owed |= {Lane("route", row["route"], row["destination"]): row for row in index.routes.destinations()}
        gone = 0
        for lane, events in lanes_of(before).items():
            if lane in owed and lane not in lanes:
                gone += outstanding(owed[lane])
            elif lane in owed and not set(events) <= set(lanes[lane]):  # its messages stay
                gone += outstanding(owed[lane]) - owed[lane]["waiting"]
        return gone

    def _put(self, changed: Settings) -> Mapping[str, Any]:
        names = sorted(_differing(self._settings, changed))
        if changed.log.level != self._settings.log.level:
            set_level(changed.log.level)
        self._settings.put_in_force(changed, changed.loaded_from)
        restart = list(changed.loaded_from.restart)
        log.info("configuration_in_force", detail=", ".join(names) or "no change", restart=restart)
        done: dict[str, Any] = {"changed": names, "restart": restart}
        if found := checks.warn(changed):
            done["warnings"] = found
        return done | {"senders": checks.senders(changed)} if any(name.startswith("peers.") for name in names) else done

    def _order(self, who: str, what: str, action: AuditAction) -> AuditMessage:
        kind = EventType.SOFTWARE_CONFIGURATION
        return AuditMessage.by(who, AuditEvent.SECURITY_ALERT, action, what, kind=kind)


def _differing(before: Settings, after: Settings) -> Iterator[str]:
    """Yield the tables in force that change."""
    for section in (*IN_FORCE, "log"):
        one, other = getattr(before, section), getattr(after, section)
        if isinstance(one, Mapping):
            yield from (f"{section}.{name}" for name in one.keys() | other.keys() if one.get(name) != other.get(name))
        elif one != other:
            yield section


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _in_words_of(table: str, file: Path, mistakes: str) -> str:
    """Return mistakes in the words of a form: its own without file and table."""
    own = (f"{file}: [{table}] ", f"{file}: {table}: ", f"[{table}] ")
    lines = mistakes.splitlines()
    return "\n".join(next((line[len(one) :] for one in own if line.startswith(one)), line) for line in lines)


def _by_hand(file: Path, table: str, keys: Mapping[str, Any] | None, unset: Sequence[str], error: OSError) -> str:
    """Return what somebody can do who may write a file that the node may not."""
    why = f"{file} cannot be written ({error.strerror})"
    if keys is None:
        return f"{why}: remove [{table}] there, and run `voxelnode reload`"
    section = table.partition(".")[0]
    given = {key: value for key, value in keys.items() if key not in unset}
    shown = {key: "..." if is_secret(section, key) else value for key, value in given.items()}
    lines = with_table("# \n", table, shown).removeprefix("# \n").strip()
    return f"{why}: add these lines to a file of the configuration, and run `voxelnode reload`:\n{lines}"


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
