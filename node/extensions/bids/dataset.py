"""The folder of a data set: what of it is ours, and changes that a kill cannot leave half done.

A session is a folder that changes by one rename: the new folder is built beside the data set, with hard links of all
files that stay, and the two folders are exchanged. If the process dies at any point, each session is as before or as
after, and ``participants.tsv`` has at least the subjects that are there. ``.voxelnode.json`` in the folder of a session
has what was written there; it moves with it, and a version control system keeps both together.

Files that others made or changed are never replaced or removed.
"""

import ctypes
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from node.errors import UsageError
from node.extensions.bids.names import VERSION
from node.extensions.bids.planned import SessionState, session_folder
from node.extensions.bids.rules import DatasetTable, NotExported
from node.extensions.bids.sidecars import MISSING, json_text, read_table, table_text, with_columns
from node.extensions.bids.state import (
    STATE_FILE,
    STATE_VERSION,
    SessionChange,
    Target,
    WantedVolume,
    describe_session,
    owned_paths,
    read_state,
    scans_of,
    state_text,
    staying_targets,
    targets_of,
)
from node.files.durable import locked, sync_file, sync_folder
from node.runtime.failpoints import reached

OWN_FOLDER = ".voxelnode"
DESCRIPTION = "dataset_description.json"
KEY_FILE = ".voxelnode.key.json"
"""In the top folder: by which key the subjects have their labels, without the key."""


AT_FDCWD = -100
RENAME_EXCHANGE = 2

README = """This data set was made by voxelnode from the volumes of a DICOM node.

Describe here what was scanned, why, of whom, and who may use it. Images of heads show faces: remove them before you
share the data set, as by pydeface or mri_deface.
"""

PARTICIPANTS = {
    "age": {"Description": "age at the first study; 89+ for any age above 89", "Units": "year"},
    "sex": {"Description": "sex as stated by the images", "Levels": {"F": "female", "M": "male", "O": "other"}},
}


class DatasetUnusable(UsageError):
    """A folder is no data set, or another process changes it; the message says what can be done."""


class Dataset:
    """A folder with a data set. Not thread-safe; `opened` locks it against other processes."""

    def __init__(self, out: Path, staging: Path, *, link: bool) -> None:
        self.out, self._staging, self._link = out, staging, link
        self._participants: dict[str, set[str]] = {}
        """Columns of the rows of ``participants.tsv``, as far as they were read."""

    def states(self, subject: str) -> dict[str, SessionState]:
        """Return what the sessions of a subject have, by their labels; an empty one without sessions."""
        folder = self.out / session_folder(subject, "")
        found = {path.name.removeprefix("ses-"): path for path in folder.glob("ses-*") if path.is_dir()}
        return {
            label: read_state(path) for label, path in {"": folder, **found}.items() if (path / STATE_FILE).exists()
        }

    def subjects(self) -> list[str]:
        """Return the subjects that this program has written files of."""
        files = (*self.out.glob(f"sub-*/{STATE_FILE}"), *self.out.glob(f"sub-*/ses-*/{STATE_FILE}"))
        return sorted({file.relative_to(self.out).parts[0].removeprefix("sub-") for file in files})

    def require_key(self, mark: str) -> None:
        """Raise DatasetUnusable if a data set was made by another key; `mark` is a pseudonym of nothing, by the key."""
        file = self.out / KEY_FILE
        if not file.exists():
            return
        try:
            known = json.loads(file.read_bytes())["mark"]
        except (ValueError, TypeError, KeyError):
            raise DatasetUnusable(f"{file} is damaged: restore it, or remove it if the key is the same") from None
        if known != mark:
            raise DatasetUnusable(
                f"{self.out} was made with another key: every patient would become a second subject; "
                "name its key, as by --key, or choose an empty folder"
            )

    def begin(self, mark: str, settings: DatasetTable) -> None:
        """Record by which key a data set is made, and describe it, unless it was begun; see `require_key`."""
        self._write_if_missing(KEY_FILE, json_text({"version": STATE_VERSION, "mark": mark}))
        self._write_top(settings)

    def kept(self, settings: DatasetTable) -> list[str]:
        """Return the fields of the description of a data set that the rules state otherwise; it stays as it is."""
        try:
            known = json.loads((self.out / DESCRIPTION).read_bytes())
            stated = {"Name": settings.name, "Authors": list(settings.authors), "License": settings.license}
            return [
                name
                for name, wanted in stated.items()
                if name.lower() in settings.model_fields_set and known.get(name) != wanted
            ]
        except (OSError, ValueError, AttributeError):
            return []  # not begun, or not readable for us

    def _write_top(self, settings: DatasetTable) -> None:
        """Write the files that describe a data set, each unless it is there."""
        about: dict[str, Any] = {"Name": settings.name, "BIDSVersion": VERSION, "DatasetType": "raw"}
        about |= {"Authors": list(settings.authors)} if settings.authors else {}
        about |= {"License": settings.license} if settings.license else {}
        about["GeneratedBy"] = [{"Name": "voxelnode", "Description": "volumes of a DICOM node, named by rules"}]
        self._write_if_missing(DESCRIPTION, json_text(about))
        if not any(self.out.glob("README*")):
            self._write_if_missing("README", README.encode())
        self._write_if_missing(".bidsignore", b"# what voxelnode keeps about the files that it wrote\n.voxelnode*\n")
        if settings.participants:
            described: dict[str, Any] = {name: PARTICIPANTS[name] for name in settings.participants}
            self._write_if_missing("participants.json", json_text(described))

    def add_participants(self, rows: Mapping[str, Mapping[str, str]]) -> None:
        """Add subjects to ``participants.tsv``, and values of columns to rows that lack them."""
        if all(name in self._participants and row.keys() <= self._participants[name] for name, row in rows.items()):
            return
        columns, present = read_table(self.out / "participants.tsv", "participant_id")
        for name, row in rows.items():
            columns = with_columns(columns, row)
            known = {column: value for column, value in present.get(name, {}).items() if value != MISSING}
            present[name] = {**row, **known, "participant_id": name}
        self._write("participants.tsv", table_text(columns, present))
        self._participants = {name: set(columns) for name in present}

    def remove_participants(self, subjects: Sequence[str]) -> None:
        """Remove subjects that have no folder from ``participants.tsv``."""
        gone = {f"sub-{subject}" for subject in subjects if not (self.out / f"sub-{subject}").exists()}
        if not gone:
            return
        columns, present = read_table(self.out / "participants.tsv", "participant_id")
        if gone & present.keys():
            left = {name: row for name, row in present.items() if name not in gone}
            self._write("participants.tsv", table_text(columns, left))

    def change_session(
        self,
        subject: str,
        session: str,
        wanted: Mapping[str, WantedVolume],
        studies: tuple[str, ...],
        leave: frozenset[str],
        *,
        dry_run: bool,
    ) -> SessionChange:
        """Make a session have the wanted volumes, those of `leave` as they are, and no others of ours.

        `wanted`: by ``datatype/stem``; `studies`: marks of the studies of the session; `leave`: volumes in the data set
        that stay, by ``datatype/stem``; `dry_run`: only return what would change.
        """
        place = session_folder(subject, session)
        folder = self.out / place
        state = read_state(folder)
        change = SessionChange()
        targets = targets_of(folder, state, wanted, leave, change, place)
        written: dict[str, Path] = {}
        if not dry_run:
            self._write_images(targets, state, written, change, place)
        describe_session(targets, state, change, place)
        name, scans = scans_of(folder, f"sub-{subject}" + f"_ses-{session}" * bool(session), state, targets, wanted)
        is_same = not any(target.contents or target.before != stem for stem, target in targets.items())
        is_same = is_same and targets.keys() == state.volumes.keys()
        is_same = is_same and (not targets or (studies == state.studies and _has(folder / name, scans)))
        if not dry_run and not is_same:
            self._replace(folder, state, targets, written, {name: scans}, studies)
        return change

    def _write_images(
        self,
        targets: dict[str, Target],
        state: SessionState,
        written: dict[str, Path],
        change: SessionChange,
        place: str,
    ) -> None:
        """Write the new images beside the data set; a volume whose image cannot be written stays as it is."""
        for stem, target in list(targets.items()):
            for extension, content in target.contents.items():
                if isinstance(content, bytes):
                    continue
                path = self._staging / f"image-{len(written)}{extension}"
                try:
                    digest = content.write(path, link=self._link)
                except NotExported as reason:
                    path.unlink(missing_ok=True)
                    change.failed.append((f"{place}/{stem}", str(reason)))
                    del targets[stem]
                    if target.before is not None:
                        targets.setdefault(target.before, staying_targets(state, target.before))
                    break
                sync_file(path)
                written[f"{stem}{extension}"] = path
                target.entry = replace(target.entry, files={**target.entry.files, extension: digest})

    def _replace(
        self,
        folder: Path,
        state: SessionState,
        targets: Mapping[str, Target],
        written: Mapping[str, Path],
        tables: Mapping[str, bytes],
        studies: tuple[str, ...],
    ) -> None:
        """Build the folder of a session anew, and put it in the place of the old one."""
        new = self._new_folder()
        owned = {*owned_paths(state), STATE_FILE, *tables}
        foreign = [name for name in _files_in(folder) if name not in owned]
        for name in foreign:
            _link(folder / name, new / name)
        for stem, target in targets.items():
            self._fill(new, folder, stem, target, written)
        if targets or foreign:
            texts = {**(tables if targets else {}), STATE_FILE: state_text(targets, studies)}
            for name, text in texts.items():
                _write_new(new / name, text)
            for path in (*(path for path in new.iterdir() if path.is_dir()), new):
                sync_folder(path)
            self._put(new, folder)
        else:
            new = self._take_away(folder)
        reached("session-replaced")
        for name in set(_files_in(new)) - {*owned, *foreign}:  # written by others since the links were made
            if not os.path.lexists(folder / name):
                _link(new / name, folder / name)

    def _new_folder(self) -> Path:
        """Return a new folder beside the data set, with the mode that a folder in it would have."""
        folder = Path(tempfile.mkdtemp(dir=self._staging)) / "new"
        folder.mkdir()
        return folder

    def _fill(self, new: Path, folder: Path, stem: str, target: Target, written: Mapping[str, Path]) -> None:
        """Give a new folder the files of one volume."""
        for extension, old in target.links.items():
            _link(folder / old, new / f"{stem}{extension}")
        for extension, content in target.contents.items():
            path = new / f"{stem}{extension}"
            if isinstance(content, bytes):
                _write_new(path, content)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                os.rename(written[path.relative_to(new).as_posix()], path)

    def _put(self, new: Path, folder: Path) -> None:
        """Put a finished folder in its place: by one rename if there is none, else by one exchange."""
        if folder.exists():
            _exchange(new, folder)
        elif folder.parent == self.out or folder.parent.exists():
            os.rename(new, folder)
        else:  # no subject without a session, at any time
            parent = self._new_folder()
            os.rename(new, parent / folder.name)
            os.rename(parent, folder.parent)
            sync_folder(folder.parent)
            folder = folder.parent
        sync_folder(folder.parent)

    def _take_away(self, folder: Path) -> Path:
        """Remove the folder of a session, and that of the subject if nothing else is in it; return where it is now."""
        is_alone = folder.parent != self.out and len(list(folder.parent.iterdir())) == 1
        gone = folder.parent if is_alone else folder
        moved = self._new_folder() / "gone"
        os.rename(gone, moved)
        sync_folder(gone.parent)
        return moved / folder.name if is_alone else moved

    def _write_if_missing(self, name: str, content: bytes) -> None:
        if not os.path.lexists(self.out / name):
            self._write(name, content)

    def _write(self, name: str, content: bytes) -> None:
        """Replace a file of the top folder by one rename, unless it has this content."""
        if _has(self.out / name, content):
            return
        part = self._staging / name
        _write_new(part, content)
        os.replace(part, self.out / name)
        sync_folder(self.out)


@contextmanager
def opened(out: Path, *, link: bool = False) -> Iterator[Dataset]:
    """Open a data set for changes: create its folder if it is missing, and lock it; clear what a killed run left.

    Raises DatasetUnusable: the folder is in use by another run, or it has files and is not a data set.
    """
    if out.exists():
        require_dataset(out)
    own = out / OWN_FOLDER
    own.mkdir(parents=True, exist_ok=True)
    lock = locked(own, os.O_RDONLY | os.O_DIRECTORY)
    if lock is None:
        raise DatasetUnusable(f"another process changes {out}: wait for its end")
    try:
        for left in own.glob("staging-*"):
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix="staging-", dir=own) as staging:
            yield Dataset(out, Path(staging), link=link)
    finally:
        os.close(lock)


def require_dataset(out: Path) -> None:
    """Refuse a folder that is neither a data set nor empty but for hidden files, as those of version control."""
    if not (out / DESCRIPTION).exists() and any(path.name[0] != "." for path in out.iterdir()):
        raise DatasetUnusable(f"{out} has files and no {DESCRIPTION}: choose an empty folder, or a data set")


def _files_in(folder: Path) -> list[str]:
    """Return the paths of all files and links below a folder."""
    found = []
    for parent, folders, files in os.walk(folder):
        here = Path(parent)
        links = [name for name in folders if (here / name).is_symlink()]
        found += [str((here / name).relative_to(folder)) for name in (*files, *links)]
    return found


def _link(old: Path, new: Path) -> None:
    """Make another name of a file or a symbolic link; a copy where the file system has no hard links."""
    new.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(old, new, follow_symlinks=False)
    except FileNotFoundError:
        return  # removed meanwhile; the next run writes it again if it is ours
    except OSError:
        shutil.copy2(old, new, follow_symlinks=False)


def _exchange(one: Path, other: Path) -> None:
    """Exchange two folders by one rename; by two where kernel or file system cannot."""
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "renameat2"):
        names = (os.fsencode(one), os.fsencode(other))
        if libc.renameat2(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE) == 0:
            return
    aside = one.with_name(f"{one.name}-old")
    os.rename(other, aside)
    os.rename(one, other)
    os.rename(aside, one)


def _has(file: Path, content: bytes) -> bool:
    try:
        return file.read_bytes() == content
    except OSError:
        return False


def _write_new(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    sync_file(file)
