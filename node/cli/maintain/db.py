"""``voxelnode db`` and ``journal``, and ``fsck``, which compares both with the files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from node.cli.options import ChangedRoot, Commands, Root, archive_files
from node.cli.output import Answer, Listing, described, first_of_each_kind, listing, print_fields, problems_of
from node.errors import counted, sized

if TYPE_CHECKING:
    from node.control.care import Rebuilt
    from node.index.rows.backend import Place, Salvaged
    from node.lifecycle.fsck import Finding
    from node.receive.record import JournalReport
    from node.settings.model import Settings

db_app = Commands(help="Maintain the index database.", no_args_is_help=True)


@db_app.command()
def path(root: Root) -> Answer:
    """Print where the database is: its file, or its URL."""
    from node.index.looking import is_there

    place = _place(root.settings)
    return Answer({"path": str(place), "exists": is_there(place)}, str(place))


@db_app.command()
def upgrade(root: Root) -> Answer:
    """Create the database, or migrate it to the newest schema."""
    from node.control.root import require_index
    from node.index.rows.place import upgrade as upgrade_database

    place = _place(root.settings)
    require_index(root.folder, root.settings.index.url)
    before, after = upgrade_database(place)
    change = f"migrated from schema {before} to" if before else "created at schema"
    if before == after:
        change = "already at schema"
    return Answer({"path": str(place), "before": before, "after": after}, f"{place}: {change} {after}")


@db_app.command()
def downgrade(
    schema: Annotated[str, typer.Argument(metavar="SCHEMA", help="An older schema, as docs/upgrade.md lists them.")],
    root: Root,
) -> Answer:
    """Bring the database back to an older schema.

    Stop the node first, and install the older version afterwards. What only the newer schema can hold is lost.
    """
    from node.control.root import locked_root
    from node.index.rows.place import downgrade as downgrade_database

    place = _place(root.settings)
    with locked_root(root.existing()):
        before, after = downgrade_database(place, schema)
    change = "already at" if before == after else f"brought back from schema {before} to"
    return Answer({"path": str(place), "before": before, "after": after}, f"{place}: {change} schema {after}")


@db_app.command()
def check(root: Root) -> Listing:
    """Check the database for damage.

    Looks for damaged pages, broken references and an unknown schema. Exit 1 if there is a problem.
    """
    from node.dicom.lean_import import load_for_rows

    load_for_rows()
    from node.index.rows.place import check as found_in
    from node.index.rows.place import exists, left_by_others

    place = _place(root.settings)
    found = problems_of(place, found_in(place), "no problems found")
    names = left_by_others(place)[0] if exists(place) else []
    remarks = [f"the extension {name} is not installed: its tables stay as they are" for name in names]
    return replace(found, data={**found.data, "not_installed": names}, text="\n".join([str(found.text), *remarks]))


@db_app.command()
def copy(
    to: Annotated[str, typer.Option(metavar="URL", help='Database of PostgreSQL, or "sqlite" for a file in the root.')],
    root: ChangedRoot,
) -> Answer:
    """Move the index to another database: PostgreSQL, or SQLite.

    Stop the node first. The database must be empty. All rows are compared when they have been copied; an interrupted
    copy goes on when the command is run again. Afterwards set [index] url to the new database, or remove it for SQLite:
    no node opens the old one again.
    """
    settings = root.settings
    url = None if to == "sqlite" else root.read({"--to": ("index.url", to)}).index.url

    from node.index.rows.place import exists, left_by_others, place_of
    from node.registry import COPY_INDEX, resolve

    source, target = _place(settings), place_of(settings.storage.root, url)
    left_out = left_by_others(source)[1] if exists(source) else []
    rows: dict[str, int] = resolve(COPY_INDEX)(settings, url)
    text = f"{target}: {counted(sum(rows.values()), 'row')} of {len(rows)} tables copied and compared"
    if left_out:
        text += f"\nnot copied, because no installed extension knows them: {', '.join(left_out)}"
    advice = "now remove url from [index]" if url is None else f'now set url = "{url}" in [index]'
    return Answer({"path": str(target), "rows": rows, "left_out": left_out}, f"{text}\n{advice}")


@db_app.command()
def export(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="New folder, or an export to bring up to date.")],
    group: Annotated[str | None, typer.Option(help="Group of accounts that may read it; by default only you.")] = None,
    project: Annotated[
        str | None,
        typer.Option(
            "--project", metavar="NAME", help="Export the series of this project only, as its members see them."
        ),
    ] = None,
    *,
    root: ChangedRoot,
) -> Answer:
    """Copy index and current volumes for other accounts.

    Others than the owner may not read the root, not even its volumes.

    The copy has the same views without accounts, and can be read while the node runs or is stopped. Run it again to
    bring the copy up to date: it copies only new volumes, and removes those that were replaced or deleted. Exit 1 if
    files of volumes are missing or damaged in the root: the copy has no rows for them.
    """
    from node.control.audited_export import audited_export
    from node.registry import EXPORT, resolve

    settings = root.settings
    target = folder.absolute()
    what = (
        f"voxelnode db export{f' of project {project[:64]}' if project else ''} to {target}, for {group or 'its owner'}"
    )
    with audited_export(settings, what) as outcome:
        done = resolve(EXPORT)(root.folder, target, group, settings.index.url, lambda: archive_files(settings), project)
        outcome.counts = f"{done.copied} conversions copied, {done.unchanged} already there, {done.removed} removed"
    lines = [
        f"{folder}: {done.copied} conversions copied ({sized(done.bytes)}), {done.unchanged} already there, "
        f"{done.removed} removed"
    ]
    lines += [f"{absent}: its files are missing or damaged; `voxelnode fsck` tells more" for absent in done.absent]
    return Answer({"path": folder, **asdict(done)}, "\n".join(lines), failed=bool(done.absent))


@db_app.command()
def rebuild(root: ChangedRoot) -> Answer:
    """Rebuild the index from the archive and the journal.

    What can be read of the previous index is taken over. Stop the node first. Exit 1 if rows of it cannot be read: what
    follows is printed. Exit 1 if files cannot be read: they stay in the archive, and the next start adds them to the
    index once they can be read. Exit 1 as well if instances were acknowledged and are not here, or if the ledger that
    names them is damaged.
    """
    from node.control.care import rebuild_index

    if not root.settings.storage.url:  # else the object store may have all of it
        root.existing()
    done = rebuild_index(root.settings)
    salvaged, recovered, replayed = done.salvaged, done.recovered, done.replayed
    data = {
        "previous_index": done.previous_index,
        "instances": recovered.adopted,
        "from_journal": replayed.applied,
        "damaged_in_journal": replayed.damaged,
        "quarantined": recovered.quarantined,
        "from_quarantine": done.taken_back,
        "taken_over": salvaged.rows,
        "not_read": salvaged.unread,
        "limited": salvaged.limited,
        "altered": salvaged.altered,
        "not_installed": salvaged.not_installed,
        "left": salvaged.left,
        "gone": [one.sop_instance_uid for one in salvaged.gone],
        "lost": done.lost,
        "unread": done.unread,
        "ledger_damage": done.ledger_damage,
    }
    failed = bool(done.unread or done.lost or done.ledger_damage or salvaged.unread)
    return Answer(data, lambda: _print_rebuilt(done), failed=failed)


def _print_rebuilt(done: Rebuilt) -> None:
    salvaged, recovered, replayed = done.salvaged, done.recovered, done.replayed
    print(
        f"{counted(recovered.adopted, 'instance')} indexed, {replayed.applied} applied from the journal, "
        f"{recovered.quarantined} unreadable files moved to quarantine"
    )
    if replayed.damaged:
        print(f"{replayed.damaged} records of the journal cannot be read: their segment was copied to quarantine")
    if done.taken_back:
        print(f"in the archive again, and before in quarantine only: {counted(len(done.taken_back), 'instance')}")
    if done.previous_index is None:
        print("there was no previous index: deletions, merged patients, accounts, senders and revisions are not known")
    else:
        kind = "" if isinstance(done.previous_index, Path) else "schema "
        print(f"the previous index was kept as {kind}{done.previous_index}")
    _print_salvaged(salvaged)
    if salvaged.not_installed:
        tables = ", ".join(f"{table} ({counted(count, 'row')})" for table, count in salvaged.left.items()) or "none"
        print(
            f"not installed: {', '.join(salvaged.not_installed)}; their tables were not taken over and are in the "
            f"previous index only: {tables}. To have the rows, put the previous index back, install what is missing, "
            "and rebuild again"
        )
    if done.lost:
        print(
            f"acknowledged, not here: {done.lost}; send these instances again, or write them off: `voxelnode lost list`"
        )
    if done.ledger_damage:
        print("the ledger of what was acknowledged is damaged; what only these parts of it named is not known:")
        print("\n".join(done.ledger_damage))
    if done.unread:
        print(
            f"not readable now, so not in the index: {counted(len(done.unread), 'file')}; check disk and permissions:"
        )
        print("\n".join(done.unread))


def _print_salvaged(salvaged: Salvaged) -> None:
    for table, count in salvaged.rows.items():
        print(f"  {table}: {counted(count, 'row')} taken over")
    for tables, follows in salvaged.what_follows().items():
        reasons = ", ".join(dict.fromkeys(salvaged.unread[table] for table in tables))
        print(f"not all rows of {', '.join(tables)} could be read ({reasons}): {follows}")
    if salvaged.limited:
        print(
            f"{salvaged.limited} accounts see their projects only from now on, because nobody knows who was limited to "
            "them; `voxelnode projects limit NAME --whole-node` lets one see the whole node again"
        )
    for key in salvaged.altered:
        print(f"  {key} is not as the previous index recorded it")


def _place(settings: Settings) -> Place:
    from node.index.rows.backend import place_of

    return place_of(settings.storage.root, settings.index.url)


journal_app = Commands(help="Show and empty the journal of acknowledged instances.", no_args_is_help=True)

REMEDY = "keep a copy of the folder; the next start puts the segment into quarantine; let the senders send them again"


@journal_app.command()
def status(root: Root) -> Listing:
    """Show the journal: its size, what waits in it, and damage.

    It may be that of a running node. Exit 1 if records are damaged.
    """
    from node.index.rows.about_keys import AppliedPosition
    from node.index.rows.backend import IndexUnusable
    from node.receive.record import JOURNAL_FOLDER, journal_report

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
    from node.receive.record import damaged_records

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


@journal_app.command()
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

    Exit 1 if a difference remains, an instance has to be sent again, or a node would not be ready.
    """
    from node.control.care import check_repository

    findings = check_repository(root.settings, digests=digests, repair=repair, force=force)
    findings += _not_ready(root)
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


def _not_ready(root: ChangedRoot) -> Iterator[Finding]:
    """Yield why no node would be ready on the root, or why the one that runs is not, and what is owed."""
    from node.cli.run.doctor import CHECKS, OF_ROOT, Site
    from node.lifecycle.fsck import Finding

    site = Site(root.settings, root.maker)
    for row in (row for check in CHECKS if check.name in OF_ROOT for row in check.findings(site)):
        if row["state"] == "broken":
            yield Finding("not-ready", row["check"], f"{row['found']} -> {row['remedy']}")
