"""Hooks that administrators add, beside those of the configuration: webhooks.

A command or a plugin would give whoever has an account of the pages, or has stolen one, a program on the machine: those
are written in the configuration, always. Nor does a form name files of the machine, and addresses of the machine itself
are refused (`node.notify.reach`). The secret of a hook is given once and never shown; it stays while the address does.

What waits is sent by the changed hook. What a removal takes away is dropped, which has to be agreed to.
"""

from __future__ import annotations

import datetime as dt
import json
import threading
from collections.abc import Mapping
from contextlib import ExitStack, closing
from tempfile import TemporaryDirectory
from typing import Any

from node.audit.audit_log import APPLICATION, AuditEvent, AuditMessage, EventType, Participant, Result
from node.audit.audit_log import Action as Audited
from node.errors import UsageError
from node.extensions.administration.additions import Changes, dropping, keys_of
from node.index.work.ledger import Lane
from node.index.work.routes import outstanding
from node.notify.channel import NotDelivered, hook_channel
from node.notify.message import HookMessage, NothingLeft, compose_test, with_job
from node.notify.notifier import export_line
from node.notify.reach import reach_of
from node.settings.model import HookSettings, Settings

TESTED_SERIES = 100
"""Newest series, of which a test takes the first that has what the event needs."""

TEST_SECONDS = 30.0
"""Longest attempt of a test of a hook that was added: somebody waits for it."""

MAX_SECRET_CHARACTERS = 4000

_PROGRAM = "programs that the node runs are in the configuration: an account of the pages is none of the machine"
_FILE = "a file of the machine is named in the configuration; give the secret itself here"
_RESULTS = "a hook whose receiver writes into the archive is written in the configuration"

REFUSED = {
    "command": _PROGRAM,
    "plugin": _PROGRAM,
    "secret_file": _FILE,
    "ca_file": "a hook that needs a file of the machine is written in the configuration",
    "results": _RESULTS,
    "job_seconds": _RESULTS,
}
"""Keys that no added hook has, and why."""


class HookChanges(Changes[HookSettings]):
    """The actions about hooks."""

    table, what, model = "hooks", "hook", HookSettings
    maximum = 100  # each has a thread

    def set_hook(
        self,
        name: str,
        who: str,
        hook: Mapping[str, Any],
        secret: str | None = None,
        drops: int = 0,
        seen: str | None = None,
    ) -> Mapping[str, Any]:
        """Add a hook, or change one that was added; `hook` has the keys of ``[hooks.NAME]``.

        `secret`: signs the messages of a webhook; empty: none; None: the one that it has. `drops`: how much may be
        dropped that waits for events which the hook has no more.
        """
        with self._additions.changing:
            self._require_changeable(name)
            self._additions.require_seen(self.table, name, self.what, seen)
            wanted, _ = self._usable(name, hook, secret)
            self._require_room(name)
            owed = self._dropped(name, wanted)
            self._require_told(name, owed, drops)
            keys = keys_of(wanted)
            what = f"hook {name}: {json.dumps(_told(keys), ensure_ascii=False)}{_secret_told(secret)}{dropping(owed)}"
            self._additions.set(self.table, name, keys, who, what, wanted.secret)
        return {"hook": name, "dropped": owed}

    def remove_hook(self, name: str, who: str, drops: int = 0, seen: str | None = None) -> Mapping[str, Any]:
        """Remove a hook that was added; `drops`: how many messages may be dropped that wait for it."""
        with self._additions.changing:
            if self._removed_beside(name, who):
                return {"removed": name, "dropped": 0}
            self._require_changeable(name)
            if name not in self._settings.added.unusable_in(self.table):
                self._require_known(name)
            self._additions.require_seen(self.table, name, self.what, seen)
            owed = self._dropped(name, None)
            self._require_told(name, owed, drops)
            self._additions.remove(self.table, name, who, f"hook {name}: removed{dropping(owed)}")
            # Where no node runs, and for what could not be used, nobody has dropped it yet.
            self._index.deliveries.forget([Lane("hook", name)], self._index.now())
        return {"removed": name, "dropped": owed}

    def try_hook(
        self, name: str, who: str, hook: Mapping[str, Any] | None = None, secret: str | None = None
    ) -> Mapping[str, Any]:
        """Deliver a message of the newest series, marked as a test, and tell what became of it.

        `hook`: one that is not there yet, or a change of it, as `set_hook` has it; None: as it is.
        """
        if hook is not None:
            self._require_changeable(name)
            _, settings = self._usable(name, hook, secret)
        else:
            self._require_known(name)
            settings = self._settings
        if name not in settings.own(self.table):
            hook_now = settings.hooks[name]
            seconds = min(TEST_SECONDS, hook_now.timeout_seconds)
            quick = hook_now.model_copy(update={"timeout_seconds": seconds})
            settings = settings.having(settings.added.having(self.table, {name: quick}))
        tried = settings.hooks[name]
        message = self._test_message(tried)
        if message is None:
            raise UsageError(f"there is no series yet that has what a message of {tried.on[0]} needs")
        whom = [Participant(who, APPLICATION, is_requestor=True)]
        event, kind = AuditEvent.SECURITY_ALERT, EventType.SOFTWARE_CONFIGURATION
        detail = f"hook {name}: test message{f' to {tried.host}' if tried.host else ''}"
        self._additions.audit.note(AuditMessage(event, Audited.EXECUTE, Result.SUCCESS, whom, detail=detail, type=kind))
        reason = self._delivered(settings, name, message)
        result = Result.SUCCESS if reason is None else Result.MINOR_FAILURE
        line = export_line(name, tried, message, settings.dicom.ae_title, result)
        if line is not None:
            self._additions.audit.note(line)
        return {"hook": name, "accepted": reason is None, "reason": reason, "event": message.event, "id": message.id}

    def _usable(self, name: str, hook: Mapping[str, Any], secret: str | None) -> tuple[HookSettings, Settings]:
        """Return a hook, and settings that have it. Raises UsageError for every rule that is broken with it."""
        if refused := [f"{key}: {reason}" for key, reason in REFUSED.items() if key in hook]:
            raise UsageError("\n".join(refused))
        if not isinstance(hook.get("where") or "", str):
            raise UsageError('where: an added hook has an expression, such as modality == "CT"')
        wanted = self._parsed(hook)
        before = self._settings.hooks.get(name)
        wanted = wanted.with_secret(_secret(wanted, before, secret))
        settings = self._having(name, wanted)
        reach = reach_of(settings, name)
        if reach is not None and (reason := reach.refusal(wanted.host)) is not None:
            raise UsageError(f"{wanted.kind}: {reason}")
        try:
            hook_channel(settings, name).close()
        except UsageError as error:
            raise UsageError("\n".join(self._own_words(name, [str(error)]))) from error
        return wanted, settings

    def _dropped(self, name: str, wanted: HookSettings | None) -> int:
        """Return how much waits that the changed hook would not be sent; None: by none."""
        with self._index.reading() as index:
            row = index.hooks.progress().get(name)
        before = self._settings.hooks.get(name)
        if row is None or (wanted is not None and before is not None and set(before.on) <= set(wanted.on)):
            return 0
        return outstanding(row) - (row["waiting"] if wanted is not None else 0)

    def _test_message(self, hook: HookSettings) -> HookMessage | None:
        """Return the message of the first event of a hook, of the newest series that has one; None: no series has."""
        now, ae_title = dt.datetime.now(dt.UTC), self._settings.dicom.ae_title
        with self._index.reading() as index:
            for row in index.series.newest(TESTED_SERIES):
                key = (row["study_instance_uid"], row["series_instance_uid"])
                try:
                    return compose_test(index, hook.on[0], key, ae_title, now, include_patient=hook.include_patient)
                except NothingLeft:
                    continue
        return None

    def _delivered(self, settings: Settings, name: str, message: HookMessage) -> str | None:
        """Deliver a test message in the time that the hook has for any; return why it was not accepted, or None.

        Results are thrown away.
        """
        hook = settings.hooks[name]
        with ExitStack() as opened, closing(hook_channel(settings, name)) as channel:
            if hook.results and hook.url is None:
                out = opened.enter_context(TemporaryDirectory(prefix="voxelnode-test-"))
                message = with_job(message, "test", "", "", out)
            try:
                channel.deliver(message, threading.Event())
            except NotDelivered as error:
                return str(error)
        return None


def _secret(wanted: HookSettings, before: HookSettings | None, secret: str | None) -> str | None:
    """Return the secret of a changed hook: one that is stored does not go to another address."""
    if secret is None and before is not None and before.secret is not None:
        if before.receiver != wanted.receiver:
            raise UsageError("secret: the address is another one now: give the secret for it again, or an empty one")
        return before.secret
    if not secret:
        return None
    if len(secret) > MAX_SECRET_CHARACTERS or not secret.isascii() or not secret.isprintable():
        raise UsageError(f"secret: has up to {MAX_SECRET_CHARACTERS} printable characters of ASCII")
    return secret


def _secret_told(secret: str | None) -> str:
    if secret is None:
        return ""
    return "; new secret" if secret else "; without a secret"


def _told(keys: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys as the audit log has them: what is behind the question mark of an address may be a secret."""
    return {
        key: value.partition("?")[0] + "?..." if key == "url" and "?" in value else value for key, value in keys.items()
    }
