"""Copies for the destinations of routes: changed on their way, while the archive stays byte for byte.

Everything here runs in a child of `node.conversion.decoder`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydicom import Dataset, dcmread, uid
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import dcmwrite, write_file_meta_info

from node.dicom.coercion import Coercion, NotCoerced
from node.errors import ConversionRefused
from node.volume.read.transfer_syntaxes import TARGETS, NotTranscodable

Encoding = Literal["keep", "uncompressed", "jpeg2000-lossless"]

_PREAMBLE = bytes(128) + b"DICM"


@dataclass(frozen=True, slots=True)
class Change:
    """How copies differ from what is stored."""

    coercion: Coercion = field(default_factory=Coercion)
    encoding: Encoding = "keep"

    def concerns(self, transfer_syntax_uid: str) -> bool:
        """Return whether a copy of an instance in this transfer syntax may differ from what is stored."""
        if self.coercion:
            return True
        if self.encoding == "uncompressed":
            return transfer_syntax_uid not in TARGETS
        return self.encoding == "jpeg2000-lossless" and transfer_syntax_uid in TARGETS


@dataclass(frozen=True, slots=True)
class Copy:
    """A written copy: its identity, its encoding, and where its data set begins in the file."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    data_set_offset: int


def copy_of(answer: bytes) -> Copy:
    """Return the copy that `forward` answers with."""
    return Copy(**json.loads(answer))


def transformed(ds: Dataset, change: Change) -> Dataset:
    """Return the data set that leaves for a destination: the only place where one changes on its way.

    Raises
    ------
    NotCoerced
    """
    change.coercion.apply(ds)
    return ds


def forward(path: Path, change: Change, into: Path) -> bytes:
    """Write the copy of a stored file, as a DICOM file; return its `Copy` as JSON."""
    ds: Dataset = dcmread(path)
    stored = str(ds.file_meta.TransferSyntaxUID)
    try:
        ds = transformed(ds, change)
    except NotCoerced as error:
        raise NotTranscodable(str(error)) from error
    if change.encoding == "jpeg2000-lossless" and stored in TARGETS:
        _compress(ds)
    offset = _write(ds, change.encoding, stored, into)
    meta = ds.file_meta
    written = {
        "sop_class_uid": str(ds.SOPClassUID),
        "sop_instance_uid": str(ds.SOPInstanceUID),
        "transfer_syntax_uid": str(meta.TransferSyntaxUID),
        "data_set_offset": offset,
    }
    return json.dumps(written).encode()


def _write(ds: Dataset, encoding: Encoding, stored: str, into: Path) -> int:
    """Write a DICOM file; return where its data set begins."""
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    stream = DicomBytesIO()
    if encoding == "uncompressed" and stored not in TARGETS:
        from node.volume.read.transcoding import encoded

        try:
            data = encoded(ds, TARGETS[0])
        except ConversionRefused as error:
            raise NotTranscodable(f"the instance cannot be decompressed: {error}") from error
        ds.file_meta.TransferSyntaxUID = uid.UID(TARGETS[0])
        offset = _write_head(stream, ds)
        stream.write(data)
    else:
        offset = _write_head(DicomBytesIO(), ds)
        dcmwrite(stream, ds, enforce_file_format=True)
    into.write_bytes(stream.getvalue())
    return offset


def _write_head(stream: DicomBytesIO, ds: Dataset) -> int:
    stream.is_implicit_VR, stream.is_little_endian = False, True
    stream.write(_PREAMBLE)
    write_file_meta_info(stream, ds.file_meta, enforce_standard=True)
    return int(stream.tell())


def _compress(ds: Dataset) -> None:
    """Compress the pixels by JPEG 2000, unless the encoder does not take them.

    Raises
    ------
    NotTranscodable
        The compressed pixels are not the same.
    """
    import numpy as np

    if "PixelData" not in ds or ds.get("BitsAllocated") not in (8, 16) or ds.get("SamplesPerPixel") != 1:
        return
    try:
        before = ds.pixel_array.copy()
        ds.compress(uid.JPEG2000Lossless, encoding_plugin="pylibjpeg", generate_instance_uid=False)
    except Exception:  # such as images of less than 32 pixels: they leave as they are stored
        return
    if not np.array_equal(before, ds.pixel_array):
        raise NotTranscodable("JPEG 2000 did not keep the pixels: set transfer_syntax of the route to keep")
