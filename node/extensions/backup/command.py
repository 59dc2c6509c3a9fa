"""``voxelnode backup``, and ``voxelnode restore``."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from node.cli.options import ChangedRoot
from node.cli.output import Listing, first_of_each_kind, print_table
from node.errors import VoxelnodeError, counted

if TYPE_CHECKING:
    from node.extensions.backup.making import Kept, Made
    from node.extensions.backup.proof import Proved
    from node.lifecycle.fsck import Finding

_LINKED = (
    "files of the backup are hard links to those of the root, on the same file system: this guards against deletion, "
    "not against a broken disk, and a file that is damaged is damaged in both; make the backup on another disk"
)


def backup(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of the backup, outside of the root.")],
    prove: Annotated[
        bool | None,
        typer.Option("--prove/--no-prove", help="Only prove what is in FOLDER, or only make it. [default: both]"),
    ] = None,
    scratch: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where the proof restores; by default in the backup.")
    ] = None,
    sample: Annotated[int, typer.Option(min=0, help="How many series to convert again.")] = 10,
    *,
    root: ChangedRoot,
) -> Listing:
    """Make a backup of the root, and prove it.

    A node may be receiving: everything that was acknowledged before is in the backup. If there is one, it is brought up
    to date: what is new is copied, and what the root has no more is removed. If the command is killed, the backup is
    the one before, or the new one.

    The proof restores into a scratch root, which is removed again, compares the digest of every file with the index and
    the ledger of what was acknowledged, and converts some series again. Exit 1 if something differs.
    """
    folder = folder.absolute()
    made = None if prove else _made(root, folder)
    proved = None if prove is False else _proved(root, folder, scratch and scratch.absolute(), sample, made)
    damaged = [_damaged(one, root, folder) for one in made.kept] if made is not None else []
    rows = [asdict(difference) for difference in [*damaged, *(proved.differences if proved is not None else [])]]
    for row in rows:
        del row["repair"]  # nothing is

    def show() -> None:
        _print_rows(rows, ("kind", "path", "detail"))
        if made is not None and made.has_links:
            print(_LINKED)
        said = [*([made.text] if made is not None else []), *([_compared(proved)] if proved is not None else [])]
        if proved is not None:
            differ = counted(len(proved.differences), "difference") if proved.differences else "no difference"
            said.append(f"{differ} in the backup" if damaged else differ)
        if damaged:
            said.append(f"{counted(len(damaged), 'file')} missing or damaged in the root")
        print(f"{folder}: {'; '.join(said)}")

    of_proof = asdict(proved) if proved is not None else {}
    numbers = made and {name: number for name, number in asdict(made).items() if name not in ("kept", "has_links")}
    data = {"ok": not rows, "made": numbers, **of_proof, "differences": rows}
    return Listing(data, show, bool(rows), rows)


def _made(root: ChangedRoot, folder: Path) -> Made:
    from node.control.audited_export import audited_export
    from node.extensions.backup.making import make

    with audited_export(root.settings, f"voxelnode backup to {folder}") as outcome:
        made = make(root.settings, folder)
        outcome.counts = f"{made.copied + made.linked} files"
    return made


def _damaged(one: Kept, root: ChangedRoot, folder: Path) -> Finding:
    """Return the finding for a file that is damaged in the root, with the command that takes the copy back."""
    from node.lifecycle.fsck import Finding

    copy = quote(str(folder / one.path))
    if not one.is_whole:
        return Finding(
            "root-damaged", one.path, f"in the root, it {one.problem}; the copy in the backup is damaged, too"
        )
    if one.is_instance:
        command = " ".join(["voxelnode import", copy, *map(quote, root.given)])
    else:
        command = f"cp -p --remove-destination {copy} {quote(str(Path(root.folder).absolute() / one.path))}"
    return Finding(
        "root-damaged",
        one.path,
        f"in the root, it {one.problem}; the backup keeps its copy: take it back with `{command}`",
    )


def _proved(root: ChangedRoot, folder: Path, scratch: Path | None, sample: int, made: Made | None) -> Proved:
    from node.extensions.backup.proof import prove

    try:
        return prove(root.settings, folder, scratch, sample)
    except VoxelnodeError as error:
        if made is None:
            raise
        raise VoxelnodeError(f"{folder} is made ({made.text}), and not proved: {error}") from error


def _compared(proved: Proved) -> str:
    compared = f"{counted(proved.instances, 'instance')} compared, {proved.converted} series converted again"
    if proved.not_comparable:
        compared += f", {proved.not_comparable} not: open, or made by another version or with other options"
    return compared


def _print_rows(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> None:
    first, more = first_of_each_kind(rows)
    if first:
        print_table("", columns, [[row[name] for name in columns] for row in first])
    for line in more:
        print(line)


def restore(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of the backup; it is only read.")],
    ledger: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="The damaged root: what came since is taken from it, or listed as lost."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Restore also a backup that lacks many files of its index.")
    ] = False,
    *,
    root: ChangedRoot,
) -> Listing:
    """Make a root of a backup, and repair it.

    The root is a new folder or an empty one. Exit 1 if an instance or its file is lost, or a difference remains.
    """
    from node.extensions.backup.restoring import restore as restore_root

    restored = restore_root(root.settings, folder.absolute(), ledger and ledger.absolute(), force=force)
    rows = [asdict(finding) for finding in restored.findings]
    left = [row for row in rows if row["repair"] is None]
    kinds = Counter(row["kind"] for row in rows)
    lost, gone = kinds["instance-lost"], restored.missing

    def show() -> None:
        _print_rows(rows, ("kind", "path", "detail", "repair"))
        remain = [f"{counted(len(left), 'difference')} left"] if left else []
        if lost:
            again = "have them sent again (`voxelnode lost list`)"
            remain.append(f"{counted(lost, 'instance')} lost since the backup: {again}")
        if gone:
            remain.append(f"the backup has no file of {counted(gone, 'instance')}: have them sent again")
        said = ", ".join(remain or ["no difference left"])
        for gap in restored.gaps:
            print(f"{gap} (`voxelnode lost list`)")
        print(f"{root.folder}: restored, {said}; now run `voxelnode {' '.join(['serve', *root.given])}`")

    is_whole = not left and not lost and not gone
    data = {"ok": is_whole, "path": root.folder, "findings": rows, "gaps": restored.gaps}
    return Listing(data, show, not is_whole, rows)
