"""``voxelnode delete``, ``trash`` and ``retention``: what goes, and what can come back."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import asdict
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from node.cli.options import ChangedRoot, Commands, Json, Root, Yes, confirm
from node.cli.output import Answer, Columns, Listing, listing, minute, optional, patient, print_fields
from node.cli.run.config import Keys, SetsKeys, Unset, in_force, set_table
from node.errors import UsageError, counted, sized
from node.files.durable import write_durably

if TYPE_CHECKING:
    from node.index.look.views import ReadIndex
    from node.index.rows.records import DeletionPlan
    from node.lifecycle.erasure import Certificate


def delete(
    uid: Annotated[str | None, typer.Argument(metavar="STUDY|SERIES|INSTANCE", help="UID to delete.")] = None,
    patient: Annotated[
        str | None, typer.Option("--patient", metavar="ID", help="All studies of the patient with this Patient ID.")
    ] = None,
    study: Annotated[
        str | None,
        typer.Option("--study", metavar="UID", help="Study of the series, if the series is in several studies."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be deleted.")] = False,
    erase: Annotated[
        bool, typer.Option("--erase", help="Remove files and bytes at once; without it, files go to the trash.")
    ] = False,
    certificate: Annotated[
        Path | None,
        typer.Option("--certificate", metavar="FILE", help="With --erase: write what was erased, as JSON and text."),
    ] = None,
    yes: Yes = False,
    *,
    root: ChangedRoot,
    json: Json = False,
) -> Answer:
    """Delete a study, series, instance or patient.

    Rows, volumes and thumbnails are removed. DICOM files stay in the trash for [retention] trash_days, and
    `voxelnode trash restore` brings them back. If a node runs on this root, the node does it.
    """
    from node.lifecycle.erasure import (
        certificate_of,  # here: a second of imports
        holders,
    )

    if certificate is not None and not (erase and certificate.suffix == ".json" and certificate.parent.is_dir()):
        raise UsageError("--certificate is for --erase, and names a .json file in a folder that exists")
    with root.reading() as index:
        plans, trash = _chosen(index, uid, study, patient, erase=erase)
        of_trash = (str(row["study_instance_uid"]) for row in trash)
        studies = dict.fromkeys([*(plan.study_instance_uid for plan in plans), *of_trash])
        owed = index.studies.owed().intersection(studies)
        found = holders(index, root.settings, list(studies), is_gone=True)
    if not json:
        for plan in plans:
            _print(plan)
        if trash:
            print_fields({"in the trash": len(trash)})
        for line in _against(root, owed):
            print(line)
    one = [{name: value for name, value in asdict(plan).items() if not name.startswith("patient_")} for plan in plans]
    fields: dict[str, Any] = dict(one[0]) if uid is not None else {"studies": one, "trash": len(trash)}
    fields["holders"] = [asdict(one) for one in found]
    if dry_run:
        return Answer({**fields, "deleted": False, "trash_until": None}, "nothing was deleted: --dry-run")
    keeps = root.settings.retention.trash_days > 0 and not erase
    question = f"{'Delete' if keeps else 'Permanently delete'} this and all volumes made from it?"
    confirm("deletion", question, yes)
    if erase:
        objects = [(plan.level, plan.uid, plan.study_instance_uid) for plan in plans]
        done = root.order("erase", objects=objects, trash=[row["number"] for row in trash])["certificate"]
        if certificate is not None:
            write_durably(certificate, f"{dumps(done, indent=2)}\n".encode())
            write_durably(certificate.with_suffix(".txt"), certificate_of(done).text.encode())
        answer = {**fields, "certificate": done, "deleted": True, "trash_until": None}
        return Answer(answer, _erased(certificate_of(done)))
    done = [
        root.order("delete", level=plan.level, uid=plan.uid, study_instance_uid=plan.study_instance_uid)
        for plan in plans
    ]
    until = done[0]["trash_until"]
    text = "deleted"
    if until is not None:
        with root.looking() as index:
            newest = {(row["level"], row["uid"]): str(row["number"]) for row in reversed(index.trash.all())}
        numbers = " ".join(newest[plan.level, plan.uid] for plan in plans if (plan.level, plan.uid) in newest)
        text += f"; `voxelnode trash restore {numbers}` can bring it back until {until[:10]}" if numbers else ""
    return Answer({**fields, "deleted": True, "trash_until": until}, text)


def _against(root: ChangedRoot, owed: Collection[str]) -> Iterator[str]:
    """Yield what keeps studies from retention, and not from a person; `owed`: those of which messages wait."""
    if root.settings.retention.keep_where is not None:
        yield "[retention] keep_where binds retention alone: what it keeps goes, too"
    if owed:
        yield "messages to hooks or routes wait: what goes before it was sent is not sent"


def _chosen(
    index: ReadIndex, uid: str | None, study: str | None, patient: str | None, *, erase: bool
) -> tuple[list[DeletionPlan], list[dict[str, Any]]]:
    """Return what would be deleted, and what of the trash would be erased with a patient."""
    from node.index.looking import the_named
    from node.index.rules.custody.deletions import plan_deletion, plans_of_patient

    if (uid is None) == (patient is None):
        raise UsageError("give either a UID, or --patient with a Patient ID")
    if uid is not None:
        of_study = the_named(index, study, "study").study if study else None
        one = the_named(index, uid, "study", "series", "instance", study=of_study)
        return [plan_deletion(index.connection, one.level, one.uid, one.study)], []
    plans = plans_of_patient(index.connection, str(patient))
    trash = [row for row in index.trash.all() if erase and row.get("patient_id") == patient]
    if not plans and not trash:
        raise UsageError("the index has no study of a patient with this ID; with --erase, nor has the trash")
    return plans, trash


def _erased(certificate: Certificate) -> str:
    """Say what keeps something of what was erased; the answer has who does."""
    lines = "erased; backups, destinations, receivers of hooks and the audit log keep what they have"
    lines += "".join(f"\n  stays: {what}" for what in certificate.stays)
    if not certificate.index_overwritten:
        lines += "\n  the index keeps deleted rows until its write-ahead log is reused, or the server vacuums"
    return lines


def _print(plan: DeletionPlan) -> None:
    print_fields(
        {
            "level": plan.level,
            "study": plan.study_instance_uid,
            "series": plan.series,
            "instances": plan.instances,
            "DICOM": sized(plan.bytes),
        }
    )


trash_app = Commands(help="List deletions, undo them, or make them permanent.", invoke_without_command=True)

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


@trash_app.callback()
def list_trash(root: Root) -> Listing:
    """List the deletions that can be undone, the newest first."""
    with root.looking() as index:
        rows = index.trash.all()
    return listing(f"{counted(len(rows), 'deletion')} in the trash", ENTRIES, rows, none="the trash is empty")


@trash_app.command()
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
    found: list[Any] = []
    for number in wanted:
        one = root.order("restore-trash", number=number)
        found += one.pop("holders", ())
        done.update(one)
    parts = [f"{counted(done['instances'], 'instance')} brought back", f"{done['repeated']} had come again"]
    parts += [f"{done['conflicts']} have other bytes by now"] if done["conflicts"] else []
    lost = counted(done["lost"], "file is", "files are")
    parts += [f"{lost} gone or damaged and to be sent again: `voxelnode lost list` names them"] if done["lost"] else []
    unread = (
        f"{counted(done['unread'], 'file')} cannot be read now: check the disk; its host tries again when it starts"
    )
    parts += [unread] if done["unread"] else []
    data = {**done, "holders": found}
    return Answer(data, "; ".join(parts), failed=bool(done["lost"] or done["unread"]))


@trash_app.command()
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
    found = [one for each in numbers for one in root.order("empty-trash", number=each).get("holders", ())]
    return Answer({"emptied": numbers, "holders": found}, f"emptied: {counted(len(numbers), 'deletion')}")


EXPIRED: Columns = {
    "patient": patient,
    "date": "study_date",
    "study": "study_instance_uid",
    "last received": "last_received_at",
    "rule": "rule",
}

retention_app = Commands(
    help="List what retention would delete, set rules, or let it go on.", invoke_without_command=True
)


@retention_app.callback()
def list_expired(root: Root) -> Listing:
    """List the studies that retention would delete now, and what it waits for.

    This command deletes nothing; `serve` deletes them hourly.
    """
    rules = root.settings.retention

    from node.lifecycle.expired import SPARED, due_now

    with root.looking() as index:
        due = due_now(index, rules, dt.datetime.now(dt.UTC))
        state = index.retention
        rows = [
            {
                **{name: row[name] for name in ("patient_name", "patient_id", "study_date", "study_instance_uid")},
                "last_received_at": entry.study.last_received_at,
                "rule": entry.rule,
            }
            for entry in due.expired
            if (row := index.studies.row(entry.study.study_instance_uid)) is not None
        ]

    def show() -> None:
        if not rules.is_active:
            print(f"retention: unlimited (no rules); studies kept: {due.studies}")
        else:
            title = f"{len(rows)} of {counted(due.studies, 'study', 'studies')} would be deleted"
            listing(title, EXPIRED, rows).show()
            for rule, count in due.spared.items():
                print(f"kept by {SPARED[rule]}, and due otherwise: {counted(count, 'study', 'studies')}")
            if rules.dry_run:
                print("[retention] dry_run is set: a pass deletes none of them, and logs which it would")
            if due.is_unusual(rules, state.approved) and state.waits_for is None:
                when = "without dry_run, " if rules.dry_run else ""
                print(f"more than [retention] maximum_share: {when}a pass waits for `voxelnode retention confirm`")
        if state.waits_for is not None:
            print(state.waits_for)

    data = {
        "studies": due.studies,
        "dry_run": rules.dry_run,
        "waits_for": state.waits_for,
        "is_unusual": due.is_unusual(rules, state.approved),
        "spared": due.spared,
        "expired": rows,
    }
    return Listing(data, show, rows=rows)


@retention_app.command("confirm")
def confirm_retention(root: ChangedRoot) -> Answer:
    """Confirm that the clock is right, or what is due may go.

    Retention waits for this if something contradicts the clock, or if a pass would delete more than [retention]
    maximum_share of all studies. Check the clock with `date`, and the studies with `voxelnode retention`.
    """
    done = root.order("confirm-retention")
    return Answer(done, f"confirmed: {done['confirmed']}" if done["confirmed"] else "retention waits for nothing")


@retention_app.command("set", cls=SetsKeys)
def set_rules(keys: Keys = None, unset: Unset = None, *, root: ChangedRoot) -> Answer:
    """Set rules of retention.

    Keys that are not given stay. The next pass of the node follows them, and `voxelnode retention` lists what they
    would delete.
    """
    return in_force(set_table(root, "retention", keys, unset))


@retention_app.command("remove")
def remove_rules(root: ChangedRoot) -> Answer:
    """Remove the rules that were set here."""
    return in_force(root.order("remove-table", table="retention"))
