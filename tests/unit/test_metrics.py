"""Counters."""

from pathlib import Path
from unittest.mock import Mock

import pytest

from node.receive.readiness import LIVE_FILE, read_counters, remove_counters, write_counters
from node.runtime.metrics import Metrics


def test_two_nodes_in_one_process_count_apart() -> None:
    one, other = Metrics(), Metrics()
    one.rejections.labels(what="association", rule="associations").inc()
    assert one.snapshot()["voxelnode_rejections_total{what=association}{rule=associations}"] == 1
    assert "voxelnode_rejections_total{what=association}{rule=associations}" not in other.snapshot()


def test_a_snapshot_has_sums_and_counts_but_no_buckets() -> None:
    metrics = Metrics()
    metrics.keep_seconds.observe(0.25)
    snapshot = metrics.snapshot()
    assert snapshot["voxelnode_keep_seconds_sum"] == 0.25
    assert snapshot["voxelnode_keep_seconds_count"] == 1
    assert not any("bucket" in name for name in snapshot)


def test_the_exposition_is_prometheus_text() -> None:
    assert b"# TYPE voxelnode_connections gauge" in Metrics().exposition()


def test_what_a_node_publishes_is_read_with_its_age(tmp_path: Path) -> None:
    assert read_counters(tmp_path) is None
    metrics = Metrics()
    metrics.rejections.labels(what="association", rule="associations").inc()
    write_counters(metrics.snapshot(), tmp_path, {"intake": "full"})
    live = read_counters(tmp_path)
    assert live["counters"]["voxelnode_rejections_total{what=association}{rule=associations}"] == 1
    assert 0 <= live["age_seconds"] < 10
    remove_counters(tmp_path)
    assert read_counters(tmp_path) is None


def test_a_file_that_is_no_publication_is_none(tmp_path: Path) -> None:
    for content in ("", "[]", "{}", '{"at": 3}'):
        (tmp_path / LIVE_FILE).write_text(content)
        assert read_counters(tmp_path) is None


def test_a_disk_that_takes_nothing_does_not_stop_the_node(tmp_path: Path) -> None:
    write_counters(Metrics().snapshot(), tmp_path / "missing", {})
    assert read_counters(tmp_path / "missing") is None


def test_a_disk_without_new_files_takes_the_state_over_the_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_counters(Metrics().snapshot(), tmp_path, {"intake": "a longer reason than the one that comes next"})

    monkeypatch.setattr(Path, "write_bytes", Mock(side_effect=OSError(28, "No space left on device")))
    write_counters(Metrics().snapshot(), tmp_path, {"intake": "full"})
    assert read_counters(tmp_path)["reasons"] == {"intake": "full"}
