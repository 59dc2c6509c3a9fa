"""All counters and histograms of the node.

Each node has a `Metrics` object with a registry of its own, so that two nodes in one process count separately.
"""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from time import monotonic

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
_BATCH = (1, 2, 4, 8, 16, 32, 64, 128, 256)


MINUTES, HOURS = 60, 24
MAX_SENDERS = 100
"""A stranger may call itself anything, again and again."""


class Metrics:
    """Counters since the start of the node. Thread-safe."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        counter = partial(Counter, registry=self.registry)
        gauge = partial(Gauge, registry=self.registry)
        histogram = partial(Histogram, registry=self.registry, buckets=_SECONDS)
        self.connections = gauge("voxelnode_connections", "Open TCP connections, with or without an association")
        self.open_associations = gauge("voxelnode_open_associations", "Open associations")
        self.associations = counter(
            "voxelnode_associations",
            "Associations that ended, by outcome: released, aborted, lost, violated, idle, drained, cut off, given up",
            ["outcome"],
        )
        self.rejections = counter(
            "voxelnode_rejections",
            "Refusals by rule and by what is refused: connection, association, context, instance, retrieve, commitment",
            ["what", "rule"],
        )
        self.refused_connections = counter(
            "voxelnode_refused_connections",
            "Associations, HL7 connections, requests and event streams that found no place, by port (dicom, hl7, web, "
            "events) and by the share that was used up (caller, address, places)",
            ["port", "rule"],
        )
        self.evicted_connections = counter(
            "voxelnode_evicted_connections",
            "Connections that gave way to others, by port and by what was taken (pending, places)",
            ["port", "rule"],
        )
        self.c_store_answers = counter("voxelnode_c_store_answers", "C-STORE requests answered, by status", ["status"])
        self.received_bytes = counter(
            "voxelnode_received_bytes", "Data set bytes received by C-STORE, in stored and refused instances"
        )
        self.receive_seconds = histogram(
            "voxelnode_receive_seconds", "From a C-STORE request to the last byte of its data set"
        )
        self.keep_seconds = histogram(
            "voxelnode_keep_seconds", "From the last byte of a data set until it is durable and may be acknowledged"
        )
        self.sync_seconds = histogram("voxelnode_sync_seconds", "One append to the journal, with its sync")
        self.acknowledge_seconds = histogram(
            "voxelnode_acknowledge_seconds",
            "Wait for index or object store of an instance that is in the journal, before it is acknowledged",
        )
        self.commit_seconds = histogram("voxelnode_commit_seconds", "One commit of the index")
        self.commit_conflicts = counter("voxelnode_commit_conflicts", "Commits that were repeated for other writers")
        self.commit_instances = histogram("voxelnode_commit_instances", "Instances in one commit", buckets=_BATCH)
        self.intake_open = gauge("voxelnode_intake_open", "1 while the disk has free space and has not failed")
        self.retrieve_answers = counter(
            "voxelnode_retrieve_answers", "C-MOVE and C-GET operations, by final status", ["status"]
        )
        self.sent_instances = counter(
            "voxelnode_sent_instances",
            "Instances sent for C-MOVE and C-GET, by outcome: completed, warning, failed",
            ["outcome"],
        )
        self.commitment_reports = counter(
            "voxelnode_commitment_reports",
            "Results of storage commitment, by outcome: reported, postponed, given-up",
            ["outcome"],
        )
        self.queued_instances = gauge(
            "voxelnode_queued_instances", "Instances that were acknowledged and are not in the index yet"
        )
        self.journal_lag_seconds = gauge(
            "voxelnode_journal_lag_seconds", "For how long acknowledged instances have not been in the index"
        )
        self.journal_bytes = gauge("voxelnode_journal_bytes", "Size of the journal on the disk")
        self.uploaded_instances = counter("voxelnode_uploaded_instances", "Instances moved to the object store")
        self.spooled_instances = gauge("voxelnode_spooled_instances", "Instances still to be moved to the object store")
        self.spooled_volume_files = gauge(
            "voxelnode_spooled_volume_files", "Files of volumes still to be moved to the object store"
        )
        self.object_store_up = gauge("voxelnode_object_store_up", "1 while the object store answers; 0 without one")
        self.scrub_last_pass_timestamp = gauge(
            "voxelnode_scrub_last_pass_timestamp_seconds", "When all files had been compared last; 0: never"
        )
        self.scrub_damaged = gauge("voxelnode_scrub_damaged", "Damaged or missing files found by the last full pass")
        self.retention_held = gauge(
            "voxelnode_retention_held", "1 while retention waits for a person: the clock is in doubt, or much is due"
        )
        self.http_requests = counter("voxelnode_http_requests", "HTTP requests answered", ["method", "status"])
        self.http_seconds = histogram("voxelnode_http_seconds", "One HTTP request, until its last byte")
        self.hook_messages = counter(
            "voxelnode_hook_messages",
            "Attempts to deliver messages to hooks, by outcome: delivered, failed (retried later), given-up",
            ["hook", "outcome"],
        )

        self.route_instances = counter(
            "voxelnode_route_instances",
            "Instances sent by routes, and volumes written into data sets: sent, failed (tried again), given-up",
            ["route", "destination", "outcome"],
        )
        self.route_bytes = counter("voxelnode_route_bytes", "Data set bytes sent by routes", ["route", "destination"])
        self.started_at = dt.datetime.now(dt.UTC)
        self.last_hour, self.last_day, self.last_words = Recent(60, MINUTES), Recent(3600, HOURS), LastWords()
        self.service_failures = _ServiceFailures()
        self.registry.register(self.service_failures)

    def snapshot(self) -> dict[str, float]:
        """Return every sample by name, with labels as ``name{label=value}``; histograms without their buckets."""
        return {
            sample.name + "".join(f"{{{label}={value}}}" for label, value in sample.labels.items()): sample.value
            for family in self.registry.collect()
            for sample in family.samples
            if not sample.name.endswith(("_bucket", "_created"))
        }

    def exposition(self) -> bytes:
        """Return the metrics in the text format of Prometheus."""
        return generate_latest(self.registry)


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

    def received(self, bytes_: int) -> None:
        """Count an instance that was received and is durable."""
        with self._lock:
            span = self._current()
            span.instances += 1
            span.bytes += bytes_

    def waiting(self, series: int) -> None:
        """Note how many series wait for a conversion or are being converted."""
        with self._lock:
            span = self._current()
            span.series = max(series, span.series or 0)

    def spans(self) -> list[Span]:
        """Return copies of the spans, the oldest first; the last one is not over yet."""
        with self._lock:
            last = int(self._now() // self._seconds)
            return [replace(self._spans.get(number, Span())) for number in range(last - self._count + 1, last + 1)]

    def _current(self) -> Span:
        number = int(self._now() // self._seconds)
        if number not in self._spans:
            self._spans = {known: span for known, span in self._spans.items() if known > number - self._count}
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
