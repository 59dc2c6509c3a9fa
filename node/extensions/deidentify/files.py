"""De-identify files: everything found in folders, zip files and DICOMDIRs, into files named by their new UIDs.

A plugin may remove faces from heads. None is built in: nothing here claims that a face is gone. It is an entry point in
the group ``voxelnode.defacers``: a function that takes the data sets of one series, de-identified and with native
pixels, and returns one array of stored values for each, of the same shape and type.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.tag import BaseTag
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from node.dicom.part10 import file_head
from node.dicom.reading import stored_bytes, with_elements
from node.dicom.values import CONVERSION_ERRORS, held_elements, text
from node.errors import ConversionRefused, UsageError, is_of_system, nearest
from node.extensions.deidentify.deidentification import Deidentification, NotDeidentified, Reason
from node.extensions.deidentify.instance import code_item, deidentified
from node.extensions.deidentify.profile import VISUAL_FEATURES
from node.extensions.deidentify.remaining import Remaining
from node.files.reading import read_instance
from node.receive.dicom_files import MediaFile, SkippedFile, find_instances
from node.volume.read.transcoding import decompress
from node.volume.read.transfer_syntaxes import NATIVE, NotTranscodable

_PIXEL_DATA = BaseTag(0x7FE00010)
_UNDEFINED_LENGTH = 0xFFFFFFFF
_SEQUENCE_DELIMITATION = b"\xfe\xff\xdd\xe0\0\0\0\0"
_CHUNK_BYTES = 1 << 20

GROUP = "voxelnode.defacers"

Defacer = Callable[[Sequence[Dataset]], Sequence[NDArray[np.generic]]]


@dataclass(frozen=True, slots=True)
class Refused:
    """A file that was not de-identified. `name` is that of the original, which may say who it is of."""

    name: str
    reason: str
    detail: str


@dataclass(slots=True)
class Summary:
    """What became of the files of one run.

    `patients`: their pseudonyms. `refused`: instances, with the reason. `skipped`: files that are not DICOM instances.
    They are never copied.
    """

    written: int = 0
    patients: set[str] = field(default_factory=set)
    refused: list[Refused] = field(default_factory=list)
    skipped: list[SkippedFile] = field(default_factory=list)


def deidentify_files(
    paths: Iterable[Path],
    out: Path,
    how: Deidentification,
    defacer: Defacer | None = None,
    on_refused: Callable[[Refused], None] = lambda refused: None,
    remaining: Remaining | None = None,
) -> Summary:
    """De-identify the instances in `paths` into ``out/<patient>/<study>/<series>/<instance>.dcm``.

    A file in `out` appears whole or not at all. A second run with the same key writes the same files again.

    `defacer`: called for each series at the end; a series that it fails on is refused. `on_refused`: called at once, in
    the order of the files. `remaining`: counts what stays in the results.

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
        target = out
        if defacer is not None:  # what has a face is never in `out`, not even of a run that is killed
            target = Path(until_the_end.enter_context(tempfile.TemporaryDirectory(prefix=".defacing-", dir=out)))
        run = _Run(target, how, on_refused, remaining)
        for found in find_instances(paths):
            if isinstance(found, SkippedFile):
                run.summary.skipped.append(found)
            else:
                run.add(found, unpacked)
        if defacer is not None:
            run.deface(defacer, out)
    return run.summary


@dataclass(slots=True)
class _Run:
    """What was written so far: the name of the original of each file, by series."""

    target: Path
    how: Deidentification
    on_refused: Callable[[Refused], None]
    remaining: Remaining | None
    summary: Summary = field(default_factory=Summary)
    series: dict[Path, dict[Path, str]] = field(default_factory=dict)

    def add(self, found: MediaFile, unpacked: Path) -> None:
        try:
            with _file_of(found, unpacked) as path:
                ds = deidentified(_read(path, found), self.how)
                place = _place(self.target, ds)
                if place in self.series.get(place.parent, ()):
                    raise NotDeidentified(Reason.DUPLICATE, "an instance of this UID was de-identified already")
                write(ds, place)
        except NotDeidentified as error:
            self._refuse(found.name, error)
            return
        if self.remaining is not None:
            self.remaining.add(ds)
        self.series.setdefault(place.parent, {})[place] = found.name
        self.summary.patients.add(text(ds, "PatientID"))
        self.summary.written += 1

    def deface(self, defacer: Defacer, out: Path) -> None:
        """Write each series with the pixels of a plugin into `out`; those on which it fails are refused."""
        for places in self.series.values():
            try:
                for place, ds in zip(places, defaced([read_instance(place) for place in places], defacer), strict=True):
                    write(ds, out / place.relative_to(self.target))
            except NotDeidentified as error:
                for name in places.values():
                    self._refuse(name, error)
                self.summary.written -= len(places)

    def _refuse(self, name: str, error: NotDeidentified) -> None:
        refused = Refused(name, error.reason, error.detail)
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
        raise NotDeidentified(Reason.UNREADABLE, str(error)) from error
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
        raise NotDeidentified(Reason.UNREADABLE, f"the file cannot be read: {type(error).__name__}") from error


def _place(out: Path, ds: Dataset) -> Path:
    """Return the path of a result; its parts are pseudonyms and UIDs, which `deidentified` has checked."""
    study, series, instance = (
        text(ds, keyword) for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
    )
    return out / text(ds, "PatientID") / study / series / f"{instance}.dcm"


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
        raise NotDeidentified(Reason.UNREADABLE, f"the data set cannot be encoded: {type(error).__name__}") from error


def pieces(ds: Dataset) -> Iterator[bytes]:
    """Yield the bytes of a file of a de-identified data set, first those before the data set."""
    syntax = text(ds.file_meta, "TransferSyntaxUID")
    implicit = syntax == ImplicitVRLittleEndian
    yield file_head(text(ds, "SOPClassUID"), text(ds, "SOPInstanceUID"), syntax)
    pixels, encapsulated = stored_bytes(ds, "PixelData")
    if pixels is None:
        yield _encoded(ds, implicit)
        return
    vr = str(held_elements(ds)[_PIXEL_DATA].VR or "OW").encode("ascii")
    yield _encoded(_part(ds, lambda tag: tag < _PIXEL_DATA), implicit)
    group = _PIXEL_DATA.group.to_bytes(2, "little") + _PIXEL_DATA.element.to_bytes(2, "little")
    length = _UNDEFINED_LENGTH if encapsulated else len(pixels) + len(pixels) % 2
    yield group + (b"" if implicit else vr + b"\0\0") + length.to_bytes(4, "little")
    for start in range(0, len(pixels), _CHUNK_BYTES):
        yield pixels[start : start + _CHUNK_BYTES]
    end = _SEQUENCE_DELIMITATION if encapsulated else b"\0" * (len(pixels) % 2)
    yield end + _encoded(_part(ds, lambda tag: tag > _PIXEL_DATA), implicit)


def _part(ds: Dataset, wanted: Callable[[BaseTag], bool]) -> Dataset:
    return with_elements(ds, {tag: element for tag, element in held_elements(ds).items() if wanted(tag)})


def _encoded(ds: Dataset, implicit: bool) -> bytes:
    stream = DicomBytesIO()
    stream.is_implicit_VR, stream.is_little_endian = implicit, True
    write_dataset(stream, ds)
    return stream.getvalue()


def load_defacer(name: str) -> Defacer:
    """Return a plugin by the name of its entry point.

    Raises UsageError if it is not installed.
    """
    installed = entry_points(group=GROUP)
    if name not in installed.names:
        known = nearest(name, sorted(installed.names)) if installed.names else "; none are installed"
        raise UsageError(f"--deface {name}: no entry point of this name in the group {GROUP!r}{known}")
    defacer: Defacer = installed[name].load()
    return defacer


def defaced(series: Sequence[Dataset], defacer: Defacer) -> list[Dataset]:
    """Return the instances of a series with the pixels that a plugin makes of them.

    Raises NotDeidentified ``defacing``: the plugin failed, or returned other arrays than those asked for.
    """
    try:
        for ds in series:
            if text(ds.file_meta, "TransferSyntaxUID") not in NATIVE:
                decompress(ds)
                ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        before = [ds.pixel_array for ds in series]
        after = [np.asarray(array) for array in defacer(series)]
    except (ConversionRefused, NotTranscodable) as error:
        raise NotDeidentified(Reason.DEFACING, f"the pixels cannot be decoded: {error}") from error
    except Exception as error:  # a plugin may raise anything
        raise NotDeidentified(Reason.DEFACING, f"the plugin failed: {type(error).__name__}") from error
    if [(array.shape, array.dtype) for array in before] != [(array.shape, array.dtype) for array in after]:
        raise NotDeidentified(Reason.DEFACING, "the plugin returned other shapes or types than those of the pixels")
    for ds, array in zip(series, after, strict=True):
        ds.PixelData = array.tobytes() + b"\0" * (array.nbytes % 2)
        ds["PixelData"].VR = "OW" if array.dtype.itemsize > 1 or ds.original_encoding[0] else "OB"
        if array.ndim > 2 and "PlanarConfiguration" in ds:
            ds.PlanarConfiguration = 0
        ds.RecognizableVisualFeatures = "NO"
        ds.DeidentificationMethodCodeSequence.append(code_item(*VISUAL_FEATURES))
    return list(series)
