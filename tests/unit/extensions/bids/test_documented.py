"""What docs/bids.md says of rules, against the rules."""

import re
from pathlib import Path
from textwrap import dedent

from node.extensions.bids.rules import NAMED_BY_RULE, DatasetTable, Rule, SessionsTable, SubjectsTable, default_rules
from node.extensions.bids.state import STATE_FILE
from tests.field_tables import with_table
from tests.unit.extensions.bids.builders import rules_of

DOCUMENT = (Path(__file__).parents[4] / "docs" / "bids.md").read_text(encoding="utf-8")


def test_the_table_of_fields_is_the_current_one() -> None:
    assert with_table("bids.md") == DOCUMENT, "run: python -m tests.field_tables"


def test_every_key_is_documented_and_no_other() -> None:
    part = DOCUMENT.split("### Keys")[1].split("### Fields")[0]
    named = {}
    for line in part.splitlines():
        if line.startswith("| `["):
            table, keys, *_ = line.removeprefix("| `").split(" | ")
            named.setdefault(table.strip("[]`"), set()).update(re.findall(r"`(\w+)`", keys))
    tables = {"dataset": DatasetTable, "subjects": SubjectsTable, "sessions": SessionsTable, "rules": Rule}
    assert named == {name: set(table.model_fields) for name, table in tables.items()}
    assert {word for word in re.findall(r"`(\w+)`", part) if word in NAMED_BY_RULE} == NAMED_BY_RULE


def test_the_example_is_valid_and_the_default_rules_stand_alone(tmp_path: Path) -> None:
    example = DOCUMENT.split("and subjects of a table:\n")[1].split("### Keys")[0]
    rules = rules_of(dedent(example), tmp_path)
    assert rules.subjects.map == tmp_path / "subjects.csv"
    own = rules.own
    assert own == example.count("[[rules]]")
    copied = rules_of("[dataset]\ndefault_rules = false\n" + default_rules(), tmp_path)
    assert [rule.name for rule, _ in copied.rules] == [rule.name for rule, _ in rules.rules[own:]]


def test_the_state_file_is_named() -> None:
    assert f"`{STATE_FILE}`" in DOCUMENT
