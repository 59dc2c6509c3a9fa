"""``voxelnode delete``."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import asdict
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from node.cli.options import ChangedRoot, Json, Yes, confirm
from node.cli.output import Answer, print_fields
from node.errors import UsageError, sized
from node.files.durable import write_durably

if TYPE_CHECKING:
    from node.index.database.reading import ReadIndex
    from node.index.nouns.records import DeletionPlan, Level
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
    from node.lifecycle.erasure import certificate_of, takers_and_jobs  # here: a second of imports

    if certificate is not None and not (erase and certificate.suffix == ".json" and certificate.parent.is_dir()):
        raise UsageError("--certificate is for --erase, and names a .json file in a folder that exists")
    with root.reading() as index:
        plans, trash = _chosen(index, uid, study, patient, erase=erase)
        of_trash = (str(row["study_instance_uid"]) for row in trash)
        studies = dict.fromkeys([*(plan.study_instance_uid for plan in plans), *of_trash])
        owed = index.studies.owed().intersection(studies)
        takers, _ = takers_and_jobs(index, root.folder, root.settings.cluster.name or "", list(studies))
    if not json:
        for plan in plans:
            _print(plan)
        if trash:
            print_fields({"in the trash": len(trash)})
        for line in _against(root, owed):
            print(line)
    one = [{name: value for name, value in asdict(plan).items() if not name.startswith("patient_")} for plan in plans]
    fields: dict[str, Any] = dict(one[0]) if uid is not None else {"studies": one, "trash": len(trash)}
    fields["taken_by"] = [asdict(taker) for taker in takers]
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
    if (uid is None) == (patient is None):
        raise UsageError("give either a UID, or --patient with a Patient ID")
    if uid is not None:
        return [index.deletions.plan(_level(index, uid), uid, study)], []
    plans = index.deletions.plans_of_patient(str(patient))
    trash = [row for row in index.trash.all() if erase and row.get("patient_id") == patient]
    if not plans and not trash:
        raise UsageError("the index has no study of a patient with this ID; with --erase, nor has the trash")
    return plans, trash


def _erased(certificate: Certificate) -> str:
    """Say who keeps what was erased, as far as the node knows them: by its index, and by its audit log."""
    sent = [taker.who for taker in certificate.takers if taker.how == "route"]
    by_route = f" ({', '.join(sent)})" if sent else ", none of which has taken it by a route,"
    proved = next((taker.who for taker in certificate.takers if taker.how == "backup that was proved"), None)
    known = f", such as {proved}," if proved is not None else ""
    lines = f"erased; backups{known} destinations{by_route} receivers of hooks and the audit log keep what they have"
    others = [taker for taker in certificate.takers if taker.who not in (*sent, proved)]
    lines += "".join(f"\n  {taker.who} may have it: {taker.how}, last {taker.last_at[:19]}" for taker in others)
    lines += "".join(f"\n  stays: {what}" for what in certificate.stays)
    if not certificate.index_overwritten:
        lines += "\n  the index keeps deleted rows until its write-ahead log is reused, or the server vacuums"
    return lines


def _level(index: ReadIndex, uid: str) -> Level:
    """Return the level of a UID; refuse a UID used at two levels, by mistake or forgery."""
    levels: list[Level] = []
    if index.studies.row(uid) is not None:
        levels.append("study")
    if index.series.with_uid(uid):
        levels.append("series")
    if index.instances.row(uid) is not None:
        levels.append("instance")
    if not levels:
        raise UsageError(
            f"{uid}: no study, series or instance in the index has this UID; --patient takes a Patient ID; check --root"
        )
    if len(levels) > 1:
        raise UsageError(f"{uid} names a {' and a '.join(levels)}; delete the parent level instead")
    return levels[0]


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
