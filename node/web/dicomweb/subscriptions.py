"""Who wants reports of which workitems (PS3.4 CC.2.3): in memory, because no report is kept for later either."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from node.dicom.matching import Query
from node.errors import OutOfResources
from node.index.read.workitems import Workitem, WorkitemCursor

MAX_SUBSCRIBERS, MAX_SUBSCRIBERS_OF_ACCOUNT = 200, 20
MAX_FILTERS, MAX_WORKITEMS = 10, 1000
"""Filters and single workitems of one subscriber."""

Subscriber = tuple[str, str]
"""The name of an account, and an AE title: accounts cannot change the subscriptions of each other."""


@dataclass(slots=True)
class Subscription:
    """What one subscriber is subscribed to.

    Attributes
    ----------
    is_global : bool
    until : WorkitemCursor or None
        After a global subscription was suspended: only workitems that were there before are reported.
    filters : list of Query
    included, excluded : ordered dict of UIDs
        Single workitems, subscribed or unsubscribed.
    initial : list of str
        UIDs whose state is to be reported at once.
    """

    is_global: bool = False
    until: WorkitemCursor | None = None
    filters: list[Query] = field(default_factory=list)
    included: OrderedDict[str, None] = field(default_factory=OrderedDict)
    excluded: OrderedDict[str, None] = field(default_factory=OrderedDict)
    initial: list[str] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """Whether nothing would be reported."""
        return not (self.is_global or self.filters or self.included)

    def wants(self, uid: str, workitem: Workitem, matches: Callable[[Query], bool]) -> bool:
        """Return whether the changes of a workitem are reported."""
        if uid in self.included:
            return True
        if uid in self.excluded:
            return False
        until = self.until
        is_there = until is None or (workitem.series_id <= until.series_id and workitem.predecessor <= until.event_id)
        return is_there and (self.is_global or any(matches(query) for query in self.filters))


class Subscriptions:
    """The subscriptions of all subscribers, until the node stops. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._subscriptions: dict[Subscriber, Subscription] = {}

    def of(self, subscriber: Subscriber) -> Subscription | None:
        """Return the subscription of a subscriber, or None."""
        with self._lock:
            return self._subscriptions.get(subscriber)

    def subscribe(self, subscriber: Subscriber, uid: str) -> None:
        """Subscribe to one workitem, whose state is then reported at once."""
        with self._lock:
            subscription = self._opened(subscriber)
            if len(subscription.included) >= MAX_WORKITEMS:
                raise OutOfResources(f"{MAX_WORKITEMS} workitems are subscribed already: subscribe to the worklist")
            subscription.included[uid] = None
            subscription.excluded.pop(uid, None)
            subscription.initial.append(uid)

    def subscribe_all(self, subscriber: Subscriber) -> None:
        """Subscribe to all workitems, those to come included."""
        with self._lock:
            subscription = self._opened(subscriber)
            subscription.is_global, subscription.until = True, None
            subscription.excluded.clear()

    def subscribe_matching(self, subscriber: Subscriber, query: Query) -> None:
        """Subscribe to all workitems that match, those to come included."""
        with self._lock:
            subscription = self._opened(subscriber)
            if len(subscription.filters) >= MAX_FILTERS:
                raise OutOfResources(f"{MAX_FILTERS} filters are subscribed already: unsubscribe first")
            subscription.filters.append(query)
            subscription.until = None

    def suspend(self, subscriber: Subscriber, now: WorkitemCursor) -> bool:
        """Report only workitems that are there now; False without a subscription to all or to a filter."""
        with self._lock:
            subscription = self._subscriptions.get(subscriber)
            if subscription is None or not (subscription.is_global or subscription.filters):
                return False
            subscription.until = now
            return True

    def unsubscribe(self, subscriber: Subscriber, uid: str) -> bool:
        """End the subscription to one workitem; False if there is none."""
        with self._lock:
            subscription = self._subscriptions.get(subscriber)
            if subscription is None or (uid not in subscription.included and not subscription.is_global):
                return False
            subscription.included.pop(uid, None)
            if subscription.is_global or subscription.filters:
                subscription.excluded[uid] = None
                while len(subscription.excluded) > MAX_WORKITEMS:
                    subscription.excluded.popitem(last=False)
            elif subscription.is_empty:
                del self._subscriptions[subscriber]
            return True

    def unsubscribe_all(self, subscriber: Subscriber) -> bool:
        """End all subscriptions of a subscriber; False if there are none."""
        with self._lock:
            return self._subscriptions.pop(subscriber, None) is not None

    def _opened(self, subscriber: Subscriber) -> Subscription:
        known = self._subscriptions.get(subscriber)
        if known is not None:
            return known
        of_account = sum(account == subscriber[0] for account, _ in self._subscriptions)
        if len(self._subscriptions) >= MAX_SUBSCRIBERS or of_account >= MAX_SUBSCRIBERS_OF_ACCOUNT:
            raise OutOfResources("too many AE titles have subscriptions already: unsubscribe one of them")
        self._subscriptions[subscriber] = subscription = Subscription()
        return subscription
