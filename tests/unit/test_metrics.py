"""Counters."""

from __future__ import annotations

from node.metrics import Metrics


def test_two_nodes_in_one_process_count_apart() -> None:
    one, other = Metrics(), Metrics()
    one.rejections.labels(rule="associations").inc()
    assert one.snapshot()["voxelnode_rejections_total{rule=associations}"] == 1
    assert "voxelnode_rejections_total{rule=associations}" not in other.snapshot()


def test_a_snapshot_has_sums_and_counts_but_no_buckets() -> None:
    metrics = Metrics()
    metrics.keep_seconds.observe(0.25)
    snapshot = metrics.snapshot()
    assert snapshot["voxelnode_keep_seconds_sum"] == 0.25
    assert snapshot["voxelnode_keep_seconds_count"] == 1
    assert not any("bucket" in name for name in snapshot)


def test_the_exposition_is_prometheus_text() -> None:
    assert b"# TYPE voxelnode_connections gauge" in Metrics().exposition()
