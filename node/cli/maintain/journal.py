"""``voxelnode journal status|drain``."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from node.cli.options import ConfigFile, Json, Root, load, settings_for_change
from node.cli.output import print_fields, print_json, sized

if TYPE_CHECKING:
    from node.lifecycle.journal import JournalReport

app = typer.Typer(
    help="Show and empty the journal of acknowledged instances.",
    no_args_is_help=True,
)

REMEDY = "keep a copy of the folder; the next start puts the segment into quarantine; let the senders send them again"


@app.command()
def status(config: ConfigFile = None, root: Root = None, json: Json = False) -> None:
    """Show the journal: its size, what waits in it, and damage.

    It may be that of a running node. Exit 1 if records are damaged.
    """
    settings = load(config, storage__root=root).settings

    from node.index.database.index import reading
    from node.index.engine.about import Applied
    from node.index.engine.place import IndexUnusable
    from node.lifecycle.journal import JOURNAL_FOLDER, journal_report

    folder = settings.storage.root.absolute()
    try:
        with reading(folder, settings.index.url) as index:
            report = journal_report(folder, index.applied)
    except IndexUnusable:  # the journal tells what a new index gets from it
        report = journal_report(folder, lambda journal: Applied.of(None))
    if json:
        damage = [{**asdict(found), "segment": found.segment.name} for found in report.damage]
        print_json({"path": folder / JOURNAL_FOLDER, **asdict(report), "damage": damage})
    else:
        print_fields({"journal": folder / JOURNAL_FOLDER, **_fields(report, settings.storage.journal_bytes)})
    if report.damage:
        raise typer.Exit(1)


def _fields(report: JournalReport, maximum: int) -> dict[str, Any]:
    from node.lifecycle.journal import damaged_records

    waiting = f"{report.waiting} instances; the running node or the next start adds them to the index"
    damage = {f"damage {found.segment.name}": f"{damaged_records(found)}: {REMEDY}" for found in report.damage}
    return {
        "size": f"{sized(report.bytes)} in {report.segments} segments, at most {sized(maximum)}",
        "last record": report.last,
        "in the index": f"up to record {report.applied}",
        "durable there": f"up to record {report.freed}",
        "waiting": waiting if report.waiting else "nothing",
        **(damage or {"damage": "none"}),
    }


@app.command()
def drain(config: ConfigFile = None, root: Root = None, json: Json = False) -> None:
    """Empty the journal into archive and index; stop the node first.

    The journal is removed: an older version, which may not know its format, can use the root afterwards.
    """
    settings = settings_for_change(config, root)

    from node.control.care import drain_journal

    replayed = drain_journal(settings)
    if json:
        print_json(asdict(replayed))
        return
    print(f"{settings.storage.root.absolute()}: the journal is empty; {replayed.applied} instances came from it")
    if replayed.damaged:
        print(f"{replayed.damaged} records could not be read: their segment was copied to quarantine")
