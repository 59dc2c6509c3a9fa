"""A file-set with a DICOMDIR, written file by file: for a CD, a DVD or a USB stick, or as a ZIP file.

Files are in Explicit VR Little Endian and uncompressed, as the general purpose profiles take them (PS3.11 D, H and J:
STD-GEN-CD, STD-GEN-DVD-JPEG, STD-GEN-USB-JPEG), and as IHE PDI does. What can not be decompressed goes as it is stored.
The DICOMDIR comes last: what has none is no medium to readers.
"""

import datetime as dt
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from node.children.decoder import Decoder, NotDecoded
from node.children.forwarding import CopyChange, copy_of, forward
from node.dicom.values import CONVERSION_ERRORS
from node.extensions.media.directory import Directory, NotOnMedia, Records, records_of
from node.index.rows.files import StoredInstance
from node.version import __version__

EXPLICIT = "1.2.840.10008.1.2.1"
MAX_HEADER_BYTES = 64_000_000
FILESET_ID = "VOXELNODE"
TEMPORARY = "FILE"
"""Name of the file that is being written; the DICOMDIR keeps it until all others are there."""

DICOMDIR = "DICOMDIR"


README = """\
This medium has DICOM images and documents, for any DICOM viewer: open the file
DICOMDIR, or import the whole medium.

It was written by voxelnode {version}, {ae_title}, on {date}.
It has {instances} instances of {studies} studies. They are in Explicit VR Little Endian,
uncompressed{exceptions}. There is no viewer on it.

It names patients: treat it as you treat their records.
{left_out}"""

INDEX = """\
<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Strict//EN" "http://www.w3.org/TR/xhtml1/DTD/xhtml1-strict.dtd">
<html xmlns="http://www.w3.org/1999/xhtml" xml:lang="en" lang="en">
<head><title>DICOM medium</title></head>
<body>
<h1>DICOM medium</h1>
<p>This medium has {instances} DICOM instances of {studies} studies, in the file-set of <a href="DICOMDIR">DICOMDIR</a>.
Open it with a DICOM viewer.</p>
<p><a href="README.TXT">README.TXT</a> says how it was made.</p>
</body>
</html>
"""


@dataclass
class Written:
    """What is on a medium; `as_stored`: compressed instances that could not be decompressed; `left_out`: reasons."""

    instances: int = 0
    studies: int = 0
    bytes: int = 0
    as_stored: int = 0
    left_out: dict[str, str] = field(default_factory=dict)
    invented: list[str] = field(default_factory=list)


class Medium:
    """A file-set that is written into a folder.

    `ae_title`: who writes it. `whole_file`: returns the file of an instance after comparing its digest, or raises
    NotOnMedia. `decoder`: decompresses.
    """

    def __init__(
        self, folder: Path, ae_title: str, whole_file: Callable[[StoredInstance], Path], decoder: Decoder
    ) -> None:
        self._folder, self._ae_title, self._whole_file, self._decoder = folder, ae_title, whole_file, decoder
        self._directory, self._studies = Directory(FILESET_ID), set[str]()
        self.written = Written()

    def add(self, instances: Iterable[StoredInstance]) -> Iterator[PurePosixPath | None]:
        """Write the file of each instance; yield its path in the folder, or None if it is left out.

        A file that was yielded is not read again, and may be removed.

        Raises OSError if a file cannot be read or written.
        """
        for one in instances:
            try:
                path = self._place(one)
            except NotOnMedia as error:
                self.written.left_out[one.sop_instance_uid] = str(error)
                yield None
                continue
            self._studies.add(one.study_instance_uid)
            self.written.instances, self.written.studies = self._directory.instances, len(self._studies)
            self.written.bytes += (self._folder / path).stat().st_size
            yield path

    def finish(self) -> list[str]:
        """Write what describes the files; return the names, that of the DICOMDIR, which is in `TEMPORARY`, last.

        Raises MixedPatients: two people would become one.
        """
        written = self.written
        written.invented = sorted(self._directory.invented)
        contents = {
            "README.TXT": self._filled(README),
            "INDEX.HTM": self._filled(INDEX),
            TEMPORARY: self._directory.encoded(),
        }
        for name, content in contents.items():
            (self._folder / name).write_bytes(content)
            written.bytes += len(content)
        return list(contents)

    def _place(self, one: StoredInstance) -> PurePosixPath:
        path, temporary = self._whole_file(one), self._folder / TEMPORARY
        try:
            syntax = self._copied(path, one, temporary)
            place = self._directory.add(Records.from_json(self._decoder.run(records_of_file, path, syntax)))
        except (NotOnMedia, NotDecoded) as error:
            temporary.unlink(missing_ok=True)
            raise NotOnMedia(str(error)) from error
        self.written.as_stored += syntax != EXPLICIT
        (self._folder / place).parent.mkdir(parents=True, exist_ok=True)
        temporary.rename(self._folder / place)
        return place

    def _copied(self, path: Path, one: StoredInstance, into: Path) -> str:
        """Write a file uncompressed, or else as it is; return its transfer syntax."""
        for change in (CopyChange(encoding="explicit", identity=one.identity), CopyChange(identity=one.identity)):
            if change.concerns(one.transfer_syntax_uid):
                into.touch(0o600)
                try:
                    return copy_of(self._decoder.run(forward, path, change, into=into), change).transfer_syntax_uid
                except NotDecoded:
                    into.unlink()
                    if change.encoding == "keep":
                        raise
        shutil.copyfile(path, into)
        return one.transfer_syntax_uid

    def _filled(self, text: str) -> bytes:
        written = self.written
        left_out = "".join(f"\nLeft out: {uid}\n  {reason}\n" for uid, reason in written.left_out.items())
        filled = text.format(
            version=__version__,
            ae_title=self._ae_title,
            date=f"{dt.datetime.now(dt.UTC):%Y-%m-%d}",
            instances=written.instances,
            studies=written.studies,
            exceptions=f", but for {written.as_stored} compressed ones" if written.as_stored else "",
            left_out=left_out,
        )
        return filled.replace("\n", "\r\n").encode("ascii", "replace")


def records_of_file(path: Path, transfer_syntax_uid: str) -> bytes:
    """Return `records_of` a file, in JSON. Runs in a child of `node.children.decoder`."""
    try:
        ds = dcmread(path, stop_before_pixels=True, defer_size=MAX_HEADER_BYTES)
        return records_of(ds, transfer_syntax_uid).to_json()
    except (InvalidDicomError, *CONVERSION_ERRORS) as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the disk
            raise
        raise NotOnMedia(f"its attributes cannot be read: {type(error).__name__}") from error
