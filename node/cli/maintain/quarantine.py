"""``voxelnode quarantine list|show|release|purge``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from node.cli.actions import Yes, confirm, perform
from node.cli.options import ConfigFile, Json, Root, load, reading_index, settings_for_change
from node.cli.output import print_fields, print_json, print_table, sized
from node.errors import UsageError

app = typer.Typer(help="Examine, release or delete the files in quarantine.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the file, as listed.")]


@app.command("list")
def list_(config: ConfigFile = None, root: Root = None, json: Json = False) -> None:
    """List the files in quarantine, each with the reason."""
    settings = load(config, storage__root=root).settings

    from node.receive.quarantine import quarantined

    with reading_index(config, root) as index:
        files = quarantined(settings.storage.root.absolute(), index)
    if json:
        print_json([asdict(file) for file in files])
    elif not files:
        print("quarantine is empty")
    else:
        print_table(
            f"{len(files)} files in quarantine",
            ("name", "size", "reason", "instance", "detail"),
            [(file.name, sized(file.bytes), file.reason, file.sop_instance_uid, file.detail) for file in files],
        )


@app.command()
def show(name: Name, config: ConfigFile = None, root: Root = None, json: Json = False) -> None:
    """Compare a file in quarantine with the instance of its UID.

    `voxelnode dump` prints its header.
    """
    settings = load(config, storage__root=root).settings

    from node.receive.quarantine import examined

    folder = settings.storage.root.absolute()
    with reading_index(config, root) as index:
        found = examined(folder, index, name)
    fields = {**asdict(found.file), **{key: value for key, value in asdict(found).items() if key != "file"}}
    if json:
        print_json(fields)
    else:
        print_fields(fields)


@app.command()
def release(
    name: Name,
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Make it current even if another version is; that one goes to quarantine."),
    ] = False,
    config: ConfigFile = None,
    root: Root = None,
    json: Json = False,
) -> None:
    """Take an instance back into the archive. If a node runs on this root, the node does it."""
    done = perform(settings_for_change(config, root), "release-quarantined", name=name, replace=replace)
    if json:
        print_json(done)
    else:
        print(f"released: {done['sop_instance_uid']} is in the archive")


@app.command()
def purge(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME...", help="Names of the files.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All files in quarantine.")] = False,
    yes: Yes = False,
    config: ConfigFile = None,
    root: Root = None,
    json: Json = False,
) -> None:
    """Delete files in quarantine permanently. If a node runs on this root, the node does it."""
    if bool(names) == everything:
        raise UsageError("give either the names of files, or --all")

    from node.receive.quarantine import quarantined

    settings = settings_for_change(config, root)
    wanted = names or []
    if everything:
        with reading_index(config, root) as index:
            wanted = [file.name for file in quarantined(settings.storage.root.absolute(), index)]
    if wanted:
        question = f"Permanently delete {len(wanted)} files in quarantine? Some may be the only copy of an instance."
        confirm("purging", question, yes)
    for name in wanted:
        perform(settings, "purge-quarantined", name=name)
    if json:
        print_json({"purged": wanted})
    else:
        print(f"purged: {len(wanted)} files")
