"""``voxelnode audit``."""

from __future__ import annotations

import json as jsons
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

    from node.audit.audit_files import FILE_NAME, audit_files, last_lines

    folder = settings.storage.root.absolute()
    path = folder / FILE_NAME
    if not audit_files(folder):
        raise UsageError(f"no audit log at {path}: check the root")
    if verify:
        _verify(path, json)
        return
    lines = [line for line in map(_parsed, last_lines(folder, last)) if line]
    if json:
        print_json(lines)
    else:
        print_table(str(path), ("at", "event", "action", "outcome", "who", "object", "detail"), map(_row, lines))


def _verify(path: Path, json: bool) -> None:
    from node.audit.audit_files import verify

    report_problems(path, verify(path.parent), "the hash chain is intact", json)


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
