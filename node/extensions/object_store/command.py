"""``voxelnode archive status|copy``."""

from dataclasses import asdict
from typing import Annotated, Any, Literal

import typer

from node.cli.options import ChangedRoot, Commands, Root
from node.cli.output import Answer, Listing, described, print_fields
from node.errors import counted, sized

app = Commands(help="Move instances and volumes to the object store, or back.", no_args_is_help=True)


@app.command()
def status(root: Root) -> Listing:
    """Show where the instances and the files of volumes are.

    Tells how many are in the folder and in the object store, and whether that answers. Exit 1 if it does not.
    """
    with root.looking() as index:
        from node.extensions.object_store.listed import PlaceViews  # after the index, of which it loads a part

        checksums = index.store_checksums
        places = index.views(PlaceViews)
        counts, files = places.count_instances(), places.count_files()
        identity, has_used_store = index.archive_in_store, index.has_used_store
        by_host = places.count_by_holder()
    store, problem = None, None
    if root.settings.storage.url is not None:
        from node.archive.base import StoreAway
        from node.extensions.object_store.bucket import configured_store
        from node.extensions.object_store.settings import StoreSettings
        from node.extensions.object_store.stores import owner_problem

        store = configured_store(root.settings.table(StoreSettings))
        try:
            problem = owner_problem(store, identity, has_used_store)
        except StoreAway as error:
            problem = str(error.strerror)
    numbers = {place: {"instances": count.files, "bytes": count.bytes} for place, count in counts.items()}
    volumes = {place: asdict(count) for place, count in files.items()}
    where = {"object_store": None if store is None else store.place, "problem": problem, "checksums": checksums}
    fields: dict[str, Any] = {"object store": "none" if store is None else f"{store.place}, {problem or 'it answers'}"}
    if checksums is not None:
        fields["checksums"] = checksums
    for name, place in (("folder", "folder"), ("to be moved", "spool"), ("in the object store", "store")):
        fields[name] = f"{counted(counts[place].files, 'instance')}, {sized(counts[place].bytes)}"
        if files[place].files or place != "folder":
            fields[name] += f"; {counted(files[place].files, 'file')} of volumes, {sized(files[place].bytes)}"
    fields |= {f"  on {host}": counted(instances, "instance") for host, instances in by_host.items()}
    data = {**where, **numbers, "volumes": volumes, "hosts": by_host}
    return described(data, lambda: print_fields(fields), failed=problem is not None)


@app.command()
def copy(
    to: Annotated[Literal["store", "folder"], typer.Option("--to", help="Where to.")], root: ChangedRoot
) -> Answer:
    """Move all instances and volumes to the object store, or back.

    The store is [storage] url. Stop the node first. Every file is compared with its SHA-256. If the command is
    interrupted, run it again. Exit 1 if files are left.
    """
    from node.extensions.object_store.kind import copy_archive

    copied = copy_archive(root.settings, to)
    left = copied.left + copied.files_left
    text = f"{counted(copied.instances, 'instance')} and {counted(copied.files, 'file')} of volumes moved"
    if left:
        kept = f"{counted(copied.left, 'instance')} and {counted(copied.files_left, 'file')} of volumes"
        text += f"\n{kept} left: see the log"
    elif to == "folder":
        text += "\nnow remove [storage] url; the objects are still in the store, remove them there"
    return Answer(asdict(copied), text, failed=bool(left))
