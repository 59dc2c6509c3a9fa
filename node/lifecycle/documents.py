"""Write the documents of instances that have none: those of an index from before there were documents.

The index itself says which instances these are: whatever ends the process, the next start goes on with the rest, and
tries again the files that could not be read.
"""

from __future__ import annotations

from time import monotonic

from node.archive.filesystem import Archive
from node.background import BackgroundService
from node.dicom.header import Head
from node.errors import NotUnderstood
from node.files.heads import head_of
from node.index.database.index import Index
from node.index.nouns.records import InstanceFile

BATCH = 50
"""Instances of one transaction; all their heads are in memory."""

REST = 4.0
"""It rests this many times as long as it works."""


class Documents(BackgroundService):
    """Reads the headers of the instances without a document, in the order of their row ids, up to the last."""

    turn: str = "documents"

    def __init__(self, archive: Archive, index: Index) -> None:
        super().__init__(self.turn)
        self._archive, self._index, self._after = archive, index, 0

    def _is_ours(self) -> bool:
        return self._index.turn.has(self.turn)

    def step(self) -> float | None:
        """Fill some; return the seconds until the next ones, or None if none is left."""
        began_at = monotonic()
        after, files = self._index.instances.without_document(self._after, BATCH)
        found = {id: (file.key, head) for id, syntax, file in files if (head := self._read(file, syntax)) is not None}
        if found:
            self._index.instances.fill_documents(found)
        if after is None:
            return None
        self._after = after
        return (monotonic() - began_at) * REST

    def _read(self, file: InstanceFile, transfer_syntax_uid: str) -> Head | None:
        try:
            return head_of(self._archive.local(file), file.data_set_offset, transfer_syntax_uid)
        except (OSError, NotUnderstood):
            return None
