"""Try an object store: does it keep the promises that the archive needs?"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

from node.archive.base import ObjectStore
from node.archive.remote import owner_problem

CONTENT = b"voxelnode tries its object store"


@dataclass(frozen=True, slots=True)
class _Trial:
    key: str
    data_set_offset: int = 0
    bytes: int = len(CONTENT)
    sha256: str = sha256(CONTENT).hexdigest()


def try_store(store: ObjectStore, identity: str | None, has_used_store: bool) -> str | None:
    """Return what a store does not do as it should, or None; parameters are those of
    `node.archive.remote.owner_problem`.
    """
    if (problem := owner_problem(store, identity, has_used_store)) is not None:
        return problem
    trial = _Trial(f"trial-{uuid.uuid4().hex}")
    try:
        if not store.put(trial, CONTENT):
            return f"{store.place} has an object under a name that was never used"
        if store.put(trial, b"other content"):
            return f"{store.place} replaces an object that should only be created: it does not honour If-None-Match"
        with TemporaryDirectory(prefix="voxelnode-") as folder:
            copy = Path(folder, "copy")
            store.fetch(trial.key, copy)
            if copy.read_bytes() != CONTENT:
                return f"{store.place} returns other bytes than it was given"
    finally:
        store.delete([trial.key])
    if store.find(trial.key) is not None:
        return f"{store.place} still has an object that was removed"
    return None
