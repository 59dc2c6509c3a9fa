"""The folder that a conversion writes: whose its files are, and how those of a series are replaced as a whole."""

import errno
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Self

from node.conversion.found_series import FolderSeries
from node.conversion.naming import ANONYMOUS, DEFAULT, NameTemplate, is_file_of, name_template
from node.errors import VoxelnodeError
from node.files.durable import locked

WORK_PREFIX = ".converting-"

UNLOCKED_SECONDS = 60
"""A younger folder may belong to a run that has not locked it yet."""

MAX_MOVES = 10
"""Attempts to move a folder to a destination that another run may have just created."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Names and places of the files.

    `template`: None: the default one, which has folders of studies if a run has several, or an earlier run had them.
    `flat`: all files are in one folder, that of their study or OUT; otherwise each series has its own.
    `anonymous`: neither names, sidecars nor conversion.json contain texts that people typed.
    """

    template: NameTemplate | None = None
    flat: bool = False
    anonymous: bool = False

    def of_studies(self, *, several: bool) -> Self:
        """Return the layout of a run of one or several studies, with its template."""
        template = self.template
        if template is None:
            text = ANONYMOUS if self.anonymous else DEFAULT
            template = name_template(text if several and not self.flat else text.rpartition("/")[2])
        return replace(self, template=template, flat=self.flat or template.has_folder)


@contextmanager
def only_run(out: Path) -> Iterator[None]:
    """Lock a folder: one run at a time writes into it. A file system without locks lets several.

    Raises VoxelnodeError: another run writes into it.
    """
    with ExitStack() as held:
        with suppress(OSError):
            lock = locked(out, os.O_RDONLY | os.O_DIRECTORY)
            if lock is None:
                remedy = "wait for its end, or name another folder with -o"
                raise VoxelnodeError(f"another process converts into {out}: {remedy}")
            held.callback(os.close, lock)
        yield


@contextmanager
def work_folder(out: Path, prefix: str = WORK_PREFIX, *, alone: bool = False) -> Iterator[Path]:
    """Create a folder in `out` for unfinished files; remove it at the end.

    First remove the folders of killed runs: their locks ended with their processes.

    `alone`: `only_run` has locked `out`, so that no folder belongs to a run that is about to lock it.
    """
    for left in out.glob(f"{prefix}*"):
        with ExitStack() as tried, suppress(FileNotFoundError):
            if (alone or time.time() - left.stat().st_mtime > UNLOCKED_SECONDS) and _is_locked(left, tried):
                shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=out) as work, ExitStack() as held:
        _is_locked(Path(work), held)
        yield Path(work)


def _is_locked(folder: Path, until: ExitStack) -> bool:
    """Lock a folder against other processes; return False if it is locked, or if the file system has no locks."""
    try:
        lock = locked(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return False
    if lock is not None:
        until.callback(os.close, lock)
    return lock is not None


def is_ours(out: Path, name: str, series: FolderSeries, layout: Layout) -> bool:
    """Return whether a series may replace all files by a name, if there are any.

    They are of an earlier conversion of this series, and of no instances that it lacks; else `FolderSeries.lacks` gets
    the number of these.
    """
    present = _files_by(out, name, layout)
    if not all(file.is_file() and is_file_of(file.name, name) for file in present):
        return False
    contents = [_content_of(file) for file in present if file.suffix == ".json"]
    owners = {_owner_in(content) for content in contents}
    if not series.series_instance_uid and series.owner in owners:
        owners.discard(None)  # the outlines of its volume, which name no series either
    if not owners <= {series.owner}:
        return False
    made_of = {uid for content in contents for uid in _sources_in(content)}
    if lacking := len(made_of.difference(uid for uid, _ in series.instances)):
        series.lacks[f"{series.folder}/{name}" if series.folder else name] = lacking
    return not lacking


def is_of_study(out: Path, study_instance_uid: str, folder_name: str) -> bool:
    """Return whether a folder, if there is one, may get the files of a study: it has those of no other study."""
    folder = out / folder_name
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        return False
    studies = {_content_of(file).get("StudyInstanceUID") for file in folder.glob("*.json")} - {None}
    return studies <= {study_instance_uid}


def studies_in_folders(out: Path) -> set[str]:
    """Return the studies of which earlier runs wrote the files into a folder for each study; they stay there."""
    studies = set[str]()
    for folder in out.glob("*/"):
        sidecars = (file for file in folder.glob("*.json") if not is_file_of(file.name, folder.name))
        uids = (str(uid) for file in sidecars if (uid := _content_of(file).get("StudyInstanceUID")))
        studies.update(islice(uids, 1))
    return studies


def _files_by(out: Path, name: str, layout: Layout) -> list[Path]:
    """Return everything that a series with a name would replace."""
    if layout.flat:
        return [file for file in out.glob("*") if is_file_of(file.name, name)]
    folder = out / name
    if folder.is_dir() and not folder.is_symlink():
        return list(folder.iterdir())
    return [folder] if folder.exists() or folder.is_symlink() else []


def _owner_in(content: dict[str, Any]) -> str | None:
    """Return whose a sidecar, or the outlines of a volume, are: see `FolderSeries.owner`; None if nothing says it."""
    owner = content.get("SeriesInstanceUID") or next(iter(_sources_in(content)), None)
    return None if owner is None else str(owner)


def _sources_in(content: dict[str, Any]) -> dict[str, Any]:
    """Return the ``sources`` of a sidecar, by SOP Instance UID."""
    sources = content.get("sources")
    return sources if isinstance(sources, dict) else {}


def _content_of(sidecar: Path) -> dict[str, Any]:
    try:
        content = json.loads(sidecar.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def replace_files(out: Path, name: str, folder: Path | None, layout: Layout) -> None:
    """Put the files in `folder`, if there are any, in the place of those of an earlier conversion of the series.

    In one folder, sidecars come first: a later run reads in them which series the other files belong to.
    """
    files = sorted(folder.iterdir(), key=lambda file: file.suffix != ".json") if folder else []
    if files:
        out.mkdir(parents=True, exist_ok=True)
    if layout.flat:
        for old in _files_by(out, name, layout):
            old.unlink(missing_ok=True)
        for file in files:
            os.rename(file, out / file.name)
    elif folder and files:
        _move(folder, out / name)
    else:
        shutil.rmtree(out / name, ignore_errors=True)


def _move(folder: Path, destination: Path) -> None:
    """Replace the folder of an earlier conversion or of another run by a finished folder."""
    for _ in range(MAX_MOVES - 1):
        shutil.rmtree(destination, ignore_errors=True)
        try:
            os.rename(folder, destination)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        else:
            return
    os.rename(folder, destination)
