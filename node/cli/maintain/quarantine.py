"""``voxelnode quarantine list|show|release|purge``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from node.cli.options import ChangedRoot, Commands, Root, Yes, confirm
from node.cli.output import Answer, Columns, Listing, described, listing, print_fields
from node.errors import UsageError, counted, sized

app = Commands(help="Examine, release or delete the files in quarantine.", no_args_is_help=True)

FILES: Columns = {
    "name": "name",
    "size": lambda row: sized(row["bytes"]),
    "reason": "reason",
    "instance": "sop_instance_uid",
    "detail": "detail",
}

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the file, as listed.")]


@app.command("list")
def list_(root: Root) -> Listing:
    """List the files in quarantine, each with the reason."""
    from node.receive.aside import quarantined

    with root.looking() as index:
        rows = [asdict(file) for file in quarantined(root.folder, index)]
    return listing(f"{counted(len(rows), 'file')} in quarantine", FILES, rows, none="quarantine is empty")


@app.command()
def show(name: Name, root: Root) -> Listing:
    """Compare a file in quarantine with the instance of its UID.

    `voxelnode dump` prints its header.
    """
    with root.reading() as index:  # before the libraries, which load less then
        from node.receive.custody import examined

        found = examined(root.folder, index, name)
    fields = {**asdict(found.file), **{key: value for key, value in asdict(found).items() if key != "file"}}
    return described(fields, lambda: print_fields(fields))


@app.command()
def release(
    name: Name,
    replace: Annotated[
        bool, typer.Option("--replace", help="Make it current even if another version is; that one goes to quarantine.")
    ] = False,
    *,
    root: ChangedRoot,
) -> Answer:
    """Take an instance back into the archive. If a node runs on this root, the node does it."""
    done = root.order("release-quarantined", name=name, replace=replace)
    return Answer(done, f"released: {done['sop_instance_uid']} is in the archive")


@app.command()
def purge(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME...", help="Names of the files.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All files in quarantine.")] = False,
    yes: Yes = False,
    *,
    root: ChangedRoot,
) -> Answer:
    """Delete files in quarantine permanently. If a node runs on this root, the node does it."""
    if bool(names) == everything:
        raise UsageError("give either the names of files, or --all")

    from node.receive.aside import quarantined

    wanted = names or []
    if everything:
        with root.looking() as index:
            wanted = [file.name for file in quarantined(root.folder, index)]
    if wanted:
        files = counted(len(wanted), "file")
        question = f"Permanently delete {files} in quarantine? Some may be the only copy of an instance."
        confirm("purging", question, yes)
    for name in wanted:
        root.order("purge-quarantined", name=name)
    return Answer({"purged": wanted}, f"purged: {counted(len(wanted), 'file')}")
