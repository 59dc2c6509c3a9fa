"""Read records of the journal: the end of an association, or an instance, whose file is then written."""

from __future__ import annotations

import hashlib
from functools import partial

import structlog

from node.archive.filesystem import Archive
from node.dicom.attributes import InstanceAttributes, instance_attributes
from node.dicom.header import Head, HeaderCut, ReadHead
from node.errors import NotUnderstood
from node.files.heads import attributes_of, head_of
from node.index.nouns.records import AssociationEnd, Received, StoredFile
from node.journal.segment import Record
from node.receive.checkpoint import Checkpoint
from node.receive.expected import ExpectedRecords
from node.receive.record import Receipt, association_end, receipt

log = structlog.get_logger()


class RecordContents:
    """Reads records. A file that it writes may be written again after a crash: it is the same file each time."""

    def __init__(self, archive: Archive, expected: ExpectedRecords, checkpoint: Checkpoint) -> None:
        self._archive, self._expected, self._checkpoint = archive, expected, checkpoint

    def read(self, record: Record) -> Received | AssociationEnd | None:
        """Return the content of a record, or None if it cannot be read; write the file of an instance."""
        facts = receipt(record.facts)
        if facts is None:
            return association_end(record.facts)
        try:
            attributes = self._attributes(facts, record.payload)
        except (NotUnderstood, HeaderCut, FileNotFoundError):
            self._archive.intake.require_here()
            log.exception("record_not_understood", record=record.sequence)
            return None
        head: ReadHead
        where = facts.data_set_offset, facts.transfer_syntax_uid
        if facts.sha256:
            self._archive.keep_part(facts.key)
            digest = facts.sha256
            head = partial(head_of, self._archive.path(facts.key), *where)
        else:
            head = partial(Head, record.payload, *where)
            self._archive.write(facts.key, record.payload)
            digest = hashlib.sha256(memoryview(record.payload)[facts.data_set_offset :]).hexdigest()
        self._checkpoint.written(facts.key)  # not before: a checkpoint on another thread would find nothing to sync
        file = StoredFile(
            key=facts.key,
            quarantine_key=self._archive.quarantine_key(facts.key),
            bytes=facts.data_set_bytes,
            sha256=digest,
            data_set_offset=facts.data_set_offset,
            transfer_syntax_uid=facts.transfer_syntax_uid,
            source=facts.source,
            calling_ae_title=facts.calling_ae_title,
            called_ae_title=facts.called_ae_title,
            peer=facts.peer,
            received_at=facts.received_at,
            place=self._archive.place_of_new,
        )
        return Received(
            attributes, file, facts.quiet_seconds, facts.overwrite_policy, facts.began_at, head, facts.association
        )

    def _attributes(self, its: Receipt, payload: bytes) -> InstanceAttributes:
        known = self._expected.attributes(its.key)
        if known is not None:
            return known
        if not its.sha256:
            return instance_attributes(memoryview(payload)[its.data_set_offset :], its.transfer_syntax_uid)
        self._archive.keep_part(its.key)
        return attributes_of(self._archive.path(its.key), its.data_set_offset, its.transfer_syntax_uid)
