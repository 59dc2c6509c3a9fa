"""The table of fields in docs/select.md: ``python -m node.selector.field_table docs/select.md`` writes it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from node.selector.fields import FIELDS, Field

BEGIN, END = "<!-- fields: begin -->", "<!-- fields: end -->"


def table(fields: Mapping[str, Field]) -> Iterator[str]:
    """Yield the lines of the table of fields in Markdown."""
    yield "| Field | Type | Meaning |"
    yield "|---|---|---|"
    for name, field in fields.items():
        kind = f"{field.type}, several" if field.several else field.type
        choices = f": {', '.join(f'`{choice}`' for choice in field.choices)}" if field.choices else ""
        yield f"| `{name}` | {kind} | {field.meaning}{choices} |"


def with_table(document: str, fields: Mapping[str, Field] = FIELDS) -> str:
    """Return a document with the current table of some fields between its two marks."""
    before, _, rest = document.partition(BEGIN)
    lines = "\n".join(table(fields))
    return f"{before}{BEGIN}\n{lines}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(with_table(path.read_text(encoding="utf-8")), encoding="utf-8")
