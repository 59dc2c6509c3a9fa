"""Every counter and histogram of the node, in one place.

One `Metrics` object belongs to one node; it holds its own registry, so that two nodes in one process count apart.
"""

from __future__ import annotations

import datetime as dt
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

LIVE_FILE = "status.json"
"""Below the root, while a node runs: its counters a few seconds ago, for other processes to read."""

_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
_BATCH = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """What the node counts since it started; safe to use from many threads."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.connections = Gauge(
            "voxelnode_connections", "Open TCP connections, asked for an association or not", registry=self.registry
        )
        self.open_associations = Gauge(
            "voxelnode_open_associations", "Associations that are open now", registry=self.registry
        )
        self.associations = Counter(
            "voxelnode_associations",
            "Associations that ended, by outcome: released, aborted, lost, violated, idle, drained",
            ["outcome"],
            registry=self.registry,
        )
        self.rejections = Counter(
            "voxelnode_rejections", "Connections and associations refused, by rule", ["rule"], registry=self.registry
        )
        self.c_store_answers = Counter(
            "voxelnode_c_store_answers", "C-STORE requests answered, by status", ["status"], registry=self.registry
        )
        self.c_find_answers = Counter(
            "voxelnode_c_find_answers", "C-FIND requests answered, by last status", ["status"], registry=self.registry
        )
        self.interrupted = Counter(
            "voxelnode_instances_interrupted", "Instances whose sender went away within them", registry=self.registry
        )
        self.received_bytes = Counter(
            "voxelnode_received_bytes", "Data set bytes that arrived in C-STORE, kept or not", registry=self.registry
        )
        self.receive_seconds = Histogram(
            "voxelnode_receive_seconds",
            "From a C-STORE request to the last byte of its data set",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.keep_seconds = Histogram(
            "voxelnode_keep_seconds",
            "From the last byte of a data set until it is durable and indexed",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.sync_seconds = Histogram(
            "voxelnode_sync_seconds", "One sync of a received file", buckets=_SECONDS, registry=self.registry
        )
        self.commit_seconds = Histogram(
            "voxelnode_commit_seconds", "One commit of the index", buckets=_SECONDS, registry=self.registry
        )
        self.commit_instances = Histogram(
            "voxelnode_commit_instances", "Instances in one commit", buckets=_BATCH, registry=self.registry
        )
        self.intake_open = Gauge(
            "voxelnode_intake_open", "1 while the disk has room and has not failed", registry=self.registry
        )
        self.retrieve_answers = Counter(
            "voxelnode_retrieve_answers", "C-MOVE and C-GET operations, by final status", ["status"],
            registry=self.registry,
        )  # fmt: skip
        self.sent_instances = Counter(
            "voxelnode_sent_instances",
            "Instances sent for C-MOVE and C-GET, by outcome: completed, warning, failed",
            ["outcome"],
            registry=self.registry,
        )
        self.commitment_reports = Counter(
            "voxelnode_commitment_reports",
            "Results of storage commitment, by outcome: reported, postponed, given-up",
            ["outcome"],
            registry=self.registry,
        )
        self.queued_instances = Gauge(
            "voxelnode_queued_instances", "Instances that wait for the index writer", registry=self.registry
        )
        self.http_requests = Counter(
            "voxelnode_http_requests", "HTTP requests answered", ["method", "status"], registry=self.registry
        )
        self.http_seconds = Histogram(
            "voxelnode_http_seconds", "One HTTP request, until its last byte", buckets=_SECONDS, registry=self.registry
        )
        self.hook_messages = Counter(
            "voxelnode_hook_messages",
            "Attempts to tell hooks what happened, by outcome: delivered, failed (to be tried again), given-up",
            ["hook", "outcome"],
            registry=self.registry,
        )

    def snapshot(self) -> dict[str, float]:
        """Return every sample by its name, with its labels as ``name{label=value}``; histograms without buckets."""
        return {
            sample.name + "".join(f"{{{label}={value}}}" for label, value in sample.labels.items()): sample.value
            for family in self.registry.collect()
            for sample in family.samples
            if not sample.name.endswith(("_bucket", "_created"))
        }

    def exposition(self) -> bytes:
        """Return the Prometheus text format, for a ``/metrics`` page."""
        return generate_latest(self.registry)


def publish(metrics: Metrics, root: Path) -> None:
    """Write the counters down for `published`; they are for looking at, so that a failure is none of the node's."""
    content = {"at": dt.datetime.now(dt.UTC).isoformat(), "counters": metrics.snapshot()}
    part = root / f"{LIVE_FILE}.part"
    with suppress(OSError):
        part.write_text(json.dumps(content), encoding="utf-8")
        os.replace(part, root / LIVE_FILE)


def withdraw(root: Path) -> None:
    """Take the counters away: no node runs any more."""
    (root / LIVE_FILE).unlink(missing_ok=True)


def published(root: Path) -> dict[str, Any] | None:
    """What the node that runs on a root counted since it started, and how many seconds ago that was; None without one.

    Returns
    -------
    dict or None
        ``age_seconds`` and ``counters``, by the names of `Metrics.snapshot`.
    """
    try:
        content = json.loads((root / LIVE_FILE).read_bytes())
        age = dt.datetime.now(dt.UTC) - dt.datetime.fromisoformat(content["at"])
        return {"age_seconds": round(age.total_seconds(), 1), "counters": content["counters"]}
    except (OSError, ValueError, KeyError, TypeError):
        return None
