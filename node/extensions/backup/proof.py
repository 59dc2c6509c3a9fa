"""Prove a backup: restore it into a scratch root, compare every digest, and convert a sample of its series again."""

import datetime as dt
import gzip
import hashlib
import os
import random
import struct
import threading
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from itertools import compress, groupby
from operator import attrgetter
from pathlib import Path
from typing import IO

from node.archive.intact import problem_with
from node.archive.proof import Proof, last_proof, note
from node.archive.space import disks_of
from node.children.messages import ChildCancelled
from node.control.care import check_repository
from node.control.repository import Repository
from node.conversion.job import limits
from node.conversion.out_folder import work_folder
from node.conversion.pool import ConverterDied, Converters, ShortOfResources
from node.conversion.series import ReferencedSeriesOpen, SeriesDamaged, input_sha256, write_volumes
from node.errors import UsageError, VoxelnodeError
from node.extensions.backup.making import PROVING, has_backup, holding_backups
from node.extensions.backup.restoring import copy_backup, require_room
from node.files.acknowledged import Acknowledged, entries, is_written_off, write_offs
from node.index.database import Index
from node.index.rows.files import VolumeFile
from node.index.rows.place import FILE_NAME
from node.index.rows.records import ClaimedSeries
from node.lifecycle.fsck import Finding
from node.receive.accounting import unaccounted
from node.registry import enabled, objects_of
from node.settings.core import Storage
from node.settings.model import Settings
from node.writers.options import write_options

SPARE_BYTES = 256 << 20
"""Free space beyond the size of a backup that a proof needs, for the series that it converts."""

EXPECTED = (
    *("journal-waiting", "file-unknown", "file-back", "loser-unknown"),
    *("instance-lost", "journal-gap", "volume-unknown", "volume-kept"),
)
"""Findings before the first start that a copy of a receiving node has; lost instances are looked for after it."""


@dataclass(frozen=True, slots=True)
class Proved:
    """What a proof compared.

    `differences`: what the backup does not give back; their paths are relative to the backup.
    `converted`: series that were converted again.
    `not_comparable`: series of the sample that another version, or other options, made: their volumes may rightly
        differ.
    """

    differences: list[Finding]
    instances: int
    converted: int
    not_comparable: int


def prove(settings: Settings, backup: Path, scratch: Path | None, sample: int) -> Proved:
    """Prove a backup of a root, and note the outcome there.

    `backup`: the folder of the backup.
    `scratch`: the folder in which the backup is restored for the time of the proof; None: that of the backup, which is
        only read otherwise.
    `sample`: how many series are converted again.

    Raises VoxelnodeError: there is no backup, no room, or the backup cannot be restored; this is noted as well.
    Raises OSError.
    """
    root = settings.storage.root.absolute()
    _require_provable(settings, root, backup, scratch)
    try:
        with holding_backups(root):
            proved = _prove(settings, backup, scratch or backup, sample)
    except (VoxelnodeError, OSError) as error:
        _note(root, backup, Proof("", None, "", problem=str(error)))
        raise
    _note(root, backup, Proof("", None, "", len(proved.differences), proved.instances, proved.converted))
    return proved


def _require_provable(settings: Settings, root: Path, backup: Path, scratch: Path | None) -> None:
    if settings.index.url is not None or settings.storage.url is not None:
        raise UsageError("a proof restores roots without [index] url and [storage] url only")
    if not root.is_dir():
        raise UsageError(f"{root} is not a folder: name the root whose backup this is with --root")
    if backup.resolve() == root.resolve():
        raise UsageError(f"{backup} is the root itself: name the folder of its backup")
    if scratch is not None and any(scratch.resolve().is_relative_to(used.resolve()) for used in (backup, root)):
        raise UsageError(f"--scratch {scratch} is inside the backup or the root: choose a folder outside of both")


def _note(root: Path, backup: Path, proof: Proof) -> None:
    now, before = dt.datetime.now(dt.UTC).isoformat(), last_proof(root)
    last = before.succeeded_at if before is not None else None
    note(root, replace(proof, ended_at=now, succeeded_at=now if proof.ok else last, backup=str(backup)))


def _prove(settings: Settings, backup: Path, parent: Path, sample: int) -> Proved:
    if not has_backup(backup):
        raise VoxelnodeError(f"{backup} has no {FILE_NAME}: it is not the backup of a root, or not mounted")
    parent.mkdir(parents=True, exist_ok=True)
    if not os.access(parent, os.W_OK):
        raise VoxelnodeError(f"{parent} cannot be written to: name a folder for the scratch root with --scratch")
    with work_folder(parent, PROVING) as work:  # which also removes those of proofs that were killed
        require_room(backup, parent, _spare_bytes(settings, parent), "free some, or name another folder with --scratch")
        restored = work / "root"
        copy_backup(backup, restored)
        # Nothing of the configuration that reaches beyond the scratch root, such as a server of the audit log.
        storage = Storage(root=restored, reserve_bytes=0, overwrite_policy=settings.storage.overwrite_policy)
        return _compare(Settings(storage=storage, convert=settings.convert, extensions=settings.extensions), sample)


def _spare_bytes(settings: Settings, parent: Path) -> int:
    """Return what a proof needs beyond the size of the backup; on a disk of the root also what the node keeps free."""
    disks = {disk.stat().st_dev for disk in disks_of(settings.storage.root.absolute())}
    return SPARE_BYTES + (settings.storage.reserve_bytes if parent.stat().st_dev in disks else 0)


def _compare(settings: Settings, sample: int) -> Proved:
    root = settings.storage.root
    findings = check_repository(settings, digests=True, repair=False)
    if next((root / "volumes").glob("*/"), None) is None:  # a backup may be without them
        findings = [finding for finding in findings if finding.kind != "volume-missing"]
    with Repository(settings) as repository:
        index = repository.index
        differences = [
            finding for finding in findings if finding.kind not in EXPECTED and not _is_restored(finding, repository)
        ]
        with index.reading() as view:
            instances = view.count_levels()["instances"]
            volumes = [file for file in view.files.of_volumes() if not file.superseded]
        # All of the ledger: the start that came before has looked only at what is behind the mark of the index.
        differences += [_lost(one, index) for found in unaccounted(root, index.lost.absent) for one in found]
        converted, others, found = _convert_again(settings, repository, volumes, sample)
    return Proved([*_without_deleted(root, differences), *found], instances, converted, others)


def _is_restored(finding: Finding, repository: Repository) -> bool:
    """Return whether the start has given a missing or altered file back, as from the journal."""
    if finding.kind not in ("file-missing", "file-altered") or finding.sop_instance_uid is None:
        return False
    row = repository.index.instances.current(finding.sop_instance_uid)
    if row is None or row.file_missing:
        return False
    return problem_with(repository.archive.path(row.key), row.data_set_offset, row.bytes, row.sha256) is None


def _lost(one: Acknowledged, index: Index) -> Finding:
    """Return what is wrong of a version that was acknowledged and is nowhere: it is lost, or another one is here."""
    series = one.study_instance_uid, one.series_instance_uid
    if (row := index.instances.current(one.sop_instance_uid)) is not None:
        detail = "the index has another digest than what was acknowledged"
        return Finding("digest-differs", row.key, detail, one.sop_instance_uid, series)
    detail = f"acknowledged at {one.received_at[:19]}, received from {one.calling_ae_title or one.source}; not here"
    return Finding("instance-lost", "acknowledged", detail, one.sop_instance_uid, series)


def _without_deleted(root: Path, differences: list[Finding]) -> list[Finding]:
    """Leave out missing files of what was deleted after the index was copied: the ledger, copied later, owes it no
    more."""
    missing = {uid for one in differences if (uid := _missing(one))}
    written_off = write_offs(root) if missing else {}
    is_owed: dict[str, bool] = {}
    for first, some in entries(root) if written_off else ():
        for number, one in enumerate(some, first.entries):
            for uid in missing.intersection((one.sop_instance_uid, one.series_instance_uid)):
                is_owed[uid] = is_owed.get(uid, False) or not is_written_off(one, number, written_off)
    return [one for one in differences if is_owed.get(_missing(one), True)]


def _missing(one: Finding) -> str:
    """Return the UID of the instance or the series whose file is missing; empty for other differences."""
    if one.kind == "volume-missing" and one.series is not None:
        return one.series[1]
    return one.sop_instance_uid or "" if one.kind == "file-missing" else ""


def _convert_again(
    settings: Settings, repository: Repository, volumes: Sequence[VolumeFile], sample: int
) -> tuple[int, int, list[Finding]]:
    """Convert some series again; return how many, how many cannot be compared, and what differs from their rows."""
    series = attrgetter("study_instance_uid", "series_instance_uid")
    by_series = groupby(sorted(volumes, key=series), series)
    made = {key: {Path(file.key).name: file for file in files} for key, files in by_series}
    chosen, index = random.sample(sorted(made), min(sample, len(made))), repository.index
    index.series.reopen(chosen, index.now())  # unless the start has, as they lack volumes
    left, converted, differences = {*chosen}, 0, list[Finding]()
    with ExitStack() as held:
        converters = Converters(objects=objects_of(enabled(settings)), options=write_options(settings.convert))
        held.callback(converters.close)
        while left and (claimed := index.series.claim_due(index.now())) is not None:
            if claimed.key in left:
                left.remove(claimed.key)
                found = _converted_again(claimed, made[claimed.key], settings, repository, converters)
                converted += found is not None
                differences += found or ()
    return converted, len(chosen) - converted, differences


def _converted_again(
    claimed: ClaimedSeries,
    before: dict[str, VolumeFile],
    settings: Settings,
    repository: Repository,
    converters: Converters,
) -> list[Finding] | None:
    """Return how the files of a series differ from those that its rows name; None if they need not be the same."""
    archive, index, options = repository.archive, repository.index, write_options(settings.convert)
    key = claimed.key
    if claimed.current is None or claimed.current.input_sha256 != input_sha256(claimed, options, claimed.referenced):
        return None
    folder = str(Path(next(iter(before.values())).key).parent)
    try:
        run = partial(converters.run, limits=limits(settings.convert), cancelled=threading.Event())
        outcome = write_volumes(claimed, archive, index, options, run)
    except SeriesDamaged as error:
        return [Finding("series-damaged", path, problem, series=key) for path, problem in error.damaged]
    except ReferencedSeriesOpen:
        return None
    except (ConverterDied, ShortOfResources, ChildCancelled) as error:
        return [Finding("conversion-failed", folder, str(error), series=key)]
    now = {Path(file.path).name: file for file in outcome.files}
    differences = []
    for name, file in before.items():
        if name not in now:
            detail: str | None = "a new conversion does not make this file"
        elif now[name].sha256 != file.sha256:
            detail = _difference(archive.root / file.key, archive.root / now[name].path)
        else:
            continue
        if detail is not None:
            differences.append(Finding("conversion-differs", file.key, detail, series=key))
    more = (Finding("conversion-differs", f"{folder}/{name}", "a new conversion makes one more file", series=key)
            for name in sorted(now.keys() - before.keys()))  # fmt: skip
    return [*differences, *more]


def _difference(before: Path, now: Path) -> str | None:
    """Return how two volume files with other bytes differ, in words; None if only in how the same voxels are packed."""
    try:
        differs = [one != other for one, other in zip(unpacked(before), unpacked(now), strict=True)]
    except (OSError, ValueError) as error:  # a backup may be without them
        return f"a new conversion gives other bytes, which cannot be compared unpacked: {error}"
    what = " and ".join(compress(("fields of the header", "voxels"), differs))
    return f"a new conversion makes other {what}" if what else None


_PIECE_BYTES = 1 << 20

_PACKED_BYTES = 1 << 16
"""Read at once of a packed file: deflate makes at most 1032 times as much of it."""

_Readable = IO[bytes] | gzip.GzipFile

_VOX_OFFSET = {348: ("<f", 108), 540: ("<q", 168)}
"""Where NIfTI-1 and NIfTI-2 say where their voxels begin, by the size of their headers."""


def unpacked(path: Path) -> tuple[str, str]:
    """Return the SHA-256 of the header of a volume file, and that of its voxels, as they are without compression.

    Those of a pair are read from the file that the header names. Of other files, all is header.

    Raises OSError: the file is missing, or cannot be read. Raises ValueError: it is damaged.
    """
    try:
        return _unpacked(path)
    except (EOFError, LookupError, struct.error, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"it is damaged ({type(error).__name__})") from error


def _unpacked(path: Path) -> tuple[str, str]:
    with ExitStack() as files:
        file: IO[bytes] = files.enter_context(path.open("rb"))
        if path.name.endswith(".nii.gz"):
            plain: _Readable = files.enter_context(gzip.open(file, "rb"))
            return _digest([_header_of_nifti(plain)]), _digest(_pieces(plain))
        if path.suffix == ".nrrd":
            lines = [*iter(file.readline, b"\n")]
            plain = files.enter_context(gzip.open(file, "rb")) if b"encoding: gzip\n" in lines else file
            return _digest(lines), _digest(_pieces(plain))
        if path.suffix == ".mhd":
            fields = [line.split(b" = ", 1) for line in file.read().splitlines()]
            name = dict(fields)[b"ElementDataFile"].decode()
            said = [b" = ".join(field) for field in fields if field[0] != b"CompressedDataSize"]
            data = files.enter_context(path.with_name(name).open("rb"))
            return _digest(said), _digest(_inflated(data) if name.endswith(".zraw") else _pieces(data))
        return _digest(_pieces(file)), _digest(())


def _header_of_nifti(stream: _Readable) -> bytes:
    start = stream.read(4)
    size = int.from_bytes(start, "little")
    header = start + stream.read(size - 4)
    form, at = _VOX_OFFSET[size]
    return header + stream.read(int(struct.unpack_from(form, header, at)[0]) - size)


def _inflated(stream: IO[bytes]) -> Iterator[bytes]:
    unpacker = zlib.decompressobj()
    for piece in iter(lambda: stream.read(_PACKED_BYTES), b""):
        yield unpacker.decompress(piece)
    if not unpacker.eof:
        raise EOFError("the voxels are cut off")


def _pieces(stream: _Readable) -> Iterator[bytes]:
    return iter(lambda: stream.read(_PIECE_BYTES), b"")


def _digest(pieces: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()
