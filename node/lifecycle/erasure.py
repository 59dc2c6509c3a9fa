"""Erase what a deletion leaves beside its own files, and certify what was erased and who may still have it.

The certificate names no patient: it has digests of UIDs, by which whoever knows a UID finds it.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import mmap
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from node.archive.filesystem import DOWNLOAD, Archive
from node.audit.audit_files import Taker
from node.index.database.index import Index
from node.index.nouns.records import Level
from node.receive.quarantine import FOLDER, NotInQuarantine, examined


@dataclass(frozen=True, slots=True)
class Certificate:
    """What was erased, when and where, and who may still have it.

    Attributes
    ----------
    erased_at : str
        In ISO 8601, in UTC.
    node : str
        AE title of the node.
    uids_sha256 : sequence of str
        SHA-256 of each UID that was given or belongs to the patient, in hexadecimal digits.
    quarantined, downloads, trash : int
        Files in quarantine, prepared downloads and deletions in the trash that were erased as well.
    index_overwritten : bool
        Whether no file of the index has deleted rows; if not, they go when they are reused.
    takers : sequence of Taker
        Who may have it, as far as the node knows.
    stays : sequence of str
        What the node itself keeps, in words.
    """

    erased_at: str
    node: str
    version: str
    uids_sha256: Sequence[str]
    series: int
    instances: int
    bytes: int
    quarantined: int
    downloads: int
    trash: int
    index_overwritten: bool
    takers: Sequence[Taker]
    stays: Sequence[str]

    def as_json(self) -> dict[str, Any]:
        """Return it for JSON."""
        return asdict(self)

    @property
    def text(self) -> str:
        """What people read and sign."""
        overwritten = "yes" if self.index_overwritten else "not yet: deleted rows go when their pages are reused"
        lines = [
            "Certificate of erasure",
            "",
            f"Erased at {self.erased_at} by the node {self.node}, voxelnode {self.version}.",
            f"Series: {self.series}. Instances: {self.instances}. Bytes of DICOM: {self.bytes}.",
            f"Also erased: {self.trash} deletions in the trash, {self.quarantined} files in quarantine, "
            f"{self.downloads} prepared downloads, records of the journal.",
            f"Deleted rows of the index overwritten: {overwritten}.",
            "",
            "SHA-256 of the UIDs:",
            *(f"  {digest}" for digest in self.uids_sha256),
            "",
            "May still have it:" if self.takers else "The node knows nobody who may still have it.",
            *(f"  {taker.who}: {taker.how}, last {taker.last_at[:19]}" for taker in self.takers),
            "",
            "Stays at the node:",
            *(f"  {what}" for what in self.stays),
        ]
        return "\n".join(lines) + "\n"


def digest_of_uid(uid: str) -> str:
    """Return the digest by which a certificate names a UID."""
    return hashlib.sha256(uid.encode()).hexdigest()


def remove_prepared(archive: Archive) -> int:
    """Remove the downloads that were prepared, whatever is in them, and return how many; they can be made again."""
    paths = list(archive.work.glob(f"{DOWNLOAD}*"))
    for path in paths:
        path.unlink(missing_ok=True)
    if paths:
        archive.sync_folder(archive.work)
    return len(paths)


def purge_unnamed(
    archive: Archive, index: Index, level: Level, uid: str, who: str, now: dt.datetime
) -> tuple[int, list[str]]:
    """Remove the files in quarantine that are of a study, series or instance and that no row of a conflict names.

    Return how many, and the keys of the files that stay although they have the UID: segments of the journal, files
    that cannot be read, and instances of others that refer to it. A person looks at these.
    """
    purged, stay = 0, []
    for path in _having(archive.root, uid):
        key = f"{FOLDER}/{path.name}"
        try:
            with index.reading() as view:
                file = examined(archive.root, view, path.name)
        except NotInQuarantine:  # it is in the trash, with a deletion of its own
            stay.append(key)
            continue
        its_uid = {
            "study": file.study_instance_uid,
            "series": file.series_instance_uid,
            "instance": file.sop_instance_uid,
        }[level]
        if its_uid != uid:
            stay.append(key)
            continue
        archive.remove(key)
        archive.sync_folder(path.parent)
        index.instances.record_removed_from_quarantine(key, "quarantine-purged", who, now)
        purged += 1
    return purged, stay


def _having(root: Path, uid: str) -> Iterator[Path]:
    """Yield the files in quarantine whose bytes have a UID."""
    pattern = re.compile(rb"(?<![0-9.])" + re.escape(uid.encode()) + rb"(?![0-9.])")
    for path in sorted((root / FOLDER).iterdir()):
        with path.open("rb") as file:
            if path.stat().st_size == 0:  # cannot be mapped
                continue
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                found = pattern.search(content) is not None
        if found:
            yield path
