"""``voxelnode export --media DIR``: instances with a DICOMDIR, for a CD, a DVD or a USB stick.

A folder gets its name last: if it is there, it is whole. A mount point is written in place, and gets its DICOMDIR last.
"""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from node.cli.options import Root, Where, archive_files
from node.cli.output import Answer, printable, progress_bar
from node.errors import counted

if TYPE_CHECKING:
    from node.archive.base import LocalFile
    from node.extensions.media.medium import Written
    from node.index.rows.files import StoredInstance
    from node.settings.model import Settings


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
    from node.control.audited_export import audited_export
    from node.errors import UsageError
    from node.runtime import logs
    from node.selector import compile_selector
    from node.selector.fields import NOT_CONVERTED

    logs.configure_command()  # pydicom logs values, which are patient data
    selector = compile_selector(where)
    if media.is_symlink() or (media.exists() and (not media.is_dir() or any(media.iterdir()))):
        raise UsageError(f"{media} must be a new or an empty folder")
    with root.reading() as index:
        series = list(index.facts.selected(selector))[::-1]
        instances = [one for study, uid in series for one in index.files.stored(study, uid)]
        undecided = index.facts.count_undecided(selector)
    names = shlex.join(["voxelnode", "select", where, "--why", *root.given])
    are, whose = ("is", "Its name") if undecided == 1 else ("are", "Their names")
    later = f"{undecided} series may fit, but {are} {NOT_CONVERTED}. {whose}: {printable(names)}"
    if not instances:
        raise UsageError(f"no instance is selected{f'. {later}' if undecided else ''}")
    with audited_export(root.settings, f"voxelnode export to {media.absolute()}, {where}") as outcome:
        with archive_files(root.settings) as local:
            written = write_medium(media.absolute(), instances, root.settings, local)
        studies = counted(written.studies, "study", "studies")
        outcome.counts = f"{counted(written.instances, 'instance')} of {studies}, {len(written.left_out)} left out"
    lines = [f"{media}: {outcome.counts}"]
    if written.as_stored:
        lines.append(f"{written.as_stored} cannot be decompressed, and are as stored: the medium is of no profile")
    if written.invented:
        lines.append(f"the DICOMDIR has invented values where instances lack {', '.join(written.invented)}")
    lines += [f"left out {uid}: {reason}" for uid, reason in written.left_out.items()]
    lines += [later] if undecided else []
    answer = {"path": media, **written.__dict__, "not_converted": undecided}
    return Answer(answer, "\n".join(lines), failed=bool(written.left_out))


def write_medium(folder: Path, instances: Sequence[StoredInstance], settings: Settings, local: LocalFile) -> Written:
    """Write a file-set into a folder that is new or empty.

    Raises MixedPatients: two people would become one.
    Raises OSError: the folder cannot be written, or a file cannot be read; nothing is left behind.
    """
    from node.archive.intact import MISSING, problem_with
    from node.children.decoder import Decoder
    from node.extensions.media.directory import NotOnMedia
    from node.extensions.media.medium import DICOMDIR, TEMPORARY, Medium

    root = settings.storage.root.absolute()

    def whole_file(one: StoredInstance) -> Path:
        try:
            local(one)
        except FileNotFoundError:
            raise NotOnMedia(f"its file {MISSING}") from None
        path = root / one.key
        if (problem := problem_with(path, one.data_set_offset, one.bytes, one.sha256)) is not None:
            raise NotOnMedia(f"its file {problem}")
        return path

    is_in_place = os.path.ismount(folder)  # a rename cannot replace it
    if is_in_place:
        part = folder
    else:
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent))
    decoder = Decoder(workers=1)
    medium = Medium(part, settings.dicom.ae_title, whole_file, decoder)
    try:
        with progress_bar("writing", len(instances)) as advance:
            for _ in medium.add(instances):
                advance()
        medium.finish()
        os.sync()
        (part / TEMPORARY).rename(part / DICOMDIR)
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
    return medium.written


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
