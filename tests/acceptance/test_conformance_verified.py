"""`voxelnode conformance --verify` on a node: nothing is broken of what it says, and what another one lacks is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from node.cli import main
from tests.acceptance.served import Served
from tests.programs import free_port

pytestmark = pytest.mark.slow


def report(capsys: pytest.CaptureFixture[str], node: Served, web_port: int, *options: str) -> tuple[int, Any]:
    web = f"http://127.0.0.1:{web_port}"
    with pytest.raises(SystemExit) as exit_:
        main(["conformance", "--verify", "--json", "--node", str_of(node), "--web", web, *options])
    return int(exit_.value.code or 0), json.loads(capsys.readouterr().out)


def str_of(node: Served) -> str:
    return f"{node.address.ae_title}@{node.address.host}:{node.port}"


def test_a_node_holds_what_its_statement_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Served(tmp_path / "root", VOXELNODE_WEB__PORT=str(port := free_port())) as node:
        status, found = report(capsys, node, port, "--store")
        patients = {row["patient_id"] for row in node.rows("SELECT patient_id FROM v_studies")}
    broken = [claim for claim in found["claims"] if claim["outcome"] == "broken"]
    assert (status, broken) == (0, [])
    assert found["summary"]["held"] > 700
    assert patients
    assert all(patient.startswith("VOXELNODE-VERIFY-") for patient in patients)


def test_what_a_node_lacks_is_broken_and_nothing_is_stored_unasked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    disabled = {"VOXELNODE_EXTENSIONS__DISABLED": '["worklist"]', "VOXELNODE_WEB__PORT": str(port := free_port())}
    with Served(tmp_path / "root", **disabled) as node:
        status, found = report(capsys, node, port)
        assert node.rows("SELECT * FROM v_images") == []
    broken = {claim["claim"].get("SOP Class UID") for claim in found["claims"] if claim["outcome"] == "broken"}
    assert status == 1
    assert broken >= {"1.2.840.10008.5.1.4.31", "1.2.840.10008.3.1.2.3.3"}
