"""Make the metadata for datasette from the document: its views with their columns, and its questions as saved queries.

``python -m tests.documents.datasette deploy/datasette.json`` writes it.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

from node.index.rows.extension_tables import every_table

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "docs" / "data.md"


def questions() -> dict[str, str]:
    """The questions of the document, each with its SQL."""
    found = re.findall(r"^\*\*\d+\. (.*?)\*\*\n\n    (SELECT .*?;)$", DATA.read_text(encoding="utf-8"), re.M | re.S)
    return {title: sql.replace("\n    ", "\n") for title, sql in found}


def views() -> dict[str, tuple[str, dict[str, str]]]:
    """By name of each view: its description, and the meaning of each column."""
    found = {}
    for section in re.split(r"^### ", DATA.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        name, _, rest = section.partition("\n")
        rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| (.*) \|$", rest, flags=re.MULTILINE)
        columns = {column: _plain(meaning) for names, meaning in rows for column in re.findall(r"`(\w+)`", names)}
        found[name] = (_plain(rest.partition("|")[0]), columns)
    return found


def metadata() -> dict[str, Any]:
    """The file, as an object: other tables are hidden, because only the views are a public interface."""
    tables: dict[str, Any] = {
        view: {"description": description, "columns": columns} for view, (description, columns) in views().items()
    }
    tables |= {name: {"hidden": True} for name in ("alembic_version", *sorted(every_table()))}
    queries = {
        re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-"): {"title": title, "sql": sql}
        for title, sql in questions().items()
    }
    return {
        "title": "voxelnode",
        "description": "Volumes, series and studies of a node. Begin with v_catalog, or with a saved query.",
        "databases": {"index": {"tables": tables, "queries": queries}},
    }


def written() -> str:
    """The content of the file."""
    return json.dumps(metadata(), indent=2) + "\n"


def _plain(text: str) -> str:
    """Markdown without links and code."""
    return " ".join(re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text).replace("`", "").split())


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(written(), encoding="utf-8")
