"""``/metrics`` and the alert rules that read it; ``/healthz`` and ``/readyz``."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests import make
from tests.web.conftest import Site

ROOT = Path(__file__).resolve().parents[2]
RULES, DOCUMENT = ROOT / "deploy" / "prometheus-alerts.yml", ROOT / "docs" / "web.md"


def samples(site: Site) -> dict[str, float]:
    """Value by name and labels."""
    text = site.client().get("/metrics").text
    return {
        sample.name + "".join(f"{{{name}={value}}}" for name, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_tell_what_is_there_and_what_was_done(site: Site) -> None:
    site.take(*make.ct_series(3))
    found = samples(site)
    assert found["voxelnode_series{state=receiving}"] == 1
    assert 0 < found["voxelnode_oldest_unconverted_seconds"] < 60
    assert found["voxelnode_disk_free_bytes"] > 0
    assert found["voxelnode_intake_open"] == 1
    site.convert()
    found = samples(site)
    assert found["voxelnode_series{state=converted}"] == 1
    assert found["voxelnode_oldest_unconverted_seconds"] == 0
    assert found["voxelnode_http_requests_total{method=GET}{status=200}"] >= 1


def test_every_metric_of_an_alert_and_of_the_documentation_is_there(site: Site) -> None:
    known = set(re.findall(r"^# TYPE (\w+) ", site.client().get("/metrics").text, flags=re.MULTILINE))
    rules = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
    assert len(rules) >= 6
    assert all(rule["annotations"]["remedy"] for rule in rules)
    expressions = " ".join(rule["expr"] for rule in rules)
    documented = re.findall(r"`(voxelnode_\w+)`", DOCUMENT.read_text(encoding="utf-8"))
    assert len(documented) > 10
    for name in [*re.findall(r"\bvoxelnode_\w+", expressions), *documented]:
        assert known & {name, re.sub(r"_(bucket|count|sum)$", "", name)}, name


def test_the_process_answers(site: Site) -> None:
    assert site.client().get("/healthz").text == "ok\n"


def test_a_node_is_ready_until_a_part_of_it_is_not(site: Site) -> None:
    client = site.client()
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json()) == (200, {"ready": True, "reasons": {}})
    site.store.archive.intake.stop("a sync failed")
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert "a sync failed" in answer.json()["reasons"]["intake"]


def test_a_listener_that_has_gone_makes_a_node_not_ready(site: Site) -> None:
    site.server._app.state.services = replace(site.services, parts={"listener": lambda: False, "worker": lambda: True})
    answer = site.client().get("/readyz")
    assert answer.status_code == 503
    assert set(answer.json()["reasons"]) == {"listener"}
