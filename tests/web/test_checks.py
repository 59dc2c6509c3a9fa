"""Is it well? All checks are walked: each has a remedy, and what blocks the node shows wherever somebody looks."""

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain

import pytest

from node.cli.run.doctor import CHECKS
from node.cli.run.doctor import Site as Looked
from node.index.engine.sqlite_file import LOCKED
from node.receive.readiness import (
    NEEDED,
    NEEDED_TO_ACKNOWLEDGE,
    intake_of,
    read_counters,
    readiness_of,
    remedy_of,
    write_counters,
)
from tests.web.conftest import Site

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
        site.app.state.services = replace(site.services, parts={part: lambda: "it is out of order"})
    assert [place for place, text in shown(site) if "it is out of order" not in text] == []


@pytest.mark.parametrize(
    "reason", [LOCKED, "intake has stopped: x", "x; intake goes on once its disk is mounted again"]
)
def test_a_reason_that_names_its_cause_has_the_remedy_of_the_cause(reason: str) -> None:
    assert acts(remedy_of("intake", reason))
    assert ("restart the node" in remedy_of("intake", reason)) is reason.startswith("intake has")
