"""The state of a data set that the node writes: which volumes it has, and what each change makes of them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from node.errors import UsageError
from node.extensions.bids.planned import SessionState, WrittenVolume
from node.extensions.bids.sidecars import Content, digest_of, identity_of, read_table, table_text, with_columns

STATE_FILE = ".voxelnode.json"


STATE_VERSION = 1


_STEM = re.compile(r"[a-z]+/[A-Za-z0-9_-]+")


_EXTENSION = re.compile(r"[a-z]*(\.[a-z]+){1,2}")


@dataclass(frozen=True, slots=True)
class WantedVolume:
    """A volume that the data set is to have; `acq_time` is a cell of ``scans.tsv``."""

    series: str
    stack: int
    files: Mapping[str, Content]
    acq_time: str | None = None


@dataclass(slots=True)
class SessionChange:
    """What is different about a session, by the paths of volumes in the data set, without extensions.

    Conflicts and failures have the reason with the path.
    """

    added: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    renamed: list[tuple[str, str]] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    conflicts: list[tuple[str, str]] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)

    def extend(self, other: SessionChange) -> None:
        """Add the differences of another session."""
        for name in SessionChange.__slots__:
            getattr(self, name).extend(getattr(other, name))


@dataclass(slots=True)
class Target:
    """A volume of the new folder: `links` are old names of its files by extension, `contents` what is written."""

    entry: WrittenVolume
    before: str | None
    links: dict[str, str] = field(default_factory=dict)
    contents: dict[str, Content] = field(default_factory=dict)


class _Conflict(Exception):
    """A file is in the way: its path in the session, and why it stays."""


def read_state(folder: Path) -> SessionState:
    """Return what this program wrote into the folder of a session.

    Raises UsageError: its file is damaged, or of a newer version.
    """
    file = folder / STATE_FILE
    try:
        content = json.loads(file.read_bytes())
        if content["version"] != STATE_VERSION:
            raise UsageError(f"{file} is of version {content['version']}: update voxelnode")
        volumes = {stem: WrittenVolume(**entry) for stem, entry in content["volumes"].items()}
        for stem, entry in volumes.items():  # a data set may come from elsewhere, and these become paths
            if not _STEM.fullmatch(stem) or not all(map(_EXTENSION.fullmatch, entry.files)):
                raise ValueError
        return SessionState(tuple(content["studies"]), volumes)
    except FileNotFoundError:
        return SessionState()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{file} is damaged: restore it, or move the folder of the session away") from error


def state_text(targets: Mapping[str, Target], studies: tuple[str, ...]) -> bytes:
    volumes = {stem: asdict(targets[stem].entry) for stem in sorted(targets)}
    content = {"version": STATE_VERSION, "studies": list(studies), "volumes": volumes}
    return (json.dumps(content, indent=1) + "\n").encode()


def targets_of(
    folder: Path,
    state: SessionState,
    wanted: Mapping[str, WantedVolume],
    leave: frozenset[str],
    change: SessionChange,
    place: str,
) -> dict[str, Target]:
    """Return the volumes of the new folder by stem; a volume that a file is in the way of stays as it is."""
    stems = {(entry.series, entry.stack): stem for stem, entry in state.volumes.items()}
    targets = {stem: staying_targets(state, stem) for stem in leave if stem in state.volumes}
    staying = {(volume.series, volume.stack) for volume in wanted.values()}
    for stem, entry in state.volumes.items():
        changed = "" if stem in leave or (entry.series, entry.stack) in staying else _changed_file(folder, stem, entry)
        if changed:
            change.conflicts.append((f"{place}/{changed}", "is to be removed, but was changed by hand; move it away"))
            targets[stem] = staying_targets(state, stem)
    found: dict[str, Target] = {}
    for stem, volume in wanted.items():
        before = stems.get((volume.series, volume.stack))
        try:
            found[stem] = _target(folder, state, stem, volume, before)
        except _Conflict as conflict:
            name, why = conflict.args
            change.conflicts.append((f"{place}/{name}", why))
            if before is not None:
                targets[before] = staying_targets(state, before)
    while blocked := [stem for stem in found if stem in targets]:
        for stem in blocked:
            before = found.pop(stem).before
            change.conflicts.append((f"{place}/{stem}", "has the name of a volume that stays"))
            if before is not None:
                targets[before] = staying_targets(state, before)
    return targets | found


def _changed_file(folder: Path, stem: str, entry: WrittenVolume) -> str:
    """Return a file of a volume that somebody changed; empty if there is none."""
    names = ((f"{stem}{extension}", digest) for extension, digest in entry.files.items())
    return next((name for name, digest in names if digest_of(folder / name) not in (None, digest)), "")


def staying_targets(state: SessionState, stem: str) -> Target:
    entry = state.volumes[stem]
    return Target(entry, stem, {extension: f"{stem}{extension}" for extension in entry.files})


def _target(folder: Path, state: SessionState, stem: str, volume: WantedVolume, before: str | None) -> Target:
    """Return how a volume gets its files: links of those that stay as they are, contents of the others.

    Raises _Conflict: a file was changed by hand, or is there and not ours.
    """
    earlier = state.volumes[before] if before is not None else None
    main = next(iter(volume.files))
    image = identity_of(volume.files[main])
    target = Target(WrittenVolume(volume.series, volume.stack, image, {}), before)
    digests: dict[str, str] = {}
    for extension, content in volume.files.items():
        name, old = f"{stem}{extension}", f"{before}{extension}"
        is_there = earlier is not None and extension in earlier.files and os.path.lexists(folder / old)
        if earlier is not None and is_there:
            known = earlier.source if extension == main else earlier.files[extension]
            if identity_of(content) == known:
                target.links[extension], digests[extension] = old, earlier.files[extension]
                continue
            if digest_of(folder / old) not in (None, earlier.files[extension]):
                raise _Conflict(old, "was changed by hand; move it away to get the new one")
        if name not in owned_paths(state) and os.path.lexists(folder / name):
            raise _Conflict(name, "was not written by this program; move it away")
        target.contents[extension] = content
        digests[extension] = identity_of(content)
    target.entry = replace(target.entry, files=digests)
    return target


def describe_session(targets: Mapping[str, Target], state: SessionState, change: SessionChange, place: str) -> None:
    """Add to a change what becomes of each volume."""
    names_before = {target.before for target in targets.values()}
    change.removed += [f"{place}/{stem}" for stem in sorted(state.volumes.keys() - names_before)]
    for stem, target in sorted(targets.items()):
        if target.before is None:
            change.added.append(f"{place}/{stem}")
        elif target.before != stem:
            change.renamed.append((f"{place}/{target.before}", f"{place}/{stem}"))
        elif target.contents:
            change.replaced.append(f"{place}/{stem}")


def scans_of(
    folder: Path, name: str, state: SessionState, targets: Mapping[str, Target], wanted: Mapping[str, WantedVolume]
) -> tuple[str, bytes]:
    """Return the name and the text of ``scans.tsv``, with the rows and columns that others added."""
    file = f"{name}_scans.tsv"
    columns, present = read_table(folder / file, "filename")
    volume_files = {f"{stem}.nii.gz" for stem in state.volumes}
    rows = {row: cells for row, cells in present.items() if row not in volume_files}
    for stem, target in targets.items():
        if ".nii.gz" not in target.entry.files:  # a recording is no scan
            continue
        cells = dict(present.get(f"{target.before}.nii.gz", {}))
        if stem in wanted and wanted[stem].acq_time is not None:
            columns = with_columns(columns, ["acq_time"])
            cells["acq_time"] = str(wanted[stem].acq_time)
        rows[f"{stem}.nii.gz"] = {**cells, "filename": f"{stem}.nii.gz"}
    return file, table_text(columns, rows)


def owned_paths(state: SessionState) -> set[str]:
    return {f"{stem}{extension}" for stem, entry in state.volumes.items() for extension in entry.files}
