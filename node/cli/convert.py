"""``voxelnode convert``."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import typer

from node.cli.options import ConfigFile, Json, load
from node.cli.output import print_json, print_table


def convert(
    paths: Annotated[
        list[Path], typer.Argument(metavar="IN", exists=True, help="Folders, files, zip files or DICOMDIRs.")
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="OUT", help="Folder for the volumes; created if missing.")
    ],
    format: Annotated[
        list[str] | None,
        typer.Option(
            "--format", "-f", metavar="FORMAT", help="nifti, mhd, ...; may be repeated. Overrides [convert] formats."
        ),
    ] = None,
    compress: Annotated[
        bool | None, typer.Option("--compress/--no-compress", help="Compress the files. Overrides [convert] compress.")
    ] = None,
    thumbnails: Annotated[
        bool | None,
        typer.Option(
            "--thumbnails/--no-thumbnails", help="Write PNGs beside the volumes. Overrides [convert] thumbnails."
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            "-j",
            metavar="N",
            help="Series to convert at once, each in its own process. Overrides [convert] workers.",
        ),
    ] = None,
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """Convert DICOM files to volumes without a node.

    The volumes are the same as those of a node. OUT/conversion.json lists the volumes, the refusals with their reasons,
    and the skipped files. Exit 1 if there is no volume, or if a series failed.
    """
    settings = load(
        config,
        convert__formats=format or None,
        convert__compress=compress,
        convert__thumbnails=thumbnails,
        convert__workers=workers,
    ).settings.convert

    from node.cli.converters import converters
    from node.conversion.job import limits
    from node.conversion.offline import convert_folder
    from node.writers.options import write_options

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # runs the cleanup of unfinished files
    if not json:
        import_module("rich.table")  # now, while the child starts
    bounds = limits(settings)
    with _progress() as show:
        listing = convert_folder(
            paths,
            out,
            write_options(settings),
            lambda job, cancelled: converters().run(job, bounds, cancelled),
            settings.workers,
            show,
        )
    if json:
        print_json(listing)
    else:
        _print(listing, out)
    if not listing["volumes"] or any(row["reason"] == "failed" for row in listing["refusals"]):
        raise typer.Exit(1)


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """Show the last converted series in one line of the terminal; without a terminal, show nothing."""
    if not sys.stderr.isatty():
        yield lambda series: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("converting", total=None)
        yield lambda series: progress.update(task, description=series)


def _print(listing: dict[str, Any], out: Path) -> None:
    for folder, rows in groupby(listing["volumes"], key=lambda row: Path(row["path"]).parent):
        print_table(
            str(out / folder),
            ("file", "kind", "shape", "spacing mm", "type", "instances", "warnings"),
            [
                (
                    Path(row["path"]).name,
                    row["kind"],
                    " x ".join(map(str, row["shape"])),
                    " x ".join(f"{length:.3g}" for length in row["spacing_mm"]),
                    row["dtype"],
                    row["instances"],
                    ", ".join(row["warnings"]),
                )
                for row in rows
            ],
        )
    for refusal in listing["refusals"]:
        series = refusal["series_instance_uid"] or "files without a series"
        print(f"refused {series}: {refusal['reason']}: {refusal['detail']}")
    if listing["not_dicom"]:
        print(f"skipped {len(listing['not_dicom'])} files that are not DICOM")
    print(f"{len(listing['volumes'])} files, {len(listing['refusals'])} refusals: {out / 'conversion.json'}")
