"""Write `completeness` of sidecars again if the verdict has changed since.

A changed verdict converts nothing. The commit that changes it notes in the row of the conversion that its sidecars are
owed; then, of each sidecar:

    rows without a digest, as old and new bytes are both right -> new file -> rename over the old one
                                                               -> rows with the new digest, nothing owed

If the process dies in between, the sidecars are still owed, and all steps are repeated. Only an object store has rows
of sidecars: their objects are removed first, and the new files are moved there as those of a new revision.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from node.conversion.volume_files import revision_files
from node.durable import sync_file
from node.failpoints import reached
from node.index.nouns.records import RevisionFile

if TYPE_CHECKING:
    from node.archive.filesystem import Archive
    from node.completeness import Completeness
    from node.index.database.index import Index
    from node.index.nouns.records import OwedSidecars

_LINE = b'  "completeness": '
"""The beginning of the line of `completeness`; a sidecar has at most one."""


def write_verdict(archive: Archive, index: Index, owed: OwedSidecars) -> None:
    """Write the verdict of a series into its current sidecars, and note that.

    Raises OSError if a sidecar cannot be read or written now.
    """
    with index.reading() as rows:
        files = revision_files(archive.root, rows, owed.folder)
    sidecars = [file for file in files if file.key.endswith(".json") and file.key not in owed.volumes]
    with archive.held(sidecars):
        before = {file.key: archive.path(file.key).read_bytes() for file in sidecars}
        after = {key: with_verdict(content, owed.completeness) for key, content in before.items()}
        changed = [key for key, content in after.items() if content != before[key]]
        if changed:
            index.conversions.begin_sidecars(owed, changed)
            if archive.remote is not None:
                archive.remote.withdraw(changed)
            reached("sidecars-noted")
        for key in changed:
            _replace(archive.path(key), after[key])
        if changed:
            archive.sync_folder(archive.path(owed.folder))
            reached("sidecars-renamed")
    noted = [RevisionFile(key, len(content), hashlib.sha256(content).hexdigest()) for key, content in after.items()]
    index.conversions.end_sidecars(owed, noted)
    reached("sidecars-done")


def with_verdict(content: bytes, verdict: Completeness) -> bytes:
    """Return a sidecar with a verdict in place of its own; the other lines are as they were."""
    lines = content.split(b"\n")
    for number, line in enumerate(lines):
        if line.startswith(_LINE):
            encoded = json.dumps(asdict(verdict), ensure_ascii=False).encode("utf-8", "replace")
            lines[number] = _LINE + encoded + (b"," if line.endswith(b",") else b"")
    return b"\n".join(lines)


def _replace(path: Path, content: bytes) -> None:
    """Replace a file by another content; a crash leaves the old one or the new one, and a part that the next replaces.

    Its name is not synced.
    """
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(content)
    shutil.copymode(path, part)
    sync_file(part)
    reached("sidecar-written")
    os.replace(part, path)
