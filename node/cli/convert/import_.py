"""``voxelnode import`` and ``reconvert``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from node.cli.options import ChangedRoot
from node.cli.output import Answer, named_files, print_fields, progress_bar
from node.errors import UsageError

if TYPE_CHECKING:
    from node.receive.dicom_files import SkippedFile
    from node.receive.import_files import ImportReport

NOTHING = "no DICOM file was found"


def import_(
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH", exists=True, help="Folders, files, zip files or DICOMDIRs.")
    ],
    *,
    root: ChangedRoot,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be imported.")] = False,
) -> Answer:
    """Import DICOM files from folders, zip files and DICOMDIRs.

    Every instance is stored and indexed as if it had been sent. If a node runs on this root, the node does it, and its
    page Status shows the progress. Instances already stored are left unchanged, so the command may be repeated. Files
    that are not DICOM are skipped and listed. A root that does not exist is made, and the command says so. Exit 1 if an
    instance was refused, or has the UID of a stored instance but different bytes, and if no DICOM file was found.
    """
    from node.receive.dicom_files import count_files

    settings, total = root.settings, count_files(paths)
    if not root.folder.exists():
        made = "would be a new root" if dry_run else "is a new root"
        print(f"voxelnode: {root.folder} {made}: there is no such folder yet", file=sys.stderr)
    with progress_bar("scanning" if dry_run else "importing", total) as on_file:
        if dry_run:
            return _survey(paths, on_file)
        from node.control.import_beside import BEGIN, hand_over
        from node.control.repository import open_for_import
        from node.control.root import hold_or_request
        from node.receive.import_files import import_instances
        from node.receive.ingest import Ingest

        with ExitStack() as opened:
            held = hold_or_request(root.folder, lambda: opened.enter_context(open_for_import(settings)), BEGIN, {})
            if isinstance(held, Ingest):
                report = import_instances(paths, held, on_file)
            else:
                report = hand_over(root.folder, held["folder"], paths, total, on_file)
    return _reported(report)


def _survey(paths: Iterable[Path], on_file: Callable[[], None]) -> Answer:
    from node.receive.dicom_files import SkippedFile, find_instances

    instances = 0
    skipped = []
    for file in find_instances(paths):
        if isinstance(file, SkippedFile):
            skipped.append(file)
        else:
            instances += 1
        on_file()

    def show() -> None:
        print_fields({"instances": instances, "skipped, not DICOM": len(skipped)})
        _print_names("skipped", skipped)
        if not instances:
            print(NOTHING)

    return Answer({"dry_run": True, "instances": instances, "not_dicom": _named(skipped)}, show, failed=not instances)


def _reported(report: ImportReport) -> Answer:
    is_found = bool(report.stored or report.already_there or report.other_bytes or report.refused)

    def show() -> None:
        print_fields(
            {
                "stored": report.stored,
                "already stored": report.already_there,
                "same UID, different bytes": len(report.other_bytes),
                "without all their pixels": len(report.cut),
                "refused": len(report.refused),
                "skipped, not DICOM": len(report.skipped),
            }
        )
        for line in named_files("cut", ((name, "without all its pixels") for name in report.cut)):
            print(line)
        _print_names("refused", report.refused)
        _print_names("skipped", report.skipped)
        if report.stored:
            print("A running node converts each series when it is quiet; otherwise the next start does.")
        if not is_found:
            print(NOTHING)

    data = {
        "dry_run": False,
        "stored": report.stored,
        "already_there": report.already_there,
        "other_bytes": report.other_bytes,
        "cut": report.cut,
        "refused": _named(report.refused),
        "not_dicom": _named(report.skipped),
    }
    return Answer(data, show, failed=bool(report.refused or report.other_bytes) or not is_found)


def _named(files: list[SkippedFile]) -> list[dict[str, str]]:
    return [{"file": file.name, "reason": file.reason} for file in files]


def _print_names(title: str, files: list[SkippedFile]) -> None:
    for line in named_files(title, ((file.name, file.reason) for file in files)):
        print(line)


CLOSED = 'state not in ["receiving", "converting"]'
FAILED = 'state in ["failed", "refused"]'

AT_ONCE = 500
"""Series of one commit: other commits wait for it."""


def reconvert(
    uids: Annotated[list[str] | None, typer.Argument(metavar="UID", help="Study or Series Instance UIDs.")] = None,
    where: Annotated[
        str | None,
        typer.Option("--where", metavar="EXPRESSION", help="Series that `voxelnode select EXPRESSION` lists."),
    ] = None,
    failed: Annotated[bool, typer.Option("--failed", help="Series that were refused or crashed too often.")] = False,
    every: Annotated[bool, typer.Option("--all", help="All series.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list the series.")] = False,
    *,
    root: ChangedRoot,
) -> Answer:
    """Convert series again.

    A running node converts them; otherwise the next start does. A series keeps its revision if its volumes would not
    change.
    """
    if bool(uids) + (where is not None) + failed + every != 1:
        raise typer.BadParameter("Give UIDs, or one of --where, --failed and --all.")

    from node.selector import compile_selector

    selectors = [compile_selector(FAILED if failed else CLOSED)]
    if where is not None:
        selectors.append(compile_selector(where))
    with root.looking() as index:
        series = list(index.facts.selected(*selectors))
    if uids:
        wanted = {(one.study, one.series) for one in (root.named(text, "study", "series") for text in uids)}
        series = [key for key in series if not wanted.isdisjoint({key, (key[0], "")})]
        if unknown := {study for study, _ in wanted}.difference(study for study, _ in series):
            raise UsageError(f"{min(unknown)}: no series of it can be converted; `voxelnode series` lists them")
    owed = 0
    for first in range(0, 0 if dry_run else len(series), AT_ONCE):
        owed += root.perform("reconvert", series=series[first : first + AT_ONCE])["owed"]
    uids = [series_instance_uid for _, series_instance_uid in series]
    text = "\n".join(uids) if dry_run else f"{owed} series will be converted again"
    return Answer({"series": uids, "owed": owed, "dry_run": dry_run}, text)
