"""``voxelnode trash [restore|empty]``."""

from __future__ import annotations

from collections import Counter
from typing import Annotated

import typer

from node.cli.options import ChangedRoot, Commands, Root, Yes, confirm
from node.cli.output import Answer, Columns, Listing, listing, minute, optional, patient
from node.errors import UsageError, counted, sized

app = Commands(help="List deletions, undo them, or make them permanent.", invoke_without_command=True)

ENTRIES: Columns = {
    "number": "number",
    "deleted": "deleted_at",
    "until": lambda row: minute(row["until"]),
    "patient": lambda row: patient({"patient_name": None, "patient_id": "", **row}),
    "date": optional("study_date"),
    "level": "level",
    "uid": "uid",
    "instances": "files",
    "size": lambda row: sized(row["bytes"]),
    "reason": "reason",
}


@app.callback()
def list_(root: Root) -> Listing:
    """List the deletions that can be undone, the newest first."""
    with root.looking() as index:
        rows = index.trash.all()
    return listing(f"{counted(len(rows), 'deletion')} in the trash", ENTRIES, rows, none="the trash is empty")


@app.command()
def restore(
    numbers: Annotated[list[int], typer.Argument(metavar="NUMBER...", help="Numbers of the deletions, as listed.")],
    root: ChangedRoot,
) -> Answer:
    """Bring back what deletions removed.

    Everything is as before: nothing is converted, sent or reported again. An instance that was sent again meanwhile
    stays as it is; if its bytes differ, `voxelnode conflicts` lists both. If a node runs on this root, the node does
    it.
    """
    wanted = dict.fromkeys(numbers)
    with root.looking() as index:
        there = {row["number"] for row in index.trash.all()}
    if gone := [number for number in wanted if number not in there]:
        rest = " ".join(str(number) for number in wanted if number in there)
        others = f"; `voxelnode trash restore {rest}` brings the others back" if rest else ""
        raise UsageError(
            f"nothing in the trash has the number {', '.join(map(str, gone))}: `voxelnode trash` lists all{others}"
        )
    done: Counter[str] = Counter()
    for number in wanted:
        done.update(root.order("restore-trash", number=number))
    parts = [f"{counted(done['instances'], 'instance')} brought back", f"{done['repeated']} had come again"]
    parts += [f"{done['conflicts']} have other bytes by now"] if done["conflicts"] else []
    lost = counted(done["lost"], "file is", "files are")
    parts += [f"{lost} gone or damaged and to be sent again: `voxelnode fsck` names them"] if done["lost"] else []
    unread = (
        f"{counted(done['unread'], 'file')} cannot be read now: check the disk; its host tries again when it starts"
    )
    parts += [unread] if done["unread"] else []
    return Answer(done, "; ".join(parts), failed=bool(done["lost"] or done["unread"]))


@app.command()
def empty(
    number: Annotated[int | None, typer.Argument(metavar="NUMBER", help="Number of the deletion, as listed.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Everything in the trash.")] = False,
    yes: Yes = False,
    *,
    root: ChangedRoot,
) -> Answer:
    """Remove the files of a deletion permanently, before its time. If a node runs on this root, the node does it."""
    if (number is None) != everything:
        raise UsageError("give either the number of a deletion, or --all")
    numbers = [number] if number is not None else []
    if everything:
        with root.looking() as index:
            numbers = [row["number"] for row in index.trash.all()]
    if numbers:
        confirm("emptying the trash", f"Permanently delete the files of {counted(len(numbers), 'deletion')}?", yes)
    for one in numbers:
        root.order("empty-trash", number=one)
    return Answer({"emptied": numbers}, f"emptied: {counted(len(numbers), 'deletion')}")
