"""This host among those that share an index: it says that it lives, and hears what the others do."""

from __future__ import annotations

import datetime as dt
import random
from time import monotonic

import structlog

from node.background import BackgroundService
from node.index.database import Index
from node.index.hosts import Leases, Member
from node.receive.ingest import Ingest

log = structlog.get_logger()

LOOK_SECONDS = 0.5
"""Interval between two looks at what other hosts have committed, give or take a quarter."""

BEHIND_SECONDS = 1.0
"""Instances that are acknowledged and not indexed after this time keep all hosts from claiming series."""

AHEAD = dt.timedelta(seconds=3)
"""How long before a series is due its receiver says that an open association keeps it waiting."""


class Membership(BackgroundService):
    """Lengthen the lease of this host, take what no living host does, and wake what follows commits.

    Parameters
    ----------
    member : Member
    ingest : Ingest
        Knows the open associations of this host, and how far behind the index is.
    """

    def __init__(self, index: Index, ingest: Ingest, member: Member) -> None:
        super().__init__("cluster")
        self._index, self._ingest, self._member = index, ingest, member
        self._leases = Leases()
        self._started_at = index.now()
        self._seen = index.settled()
        self._beat_at = 0.0
        self._is_behind = False
        self._wanted: frozenset[str] = frozenset()

    def start(self) -> None:
        """Join the hosts of the index. From here on, this one does only what it holds a lease for."""
        self._index.share(self._leases)
        self._beat()
        super().start()

    def stop(self, seconds: float | None = None) -> None:
        """Give back what this host holds; everything that works with it has stopped."""
        super().stop(seconds)
        self._index.hosts.leave(self._member.name, self._index.now())

    def step(self) -> float:
        """Look at the index; return the seconds until the next look."""
        self._keep_waiting()
        is_behind = self._ingest.applier.lag_seconds > BEHIND_SECONDS
        if monotonic() >= self._beat_at or is_behind != self._is_behind or self._leases.wanted != self._wanted:
            self._is_behind = is_behind
            self._beat()
        if (settled := self._index.settled()) != self._seen:
            self._seen = settled
            self._index.note_commits()
        return LOOK_SECONDS * random.uniform(0.75, 1.25)

    def _beat(self) -> None:
        self._index.measure_clock()
        began, wanted = monotonic(), self._leases.wanted
        held = self._index.hosts.beat(
            self._member, wanted, self._started_at, self._index.now(), is_behind=self._is_behind
        )
        # A series waits for each upload of its instances, usually for less than a second.
        self._index.series.note_hosts_awaited(self._index.now() - self._member.lease / 4)
        seconds = self._member.lease.total_seconds()
        self._wanted = wanted
        self._beat_at = began + seconds / 4
        if self._leases.renew(held, began + seconds):
            log.info("leases_taken", count=len(held))
            self._index.note_commits()

    def _keep_waiting(self) -> None:
        """Let series wait for the open associations of this host, before another one finds them due."""
        asked = self._ingest.open_associations.asked_seconds()
        now = self._index.now()
        until = {key: now + dt.timedelta(seconds=seconds) for key, seconds in asked.items()}
        if until:
            self._index.series.keep_waiting(until, now + AHEAD)
