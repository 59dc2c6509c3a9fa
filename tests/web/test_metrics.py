"""``/metrics`` and the alert rules that read it; ``/healthz`` and ``/readyz``."""

import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from itertools import chain
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from node.api import OutOfResources, Settings
from node.cli.run.doctor import CHECKS
from node.cli.run.doctor import Site as Looked
from node.control.repository import Repository
from node.index.rows import sqlite
from node.index.rows.about_keys import RETENTION
from node.index.rows.backend import IndexUnusable
from node.index.rows.sqlite_file import LOCKED
from node.index.rules.custody.leaving import RetentionState
from node.receive import readiness
from node.receive.apply import CATCH_UP_SECONDS
from node.receive.ingest import Announced, Ingest, Origin
from node.receive.readiness import (
    NEEDED,
    NEEDED_TO_ACKNOWLEDGE,
    intake_of,
    read_counters,
    readiness_of,
    remedy_of,
    write_counters,
)
from node.settings.core import Storage
from node.web import monitoring
from tests import make
from tests.integration.conftest import data_set_bytes
from tests.rows import give_locks_up_after, index_locked
from tests.web.conftest import Site, StartSite, until

ROOT = Path(__file__).resolve().parents[2]
RULES, DOCUMENT = ROOT / "deploy" / "prometheus-alerts.yml", ROOT / "docs" / "web.md"
DASHBOARD = ROOT / "deploy" / "grafana-dashboard.json"


@pytest.fixture
def impatient(start_site: StartSite, monkeypatch: pytest.MonkeyPatch) -> Site:
    """A site that waits half a second for locks of other programs."""
    give_locks_up_after(0.5, monkeypatch)
    return start_site()


def samples(site: Site) -> dict[str, float]:
    """Value by name and labels."""
    text = site.client().get("/metrics").text
    return {
        sample.name + "".join(f"{{{name}={value}}}" for name, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.mark.slow
def test_metrics_tell_what_is_there_and_what_was_done(site: Site) -> None:
    site.take(*make.ct_series(3))
    found = samples(site)
    assert found["voxelnode_series{state=receiving}"] == 1
    assert 0 < found["voxelnode_oldest_unconverted_seconds"] < 60
    assert 0 < found["voxelnode_oldest_due_seconds"] < 60
    assert found["voxelnode_disk_free_bytes"] > 0
    assert found["voxelnode_intake_open"] == 1
    site.convert()
    found = samples(site)
    assert found["voxelnode_series{state=converted}"] == 1
    assert found["voxelnode_oldest_unconverted_seconds"] == found["voxelnode_oldest_due_seconds"] == 0
    assert found["voxelnode_http_requests_total{method=GET}{status=200}"] >= 1


def test_every_metric_of_alerts_dashboard_and_documentation_is_there(site: Site) -> None:
    known = set(re.findall(r"^# TYPE (\w+) ", site.client().get("/metrics").text, flags=re.MULTILINE))
    rules = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
    assert len(rules) >= 6
    assert all(rule["annotations"]["remedy"] for rule in rules)
    panels = [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]
    shown = [target["expr"] for panel in panels for target in panel["targets"]]
    assert len({panel["title"] for panel in panels}) > 15
    assert all('instance=~"$instance"' in expression for expression in shown)
    expressions = " ".join([*(rule["expr"] for rule in rules), *shown])
    documented = re.findall(r"`(voxelnode_\w+)`", DOCUMENT.read_text(encoding="utf-8"))
    assert len(documented) > 10
    for name in [*re.findall(r"\bvoxelnode_\w+", expressions), *documented]:
        assert known & {name, re.sub(r"_(bucket|count|sum)$", "", name)}, name


def test_a_node_is_ready_until_a_part_of_it_is_not(site: Site) -> None:
    client = site.client()
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json()) == (200, {"ready": True, "reasons": {}})
    first, *_ = make.ct_series(1)
    site.take(first, make.corrected(first))
    assert client.get("/readyz").json() == {"ready": True, "reasons": {}, "undecided_conflicts": 1}
    assert 'voxelnode_conflicts{kind="instance-bytes"} 1.0' in client.get("/metrics").text
    site.store.index.about.set(RETENTION, RetentionState(held="the clock jumped").encoded())
    answer = client.get("/readyz")
    assert answer.status_code == 200
    assert answer.json()["retention_waits"].startswith("the clock jumped: nothing is deleted until")
    site.store.archive.intake.stop("a sync failed")
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert "a sync failed" in answer.json()["reasons"]["intake"]


@pytest.mark.slow
def test_who_has_locked_the_index_is_named_and_no_line_of_a_program(impatient: Site) -> None:
    site = impatient
    path = site.root / "index.sqlite"
    with closing(sqlite3.connect(path, isolation_level=None)) as stranger:
        locked = sqlite3.OperationalError("database is locked")
        locked.sqlite_errorcode = sqlite3.SQLITE_BUSY
        error = IndexUnusable("the index cannot be read")
        error.__cause__ = locked
        assert monitoring._reason(path, error) == sqlite.lockers(path)
        stranger.execute("BEGIN IMMEDIATE")
        with pytest.raises(OutOfResources, match=f"did not commit: another program has locked it: .*fuser {path}"):
            site.store.index.about.set("x", "y")


def test_a_reader_that_lets_the_log_of_the_index_grow_is_named_by_a_node_that_is_ready(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.index.rows.sqlite_file.MAX_WAL_BYTES", 0)
    with closing(sqlite3.connect(site.root / "index.sqlite", isolation_level=None)) as stranger:
        stranger.execute("BEGIN")
        stranger.execute("SELECT count(*) FROM about").fetchone()
        site.store.index.about.set("x", "y")
        for query in ("", "?role=receive", "?role=web", "?scope=cluster"):
            answer = site.client().get(f"/readyz{query}")
            assert (answer.status_code, answer.json()["reasons"]) == (200, {}), query
            assert "a program keeps a transaction open" in answer.json()["index_held_back"], query


def test_a_listener_that_has_gone_makes_a_node_not_ready(site: Site) -> None:
    site.let_fail(listener="it has stopped", worker=None)
    answer = site.client().get("/readyz")
    assert answer.status_code == 503
    assert set(answer.json()["reasons"]) == {"listener"}


def test_each_role_needs_other_parts(tmp_path: Path) -> None:
    parts = {"cluster": lambda: "is silent", "worker": lambda: "has stopped", "listener": lambda: None}

    def needed(ingest: Ingest) -> dict[str, list[str]]:
        return {role: sorted(readiness.reasons_not_ready(ingest, parts, role)) for role in monitoring.ROLES}

    for acknowledge, of_receiver in (("local", []), ("index", ["cluster"])):
        settings = Settings(
            storage=Storage(root=tmp_path / acknowledge, reserve_bytes=0), journal={"acknowledge": acknowledge}
        )
        with Repository(settings) as repository:
            expected = {"receive": of_receiver, "convert": ["cluster", "worker"], "web": ["cluster"]}
            assert needed(repository.ingest) == expected
            repository.archive.intake.stop("a sync failed")
            assert needed(repository.ingest)["receive"] == sorted([*of_receiver, "intake"])


def receive(site: Site) -> None:
    """Have an instance acknowledged and its association end, and do not wait for the index."""
    [ds] = make.ct_series(1)
    announced = Announced(ds.SOPClassUID, ds.SOPInstanceUID, ds.file_meta.TransferSyntaxUID)
    incoming = site.store.ingest.begin(announced, Origin("dicom", "MODALITY", "VOXELNODE", "127.0.0.1:1", "a1"))
    incoming.take_fragment(data_set_bytes(ds))
    incoming.finish()
    site.store.ingest.association_ended("a1", "released")


@pytest.mark.slow
def test_monitoring_tells_of_a_lagging_index_without_waiting(impatient: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site, client = impatient, impatient.client()
    with index_locked(site.root):
        receive(site)
        monkeypatch.setattr(readiness, "MAX_LAG_SECONDS", 0.0)
        took = {}
        for path in ("/readyz", "/metrics", "/api/v1/status", "/status/numbers", "/badges", "/queue/rows"):
            answer = client.get(path)
            took[path] = answer.elapsed.total_seconds()
            if path == "/readyz":
                assert answer.status_code == 503
                assert "1 received instances" in answer.json()["reasons"]["journal"]
            else:
                assert answer.status_code in (200, 204)
        found = samples(site)
        status = client.get("/api/v1/status").json()
        queue = client.get("/queue/rows").text
        monkeypatch.setattr(site.store.applier, "catch_up", lambda: False)
        until(lambda: site.store.applier.last_failure)
        page = client.get("/", headers={"Accept": "text/html"})
    assert "1 instance that came in is not in the index yet" in queue
    assert "The queue is empty" not in queue
    assert (page.status_code, "Retry-After" in page.text) == (503, False)
    assert "1 instance behind what was received" in page.text
    assert "did not commit" in page.text
    assert max(took.values()) < CATCH_UP_SECONDS
    assert (found["voxelnode_queued_instances"], status["queued_instances"]) == (1, 1)
    assert found["voxelnode_journal_lag_seconds"] > 0
    assert status["journal_lag_seconds"] > 0
    assert found["voxelnode_journal_bytes"] == status["journal_bytes"] > 0
    until(lambda: client.get("/readyz").status_code == 200)
    assert samples(site)["voxelnode_queued_instances"] == 0


def test_a_short_lag_is_no_reason_to_be_reported(site: Site) -> None:
    with index_locked(site.root):
        receive(site)
        assert site.client().get("/readyz").json() == {"ready": True, "reasons": {}}


# Is it well? All checks are walked: each has a remedy, and what blocks the node shows wherever somebody looks.


ORDERS = re.compile(
    "(run|use|make|free|set|send|start|restart|end|install|restore|reinstall|let|mount|check|back|raise|have|correct|"
    "remove|`voxelnode) "
)
"""What a clause of a remedy begins with on which a person can act."""

PARTS = sorted({*chain(*NEEDED.values()), *NEEDED_TO_ACKNOWLEDGE, "journal", "apply", "a part of an extension"})


def acts(remedy: str) -> bool:
    """Whether a remedy tells a person to do something."""
    return any(map(ORDERS.match, re.split(r"[;:,] (?:and |or )?", remedy)))


def test_each_check_has_a_remedy_on_which_a_person_can_act() -> None:
    assert [remedy for check in CHECKS for remedy in check.remedies.values() if not acts(remedy)] == []


@pytest.mark.slow
def test_each_command_of_a_remedy_exists() -> None:
    remedies = [remedy for check in CHECKS for remedy in check.remedies.values()] + [
        remedy_of(part, "") for part in PARTS
    ]
    commands = {re.sub(r" (--|[A-Z]).*", "", found) for text in remedies for found in re.findall("`(vox[^`]+)`", text)}
    assert len(commands) > 5
    for command in sorted(commands):
        words = command.removeprefix("voxelnode ").split()
        subprocess.run([sys.executable, "-m", "node", *words, "--help"], check=True, capture_output=True, timeout=60)


def shown(site: Site) -> Iterator[tuple[str, str]]:
    """Where somebody looks, and what it says."""
    client = site.client()
    answer = client.get("/readyz")
    assert answer.status_code == 503
    yield "readyz", str(answer.json()["reasons"])
    yield "page", client.get("/status").text
    write_counters({}, site.root, answer.json()["reasons"])  # as the node does every three seconds
    live = read_counters(site.root)
    yield "status", f"{readiness_of(live, site.root)} {intake_of(site.services.settings, live)}"
    found = Looked(site.services.settings)
    findings = [row for check in CHECKS if check.name == "node" for row in check.findings(found)]
    assert [(row["state"], acts(row["remedy"])) for row in findings] == [("broken", True)], findings
    yield "doctor", findings[0]["found"]


@pytest.mark.sample(4)
@pytest.mark.parametrize("part", PARTS)
def test_what_blocks_shows_in_doctor_and_status_in_readyz_and_on_the_page(site: Site, part: str) -> None:
    if part == "intake":
        site.store.archive.intake.stop("it is out of order")
    else:
        site.let_fail(**{part: "it is out of order"})
    assert [place for place, text in shown(site) if "it is out of order" not in text] == []


@pytest.mark.parametrize(
    "reason", [LOCKED, "intake has stopped: x", "x; intake goes on once its disk is mounted again"]
)
def test_a_reason_that_names_its_cause_has_the_remedy_of_the_cause(reason: str) -> None:
    assert acts(remedy_of("intake", reason))
    assert ("restart the node" in remedy_of("intake", reason)) is reason.startswith("intake has")
