"""What is known of senders in memory: what their open associations have brought, how long to wait, what was refused.

How long a series waits after an instance of a sender is configured, or learnt from the sender, which may need longer
from one image to the next. While its association is open, more of the series is to be expected
(`node.index.rules.series.waits`).

Refusals for `v_rejections` are collected and written every few seconds, so that a flood costs little.
"""

import datetime as dt
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from time import monotonic

import structlog

from node.errors import VoxelnodeError
from node.index.database import Index
from node.index.rows.converted import SeriesKey
from node.index.rows.records import CountedRefusal, Refused, RefusedLevel
from node.runtime.background import BackgroundService
from node.runtime.logs import KINDS_OF_MINUTE, LinesOfAddresses
from node.runtime.metrics import Metrics
from node.runtime.network import block_of
from node.settings.core import QuietTime

log = structlog.get_logger()

MAX_COUNTED = 100_000
"""Instances of one association that are counted; their UIDs are in memory until it ends."""


@dataclass(slots=True)
class Brought:
    """The instances of an open association.

    `series`: how many instances of each are stored, each UID once. `active_at`: when its last bytes came; `noted_at`:
    the last such moment that the index knows, or is about to. `begun`: its place, as `Origin` has it.
    """

    calling_ae_title: str
    last: SeriesKey
    active_at: float
    noted_at: float
    begun: str
    series: dict[SeriesKey, int] = field(default_factory=dict)
    sop_instance_uids: set[str] = field(default_factory=set)


class OpenAssociations:
    """The open associations that have brought instances, by name. Thread-safe."""

    def __init__(self, now: Callable[[], float] = monotonic) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._brought: dict[str, Brought] = {}

    def note_bytes(self, association: str) -> None:
        """Note that bytes of a data set come in: whose they are is known at its end, most likely of the last series."""
        if (brought := self._brought.get(association)) is not None:
            brought.active_at = self._now()

    def brought(self, association: str, calling_ae_title: str, series: SeriesKey, begun: str = "") -> None:
        """Note that an association of a sender brings an instance of a series."""
        now = self._now()
        with self._lock:
            if (brought := self._brought.get(association)) is None:
                brought = self._brought[association] = Brought(calling_ae_title, series, now, now, begun)
            brought.series.setdefault(series, 0)
            brought.last, brought.active_at, brought.noted_at = series, now, now

    def stored(self, association: str, series: SeriesKey, sop_instance_uid: str) -> None:
        """Note that an instance that an association has brought is stored, or was already."""
        with self._lock:
            brought = self._brought.get(association)
            if brought is None or sop_instance_uid in (uids := brought.sop_instance_uids) or len(uids) >= MAX_COUNTED:
                return
            uids.add(sop_instance_uid)
            brought.series[series] += 1

    def brought_by(self, association: str) -> Brought | None:
        """Return the instances of an association, if any."""
        with self._lock:
            return self._brought.get(association)

    def forget(self, association: str) -> None:
        """Forget an association that has ended."""
        with self._lock:
            self._brought.pop(association, None)

    def unnoted(self, seconds: float = 0.0) -> Mapping[str, float]:
        """Return how long ago the last bytes of each association came, if the index does not know of them yet.

        Only associations whose last bytes came more than `seconds` after what the index knows; it counts as known now.
        """
        now, idle_seconds = self._now(), {}
        with self._lock:
            for association, brought in self._brought.items():
                if brought.active_at - brought.noted_at > seconds:
                    idle_seconds[association] = now - brought.active_at
                    brought.noted_at = brought.active_at
        return idle_seconds


UNKNOWN_SECONDS = 60.0
"""Quiet time of a sender about which too little is known."""

REFRESH_SECONDS = 10.0


def quiet_seconds_of(
    default: QuietTime,
    by_calling_ae_title: Mapping[str, QuietTime],
    learnt: Callable[[str], float | None] = lambda calling_ae_title: None,
) -> Callable[[str], float]:
    """Return the function that gives the quiet time of a sender.

    `learnt`: what is learnt of a sender, for those with ``auto``.
    """
    table = {title.strip(): time for title, time in by_calling_ae_title.items()}
    remembered: dict[str, tuple[float, float]] = {}

    def seconds_learnt(calling_ae_title: str) -> float:
        """Ask once in `REFRESH_SECONDS`; receiving never waits for the index."""
        seconds, until = remembered.get(calling_ae_title, (UNKNOWN_SECONDS, 0.0))
        if monotonic() >= until:
            try:
                seconds = learnt(calling_ae_title) or UNKNOWN_SECONDS
            except VoxelnodeError as error:  # the last answer stands
                log.warning("quiet_time_not_read", reason=str(error))
            remembered[calling_ae_title] = seconds, monotonic() + REFRESH_SECONDS
        return seconds

    def seconds(calling_ae_title: str) -> float:
        time = table.get(calling_ae_title.strip(), default)
        return seconds_learnt(calling_ae_title) if time == "auto" else time

    return seconds


WRITE_SECONDS = 2.0
"""Between two writes to the index."""

LISTED_SECONDS = 60.0
"""For how long a refusal counts as one of those that are listed."""

MAX_KINDS = 128
"""Different refusals of one level (`Refused.what`) that are listed in `LISTED_SECONDS`; further ones are counted
together. Refused contexts therefore never hide a rejected association."""


class Rejections(BackgroundService):
    """Take refusals from any thread, and write them to the index on a thread of its own.

    `on_news`: called for each refusal that got a row of its own, on the thread that writes.
    """

    def __init__(
        self,
        index: Index,
        metrics: Metrics,
        on_news: Callable[[Refused], None] = lambda refused: None,
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        super().__init__("rejections")
        self._index, self._metrics, self._on_news, self._now = index, metrics, on_news, now
        self._lock = threading.Lock()
        self._collected: dict[Refused, CountedRefusal] = {}
        self._listed_at: dict[Refused, float] = {}  # the one that was seen last at the end
        self._lines = LinesOfAddresses(report=lambda event, block, count: None)  # the last row of an address counts
        self._written_at = -WRITE_SECONDS

    def record(self, refused: Refused) -> None:
        """Count a refusal; never waits for the disk and never raises."""
        now = self._now()
        self._metrics.rejections.labels(what=refused.what, rule=refused.rule).inc()
        with self._lock:
            refused = self._listed(refused)
            before = self._collected.pop(refused, None)
            count, first_at = (before.count + 1, before.first_at) if before else (1, now)
            self._collected[refused] = CountedRefusal(refused, count, first_at, now)
        self.wake(self._written_at + WRITE_SECONDS - monotonic())

    def _listed(self, refused: Refused) -> Refused:
        """Return a refusal or, when too many different ones were listed, the one by which it is counted.

        Of an address, as many in a minute as the log has kinds of, each row being one: one sender hides no other.
        """
        now, listed = monotonic(), self._listed_at
        while listed and listed[oldest := next(iter(listed))] < now - LISTED_SECONDS:
            del listed[oldest]
        if refused not in listed:
            level = [one for one in listed if one.what == refused.what]
            if not self._lines.is_due(refused.what, refused.peer, str(hash(refused))):
                refused = _too_many(refused.what, KINDS_OF_MINUTE, block_of(refused.peer))
            if len(level) >= MAX_KINDS and refused not in listed:
                refused = _too_many(refused.what, MAX_KINDS)
        listed.pop(refused, None)
        listed[refused] = now
        return refused

    def stop(self, seconds: float | None = None) -> None:
        """Write what is collected, and stop."""
        super().stop(seconds)
        self._checked_step()

    def step(self) -> None:
        """Write what is collected; what the index does not take is written with the next step."""
        with self._lock:
            collected, self._collected = self._collected, {}
        if not collected:
            return
        self._written_at = monotonic()
        try:
            news = self._index.rejections.record(list(collected.values()))
        except BaseException:
            with self._lock:
                for refused, later in self._collected.items():
                    if (earlier := collected.get(refused)) is not None:
                        later = replace(later, count=later.count + earlier.count, first_at=earlier.first_at)
                    collected[refused] = later
                self._collected = collected
            raise
        for refused in news:
            self._on_news(refused)


def _too_many(what: RefusedLevel, listed: int, peer: str = "") -> Refused:
    whose = "of this address " if peer else ""
    return Refused(
        what,
        "too many kinds",
        f"too many different refusals {whose}at once; only the first {listed} of a minute are listed",
        "look at the others of this moment, and at what a firewall may keep away",
        peer=peer,
    )
