"""What the documents say is what the program does."""

import re
import sqlite3
import tomllib
from pathlib import Path
from typing import get_args

import pytest

from node.config import Settings
from node.configuration import ENVIRONMENT_PREFIX
from node.index.engine import upgrade
from node.index.events import EventKind

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def test_every_column_of_every_view_is_documented_and_no_other(tmp_path: Path) -> None:
    upgrade(tmp_path / "index.sqlite")
    connection = sqlite3.connect(tmp_path / "index.sqlite")
    views = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'view' ORDER BY name")]
    columns = {view: {row[1] for row in connection.execute(f"PRAGMA table_info({view})")} for view in views}
    connection.close()
    sections = re.split(r"^### ", (ROOT / "docs" / "index.md").read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    documented = {
        section.split()[0]: {
            name
            for line in section.splitlines()
            if line.startswith("| `")
            for name in re.findall(r"`(\w+)`", line.split(" | ")[0])
        }
        for section in sections
    }
    assert documented == columns


def test_queries_in_the_documents_run(tmp_path: Path) -> None:
    upgrade(tmp_path / "index.sqlite")
    connection = sqlite3.connect(tmp_path / "index.sqlite")
    text = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    queries = re.findall(r"^    (SELECT .*?;)$", text, flags=re.MULTILINE | re.DOTALL)
    queries += re.findall(r"['\"](SELECT [^'\"]*)['\"]", text)
    assert len(queries) >= 5
    for query in queries:
        connection.execute(query)
    connection.close()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    missing = [
        target
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text)
        if "://" not in target and not (document.parent / target).exists()
    ]
    assert missing == []


def test_configuration_keys_that_documents_name_exist() -> None:
    named = {
        (section, key)
        for document in DOCUMENTS
        for section, key in re.findall(r"`\[(\w+)\] (\w+)", document.read_text(encoding="utf-8"))
    }
    assert named
    unknown = [
        f"[{section}] {key}"
        for section, key in sorted(named)
        if section not in Settings.model_fields or key not in Settings.model_fields[section].annotation.model_fields
    ]
    assert unknown == []


def test_variables_that_documents_name_exist() -> None:
    known = {"CONFIG", "TRACEBACK", "CORPUS", "FAILPOINT", "REQUIRE", "SECTION__KEY"}
    for document in DOCUMENTS:
        for name in re.findall(rf"{ENVIRONMENT_PREFIX}([A-Z_0-9]+)", document.read_text(encoding="utf-8")):
            section = name.lower().partition("__")[0]
            assert name in known or section in Settings.model_fields, name


def test_every_test_that_documents_name_exists() -> None:
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    named = {
        name for document in DOCUMENTS for name in re.findall(r"`(test_\w+)`", document.read_text(encoding="utf-8"))
    }
    assert named
    assert {name for name in named if f"def {name}(" not in code} == set()


def test_commands_in_the_readme_exist() -> None:
    from typer.main import get_command

    from node.cli.application import app

    commands = get_command(app).commands
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^\| `voxelnode (\w+)", text, flags=re.MULTILINE))
    assert named == set(commands)


def test_the_changelog_knows_the_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["name"] == "voxelnode"
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_every_warning_and_every_reason_is_documented() -> None:
    from node.volume.model import Reason, Warn

    text = (ROOT / "docs" / "conversion.md").read_text(encoding="utf-8")
    warnings, reasons = (text.split(f"## {title}")[1].split("\n## ")[0] for title in ("Warnings", "Refusals"))
    assert set(re.findall(r"^\| `([\w-]+)`", warnings, flags=re.MULTILINE)) == {warn.value for warn in Warn}
    assert set(re.findall(r"^\| `([\w-]+)`", reasons, flags=re.MULTILINE)) == {reason.value for reason in Reason}


def test_every_status_is_documented() -> None:
    from node.dicom import status

    text = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    documented = {int(number, 16) for number in re.findall(r"^\| (0x[0-9A-F]{4}) \|", text, flags=re.MULTILINE)}
    sent = {value for name, value in vars(status).items() if name.isupper() and isinstance(value, int)}
    assert documented == sent - {status.ERROR_COMMENT_LENGTH}


def test_every_event_is_documented() -> None:
    text = (ROOT / "docs" / "lifecycle.md").read_text(encoding="utf-8").partition("## Events")[2]
    assert set(re.findall(r"`([a-z-]+)`", text)) == set(get_args(EventKind))
