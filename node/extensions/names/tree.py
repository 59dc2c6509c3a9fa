"""The tree of links: ``names/FOLDER/NAME.nii.gz`` leads to a file of the newest revision of a series.

FOLDER may be a path. The tree is derived, and is its own record: a folder is that of the study to which its links lead,
and a name that of its series. Names stay as long as they fit, so a second study of one name keeps its number when the
first one goes. What is not ours is never touched, and a series gives up a name that somebody else's file has: we own
links into the folder of volumes, and headers of MetaImage, which name the file with their voxels and are therefore
copies, beside a link to these voxels.

Each change is one rename. Whatever a crash leaves half done, `Tree.change` brings to where it was to go.
"""

import errno
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple

import structlog

from node.api import (
    VOLUMES,
    Index,
    IndexFollower,
    NameTemplate,
    ReadIndex,
    TakenNames,
    ending_of,
    is_file_of,
    make_folder,
    numbered,
    renamed_header,
)

TREE = "names"

PICTURES = ".png"
HEADER = ".mhd"
VOXELS = (".zraw", ".raw")
PART = ".part"

KEPT_NUMBERS = 1000
"""A folder keeps a number up to this one behind its name."""

_TARGET = re.compile(rf"((?:\.\./)+){VOLUMES}/([0-9.]+)/([0-9.]+)/([^/]+)/([^/]+)")


class Link(NamedTuple):
    """Where a link of ours leads; `up`: the way to the root."""

    up: str
    study: str
    series: str
    revision_folder: str
    file: str

    def __str__(self) -> str:
        return f"{self.up}{VOLUMES}/{'/'.join(self[1:])}"


def has_tree(root: Path) -> bool:
    """Return whether a root has a tree of names."""
    return (root / TREE).is_dir()


class Tree:
    """The tree of one root. Not thread-safe; `template`: None if there is to be none."""

    def __init__(self, root: Path, template: NameTemplate | None) -> None:
        self._root, self._folder = root, root / TREE
        self._template = template
        self._names: dict[str, str] = {}  # folders, by study, relative to that of the tree
        self._studies: dict[str, str] = {}  # studies, by their folders in lower case

    def scan(self) -> set[str]:
        """Look at what is there; return the studies that have a folder."""
        if self._template is not None:
            make_folder(self._folder)
        self._names, self._studies = {}, {}
        for folder in sorted(Path(inner) for inner, *_ in os.walk(self._folder)):
            name, link = str(folder.relative_to(self._folder)), next(iter(_links_in(folder).values()), None)
            if link is not None and link.study in self._names:  # a copy that somebody has made: one folder is enough
                self._empty(name)
            elif link is not None:
                self._names[link.study], self._studies[name.casefold()] = name, link.study
        return set(self._names)

    def change(
        self,
        uid: str,
        study: Mapping[str, Any] | None,
        series: Sequence[Mapping[str, Any]],
        revisions: Mapping[str, str],
    ) -> None:
        """Make the folder of a study agree with the index.

        `study`: its row in ``v_studies``; None: it is not there any more.
        `series`: rows of ``v_series``.
        `revisions`: the folder of the newest revision of each series that has files, relative to the root.
        """
        if self._template is None or study is None or not revisions:
            if uid in self._names:
                self._forget(uid)
            return
        folder = self._folder_of(uid, self._template.folder_of(study, series))
        up = "../" * len(folder.relative_to(self._root).parts)
        there = _links_in(folder)
        foreign = {name for name in _names_in(folder) if name not in _owned(folder, there)}
        names = _SeriesNames(folder, there, foreign)
        wanted: dict[str, str] = {}
        for row in sorted(series, key=lambda row: names.of(row["series_instance_uid"]) is None):
            if (revision := revisions.get(row["series_instance_uid"])) is not None:
                targets = {
                    ending_of(file): f"{up}{revision}/{file}"
                    for file in _names_in(self._root / revision)
                    if not file.endswith(PICTURES)
                }
                stem = names.named(row["series_instance_uid"], self._template.name_of({**study, **row}), targets)
                wanted |= {f"{stem}{ending}": target for ending, target in targets.items()}
        self._put(folder, wanted, _owned(folder, there))

    @property
    def is_lost(self) -> bool:
        """Whether somebody has removed the whole tree."""
        return self._template is not None and not self._folder.is_dir()

    def end(self) -> None:
        """Remove a tree that is not to be, if nothing but ours was in it."""
        if self._template is None:
            with suppress(OSError):
                self._folder.rmdir()

    def _folder_of(self, uid: str, name: str) -> Path:
        """Return the folder of a study, which is created or renamed. It is never somebody else's, nor a link."""
        before = self._names.get(uid)
        if before is not None and self._leads_out(before):
            self._forget(uid)
            before = None
        if before is not None and before in islice(numbered(name), KEPT_NUMBERS):
            return self._folder / before
        above, _, _ = name.rpartition("/")
        if self._leads_out(above):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if before is not None and before.count("/") != name.count("/"):
            self._forget(uid)
            before = None
        free = next(one for one in numbered(name) if self._is_free(one, uid))
        (self._folder / above).mkdir(mode=0o700, parents=True, exist_ok=True)
        if before is None or not (self._folder / before).is_dir():
            (self._folder / free).mkdir(mode=0o700, exist_ok=True)
        else:
            os.rename(self._folder / before, self._folder / free)
            self._remove_empty((self._folder / before).parent)
        if before is not None:
            del self._studies[before.casefold()]
        self._names[uid], self._studies[free.casefold()] = free, uid
        return self._folder / free

    def _leads_out(self, name: str) -> bool:
        """Return whether something else than a folder is there or above it, such as a link to one: we follow none."""
        path = self._folder / name
        return any(_is_no_folder(each) for each in (path, *path.parents) if each.is_relative_to(self._folder))

    def _forget(self, uid: str) -> None:
        """Remove what is ours from the folder of a study, which is that of the study no more."""
        name = self._names.pop(uid)
        del self._studies[name.casefold()]
        self._empty(name)

    def _is_free(self, name: str, uid: str) -> bool:
        if (study := self._studies.get(name.casefold())) is not None:
            return study == uid
        return not os.path.lexists(self._folder / name)

    def _put(self, folder: Path, wanted: Mapping[str, str], owned: Mapping[str, str | None]) -> None:
        """Make the entries of a folder that are ours those that are wanted: names, and where they lead.

        A header is ours by the voxels beside it, so it comes after them, and goes before them.

        Raises FileExistsError if somebody has made a file of a wanted name since the folder was read.
        """
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # somebody may have removed it
        _remove(folder, owned.keys() - wanted.keys())
        for name, target in sorted(wanted.items(), key=lambda entry: entry[0].endswith(HEADER)):
            part = folder / f".{name[:200]}{PART}"
            if name.endswith(HEADER):
                content = _header(folder, name, target)
                if _has_content(folder / name, content):
                    continue
                part.unlink(missing_ok=True)
                part.write_bytes(content)
            elif owned.get(name) == target:
                continue
            else:
                part.unlink(missing_ok=True)
                part.symlink_to(target)
            if name not in owned and os.path.lexists(folder / name):
                part.unlink()
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
            os.replace(part, folder / name)

    def _empty(self, name: str) -> None:
        """Remove what is ours from a folder, and the folder if nothing else was in it."""
        if not self._leads_out(name):
            folder = self._folder / name
            _remove(folder, _owned(folder, _links_in(folder)))
            self._remove_empty(folder)

    def _remove_empty(self, folder: Path) -> None:
        """Remove a folder of the tree, and those around it, as far as nothing is in them."""
        with suppress(OSError):
            while folder != self._folder:
                folder.rmdir()
                folder = folder.parent


class _SeriesNames:
    """The names of the series in one folder: those of before, as long as they fit, and free ones."""

    def __init__(self, folder: Path, there: Mapping[str, Link], foreign: set[str]) -> None:
        self._folder, self._foreign = folder, foreign
        self._taken = TakenNames(one_folder=True)
        self._before = {
            link.series: name.removesuffix(ending)
            for name, link in there.items()
            if name.endswith(ending := ending_of(link.file))
        }

    def of(self, series: str) -> str | None:
        """Return the name that a series had."""
        return self._before.get(series)

    def named(self, series: str, name: str, targets: Mapping[str, str]) -> str:
        """Return the name of a series; series that had one come first.

        `targets`: where its files lead, by what stands behind the name. None of them is ever somebody else's file.
        """
        before = self._before.get(series)
        if (
            before is None
            or before in self._taken
            or before not in islice(numbered(name), KEPT_NUMBERS)
            or self._is_in_the_way(before, targets)
        ):
            free = (one for one in numbered(name) if one not in self._taken and self._is_free(one))
            before = next(one for one in free if not self._is_in_the_way(one, targets))
        self._taken.add(before)
        return before

    def _is_in_the_way(self, name: str, targets: Mapping[str, str]) -> bool:
        """Return whether somebody else has a file of a wanted name; a header whose voxels are lost is still ours."""
        for ending, target in targets.items():
            file = f"{name}{ending}"
            if file in self._foreign and not (
                ending == HEADER and _has_content(self._folder / file, _header(self._folder, file, target))
            ):
                return True
        return False

    def _is_free(self, name: str) -> bool:
        return not any(is_file_of(foreign, name) for foreign in self._foreign)


def _names_in(folder: Path) -> list[str]:
    """Return the names in a folder; none if it is no folder, or is not there."""
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _is_no_folder(path: Path) -> bool:
    """Return whether something else than a folder is there, such as a link to one."""
    return os.path.lexists(path) and (path.is_symlink() or not path.is_dir())


def _header(folder: Path, name: str, target: str) -> bytes:
    return renamed_header((folder / target).read_bytes(), name.removesuffix(HEADER))


def _has_content(path: Path, content: bytes) -> bool:
    return path.is_file() and path.stat().st_size == len(content) and path.read_bytes() == content


def _remove(folder: Path, names: Iterable[str]) -> None:
    for name in sorted(names, key=lambda name: not name.endswith(HEADER)):
        (folder / name).unlink(missing_ok=True)


def _links_in(folder: Path) -> dict[str, Link]:
    """Return our links in a folder, by their names; none if it is no folder, but a link to one."""
    found: dict[str, Link] = {}
    if _is_no_folder(folder):
        return found
    for name in sorted(_names_in(folder)):
        with suppress(OSError):
            if (target := _TARGET.fullmatch(os.readlink(folder / name))) is not None:
                found[name] = Link(*target.groups())
    return found


def _owned(folder: Path, links: Mapping[str, Link]) -> dict[str, str | None]:
    """Return the names in a folder that are ours, with where they lead; None for a header."""
    owned: dict[str, str | None] = {name: str(link) for name, link in links.items()}
    for name in links:
        stem, suffix = os.path.splitext(name)
        if suffix in VOXELS and os.path.lexists(folder / f"{stem}{HEADER}"):
            owned[f"{stem}{HEADER}"] = None
    return owned


log = structlog.get_logger()

WITHIN_SECONDS = 1.0
AT_ONCE = 50
"""Studies of one step."""

MAX_EVENTS = 500

_Study = tuple[str, Mapping[str, Any] | None, Sequence[Mapping[str, Any]], Mapping[str, str]]
"""What the index says about a study: the arguments of `Tree.change`."""

RETRY_SECONDS = 30.0
"""Pause before the folders that could not be changed are tried again."""


class NameTree(IndexFollower):
    """Changes folders of studies after each commit with an event about them.

    What became of the tree while no node ran is found at the start. A crash leaves at most one folder half changed,
    which the next start brings to its end. A folder that cannot be changed delays no other: it is tried again later.
    """

    def __init__(self, tree: Tree, index: Index) -> None:
        super().__init__("names", index, WITHIN_SECONDS)
        self._tree = tree
        self._due: dict[str, None] | None = None
        self._last_event = 0
        self._failed: dict[str, None] = {}
        self._retry_at = 0.0

    def step(self) -> float | None:
        """Change some folders; return 0 if more are due."""
        if self._tree.is_lost:
            self._due = None
        there = self._tree.scan() if self._due is None else None
        with self._index.reading() as index:
            if there is not None:
                self._last_event = index.events.newest()
                exported = {study for study, _ in index.studies.series_keys()}
                self._due = dict.fromkeys(sorted(exported | there))
                self._failed.clear()
            due = self._due = self._due or {}
            events = index.events.since(self._last_event, MAX_EVENTS)
            for event in events:
                self._last_event = event["id"]
                if event["study_instance_uid"] is not None:
                    due[event["study_instance_uid"]] = None
            if self._failed and monotonic() >= self._retry_at:
                due.update(self._failed)
                self._failed.clear()
            studies = [_read(index, uid) for uid in list(due)[:AT_ONCE]]
        for study in studies:
            self._change(study)
            del due[study[0]]
        if due or len(events) == MAX_EVENTS:
            return 0.0
        if self._failed:
            return max(self._retry_at - monotonic(), 0.0)
        self._tree.end()
        return None

    def _change(self, study: _Study) -> None:
        """Change the folder of a study, or note that it has to be tried again."""
        uid = study[0]
        try:
            self._tree.change(*study)
        except OSError as error:
            log.warning("names_not_changed", study_instance_uid=uid, reason=error.strerror or type(error).__name__)
            self._failed[uid] = None
            self._retry_at = monotonic() + RETRY_SECONDS
        else:
            self._failed.pop(uid, None)


def _read(index: ReadIndex, uid: str) -> _Study:
    revisions = {
        series: folder
        for series, revision in index.volumes.current_revisions(uid)
        if (folder := index.volumes.folder(uid, series, revision)) is not None
    }
    return uid, index.studies.row(uid), index.series.of_study(uid), revisions
