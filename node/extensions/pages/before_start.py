"""What the page Status shows of the time before the start of the node: senders and minutes, from the rows of images.

The node counts in memory what it receives. The rows of what came before its start do not change, but for deletions, and
are read once.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

from node.index.database.reading import ReadIndex
from node.metrics import LastWord, Metrics, Minute
from node.web.services import Services

DAY, HOUR = dt.timedelta(days=1), dt.timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class BeforeStart:
    """The senders of the day before the start, the last one heard first, and what came in the hour before it.

    `minutes`: by the number of whole minutes from the reception to the start; 0 is the last one.
    """

    started_at: dt.datetime
    senders: Sequence[LastWord]
    minutes: Mapping[int, Minute]


_KNOWN: WeakKeyDictionary[Metrics, BeforeStart] = WeakKeyDictionary()


def before_start(node: Services, index: ReadIndex) -> BeforeStart:
    """Return what the index has of the time before the start of a node."""
    if (known := _KNOWN.get(node.metrics)) is None:
        known = _KNOWN[node.metrics] = _read(index, node.metrics.started_at)
    return known


def _read(index: ReadIndex, started_at: dt.datetime) -> BeforeStart:
    minutes: dict[int, Minute] = {}
    for at, size in index.senders.received(started_at - HOUR, started_at):
        minute = minutes.setdefault(int((started_at - at).total_seconds() // 60), Minute())
        minute.instances += 1
        minute.bytes += size
    words: dict[str, LastWord] = {}
    for title, peer, at, count in index.senders.heard(started_at - DAY, started_at):
        stored = count + (words[title].stored if title in words else 0)  # from several ports or addresses
        words[title] = LastWord(title, peer.rpartition(":")[0] or peer, "stored an instance", at, stored)
    return BeforeStart(started_at, sorted(words.values(), key=lambda word: word.at, reverse=True), minutes)


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


def with_received(minutes: Sequence[Minute], before: BeforeStart, now: dt.datetime) -> list[Minute]:
    """Return the minutes of the last hour, the oldest first, with what was received in them before the start."""
    since = int((now - before.started_at).total_seconds() // 60)
    added = []
    for ago, minute in enumerate(reversed(minutes)):
        earlier = before.minutes.get(ago - since)
        added.append(
            minute
            if earlier is None
            else replace(minute, instances=minute.instances + earlier.instances, bytes=minute.bytes + earlier.bytes)
        )
    return added[::-1]
