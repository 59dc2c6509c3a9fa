"""``voxelnode journal``, and ``fsck``, which compares it with index and files."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from node.cli.options import ChangedRoot, Commands, Root
from node.cli.output import Answer, Listing, described, first_of_each_kind, listing, print_fields
from node.errors import counted, sized

if TYPE_CHECKING:
    from node.lifecycle.journal import JournalReport

app = Commands(help="Show and empty the journal of acknowledged instances.", no_args_is_help=True)

REMEDY = "keep a copy of the folder; the next start puts the segment into quarantine; let the senders send them again"


@app.command()
def status(root: Root) -> Listing:
    """Show the journal: its size, what waits in it, and damage.

    It may be that of a running node. Exit 1 if records are damaged.
    """
    from node.index.engine.about_keys import AppliedPosition
    from node.index.engine.backend import IndexUnusable
    from node.lifecycle.journal import JOURNAL_FOLDER, journal_report

    folder, maximum = root.existing(), root.settings.storage.journal_bytes
    try:
        with root.looking() as index:
            report = journal_report(folder, index.applied)
    except IndexUnusable:  # the journal tells what a new index gets from it
        report = journal_report(folder, lambda journal: AppliedPosition.of(None))
    path = folder / JOURNAL_FOLDER
    damage = [{**asdict(found), "segment": found.segment.name} for found in report.damage]
    return described(
        {"path": path, **asdict(report), "damage": damage},
        lambda: print_fields({"journal": path, **_fields(report, maximum)}),
        failed=bool(damage),
    )


def _fields(report: JournalReport, maximum: int) -> dict[str, Any]:
    from node.lifecycle.journal import damaged_records

    waiting = f"{counted(report.waiting, 'instance')}, for the index: the running node or the next start does it"
    damage = {f"damage {found.segment.name}": f"{damaged_records(found)}: {REMEDY}" for found in report.damage}
    return {
        "size": f"{sized(report.bytes)} in {counted(report.segments, 'segment')}, at most {sized(maximum)}",
        "last record": report.last,
        "in the index": f"up to record {report.applied}",
        "durable there": f"up to record {report.freed}",
        "waiting": waiting if report.waiting else "nothing",
        **(damage or {"damage": "none"}),
    }


@app.command()
def drain(root: ChangedRoot) -> Answer:
    """Empty the journal into archive and index; stop the node first.

    The journal is removed: an older version, which may not know its format, can use the root afterwards.
    """
    from node.control.care import drain_journal

    replayed = drain_journal(root.settings)
    text = f"{root.folder}: the journal is empty; {counted(replayed.applied, 'instance')} came from it"
    if replayed.damaged:
        text += f"\n{counted(replayed.damaged, 'record')} could not be read: the segment was copied to quarantine"
    return Answer(asdict(replayed), text)


def fsck(
    root: ChangedRoot,
    digests: Annotated[
        bool, typer.Option("--hash", help="Read every file and compare its SHA-256, not only its length.")
    ] = False,
    repair: Annotated[bool, typer.Option("--repair", help="Repair what can be repaired; stop the node first.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Repair even if more than a tenth of all files is missing.")
    ] = False,
) -> Listing:
    """Compare index, journal and files, and repair differences.

    Exit 1 if a difference remains.
    """
    from node.control.care import check_repository

    findings = check_repository(root.settings, digests=digests, repair=repair, force=force)
    rows = [asdict(finding) for finding in findings]
    left = [row for row in rows if row["repair"] is None]
    first, more = first_of_each_kind(rows)
    shown = listing(
        "",
        {"kind": "kind", "path": "path", "detail": "detail", "repair": "repair"},
        first,
        below=more,
        none=f"{root.folder}: journal, index, archive and volumes agree",
        data={"ok": not left, "findings": rows},
        failed=bool(left),
    )
    return replace(shown, rows=rows)
