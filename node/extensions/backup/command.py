"""``voxelnode backup --prove``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from node.cli.options import ChangedRoot
from node.cli.output import Listing, first_of_each_kind, print_table
from node.counted import counted


def backup(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of the backup; it is only read.")],
    prove: Annotated[
        bool, typer.Option("--prove", help="Restore the backup into a scratch root, and compare everything.")
    ] = False,
    scratch: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where to restore; by default beside the backup.")
    ] = None,
    sample: Annotated[int, typer.Option(min=0, help="How many series to convert again.")] = 10,
    *,
    root: ChangedRoot,
) -> Listing:
    """Prove that a backup of the root can be restored.

    Restores it into a scratch root, which is removed again, compares the digest of every file with the index and the
    ledger of what was acknowledged, and converts some series again. A node may be running. Exit 1 if something differs.
    """
    if not prove:
        raise typer.BadParameter("Give --prove; backups are made by `voxelnode db backup` and a program that copies.")

    from node.extensions.backup.proof import prove as prove_backup

    done = prove_backup(root.settings, folder.absolute(), scratch and scratch.absolute(), sample)
    rows = [asdict(difference) for difference in done.differences]
    for row in rows:
        del row["repair"]  # nothing is
    compared = f"{counted(done.instances, 'instance')} compared, {done.converted} series converted again"
    if done.not_comparable:
        compared += f", {done.not_comparable} not: open, or made by another version or with other options"

    def show() -> None:
        first, more = first_of_each_kind(rows)
        if first:
            print_table("", ("kind", "path", "detail"), [[row["kind"], row["path"], row["detail"]] for row in first])
        for line in more:
            print(line)
        print(f"{folder}: {compared}; {counted(len(rows), 'difference') if rows else 'no difference'}")

    data = {"ok": not rows, **asdict(done), "differences": rows}
    return Listing(data, show, bool(rows), rows)
