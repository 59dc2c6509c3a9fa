"""``voxelnode conflicts [show|accept|keep]``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from node.cli.actions import perform
from node.cli.options import ConfigFile, Json, Root, archive_files, load, reading_index, settings_for_change
from node.cli.output import print_fields, print_json, print_table

app = typer.Typer(
    help="List conflicts of one UID or Patient ID, and decide them.",
    invoke_without_command=True,
)

Number = Annotated[int, typer.Argument(metavar="ID", help="Number of the conflict, as listed.")]
Alike = Annotated[
    bool, typer.Option("--alike", help="Also all undecided conflicts of the same kind, study and sender.")
]


@app.callback()
def list_(
    context: typer.Context,
    everything: Annotated[bool, typer.Option("--all", help="Also those that are decided.")] = False,
    config: ConfigFile = None,
    root: Root = None,
    json: Json = False,
) -> None:
    """List identity conflicts that are not decided: one UID or Patient ID with different content."""
    if context.invoked_subcommand is not None:
        return
    with reading_index(config, root) as index:
        rows = index.conflicts.all(decided=everything)
    if json:
        print_json(rows)
    elif not rows:
        print("no conflicts")
    else:
        print_table(
            f"{len(rows)} conflicts",
            ("id", "found", "kind", "study", "instance", "sender", "conflict", "kept at", "decision"),
            [
                (
                    row["id"],
                    row["found_at"],
                    row["kind"],
                    row["study_instance_uid"],
                    row["sop_instance_uid"],
                    row["calling_ae_title"],
                    row["detail"],
                    row["path"],
                    row["decision"],
                )
                for row in rows
            ],
        )


@app.command()
def show(conflict: Number, config: ConfigFile = None, root: Root = None, json: Json = False) -> None:
    """Compare a version with the current one, by attribute."""
    settings = load(config, storage__root=root).settings

    from node.receive.conflicts import compared

    with reading_index(config, root) as index, archive_files(settings) as local:
        found = compared(settings.storage.root.absolute(), index, conflict, local)
    if json:
        print_json(asdict(found))
        return
    print_fields(found.conflict)
    if found.problem is not None:
        print(found.problem)
    elif not found.differences:
        print(
            "the two versions have the same patient, study, series and image attributes: compare the files themselves"
        )
    else:
        print_table(
            "differences",
            ("attribute", "current version", "version in this conflict"),
            [(one.attribute, one.current, one.other) for one in found.differences],
        )


@app.command()
def accept(
    conflict: Number, alike: Alike = False, config: ConfigFile = None, root: Root = None, json: Json = False
) -> None:
    """Make a version current; the current one goes to quarantine."""
    done = perform(settings_for_change(config, root), "accept-conflict", conflict=conflict, alike=alike)
    _print_decided(done, f"accepted: {len(done['accepted'])} versions are current", as_json=json)


@app.command()
def keep(
    conflict: Number, alike: Alike = False, config: ConfigFile = None, root: Root = None, json: Json = False
) -> None:
    """Keep what is current, and list the conflict no more."""
    done = perform(settings_for_change(config, root), "keep-conflict", conflict=conflict, alike=alike)
    _print_decided(done, f"kept: {len(done['kept'])} conflicts are decided", as_json=json)


def _print_decided(done: dict[str, Any], text: str, *, as_json: bool) -> None:
    if as_json:
        print_json(done)
    else:
        print(text)
