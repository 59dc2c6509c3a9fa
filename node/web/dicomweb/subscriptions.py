"""Who wants reports of which workitems (PS3.4 CC.2.3). Subscriptions are kept in the index; reports are not kept."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from typing import Any

import structlog
from fastapi import HTTPException

from node.dicom.json_model import Json
from node.errors import OutOfResources
from node.index.read.workitems import WorkitemCursor
from node.index.workitems import Subscriber, WorkitemRepository
from node.web.dicomweb.workitem_keys import WorkitemQuery, read_keys

log = structlog.get_logger()

MAX_SUBSCRIBERS, MAX_SUBSCRIBERS_OF_ACCOUNT = 200, 20
MAX_FILTERS, MAX_WORKITEMS = 10, 1000
"""Filters and single workitems of one subscriber."""

MAX_INITIAL = 10_000
"""Workitems whose state a subscriber is told at first."""


@dataclass(frozen=True, slots=True)
class Filter:
    """The keys of a filtered subscription as they were given, and whether it locks what it matches."""

    keys: tuple[tuple[str, str], ...]
    query: WorkitemQuery
    is_locking: bool

    @classmethod
    def of(cls, keys: Iterable[Sequence[str]], *, is_locking: bool) -> Filter:
        """Return the filter of attributes with their values."""
        pairs = tuple((name, text) for name, text in keys)
        return cls(pairs, read_keys(pairs), is_locking)


@dataclass(slots=True)
class Subscription:
    """What one subscriber is subscribed to.

    Attributes
    ----------
    is_global : bool
    is_locking : bool
        Whether the global subscription locks new workitems.
    until : WorkitemCursor or None
        After a global subscription was suspended: only workitems that were there before are reported.
    filters : list of Filter
    included, excluded : ordered dict of UIDs
        Single workitems, subscribed or unsubscribed.
    """

    is_global: bool = False
    is_locking: bool = False
    until: WorkitemCursor | None = None
    filters: list[Filter] = field(default_factory=list)
    included: OrderedDict[str, None] = field(default_factory=OrderedDict)
    excluded: OrderedDict[str, None] = field(default_factory=OrderedDict)

    @property
    def is_empty(self) -> bool:
        """Whether nothing would be reported."""
        return not (self.is_global or self.filters or self.included)

    def wants(self, uid: str, began: WorkitemCursor, attributes: Callable[[], Json]) -> bool:
        """Return whether the changes of a workitem are reported.

        Parameters
        ----------
        began : WorkitemCursor
            What there was before the workitem.
        """
        if uid in self.included:
            return True
        if uid in self.excluded or (self.until is not None and not _is_before(began, self.until)):
            return False
        return self.is_global or any(one.query.matches(attributes()) for one in self.filters)

    def locks(self, attributes: Json) -> bool:
        """Return whether a new workitem gets a deletion lock."""
        if self.until is not None:
            return False
        filters = (one for one in self.filters if one.is_locking)
        return (self.is_global and self.is_locking) or any(one.query.matches(attributes) for one in filters)

    def to_json(self) -> dict[str, Any]:
        """Return the subscription as JSON values."""
        return {
            "global": self.is_global,
            "locking": self.is_locking,
            "until": None if self.until is None else asdict(self.until),
            "filters": [{"keys": one.keys, "locking": one.is_locking} for one in self.filters],
            "included": list(self.included),
            "excluded": list(self.excluded),
        }

    @classmethod
    def of_json(cls, values: dict[str, Any]) -> Subscription:
        """Return the subscription that `to_json` returned the values of."""
        until = values["until"]
        return cls(
            values["global"],
            values["locking"],
            None if until is None else WorkitemCursor(**until),
            [Filter.of(one["keys"], is_locking=one["locking"]) for one in values["filters"]],
            OrderedDict.fromkeys(values["included"]),
            OrderedDict.fromkeys(values["excluded"]),
        )


def _is_before(began: WorkitemCursor, until: WorkitemCursor) -> bool:
    return all(mine <= last for mine, last in zip(asdict(began).values(), asdict(until).values(), strict=True))


class Subscriptions:
    """The subscriptions of all subscribers. Thread-safe.

    Parameters
    ----------
    workitems : WorkitemRepository
        Keeps the subscriptions and the deletion locks.
    """

    def __init__(self, workitems: WorkitemRepository) -> None:
        self._workitems = workitems
        self._lock = threading.RLock()
        self._subscriptions = dict(self._kept())
        self._restarted = set(self._subscriptions)
        self._initial: dict[Subscriber, list[str]] = {}

    def _kept(self) -> Iterator[tuple[Subscriber, Subscription]]:
        """Yield the subscriptions of before. One that this version cannot read ends, so that its locks hold nothing."""
        for subscriber, values in self._workitems.subscribers().items():
            try:
                yield subscriber, Subscription.of_json(values)
            except (HTTPException, LookupError, TypeError, ValueError):
                log.warning("subscription_ended", account=subscriber[0], ae_title=subscriber[1])
                self._workitems.subscribe(subscriber, None)

    def of(self, subscriber: Subscriber) -> Subscription | None:
        """Return the subscription of a subscriber, or None; it never changes."""
        with self._lock:
            return self._subscriptions.get(subscriber)

    def knows_of_restart(self, subscriber: Subscriber) -> bool:
        """Return, once for each subscriber of before the start of the node, False."""
        with self._lock:
            is_new = subscriber in self._restarted
            self._restarted.discard(subscriber)
            return not is_new

    def take_initial(self, subscriber: Subscriber, limit: int) -> list[str]:
        """Take at most `limit` UIDs of workitems whose state is to be reported at once."""
        with self._lock:
            waiting = self._initial.get(subscriber, [])
            taken, self._initial[subscriber] = waiting[:limit], waiting[limit:]
            return taken

    def is_heard(self, uid: str, began: WorkitemCursor, attributes: Json) -> bool:
        """Return whether somebody is subscribed to a workitem."""
        with self._lock:
            return any(one.wants(uid, began, lambda: attributes) for one in self._subscriptions.values())

    @contextmanager
    def locking(self, attributes: Json) -> Iterator[list[Subscriber]]:
        """Yield who locks a new workitem, while nobody subscribes or unsubscribes."""
        with self._lock:
            yield [subscriber for subscriber, one in self._subscriptions.items() if one.locks(attributes)]

    def subscribe(self, subscriber: Subscriber, uid: str, *, is_locking: bool) -> None:
        """Subscribe to one workitem, whose state is then reported at once; with or without a deletion lock."""
        locks = {"locked": [uid]} if is_locking else {"unlocked": [uid]}
        with self._changed(subscriber, **locks) as subscription:
            if uid not in subscription.included and len(subscription.included) >= MAX_WORKITEMS:
                raise OutOfResources(f"{MAX_WORKITEMS} workitems are subscribed already: subscribe to the worklist")
            subscription.included[uid] = None
            subscription.excluded.pop(uid, None)
            self._initial.setdefault(subscriber, []).append(uid)

    def subscribe_all(
        self, subscriber: Subscriber, now: Callable[[WorkitemQuery | None], list[str]], *, is_locking: bool
    ) -> None:
        """Subscribe to all workitems, those to come included.

        Parameters
        ----------
        now : callable
            Returns the UIDs of the workitems that there are; they are locked and reported at once with `is_locking`.
        """
        with self._lock:
            there = now(None) if is_locking else []
            with self._changed(subscriber, locked=there) as subscription:
                subscription.is_global, subscription.is_locking, subscription.until = True, is_locking, None
                subscription.excluded.clear()
                self._initial.setdefault(subscriber, []).extend(there[:MAX_INITIAL])

    def subscribe_matching(
        self, subscriber: Subscriber, wanted: Filter, now: Callable[[WorkitemQuery | None], list[str]]
    ) -> None:
        """Subscribe to all workitems that match, those to come included; see `subscribe_all`."""
        with self._lock:
            there = now(wanted.query) if wanted.is_locking else []
            with self._changed(subscriber, locked=there) as subscription:
                if len(subscription.filters) >= MAX_FILTERS:
                    raise OutOfResources(f"{MAX_FILTERS} filters are subscribed already: unsubscribe first")
                subscription.filters.append(wanted)
                subscription.until = None
                self._initial.setdefault(subscriber, []).extend(there[:MAX_INITIAL])

    def suspend(self, subscriber: Subscriber, now: WorkitemCursor) -> bool:
        """Report only workitems that are there now; False without a subscription to all or to a filter."""
        with self._lock:
            known = self._subscriptions.get(subscriber)
            if known is None or not (known.is_global or known.filters):
                return False
            with self._changed(subscriber) as subscription:
                subscription.until = now
            return True

    def unsubscribe(self, subscriber: Subscriber, uid: str) -> bool:
        """End the subscription to one workitem, with its deletion lock; False if there is none."""
        with self._lock:
            known = self._subscriptions.get(subscriber)
            if known is None or (uid not in known.included and not (known.is_global or known.filters)):
                return False
            with self._changed(subscriber, unlocked=[uid]) as subscription:
                subscription.included.pop(uid, None)
                if subscription.is_global or subscription.filters:
                    subscription.excluded[uid] = None
                    while len(subscription.excluded) > MAX_WORKITEMS:
                        subscription.excluded.popitem(last=False)
            return True

    def unsubscribe_all(self, subscriber: Subscriber) -> bool:
        """End all subscriptions of a subscriber, with its deletion locks; False if there are none."""
        with self._lock:
            if subscriber not in self._subscriptions:
                return False
            self._workitems.subscribe(subscriber, None)
            del self._subscriptions[subscriber]
            self._initial.pop(subscriber, None)
            return True

    @contextmanager
    def _changed(
        self, subscriber: Subscriber, *, locked: Sequence[str] = (), unlocked: Sequence[str] = ()
    ) -> Iterator[Subscription]:
        """Yield a copy of a subscription, which counts once it is committed with its locks."""
        with self._lock:
            known = self._subscriptions.get(subscriber)
            if known is None:
                self._require_place(subscriber)
            subscription = Subscription() if known is None else deepcopy(known)
            yield subscription
            if subscription.is_empty:
                self.unsubscribe_all(subscriber)
                return
            self._workitems.subscribe(subscriber, subscription.to_json(), locked, unlocked)
            self._subscriptions[subscriber] = subscription

    def _require_place(self, subscriber: Subscriber) -> None:
        of_account = sum(account == subscriber[0] for account, _ in self._subscriptions)
        if len(self._subscriptions) >= MAX_SUBSCRIBERS or of_account >= MAX_SUBSCRIBERS_OF_ACCOUNT:
            raise OutOfResources("too many AE titles have subscriptions already: unsubscribe one of them")
