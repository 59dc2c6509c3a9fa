"""The documents agree with the program."""

import datetime as dt
import json
import os
import re
import sqlite3
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from node import __version__
from node.api import VOLUMES, HookEvent, Settings
from node.archive.filesystem import is_key
from node.dicom.encoding import IMPLEMENTATION_VERSION_NAME
from node.extensions.channels.settings import PLACEHOLDERS
from node.extensions.deidentify.deidentification import RefusalReason
from node.extensions.deidentify.profile import CLEAN, RETAIN
from node.extensions.object_store.settings import COLD_CLASSES, StoreSettings
from node.index.rows.models.history import EventKind
from node.index.rows.place import migrations, upgrade
from node.index.rows.states import picture
from node.lifecycle.fsck import Kind
from tests import budget

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def test_every_column_of_every_view_is_documented_and_no_other(tmp_path: Path) -> None:
    upgrade(tmp_path / "index.sqlite")
    connection = sqlite3.connect(tmp_path / "index.sqlite")
    views = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'view' ORDER BY name")]
    columns = {view: {row[1] for row in connection.execute(f"PRAGMA table_info({view})")} for view in views}
    connection.close()
    sections = re.split(r"^### ", (ROOT / "docs" / "data.md").read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
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


def test_every_schema_of_the_index_is_documented() -> None:
    text = (ROOT / "docs" / "upgrade.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| (`\w+0\d+`(?:, `\w+`)*) \|", text, flags=re.MULTILINE)
    assert sorted(re.findall(r"\w+", " ".join(listed))) == sorted(migrations())


def test_queries_in_the_documents_run_and_read_through_indexes_what_they_name(tmp_path: Path) -> None:
    upgrade(tmp_path / "index.sqlite")
    text = "".join((ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("data.md", "lifecycle.md"))
    queries = re.findall(r"^    (SELECT .*?;)$", text, flags=re.MULTILINE | re.DOTALL)
    queries += [query for _, query in re.findall(r"(['\"])(SELECT .*?)\1", text)]
    assert len(queries) >= 12
    named = re.compile(r"_uid = '\.\.\.'|study_date BETWEEN|\bid > 0")
    assert sum(named.search(query) is not None for query in queries) == 5
    with closing(sqlite3.connect(tmp_path / "index.sqlite")) as connection:
        for query in queries:
            connection.execute(query)
            plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {query}")]
            scans = [step for step in plan if step.startswith("SCAN") and "pragma" not in step]
            assert len(scans) <= (0 if named.search(query) else 1), query
            assert not {"SCAN v", "SCAN i"} & set(scans), query  # files and instances are too many


def test_datasette_knows_the_questions_and_the_columns_of_the_document() -> None:
    from tests.documents.datasette import questions, written

    assert len(questions()) == 10
    assert (ROOT / "deploy" / "datasette.json").read_text(encoding="utf-8") == written()


@pytest.mark.slow
@pytest.mark.peer
def test_the_site_builds_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="no mkdocs here: it comes with the group `docs`")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"],
        cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    site, docs = tmp_path / "site", ROOT / "docs"
    pages = {str(page.relative_to(site)): page.read_text(encoding="utf-8") for page in site.rglob("*.html")}
    documents = {str(document.relative_to(docs).with_suffix(".html")) for document in docs.rglob("*.md")}
    assert documents | {"index.html"} <= set(pages)
    loaded = re.compile(r"<(?:script|img|source|iframe|video)[^>]* src=\"?https?:|<link[^>]* href=\"?https?:")
    assert {name: loaded.findall(page) for name, page in pages.items() if loaded.search(page)} == {}


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
    text = "".join(document.read_text(encoding="utf-8") for document in DOCUMENTS)
    named = set(re.findall(r"`\[(\w+)\] (\w+)", text))
    assert named
    unknown = [
        f"[{section}] {key}"
        for section, key in sorted(named)
        if section not in Settings.model_fields or key not in Settings.model_fields[section].annotation.model_fields
    ]
    assert unknown == []


def shown_tables() -> Iterator[tuple[str, dict[str, Any]]]:
    """(document, tables) of each block of TOML in the documents that is of the configuration."""
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        blocks = re.findall(r"(?:^ {4}.*\n|^\n(?= {4}))+", text, flags=re.MULTILINE)
        blocks += re.findall(r"^```toml\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
        for block in blocks:
            lines = re.sub(r"^ {4}", "", block, flags=re.MULTILINE)
            for table in re.findall(r"^\[[^\]\n]+\] *(?:#.*)?\n(?:[^$].*\n|\n)*", lines, flags=re.MULTILINE):
                tables = tomllib.loads(table.partition("\nEND\n")[0])
                if tables.keys() <= Settings.model_fields.keys():
                    yield document.name, tables


def test_tables_of_the_configuration_that_documents_show_are_valid() -> None:
    shown = list(shown_tables())
    assert len(shown) >= 28
    mistakes = []
    for document, tables in shown:
        try:
            Settings.model_validate(tables)
        except ValidationError as error:
            # Without a place it is one of the whole: it names a table that the document does not show again.
            mistakes += [(document, one["loc"], one["msg"]) for one in error.errors() if one["loc"]]
    assert mistakes == []


def test_variables_that_documents_name_exist() -> None:
    known = {"CONFIG", "DEFAULTS", "TRACEBACK", "CORPUS", "FAILPOINT", "REQUIRE", "SECTION__KEY"}
    known.add(IMPLEMENTATION_VERSION_NAME.removeprefix("VOXELNODE_"))
    for document in DOCUMENTS:
        for name in re.findall(r"VOXELNODE_([A-Z_0-9]+)", document.read_text(encoding="utf-8")):
            section = name.lower().partition("__")[0]
            of_hook = name.startswith("HOOK_") and name.removeprefix("HOOK_").lower() in PLACEHOLDERS
            assert name in known or of_hook or section in Settings.model_fields, name


@pytest.mark.slow
def test_every_test_that_documents_name_exists() -> None:
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    named = {
        name for document in DOCUMENTS for name in re.findall(r"`(test_\w+)`", document.read_text(encoding="utf-8"))
    }
    assert named
    assert {name for name in named if f"def {name}(" not in code} == set()


def test_every_command_is_documented_and_no_other() -> None:
    from typer.main import get_command

    from node.cli.application import application

    commands = get_command(application()).commands
    text = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `voxelnode (\w+)", text, flags=re.MULTILINE)) == set(commands)
    readings = []  # of each further name in a row: beside the first command, or below it if that is one word
    for row in re.findall(r"^\| `voxelnode (.+?`(?:, `.+?`)*)(?:, \.\.\.)? \|", text, flags=re.MULTILINE):
        first, *others = re.findall(r"([^`]+)`(?:, `)?", row.replace("\\|", " "))
        above = [" ".join(first.split()[:length]) for length in range(1, len(first.split()) + 1)]
        readings += [[f"{words} {other}" for words in above[:-1] or above] for other in others]
    assert len(readings) > 50
    unknown = set(unknown_commands([one for some in readings for one in some]))
    assert [some for some in readings if unknown.issuperset(some)] == []


def unknown_commands(lines: list[str]) -> list[str]:
    """Those of some command lines, without ``voxelnode``, whose command or options do not exist."""
    from typer.main import get_command

    from node.cli.application import application

    top = get_command(application())
    wrong = []
    for line in lines:
        command, words = top, line.split()
        while words and words[0] in getattr(command, "commands", {}):
            command = command.commands[words.pop(0)]
        known = (name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts))
        given = {word.partition("=")[0] for word in words if word.startswith("--")}
        is_group = words != [] and words[0].isalpha() and hasattr(command, "commands")
        if command is top or is_group or given - {*known, "--help"}:
            wrong.append(line.strip())
    return wrong


def test_commands_and_options_that_documents_show_exist() -> None:
    shown = []
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8").partition("### Removed")[0]  # of the changelog
        # between backticks, in blocks, after a path, another command or `$(`; "voxelnode ready" is what one prints
        before = r"^ {4,}|[`/(] ?|&& |run --rm node |exec node "
        shown += re.findall(rf"(?:{before})voxelnode (?!ready:)([a-z][^`\n|)#;]*)", text, flags=re.MULTILINE)
    assert len(shown) > 50
    assert unknown_commands(shown) == []


def test_commands_that_the_node_names_as_remedies_exist() -> None:
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "node").rglob("*.py"))
    code = re.sub(r'"\n\s+f?"', "", code)  # one sentence in several literals
    named = re.findall(r"(?<!`)`voxelnode ([a-z][^`\n]*)`(?!`)", code)
    assert len(named) > 20
    assert unknown_commands(named) == []


def test_the_changelog_knows_the_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["name"] == "voxelnode"
    newest = re.search(r"^## \[(.+?)\] - (.+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    release, is_open, _ = __version__.partition(".dev")
    assert newest[1] == release
    assert re.fullmatch("unreleased" if is_open else r"\d{4}-\d\d-\d\d", newest[2])


def test_every_warning_and_every_reason_is_documented() -> None:
    from node.selector.fields import STATES
    from node.volume.reasons import REMEDIES, Reason, WarningKind

    text = (ROOT / "docs" / "conversion.md").read_text(encoding="utf-8")
    warnings = text.split("## Warnings")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| `([\w-]+)`", warnings, flags=re.MULTILINE)) == {warn.value for warn in WarningKind}
    states, reasons = (ROOT / "docs" / "no-volume.md").read_text(encoding="utf-8").split("## Refusals")
    remedies = dict(re.findall(r"^\| `([\w-]+)` \| .* \| (.*) \|$", reasons, flags=re.MULTILINE))
    assert remedies == {reason.value: REMEDIES.get(reason.value, "Nothing to do.") for reason in Reason}
    assert set(STATES) <= set(re.findall(r"`([\w-]+)`", states))


def test_every_option_and_refusal_of_deidentification_is_documented() -> None:
    reported = (ROOT / "docs/deidentify.md").read_text(encoding="utf-8")
    for option in (*(f"--retain {option}" for option in RETAIN), *(f"--clean {option}" for option in CLEAN)):
        assert f"| `{option}` |" in reported
    assert [reason for reason in RefusalReason if f"| `{reason}` |" not in reported] == []


def test_every_room_of_the_house_is_on_its_map() -> None:
    house = (
        (ROOT / "docs" / "project" / "development.md")
        .read_text(encoding="utf-8")
        .split("## The house")[1]
        .split("\n## ")[0]
    )
    rooms = {path.name for path in (ROOT / "node").glob("[!_]*.py")}
    rooms |= {f"{path.parent.name}/" for path in (ROOT / "node").glob("[!_]*/*.py")}
    table = house.split("Where a thing is:")[0]
    assert {name for name in re.findall(r"`([\w/]+(?:\.py)?)`", table) if not name.startswith("__")} - {
        "node/"
    } == rooms


def test_every_file_that_the_map_of_the_house_names_exists() -> None:
    house = (
        (ROOT / "docs" / "project" / "development.md")
        .read_text(encoding="utf-8")
        .split("Where a thing is:")[1]
        .split("\n## ")[0]
    )
    named = {name for name in re.findall(r"`([\w/]+(?:\.py|\.md|/))`", house) if name not in ("templates/", "static/")}
    assert len(named) > 20
    assert {name for name in named if not any((top / name).exists() for top in (ROOT / "node", ROOT))} == set()


@pytest.mark.slow
def test_the_tree_keeps_its_budget() -> None:
    allowed, counted = budget.budget(), budget.figures()
    assert list(allowed) == list(counted), "run: python -m tests.budget"
    exceeded = {name: figure for name, figure in counted.items() if figure > allowed[name]}
    assert exceeded == {}, "run: python -m tests.budget, and say in the commit what it buys"
    loose = {name: figure for name, figure in counted.items() if not budget.holds(allowed[name], figure)}
    assert loose == {}, "run: python -m tests.budget"


def test_the_picture_of_the_states_of_work_is_that_of_the_code() -> None:
    assert picture() in (ROOT / "docs" / "project" / "development.md").read_text(encoding="utf-8")


def test_every_token_and_letter_of_names_is_documented() -> None:
    from node.conversion.naming import DCM2NIIX, OF_NOBODY, TOKENS

    text = (ROOT / "docs" / "convert.md").read_text(encoding="utf-8")
    assert dict(re.findall(r"^\| `\{(\w+)\}` \| (.*) \|$", text, flags=re.MULTILINE)) == TOKENS
    letters = text.split("takes these letters:")[1].split(". `%e`")[0]
    assert set(re.findall(r"`%(\w)`", letters)) == set(DCM2NIIX)
    allowed = text.split("and only ")[1].split(" are allowed")[0]
    assert set(re.findall(r"\{(\w+)\}", allowed)) == OF_NOBODY


def test_every_status_is_documented() -> None:
    from node.dicom import status

    text = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    documented = {int(number, 16) for number in re.findall(r"^\| (0x[0-9A-F]{4}) \|", text, flags=re.MULTILINE)}
    sent = {value for name, value in vars(status).items() if name.isupper() and isinstance(value, int)}
    assert documented == sent - {status.ERROR_COMMENT_LENGTH}


def test_every_finding_of_fsck_is_documented() -> None:
    text = (ROOT / "docs" / "backup.md").read_text(encoding="utf-8")
    tables = "".join(text.partition(head)[2].partition("\n\n")[0] for head in ("| Kind |", "| Finding |"))
    cells = [line.split(" | ")[0] for line in tables.splitlines() if line.startswith("| `")]
    assert {kind for cell in cells for kind in re.findall(r"`([a-z-]+)`", cell)} == set(get_args(Kind))


def test_every_event_is_documented() -> None:
    text = (ROOT / "docs" / "lifecycle.md").read_text(encoding="utf-8").partition("## Events")[2]
    assert set(re.findall(r"`([a-z-]+)`", text)) == set(get_args(EventKind))


def test_every_field_of_a_message_and_every_event_of_hooks_is_documented() -> None:
    from tests.messages import sample

    text = (ROOT / "docs" / "hooks.md").read_text(encoding="utf-8")
    message, events, commands = (
        {name for row in rows for name in re.findall(r"`([^`]+)`", row)}
        for rows in (
            re.findall(r"^\| (`.*?) \|", text.split(f"## {title}")[1].split("\n## ")[0], flags=re.MULTILINE)
            for title in ("The message", "Events", "Commands")
        )
    )
    reported = {name for event in get_args(HookEvent) for name in sample(event, "X", dt.datetime.now(dt.UTC)).content}
    assert message == reported | {"patient"}
    assert events == set(get_args(HookEvent))
    assert commands == {f"{{{name}}}" for name in PLACEHOLDERS}


def test_every_attribute_that_can_be_asked_for_is_documented() -> None:
    from node.dicom.keys import SUPPORTED

    text = (ROOT / "docs" / "query.md").read_text(encoding="utf-8").split("## Attributes")[1].split("\n## ")[0]
    rows = re.findall(r"^\| ([A-Z]+) \| (.*) \|$", text, flags=re.MULTILINE)
    documented = {level: set(re.findall(r"`(\w+)`", attributes)) for level, attributes in rows}
    assert documented == {level.name: set(keywords) for level, keywords in SUPPORTED.items()}


def test_the_rules_for_storage_classes_are_for_the_keys_of_objects_and_for_classes_that_can_be_read() -> None:
    document = (ROOT / "docs" / "object-store.md").read_text()
    [block] = re.findall(r"^    \{\n(?:    .*\n)+?    \}$", document, re.MULTILINE)
    rules = {rule["Filter"]["Prefix"]: rule for rule in json.loads(block)["Rules"]}
    prefix = StoreSettings(url=re.findall(r'url = "(s3://.*)"', document)[0]).url.split("/")[3]  # type: ignore[union-attr]
    assert is_key("objects/00000012/" + "0" * 32 + ".dcm")
    assert set(rules) == {f"{prefix}/objects/", f"{prefix}/{VOLUMES}/", f"{prefix}/"}
    for rule in rules.values():
        assert "Expiration" not in rule
        assert COLD_CLASSES.isdisjoint(move["StorageClass"] for move in rule.get("Transitions", ()))


@pytest.mark.parametrize("cold", sorted(COLD_CLASSES))
def test_a_storage_class_that_needs_a_restore_is_refused(cold: str) -> None:
    with pytest.raises(ValidationError, match="needs a restore before each read"):
        StoreSettings(url="s3://bucket", storage_class=cold)


def test_no_document_recommends_storescu_for_a_folder() -> None:
    """Pynetdicom has a `storescu` without ``+sd``, which comes first in an active virtual environment.

    ``python -m pynetdicom storescu``, which the tutorial has, is that one wherever it is run.
    """
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "node").rglob("*.py")]
    recommended = re.compile(r"(?<!python -m pynetdicom )storescu .*-aec")
    found = [page.name for page in [*pages, *(ROOT / "node").rglob("*.html")] if recommended.search(page.read_text())]
    assert found == []
