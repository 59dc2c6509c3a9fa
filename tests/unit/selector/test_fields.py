"""The table of fields: documented, and with the values that the rest of the node has."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from node.completeness import State
from node.index.models import SERIES_STATES
from node.index.nouns.facts import COLUMNS
from node.selector import FIELDS
from node.selector.field_table import with_table
from node.volume.model import Geometry

DOCUMENT = (Path(__file__).parents[3] / "docs" / "select.md").read_text(encoding="utf-8")


def test_the_document_has_the_current_table() -> None:
    assert with_table(DOCUMENT) == DOCUMENT, "run: python -m node.selector.field_table docs/select.md"


def test_every_field_has_a_column_of_the_index() -> None:
    assert COLUMNS.keys() == FIELDS.keys()


def test_choices_are_the_values_that_exist() -> None:
    assert FIELDS["state"].choices == SERIES_STATES
    assert FIELDS["verdict"].choices == get_args(State)
    assert FIELDS["geometry"].choices == tuple(Geometry)
