"""``voxelnode delete``."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from node.cli.options import ChangedRoot, Json, Yes, confirm
from node.cli.output import Answer, print_fields, sized
from node.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from node.archive.proof import Proof
    from node.audit.audit_files import Taker
    from node.index.database.reading import ReadIndex
    from node.index.nouns.records import DeletionPlan, Level

MAX_NAMED = 20
"""Rows of jobs that are named after an erasure."""


def delete(
    uid: Annotated[str, typer.Argument(metavar="STUDY|SERIES|INSTANCE", help="UID to delete.")],
    study: Annotated[
        str | None,
        typer.Option("--study", metavar="UID", help="Study of the series, if the series is in several studies."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be deleted.")] = False,
    erase: Annotated[
        bool, typer.Option("--erase", help="Remove files and bytes at once; without it, files go to the trash.")
    ] = False,
    yes: Yes = False,
    *,
    root: ChangedRoot,
    json: Json = False,
) -> Answer:
    """Delete a study, series or instance.

    Its rows, volumes and thumbnails are removed. Its DICOM files stay in the trash for [retention] trash_days, and
    `voxelnode trash restore` brings them back. If a node runs on this root, the node does it.
    """
    from node.archive.proof import last_proof
    from node.audit.audit_files import takers_of

    with root.reading() as index:
        plan = index.deletions.plan(_level(index, uid), uid, study)
        others = [host for host in index.audit_lines.hosts() if host != root.settings.cluster.name]
        copies = (line for host in others for _, line in index.audit_lines.of_host(host))
        takers = takers_of(root.folder, plan.study_instance_uid, copies)
        kept = index.work.page(None, MAX_NAMED, kind="job", study_instance_uid=plan.study_instance_uid)
    if not json:
        _print(plan)
    fields = {name: value for name, value in asdict(plan).items() if name != "patient_id"}
    fields["taken_by"] = [asdict(taker) for taker in takers]
    if dry_run:
        return Answer({**fields, "deleted": False, "trash_until": None}, lambda: None)
    keeps = root.settings.retention.trash_days > 0 and not erase
    question = f"{'Delete' if keeps else 'Permanently delete'} this and all volumes made from it?"
    confirm("deletion", question, yes)
    done = root.order("delete", level=plan.level, uid=uid, study_instance_uid=plan.study_instance_uid, erase=erase)
    until = done["trash_until"]
    text = "deleted" if until is None else f"deleted; `voxelnode trash` can bring it back until {until[:10]}"
    if done["erased"] is not None:
        text = _erased(done["sent_to"], last_proof(root.folder), takers, [row["key"] for row in kept])
    if done["erased"] is False:
        text += "; the index keeps deleted rows until its write-ahead log is reused, or the server vacuums"
    return Answer({**fields, "deleted": True, "trash_until": until}, text)


def _erased(sent_to: Sequence[str], proof: Proof | None, takers: Sequence[Taker], jobs: Sequence[str]) -> str:
    """Say who keeps what was erased, as far as the node knows them: by its index, and by its audit log."""
    sent = f" ({', '.join(sent_to)})" if sent_to else ", none of which has taken it by a route,"
    known = f", such as {proof.backup}," if proof is not None else ""
    kept = f"erased; backups{known} destinations{sent} receivers of hooks and the audit log keep what they have"
    kept += "".join(f"\n  {taker.who} may have it: {taker.how}, last {taker.last_at[:19]}" for taker in takers)
    if jobs:
        kept += f"\n  rows of jobs keep its UIDs: {', '.join(jobs)}"
    return kept


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
        raise UsageError(f"{uid}: no study, series or instance in the index has this UID; check --root")
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
