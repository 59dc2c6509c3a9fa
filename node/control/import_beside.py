"""An import beside a running node: the command hands files to the node, which imports them as its own.

The node makes a folder below ``work/`` in the root. The command copies a batch of files there, and asks the node by the
control socket to import the folder. The node may be confined and unable to read the medium; it never sees a path of it.
If the command dies, the batch under way is imported or not, and the next start of the node removes the folder. If the
node dies, the command says so; what is stored already is skipped when it is run again.
"""

import shutil
import socket
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path, PurePath
from typing import Any

from node.control.control_socket import NoControlSocket, NotPerformed, request_action
from node.errors import UsageError, counted
from node.files.durable import DISK_FULL
from node.hookspecs import Action
from node.receive.dicom_files import MediaFile, SkippedFile, find_instances
from node.receive.import_files import ImportReport, import_instances, import_origin
from node.receive.ingest import Ingest

BEGIN, IMPORT, END = "begin-import", "import", "end-import"
WORK = "work"  # as `Archive.work`
PREFIX = "import-"

BATCH_FILES = 128
BATCH_BYTES = 64 << 20
"""A batch ends with the file that reaches this: other requests wait for it, and the disk has it twice meanwhile."""


def actions_of(ingest: Ingest) -> Mapping[str, Action]:
    """Return what the command asks for: ``begin-import``, ``import`` for each batch, and ``end-import``."""
    work = ingest.archive.work

    def begin() -> Mapping[str, Any]:
        work.mkdir(exist_ok=True)
        return {"folder": PurePath(tempfile.mkdtemp(prefix=PREFIX, dir=work)).name}

    def import_(folder: str, progress: str) -> Mapping[str, Any]:
        batch = known(folder)
        report = import_instances([batch], ingest)
        ingest.metrics.last_words.heard("import", socket.gethostname(), progress, ingest.now(), stored=report.stored)
        for copy in batch.iterdir():
            copy.unlink()
        return asdict(report)

    def end(folder: str) -> Mapping[str, Any]:
        shutil.rmtree(known(folder), ignore_errors=True)
        if ingest.transfers is not None:
            ingest.transfers.ended(import_origin(), "ended")
        return {}

    def known(folder: str) -> Path:
        if PurePath(folder).name != folder or not folder.startswith(PREFIX):
            raise UsageError(f"{folder} was not made for an import")
        return work / folder

    return {BEGIN: begin, IMPORT: import_, END: end}


def hand_over(root: Path, folder: str, paths: Iterable[Path], total: int, on_file: Callable[[], None]) -> ImportReport:
    """Have the node that holds `root` import every instance in `paths`, and return the outcomes of all files.

    `folder`: name that ``begin-import`` has answered.
    `total`: number of files, for the page Status of the node.
    `on_file`: called after each file.

    Raises NotPerformed: the node refused, failed or ended; instances that were stored before stay.
    Raises OSError: the root has no room for a batch.
    """
    report = ImportReport()
    try:
        for batch in _batches(find_instances(paths)):
            copied = _copied(batch, root / WORK / folder, report)
            files = report.files + len(copied)
            progress = f"imported {files} of {counted(max(files, total), 'file')}"
            try:
                answer = request_action(root, IMPORT, {"folder": folder, "progress": progress})
            except NoControlSocket as error:
                done = counted(report.files, "file")
                raise NotPerformed(f"the node ended after {done}: import again, which passes over these") from error
            _add(answer, copied, report)
            for _ in batch:
                on_file()
    finally:
        with suppress(NotPerformed):  # it has ended: its next start removes the folder
            request_action(root, END, {"folder": folder})
    return report


def _batches(files: Iterable[MediaFile | SkippedFile]) -> Iterator[list[MediaFile | SkippedFile]]:
    batch: list[MediaFile | SkippedFile] = []
    size = 0
    for file in files:
        batch.append(file)
        size += file.path.stat().st_size if isinstance(file, MediaFile) and file.path is not None else 0
        if len(batch) >= BATCH_FILES or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _copied(batch: Iterable[MediaFile | SkippedFile], folder: Path, report: ImportReport) -> list[MediaFile]:
    """Copy files to numbers in a folder, readable for the user of the node, and return them in this order.

    What is no instance, or cannot be read, goes to the report.
    """
    copied: list[MediaFile] = []
    for file in batch:
        if isinstance(file, SkippedFile):
            report.skipped.append(file)
            continue
        copy = folder / f"{len(copied):06d}"
        try:
            file.copy_to(copy)
        except OSError as error:
            copy.unlink(missing_ok=True)
            if error.errno in DISK_FULL:
                raise
            report.refused.append(SkippedFile(file.name, str(error)))
            continue
        copy.chmod(0o644)  # the folder lets nobody else in
        copied.append(file)
    return copied


def _add(answer: Mapping[str, Any], copied: list[MediaFile], report: ImportReport) -> None:
    """Add what the node says of copied files to a report, by the names that they have on the medium."""

    def name_of(copy: str) -> str:
        return copied[int(PurePath(copy).name)].name

    report.stored += answer["stored"]
    report.already_there += answer["already_there"]
    report.other_bytes += map(name_of, answer["other_bytes"])
    report.cut += map(name_of, answer["cut"])
    for other, kind in ((report.refused, "refused"), (report.skipped, "skipped")):
        other += (SkippedFile(name_of(file["name"]), file["reason"]) for file in answer[kind])
