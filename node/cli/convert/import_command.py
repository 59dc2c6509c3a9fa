"""``voxelnode import``."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from node.cli.options import ConfigFile, Json, Root, settings_for_change
from node.cli.output import print_fields, print_json, printable

if TYPE_CHECKING:
    from node.receive.dicom_files import SkippedFile
    from node.receive.import_files import ImportReport

NAMED_FILES = 20
"""Maximum number of skipped or refused files to list; ``--json`` lists all."""


def import_(
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH", exists=True, help="Folders, files, zip files or DICOMDIRs.")
    ],
    config: ConfigFile = None,
    root: Root = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be imported.")] = False,
    json: Json = False,
) -> None:
    """Import DICOM files from folders, zip files and DICOMDIRs.

    Every instance is stored and indexed as if it had been sent. Instances already stored are left unchanged, so the
    command may be repeated. Files that are not DICOM are skipped and listed. Exit 1 if an instance was refused, or has
    the UID of a stored instance but different bytes.
    """
    settings = settings_for_change(config, root)

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console,
        disable=not console.is_terminal,
    ) as progress:  # fmt: skip
        task = progress.add_task("scanning" if dry_run else "importing", total=_count(paths))

        def on_file() -> None:
            progress.advance(task)

        if dry_run:
            instances, skipped = _survey(paths, on_file)
            _print_survey(instances, skipped, json)
            return
        from node.control.repository import open_for_import
        from node.receive.import_files import import_instances

        with open_for_import(settings) as ingest:
            report = import_instances(paths, ingest, on_file)
    _print_report(report, json)
    if report.refused or report.other_bytes:
        raise typer.Exit(1)


def _count(paths: Iterable[Path]) -> int:
    """Count the files for the progress bar, by name only."""
    count = 0
    for path in paths:
        if path.is_dir():
            count += sum(len(files) for _, _, files in os.walk(path))
        elif zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                count += len(archive.infolist())
        else:
            count += 1
    return count


def _survey(paths: Iterable[Path], on_file: Callable[[], None]) -> tuple[int, list[SkippedFile]]:
    from node.receive.dicom_files import SkippedFile, find_instances

    instances = 0
    skipped = []
    for file in find_instances(paths):
        if isinstance(file, SkippedFile):
            skipped.append(file)
        else:
            instances += 1
        on_file()
    return instances, skipped


def _print_survey(instances: int, skipped: list[SkippedFile], json: bool) -> None:
    if json:
        print_json({"dry_run": True, "instances": instances, "not_dicom": _named(skipped)})
        return
    print_fields({"instances": instances, "skipped, not DICOM": len(skipped)})
    _print_names("skipped", skipped)


def _print_report(report: ImportReport, json: bool) -> None:
    if json:
        print_json(
            {
                "dry_run": False,
                "stored": report.stored,
                "already_there": report.already_there,
                "other_bytes": report.other_bytes,
                "refused": _named(report.refused),
                "not_dicom": _named(report.skipped),
            }
        )
        return
    print_fields(
        {
            "stored": report.stored,
            "already stored": report.already_there,
            "same UID, different bytes": len(report.other_bytes),
            "refused": len(report.refused),
            "skipped, not DICOM": len(report.skipped),
        }
    )
    _print_names("refused", report.refused)
    _print_names("skipped", report.skipped)
    if report.stored:
        print("`voxelnode serve` converts each series when it is quiet.")


def _named(files: list[SkippedFile]) -> list[dict[str, str]]:
    return [{"file": file.name, "reason": file.reason} for file in files]


def _print_names(title: str, files: list[SkippedFile]) -> None:
    for file in files[:NAMED_FILES]:
        print(printable(f"{title}: {file.name}: {file.reason}"))  # a name in a zip file is whatever its sender wrote
    if len(files) > NAMED_FILES:
        print(f"{title}: and {len(files) - NAMED_FILES} more (--json lists all)")
