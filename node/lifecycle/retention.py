"""Delete studies by the retention rules, those of the configuration and those that administrators set beside them.

Without rules, nothing is deleted.

Age is a matter of the clock, and the clock may be wrong. Retention looks at it before every pass. Once something
contradicts it (`contradiction`), retention is held, and nothing is deleted, until a person confirms that the
clock is right. A pass that would delete an unusual share of all studies waits for a person, too.

The second source is the time since the machine started (CLOCK_BOOTTIME), which nobody sets. Across a restart of the
machine there is none: the clock must then be later than it ever was, and not by more than `MAX_ABSENCE`.

The service writes one row of the index, and a confirmation another one: neither overwrites the other.
"""

import datetime as dt
import json
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from time import monotonic

import structlog

from node.archive.filesystem import Archive
from node.audit.audit_log import Audit
from node.index.database import Index
from node.index.look.views import ReadIndex
from node.index.reading import checked
from node.index.rows.about_keys import RETENTION, RETENTION_CONFIRMED, ClockLook, RetentionState, Uptime, look_of
from node.index.rules.custody.deletions import NotThere
from node.index.rules.custody.leaving import HISTORIES, Receipts
from node.lifecycle.deletion import Order, delete, empty_due
from node.lifecycle.expired import Expired, due_now
from node.runtime.background import BackgroundService
from node.runtime.metrics import Metrics
from node.settings.core import RetentionSettings
from node.settings.model import Settings

TOLERANCE = dt.timedelta(hours=1)
"""Largest difference between the clock and the time since the machine started; a small one is corrected by NTP."""

MAX_ABSENCE = dt.timedelta(days=7)
"""Longest time for which a machine may have been off. After a longer one, a person knows whether the clock is right."""

MAX_LAG = dt.timedelta(days=1)
"""An instance may be in the index this much later than it was received, while an index on a server is away."""

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def uptime() -> Uptime:
    """Return for how long this machine has been running."""
    try:
        boot = _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:  # no second source: every look is like one after a restart of the machine
        return Uptime("", 0.0)
    return Uptime(boot, time.clock_gettime(time.CLOCK_BOOTTIME))


def contradiction(last: ClockLook | None, now: dt.datetime, up: Uptime, receipts: Receipts) -> str | None:
    """Return why the clock cannot be believed, or None.

    `last`: the last look that contradicted nothing; None: this is the first. `receipts`: of instances since then.
    """
    if last is not None and (jump := _jump(last, now, up)) is not None:
        return jump
    if receipts.newest is not None and receipts.newest > now + TOLERANCE:
        return f"an instance was received {_ago(receipts.newest - now)} in the future"
    if last is not None and receipts.oldest is not None and receipts.oldest < last.at - MAX_LAG:
        return f"an instance was received {_ago(last.at - receipts.oldest)} before others that came earlier"
    return None


def _jump(last: ClockLook, now: dt.datetime, up: Uptime) -> str | None:
    passed = now - last.at
    if up.boot and up.boot == last.uptime.boot:
        step = passed - dt.timedelta(seconds=up.seconds - last.uptime.seconds)
        if abs(step) > TOLERANCE:
            return f"the clock was set {'forward' if step > dt.timedelta() else 'back'} by {_ago(step)}"
    elif passed < -TOLERANCE:
        return f"the clock is {_ago(passed)} behind the newest time that it showed"
    elif passed > MAX_ABSENCE:
        return (
            f"the clock is {_ago(passed)} later than when it was last seen: the machine was off, or the clock is wrong"
        )
    return None


def _ago(span: dt.timedelta) -> str:
    """Return a length of time in words, in the largest unit that is passed."""
    seconds = abs(span.total_seconds())
    for unit, length in (("years", 365.25 * 86400), ("days", 86400.0), ("hours", 3600.0)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds / 60:.0f} minutes"


log = structlog.get_logger()

PASS_SECONDS = 3600.0
"""Interval between passes over the studies."""

LOOK_SECONDS = 300.0
"""Interval between two looks at the clock that are recorded."""

STEP_SECONDS = 5.0
"""Interval at which the service asks for a confirmation."""

LOOK_INSTANCES = 4096
"""A look is recorded earlier after this many new instances, which would otherwise be read again at every step."""


def confirm(index: Index, now: dt.datetime, up: Uptime, rules: RetentionSettings) -> str:
    """Confirm that the clock is right, and that due studies may go; return the confirmed doubt.

    If the clock was in doubt, studies that were received meanwhile count as received now, and studies in the trash as
    deleted now.
    """
    state = index.retention.state()
    if state.held is None and state.asked is None:
        return ""
    after = None if state.last is None else state.last.image
    image = index.retention.receipts(after or 0).image
    confirming = {"id": uuid.uuid4().hex, "look": asdict(ClockLook(now, up, image)), "approved": state.asked or 0}
    confirmation = json.dumps(confirming, default=dt.datetime.isoformat)
    of_clock = (after, trash_until(rules, now)) if state.held is not None else (None, None)
    index.retention.confirm(of_clock[0], now, confirmation, of_clock[1])
    return state.held or f"{state.asked} studies"


def trash_until(rules: RetentionSettings, now: dt.datetime) -> dt.datetime | None:
    """Return until when a deletion can be undone; None if it cannot."""
    return now + dt.timedelta(days=rules.trash_days) if rules.trash_days else None


class Retention(BackgroundService):
    """Look at the clock, delete expired studies, at startup and then hourly, and empty the trash.

    Events and deletions of long ago are pruned in steps, in passes that begin as often.
    """

    lease: str = "retention"

    def __init__(
        self,
        archive: Archive,
        index: Index,
        audit: Audit,
        metrics: Metrics,
        settings: Settings,
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
        up: Callable[[], Uptime] = uptime,
    ) -> None:
        super().__init__("retention")
        self._archive, self._index, self._audit, self._settings = archive, index, audit, settings
        self._now, self._up, self._rules = now, up, settings.retention
        self._passed_at: float | None = None
        self._pruned: dict[str, int] = {}  # by table of `HISTORIES`, the row up to which a pass has examined it
        self._left: str | None = None  # why the trash stays on a short disk
        self._held = metrics.retention_held

    def start(self) -> None:
        """Start the thread, which looks at once at rules that change."""
        self._settings.follow(self.wake)
        super().start()

    def _is_ours(self) -> bool:
        return self._index.sharing.has(self.lease)

    def step(self) -> float:
        """Look at the clock; delete expired studies if they are due. A deletion that fails ends the step."""
        now = self._now()  # the pass takes this time: the clock may jump between the look and the pass
        state = self._after_look(now)
        is_due = self._passed_at is None or monotonic() - self._passed_at >= PASS_SECONDS or state.approved
        if state.is_free and is_due:
            if self._settings.retention.is_active:
                self.run_once(now)
            self._passed_at = monotonic()  # without rules, too: those that come take effect at the next pass
            state = self._state()
            self._pruned = dict.fromkeys(HISTORIES, 0) | self._pruned
        for table, after in list(self._pruned.items()) if state.is_free else ():
            self._pruned[table] = self._index.retention.prune(table, after, now)
        self._pruned = {table: last for table, last in self._pruned.items() if last}
        left = None
        if self._index.trash.has_any():
            gives_way = self._settings.retention.trash_gives_way
            parts = self._archive, self._index, self._audit
            left = empty_due(*parts, now, is_clock_right=state.is_free, gives_way=gives_way)
        if left is not None and self._left is None:
            log.warning("trash_not_emptied", reason=left)
        self._left = left
        self._held.set(state.waits_for is not None)
        return STEP_SECONDS

    def _state(self) -> RetentionState:
        return self._index.retention.state()

    def _keep(self, before: RetentionState, state: RetentionState) -> RetentionState:
        if state != before:
            self._index.about.set(RETENTION, state.encoded())
        return state

    def _after_look(self, now: dt.datetime) -> RetentionState:
        """Look at the clock, and return the state afterwards; a state that is held stays so until it is confirmed."""
        before = state = self._state()
        confirmed = json.loads(self._index.about.get(RETENTION_CONFIRMED) or "{}")
        if confirmed and confirmed["id"] != state.confirmation:
            log.info("retention_confirmed", reason=state.held or "an unusual number of studies is due")
            state = RetentionState(
                look_of(confirmed["look"]), approved=confirmed["approved"], confirmation=confirmed["id"]
            )
        differs = None
        if self._index.sharing.host is not None:
            with self._index.reading(wait=False) as view:
                differs = "; ".join(view.hosts.problems().values()) or None
        if differs != state.differs:
            log.error("hosts_differ", detail=differs) if differs else log.info("hosts_agree")
            state = replace(state, differs=differs)
        rules = self._settings.retention
        if rules != self._rules:  # what was asked about is not due by these
            self._rules, state = rules, replace(state, asked=None)
        if state.held is not None:
            return self._keep(before, state)
        up = self._up()
        after = 0 if state.last is None else state.last.image
        receipts = self._index.retention.receipts(after)
        reason = contradiction(state.last, now, up, receipts)
        if reason is not None:
            log.error("retention_held", reason=reason)
            return self._keep(before, replace(state, held=reason, asked=None, approved=0))
        is_recorded = state.last is not None and now - state.last.at < dt.timedelta(seconds=LOOK_SECONDS)
        if not is_recorded or receipts.image - after >= LOOK_INSTANCES:
            state = replace(state, last=ClockLook(now, up, receipts.image))
        return self._keep(before, state)

    def run_once(self, now: dt.datetime) -> int:
        """Delete the studies that are expired at a moment, or only log them in a dry run; return how many there were.

        If they are an unusual share of all studies, ask a person instead, and return 0.
        """
        rules = self._settings.retention
        with self._index.reading() as index:
            due = due_now(index, rules, now)
        expired = due.expired
        if rules.dry_run:
            for one in expired:
                log.info("retention_would_delete", study_instance_uid=one.study.study_instance_uid, reason=one.rule)
            return len(expired)
        before = self._state()
        if due.is_unusual(rules, before.approved):
            if before.asked != len(expired):
                log.error("retention_asks", count=len(expired))
            self._keep(before, replace(before, asked=len(expired), approved=0))
            return 0
        for number, one in enumerate(expired):
            if self._stopping.is_set() or self._settings.retention != rules:
                return number
            self._delete(one, now, rules)
        self._keep(before, replace(before, asked=None, approved=0))
        return len(expired)

    def _delete(self, expired: Expired, now: dt.datetime, rules: RetentionSettings) -> None:
        uid = expired.study.study_instance_uid

        def require_expired(index: ReadIndex) -> None:
            """Keep a study that has received something, or is to be sent, since it was listed: a pass may take long."""
            study = index.studies.stored(uid)
            if study and (study.came != expired.study.came or (rules.only_converted and not study.is_finished)):
                raise NotThere("an instance came meanwhile, or a series waits for its conversion again")
            if study and index.studies.has_message(uid):
                raise NotThere("it is to be sent, or a hook is to be told of it")

        until = trash_until(rules, now)
        order = Order("retention", f"retention: {expired.rule}", checked(require_expired), until)
        try:
            plan = self._index.deletions.plan("study", uid)
            with self._archive.ballast.dropped():
                delete(self._archive, self._index, self._audit, plan, order, now)
        except NotThere as error:  # a command was quicker, or the study is not as old any more
            log.info("retention_found_nothing", study_instance_uid=uid, reason=str(error))
