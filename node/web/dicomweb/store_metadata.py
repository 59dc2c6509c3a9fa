"""A STOW-RS request of metadata and bulk data (PS3.18 10.5.2): its parts are spooled, then assembled into DICOM files.

An instance is known only when all of its parts were received, so they wait in one file. A child process assembles them,
because the metadata may be anything; the files then take the path of those that are received as such.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO

from fastapi import HTTPException

from node.children.assembling import Assembled, SpooledPart, assemble_file, read_assembled
from node.children.decoder import DecoderBusy, NotDecoded
from node.dicom.encoding import EXPLICIT_LITTLE_ENDIAN
from node.dicom.status import CANNOT_UNDERSTAND, OUT_OF_RESOURCES
from node.dicom.uids import is_accepted_transfer_syntax
from node.receive.dicom_files import Identity
from node.receive.ingest import Origin
from node.web.dicomweb.media_types import DICOM, DICOM_JSON, DICOM_XML, JSON, bulk_data_syntax
from node.web.dicomweb.resources import CHUNK_BYTES
from node.web.dicomweb.store_transaction import PartFailure, StoreReport, StoreTransaction
from node.web.services import Services

METADATA_TYPES = frozenset((DICOM_JSON, DICOM_XML, JSON))
MAX_METADATA_BYTES = 64 << 20
"""Longest part of metadata: a child process holds its data sets in memory."""

CHECKED_BYTES = 64 << 20
"""Bytes spooled between two checks whether the disk has room."""


class MetadataTransaction(StoreTransaction):
    """A request whose parts are metadata and bulk data. Used by one thread at a time; `close` must be called."""

    def __init__(self, node: Services, origin: Origin, boundary: bytes, study_instance_uid: str | None) -> None:
        super().__init__(node.ingest, origin, boundary, study_instance_uid, node.on_refusal)
        self._node = node
        self._spool = self._new_file()
        self._metadata: list[SpooledPart] = []
        self._bulk_data: list[SpooledPart] = []
        self._type, self._syntax, self._began, self._at, self._checked = "", "", 0, 0, 0

    def begin_part(self, media_type: str, transfer_syntax_uid: str) -> None:
        """Begin a part, whose headers are complete."""
        self._type, self._syntax, self._began = media_type, transfer_syntax_uid, self._at

    def write_part(self, data: memoryview) -> None:
        """Write bytes of the part to the spool file.

        Raises
        ------
        HTTPException
            413 for metadata that are too long, 503 if the disk is full.
        """
        if self._type in METADATA_TYPES and self._at + len(data) - self._began > MAX_METADATA_BYTES:
            raise HTTPException(
                413, f"metadata of more than {MAX_METADATA_BYTES} bytes in one part: send several requests"
            )
        try:
            self._spool.write(data)
        except OSError as error:
            raise HTTPException(503, f"the parts cannot be written: {os.strerror(error.errno or 0)}") from error
        self._at += len(data)
        if self._at - self._checked >= CHECKED_BYTES:
            self._checked = self._at
            refusal = self._node.ingest.refusal()
            if refusal is not None:
                raise HTTPException(503, refusal)

    def end_part(self) -> None:
        """Note where the part is."""
        location = self.part_headers.get(b"content-location", b"").decode("utf-8", "replace").strip()
        length = self._at - self._began
        if self._type in METADATA_TYPES:
            self._metadata.append(SpooledPart(self._type, location, self._began, length))
            return
        syntax = bulk_data_syntax(self._type, self._syntax)
        if syntax is None or not is_accepted_transfer_syntax(syntax):
            reason = "a part is neither metadata nor bulk data of a known media type"
            self.refused(PartFailure(CANNOT_UNDERSTAND, reason))
        elif not location:
            self.refused(PartFailure(CANNOT_UNDERSTAND, "a part of bulk data has no Content-Location"))
        else:
            self._bulk_data.append(SpooledPart(self._type, location, self._began, length, syntax))

    def end(self) -> StoreReport:
        """Assemble the instances and wait until each is stored or refused; see `StoreTransaction.end`."""
        if self.is_whole:
            self._assemble()
        return super().end()

    def close(self) -> None:
        """Delete the spool file; see `StoreTransaction.close`."""
        with suppress(OSError):  # what is still buffered does not fit on the disk
            self._spool.close()
        super().close()

    def _assemble(self) -> None:
        try:
            self._spool.flush()
            with self._new_file() as file:
                paths = Path(self._spool.name), Path(file.name)
                answer = self._node.decoder.run(assemble_file, paths[0], self._metadata, self._bulk_data, into=paths[1])
                for one in read_assembled(answer):
                    self._store(one, file)
        except NotDecoded as error:
            self.refused(PartFailure(CANNOT_UNDERSTAND, f"the metadata cannot be read: {error}"))
        except ValueError as error:
            self.refused(PartFailure(CANNOT_UNDERSTAND, f"the metadata cannot be read: {error}"))
        except DecoderBusy:
            self.refused(PartFailure(OUT_OF_RESOURCES, "too many requests wait for a decoder: try again later"))
        except OSError as error:
            self.refused(PartFailure(OUT_OF_RESOURCES, f"the parts cannot be read or written: {error.strerror}"))

    def _new_file(self) -> IO[bytes]:
        """Return a file on the disk of the archive, which is deleted when it is closed; 503 if there is no room."""
        folder = self._node.archive.incoming
        try:
            file: IO[bytes] = NamedTemporaryFile(dir=folder, prefix="stow-", suffix=".part")  # noqa: SIM115 - see close
        except OSError as error:
            raise HTTPException(503, f"the parts cannot be written: {error.strerror}") from error
        return file

    def _store(self, one: Assembled, file: IO[bytes]) -> None:
        if one.refusal:
            uids = one.sop_class_uid, one.sop_instance_uid
            identity = Identity(*uids, EXPLICIT_LITTLE_ENDIAN, "", "", 0) if all(uids) else None
            self.refused(PartFailure(CANNOT_UNDERSTAND, one.refusal, identity))
            return
        super().begin_part(DICOM, "")
        left = one.length
        while left > 0:
            data = file.read(min(CHUNK_BYTES, left))
            if not data:
                raise HTTPException(503, "the assembled instances cannot be read back")
            super().write_part(memoryview(data))
            left -= len(data)
        super().end_part()
