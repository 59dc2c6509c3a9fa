"""Templates with numbered sections and tables."""

import pytest

from node.dicom.status import table
from node.extensions.conformance.document import as_json, as_markdown, with_section

TEMPLATE = """# About $what

## First

Text of $what.

### Within

[table colours]

[list colours]

## Table of Contents

[contents]

## Annex A: More

### Details
"""
TABLES = {"colours": table(("Name", "Value"), [("red|green", 1), ("blue", 2)])}


def test_sections_are_numbered_by_their_place_and_those_of_annexes_by_their_letter() -> None:
    headings = [line for line in as_markdown(TEMPLATE, {"what": "X"}, TABLES).splitlines() if line.startswith("#")]
    assert headings == [
        "# About X",
        "## 1 First",
        "### 1.1 Within",
        "## 2 Table of Contents",
        "## Annex A: More",
        "### A.1 Details",
    ]


def test_values_tables_and_contents_are_filled_in() -> None:
    text = as_markdown(TEMPLATE, {"what": "X"}, TABLES)
    assert "Text of X." in text
    assert "| Name | Value |\n| --- | --- |\n| red\\|green | 1 |\n| blue | 2 |\n" in text
    assert "    red|green  1\n    blue       2\n" in text
    assert "- 1 First\n- 2 Table of Contents\n- Annex A: More\n" in text


def test_programs_get_tables_as_objects() -> None:
    within = as_json(TEMPLATE, {"what": "X"}, TABLES)["sections"][1]
    assert (within["number"], within["title"], within["text"]) == ("1.1", "Within", "")
    assert within["tables"] == {"colours": [{"Name": "red|green", "Value": "1"}, {"Name": "blue", "Value": "2"}]}


@pytest.mark.parametrize(("values", "tables"), [({}, TABLES), ({"what": "X"}, {})])
def test_what_a_template_names_and_nobody_gives_is_an_error(values: dict[str, str], tables: dict[str, object]) -> None:
    with pytest.raises(KeyError):
        as_markdown(TEMPLATE, values, tables)  # type: ignore[arg-type]


def test_a_row_that_does_not_fit_its_columns_is_an_error() -> None:
    with pytest.raises(ValueError, match="1 cells below 2 columns"):
        table(("Name", "Value"), [("red",)])


def test_a_text_is_added_to_a_section_or_takes_the_place_of_not_supported() -> None:
    template = "# T\n\n## One\n\n### Same\n\nNot supported.\n\n## Two\n\n### Same\n\nSaid.\n"
    assert with_section(template, "One/Same", "Text.\n") == template.replace("Not supported.", "Text.")
    assert with_section(template, "Two/Same", "Text.\n").rstrip() == f"{template}\nText."
    for title, found in (("Same", 2), ("Absent", 0)):
        with pytest.raises(KeyError) as refused:
            with_section(template, title, "Text.")
        assert refused.value.args == (found,)
