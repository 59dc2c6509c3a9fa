"""Find the instances on a medium: in folders, zip files and DICOMDIRs (PS3.10), without trusting any of them.

Every file below the given paths is accounted for: it is yielded as an instance, or as skipped with the reason.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from node.dicom.encoding import EXPLICIT_BIG_ENDIAN, EXPLICIT_LITTLE_ENDIAN, IMPLICIT_LITTLE_ENDIAN, file_meta
from node.dicom.header import LEAST_ELEMENT_BYTES, read_every, read_header
from node.dicom.walker import HeaderCut
from node.errors import NotUnderstood

HEAD_BYTES = 65536
"""Bytes of a file that are read to identify it: its UIDs are mostly in the first kilobytes."""

LONG_HEAD_BYTES = 16 << 20
"""The same, of a file whose Series Instance UID is not within `HEAD_BYTES`."""

OLDER_THAN_DICOM = (
    "an ACR-NEMA data set, older than DICOM: it names neither class nor instance (0008,0016), (0008,0018)"
)

DATA_SETS = (b"\x02\x00", b"\x08\x00", b"\x00\x08")
"""How a file without preamble may begin: with an element of group 0002 or 0008."""

PACKED = {
    b"PK\x03\x04": "a ZIP file",
    b"Rar!\x1a\x07": "an archive of RAR",
    b"7z\xbc\xaf\x27\x1c": "an archive of 7-Zip",
    b"\x1f\x8b": "compressed with gzip",
    b"\xfd7zXZ\x00": "compressed with xz",
}
"""First bytes of archives and compressed files, and their names."""

TAR = slice(257, 262), b"ustar"
"""Where a tar archive says what it is (POSIX.1)."""

CUT_OFF_ZIP = "a ZIP file without its end: it is cut off or damaged; copy it again, or unpack what is left of it"

CHUNK_BYTES = 1 << 20
MAX_DIRECTORY_BYTES = 256 << 20
"""Longest DICOMDIR that is read: that of a million files."""

MEDIA_STORAGE_DIRECTORY = "1.2.840.10008.1.3.10"

_UID = re.compile(r"[0-9.]{1,64}")
_SOP_CLASS, _SOP_INSTANCE, _STUDY, _SERIES = 0x00080016, 0x00080018, 0x0020000D, 0x0020000E
_FILE_ID = 0x00041500
_RECOGNITION_CODE = 0x00080010  # retired: the version of ACR-NEMA


class NotDicom(Exception):
    """A file is no DICOM instance; the message says what it is, or what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Identity:
    """The instance in a DICOM file, its transfer syntax, and where its data set begins."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    study_instance_uid: str  # empty where the data set has none
    series_instance_uid: str
    data_set_offset: int


@dataclass(frozen=True, slots=True)
class MediaFile:
    """One instance on a medium. `name` is a path, or ``archive.zip!member``; `path` is None in a zip file."""

    name: str
    identity: Identity
    open_file: Callable[[], BinaryIO]
    path: Path | None = None

    def data_set(self) -> Iterator[bytes]:
        """Yield the bytes of its data set.

        Raises OSError if the file, or the zip file that holds it, can no longer be read.
        """
        with self.open_file() as stream:
            try:
                stream.read(self.identity.data_set_offset)
                while piece := stream.read(CHUNK_BYTES):
                    yield piece
            except (zipfile.BadZipFile, zlib.error, EOFError) as error:
                raise OSError(f"{self.name}: the zip file is damaged: {error}") from error

    def copy_to(self, path: Path) -> None:
        """Write the whole file to a new one.

        Raises OSError if the file, or the zip file that holds it, cannot be read, or there is no room.
        """
        try:
            with self.open_file() as stream, path.open("xb") as copy:
                shutil.copyfileobj(stream, copy)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise OSError(f"{self.name}: the zip file is damaged: {error}") from error


@dataclass(frozen=True, slots=True)
class SkippedFile:
    """A file that is skipped because it is no instance, and the reason."""

    name: str
    reason: str


def find_instances(paths: Iterable[Path]) -> Iterator[MediaFile | SkippedFile]:
    """Yield every instance in `paths`, and every other file with the reason why it is skipped.

    Folders are searched recursively, links are followed, and each folder and file is visited once. A zip file is read
    member by member; zip files in it are not opened. A DICOMDIR in `paths` stands for the files that it lists.
    """
    seen: set[tuple[int, int]] = set()
    for path in paths:
        if path.is_dir():
            unread: list[OSError] = []
            for file in _files_below(path, seen, unread.append):
                yield from _in_file(file, seen)
            yield from (SkippedFile(_name(error.filename), f"cannot be read: {error.strerror}") for error in unread)
        elif path.name.upper() == "DICOMDIR":
            yield from _in_dicomdir(path, seen)
        else:
            yield from _in_file(path, seen)


def count_files(paths: Iterable[Path]) -> int:
    """Count the files in `paths` by name only, for a bar of progress; members of zip files count."""
    count = 0
    for path in paths:
        if path.is_dir():
            count += sum(len(files) for _, _, files in os.walk(path))
        elif zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                count += len(archive.infolist())
        else:
            count += 1
    return count


def _identified(head: bytes, stream: BinaryIO) -> Identity:
    """Identify an instance from the first `HEAD_BYTES` of its file, or from what follows them in `stream` as well."""
    identity = identify(head)
    if not identity.series_instance_uid and len(head) == HEAD_BYTES:
        identity = identify(head + stream.read(LONG_HEAD_BYTES - HEAD_BYTES))
    return identity


def identify(head: bytes) -> Identity:
    """Identify the instance in a file from the beginning of the file.

    The UIDs of the data set count; those of the File Meta Information (PS3.10 7.1) replace missing ones. A data set
    without preamble and File Meta Information is accepted if it has its SOP Class UID and SOP Instance UID.

    Raises NotDicom if the message says what the file is.
    """
    if not head:
        raise NotDicom("empty")
    has_prefix = head[128:132] == b"DICM"
    if not has_prefix and head[:2] not in DATA_SETS:
        raise NotDicom(_what_is_packed(head) or "not a DICOM file")
    meta, offset = file_meta(head)
    if meta.get(0x0002) == MEDIA_STORAGE_DIRECTORY:
        raise NotDicom("a DICOMDIR: the files that it lists are searched for directly")
    data_set = head[offset:]
    announced = meta.get(0x0010)
    for transfer_syntax_uid in [announced] if announced else _encodings_of(data_set):
        uids = _uids(data_set, transfer_syntax_uid)
        sop_class_uid = uids.get(_SOP_CLASS) or meta.get(0x0002)
        sop_instance_uid = uids.get(_SOP_INSTANCE) or meta.get(0x0003)
        believed = has_prefix or all(_UID.fullmatch(uids.get(tag, "")) for tag in (_SOP_CLASS, _SOP_INSTANCE))
        if sop_class_uid and sop_instance_uid and believed:
            series_key = uids.get(_STUDY, ""), uids.get(_SERIES, "")
            return Identity(sop_class_uid, sop_instance_uid, transfer_syntax_uid, *series_key, offset)
        if uids.get(_RECOGNITION_CODE, "").startswith("ACR-NEMA"):
            raise NotDicom(OLDER_THAN_DICOM)
    raise NotDicom("a DICOM file without readable class and instance UIDs" if has_prefix else "not a DICOM file")


def _what_is_packed(head: bytes) -> str | None:
    """Return how to get at what is in an archive or a compressed file; None if it is neither, or holds no DICOM."""
    if head[TAR[0]] == TAR[1]:
        return "a tar archive: unpack it first"
    name = next((name for magic, name in PACKED.items() if head.startswith(magic)), None)
    if name is None or (head.startswith(b"\x1f\x8b") and not _may_be_dicom(_unpacked(head))):
        return None  # volumes of NIfTI are compressed with gzip, too
    return f"{name}: unpack it first"


def _unpacked(head: bytes) -> bytes:
    """Return the first bytes of a gzip file, decompressed; empty if it is damaged."""
    try:
        return zlib.decompressobj(16 + zlib.MAX_WBITS).decompress(head, 512)
    except zlib.error:
        return b""


def _may_be_dicom(head: bytes) -> bool:
    return head[128:132] == b"DICM" or head[:2] in DATA_SETS or head[TAR[0]] == TAR[1]


def _encodings_of(data_set: bytes) -> Iterator[str]:
    """Yield the transfer syntaxes that a data set without File Meta Information may have, the likeliest first."""
    if data_set[:2] == b"\x00\x08":
        yield EXPLICIT_BIG_ENDIAN
    elif data_set[4:6].isalpha() and data_set[4:6].isupper():
        yield EXPLICIT_LITTLE_ENDIAN
    else:
        yield IMPLICIT_LITTLE_ENDIAN


def _uids(data_set: bytes, transfer_syntax_uid: str) -> dict[int, str]:
    of_instance = (_RECOGNITION_CODE, _SOP_CLASS, _SOP_INSTANCE)
    for wanted in ((*of_instance, _STUDY, _SERIES), of_instance):
        try:
            raw = read_header(data_set, transfer_syntax_uid, frozenset(wanted))
        except HeaderCut:
            continue  # a long header: its Series Instance UID is behind the bytes that were read
        except NotUnderstood:
            break
        return {tag: _text(value) for tag, value in raw.items()}
    return {}


def _text(value: bytes) -> str:
    return value.rstrip(b"\x00 ").decode("ascii", "replace")


def _files_below(folder: Path, seen: set[tuple[int, int]], on_error: Callable[[OSError], None]) -> Iterator[Path]:
    """Yield every file below `folder`, sorted by name; a folder that was visited is not entered again."""
    for current, folders, files in os.walk(folder, onerror=on_error, followlinks=True):
        try:
            status = os.stat(current)
        except OSError as error:
            on_error(error)
            folders.clear()
            continue
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders.sort()
        for name in sorted(files):
            yield Path(current, name)


def _name(path: Path | str) -> str:
    """Return a path as text, whatever its bytes are."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _in_file(path: Path, seen: set[tuple[int, int]]) -> Iterator[MediaFile | SkippedFile]:
    name = _name(path)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            yield SkippedFile(name, "neither a file nor a folder")
            return
        if (status.st_dev, status.st_ino) in seen:
            if status.st_nlink > 1 or path.is_symlink():  # else it was named twice, as by a DICOMDIR and its folder
                yield SkippedFile(name, "a second name of a file that was read")
            return
        seen.add((status.st_dev, status.st_ino))
        with open(path, "rb", buffering=0) as stream:  # a buffer would be filled for one read
            head = stream.read(HEAD_BYTES)
            is_zip = head.startswith(b"PK\x03\x04")
            if is_zip and not zipfile.is_zipfile(path):
                raise NotDicom(CUT_OFF_ZIP)
            identity = None if is_zip else _identified(head, stream)
        if identity is None:
            yield from _in_zip(path, name)
        else:
            yield MediaFile(name, identity, lambda: path.open("rb"), path)
    except NotDicom as error:
        yield SkippedFile(name, str(error))
    except OSError as error:
        yield SkippedFile(name, f"cannot be read: {error.strerror}")


def _in_zip(path: Path, name: str) -> Iterator[MediaFile | SkippedFile]:
    """Yield the members of a zip file. They are streamed, never unpacked: the reader bounds how much it reads."""
    try:
        # Not closed here: members are read after this generator has gone on. The last reference closes the file.
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        yield SkippedFile(name, f"a zip file that cannot be read: {error}")
        return
    for member in sorted(archive.infolist(), key=_as_in_a_folder):
        if not member.is_dir():
            yield _zip_member(archive, member, f"{name}!{member.filename}")


def _as_in_a_folder(member: zipfile.ZipInfo) -> list[tuple[bool, str]]:
    """Return the place of a member in the order of `_files_below`: the files of a folder, then its folders, by name.

    What is taken from the first file of a series is then the same, whether the files were packed or not.
    """
    *folders, name = member.filename.split("/")
    return [*((True, folder) for folder in folders), (False, name)]


def _zip_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str) -> MediaFile | SkippedFile:
    def open_member() -> BinaryIO:
        return archive.open(member)  # type: ignore[return-value]  # IO[bytes], not BinaryIO, in typeshed

    try:
        with open_member() as stream:
            identity = _identified(stream.read(HEAD_BYTES), stream)
    except NotDicom as error:
        return SkippedFile(name, str(error))
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError) as error:  # RuntimeError: encrypted
        return SkippedFile(name, f"cannot be read from the zip file: {error}")
    return MediaFile(name, identity, open_member)


def _in_dicomdir(path: Path, seen: set[tuple[int, int]]) -> Iterator[MediaFile | SkippedFile]:
    """Yield the files that a DICOMDIR lists (PS3.3 F.3), as far as they are in its own folder."""
    try:
        with path.open("rb") as directory:
            data = directory.read(MAX_DIRECTORY_BYTES)
        meta, offset = file_meta(data)
        if meta.get(0x0002) != MEDIA_STORAGE_DIRECTORY:
            raise NotUnderstood("it is not a DICOMDIR")
        syntax = meta.get(0x0010, EXPLICIT_LITTLE_ENDIAN)
        most = MAX_DIRECTORY_BYTES // LEAST_ELEMENT_BYTES
        listed = read_every(memoryview(data)[offset:], syntax, frozenset((_FILE_ID,)), most=most).get(_FILE_ID, [])
    except (OSError, NotUnderstood, HeaderCut) as error:
        yield SkippedFile(str(path), f"a DICOMDIR that cannot be read: {error}")
        return
    folder = path.parent.resolve()
    for file_id in filter(None, map(_text, listed)):
        parts = [part.strip(" ") for part in file_id.split("\\")]
        name = f"{path}: {'/'.join(parts)}"
        found = _listed_file(folder, parts)
        if found is None:
            yield SkippedFile(name, "listed in the DICOMDIR, but not below its folder")
        else:
            yield from _in_file(found, seen)


def _listed_file(folder: Path, parts: list[str]) -> Path | None:
    """Return the file of a Referenced File ID (0004,1500), in either case (PS3.10 8.5); None if it is outside."""
    if any(part in ("", ".", "..") or "/" in part or "\x00" in part for part in parts):
        return None
    file = folder
    for part in parts:
        spellings = (file / part, file / part.lower(), file / part.upper())
        file = next((spelling for spelling in spellings if spelling.exists()), spellings[0])
    file = file.resolve()
    return file if file.is_relative_to(folder) and file.is_file() else None
