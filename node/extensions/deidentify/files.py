"""De-identify files: everything found in folders, zip files and DICOMDIRs, into files named by their new UIDs."""

import os
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from pydicom import Dataset
from pydicom.tag import BaseTag
from pydicom.uid import UID, ImplicitVRLittleEndian

from node.conversion.naming import folder_name, safe_name
from node.dicom.encoding import file_head
from node.dicom.reading import stored_bytes, with_elements
from node.dicom.values import CONVERSION_ERRORS, held_elements, text, whole
from node.errors import UsageError, is_of_system
from node.extensions.deidentify.deidentification import Deidentification, NotDeidentified, RefusalReason
from node.extensions.deidentify.instance import deidentified
from node.extensions.deidentify.remaining import Loss, Remaining, lost
from node.files.reading import read_instance
from node.receive.dicom_files import MediaFile, SkippedFile, find_instances
from node.volume.read.transcoding import little_endian

_PIXEL_DATA = BaseTag(0x7FE00010)
_UNDEFINED_LENGTH = 0xFFFFFFFF
_SEQUENCE_DELIMITATION = b"\xfe\xff\xdd\xe0\0\0\0\0"
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class RefusedFile:
    """A file that was not de-identified. `name` is that of the original, which may say who it is of."""

    name: str
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class LessSeries:
    """A series whose volumes lose something. `number`, `description`: of the original, which may say who it is of."""

    number: int | None
    description: str
    lost: set[Loss] = field(default_factory=set)


@dataclass(slots=True)
class Summary:
    """What became of the files of one run.

    `patients`: their pseudonyms. `refused`: instances, with the reason. `skipped`: files that are not DICOM instances.
    They are never copied. `less`: by the Series Instance UID of the copy, the series whose volumes lose something.
    """

    written: int = 0
    patients: set[str] = field(default_factory=set)
    refused: list[RefusedFile] = field(default_factory=list)
    skipped: list[SkippedFile] = field(default_factory=list)
    less: dict[str, LessSeries] = field(default_factory=dict)


def deidentify_files(
    paths: Iterable[Path],
    out: Path,
    how: Deidentification,
    on_refused: Callable[[RefusedFile], None] = lambda refused: None,
    remaining: Remaining | None = None,
) -> Summary:
    """De-identify the instances in `paths` into ``out/<patient>/<study>/<series>/<instance>.dcm``.

    A file in `out` appears whole or not at all. A second run with the same key writes the same files again.

    `on_refused`: called at once, in the order of the files. `remaining`: counts what stays in the results.

    Raises UsageError if `out` is in one of `paths`, or holds one of them: results would be found as originals. Raises
    OSError if `out` cannot be written.
    """
    paths = [path.resolve() for path in paths]
    for path in paths:
        if out.resolve() == path or path in out.resolve().parents or out.resolve() in path.parents:
            raise UsageError(f"{out}: choose a folder for the results that is apart from {path}")
    out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as until_the_end, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's warnings quote values, which are patient data
        unpacked = Path(until_the_end.enter_context(tempfile.TemporaryDirectory(prefix="voxelnode-")))
        run = _Run(out, how, on_refused, remaining)
        for found in find_instances(paths):
            if isinstance(found, SkippedFile):
                run.summary.skipped.append(found)
            else:
                run.add(found, unpacked)
    return run.summary


@dataclass(slots=True)
class _Run:
    """What was written so far."""

    out: Path
    how: Deidentification
    on_refused: Callable[[RefusedFile], None]
    remaining: Remaining | None
    summary: Summary = field(default_factory=Summary)
    written: set[Path] = field(default_factory=set)

    def add(self, found: MediaFile, unpacked: Path) -> None:
        try:
            with _file_of(found, unpacked) as path:
                ds = deidentified(_read(path, found), self.how)
                place = _place(self.out, ds)
                if place in self.written:
                    raise NotDeidentified(RefusalReason.DUPLICATE, "an instance of this UID was de-identified already")
                write(ds, place)
                self._note_losses(_read(path, found), place)
        except NotDeidentified as error:
            self._refuse(found.name, error)
            return
        if self.remaining is not None:
            self.remaining.add(ds)
        self.written.add(place)
        self.summary.patients.add(text(ds, "PatientID"))
        self.summary.written += 1

    def _note_losses(self, original: Dataset, place: Path) -> None:
        if losses := lost(original, copy := read_instance(place)):
            named = LessSeries(whole(original, "SeriesNumber"), text(original, "SeriesDescription"))
            self.summary.less.setdefault(text(copy, "SeriesInstanceUID"), named).lost.update(losses)

    def _refuse(self, name: str, error: NotDeidentified) -> None:
        refused = RefusedFile(name, error.reason, error.detail)
        self.summary.refused.append(refused)
        self.on_refused(refused)


@contextmanager
def _file_of(found: MediaFile, unpacked: Path) -> Iterator[Path]:
    """Yield the file of an instance; a member of a zip file is unpacked for as long as it is used."""
    if found.path is not None:
        yield found.path
        return
    copy = unpacked / "instance.dcm"
    try:
        found.copy_to(copy)
    except OSError as error:
        raise NotDeidentified(RefusalReason.UNREADABLE, str(error)) from error
    try:
        yield copy
    finally:
        copy.unlink(missing_ok=True)


def _read(path: Path, found: MediaFile) -> Dataset:
    try:
        ds = read_instance(path)
        if not text(ds.file_meta, "TransferSyntaxUID"):
            ds.file_meta.TransferSyntaxUID = UID(found.identity.transfer_syntax_uid)
        return ds
    except Exception as error:  # pydicom raises anything for a damaged file
        raise NotDeidentified(RefusalReason.UNREADABLE, f"the file cannot be read: {type(error).__name__}") from error


def _place(out: Path, ds: Dataset) -> Path:
    """Return the path of a result, below `out`: the UIDs may be those of the original."""
    uids = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
    study, series, instance = (folder_name(text(ds, keyword)) for keyword in uids)
    return out / safe_name(text(ds, "PatientID")) / study / series / f"{instance}.dcm"


def write(ds: Dataset, path: Path) -> None:
    """Write a de-identified data set as a file of PS3.10; its folders are created.

    Pixels are written in pieces; native ones that are still in the file of the original are never held in memory.

    Raises NotDeidentified ``unreadable``: an element cannot be encoded.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            write_pieces(ds, file)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_pieces(ds: Dataset, file: IO[bytes]) -> int:
    """Write a de-identified data set into a file; return where the data set begins in it.

    Raises NotDeidentified ``unreadable``: an element cannot be encoded.
    """
    try:
        encoded = pieces(ds)
        offset = file.write(next(encoded))
        for piece in encoded:
            file.write(piece)
        return offset
    except (*CONVERSION_ERRORS, StopIteration) as error:
        if is_of_system(error):
            raise
        raise NotDeidentified(
            RefusalReason.UNREADABLE, f"the data set cannot be encoded: {type(error).__name__}"
        ) from error


def pieces(ds: Dataset) -> Iterator[bytes]:
    """Yield the bytes of a file of a de-identified data set, first those before the data set."""
    syntax = text(ds.file_meta, "TransferSyntaxUID")
    implicit = syntax == ImplicitVRLittleEndian
    yield file_head(text(ds, "SOPClassUID"), text(ds, "SOPInstanceUID"), syntax)
    pixels, encapsulated = stored_bytes(ds, "PixelData")
    if pixels is None:
        yield little_endian(ds, implicit=implicit)
        return
    vr = str(held_elements(ds)[_PIXEL_DATA].VR or "OW").encode("ascii")
    yield little_endian(_part(ds, lambda tag: tag < _PIXEL_DATA), implicit=implicit)
    group = _PIXEL_DATA.group.to_bytes(2, "little") + _PIXEL_DATA.element.to_bytes(2, "little")
    length = _UNDEFINED_LENGTH if encapsulated else len(pixels) + len(pixels) % 2
    yield group + (b"" if implicit else vr + b"\0\0") + length.to_bytes(4, "little")
    for start in range(0, len(pixels), _CHUNK_BYTES):
        yield pixels[start : start + _CHUNK_BYTES]
    end = _SEQUENCE_DELIMITATION if encapsulated else b"\0" * (len(pixels) % 2)
    yield end + little_endian(_part(ds, lambda tag: tag > _PIXEL_DATA), implicit=implicit)


def _part(ds: Dataset, wanted: Callable[[BaseTag], bool]) -> Dataset:
    return with_elements(ds, {tag: element for tag, element in held_elements(ds).items() if wanted(tag)})
