"""The modality worklist: the files of [worklist] folder, what a query is answered, and the service that keeps both."""

from __future__ import annotations

import datetime as dt
import json
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from time import monotonic

import structlog
from pydicom import dcmread
from pydicom.dataset import Dataset

from node.dicom.encoding import IMPLICIT_LITTLE_ENDIAN, found_syntax
from node.dicom.header import require_few_elements
from node.dicom.json_model import Json
from node.dicom.part10 import file_meta
from node.extensions.worklist.entries import InvalidEntry, checked, model_of, scheduled_step
from node.extensions.worklist.performed_rows import PerformedStepRepository
from node.extensions.worklist.queries import WorklistQuery, answer, entry_in_progress, is_match
from node.extensions.worklist.scheduled_rows import IN_PROGRESS, ScheduledStep, ScheduledStepRepository
from node.extensions.worklist.settings import WorklistSettings
from node.index.search.finder import QueryRefused, QueryStopped
from node.runtime.background import BackgroundService

log = structlog.get_logger()

MAX_FILES = 10_000
MAX_FILE_BYTES, MAX_ELEMENTS = 200_000, 10_000
SCAN_SECONDS = 1.0
"""Least time between two looks at the folder."""

ENDINGS = (".wl", ".json")


def refused_files(folder: Path) -> Iterator[str]:
    """Yield a line for each file of a folder that gives no entry, with the reason."""
    for name, _ in versions(folder):
        try:
            read_entry(folder / name)
        except InvalidEntry as error:
            yield f"[worklist] folder: {name} has no entry: {error}"


class WorklistFolder:
    """Keeps the worklist as the files of a folder say. Thread-safe.

    A file that breaks a rule has no entry. The log has the reason but not the name, which may be that of a patient;
    `voxelnode config check` has both.
    """

    def __init__(
        self,
        folder: Path,
        steps: ScheduledStepRepository,
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        self._folder, self._steps, self._now = folder, steps, now
        self._lock = threading.Lock()
        self._scanned_at = -SCAN_SECONDS
        self._refused: dict[str, str] = {}  # name -> version
        self._failed = ""

    def refresh(self) -> None:
        """Look for files that are new, changed or gone, unless that was done a moment ago.

        If the folder cannot be read, the entries stay as they were, and the log has the reason.
        """
        with self._lock:
            if monotonic() - self._scanned_at < SCAN_SECONDS:
                return
            try:
                self._scan()
                self._failed = ""
            except OSError as error:
                reason = error.strerror or type(error).__name__
                if reason != self._failed:
                    detail = f"{reason}: create the folder of [worklist], mount it, or let this user read it"
                    log.error("worklist_folder_not_read", folder=str(self._folder), reason=detail)
                self._failed = reason
            self._scanned_at = monotonic()

    def _scan(self) -> None:
        known = self._steps.file_versions()
        there = dict(versions(self._folder))
        changed: dict[str, tuple[str, ScheduledStep | None]] = {}
        for name, version in there.items():
            if version in (known.get(name), self._refused.get(name)):
                continue
            try:
                changed[name] = version, read_entry(self._folder / name)
            except FileNotFoundError:
                continue
            except (InvalidEntry, OSError) as error:
                log.warning("worklist_file_refused", reason=str(getattr(error, "strerror", None) or error))
                changed[name] = version, None
        self._refused = {name: version for name, version in self._refused.items() if name in there}
        self._refused |= {name: version for name, (version, step) in changed.items() if step is None}
        gone = [name for name in known if name not in there]
        if changed or gone:
            self._steps.replace_files(changed, gone, self._now())


def versions(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the name of each file of a folder that has an entry, and a text that changes with the file.

    Raises OSError if the folder cannot be read, or has more than `MAX_FILES`.
    """
    count = 0
    with os.scandir(folder) as files:
        for file in files:
            if not file.name.lower().endswith(ENDINGS) or file.name.startswith(".") or not file.is_file():
                continue
            if (count := count + 1) > MAX_FILES:
                raise OSError(0, f"the folder has more than {MAX_FILES} files")
            status = file.stat()
            yield (
                os.fsencode(file.name).decode("utf-8", "backslashreplace")[:300],
                f"{status.st_mtime_ns}-{status.st_size}",
            )


def read_entry(path: Path) -> ScheduledStep:
    """Return the entry of a file; the message of InvalidEntry names the attribute and the rule."""
    with path.open("rb") as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise InvalidEntry(f"a file must not have more than {MAX_FILE_BYTES} bytes")
    return scheduled_step(checked(_of_json(data) if path.suffix.lower() == ".json" else _of_dicom(data)))


def _of_json(data: bytes) -> Json:
    try:
        model = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidEntry("the file is not JSON in UTF-8") from error
    if isinstance(model, list) and len(model) == 1:
        model = model[0]
    if not isinstance(model, dict):
        raise InvalidEntry("the file must have one data set in the DICOM JSON Model (PS3.18 F.2)")
    return model


def _of_dicom(data: bytes) -> Json:
    try:
        meta, offset = file_meta(data)
        syntax = found_syntax(data[offset : offset + 8], meta.get(0x0010, IMPLICIT_LITTLE_ENDIAN))
        require_few_elements(memoryview(data)[offset:], syntax, MAX_ELEMENTS)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return model_of(dcmread(BytesIO(data), force=True))
    except Exception as error:  # anything that pydicom raises for a damaged file
        raise InvalidEntry("the file cannot be read as DICOM (PS3.10 7)") from error


LOOK_SECONDS = 60.0
"""Time between two looks at the folder; a query looks as well."""

_COLUMNS = {
    "PatientID": "patient_id",
    "AccessionNumber": "accession_number",
    "StudyInstanceUID": "study_instance_uid",
    "Modality": "modality",
    "ScheduledProcedureStepStartDate": "start_date",
}
"""Keys by which the index finds entries, before all keys are compared."""


class Worklist(BackgroundService):
    """The scheduled procedure steps that are not over. Queries are thread-safe."""

    def __init__(
        self,
        steps: ScheduledStepRepository,
        performed_steps: PerformedStepRepository,
        settings: WorklistSettings,
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        super().__init__("worklist")
        self._steps, self._performed_steps, self._now = steps, performed_steps, now
        self._folder = WorklistFolder(settings.folder, steps, now) if settings.folder is not None else None
        self._kept = dt.timedelta(days=settings.keep_days)
        self._removed_before: dt.date | None = None

    def step(self) -> float:
        """Look at the folder; once a day, remove what is older than [worklist] keep_days."""
        if self._folder is not None:
            self._folder.refresh()
        old = self._steps.old_before(self._now(), self._kept)
        if old is not None and (before := old.date()) != self._removed_before:
            self._steps.remove_old(before)
            midnight = dt.datetime.combine(before, dt.time(), dt.UTC)
            self._performed_steps.remove_old(midnight)
            self._removed_before = before
        return LOOK_SECONDS

    def find(self, query: WorklistQuery, maximum: int, stop: Callable[[], bool]) -> Iterator[Dataset]:
        """Yield the answers to a query, by the day of their start.

        A query with more than `maximum` is refused. `stop` is polled between entries; True ends the query
        (QueryStopped).
        """
        if self._folder is not None:
            self._folder.refresh()
        wanted = {column: matches for keyword, column in _COLUMNS.items() if (matches := query.matches(keyword))}
        count = 0
        for state, stored in self._steps.candidates(wanted):
            if stop():
                raise QueryStopped
            entry = entry_in_progress(stored) if state == IN_PROGRESS else stored
            if not is_match(query.keys, entry):
                continue
            if (count := count + 1) > maximum:
                raise QueryRefused(f"more than {maximum} answers: narrow the query")
            yield answer(query, entry)
