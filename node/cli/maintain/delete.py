"""``voxelnode delete``."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from node.cli.actions import Yes, confirm, perform
from node.cli.options import ConfigFile, Json, Root, settings_for_change
from node.cli.output import print_fields, print_json, sized
from node.errors import UsageError

if TYPE_CHECKING:
    from node.index.database.reading import ReadIndex
    from node.index.nouns.records import DeletionPlan, Level


def delete(
    uid: Annotated[str, typer.Argument(metavar="STUDY|SERIES|INSTANCE", help="UID to delete.")],
    study: Annotated[
        str | None,
        typer.Option("--study", metavar="UID", help="Study of the series, if the series is in several studies."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be deleted.")] = False,
    yes: Yes = False,
    config: ConfigFile = None,
    root: Root = None,
    json: Json = False,
) -> None:
    """Delete a study, series or instance permanently.

    Its rows, DICOM files, volumes and thumbnails are removed. If a node runs on this root, the node does it.
    """
    settings = settings_for_change(config, root)

    from node.index.database.index import reading

    with reading(settings.storage.root, settings.index.url) as index:
        plan = index.deletions.plan(_level(index, uid), uid, study)
    if not json:
        _print(plan)
    if not dry_run:
        confirm("deletion", "Permanently delete this and all volumes made from it?", yes)
        perform(settings, "delete", level=plan.level, uid=uid, study_instance_uid=plan.study_instance_uid)
    if json:
        fields = {name: value for name, value in asdict(plan).items() if name != "patient_id"}
        print_json({**fields, "deleted": not dry_run})
    elif not dry_run:
        print("deleted")


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
