"""``voxelnode export --media DIR``: instances with a DICOMDIR, for a CD, a DVD or a USB stick.

Files are in Explicit VR Little Endian and uncompressed, as the general purpose profiles want them (PS3.11 D, H and J:
STD-GEN-CD, STD-GEN-DVD, STD-GEN-USB), and as IHE PDI does. What can not be decompressed goes as it is stored, and the
answer says so. A folder gets its name last: if it is there, it is whole. A mount point is written in place, and gets
its DICOMDIR last: what has none is no medium to readers.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from node.cli.options import Root, Where, archive_files
from node.cli.output import Answer, progress_bar

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from node.archive.base import LocalFile
    from node.children.decoder import Decoder
    from node.extensions.media.directory import Directory
    from node.index.search.selection import StoredInstance
    from node.settings.model import Settings

EXPLICIT = "1.2.840.10008.1.2.1"
MAX_HEADER_BYTES = 64_000_000
FILESET_ID = "VOXELNODE"
TEMPORARY = "FILE"

README = """\
This medium has DICOM images and documents, for any DICOM viewer: open the file
DICOMDIR, or import the whole medium.

It was written by voxelnode {version}, {ae_title}, on {date}.
It has {instances} instances of {studies} studies. They are in Explicit VR Little Endian,
uncompressed{exceptions}. There is no viewer on it.

It names patients: treat it as you treat their records.
"""

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


def export(
    media: Annotated[
        Path,
        typer.Option("--media", metavar="DIR", help="Folder to write, which must be new or empty; with a DICOMDIR."),
    ],
    where: Where,
    *,
    root: Root,
) -> Answer:
    """Write series with a DICOMDIR, for a CD, a DVD or a USB stick.

    The files are uncompressed. Exit 1 if instances were left out.
    """
    from node import logs
    from node.control.audited_export import audited_export
    from node.errors import UsageError
    from node.selector import compile_selector

    logs.configure("warning")  # pydicom logs values, which are patient data
    selector = compile_selector(where)
    if media.is_symlink() or (media.exists() and (not media.is_dir() or any(media.iterdir()))):
        raise UsageError(f"{media} must be a new or an empty folder")
    with root.reading() as index:
        series = list(index.facts.selected(selector))[::-1]
        instances = [one for study, uid in series for one in index.instances.stored(study, uid)]
    if not instances:
        raise UsageError("no instance is selected")
    with audited_export(root.settings, f"voxelnode export to {media.absolute()}, {where}") as outcome:
        with archive_files(root.settings) as local:
            written = write_medium(media.absolute(), instances, root.settings, local)
        outcome.counts = f"{written.instances} instances of {written.studies} studies, {len(written.left_out)} left out"
    lines = [f"{media}: {outcome.counts}"]
    if written.as_stored:
        lines.append(f"{written.as_stored} cannot be decompressed, and are as stored: the medium is of no profile")
    if written.invented:
        lines.append(f"the DICOMDIR has invented values where instances lack {', '.join(written.invented)}")
    lines += [f"left out {uid}: {reason}" for uid, reason in written.left_out.items()]
    answer = {"path": media, **written.__dict__}
    return Answer(answer, "\n".join(lines), failed=bool(written.left_out))


def write_medium(folder: Path, instances: Sequence[StoredInstance], settings: Settings, local: LocalFile) -> Written:
    """Write a file-set into a folder that is new or empty.

    Raises
    ------
    MixedPatients
        Two people would become one.
    OSError
        The folder cannot be written, or a file cannot be read; nothing is left behind.
    """
    from node.children.decoder import Decoder
    from node.extensions.media.directory import Directory

    written, directory = Written(), Directory(FILESET_ID)
    is_in_place = os.path.ismount(folder)  # a rename cannot replace it
    if is_in_place:
        part = folder
    else:
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent))
    decoder = Decoder(workers=1)
    try:
        studies = set()
        with progress_bar("writing", len(instances)) as advance:
            for one, reason in _placed(part, instances, settings, local, decoder, directory, written):
                advance()
                if reason:
                    written.left_out[one.sop_instance_uid] = reason
                else:
                    studies.add(one.study_instance_uid)
        written.instances, written.studies = directory.instances, len(studies)
        written.invented = sorted(directory.invented)
        (part / TEMPORARY).write_bytes(directory.encoded())
        for name, text in (("README.TXT", README), ("INDEX.HTM", INDEX)):
            (part / name).write_bytes(_filled(text, written, settings).replace("\n", "\r\n").encode("ascii"))
        written.bytes = sum(path.stat().st_size for path in part.rglob("*") if path.is_file())
        os.sync()
        (part / TEMPORARY).rename(part / "DICOMDIR")
        if not is_in_place:
            if folder.exists():
                folder.rmdir()
            part.rename(folder)
        os.sync()
    except BaseException:
        for path in part.iterdir() if is_in_place else [part]:
            _remove(path)
        raise
    finally:
        decoder.close()
    return written


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _placed(
    part: Path,
    instances: Sequence[StoredInstance],
    settings: Settings,
    local: LocalFile,
    decoder: Decoder,
    directory: Directory,
    written: Written,
) -> Iterator[tuple[StoredInstance, str]]:
    """Write the file of each instance; yield it with the reason why it was left out, or empty text."""
    from node.archive.intact import MISSING, problem_with
    from node.extensions.media.directory import NotOnMedia

    root = settings.storage.root.absolute()
    for one in instances:
        try:
            local(one)
        except FileNotFoundError:
            yield one, f"its file {MISSING}"
            continue
        path = root / one.key
        if (problem := problem_with(path, one.data_set_offset, one.bytes, one.sha256)) is not None:
            yield one, f"its file {problem}"
            continue
        temporary = part / TEMPORARY
        syntax = _copied(path, one.transfer_syntax_uid, temporary, decoder)
        try:
            place = part / directory.add(_header(temporary), syntax)
        except NotOnMedia as error:
            temporary.unlink()
            yield one, str(error)
            continue
        written.as_stored += syntax != EXPLICIT
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary.rename(place)
        yield one, ""


def _copied(path: Path, transfer_syntax_uid: str, into: Path, decoder: Decoder) -> str:
    """Write a file uncompressed, or else as it is; return its transfer syntax."""
    from node.children.decoder import NotDecoded
    from node.children.forwarding import Change, copy_of, forward

    change = Change(encoding="explicit")
    if change.concerns(transfer_syntax_uid):
        into.touch(0o600)
        try:
            return copy_of(decoder.run(forward, path, change, into=into), change).transfer_syntax_uid
        except NotDecoded:
            into.unlink()
    shutil.copyfile(path, into)
    return transfer_syntax_uid


def _header(path: Path) -> Dataset:
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    from node.dicom.values import CONVERSION_ERRORS
    from node.extensions.media.directory import NotOnMedia

    try:
        return dcmread(path, stop_before_pixels=True, defer_size=MAX_HEADER_BYTES)
    except (InvalidDicomError, *CONVERSION_ERRORS) as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the disk
            raise
        raise NotOnMedia(f"its attributes cannot be read: {type(error).__name__}") from error


def _filled(text: str, written: Written, settings: Settings) -> str:
    import datetime as dt

    from node.version import __version__

    return text.format(
        version=__version__,
        ae_title=settings.dicom.ae_title,
        date=f"{dt.datetime.now(dt.UTC):%Y-%m-%d}",
        instances=written.instances,
        studies=written.studies,
        exceptions=f", but for {written.as_stored} compressed ones" if written.as_stored else "",
    )
