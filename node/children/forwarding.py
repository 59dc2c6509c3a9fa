"""Copies for the destinations of routes and for downloads: changed on their way, while the archive stays byte for byte.

`forward` runs in a child of `node.children.decoder`. Importing this module loads neither NumPy nor codecs.
"""

import json
import shutil
from collections.abc import Collection
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal, Protocol, Self

from pydicom import Dataset, dcmread, uid
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import dcmwrite, write_file_meta_info

from node.children.messages import Garbled
from node.dicom.coercion import Coercion, Identity, NotCoerced
from node.dicom.encoding import DEFLATED_LITTLE_ENDIAN
from node.dicom.values import text
from node.errors import ConversionRefused, Withheld
from node.volume.read.transfer_syntaxes import TARGETS, NotTranscodable

Encoding = Literal["keep", "uncompressed", "explicit", "jpeg2000-lossless"]
"""How copies are encoded; explicit: uncompressed, and in Explicit VR Little Endian."""

MAX_DETAIL_CHARACTERS = 500

_PREAMBLE = bytes(128) + b"DICM"


class Way(Protocol):
    """A way in which copies lose what identifies people; each method but `load` and `uid` may raise `Withheld`."""

    @property
    def mark(self) -> str: ...
    @property
    def reasons(self) -> Collection[str]: ...
    def load(self) -> None: ...
    def uid(self, uid: str) -> str: ...
    def read(self, path: Path) -> Dataset: ...
    def clean(self, ds: Dataset) -> Dataset: ...
    def write(self, ds: Dataset, into: Path) -> int: ...


@dataclass(frozen=True, slots=True)
class CopyChange:
    """How copies differ from what is stored. `identity`: of the patient, if somebody has decided who that is."""

    coercion: Coercion = field(default_factory=Coercion)
    encoding: Encoding = "keep"
    deidentification: Way | None = None
    identity: Identity | None = None

    def of(self, identity: Identity | None) -> Self:
        """Return the same change of an instance whose patient has an identity."""
        return self if identity is self.identity else replace(self, identity=identity)

    def concerns(self, transfer_syntax_uid: str) -> bool:
        """Return whether a copy of an instance in this transfer syntax may differ from what is stored."""
        if self.coercion or self.deidentification is not None or self.identity is not None:
            return True
        if self.encoding == "uncompressed":
            return transfer_syntax_uid not in TARGETS
        if self.encoding == "explicit":
            return transfer_syntax_uid != TARGETS[0]
        return self.encoding == "jpeg2000-lossless" and transfer_syntax_uid in TARGETS

    def load(self) -> None:
        """Load what `forward` needs for this change alone, in the process from which those of its files are forked."""
        if self.deidentification is not None:
            self.deidentification.load()

    def uid(self, uid: str) -> str:
        """Return the UID that a copy has in the place of that of an instance, a series or a study."""
        return uid if self.deidentification is None else self.deidentification.uid(uid)


@dataclass(frozen=True, slots=True)
class WrittenCopy:
    """A written copy: its identity, its encoding, and where its data set begins in the file.

    `patient` is the pseudonym of the patient, or empty if the copy is not de-identified.
    """

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    data_set_offset: int
    patient: str = ""


def copy_of(answer: bytes, change: CopyChange) -> WrittenCopy:
    """Return the copy that `forward` answers with for a change.

    Raises Withheld: the instance cannot be called clean; there is no copy.
    Raises Garbled: it is no answer of `forward`.
    """
    try:
        content = json.loads(answer)
        if "reason" not in content:
            copy = WrittenCopy(**content)
            if all(isinstance(value, int if name == "data_set_offset" else str) for name, value in content.items()):
                return copy
            raise Garbled
        if change.deidentification is None or content["reason"] not in change.deidentification.reasons:
            raise Garbled
        refusal = Withheld(content["reason"], str(content["detail"])[:MAX_DETAIL_CHARACTERS])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise Garbled from error
    raise refusal


def transformed(ds: Dataset, change: CopyChange) -> Dataset:
    """Return the data set that leaves: the only place where one changes on its way.

    It first gets the identity that the index has for its patient: a pseudonym is of the right person. De-identification
    comes before the coercion: what that fills in of the data set is of what is left.
    """
    if change.identity is not None:
        change.identity.apply(ds)
    if change.deidentification is not None:
        ds = change.deidentification.clean(ds)
    change.coercion.apply(ds)
    return ds


def forward(path: Path, change: CopyChange, into: Path) -> bytes:
    """Write the copy of a stored file, as a DICOM file; return what `copy_of` reads."""
    try:
        return json.dumps(asdict(_forwarded(path, change, into))).encode()
    except Withheld as refusal:
        return json.dumps({"reason": refusal.reason, "detail": refusal.detail}).encode()
    except NotCoerced as error:
        raise NotTranscodable(str(error)) from error


def _forwarded(path: Path, change: CopyChange, into: Path) -> WrittenCopy:
    way = change.deidentification
    if change == CopyChange(identity=change.identity):
        return _identified(path, change, into)
    ds = transformed(way.read(path) if way is not None else dcmread(path), change)
    syntax = text(ds.file_meta, "TransferSyntaxUID")
    if change.encoding == "jpeg2000-lossless" and syntax in TARGETS:
        _compress(ds)
    if way is not None and (change.encoding != "uncompressed" or syntax in TARGETS):
        offset = way.write(ds, into)
    else:
        offset = _write(ds, change.encoding, syntax, into)
    patient = text(ds, "PatientID") if way is not None else ""
    return WrittenCopy(
        str(ds.SOPClassUID), str(ds.SOPInstanceUID), str(ds.file_meta.TransferSyntaxUID), offset, patient
    )


def _identified(path: Path, change: CopyChange, into: Path) -> WrittenCopy:
    """Write a copy that differs in the identity of its patient alone: from the pixels on, byte for byte as stored."""
    with path.open("rb") as file:
        ds: Dataset = dcmread(file, stop_before_pixels=True)
        if str(ds.file_meta.TransferSyntaxUID) == DEFLATED_LITTLE_ENDIAN:
            file.seek(0)
            ds = dcmread(file)
        ds = transformed(ds, change)
        offset = _write(ds, "keep", "", into)
        with into.open("ab") as copy:
            shutil.copyfileobj(file, copy)
    meta = ds.file_meta
    return WrittenCopy(str(ds.SOPClassUID), str(ds.SOPInstanceUID), str(meta.TransferSyntaxUID), offset)


def _write(ds: Dataset, encoding: Encoding, stored: str, into: Path) -> int:
    """Write a DICOM file; return where its data set begins."""
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    stream = DicomBytesIO()
    if (encoding == "uncompressed" and stored not in TARGETS) or (encoding == "explicit" and stored != TARGETS[0]):
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

    Raises NotTranscodable: the compressed pixels are not the same.
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
