"""What the pages show of the day before the start: counted once, by the process that receives."""

import datetime as dt
from collections.abc import Mapping
from functools import partial
from threading import Lock
from typing import Any
from weakref import WeakSet

from node.association.added import OpenedRoot
from node.hookspecs import Action
from node.index.database import Index
from node.runtime.metrics import LastWord, Metrics

_recalled: WeakSet[Metrics] = WeakSet()
_recalling = Lock()


def actions(root: OpenedRoot) -> Mapping[str, Action]:
    """Return the action by its name."""
    return {"recall": partial(recall, root.ingest.metrics, root.ingest.index)}


def recall(metrics: Metrics, index: Index) -> Mapping[str, Any]:
    """Add the senders and instances of the day before the start, as the index has them, to the metrics of a node.

    The node counts in memory what it receives. The rows of what came before its start do not change, but for deletions,
    and are read once.
    """
    start, since = metrics.started_at, metrics.started_at - dt.timedelta(days=1)
    with _recalling, index.reading(wait=False) as reading:
        if metrics in _recalled:
            return {}
        now = dt.datetime.now(dt.UTC)
        for at, size in reading.senders.received(since, start):
            for recent in (metrics.last_hour, metrics.last_day):
                recent.received(size, (now - at).total_seconds())
        words: dict[str, LastWord] = {}
        for title, peer, at, count in reading.senders.heard(since, start):
            stored = count + (words.pop(title).stored if title in words else 0)  # from several ports or addresses
            words[title] = LastWord(title, peer.rpartition(":")[0] or peer, "stored an instance", at, stored)
        metrics.last_words.recall(words.values())
        _recalled.add(metrics)
    return {}
