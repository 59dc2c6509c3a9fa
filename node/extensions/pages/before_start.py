"""What the page Status shows of the day before the start of the node: senders and what came, from the rows of images.

The node counts in memory what it receives. The rows of what came before its start do not change, but for deletions, and
are read once.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

from node.index.database.reading import ReadIndex
from node.metrics import LastWord, Metrics, Span
from node.web.services import Services

DAY = dt.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class BeforeStart:
    """The senders of the day before the start, the last one heard first, and what came in it.

    `minutes`, `hours`: by the number of whole minutes or hours from the reception to the start; 0 is the last one.
    """

    started_at: dt.datetime
    senders: Sequence[LastWord]
    minutes: Mapping[int, Span]
    hours: Mapping[int, Span]


_KNOWN: WeakKeyDictionary[Metrics, BeforeStart] = WeakKeyDictionary()


def before_start(node: Services, index: ReadIndex) -> BeforeStart:
    """Return what the index has of the time before the start of a node."""
    if (known := _KNOWN.get(node.metrics)) is None:
        known = _KNOWN[node.metrics] = _read(index, node.metrics.started_at)
    return known


def _read(index: ReadIndex, started_at: dt.datetime) -> BeforeStart:
    minutes, hours = defaultdict[int, Span](Span), defaultdict[int, Span](Span)
    for at, size in index.senders.received(started_at - DAY, started_at):
        ago = (started_at - at).total_seconds()
        for span in (minutes[int(ago // 60)], hours[int(ago // 3600)]):
            span.instances += 1
            span.bytes += size
    words: dict[str, LastWord] = {}
    for title, peer, at, count in index.senders.heard(started_at - DAY, started_at):
        stored = count + (words[title].stored if title in words else 0)  # from several ports or addresses
        words[title] = LastWord(title, peer.rpartition(":")[0] or peer, "stored an instance", at, stored)
    return BeforeStart(started_at, sorted(words.values(), key=lambda word: word.at, reverse=True), minutes, hours)


def senders(heard: Sequence[LastWord], before: Sequence[LastWord]) -> list[LastWord]:
    """Return the last word of each sender: what the node has heard since its start counts before what rows say.

    Instances that it has stored are those since the start and those of rows.
    """
    earlier = {word.calling_ae_title: word for word in before}
    since = [
        replace(word, stored=word.stored + earlier.pop(word.calling_ae_title).stored)
        if word.calling_ae_title in earlier
        else word
        for word in heard
    ]
    return [*since, *earlier.values()]


def with_received(spans: Sequence[Span], earlier: Mapping[int, Span], since: int) -> list[Span]:
    """Return the spans until now, the oldest first, with what was received in them before the start.

    `since`: whole spans from the start until now.
    """
    added = []
    for ago, span in enumerate(reversed(spans)):
        before = earlier.get(ago - since)
        added.append(
            span
            if before is None
            else replace(span, instances=span.instances + before.instances, bytes=span.bytes + before.bytes)
        )
    return added[::-1]
