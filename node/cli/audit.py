"""``voxelnode audit``."""

from __future__ import annotations

import json as jsons
from collections import deque
from pathlib import Path
from typing import Annotated, Any

import typer

from node.cli.options import ConfigFile, Json, Root, load
from node.cli.output import print_json, print_table, report_problems
from node.errors import UsageError


def audit(
    last: Annotated[int, typer.Option("--last", metavar="N", min=1, help="Number of lines to show.")] = 20,
    verify: Annotated[
        bool, typer.Option("--verify", help="Check the hash chain of all lines; exit 1 if it is broken.")
    ] = False,
    config: ConfigFile = None,
    root: Root = None,
    json: Json = False,
) -> None:
    """Show the audit log: who stored, deleted or changed what."""
    settings = load(config, storage__root=root).settings

    from node.audit import FILE_NAME

    path = settings.storage.root.absolute() / FILE_NAME
    if not path.exists():
        raise UsageError(f"no audit log at {path}: check the root")
    if verify:
        _verify(path, json)
        return
    with path.open("rb") as file:
        lines = [line for line in map(_parsed, deque(file, last)) if line]
    if json:
        print_json(lines)
    else:
        print_table(str(path), ("at", "event", "action", "outcome", "who", "object", "detail"), map(_row, lines))


def _verify(path: Path, json: bool) -> None:
    from node.audit import verify

    report_problems(path, verify(path), "the hash chain is intact", json)


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        return dict(jsons.loads(line))
    except ValueError:  # torn by a power cut; --verify reports it
        return {}


def _row(line: dict[str, Any]) -> tuple[Any, ...]:
    who = ", ".join(
        f"{participant['user']} {participant['address']}".strip()
        for participant in line["participants"]
        if participant["requestor"]
    )
    objects = ", ".join(jsons.dumps(named) for named in line["objects"])
    return line["at"], line["event"]["meaning"], line["action"], line["outcome"], who, objects, line["detail"]
