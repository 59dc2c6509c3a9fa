"""``voxelnode conflicts [show|accept|keep]``."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from node.cli.options import ChangedRoot, Commands, Root
from node.cli.output import Answer, Listing, minute, person, print_fields, print_finding, print_table
from node.counted import counted

if TYPE_CHECKING:
    from node.receive.conflicts import Version

app = Commands(help="List conflicts of one UID or Patient ID, and decide them.", invoke_without_command=True)

Number = Annotated[int, typer.Argument(metavar="ID", help="Number of the conflict, as listed.")]
Alike = Annotated[
    bool, typer.Option("--alike", help="Also all undecided conflicts of the same kind, study and sender.")
]


@app.callback()
def list_(
    everything: Annotated[bool, typer.Option("--all", help="Also those that are decided.")] = False,
    uids: Annotated[bool, typer.Option("--uids", help="With the UIDs, and the file that was set aside.")] = False,
    *,
    root: Root,
) -> Listing:
    """List identity conflicts that are not decided: one UID or Patient ID with different content."""
    with root.looking() as index:
        rows = index.conflicts.all(decided=everything)

    def text() -> None:
        print(counted(len(rows), "conflict") if rows else "no conflicts")
        for row in rows:
            facts = (
                row["kind"],
                row["calling_ae_title"] and f"from {row['calling_ae_title']}",
                minute(row["found_at"]),
                row["decision"],
            )
            of_uids = (row["study_instance_uid"], row["sop_instance_uid"], row["path"]) if uids else ()
            print_finding(f"{row['id']:>4}", row["detail"], ", ".join(filter(None, facts)), *filter(None, of_uids))

    return Listing(rows, text, rows=rows)


@app.command()
def show(conflict: Number, root: Root) -> Listing:
    """Compare a version with the current one, by attribute."""
    from node.receive.conflicts import compared

    with root.reading() as index, root.files() as local:
        found = compared(root.folder, index, conflict, local)

    def text() -> None:
        print_fields(found.conflict)
        if found.current is not None and found.other is not None:
            persons = ("version", "patient", "patient ID", "born", "sex", "sent by", "received")
            print_table("", persons, [_of("current", found.current), _of("in conflict", found.other)])
        if found.problem is not None:
            print(found.problem)
        elif not found.differences:
            print(
                "the two versions have the same patient, study, series and image attributes: "
                "compare the files themselves"
            )
        else:
            columns = ("attribute", "current version", "version in this conflict")
            print_table("differences", columns, [(one.attribute, one.current, one.other) for one in found.differences])

    return Listing(asdict(found), text, rows=[asdict(one) for one in found.differences])


def _of(which: str, version: Version) -> tuple[Any, ...]:
    return (
        which, person(version.patient_name), version.patient_id, version.patient_birth_date, version.patient_sex,
        version.calling_ae_title or version.source, minute(version.received_at),
    )  # fmt: skip


@app.command()
def accept(conflict: Number, alike: Alike = False, *, root: ChangedRoot) -> Answer:
    """Make a version current; the current one goes to quarantine."""
    done = root.order("accept-conflict", conflict=conflict, alike=alike)
    return Answer(done, f"accepted: {counted(len(done['accepted']), 'version')} made current")


@app.command()
def keep(conflict: Number, alike: Alike = False, *, root: ChangedRoot) -> Answer:
    """Keep what is current, and list the conflict no more."""
    done = root.order("keep-conflict", conflict=conflict, alike=alike)
    return Answer(done, f"kept: {counted(len(done['kept']), 'conflict')} decided")
