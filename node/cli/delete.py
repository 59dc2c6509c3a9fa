"""``voxelnode delete``."""

from __future__ import annotations

import getpass
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from node.cli.options import ConfigFile, Json, Root, load
from node.cli.output import print_fields, print_json, sized
from node.errors import UsageError

if TYPE_CHECKING:
    from node.index.database import ReadIndex
    from node.index.records import DeletionPlan, Level


def delete(
    uid: Annotated[str, typer.Argument(metavar="STUDY|SERIES|INSTANCE", help="UID of what is to go.")],
    study: Annotated[
        str | None, typer.Option("--study", metavar="UID", help="Study of the series, if it stands in several.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would go.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    config: ConfigFile = None,
    root: Root = None,
    json: Json = False,
) -> None:
    """Delete a study, series or instance for good: rows, DICOM files, volumes and pictures, also in a running node."""
    settings = load(config, storage__root=root).settings

    from node import logs
    from node.control.repository import perform
    from node.index.database import reading

    logs.configure("warning", settings.log.format)
    with reading(settings.storage.root) as index:
        plan = index.plan_deletion(_level(index, uid), uid, study)
    if not json:
        _print(plan)
    if not dry_run:
        _confirm(yes)
        perform(
            settings,
            "delete",
            level=plan.level,
            uid=uid,
            study_instance_uid=plan.study_instance_uid,
            who=getpass.getuser(),
        )
    if json:
        told = {name: value for name, value in asdict(plan).items() if name != "patient_id"}
        print_json({**told, "deleted": not dry_run})
    elif not dry_run:
        print("deleted")


def _level(index: ReadIndex, uid: str) -> Level:
    """Which level a UID names; a UID of two levels is a forgery or a mistake that no command should guess about."""
    levels: list[Level] = []
    if index.rows("SELECT 1 FROM v_studies WHERE study_instance_uid = :uid", uid=uid):
        levels.append("study")
    if index.rows("SELECT 1 FROM v_series WHERE series_instance_uid = :uid", uid=uid):
        levels.append("series")
    if index.rows("SELECT 1 FROM v_images WHERE sop_instance_uid = :uid", uid=uid):
        levels.append("instance")
    if not levels:
        raise UsageError(f"{uid}: no study, series or instance of the index has it (--root tells where)")
    if len(levels) > 1:
        raise UsageError(f"{uid} names a {' and a '.join(levels)}: delete what is around it")
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


def _confirm(yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError("deleting cannot be undone: say --yes where nobody can be asked")
    typer.confirm("Delete this, and all volumes made of it, for good?", abort=True)
