"""Convert files without a node, by the same pipeline; ``conversion.json`` lists the results."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from node.conversion.job import ConversionJob, Converted, ReferencedSeries, absent, run_with_references
from node.conversion.pool import ConverterDied
from node.conversion.volume_files import folder_name
from node.index.records import SeriesKey
from node.receive.dicom_files import SkippedFile, find_instances
from node.volume.reasons import Reason, Refusal
from node.writers.options import WriteOptions

WORK_PREFIX = ".converting-"
UNLOCKED_SECONDS = 60
"""A younger folder may belong to a run that has not locked it yet."""

MAX_MOVES = 10
"""Attempts to move a folder to a destination that another run may have just created."""

Run = Callable[[ConversionJob, threading.Event], Converted]
"""Converts one series, and gives up when the event is set; raises `ConverterDied` if the converter crashes."""


def convert_folder(
    paths: Iterable[Path],
    out: Path,
    options: WriteOptions,
    run: Run,
    workers: int = 1,
    on_series: Callable[[str], None] = lambda series_instance_uid: None,
) -> dict[str, Any]:
    """Convert the instances in `paths` (see `node.receive.dicom_files`); write and return ``conversion.json``.

    Parameters
    ----------
    paths : iterable of Path
    out : Path
        Created if missing. Each series gets a folder in it, which replaces the folder of an earlier conversion.
    run : callable (ConversionJob, threading.Event) -> Converted
        The command line passes `node.conversion.pool.Converters`, so that a crash affects only one series.
    workers : int
        Number of series converted at the same time.
    on_series : callable (Series Instance UID)
        Called after each series.

    Returns
    -------
    dict
        ``series`` with the verdict on each (None if its conversion failed), ``volumes``, ``refusals``, ``exclusions``,
        and ``not_dicom``: the files that are not DICOM instances, with the reason. The result does not depend on
        `workers`.
    """
    listing: dict[str, Any] = {"series": [], "volumes": [], "refusals": [], "exclusions": [], "not_dicom": []}
    out.mkdir(parents=True, exist_ok=True)
    cancelled = threading.Event()
    with _work_folder(out) as work, ThreadPoolExecutor(workers, "series") as pool:
        series = _grouped(paths, work, listing["not_dicom"])
        _refuse_nameless(series, listing["refusals"])
        try:
            names = list(_folder_names(series))
            converting = [
                pool.submit(
                    _converted,
                    tuple(instances),
                    out / name,
                    work,
                    options,
                    lambda job: run(job, cancelled),
                    partial(_look_up, series, key),
                )
                for name, (key, instances) in zip(names, series.items(), strict=True)
            ]
            for (study, uid), name, future in zip(series, names, converting, strict=True):
                _list(listing, study, uid, future.result(), name)
                on_series(uid)
        except BaseException:  # Ctrl-C too
            cancelled.set()
            pool.shutdown(cancel_futures=True)
            raise
        file = work / "conversion.json"
        file.write_text(json.dumps(listing, indent=1) + "\n", encoding="utf-8")
        os.replace(file, out / file.name)
    return listing


@contextmanager
def _work_folder(out: Path) -> Iterator[Path]:
    """Create a folder in `out` for unfinished files; remove it at the end.

    First remove the folders of killed runs: their locks ended with their processes.
    """
    for left in out.glob(f"{WORK_PREFIX}*"):
        with ExitStack() as tried, suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime > UNLOCKED_SECONDS and _is_locked(left, tried):
                shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=WORK_PREFIX, dir=out) as work, ExitStack() as held:
        _is_locked(Path(work), held)
        yield Path(work)


def _is_locked(folder: Path, until: ExitStack) -> bool:
    """Lock a folder against other processes; return False if it is locked, or if the file system has no locks."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        until.callback(os.close, descriptor)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _folder_names(series: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Yield a folder name for each series; a Series Instance UID in two studies gets two folders."""
    taken: set[str] = set()
    for study, series_instance_uid in series:
        name = folder_name(series_instance_uid)
        if name in taken:
            name = folder_name(f"{study} {series_instance_uid}")
        taken.add(name)
        yield name


def _converted(
    instances: tuple[tuple[str, Path], ...],
    destination: Path,
    work: Path,
    options: WriteOptions,
    run: Callable[[ConversionJob], Converted],
    look_up: Callable[[Sequence[SeriesKey]], tuple[ReferencedSeries, ...]],
) -> Converted | Refusal:
    """Convert one series into the folder `destination`, created by one rename; return a refusal after a crash."""
    folder = work / uuid.uuid4().hex
    folder.mkdir()
    try:
        converted = run_with_references(ConversionJob(instances, folder, options), run, look_up)
        if converted.files:
            _move(folder, destination)
        else:
            shutil.rmtree(destination, ignore_errors=True)
        return converted
    except ConverterDied as died:
        shutil.rmtree(destination, ignore_errors=True)
        return Refusal(Reason.FAILED, str(died), tuple(uid for uid, _ in instances))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _look_up(
    series: Mapping[SeriesKey, Sequence[tuple[str, Path]]], referring: SeriesKey, keys: Sequence[SeriesKey]
) -> tuple[ReferencedSeries, ...]:
    """Return the series to which the series `referring` refers: that of the named study, else of its own, else any."""
    found = []
    for key in keys:
        study, uid = key
        there = [other for other in series if other[1] == uid and other != referring]
        there.sort(key=lambda other: (other[0] != study, other[0] != referring[0]))
        if there:
            found.append(ReferencedSeries(key, tuple(series[there[0]])))
        else:
            found.append(ReferencedSeries(key, problem=(Reason.INCOMPLETE, absent(uid))))
    return tuple(found)


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


def _grouped(
    paths: Iterable[Path], unpacked: Path, not_dicom: list[dict[str, str]]
) -> dict[tuple[str, str], list[tuple[str, Path]]]:
    """Group files by study and series, in order of first appearance; unpack members of zip files."""
    series: dict[tuple[str, str], list[tuple[str, Path]]] = {}
    for number, file in enumerate(find_instances(paths)):
        if isinstance(file, SkippedFile):
            not_dicom.append({"name": file.name, "reason": file.reason})
            continue
        path = file.path or unpacked / f"{number}.dcm"
        if file.path is None:
            try:
                file.copy_to(path)
            except OSError as error:
                not_dicom.append({"name": file.name, "reason": str(error)})
                continue
        identity = file.identity
        key = identity.study_instance_uid, identity.series_instance_uid
        series.setdefault(key, []).append((identity.sop_instance_uid, path))
    return series


def _refuse_nameless(series: dict[tuple[str, str], list[tuple[str, Path]]], refusals: list[dict[str, Any]]) -> None:
    """Refuse the files without a Series Instance UID, as a node does: two of them may be of different patients."""
    nameless = [key for key in series if not key[1]]
    uids = tuple(uid for key in nameless for uid, _ in series.pop(key))
    if uids:
        detail = "the data set has no Series Instance UID (0020,000E), which every instance must have (PS3.3 C.7.3.1)"
        refusals.append(_refusal_row("", Refusal(Reason.UNREADABLE, detail, uids)))


def _refusal_row(series_instance_uid: str, refusal: Refusal) -> dict[str, Any]:
    return {
        "series_instance_uid": series_instance_uid,
        "reason": refusal.reason.value,
        "detail": refusal.detail,
        "stack": refusal.stack,
        "instances": len(refusal.sop_instance_uids),
    }


def _list(
    listing: dict[str, Any], study: str, series_instance_uid: str, converted: Converted | Refusal, folder: str
) -> None:
    """Add one series to the listing for ``conversion.json``."""
    own = {"series_instance_uid": series_instance_uid}
    verdict, refusals = None, [converted] if isinstance(converted, Refusal) else list(converted.refusals)
    if isinstance(converted, Converted):
        verdict = asdict(converted.completeness)
        for file in converted.files:
            listing["volumes"].append({**own, **asdict(file), "path": f"{folder}/{file.path}"})
        listing["exclusions"] += [{**own, **asdict(exclusion)} for exclusion in converted.exclusions]
    listing["series"].append({"study_instance_uid": study, **own, "verdict": verdict})
    listing["refusals"] += [_refusal_row(series_instance_uid, refusal) for refusal in refusals]
