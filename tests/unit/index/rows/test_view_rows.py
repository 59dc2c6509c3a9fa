"""Queries that are written out run on both engines."""

import re
from pathlib import Path

import node

NULL_FIRST = re.compile(r":\w+ IS (?:NOT )?NULL (?:OR|AND) ")


def test_a_parameter_is_compared_with_a_column_before_it_is_compared_with_null() -> None:
    """PostgreSQL takes the type of a parameter from its first use, and NULL has none."""
    found = [
        f"{path}: {query[0]}"
        for path in Path(node.__file__).parent.rglob("*.py")
        for query in NULL_FIRST.finditer(path.read_text(encoding="utf-8"))
    ]
    assert found == []
