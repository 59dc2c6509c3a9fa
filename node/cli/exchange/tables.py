"""``voxelnode peers|routes|hooks set`` and ``remove``: tables of the drop-in that the pages write as well.

Of peers also ``list``, ``echo`` and ``send``: requests to other nodes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from node.cli.exchange.messages import HookName, hooks, routes
from node.cli.options import HOOK, PEER, ROUTE, CallingAet, ChangedRoot, Commands, Configured, Root
from node.cli.output import Answer, Columns, Listing, listing, named_files, print_fields, printable, progress_bar
from node.cli.run.config import Drop, Keys, SetsKeys, Unset, in_force, set_table
from node.errors import UsageError, counted

if TYPE_CHECKING:
    from node.association.client.send import Sent
    from node.index.look.views import ReadIndex
    from node.index.rows.files import Selected

peers = Commands(help="List, set, remove, test and query peers.", no_args_is_help=True)


@peers.command("list")
def list_(*, root: Root) -> Listing:
    """List the peers: who they are, and what they may."""
    rows = [{"name": name, **peer.model_dump(mode="json")} for name, peer in root.settings.peers.items()]
    columns: Columns = {
        **{name: name for name in ("name", "ae_title", "host")},
        "port": lambda row: row["port"] if row["host"] else "",
        "associations": lambda row: row["associations"] or "",
        "networks": lambda row: ", ".join(row["networks"] or ()),
        "certificate": lambda row: row["certificate"] or "",
        "may": lambda row: ", ".join(row["may"]),
    }
    return listing(counted(len(rows), "peer"), columns, rows, none="no peers: `voxelnode peers set` adds one")


@peers.command()
def echo(
    peer: Annotated[
        str | None,
        typer.Argument(help="A name in [peers], or AET@HOST:PORT. [default: the node of this configuration]", **PEER),
    ] = None,
    *,
    configured: Configured,
    calling_aet: CallingAet = None,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", min=0.1, max=600, help="Maximum wait.")] = 10,
) -> Answer:
    """Test the connection to a node (C-ECHO)."""
    settings = configured.settings

    from node.association.client.addresses import Address, address_of
    from node.association.client.association import verify
    from node.errors import VoxelnodeError

    if peer is None:
        address = Address(settings.dicom.ae_title, settings.dicom.host or "127.0.0.1", settings.dicom.port)
    else:
        address = address_of(peer, settings)
    answer = {"ae_title": address.ae_title, "host": address.host, "port": address.port}
    try:
        took = verify(address, calling_aet or settings.dicom.ae_title, timeout)
    except VoxelnodeError as error:
        return Answer({**answer, "ok": False, "error": str(error)}, error, failed=True)
    text = f"{address.ae_title} on {address.host}:{address.port} answers ({took * 1000:.0f} ms)"
    return Answer({**answer, "ok": True, "seconds": took}, text)


@peers.command()
def send(
    to: Annotated[str, typer.Option("--to", help="A name in [peers], or AET@HOST:PORT.", **PEER)],
    uids: Annotated[
        list[str] | None, typer.Argument(metavar="UID", help="UIDs of stored studies, series or instances.")
    ] = None,
    patient: Annotated[
        str | None, typer.Option("--patient", metavar="ID", help="All studies with this Patient ID.")
    ] = None,
    *,
    root: Root,
    calling_aet: CallingAet = None,
) -> Answer:
    """Send stored instances to another node (C-STORE).

    Instances are sent as stored, or uncompressed if the peer accepts nothing else. Exit 1 if an instance was not sent.
    """
    settings = root.settings
    if not uids and patient is None:
        raise typer.BadParameter("Give UIDs, or --patient ID.")

    from node.association.client import send as sending
    from node.association.client.addresses import address_of
    from node.association.client.send import Transcoder, outgoing_of
    from node.children.decoder import Decoder

    peer = address_of(to, settings)
    with root.reading() as index:
        chosen = {one.sop_instance_uid: one for few in _selected(index, uids or [], patient) for one in few.instances}
    calling = calling_aet or settings.dicom.ae_title
    results: list[Sent] = []
    with root.files() as local, progress_bar("sending", len(chosen)) as advance, closing(Decoder()) as decoder:
        transcode = Transcoder(decoder, root.folder / "incoming")
        instances = outgoing_of(chosen.values(), root.folder, local)
        for sent in sending.send(instances, peer, calling, transcode, settings.dicom.response_seconds):
            results.append(sent)
            advance()
    return _answer(results)


def _selected(index: ReadIndex, uids: list[str], patient: str | None) -> Iterator[Selected]:
    """Yield the instances of each UID and of the Patient ID; each must match at least one instance."""
    from node.dicom.keys import Level, Selection
    from node.index.looking import the_named
    from node.index.rows.records import UIDS

    for text in uids:
        one = the_named(index, text, "study", "series", "instance")
        level = Level.IMAGE if one.level == "instance" else Level[one.level.upper()]
        keys: dict[str, Any] = {f"{UIDS[one.level]}s": (one.uid,)}
        yield index.files.selected(Selection(level, **keys))
    if patient is not None:
        selected = index.files.selected(Selection(Level.PATIENT, patient_id=patient))
        if not selected.instances:
            raise UsageError("no stored study has this Patient ID")
        yield selected


def _answer(results: list[Sent]) -> Answer:
    from node.association.client.send import SendOutcome

    failed = [sent for sent in results if sent.fate is SendOutcome.FAILED]
    counts = {
        "sent": sum(sent.fate is SendOutcome.COMPLETED for sent in results),
        "sent with a warning": sum(sent.fate is SendOutcome.WARNING for sent in results),
        "not sent": len(failed),
    }
    failures = [
        {
            "sop_instance_uid": sent.instance.sop_instance_uid,
            "reason": printable(f"{sent.reason} {sent.comment}".rstrip()),
        }
        for sent in failed
    ]

    def show() -> None:
        print_fields(counts)
        for line in named_files("not sent", ((one["sop_instance_uid"], one["reason"]) for one in failures)):
            print(line)

    data = {"sent": counts["sent"], "warnings": counts["sent with a warning"], "failed": failures}
    return Answer(data, show, failed=bool(failed))


__all__ = ["hooks", "peers", "routes"]  # for the commands

PeerName = Annotated[str, typer.Argument(help="Name of the peer.", **PEER)]
RouteName = Annotated[
    str, typer.Argument(help="Name of the route.", metavar="NAME", autocompletion=ROUTE["autocompletion"])
]
NewHookName = Annotated[str, typer.Argument(help="Name of the hook.", **HOOK)]
SecretFile = Annotated[
    Path | None,
    typer.Option(
        "--secret-file", metavar="FILE", help="Read from here what signs the messages of a webhook; -: standard input."
    ),
]


@peers.command("set", cls=SetsKeys)
def set_peer(name: PeerName, keys: Keys = None, unset: Unset = None, drop: Drop = 0, *, root: ChangedRoot) -> Answer:
    """Add a peer, or change one that was set here.

    Keys that are not given stay; a new peer without may may do everything. A running node follows at once.
    """
    done = set_table(root, f"peers.{name}", keys, unset, drop)
    now = root.read()
    everything = "" if f"peers.{name}.may" in now.loaded_from.origins else " (everything, for `may` is not set)"
    return in_force(done, f"{name} may {', '.join(now.peers[name].may) or 'nothing'}{everything}")


@peers.command("remove")
def remove_peer(name: PeerName, drop: Drop = 0, *, root: ChangedRoot) -> Answer:
    """Remove a peer that was set here."""
    return in_force(root.order("remove-table", table=f"peers.{name}", drops=drop))


@routes.command("set", cls=SetsKeys)
def set_route(name: RouteName, keys: Keys = None, unset: Unset = None, drop: Drop = 0, *, root: ChangedRoot) -> Answer:
    """Add a route, or change one that was set here.

    Keys that are not given stay. A running node follows at once.
    """
    return in_force(set_table(root, f"routes.{name}", keys, unset, drop))


@routes.command("remove")
def remove_route(name: RouteName, drop: Drop = 0, *, root: ChangedRoot) -> Answer:
    """Remove a route that was set here."""
    return in_force(root.order("remove-table", table=f"routes.{name}", drops=drop))


@hooks.command("set", cls=SetsKeys)
def set_hook(
    name: NewHookName,
    keys: Keys = None,
    secret_file: SecretFile = None,
    unset: Unset = None,
    drop: Drop = 0,
    *,
    root: ChangedRoot,
) -> Answer:
    """Add a hook, or change one that was set here.

    It has `url`. Keys that are not given stay, and the secret while the address does. A running node follows at once.
    """
    more = {} if secret_file is None else {"secret": _secret_in(secret_file)}
    return in_force(set_table(root, f"hooks.{name}", keys, unset, drop, **more))


@hooks.command("remove")
def remove_hook(name: HookName, drop: Drop = 0, *, root: ChangedRoot) -> Answer:
    """Remove a hook that was set here."""
    return in_force(root.order("remove-table", table=f"hooks.{name}", drops=drop))


def _secret_in(file: Path) -> Any:
    try:
        return (sys.stdin.read() if str(file) == "-" else file.read_text(encoding="ascii")).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--secret-file {file} cannot be read: {error}") from error
