"""``voxelnode open``: a node for one sitting, whose archive has links to the files of folders.

The folders are read, and never written to. The root of the node is temporary; it has the links, the index and the
volumes, and goes when the command ends. A file that changes or vanishes meanwhile is no longer what its row says: who
reads it next gets an error, and it is listed under Problems.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from node.api import (
    UsageError,
    VoxelnodeError,
    browse,
    counted,
    print_fields,
    printable,
    progress_bar,
    remove_left,
    sitting,
    stop_at_end,
    temporary_root,
)

if TYPE_CHECKING:
    from node.api import ImportReport, Ingest

QUIET_SECONDS = 2.0
"""Pause after which a series is converted: files of one series often lie together."""

PREFIX = "voxelnode-open-"
"""How the name of a temporary root begins."""

NAMED_FILES = 5
"""Largest number of files that are named because they could not be stored; the page Problems is for instances."""

UNREAD = "cannot be read"
"""How the reason of a file begins that may be DICOM."""

SENDER = "opened folder"


class _Ended(Exception):
    """Somebody ended the command while files were read."""


class NothingFound(VoxelnodeError):
    """No file is an instance."""


def open_(
    paths: Annotated[
        list[Path], typer.Argument(metavar="FOLDER", exists=True, help="Folders, files, zip files or DICOMDIRs.")
    ],
) -> None:
    """Look at folders of DICOM files in the browser.

    Series are shown, named, and exported as NIfTI or BIDS. This needs no configuration and no AE titles. Nothing is
    copied, and the folders are never changed: a node on this machine refers to their files. Its page opens in the
    browser if there is a desktop. Ctrl-C ends it, and removes all that was made or uploaded but what you have
    downloaded. Members of zip files are unpacked meanwhile. Exit 1 if there is no DICOM file.
    """
    print("Opening", *map(printable, map(str, paths)), "...", flush=True)
    stop = stop_at_end()
    remove_left(PREFIX)
    with temporary_root(PREFIX) as root:
        if any(root.resolve().is_relative_to(path.resolve()) for path in paths):
            raise UsageError(f"{root.parent} is for temporary files, and in it: name a folder below, or set TMPDIR")
        # Errors alone are logged: of conflicts, the pages tell people.
        with sitting(root, QUIET_SECONDS, receives=False, without=("administration",), logs_from="error") as node:
            url = node.endpoints.web
            assert url is not None
            print_fields({"look": url})
            browse(url)
            try:
                report = _refer(paths, node.ingest, stop)
            except _Ended:
                return
            if not report.stored:
                raise NothingFound(
                    counted(report.files, "file, and it is not", "files, none of which is") + " DICOM"
                    if report.files
                    else f"there are no files in {', '.join(printable(str(path)) for path in paths)}"
                )
            _print(report)
            print("Nothing is copied or changed. Ctrl-C ends this, and removes what was made and uploaded.", flush=True)
            node.serve_until(stop)


def _refer(paths: Iterable[Path], ingest: Ingest, stop: threading.Event) -> ImportReport:
    """Refer to every instance in `paths`; raises `_Ended` if `stop` is set meanwhile."""
    from node.api import count_files, import_instances

    paths = list(paths)
    total, files = count_files(paths), 0
    with progress_bar("reading", total) as advance:

        def on_file() -> None:
            nonlocal files
            files += 1
            advance()
            _say(f"read {files} of {counted(max(files, total), 'file')}")
            if stop.is_set():
                raise _Ended

        def _say(word: str, stored: int = 0) -> None:
            ingest.metrics.last_words.heard(SENDER, socket.gethostname(), word, ingest.now(), stored)

        report = import_instances(paths, ingest, on_file, refers=True)
        _say(f"read {counted(report.files, 'file')}, {len(report.skipped)} of them no DICOM", report.stored)
    return report


def _print(report: ImportReport) -> None:
    """Print the outcome of all files in numbers, and the first of each kind that could not be stored."""
    unread = [file for file in report.skipped if file.reason.startswith(UNREAD)]
    strange = [file for file in report.skipped if not file.reason.startswith(UNREAD)]
    counts = {
        "instances": report.stored,
        "no DICOM": len(strange),
        "unreadable": len(unread),
        "copies": report.already_there,
        "same UID, different bytes": len(report.other_bytes),
        "refused": len(report.refused),
    }
    always = ("instances", "no DICOM")
    print_fields({name: count for name, count in counts.items() if count or name in always})
    for word, files in (("refused", report.refused), ("unreadable", unread), ("no DICOM", strange)):
        for file in files[:NAMED_FILES]:
            print(printable(f"{word}: {file.name}: {file.reason}"))
        if len(files) > NAMED_FILES:
            print(f"{word}: and {counted(len(files) - NAMED_FILES, 'more file')}")
