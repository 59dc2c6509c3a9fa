"""The table of fields: documented, and with the values that the rest of the node has."""

from __future__ import annotations

from typing import get_args

from node.completeness import State
from node.index.models.levels import SERIES_STATES
from node.index.nouns.facts import COLUMNS
from node.selector import FIELDS
from node.volume.model import Geometry
from tests.field_tables import DOCS, with_table


def test_the_document_has_the_current_table() -> None:
    document = (DOCS / "select.md").read_text(encoding="utf-8")
    assert with_table("select.md") == document, "run: python -m tests.field_tables"


def test_every_field_has_a_column_of_the_index() -> None:
    assert COLUMNS.keys() == FIELDS.keys()


def test_choices_are_the_values_that_exist() -> None:
    assert FIELDS["state"].choices == SERIES_STATES
    assert FIELDS["verdict"].choices == get_args(State)
    assert FIELDS["geometry"].choices == tuple(Geometry)
