"""``voxelnode delete``."""

from __future__ import annotations

import datetime as dt
from dataclasses import asdict
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from node.cli.options import ChangedRoot, Json, Yes, confirm
from node.cli.output import Answer, print_fields, sized
from node.durable import write_durably
from node.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from node.audit.audit_files import Taker
    from node.index.database.reading import ReadIndex
    from node.index.nouns.records import DeletionPlan, Level
    from node.lifecycle.erasure import Certificate

MAX_NAMED = 20
"""Rows of jobs that are named after an erasure."""

STAYING = (
    "the audit log, which names the patient, and UIDs in the ledger of what was acknowledged and in lists of events"
)
IN_STORE = "the object store, until the node has removed its objects, and for as long as it keeps older versions"


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
    if certificate is not None:
        _require_writable(certificate, erase=erase)
    with root.reading() as index:
        plans, trash = _chosen(index, uid, study, patient, erase=erase)
        studies = dict.fromkeys([*(plan.study_instance_uid for plan in plans), *map(_study_of, trash)])
        takers, jobs = _takers(root, index, list(studies))
    if not json:
        for plan in plans:
            _print(plan)
        if trash:
            print_fields({"in the trash": len(trash)})
    one = [{name: value for name, value in asdict(plan).items() if name != "patient_id"} for plan in plans]
    fields: dict[str, Any] = dict(one[0]) if uid is not None else {"studies": one, "trash": len(trash)}
    fields["taken_by"] = [asdict(taker) for taker in takers]
    if dry_run:
        return Answer({**fields, "deleted": False, "trash_until": None}, lambda: None)
    keeps = root.settings.retention.trash_days > 0 and not erase
    question = f"{'Delete' if keeps else 'Permanently delete'} this and all volumes made from it?"
    confirm("deletion", question, yes)
    done = [
        root.order("delete", level=plan.level, uid=plan.uid, study_instance_uid=plan.study_instance_uid, erase=erase)
        for plan in plans
    ]
    until = done[0]["trash_until"] if done else None
    text = "deleted" if until is None else f"deleted; `voxelnode trash` can bring it back until {until[:10]}"
    if erase:
        written = _certificate(root, plans, trash, done, takers, jobs)
        fields["certificate"] = written.as_json()
        text = _erased(written, jobs)
        if certificate is not None:
            write_durably(certificate, f"{dumps(fields['certificate'], indent=2)}\n".encode())
            write_durably(certificate.with_suffix(".txt"), written.text.encode())
    return Answer({**fields, "deleted": True, "trash_until": until}, text)


def _require_writable(certificate: Path, *, erase: bool) -> None:
    if not erase or certificate.suffix != ".json" or not certificate.parent.is_dir():
        raise UsageError("--certificate is for --erase, and names a .json file in a folder that exists")


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


def _study_of(trashed: dict[str, Any]) -> str:
    return str(trashed["study_instance_uid"])


def _takers(root: ChangedRoot, index: ReadIndex, studies: Sequence[str]) -> tuple[list[Taker], list[str]]:
    """Return who may have studies, by the index, the audit logs and the last proof of a backup; and their jobs."""
    from node.archive.proof import last_proof
    from node.audit.audit_files import Taker, takers_of
    from node.index.nouns.shares import ReadShares

    others = [host for host in index.audit_lines.hosts() if host != root.settings.cluster.name]
    takers: dict[tuple[str, str], Taker] = {}
    jobs: list[str] = []
    for study in studies:
        copies = (line for host in others for _, line in index.audit_lines.of_host(host))
        for taker in takers_of(root.folder, study, copies):
            known = takers.get((taker.who, taker.how), taker)
            takers[taker.who, taker.how] = max(known, taker, key=lambda each: each.last_at)
        for link in index.repository(ReadShares).listed(study):
            if link.used_at is not None:
                how = f"link, used {link.uses} times" + (", with downloads" if link.may_download else "")
                takers[f"link {link.id}", how] = Taker(
                    f"link {link.id} of {link.made_by}", how, f"{link.used_at:%FT%T}"
                )
        jobs += [row["key"] for row in index.work.page(None, MAX_NAMED, kind="job", study_instance_uid=study)]
    proof = last_proof(root.folder)
    if proof is not None and proof.succeeded_at is not None:
        takers[proof.backup, "backup"] = Taker(proof.backup, "backup that was proved", proof.succeeded_at)
    return list(takers.values()), jobs


def _certificate(
    root: ChangedRoot,
    plans: Sequence[DeletionPlan],
    trash: Sequence[dict[str, Any]],
    done: Sequence[dict[str, Any]],
    takers: Sequence[Taker],
    jobs: Sequence[str],
) -> Certificate:
    """Erase what is left in the trash, and return the certificate of all that was erased."""
    from node.audit.audit_files import Taker
    from node.lifecycle.erasure import Certificate, digest_of_uid
    from node.version import __version__

    with root.reading() as index:
        left = {row["number"] for row in index.trash.all()}
    rest = [root.order("empty-trash", number=row["number"], erase=True) for row in trash if row["number"] in left]
    erased = [answer["erased_also"] for answer in (*done, *rest)]
    now = f"{dt.datetime.now(dt.UTC):%FT%TZ}"
    by_route = [Taker(name, "route", now) for name in sorted({to for answer in done for to in answer["sent_to"]})]
    stays = [STAYING, *([IN_STORE] if root.settings.storage.url else [])]
    stays += [f"{key}: it has a UID of what was erased" for one in erased for key in one["stays"]]
    stays += [f"the row of job {job}, with UIDs" for job in jobs]
    uids = dict.fromkeys([*(plan.uid for plan in plans), *(str(row["uid"]) for row in trash)])
    return Certificate(
        erased_at=now,
        node=root.settings.dicom.ae_title,
        version=__version__,
        uids_sha256=[digest_of_uid(uid) for uid in uids],
        series=sum(answer["series"] for answer in done),
        instances=sum(answer["instances"] for answer in done) + sum(row["files"] for row in trash),
        bytes=sum(answer["bytes"] for answer in done) + sum(row["bytes"] for row in trash),
        quarantined=sum(one["quarantined"] for one in erased),
        downloads=sum(one["downloads"] for one in erased),
        trash=sum(one["trash"] for one in erased) + len(rest),
        index_overwritten=all(one["index_overwritten"] for one in erased[-1:]),
        takers=[*by_route, *takers],
        stays=stays,
    )


def _erased(certificate: Certificate, jobs: Sequence[str]) -> str:
    """Say who keeps what was erased, as far as the node knows them: by its index, and by its audit log."""
    sent = [taker.who for taker in certificate.takers if taker.how == "route"]
    by_route = f" ({', '.join(sent)})" if sent else ", none of which has taken it by a route,"
    proved = next((taker.who for taker in certificate.takers if taker.how == "backup that was proved"), None)
    known = f", such as {proved}," if proved is not None else ""
    kept = f"erased; backups{known} destinations{by_route} receivers of hooks and the audit log keep what they have"
    others = [taker for taker in certificate.takers if taker.who not in (*sent, proved)]
    kept += "".join(f"\n  {taker.who} may have it: {taker.how}, last {taker.last_at[:19]}" for taker in others)
    kept += "".join(f"\n  stays: {what}" for what in certificate.stays if what.startswith("quarantine/"))
    if jobs:
        kept += f"\n  rows of jobs keep its UIDs: {', '.join(jobs)}"
    if not certificate.index_overwritten:
        kept += "; the index keeps deleted rows until its write-ahead log is reused, or the server vacuums"
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
