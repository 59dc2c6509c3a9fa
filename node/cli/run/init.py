"""``voxelnode init``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the file; created if missing.")] = Path(),
) -> None:
    """Write a commented configuration file, voxelnode.toml."""
    from node.errors import UsageError
    from node.settings.example import example_toml
    from node.settings.files import DEFAULT_FILE

    file = folder / DEFAULT_FILE
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with file.open("x", encoding="utf-8") as stream:
            stream.write(example_toml())
    except FileExistsError:
        raise UsageError(f"{file} already exists and was not changed; remove it, or name another folder") from None
    print(f"wrote {file}; next: voxelnode serve --config {file}")
