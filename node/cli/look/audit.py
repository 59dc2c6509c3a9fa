"""``voxelnode audit``."""

from __future__ import annotations

import json as jsons
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from node.cli.options import ConfigFile, Json, Root, load
from node.cli.output import print_json, print_table, report_problems
from node.errors import UsageError

if TYPE_CHECKING:
    from node.settings.model import Settings

COLUMNS = ("at", "event", "action", "outcome", "who", "object", "detail")


def audit(
    last: Annotated[int, typer.Option("--last", metavar="N", min=1, help="Number of lines to show.")] = 20,
    verify: Annotated[
        bool, typer.Option("--verify", help="Check the hash chain of all lines; exit 1 if it is broken.")
    ] = False,
    host: Annotated[
        str | None, typer.Option("--host", metavar="HOST", help="Only the log of this host, of those on one index.")
    ] = None,
    local: Annotated[bool, typer.Option("--local", help="Only the log in this root; does not ask the index.")] = False,
    config: ConfigFile = None,
    root: Root = None,
    json: Json = False,
) -> None:
    """Show the audit log: who stored, deleted or changed what. Hosts that share an index have one view of all logs."""
    settings = load(config, storage__root=root).settings
    has_hosts = settings.index.url is not None and not local
    if host is not None and not has_hosts:
        raise UsageError("--host needs [index] url, and not --local")

    from node.audit.audit_files import FILE_NAME, audit_files, last_lines

    folder = settings.storage.root.absolute()
    path = folder / FILE_NAME
    if not audit_files(folder) and not has_hosts:
        raise UsageError(f"no audit log at {path}: check the root")
    if verify:
        _verify(path, settings if has_hosts else None, host, json)
        return
    if has_hosts:
        shown = _of_all_hosts(settings, last, host)
    else:
        shown = [line for line in map(_parsed, last_lines(folder, last)) if line]
    if json:
        print_json(shown)
    elif has_hosts:
        rows = ((line["log"], *_row(line)) for line in shown)
        print_table(f"audit logs in {settings.index.url}", ("host", *COLUMNS), rows)
    else:
        print_table(str(path), COLUMNS, map(_row, shown))


def _of_all_hosts(settings: Settings, last: int, host: str | None) -> list[dict[str, Any]]:
    """Return lines of the file of this host, and of the copies of others."""
    from node.audit.audit_files import last_lines
    from node.index.database.index import reading

    root, own = settings.storage.root.absolute(), settings.cluster.name
    lines: list[tuple[str, bytes]] = []
    if host in (None, own):
        lines = [(own, line) for line in last_lines(root, last)]
    with reading(root, settings.index.url) as index:
        copies = index.audit_lines.newest(last, host=host, other_than=own)
    lines += [(name, line.encode()) for name, line in copies]
    shown = [{"log": name, **line} for name, line in ((name, _parsed(line)) for name, line in lines) if line]
    return sorted(shown, key=lambda line: str(line["at"]))[-last:]


def _verify(path: Path, settings: Settings | None, host: str | None, json: bool) -> None:
    from node.audit.audit_files import verify

    problems = verify(path.parent) if host is None else []
    if settings is not None:
        problems += _problems_of_copies(settings, host)
    report_problems(path, problems, "the hash chain is intact", json)


def _problems_of_copies(settings: Settings, host: str | None) -> Iterator[str]:
    """Yield what is wrong with the copies of logs, and whether the log here lacks lines that were copied."""
    from node.audit.audit_files import copy_problems, digest_of, position_behind
    from node.index.database.index import reading

    root, own = settings.storage.root.absolute(), settings.cluster.name
    with reading(root, settings.index.url) as index:
        for name in index.audit_lines.hosts() if host is None else (host,):
            for problem in copy_problems(index.audit_lines.of_host(name)):
                yield f"{name}: {problem}"
            newest = index.audit_lines.newest(1, host=own) if name == own else []
            if newest and position_behind(root, digest_of(f"{newest[0][1]}\n".encode())) is None:
                yield f"{name}: the last line that was copied is not in {root} any more: its end was removed"


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
