"""Write the documents of instances that have none, then the terms of series whose terms are not complete.

Documents are missing in an index from before there were documents, terms after [query] indexed has changed. The index
itself says which these are: whatever ends the process, the next start goes on with the rest, and tries again the files
that could not be read.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from time import monotonic
from typing import Any

from node.archive.filesystem import Archive
from node.background import BackgroundService
from node.dicom.header import Head
from node.errors import NotUnderstood
from node.extensions.documents.missing import DocumentRepository
from node.extensions.documents.terms import TermRepository
from node.files.heads import head_of
from node.index.database.index import Index
from node.index.nouns.records import InstanceFile

BATCH = 50
"""Instances of one transaction; all their heads are in memory."""

SERIES = 5
"""Series of one transaction."""

REST = 4.0
"""It rests this many times as long as it works."""


class Filling:
    """The same work in parts, for the service and the command.

    `indexed`: what [query] indexed names.
    """

    def __init__(self, archive: Archive, index: Index, indexed: Collection[str]) -> None:
        self._archive, self._indexed = archive, indexed
        self._documents = index.repository(DocumentRepository)
        self._terms = index.repository(TermRepository)

    def fill_documents(self, after: int) -> tuple[int | None, int]:
        """Write some documents of instances behind a number; return the number to go on behind, and how many."""
        next_after, files = self._documents.without_document(after, BATCH)
        found = {id: (file.key, head) for id, syntax, file in files if (head := self._read(file, syntax)) is not None}
        if found:
            self._documents.fill_documents(found)
        return next_after, len(found)

    def fill_terms(self) -> int:
        """Write the terms of some series; return how many series are left."""
        self._terms.set_list(self._indexed)
        self._terms.fill(SERIES)
        return self._terms.left()

    def action(self, after: int | None) -> Mapping[str, Any]:
        """Do one part: documents behind a number, or terms if it is None."""
        if after is None:
            return {"after": None, "documents": 0, "left": self.fill_terms()}
        next_after, documents = self.fill_documents(after)
        return {"after": next_after, "documents": documents, "left": 1}

    def _read(self, file: InstanceFile, transfer_syntax_uid: str) -> Head | None:
        try:
            return head_of(self._archive.local(file), file.data_set_offset, transfer_syntax_uid)
        except (OSError, NotUnderstood):
            return None


class Documents(BackgroundService):
    """Reads the headers of the instances without a document, in the order of their row ids, then writes terms."""

    turn: str = "documents"

    def __init__(self, archive: Archive, index: Index, indexed: Collection[str] = ()) -> None:
        super().__init__(self.turn)
        self._filling = Filling(archive, index, indexed)
        self._index, self._after = index, 0
        self._has_documents = False

    def _is_ours(self) -> bool:
        return self._index.turn.has(self.turn)

    def step(self) -> float | None:
        """Fill some; return the seconds until the next ones, or None if none is left."""
        began_at = monotonic()
        if self._has_documents:
            left = self._filling.fill_terms()
            return (monotonic() - began_at) * REST if left else None
        after, _ = self._filling.fill_documents(self._after)
        self._after, self._has_documents = after or self._after, after is None
        return (monotonic() - began_at) * REST
