"""Fill a template with section numbers, values and tables, as Markdown for people and as JSON for programs."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from string import Template
from typing import Any

from node.dicom.status import StatementTable

_HEADING = re.compile(r"^(##+) (.+)$", flags=re.MULTILINE)
_TABLE = re.compile(r"^\[(table|list) (\w+)\]$", flags=re.MULTILINE)
"""Where a table stands: as a table, or as plain lines, if its rows are many and need no names of columns."""

_CONTENTS = "[contents]"


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and the text up to the next one; `number` is empty for an annex, `level` begins at 1.

    Sections of Annex A are A.1, A.2, ...
    """

    level: int
    number: str
    title: str
    body: str

    @property
    def heading(self) -> str:
        """Return number and title."""
        return f"{self.number} {self.title}".strip()


NOT_SUPPORTED = "Not supported."
"""The text of a section that is left to extensions."""


def tables_in(text: str) -> list[str]:
    """Return the names of the tables that stand in a text."""
    return [name for _, name in _TABLE.findall(text)]


def with_section(template: str, title: str, text: str) -> str:
    """Return the template with a text in the place of "Not supported." in a section, or below what it says.

    `title`: ``TITLE``, or ``CHAPTER/TITLE`` with the last heading of level 1 before it. Raises KeyError with the number
    of sections of this title, if it is not 1.
    """
    first, *parts = re.split(r"^(?=##+ )", template, flags=re.MULTILINE)
    chapter, found = "", []
    for number, part in enumerate(parts):
        marks, _, heading = part.partition("\n")[0].partition(" ")
        chapter = heading if marks == "##" else chapter
        if title in (heading, f"{chapter}/{heading}"):
            found.append(number)
    if len(found) != 1:
        raise KeyError(len(found))
    heading, _, body = parts[found[0]].partition("\n")
    said = "" if body.strip() == NOT_SUPPORTED else body.strip()
    parts[found[0]] = "\n\n".join(filter(None, (heading, said, text.strip()))) + "\n\n"
    return "".join((first, *parts))


def as_markdown(template: str, values: Mapping[str, str], tables: Mapping[str, StatementTable]) -> str:
    """Return the template as Markdown, with numbered headings, values and tables; an unknown one is a KeyError."""
    title, sections = _sections(template, values)
    contents = "\n".join(f"- {section.heading}" for section in sections if section.level == 1)
    parts = [title]
    for section in sections:
        body = _TABLE.sub(lambda match: _LAYOUTS[match[1]](tables[match[2]]), section.body)
        parts.append(f"{'#' * (section.level + 1)} {section.heading}")
        parts.append(body.replace(_CONTENTS, contents))
    return "\n\n".join(part for part in parts if part) + "\n"


def as_json(template: str, values: Mapping[str, str], tables: Mapping[str, StatementTable]) -> dict[str, Any]:
    """Return text and tables of each section for programs; a table is a list with one object per row."""
    title, sections = _sections(template, values)
    return {
        "title": title.removeprefix("# "),
        "sections": [
            {
                "number": section.number,
                "title": section.title,
                "text": _TABLE.sub("", section.body).replace(_CONTENTS, "").strip(),
                "tables": {
                    name: [dict(zip(tables[name].columns, row, strict=True)) for row in tables[name].rows]
                    for _, name in _TABLE.findall(section.body)
                },
            }
            for section in sections
        ],
    }


def _sections(template: str, values: Mapping[str, str]) -> tuple[str, list[Section]]:
    """Return title and sections; each heading restarts the numbers of the levels below it."""
    text = Template(template).substitute(values)
    title, *rest = _HEADING.split(text)
    return title.strip(), list(_numbered(list(zip(rest[::3], rest[1::3], rest[2::3], strict=True))))


def _numbered(headings: Sequence[tuple[str, str, str]]) -> Iterator[Section]:
    counts: list[int] = []
    annex = ""
    for marks, title, body in headings:
        level = len(marks) - 1
        counts = [*counts[:level], *[0] * (level - len(counts))]
        counts[-1] += 1
        if level == 1:
            annex = title[6] if title.startswith("Annex ") else ""
        below = ".".join(map(str, counts[1:]))
        number = (f"{annex}.{below}" if below else "") if annex else ".".join(map(str, counts))
        yield Section(level, number, title, body.strip())


def _markdown_table(content: StatementTable) -> str:
    rows = [content.columns, ("---",) * len(content.columns), *content.rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows)


def _lines(content: StatementTable) -> str:
    widths = [max(map(len, column)) for column in zip(*content.rows, strict=True)]
    padded = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in content.rows)
    return "\n".join(f"    {line}" for line in padded)


_LAYOUTS = {"table": _markdown_table, "list": _lines}
