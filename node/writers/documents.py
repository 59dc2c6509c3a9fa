"""JSON files of instances that have no voxels, such as measurements; one item of a list on each line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from node.volume.model import Kind
from node.writers.base import Grid, WrittenFile, write_file

NO_GRID = Grid((), (), "")


def write_document(record: Mapping[str, Any], kind: Kind, folder: Path, stem: str) -> WrittenFile:
    """Write ``STEM.json``.

    Raises
    ------
    FileExistsError
        A file exists already: the stems in one folder must differ.
    """
    parts = (f"  {json.dumps(name)}: {_lines(content)}" for name, content in record.items())
    text = "{\n" + ",\n".join(parts) + "\n}\n"
    return write_file(folder / f"{stem}.json", text.encode("utf-8", "replace")).written(kind, "json", NO_GRID)


def _lines(content: Any) -> str:
    if not isinstance(content, list):
        return json.dumps(content, ensure_ascii=False, allow_nan=False)
    items = (f"    {json.dumps(item, ensure_ascii=False, allow_nan=False)}" for item in content)
    return "[\n" + ",\n".join(items) + "\n  ]"
