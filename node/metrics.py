"""All counters and histograms of the node.

Each node has a `Metrics` object with a registry of its own, so that two nodes in one process count separately.
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
"""File in the root while a node runs: its counters of a few seconds ago, for other processes to read."""

_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
_BATCH = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Counts since the start of the node; safe to use from many threads."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.connections = Gauge(
            "voxelnode_connections", "Open TCP connections, with or without an association", registry=self.registry
        )
        self.open_associations = Gauge("voxelnode_open_associations", "Open associations", registry=self.registry)
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
            "voxelnode_instances_interrupted",
            "Instances whose sender broke off before the last byte",
            registry=self.registry,
        )
        self.received_bytes = Counter(
            "voxelnode_received_bytes",
            "Data set bytes received in C-STORE, of stored and of refused instances",
            registry=self.registry,
        )
        self.receive_seconds = Histogram(
            "voxelnode_receive_seconds",
            "From a C-STORE request to the last byte of its data set",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.keep_seconds = Histogram(
            "voxelnode_keep_seconds",
            "From the last byte of a data set until it is stored (durable and indexed)",
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
            "voxelnode_intake_open", "1 while the disk has free space and has not failed", registry=self.registry
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
            "Attempts to deliver messages of hooks, by outcome: delivered, failed (tried again later), given-up",
            ["hook", "outcome"],
            registry=self.registry,
        )

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


def write_counters(metrics: Metrics, root: Path) -> None:
    """Write the counters to a file for `read_counters`; an error is ignored, since the node works without the file."""
    content = {"at": dt.datetime.now(dt.UTC).isoformat(), "counters": metrics.snapshot()}
    part = root / f"{LIVE_FILE}.part"
    with suppress(OSError):
        part.write_text(json.dumps(content), encoding="utf-8")
        os.replace(part, root / LIVE_FILE)


def remove_counters(root: Path) -> None:
    """Remove the file of the counters: the node has stopped."""
    (root / LIVE_FILE).unlink(missing_ok=True)


def read_counters(root: Path) -> dict[str, Any] | None:
    """Return the counters of the node that runs on a root, and their age; None if no node runs.

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
