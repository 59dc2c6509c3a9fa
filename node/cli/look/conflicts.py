"""``voxelnode conflicts [show|accept|keep]``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from node.cli.options import ChangedRoot, Commands, Root
from node.cli.output import (
    Answer,
    Listing,
    minute,
    patient,
    person,
    print_finding,
    print_table,
    print_within,
    series_name,
)
from node.errors import counted

if TYPE_CHECKING:
    from pathlib import Path

    from node.receive.custody import Version

VERSIONS = ("", "current version", "version in this conflict")
PATIENTS = ("", "patient of the study", "patient in this conflict")

app = Commands(help="List conflicts of one UID or Patient ID, and decide them.", invoke_without_command=True)

Number = Annotated[int, typer.Argument(metavar="ID", help="Number of the conflict, as listed.")]
Uids = Annotated[bool, typer.Option("--uids", help="With the UIDs, and the file that was set aside.")]
Alike = Annotated[
    bool, typer.Option("--alike", help="Also all undecided conflicts of the same kind, study and sender.")
]


@app.callback()
def list_(
    everything: Annotated[bool, typer.Option("--all", help="Also those that are decided.")] = False,
    uids: Uids = False,
    *,
    root: Root,
) -> Listing:
    """List identity conflicts that are not decided: one UID or Patient ID with different content."""
    with root.looking() as index, root.files() as local:
        from node.receive.aside import with_strangers  # after the index, of which it loads less then

        rows = with_strangers(index.conflicts.all(decided=everything), index, local)

    def text() -> None:
        print(counted(len(rows), "conflict") if rows else "no conflicts")
        for kind, alike in groupby(rows, itemgetter("kind")):
            print(kind)
            for row in alike:
                _print_found(row, _known_by(row), uids=uids)

    return Listing(rows, text, rows=rows)


def _known_by(row: Mapping[str, Any]) -> str:
    """Return patient, date and series of a conflict, as far as they are in the index."""
    from node.receive.aside import came_as, named

    if row["study_date"] is None and row["patient_id"] is None:
        return ""
    series = None if row["series_number"] is None and row["modality"] is None else series_name(row)
    other = came_as(row)
    return ", ".join(filter(None, (named(row) if other else patient(row), row["study_date"], series, other)))


def _print_found(row: Mapping[str, Any], what: str, *, uids: bool) -> None:
    facts = (row["calling_ae_title"] and f"from {row['calling_ae_title']}", minute(row["found_at"]), row["decision"])
    of_uids = (row["study_instance_uid"], row["sop_instance_uid"], row["path"]) if uids else ()
    print_finding(f"{row['id']:>4}", row["detail"], what, ", ".join(filter(None, facts)), *filter(None, of_uids))


@app.command()
def show(conflict: Number, uids: Uids = False, *, root: Root) -> Listing:
    """Compare a version with the current one, pixels included."""
    with root.reading() as index, root.files() as local:
        from node.receive.custody import compared  # after the index, of which it loads less then

        found = compared(root.folder, index, conflict, local)
        pixels = None if found.files is None else _pixels(*found.files)

    def text() -> None:
        from node.receive.aside import OF_TWO_PATIENTS

        _print_found(found.conflict, found.conflict["kind"], uids=uids)
        if found.current is not None and found.other is not None:
            named = ("patient", "patient ID", "born", "sex", "sent by", "received")
            persons = zip(named, _of(found.current), _of(found.other), strict=True)
            heads = PATIENTS if found.conflict["kind"] == OF_TWO_PATIENTS else VERSIONS
            print_table("", heads, list(persons), heads[1:])
        if found.problem is not None:
            print(found.problem)
        elif not found.differences:
            print("the two versions have the same patient, study, series and image attributes")
        else:
            width = max(len(one.attribute) for one in found.differences)
            for one in found.differences:
                head = one.attribute.ljust(width)
                current, other = f"current: {one.current}", f"in this conflict: {one.other}"
                print_within(f"{head}  {current}; {other}", head, current, other)
        if pixels is not None:
            print(pixels)

    document = {name: value for name, value in asdict(found).items() if name != "files"}
    return Listing({**document, "pixels": pixels}, text, rows=document["differences"])


def _pixels(mine: Path, theirs: Path) -> str:
    from node.children.decoder import Decoder

    decoder = Decoder(workers=1)
    try:
        return decoder.differences(mine, theirs)
    finally:
        decoder.close()


def _of(version: Version) -> tuple[Any, ...]:
    return (
        person(version.patient_name), version.patient_id, version.patient_birth_date, version.patient_sex,
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
