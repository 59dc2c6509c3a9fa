"""The conformance statement is made of what the node runs by."""

import re
from pathlib import Path

import pytest

from node.dicom import status
from node.extensions.conformance import statement
from node.extensions.conformance.statement import statement_for_programs, tables_of, values_of
from node.settings.model import Settings

ROOT = Path(__file__).resolve().parents[4]


def test_the_document_is_what_the_program_says() -> None:
    text = (ROOT / "docs" / "conformance.md").read_text(encoding="utf-8")
    assert text == statement.statement(Settings()), "run `voxelnode conformance -o docs/conformance.md`"


def test_every_table_and_every_value_is_in_the_template() -> None:
    settings = Settings()
    template = statement.template_of(settings)
    assert [name for name in tables_of(settings) if not re.search(rf"^\[(table|list) {name}\]$", template, re.M)] == []
    assert [name for name in values_of(settings) if f"${name}" not in template] == []


def test_every_status_of_the_node_is_stated() -> None:
    [section] = [one for one in statement_for_programs(Settings())["sections"] if "statuses" in one["tables"]]
    stated = {int(row["Status"], 16) for row in section["tables"]["statuses"]}
    sent = {value for name, value in vars(status).items() if name.isupper() and isinstance(value, int)}
    assert stated == sent - {status.ERROR_COMMENT_LENGTH}


def test_each_service_of_the_web_is_stated_once() -> None:
    tables = [
        one["tables"]["web_services"]
        for one in statement_for_programs(Settings())["sections"]
        if "web_services" in one["tables"]
    ]
    services = [row["Service"] for table in tables for row in table]
    assert len(services) == len(set(services)) > 5


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("extension", "claim"),
    [
        ("syslog", "syslog"),
        ("oidc", "oidc"),
        ("media", "--media"),
        ("results", "Annex B has the reports"),
        ("reports", "numeric content items"),
        ("deidentify", "Clean Recognizable Visual"),
        ("worklist", "0xA710"),
        ("peers", "queries and retrieves on command"),
        ("dicomweb", "image/jphc"),
    ],
)
def test_a_node_without_an_extension_does_not_claim_what_it_does(extension: str, claim: str) -> None:
    without = Settings.model_validate({"extensions": {"disabled": [extension]}})
    assert claim in statement.statement(Settings())
    assert claim not in statement.statement(without)
