"""Import the instances of a medium: the same steps as for an association."""

from __future__ import annotations

import re
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from node.archive.intact import data_set_offset, problem_with
from node.errors import InstanceRefused, OutOfResources
from node.index.rows.records import Outcome
from node.receive.dicom_files import MediaFile, SkippedFile, find_instances
from node.receive.ingest import Announced, Ingest, Origin

THREADS = 8
"""Instances that are imported at once: they share the syncs of the disk."""

MAX_UNDER_WAY = 256
"""Files that are read, or wait until their instance is indexed: they share a commit."""

OWN_NAME = re.compile(r"[0-9a-f]{32}\.dcm")
"""Names that the archive gives to files."""

INDEX_SECONDS = 60.0
"""Longest wait for the index to take an instance that is durable already."""


@dataclass(slots=True)
class ImportReport:
    """The outcomes of all files: numbers, and the names of files that were not stored."""

    stored: int = 0
    already_there: int = 0
    other_bytes: list[str] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)
    """Files of instances that lack pixels which their headers state; they are counted elsewhere, too."""
    refused: list[SkippedFile] = field(default_factory=list)
    skipped: list[SkippedFile] = field(default_factory=list)

    @property
    def files(self) -> int:
        return self.stored + self.already_there + len(self.other_bytes) + len(self.refused) + len(self.skipped)


def import_origin() -> Origin:
    """Return the origin of instances from a medium at this machine."""
    return Origin(source="import", peer=socket.gethostname()[:64])


def import_instances(
    paths: Iterable[Path], ingest: Ingest, on_file: Callable[[], None] = lambda: None, *, refers: bool = False
) -> ImportReport:
    """Store and index every instance in `paths`; instances that are stored already are skipped, so it may be repeated.

    `paths`: folders, files, zip files, DICOMDIRs.
    `on_file`: called on this thread after each file.
    `refers`: copy nothing where the archive can have a link to a file instead: a DICOM file with a head as the node
        writes it. Others are written as always.

    Raises OutOfResources: the disk is full, or the index does not commit; instances that were stored before stay.
    """
    report = ImportReport()
    origin = import_origin()
    with ThreadPoolExecutor(THREADS, thread_name_prefix="import") as threads:
        try:
            for file, outcome, is_cut in _taken(threads, find_instances(paths), ingest, origin, refers):
                _count(report, file, outcome)
                report.cut += [file.name] if is_cut else []
                on_file()
        except BaseException:
            threads.shutdown(cancel_futures=True)
            raise
    return report


Taken = tuple[MediaFile, Outcome | InstanceRefused | OSError, bool] | tuple[SkippedFile, None, bool]


def _taken(
    threads: ThreadPoolExecutor, files: Iterator[MediaFile | SkippedFile], ingest: Ingest, origin: Origin, refers: bool
) -> Iterator[Taken]:
    """Yield each file with its outcome, in their order, and whether it lacks pixels that it states.

    A bounded number of files is under way at once.
    """
    under_way: deque[tuple[MediaFile, Future[Outcome], Future[bool]]] = deque()
    for file in files:
        if isinstance(file, SkippedFile):
            yield file, None, False
            continue
        outcome: Future[Outcome] = Future()
        under_way.append((file, outcome, threads.submit(take_in, file, ingest, origin, outcome, refers)))
        if len(under_way) >= MAX_UNDER_WAY:
            yield _outcome(*under_way.popleft())
    while under_way:
        yield _outcome(*under_way.popleft())


def take_in(file: MediaFile, ingest: Ingest, origin: Origin, outcome: Future[Outcome], refers: bool = False) -> bool:
    """Store the instance of a file; `outcome` gets its outcome once it is indexed, or the error at once.

    Return whether the data set lacks pixels that it states.

    `refers`: see `import_instances`.
    """
    identity = file.identity
    try:
        _require_as_received(file, ingest)
    except (OSError, InstanceRefused) as error:
        outcome.set_exception(error)
        return False
    announced = Announced(identity.sop_class_uid, identity.sop_instance_uid, identity.transfer_syntax_uid)
    try:
        incoming = ingest.begin(announced, origin)
        try:
            offset = file.identity.data_set_offset
            if refers and file.path is not None and data_set_offset(file.path) == offset:
                incoming.refer_to(file.path, offset)
            else:
                for piece in file.data_set():
                    incoming.take_fragment(piece)
            is_cut = incoming.lacks_pixels()
            incoming.finish(outcome)
        finally:
            incoming.abandon()
    except BaseException as error:
        outcome.set_exception(error)
        return False
    return is_cut


def _require_as_received(file: MediaFile, ingest: Ingest) -> None:
    """Raise InstanceRefused for a file of this archive, such as from a folder that was set aside, that is damaged."""
    if file.path is None or not OWN_NAME.fullmatch(file.path.name):
        return
    instances, uid = ingest.index.instances, file.identity.sop_instance_uid
    path = file.path.resolve()
    keys = [f"quarantine/{path.name}"]
    if path.is_relative_to(ingest.archive.root):
        keys.append(str(path.relative_to(ingest.archive.root)))
    known = {held.sha256 for key in keys for held in instances.versions_at(key)}
    current = instances.current(uid)
    known |= {current.sha256} if current is not None and current.key.endswith(f"/{path.name}") else set()
    problems = [problem_with(path, file.identity.data_set_offset, None, sha256) for sha256 in known]
    if problems and None not in problems:
        raise InstanceRefused(f"it {problems[0]}, and is not what this archive received: have it sent again")


def _outcome(file: MediaFile, outcome: Future[Outcome], is_cut: Future[bool]) -> Taken:
    try:
        return file, outcome.result(INDEX_SECONDS), is_cut.result(INDEX_SECONDS)
    except TimeoutError:
        raise OutOfResources(
            "what was read is safe in the journal, but the index does not take it: see the log"
        ) from None
    except OutOfResources:
        raise
    except (InstanceRefused, OSError) as error:
        return file, error, False


def _count(report: ImportReport, file: MediaFile | SkippedFile, outcome: Outcome | Exception | None) -> None:
    if isinstance(file, SkippedFile):
        report.skipped.append(file)
    elif isinstance(outcome, Exception):
        report.refused.append(SkippedFile(file.name, str(outcome)))
    elif outcome in (Outcome.STORED, Outcome.REPLACED):
        report.stored += 1
    elif outcome is Outcome.ALREADY_THERE:
        report.already_there += 1
    else:
        report.other_bytes.append(file.name)
