"""``voxelnode archive status|copy``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Literal

import typer

from node.cli.options import ConfigFile, Json, Root, load, settings_for_change
from node.cli.output import print_fields, print_json, sized

app = typer.Typer(help="Move instances and volumes to the object store, or back.", no_args_is_help=True)


@app.command()
def status(config: ConfigFile = None, root: Root = None, json: Json = False) -> None:
    """Show where the instances and the files of volumes are.

    Tells how many are in the folder and in the object store, and whether that answers. Exit 1 if it does not.
    """
    settings = load(config, storage__root=root).settings

    from node.archive.base import StoreAway
    from node.archive.objects import configured_store
    from node.archive.remote import owner_problem
    from node.index.database.index import reading

    folder = settings.storage.root.absolute()
    with reading(folder, settings.index.url) as index:
        counts = index.instances.count_by_place()
        identity, has_used_store = index.archive_in_store, index.has_used_store
        by_host = index.instances.count_by_holder()
        files = index.volumes.count_by_place()
    store = configured_store(settings.storage)
    problem: str | None = None
    if store is not None:
        try:
            problem = owner_problem(store, identity, has_used_store)
        except StoreAway as error:
            problem = str(error.strerror)
    if json:
        numbers = {place: asdict(count) for place, count in counts.items()}
        volumes = {place: {"files": count, "bytes": size} for place, (count, size) in files.items()}
        where = {"object_store": None if store is None else store.place, "problem": problem}
        print_json({**where, **numbers, "volumes": volumes, "hosts": by_host})
    else:
        answers = "none" if store is None else f"{store.place}, {problem or 'it answers'}"
        fields: dict[str, Any] = {"object store": answers}
        for name, place in (("folder", "folder"), ("to be moved", "spool"), ("in the object store", "store")):
            fields[name] = f"{counts[place].instances} instances, {sized(counts[place].bytes)}"
            number, size = files[place]
            if number or place != "folder":
                fields[name] += f"; {number} files of volumes, {sized(size)}"
        fields |= {f"  on {host}": f"{instances} instances" for host, instances in by_host.items()}
        print_fields(fields)
    if problem is not None:
        raise typer.Exit(1)


@app.command()
def copy(
    to: Annotated[Literal["store", "folder"], typer.Option("--to", help="Where to.")],
    config: ConfigFile = None,
    root: Root = None,
    json: Json = False,
) -> None:
    """Move all instances and volumes to the object store, or back.

    The store is [storage] url. Stop the node first. Every file is compared with its SHA-256. If the command is
    interrupted, run it again. Exit 1 if files are left.
    """
    settings = settings_for_change(config, root)

    from node.control.care import copy_archive

    copied = copy_archive(settings, to)
    left = copied.left + copied.files_left
    if json:
        print_json(asdict(copied))
    else:
        print(f"{copied.instances} instances and {copied.files} files of volumes moved")
        if left:
            print(f"{copied.left} instances and {copied.files_left} files of volumes left: see the log")
        elif to == "folder":
            print("now remove [storage] url; the objects are still in the store, remove them there")
    if left:
        raise typer.Exit(1)
