"""``voxelnode lost list|write-off``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from node.cli.options import ChangedRoot, Commands, Root, Yes, confirm
from node.cli.output import Answer, Columns, Listing, listing, printable
from node.errors import UsageError, counted

app = Commands(help="List or write off lost instances.", no_args_is_help=True)

LOST: Columns = {
    "sent by": "calling_ae_title", "from": "peer", "received": "received_at", "series": "series_instance_uid",
    "instance": "sop_instance_uid",
}  # fmt: skip

MAX_DAMAGED = 1000
"""Instances with missing or damaged files that are named."""


@app.command("list")
def list_(root: Root) -> Listing:
    """List lost instances, newest first, and gaps of the journal.

    Exit 1 if there are any, or instances whose file is missing or damaged, which are named below. Each instance stays
    in the list until somebody sends it again, a person deletes its series, or writes it off. A gap stays until it is
    written off.
    """
    with root.looking() as index:
        rows, gaps = index.lost.newest(index.lost.count()), index.lost.gaps()
        without_file, damaged = index.instances.count_missing_files(), index.instances.damaged(MAX_DAMAGED)
    title = f"acknowledged, not here: {len(rows)}"
    none = "the index knows of none; `voxelnode fsck` compares it with the ledger, and checks it"
    below = [f"{gap['noticed_at'][:19]}: {gap['detail']}" for gap in gaps]
    if gaps:
        none = "no single instance is known to be lost; what these gaps of the journal had is unknown:"
        below.append("accept that: voxelnode lost write-off journal --reason TEXT")
    if without_file:
        none = "no other instance is known to be lost"
        below.append(f"missing or damaged: the files of {counted(without_file, 'instance')}; send the instances again")
        below += map(_damaged, damaged)
        below += [f"and {without_file - len(damaged)} more"] if without_file > len(damaged) else []
    is_lost = bool(rows or gaps or without_file)
    return listing(title, LOST, rows, none=none, below=below, data=[*rows, *damaged, *gaps], failed=is_lost)


def _damaged(row: dict[str, Any]) -> str:
    from node.receive.aside import named

    uids = (row[f"{level}_instance_uid"] for level in ("study", "series", "sop"))
    return printable("  {}, study {}, series {}, instance {}".format(named(row), *uids))


@app.command("write-off")
def write_off(
    uid: Annotated[
        str | None,
        typer.Argument(metavar="UID", help="SOP Instance UID, UID of a series or a study, or `journal`: its gaps."),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All lost instances.")] = False,
    reason: Annotated[str, typer.Option(help="Why nobody sends them again; for the audit log.")] = "",
    yes: Yes = False,
    *,
    root: ChangedRoot,
) -> Answer:
    """Accept that lost instances stay lost. If a node runs on this root, the node does it."""
    if (uid is not None) == everything:
        raise UsageError("give either a UID, or --all")
    if not reason:
        raise UsageError("say in --reason why nobody sends them again: the audit log has it")
    confirm("writing off", f"Write off {uid or 'all lost instances'}? They will not be asked for again.", yes)
    done = root.order("write-off-lost", uid=uid, reason=reason)
    return Answer(done, f"written off: {counted(done['instances'], 'instance')}")
