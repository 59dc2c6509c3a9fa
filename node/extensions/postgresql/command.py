"""``voxelnode db hosts [drain|forget]``."""

from collections.abc import Iterator, Mapping
from time import monotonic, sleep
from typing import Annotated, Any

import typer

from node.cli.look.status import HOSTS
from node.cli.options import ChangedRoot, Commands, Root
from node.cli.output import Listing, listing
from node.errors import counted

app = Commands(help="List, stop and forget the hosts of a shared index.", invoke_without_command=True)

LOOK_SECONDS = 0.5


@app.callback()
def hosts(root: Root) -> Listing:
    """List the hosts of the index, and what each of them does alone.

    A host is alive, not ready (--json says why), has stopped, or is lost: it has said nothing for as long as its lease.
    What it alone has are instances that it has not moved to the object store yet.
    """
    with root.looking() as index:
        rows = index.hosts.all(index.hosts.now())
    title = counted(len(rows), "host") if rows else "no hosts: the index is a file, or no node has opened it yet"
    return listing(title, HOSTS | {"does alone": _alone}, rows)


def _alone(row: Mapping[str, Any]) -> str:
    return ", ".join(row["leases"]) or (f"left {counted(row['left_behind'], 'file')}" if row["left_behind"] else "")


@app.command()
def drain(
    host: Annotated[
        str | None, typer.Argument(metavar="HOST", help="Name of the host; by default the one of this configuration.")
    ] = None,
    *,
    root: ChangedRoot,
    seconds: Annotated[float, typer.Option("--wait", metavar="SECONDS", min=0, help="Longest wait for its end.")] = 300,
) -> None:
    """Stop a host, and wait for its end.

    As at SIGTERM, it fails its readiness, gives back what it does alone, finishes its associations, and empties its
    journal into the index. Exit 1 if it has not ended in time, or if something is on its disk only.
    """
    name = host or root.settings.cluster.name
    root.order("drain-host", host=name)
    deadline = monotonic() + seconds
    while (row := _host(root, name))["state"] == "draining" and monotonic() < deadline:
        sleep(LOOK_SECONDS)
    if row["state"] != "stopped":
        print(f"{name} is {row['state']} after {seconds:g} s: see its log")
        raise typer.Exit(1)
    if row["left_behind"]:
        print(f"{name} has stopped; on its disk only: {counted(row['left_behind'], 'file')} of instances or volumes")
        raise typer.Exit(1)
    print(f"{name} has stopped, and nothing is on its disk only")


def _host(root: Root, name: str) -> dict[str, Any]:
    with root.reading() as index:
        return next(row for row in index.hosts.all(index.hosts.now()) if row["name"] == name)


@app.command()
def forget(
    host: Annotated[str, typer.Argument(metavar="HOST", help="Name of a host that will not come back.")],
    root: ChangedRoot,
) -> None:
    """Forget a host that is gone for good, and say what it alone had.

    What its journal had and the index lacks is lost with its disk: senders that keep their images send them again.
    Instances that it alone had, because they were not in the object store yet, are listed by series and marked as
    missing: their next reception takes the place.
    """
    done = root.order("forget-host", host=host)
    for lost in done["lost"]:
        uids = f"study {lost['study_instance_uid']}, series {lost['series_instance_uid']}"
        print(f"missing: {counted(lost['instances'], 'instance')} of {uids}")
    print(f"{host} is forgotten")
    for line in _left(done):
        print(line)


def _left(done: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a forgotten host alone had, and what becomes of it."""
    if done["subscribers"]:
        only = ", ".join(done["subscribers"])
        yield f"only it had {only} in its configuration: the next start of a host deletes what waits for them"
    if done["claims"]:
        yield f"it was converting {done['claims']} series: other hosts begin them again"
    if done["leases"]:
        yield f"it alone did {', '.join(done['leases'])}: other hosts do it now"
    if done["is_behind"]:
        yield "it had acknowledged instances that are not in the index: have them sent again"
