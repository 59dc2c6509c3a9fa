"""All counters and histograms of the node.

Each node has a `Metrics` object with a registry of its own, so that two nodes in one process count separately.
"""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from time import monotonic
from typing import Any, Generic, TypeVar, cast

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
_BATCH = (1, 2, 4, 8, 16, 32, 64, 128, 256)


MINUTES, HOURS = 60, 24
MAX_SENDERS = 100
"""A stranger may call itself anything, again and again."""


_Kind = TypeVar("_Kind", Counter, Gauge, Histogram)


class _Metric(Generic[_Kind]):
    """A metric, named after its attribute. Each `Metrics` makes its own, in its own registry."""

    def __init__(self, kind: Callable[..., _Kind], text: str, labels: str = "", **buckets: Sequence[float]) -> None:
        self._made: Callable[..., _Kind] = partial(kind, documentation=text, labelnames=labels.split(), **buckets)

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, metrics: Metrics, owner: type) -> _Kind:
        """Make the metric; from then on it is an attribute of the object itself, without this call."""
        made = metrics.__dict__[self._name] = self._made(f"voxelnode_{self._name}", registry=metrics.registry)
        return made


class Metrics:
    """Counters since the start of the node. Thread-safe."""

    connections = _Metric(Gauge, "Open TCP connections, with or without an association")
    open_associations = _Metric(Gauge, "Open associations")
    associations = _Metric(
        Counter,
        "Associations that ended, by outcome: released, aborted, lost, violated, idle, drained, cut off, given up",
        "outcome",
    )
    rejections = _Metric(
        Counter,
        "Refusals by rule and by what is refused: connection, association, context, instance, retrieve, commitment",
        "what rule",
    )
    refused_connections = _Metric(
        Counter,
        "Associations, HL7 connections, requests and event streams that found no place, by port (dicom, hl7, web, "
        "events) and by the share that was used up (caller, address, places)",
        "port rule",
    )
    evicted_connections = _Metric(
        Counter, "Connections that gave way to others, by port and by what was taken (pending, places)", "port rule"
    )
    c_store_answers = _Metric(Counter, "C-STORE requests answered, by status", "status")
    received_bytes = _Metric(Counter, "Data set bytes received by C-STORE, in stored and refused instances")
    receive_seconds = _Metric(Histogram, "From a C-STORE request to the last byte of its data set", buckets=_SECONDS)
    keep_seconds = _Metric(
        Histogram, "From the last byte of a data set until it is durable and may be acknowledged", buckets=_SECONDS
    )
    sync_seconds = _Metric(Histogram, "One append to the journal, with its sync", buckets=_SECONDS)
    acknowledge_seconds = _Metric(
        Histogram,
        "Wait for index or object store of an instance that is in the journal, before it is acknowledged",
        buckets=_SECONDS,
    )
    commit_seconds = _Metric(Histogram, "One commit of the index", buckets=_SECONDS)
    commit_conflicts = _Metric(Counter, "Commits that were repeated for other writers")
    commit_instances = _Metric(Histogram, "Instances in one commit", buckets=_BATCH)
    intake_open = _Metric(Gauge, "1 while the disk has free space and has not failed")
    retrieve_answers = _Metric(Counter, "C-MOVE and C-GET operations, by final status", "status")
    sent_instances = _Metric(
        Counter, "Instances sent for C-MOVE and C-GET, by outcome: completed, warning, failed", "outcome"
    )
    commitment_reports = _Metric(
        Counter, "Results of storage commitment, by outcome: reported, postponed, given-up", "outcome"
    )
    queued_instances = _Metric(Gauge, "Instances that were acknowledged and are not in the index yet")
    journal_lag_seconds = _Metric(Gauge, "For how long acknowledged instances have not been in the index")
    journal_bytes = _Metric(Gauge, "Size of the journal on the disk")
    uploaded_instances = _Metric(Counter, "Instances moved to the object store")
    spooled_instances = _Metric(Gauge, "Instances still to be moved to the object store")
    spooled_volume_files = _Metric(Gauge, "Files of volumes still to be moved to the object store")
    object_store_up = _Metric(Gauge, "1 while the object store answers; 0 without one")
    scrub_last_pass_timestamp_seconds = _Metric(Gauge, "When all files had been compared last; 0: never")
    scrub_damaged = _Metric(Gauge, "Damaged or missing files found by the last full pass")
    retention_held = _Metric(Gauge, "1 while retention waits for a person: the clock is in doubt, or much is due")
    web_restarts = _Metric(Counter, "Starts of the process that serves HTTP, beyond the first")
    http_requests = _Metric(Counter, "HTTP requests answered", "method status")
    http_seconds = _Metric(Histogram, "One HTTP request, until its last byte", buckets=_SECONDS)
    hook_messages = _Metric(
        Counter,
        "Attempts to deliver messages to hooks, by outcome: delivered, failed (retried later), given-up",
        "hook outcome",
    )
    route_instances = _Metric(
        Counter,
        "Instances sent by routes, and volumes written into data sets: sent, failed (tried again), given-up",
        "route destination outcome",
    )
    route_bytes = _Metric(Counter, "Data set bytes sent by routes", "route destination")

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        for name in [name for name, one in vars(Metrics).items() if isinstance(one, _Metric)]:
            getattr(self, name)
        self.started_at = dt.datetime.now(dt.UTC)
        self.last_hour, self.last_day, self.last_words = Recent(60, MINUTES), Recent(3600, HOURS), LastWords()
        self.service_failures = _ServiceFailures()
        self.registry.register(self.service_failures)

    def collect(self) -> Iterable[Metric]:
        """Return all families with their samples."""
        return self.registry.collect()

    def snapshot(self) -> dict[str, float]:
        """Return every sample by name, with labels as ``name{label=value}``; histograms without their buckets."""
        return {
            sample.name + "".join(f"{{{label}={value}}}" for label, value in sample.labels.items()): sample.value
            for family in self.collect()
            for sample in family.samples
            if not sample.name.endswith(("_bucket", "_created"))
        }

    def exposition(self) -> bytes:
        """Return the metrics in the text format of Prometheus."""
        return generate_latest(cast(Any, self))


@dataclass(slots=True)
class Span:
    """What was received in a minute or an hour, and how many series waited or were converted at most; None: unknown."""

    instances: int = 0
    bytes: int = 0
    series: int | None = None


class Recent:
    """The last `count` spans of so many seconds, for people who look. Thread-safe.

    `now`: seconds of a clock that never goes back.
    """

    def __init__(self, seconds: int, count: int, now: Callable[[], float] = monotonic) -> None:
        self._now, self._seconds, self._count = now, seconds, count
        self._lock = threading.Lock()
        self._spans: dict[int, Span] = {}

    def received(self, bytes_: int, seconds_ago: float = 0.0) -> None:
        """Count an instance that was received and is durable."""
        with self._lock:
            span = self._span(seconds_ago)
            span.instances += 1
            span.bytes += bytes_

    def waiting(self, series: int) -> None:
        """Note how many series wait for a conversion or are being converted."""
        with self._lock:
            span = self._span()
            span.series = max(series, span.series or 0)

    def spans(self) -> list[Span]:
        """Return copies of the spans, the oldest first; the last one is not over yet."""
        with self._lock:
            last = int(self._now() // self._seconds)
            return [replace(self._spans.get(number, Span())) for number in range(last - self._count + 1, last + 1)]

    def _span(self, seconds_ago: float = 0.0) -> Span:
        now = self._now()
        number = int((now - seconds_ago) // self._seconds)
        if number not in self._spans:
            oldest = int(now // self._seconds) - self._count + 1
            self._spans = {known: span for known, span in self._spans.items() if known >= oldest}
            self._spans[number] = Span()
        return self._spans[number]


@dataclass(frozen=True, slots=True)
class LastWord:
    """What was last heard of a sender, and how many instances it has stored since the start."""

    calling_ae_title: str
    address: str
    word: str
    at: dt.datetime
    stored: int = 0


class LastWords:
    """The last word of each sender since the start of the node. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, LastWord] = {}

    def heard(self, calling_ae_title: str, address: str, word: str, at: dt.datetime, stored: int = 0) -> None:
        """Note what a sender did; of more than `MAX_SENDERS`, the one that was heard first is forgotten."""
        with self._lock:
            before = self._known.pop(calling_ae_title, None)
            total = stored + (before.stored if before is not None else 0)
            self._known[calling_ae_title] = LastWord(calling_ae_title, address, word, at, total)
            if len(self._known) > MAX_SENDERS:
                del self._known[next(iter(self._known))]

    def recall(self, earlier: Iterable[LastWord]) -> None:
        """Note what rows say of the time before the start, the earliest first; what was heard since is the last word.

        Instances that a sender has stored are those since the start and those of rows.
        """
        with self._lock:
            known = {word.calling_ae_title: word for word in earlier}
            for title, word in self._known.items():
                before = known.pop(title, None)
                known[title] = replace(word, stored=word.stored + before.stored) if before is not None else word
            self._known = known

    def all(self) -> list[LastWord]:
        """Return the senders, the last one heard first."""
        with self._lock:
            return list(reversed(self._known.values()))


class _ServiceFailures(Collector):
    """Reads the counts of the services when it is asked; `counts` returns them by name."""

    def __init__(self) -> None:
        self.counts: Callable[[], Mapping[str, int]] = dict

    def collect(self) -> Iterator[CounterMetricFamily]:
        family = CounterMetricFamily(
            "voxelnode_service_failures", "Failed steps of services, all of them tried again", labels=["service"]
        )
        for service, count in self.counts().items():
            family.add_metric([service], count)
        yield family
