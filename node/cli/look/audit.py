"""``voxelnode audit`` and ``rejections``: who did what, and what was refused."""

from __future__ import annotations

import json as jsons
import re
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from node.cli.options import Root
from node.cli.output import Columns, Listing, listing, problems_of
from node.counted import counted
from node.errors import UsageError

COLUMNS: Columns = {
    "at": "at",
    "event": lambda line: line["event"]["meaning"],
    "action": "action",
    "outcome": "outcome",
    "who": lambda line: ", ".join(
        f"{participant['user']} {participant['address']}".strip()
        for participant in line["participants"]
        if participant["requestor"]
    ),
    "object": lambda line: ", ".join(jsons.dumps(named) for named in line["objects"]),
    "detail": "detail",
}
REFUSALS: Columns = {
    "last": "last_at", "times": "count", "refused": "what", "address": "peer", "calling AET": "calling_ae_title",
    "called AET": "called_ae_title", "reason": "reason", "remedy": "remedy",
    "offered": lambda row: _offer(row["offered"]),
}  # fmt: skip


MAX_OFFER_CHARACTERS = 120
"""Of an offer in a table; it may be of 128 presentation contexts."""

_UID = re.compile(r"\b1\.2\.840\.10008(\.[0-9]+)+")


def _offer(offered: str | None) -> str:
    """Return what a sender offered, with the names of the standard, for a line of a table."""
    from node.dicom.uids import registered_name

    named = _UID.sub(lambda found: registered_name(found[0]) or found[0], offered or "")
    return named if len(named) <= MAX_OFFER_CHARACTERS else f"{named[:MAX_OFFER_CHARACTERS].rpartition(', ')[0]}, ..."


def audit(
    last: Annotated[int, typer.Option("--last", metavar="N", min=1, help="Number of lines to show.")] = 20,
    verify: Annotated[
        bool, typer.Option("--verify", help="Check the hash chain of all lines; exit 1 if it is broken.")
    ] = False,
    host: Annotated[
        str | None, typer.Option("--host", metavar="HOST", help="Only the log of this host, of those on one index.")
    ] = None,
    local: Annotated[bool, typer.Option("--local", help="Only the log in this root; does not ask the index.")] = False,
    *,
    root: Root,
) -> Listing:
    """Show the audit log: who stored, deleted or changed what. Hosts that share an index have one view of all logs."""
    settings = root.settings
    has_hosts = settings.index.url is not None and not local
    if host is not None and not has_hosts:
        raise UsageError("--host needs [index] url, and not --local")

    from node.audit.audit_files import FILE_NAME, audit_files, last_lines
    from node.audit.audit_files import verify as audit_files_problems

    path = root.folder / FILE_NAME
    if not audit_files(root.folder) and not has_hosts:
        raise UsageError(f"no audit log at {path}: check the root")
    if verify:
        problems = audit_files_problems(root.folder) if host is None else []
        if has_hosts:
            problems += _problems_of_copies(root, host)
        return problems_of(path, problems, "the hash chain is intact")
    if has_hosts:
        shown = _of_all_hosts(root, last, host)
        return listing(f"audit logs in {settings.index.url}", {"host": "log", **COLUMNS}, shown)
    return listing(str(path), COLUMNS, [line for line in map(_parsed, last_lines(root.folder, last)) if line])


def _of_all_hosts(root: Root, last: int, host: str | None) -> list[dict[str, Any]]:
    """Return lines of the file of this host, and of the copies of others."""
    from node.audit.audit_files import last_lines

    own = root.settings.cluster.name
    lines: list[tuple[str, bytes]] = []
    if host in (None, own):
        lines = [(own, line) for line in last_lines(root.folder, last)]
    with root.reading() as index:
        copies = index.audit_lines.newest(last, host=host, other_than=own)
    lines += [(name, line.encode()) for name, line in copies]
    shown = [{"log": name, **line} for name, line in ((name, _parsed(line)) for name, line in lines) if line]
    return sorted(shown, key=lambda line: str(line["at"]))[-last:]


def _problems_of_copies(root: Root, host: str | None) -> Iterator[str]:
    """Yield what is wrong with the copies of logs, and whether the log here lacks lines that were copied."""
    from node.audit.audit_files import copy_problems, digest_of, position_behind

    own = root.settings.cluster.name
    with root.reading() as index:
        for name in index.audit_lines.hosts() if host is None else (host,):
            for problem in copy_problems(index.audit_lines.of_host(name)):
                yield f"{name}: {problem}"
            newest = index.audit_lines.newest(1, host=own) if name == own else []
            if newest and position_behind(root.folder, digest_of(f"{newest[0][1]}\n".encode())) is None:
                yield f"{name}: the last line that was copied is not in {root.folder} any more: its end was removed"


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        return dict(jsons.loads(line))
    except ValueError:  # torn by a power cut; --verify reports it
        return {}


def rejections(
    last: Annotated[int, typer.Option("--last", metavar="N", min=1, help="Number of refusals to show.")] = 20,
    *,
    root: Root,
) -> Listing:
    """List recent refusals with sender, reason and remedy."""
    with root.looking() as index:
        rows = index.rejections.newest(last)[::-1]
    return listing(f"last {counted(len(rows), 'kind')} of refusals", REFUSALS, rows, none="no refusals")
